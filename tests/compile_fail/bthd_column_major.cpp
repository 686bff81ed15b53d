// expect: fovea: bthd takes a RowMajor tensor
#include <unsupported/Eigen/CXX11/Tensor>

#include <fovea/core/eigen.hpp>

void refused() {
  Eigen::Tensor<float, 4> q;
  fovea::bthd(q);
}
