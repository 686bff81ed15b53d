// expect: fovea: the output must not be const
#include <fovea/dense/scaled_dot_product.hpp>

void refused() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q, k, v, out;
  fovea::scaled_dot_product(q, k, v, out);
}
