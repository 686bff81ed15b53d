// Radial Attention over a video of 12 frames of 80 places, by the kernel and by the rule; returns non-zero when they
// disagree.
#include "block_sparse/radial.hpp"

#include <cstdio>
#include <fovea/block_sparse/radial.hpp>

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Random(960, 64), k = Matrix::Random(960, 64), v = Matrix::Random(960, 64);

  auto out = fovea::output_for(q, v);
  fovea::radial(q, k, v, out, {.frame = 80});

  const auto expected =
      fovea::reference::radial<double>(q.cast<double>(), k.cast<double>(), v.cast<double>(), 1 / 8.0, {.frame = 80});
  const double error = (out.cast<double>() - expected.out).cwiseAbs().maxCoeff();
  std::printf("largest error %.1e\n", error);
  return error < 1e-6 ? 0 : 1;
}
