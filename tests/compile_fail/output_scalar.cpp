// expect: fovea: the output must have the scalar type of q
#include <fovea/dense/scaled_dot_product.hpp>

void refused() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Matrix q, k, v;
  Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> out;
  fovea::scaled_dot_product(q, k, v, out);
}
