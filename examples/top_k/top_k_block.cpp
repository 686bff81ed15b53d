// A quarter of the key blocks, chosen by pooled queries and keys; then MoBA. Returns non-zero when kernel and reference
// disagree.
#include <cstdio>
#include <fovea/top_k/top_k_block.hpp>

#include "top_k/top_k_block.hpp"

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

static double error_of(const fovea::TopKBlockOptions& options, const fovea::reference::TopKBlock& definition) {
  const Matrix q = Matrix::Random(512, 64), k = Matrix::Random(512, 64), v = Matrix::Random(512, 64);
  auto out = fovea::output_for(q, v);
  fovea::top_k_block(q, k, v, out, options);
  const auto expected = fovea::reference::top_k_block<double>(q.cast<double>(), k.cast<double>(), v.cast<double>(),
                                                              1 / std::sqrt(64.0), definition);
  double error = 0;
  for (Eigen::Index i = 0; i < out.rows(); ++i) {
    for (Eigen::Index e = 0; e < out.cols(); ++e) error = std::max(error, std::abs(out(i, e) - expected.out(i, e)));
  }
  return error;
}

int main() {
  const double blocks = error_of({.query_block = 32, .key_block = 32, .top_k = 4, .causal = true},
                                 {.query_block = 32, .key_block = 32, .top_k = 4, .causal = true});
  const double moba = error_of(fovea::moba(64, 3), {.query_block = 1, .key_block = 64, .top_k = 3, .causal = true});
  std::printf("largest error %.1e, of MoBA %.1e\n", blocks, moba);
  return blocks < 1e-6 && moba < 1e-6 ? 0 : 1;
}
