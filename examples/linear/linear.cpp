// Linear attention with the features elu + 1: over all keys, causal chunk by chunk, and the last token from the state
// that the others left, by the kernels and by the reference; returns non-zero when they disagree.
#include "linear/linear.hpp"

#include <cstdio>
#include <fovea/linear/linear.hpp>

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Row = fovea::reference::RowVector<double>;
  const Matrix q = Matrix::Random(300, 32), k = Matrix::Random(300, 32), v = Matrix::Random(300, 32);

  auto full = fovea::output_for(q, v), causal = fovea::output_for(q, v);
  fovea::linear(q, k, v, full);

  fovea::MatrixState<float> state;
  auto most = causal.topRows(299);
  fovea::chunk_linear(q.topRows(299), k.topRows(299), v.topRows(299), fovea::with_state(most, state));
  auto last = causal.bottomRows(1);
  fovea::recurrent_linear(q.bottomRows(1), k.bottomRows(1), v.bottomRows(1), fovea::with_state(last, state));

  const auto phi = [](const Row& x) { return fovea::reference::elu_plus_one(x); };
  double error = 0;
  for (const bool is_causal : {false, true}) {
    const auto expected = fovea::reference::kernelised<double>(q.cast<double>(), k.cast<double>(), v.cast<double>(),
                                                               phi, phi, {.causal = is_causal, .epsilon = 1e-6});
    error = std::max(error, ((is_causal ? causal : full).cast<double>() - expected).cwiseAbs().maxCoeff());
  }
  std::printf("largest error %.1e\n", error);
  return error < 1e-6 ? 0 : 1;
}
