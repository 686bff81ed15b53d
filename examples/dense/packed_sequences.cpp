// Three sequences of different lengths packed one behind the other: causal attention inside each, in one call. Returns
// non-zero when a sequence does not come out as it does alone.
#include <cstdio>
#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/document.hpp>

#include "dense/scaled_dot_product.hpp"

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const std::vector<fovea::Index> begin = {0, 70, 75, 200};
  const Matrix q = Matrix::Random(200, 48), k = Matrix::Random(200, 48), v = Matrix::Random(200, 48);

  auto out = fovea::output_for(q, v);
  fovea::attend(q, k, v, out, fovea::softmax().mask(fovea::mask::document(begin, fovea::mask::causal())));

  double error = 0;
  for (std::size_t s = 0; s + 1 < begin.size(); ++s) {
    const auto own = [&](const Matrix& x) { return x.middleRows(begin[s], begin[s + 1] - begin[s]).cast<double>(); };
    const auto expected = fovea::reference::scaled_dot_product<double>(
        own(q), own(k), own(v), 1 / std::sqrt(48.0),
        {.visible = [](Eigen::Index i, Eigen::Index j) { return j <= i; }});
    for (Eigen::Index i = 0; i < expected.out.rows(); ++i) {
      for (Eigen::Index e = 0; e < expected.out.cols(); ++e)
        error = std::max(error, std::abs(out(begin[s] + i, e) - expected.out(i, e)));
    }
  }
  std::printf("largest error %.1e\n", error);
  return error < 1e-6 ? 0 : 1;
}
