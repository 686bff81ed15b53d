// Attention of the last N of M tokens of one head, as the equation reads.
//
//   query i at position p = i + M - N sees { j <= p : p - j < window or j < sink_tokens }
#pragma once

#include "dense/scaled_dot_product.hpp"

namespace fovea::reference {

// q [N x D], k [M x D], v [M x E].
template <class Real>
Attention<Real> cached_attention(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, Real scale,
                                 Eigen::Index window, Eigen::Index sink_tokens) {
  const Eigen::Index offset = k.rows() - q.rows();
  return scaled_dot_product<Real>(q, k, v, scale, {.visible = [=](Eigen::Index i, Eigen::Index j) {
                                    const Eigen::Index p = i + offset;
                                    return j <= p && (p - j < window || j < sink_tokens);
                                  }});
}

}  // namespace fovea::reference
