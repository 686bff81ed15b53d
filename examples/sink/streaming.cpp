// 400 tokens with a window of 60 and 4 sink tokens: all at once by the kernel, the last 100 token by token from a cache
// that keeps 64 of them, and by the reference, which copies the cache of each token; returns non-zero when they
// disagree.
#include "sink/streaming.hpp"

#include <cstdio>
#include <fovea/sink/streaming.hpp>

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Random(400, 64), k = Matrix::Random(400, 64), v = Matrix::Random(400, 64);
  const fovea::StreamingOptions options = {.window = 60, .sink_tokens = 4};

  auto out = fovea::output_for(q, v);
  fovea::streaming(q, k, v, out, options);

  fovea::StreamingCache<float> cache(1, 64, 64, options);
  cache.append(k.topRows(300), v.topRows(300));  // the prompt
  Matrix decoded(100, 64);
  for (Eigen::Index t = 300; t < 400; ++t) {
    cache.append(k.middleRows(t, 1), v.middleRows(t, 1));
    fovea::streaming(q.middleRows(t, 1), cache, decoded.middleRows(t - 300, 1));
  }

  const auto expected =
      fovea::reference::streaming<double>(q.cast<double>(), k.cast<double>(), v.cast<double>(), 60, 4);
  double error = 0;
  for (Eigen::Index n = 0; n < out.size(); ++n) error = std::max(error, std::abs(out.data()[n] - expected.data()[n]));
  for (Eigen::Index t = 300; t < 400; ++t) {
    for (Eigen::Index e = 0; e < 64; ++e) error = std::max(error, std::abs(decoded(t - 300, e) - expected(t, e)));
  }
  std::printf("largest error %.1e\n", error);
  return error < 1e-6 ? 0 : 1;
}
