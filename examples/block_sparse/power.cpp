// PowerAttention over 1000 tokens in blocks of 32, by the kernel and by the rule; returns non-zero when they disagree.
#include "block_sparse/power.hpp"

#include <cstdio>
#include <fovea/block_sparse/power.hpp>

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Random(1000, 64), k = Matrix::Random(1000, 64), v = Matrix::Random(1000, 64);

  auto out = fovea::output_for(q, v);
  fovea::power(q, k, v, out, {.block = 32, .sink_blocks = 1, .window_blocks = 3});

  const auto expected =
      fovea::reference::power<double>(q.cast<double>(), k.cast<double>(), v.cast<double>(), 1 / 8.0, 32, 1, 3);
  const double error = (out.cast<double>() - expected.out).cwiseAbs().maxCoeff();
  std::printf("largest error %.1e\n", error);
  return error < 1e-6 ? 0 : 1;
}
