// expect: fovea: queries must be float or double
#include <fovea/dense/scaled_dot_product.hpp>

void refused() {
  Eigen::Matrix<int, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> q, k, v, out;
  fovea::scaled_dot_product(q, k, v, out);
}
