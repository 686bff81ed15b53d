// expect: fovea: a column-major tensor needs its axes named
#include <unsupported/Eigen/CXX11/Tensor>

#include <fovea/dense/scaled_dot_product.hpp>

void refused() {
  Eigen::Tensor<float, 4> q, k, v, out;
  fovea::scaled_dot_product(q, k, v, out);
}
