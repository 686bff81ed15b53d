// 400 tokens with a window of 60 and 4 sink tokens: all at once by the kernel, the last one from a cache by the kernel,
// and by the reference, which keeps the cache of each token; returns non-zero when they disagree.
#include "sink/streaming.hpp"

#include <cstdio>
#include <fovea/sink/streaming.hpp>

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Random(400, 64), k = Matrix::Random(400, 64), v = Matrix::Random(400, 64);
  const fovea::StreamingOptions options = {.window = 60, .sink_tokens = 4};

  auto out = fovea::output_for(q, v);
  fovea::streaming(q, k, v, out, options);

  Matrix cached_k(64, 64), cached_v(64, 64);
  cached_k << k.topRows(4), k.bottomRows(60);
  cached_v << v.topRows(4), v.bottomRows(60);
  Matrix last(1, 64);
  fovea::streaming(q.bottomRows(1), cached_k, cached_v, last, options);

  const auto expected =
      fovea::reference::streaming<double>(q.cast<double>(), k.cast<double>(), v.cast<double>(), 60, 4);
  double error = 0;
  for (Eigen::Index n = 0; n < out.size(); ++n) error = std::max(error, std::abs(out.data()[n] - expected.data()[n]));
  for (Eigen::Index e = 0; e < 64; ++e) error = std::max(error, std::abs(last(0, e) - expected(399, e)));
  std::printf("largest error %.1e\n", error);
  return error < 1e-6 ? 0 : 1;
}
