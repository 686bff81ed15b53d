// Attention over a long prefix and over a few new tokens, computed apart and joined by their log-sums: the same as over
// all keys at once. Returns non-zero when it is not.
#include <cstdio>
#include <fovea/dense/scaled_dot_product.hpp>
#include <fovea/parts/combine/merge.hpp>

#include "dense/scaled_dot_product.hpp"

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Random(8, 64), k = Matrix::Random(1000, 64), v = Matrix::Random(1000, 64);

  auto prefix = fovea::output_for(q, v), suffix = fovea::output_for(q, v);
  Eigen::VectorXf prefix_sum(8), suffix_sum(8);
  fovea::scaled_dot_product(q, k.topRows(900), v.topRows(900), fovea::with_log_sum(prefix, prefix_sum));
  fovea::scaled_dot_product(q, k.bottomRows(100), v.bottomRows(100), fovea::with_log_sum(suffix, suffix_sum));

  auto out = fovea::output_for(q, v);
  Eigen::VectorXf log_sum(8);
  fovea::combine::merge(fovea::with_log_sum(prefix, prefix_sum), fovea::with_log_sum(suffix, suffix_sum),
                        fovea::with_log_sum(out, log_sum));

  const auto expected = fovea::reference::scaled_dot_product<double>(q.cast<double>(), k.cast<double>(),
                                                                     v.cast<double>(), 1 / std::sqrt(64.0));
  double error = 0;
  for (Eigen::Index n = 0; n < out.size(); ++n)
    error = std::max(error, std::abs(out.data()[n] - expected.out.data()[n]));
  std::printf("largest error %.1e\n", error);
  return error < 1e-6 ? 0 : 1;
}
