// Causal attention of 300 tokens by the kernel and by the equation; returns non-zero when they disagree.
#include "dense/scaled_dot_product.hpp"

#include <cstdio>
#include <fovea/dense/scaled_dot_product.hpp>

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Random(300, 64), k = Matrix::Random(300, 64), v = Matrix::Random(300, 64);

  auto out = fovea::output_for(q, v);
  fovea::scaled_dot_product(q, k, v, out, {.causal = true});

  const auto expected = fovea::reference::scaled_dot_product<double>(
      q.cast<double>(), k.cast<double>(), v.cast<double>(), 1 / std::sqrt(64.0),
      {.visible = [](Eigen::Index i, Eigen::Index j) { return j <= i; }});
  double error = 0;
  for (Eigen::Index n = 0; n < out.size(); ++n)
    error = std::max(error, std::abs(out.data()[n] - expected.out.data()[n]));
  std::printf("largest error %.1e\n", error);
  return error < 1e-6 ? 0 : 1;
}
