#include <cmath>
#include <fovea/dense/scaled_dot_product.hpp>

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Zero(2, 4), k = Matrix::Ones(3, 4);
  Matrix v(3, 2);
  v << 1, 2, 3, 4, 5, 9;
  auto out = fovea::output_for(q, v);
  fovea::scaled_dot_product(q, k, v, out);
  // Equal scores: every row is the mean of the values.
  const bool right = std::abs(out(0, 0) - 3) < 1e-5 && std::abs(out(1, 0) - 3) < 1e-5 && std::abs(out(1, 1) - 5) < 1e-5;
  return right ? 0 : 1;
}
