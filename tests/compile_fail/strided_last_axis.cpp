// expect: fovea: the last axis of a matrix must be contiguous
#include <fovea/dense/scaled_dot_product.hpp>

void refused() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using EverySecond = Eigen::Map<const Matrix, 0, Eigen::Stride<Eigen::Dynamic, 2>>;
  const float data[8] = {};
  const EverySecond q(data, 2, 2, Eigen::Stride<Eigen::Dynamic, 2>(4, 2));
  Matrix k, v, out;
  fovea::scaled_dot_product(q, k, v, out);
}
