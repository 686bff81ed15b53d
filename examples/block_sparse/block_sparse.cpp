// A causal table of blocks: the first block, and the two nearest ones. Returns non-zero when kernel and reference
// disagree.
#include <cstdio>
#include <fovea/block_sparse/block_sparse.hpp>

#include "block_sparse/block_sparse.hpp"

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Random(300, 64), k = Matrix::Random(300, 64), v = Matrix::Random(300, 64);

  std::vector<std::vector<fovea::Index>> lists;  // ten blocks of 32 tokens, the last one shorter
  for (fovea::Index a = 0; a < 10; ++a) {
    lists.push_back({a});
    if (a > 0) lists.back().push_back(a - 1);
    if (a > 1) lists.back().push_back(0);
  }
  const auto table = fovea::BlockTable::from_lists(32, 32, 10, lists);
  auto out = fovea::output_for(q, v);
  fovea::block_sparse(q, k, v, out, table, {.causal = true});

  const auto expected = fovea::reference::block_sparse<double>(q.cast<double>(), k.cast<double>(), v.cast<double>(),
                                                               1 / std::sqrt(64.0), 32, 32, lists, true);
  double error = 0;
  for (Eigen::Index i = 0; i < out.rows(); ++i) {
    for (Eigen::Index e = 0; e < out.cols(); ++e) error = std::max(error, std::abs(out(i, e) - expected.out(i, e)));
  }
  std::printf("largest error %.1e\n", error);
  return error < 1e-6 ? 0 : 1;
}
