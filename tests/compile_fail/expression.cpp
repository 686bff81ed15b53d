// expect: fovea: an array must be an Eigen tensor, matrix, map or block
#include <fovea/dense/scaled_dot_product.hpp>

void refused() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Matrix q, k, v, out;
  fovea::scaled_dot_product(2 * q, k, v, out);
}
