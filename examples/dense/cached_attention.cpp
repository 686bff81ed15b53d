// A prompt of 500 tokens and 100 tokens more, one at a time, through a cache of 16-bit numbers in pages; returns
// non-zero when the last token's attention disagrees with the equation over the rounded keys and values.
#include "dense/cached_attention.hpp"

#include <cstdio>
#include <fovea/cache/paged.hpp>
#include <fovea/dense/cached_attention.hpp>

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Random(600, 64), k = Matrix::Random(600, 64), v = Matrix::Random(600, 64);

  fovea::cache::Pool<Eigen::bfloat16> pool({.kv_heads = 1, .key_dim = 64, .value_dim = 64, .page_tokens = 16});
  fovea::cache::Paged<Eigen::bfloat16> cache(pool);
  fovea::Workspace workspace;
  const auto executor = fovea::exec::reuse(workspace);
  Matrix out(600, 64);
  for (Eigen::Index first = 0, last = 500; first < 600; first = last, last = first + 1) {
    cache.append(k.middleRows(first, last - first), v.middleRows(first, last - first));
    auto rows = out.middleRows(first, last - first);
    fovea::cached_attention(q.middleRows(first, last - first), cache, rows, {.window = 256, .sink_tokens = 4},
                            executor);
  }

  const auto rounded = [](const Matrix& x) { return x.cast<Eigen::bfloat16>().cast<double>().eval(); };
  const auto expected =
      fovea::reference::cached_attention<double>(q.cast<double>(), rounded(k), rounded(v), 1 / 8.0, 256, 4);
  const double error = (out.cast<double>() - expected.out).cwiseAbs().maxCoeff();
  std::printf("largest error: %.1e\n", error);
  return error < 1e-6 ? 0 : 1;
}
