// A selection made once and attended to twice, with other values; returns non-zero when kernel and reference disagree.
#include "top_k/gathered.hpp"

#include <cstdio>
#include <fovea/top_k/gathered.hpp>
#include <fovea/top_k/top_k.hpp>

int main() {
  using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Random(300, 64), k = Matrix::Random(300, 64);
  const auto chosen = fovea::top_k_selection(q, k, {.top_k = 16, .causal = true});
  std::vector<std::vector<fovea::Index>> lists;
  for (fovea::Index i = 0; i < 300; ++i) {
    const auto list = chosen.list(0, 0, i);
    lists.emplace_back(chosen.keys.begin() + list.first, chosen.keys.begin() + list.last);
  }

  double error = 0;
  for (int layer = 0; layer < 2; ++layer) {
    const Matrix v = Matrix::Random(300, 64);
    auto out = fovea::output_for(q, v);
    fovea::gathered(q, k, v, out, chosen);
    const auto expected = fovea::reference::gathered<double>(q, k, v, 1 / 8.0, lists);
    for (Eigen::Index n = 0; n < out.size(); ++n)
      error = std::max(error, std::abs(out.data()[n] - expected.out.data()[n]));
  }
  std::printf("largest error %.1e\n", error);
  return error < 1e-13 ? 0 : 1;
}
