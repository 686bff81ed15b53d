// Gated linear attention, a gate for each channel, over 1000 tokens by the kernels and by the equations: 900 tokens in
// chunks, the others one after the other; returns non-zero when they disagree.
#include "linear/gated_linear.hpp"

#include <cstdio>
#include <fovea/linear/gated_linear.hpp>

int main() {
  using Matrix = fovea::reference::Matrix<double>;
  const Matrix q = Matrix::Random(1000, 64), k = Matrix::Random(1000, 64).rowwise().normalized();
  const Matrix v = Matrix::Random(1000, 64), none = Matrix::Zero(64, 64);
  const Matrix log_gate = -Matrix::Random(1000, 64).cwiseAbs() / 8;

  Matrix out(1000, 64);
  fovea::MatrixState<double> state;
  auto first = out.topRows(900);
  fovea::chunk_gated_linear(q.topRows(900), k.topRows(900), v.topRows(900), log_gate.topRows(900),
                            fovea::with_state(first, state));
  auto rest = out.bottomRows(100);
  fovea::recurrent_gated_linear(q.bottomRows(100), k.bottomRows(100), v.bottomRows(100), log_gate.bottomRows(100),
                                fovea::with_state(rest, state));
  const auto expected = fovea::reference::gated_linear<double>(q, k, v, log_gate, 1 / 8.0, none);
  const double error = (out - expected.out).cwiseAbs().maxCoeff();
  std::printf("largest error: %.1e\n", error);
  return error < 1e-12 ? 0 : 1;
}
