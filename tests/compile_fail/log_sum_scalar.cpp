// expect: fovea: .*log_sum.*scalar type
#include <fovea/dense/scaled_dot_product.hpp>

void refused() {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Matrix q, k, v, out;
  Eigen::VectorXd log_sum;
  fovea::scaled_dot_product(q, k, v, fovea::with_log_sum(out, log_sum));
}
