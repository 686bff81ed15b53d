// Dilated windows over 1000 tokens by the kernels and by the equations; returns non-zero when they disagree.
#include "window/dilated.hpp"

#include <cstdio>
#include <fovea/window/dilated.hpp>

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Random(1000, 64), k = Matrix::Random(1000, 64), v = Matrix::Random(1000, 64);
  const auto largest_error = [](const Matrix& out, const fovea::reference::Attention<double>& expected) {
    return (out.cast<double>() - expected.out).cwiseAbs().maxCoeff();
  };

  auto out = fovea::output_for(q, v);
  fovea::dilated_window(q, k, v, out, {.window = 32, .dilation = 3});
  const double causal = largest_error(out, fovea::reference::dilated_window<double>(q.cast<double>(), k.cast<double>(),
                                                                                    v.cast<double>(), 1 / 8.0, 32, 3));

  fovea::bidirectional_dilated_window(q, k, v, out, {.distance = 16, .dilation = 3});
  const double bidirectional =
      largest_error(out, fovea::reference::bidirectional_dilated_window<double>(q.cast<double>(), k.cast<double>(),
                                                                                v.cast<double>(), 1 / 8.0, 16, 3));

  std::printf("largest error: causal %.1e, bidirectional %.1e\n", causal, bidirectional);
  return causal < 1e-6 && bidirectional < 1e-6 ? 0 : 1;
}
