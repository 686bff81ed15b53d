// expect: fovea: a column-major matrix needs its axes named
#include <fovea/dense/scaled_dot_product.hpp>

void refused() {
  Eigen::MatrixXf q, k, v, out;
  fovea::scaled_dot_product(q, k, v, out);
}
