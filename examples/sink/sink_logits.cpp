// Causal attention of 300 tokens with a sink logit, and with an extra key and value, by the kernel and by the
// equations; returns non-zero when they disagree.
#include "sink/sink_logits.hpp"

#include <cstdio>
#include <fovea/sink/sink_logits.hpp>

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Random(300, 64), k = Matrix::Random(300, 64), v = Matrix::Random(300, 64);
  const Matrix sink_key = Matrix::Random(1, 64), sink_value = Matrix::Random(1, 64);

  auto with_logit = fovea::output_for(q, v), with_key = fovea::output_for(q, v);
  fovea::sink_logits(q, k, v, with_logit, {.sink_logits = {1.5}, .causal = true});
  fovea::sink_key_value(q, k, v, sink_key, sink_value, with_key, {.causal = true});

  const auto wide = [](const Matrix& x) { return x.cast<double>().eval(); };
  const auto causal = [](Eigen::Index i, Eigen::Index j) { return j <= i; };
  const auto logit = fovea::reference::sink_logits<double>(wide(q), wide(k), wide(v), 1 / 8.0, 1.5, causal);
  const auto key = fovea::reference::sink_key_value<double>(wide(q), wide(k), wide(v), wide(sink_key), wide(sink_value),
                                                            1 / 8.0, causal);
  double error = 0;
  for (Eigen::Index n = 0; n < logit.size(); ++n) {
    error = std::max(error, std::abs(with_logit.data()[n] - logit.data()[n]));
    error = std::max(error, std::abs(with_key.data()[n] - key.data()[n]));
  }
  std::printf("largest error %.1e\n", error);
  return error < 1e-6 ? 0 : 1;
}
