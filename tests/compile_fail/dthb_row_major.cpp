// expect: fovea: dthb takes a ColMajor tensor
#include <unsupported/Eigen/CXX11/Tensor>

#include <fovea/core/eigen.hpp>

void refused() {
  Eigen::Tensor<float, 4, Eigen::RowMajor> q;
  fovea::dthb(q);
}
