// Sliding windows over 1000 tokens by the kernels and by the equations; returns non-zero when they disagree.
#include "window/sliding_window.hpp"

#include <cstdio>
#include <fovea/window/sliding_window.hpp>

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Random(1000, 64), k = Matrix::Random(1000, 64), v = Matrix::Random(1000, 64);
  const auto largest_error = [](const Matrix& out, const fovea::reference::Attention<double>& expected) {
    return (out.cast<double>() - expected.out).cwiseAbs().maxCoeff();
  };

  auto out = fovea::output_for(q, v);
  fovea::sliding_window(q, k, v, out, {.window = 128, .sink_tokens = 4});
  const double causal = largest_error(out, fovea::reference::sliding_window<double>(q.cast<double>(), k.cast<double>(),
                                                                                    v.cast<double>(), 1 / 8.0, 128, 4));

  fovea::bidirectional_window(q, k, v, out, {.distance = 64});
  const double bidirectional =
      largest_error(out, fovea::reference::bidirectional_window<double>(q.cast<double>(), k.cast<double>(),
                                                                        v.cast<double>(), 1 / 8.0, 64));

  std::printf("largest error: causal %.1e, bidirectional %.1e\n", causal, bidirectional);
  return causal < 1e-6 && bidirectional < 1e-6 ? 0 : 1;
}
