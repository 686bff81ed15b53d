// A prompt of 600 tokens, causal: 64 keys found by the tree, a window of 32 and four sink tokens for each block of 16
// queries. Returns non-zero when kernel and reference disagree.
#include <cmath>
#include <cstdio>
#include <fovea/hierarchical/hip.hpp>

#include "hierarchical/hip.hpp"

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  // Rounded to eighths, scores are exact in either type, and the two searches see the same ties.
  const auto rounded = [](float x) { return std::round(24 * x) / 8; };
  const Matrix q = Matrix::Random(600, 64).unaryExpr(rounded), k = Matrix::Random(600, 64).unaryExpr(rounded);
  const Matrix v = Matrix::Random(600, 64);

  auto out = fovea::output_for(q, v);
  fovea::hip(q, k, v, out, {.top_k = 64, .query_block = 16, .window = 32, .sink_tokens = 4});

  const auto expected =
      fovea::reference::hip<double>(q.cast<double>(), k.cast<double>(), v.cast<double>(), 1 / std::sqrt(64.0),
                                    {.top_k = 64, .query_block = 16, .window = 32, .sink_tokens = 4});
  double error = 0;
  for (Eigen::Index i = 0; i < out.rows(); ++i) {
    for (Eigen::Index e = 0; e < out.cols(); ++e) error = std::max(error, std::abs(out(i, e) - expected.out(i, e)));
  }
  std::printf("largest error %.1e\n", error);
  return error < 1e-6 ? 0 : 1;
}
