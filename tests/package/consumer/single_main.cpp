#include <cmath>
#include <fovea.hpp>

float mean_of_values(float a, float b);  // in single.cpp

int main() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Matrix q = Matrix::Zero(1, 4), k = Matrix::Ones(2, 4), v = Eigen::Vector2f(1, 4);
  auto out = fovea::output_for(q, v);
  fovea::scaled_dot_product(q, k, v, out);
  return std::abs(out(0, 0) - mean_of_values(1, 4)) < 1e-5f ? 0 : 1;
}
