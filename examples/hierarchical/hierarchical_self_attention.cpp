// 600 words in paragraphs of 12 in pages of 5 paragraphs. Returns non-zero when kernel and reference disagree.
#include <cmath>
#include <cstdio>
#include <fovea/hierarchical/hierarchical_self_attention.hpp>

#include "hierarchical/hierarchical_self_attention.hpp"

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Random(600, 64), k = Matrix::Random(600, 64), v = Matrix::Random(600, 64);

  const auto tree = fovea::TokenTree::from_windows(600, {12, 5});
  auto out = fovea::output_for(q, v);
  fovea::hierarchical_self_attention(q, k, v, out, tree);

  const auto expected = fovea::reference::hierarchical_self_attention<double>(
      q.cast<double>(), k.cast<double>(), v.cast<double>(), 1 / std::sqrt(64.0), tree.parent);
  double error = 0;
  for (Eigen::Index i = 0; i < out.rows(); ++i) {
    for (Eigen::Index e = 0; e < out.cols(); ++e) error = std::max(error, std::abs(out(i, e) - expected.out(i, e)));
  }
  std::printf("largest error %.1e\n", error);
  return error < 1e-6 ? 0 : 1;
}
