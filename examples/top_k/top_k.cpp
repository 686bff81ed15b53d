// The 32 best keys of each of 500 causal queries, by the kernel and by a full sort; returns non-zero when they
// disagree.
#include "top_k/top_k.hpp"

#include <cstdio>
#include <fovea/top_k/top_k.hpp>

int main() {
  using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Random(500, 64), k = Matrix::Random(500, 64), v = Matrix::Random(500, 64);

  auto out = fovea::output_for(q, v);
  fovea::top_k(q, k, v, out, {.top_k = 32, .causal = true});

  const auto expected = fovea::reference::top_k<double>(q, k, v, 1 / 8.0, 32, true);
  double error = 0;
  for (Eigen::Index n = 0; n < out.size(); ++n)
    error = std::max(error, std::abs(out.data()[n] - expected.out.data()[n]));
  std::printf("largest error %.1e\n", error);
  return error < 1e-13 ? 0 : 1;
}
