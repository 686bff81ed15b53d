#include <cmath>
#include <fovea/dense/scaled_dot_product.hpp>

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Zero(1, 4), k = Matrix::Ones(3, 4), v = Eigen::Vector3f(1, 3, 8);
  auto out = fovea::output_for(q, v);
  fovea::scaled_dot_product(q, k, v, out);
  return std::abs(out(0, 0) - 4) < 1e-5f ? 0 : 1;  // equal scores: the mean of the values
}
