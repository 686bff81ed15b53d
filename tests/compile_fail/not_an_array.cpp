// expect: fovea: an array must be an Eigen tensor, matrix, map or block
#include <vector>

#include <fovea/dense/scaled_dot_product.hpp>

void refused() {
  std::vector<float> q, k, v, out;
  fovea::scaled_dot_product(q, k, v, out);
}
