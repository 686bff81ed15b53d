// expect: fovea: a tensor must have the axes
#include <unsupported/Eigen/CXX11/Tensor>

#include <fovea/dense/scaled_dot_product.hpp>

void refused() {
  Eigen::Tensor<float, 5, Eigen::RowMajor> q, k, v, out;
  fovea::scaled_dot_product(q, k, v, out);
}
