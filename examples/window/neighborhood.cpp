// Neighborhood attention over 1000 tokens by the kernel and by the definition; returns non-zero when they disagree.
#include "window/neighborhood.hpp"

#include <cstdio>
#include <fovea/window/neighborhood.hpp>

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Random(1000, 64), k = Matrix::Random(1000, 64), v = Matrix::Random(1000, 64);

  auto out = fovea::output_for(q, v);
  fovea::neighborhood(q, k, v, out, {.window = 64, .stride = 16, .dilation = 2});

  const auto expected = fovea::reference::neighborhood<double>(q.cast<double>(), k.cast<double>(), v.cast<double>(),
                                                               1 / 8.0, {.window = 64, .stride = 16, .dilation = 2});
  const double error = (out.cast<double>() - expected.out).cwiseAbs().maxCoeff();
  std::printf("largest error %.1e\n", error);
  return error < 1e-6 ? 0 : 1;
}
