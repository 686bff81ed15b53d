// Retention over 1000 tokens by the kernels and by the equations: 900 tokens in chunks, the others one after the other;
// returns non-zero when they disagree.
#include "linear/retention.hpp"

#include <cmath>
#include <cstdio>
#include <fovea/linear/retention.hpp>
#include <vector>

int main() {
  using Matrix = fovea::reference::Matrix<double>;
  const Matrix q = Matrix::Random(1000, 64), k = Matrix::Random(1000, 64).rowwise().normalized();
  const Matrix v = Matrix::Random(1000, 64), none = Matrix::Zero(64, 64);
  const std::vector<double> log_decay = {std::log(31 / 32.)};

  Matrix out(1000, 64);
  fovea::MatrixState<double> state;
  auto first = out.topRows(900);
  fovea::chunk_retention(q.topRows(900), k.topRows(900), v.topRows(900), fovea::with_state(first, state),
                         {.log_decays = log_decay});
  auto rest = out.bottomRows(100);
  fovea::recurrent_retention(q.bottomRows(100), k.bottomRows(100), v.bottomRows(100), fovea::with_state(rest, state),
                             {.log_decays = log_decay});
  const auto expected = fovea::reference::retention<double>(q, k, v, log_decay[0], 1 / 8.0, none);
  const double error = (out - expected.out).cwiseAbs().maxCoeff();
  std::printf("largest error: %.1e\n", error);
  return error < 1e-12 ? 0 : 1;
}
