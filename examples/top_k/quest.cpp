// Decoding with a cache that grows: the bounds of its pages grow with it. Returns non-zero when kernel and reference
// disagree.
#include <cstdio>
#include <fovea/top_k/quest.hpp>

#include "top_k/quest.hpp"

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix cache_k = Matrix::Random(1000, 64), cache_v = Matrix::Random(1000, 64);

  fovea::PageBounds<float> bounds{.page = 16, .dim = 64};
  bounds.append(cache_k.topRows(990));  // the prompt
  double error = 0;
  for (Eigen::Index length = 991; length <= 1000; ++length) {
    bounds.append(cache_k.row(length - 1));
    const Matrix q = Matrix::Random(1, 64), k = cache_k.topRows(length), v = cache_v.topRows(length);
    auto out = fovea::output_for(q, v);
    fovea::quest(q, k, v, out, bounds, {.top_k = 8});
    const auto expected = fovea::reference::quest<double>(q.cast<double>(), k.cast<double>(), v.cast<double>(),
                                                          1 / std::sqrt(64.0), 16, 8);
    for (Eigen::Index e = 0; e < out.cols(); ++e) error = std::max(error, std::abs(out(0, e) - expected.out(0, e)));
  }
  std::printf("largest error %.1e\n", error);
  return error < 1e-6 ? 0 : 1;
}
