// Neighborhood attention on an image of 24 x 30 tokens by the kernel and by the definition; returns non-zero when they
// disagree.
#include "window/neighborhood.hpp"

#include <cstdio>
#include <fovea/window/neighborhood.hpp>

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Random(720, 64), k = Matrix::Random(720, 64), v = Matrix::Random(720, 64);

  auto out = fovea::output_for(q, v);
  fovea::neighborhood(q, k, v, out, {.grid = {24, 30}, .window = 7, .dilation = {1, 2}});

  const auto expected =
      fovea::reference::neighborhood<double>(q.cast<double>(), k.cast<double>(), v.cast<double>(), 1 / 8.0,
                                             {{.extent = 24, .window = 7}, {.extent = 30, .window = 7, .dilation = 2}});
  const double error = (out.cast<double>() - expected.out).cwiseAbs().maxCoeff();
  std::printf("largest error %.1e\n", error);
  return error < 1e-6 ? 0 : 1;
}
