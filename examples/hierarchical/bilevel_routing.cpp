// Bi-level routing over an image of 28 x 28 tokens, 7 x 7 regions of which each reads four; returns non-zero when
// kernel and reference disagree.
#include "hierarchical/bilevel_routing.hpp"

#include <cstdio>
#include <fovea/hierarchical/bilevel_routing.hpp>

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Random(784, 32), k = Matrix::Random(784, 32), v = Matrix::Random(784, 32);

  auto out = fovea::output_for(q, v);
  const fovea::BilevelRoutingOptions options{.height = 28, .width = 28, .regions = 7, .top_k = 4};
  const fovea::RegionRoutes routes = fovea::bilevel_routes(q, k, options);  // keep them for the next layer
  fovea::bilevel_routing(q, k, v, out, routes, options);

  const fovea::reference::BilevelRouting same{.heads = 1, .height = 28, .width = 28, .regions = 7, .top_k = 4};
  const fovea::reference::Matrix<double> exact_q = q.cast<double>(), exact_k = k.cast<double>();
  const double scale = 1 / std::sqrt(32.0);
  const auto chosen = fovea::reference::bilevel_routes<double>(exact_q, exact_k, scale, same);
  const auto expected =
      fovea::reference::bilevel_routing<double>(exact_q, exact_k, v.cast<double>(), scale, chosen, same);
  const double error = (out.cast<double>() - expected.out).cwiseAbs().maxCoeff();
  std::printf("largest error %.1e\n", error);
  return error < 1e-6 ? 0 : 1;
}
