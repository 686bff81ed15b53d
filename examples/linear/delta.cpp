// The delta rule over 1000 tokens by the kernels and by the equations: 900 tokens in chunks, the others one after the
// other; returns non-zero when they disagree.
#include "linear/delta.hpp"

#include <cstdio>
#include <fovea/linear/delta.hpp>

int main() {
  using Matrix = fovea::reference::Matrix<double>;
  const Matrix q = Matrix::Random(1000, 64), k = Matrix::Random(1000, 64).rowwise().normalized();
  const Matrix v = Matrix::Random(1000, 64), none = Matrix::Zero(64, 64);
  const Eigen::VectorXd beta = Eigen::VectorXd::Random(1000).cwiseAbs();

  Matrix out(1000, 64);
  fovea::MatrixState<double> state;
  auto first = out.topRows(900);
  fovea::chunk_delta(q.topRows(900), k.topRows(900), v.topRows(900), beta.topRows(900),
                     fovea::with_state(first, state));
  auto rest = out.bottomRows(100);
  fovea::recurrent_delta(q.bottomRows(100), k.bottomRows(100), v.bottomRows(100), beta.bottomRows(100),
                         fovea::with_state(rest, state));
  const auto expected = fovea::reference::delta<double>(q, k, v, beta, 1 / 8.0, none);
  const double error = (out - expected.out).cwiseAbs().maxCoeff();
  std::printf("largest error: %.1e\n", error);
  return error < 1e-12 ? 0 : 1;
}
