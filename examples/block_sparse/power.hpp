// PowerAttention of one head, as the rule reads: block distances that are zero or a power of two, leading blocks, and
// nearest blocks.
#pragma once

#include "dense/scaled_dot_product.hpp"

namespace fovea::reference {

// Whether the query at position p sees key j.
inline bool power_sees(Eigen::Index p, Eigen::Index j, Eigen::Index block, Eigen::Index sink_blocks,
                       Eigen::Index window_blocks) {
  if (j > p) return false;
  const Eigen::Index own = p / block, other = j / block, distance = own - other;
  return other < sink_blocks || distance < window_blocks || (distance & (distance - 1)) == 0;
}

// q [N x D], k [M x D], v [M x E]; the queries are the last tokens of the keys.
template <class Real>
Attention<Real> power(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, Real scale,
                      Eigen::Index block, Eigen::Index sink_blocks, Eigen::Index window_blocks) {
  const Eigen::Index offset = k.rows() - q.rows();
  return scaled_dot_product<Real>(q, k, v, scale, {.visible = [=](Eigen::Index i, Eigen::Index j) {
                                    return power_sees(i + offset, j, block, sink_blocks, window_blocks);
                                  }});
}

}  // namespace fovea::reference
