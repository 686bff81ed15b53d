// Nystroemformer over 1000 tokens with 32 landmarks, by the kernel and by the equations; returns non-zero when they
// disagree.
#include "low_rank/nystrom.hpp"

#include <cstdio>
#include <fovea/low_rank/nystrom.hpp>

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = 3 * Matrix::Random(1000, 64), k = 3 * Matrix::Random(1000, 64), v = Matrix::Random(1000, 64);

  auto out = fovea::output_for(q, v);
  fovea::nystrom(q, k, v, out, {.landmarks = 32});

  const auto expected =
      fovea::reference::nystrom<double>(q.cast<double>(), k.cast<double>(), v.cast<double>(), 1 / 8.0, 32, 6);
  const double error = (out.cast<double>() - expected).norm() / expected.norm();
  std::printf("relative error %.1e\n", error);
  return error < 1e-5 ? 0 : 1;
}
