// expect: fovea: row values beside matrices are a vector
#include <fovea/dense/scaled_dot_product.hpp>

void refused() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Matrix q, k, v, out, log_sum;
  fovea::scaled_dot_product(q, k, v, fovea::with_log_sum(out, log_sum));
}
