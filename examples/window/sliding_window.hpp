// Sliding windows of one head, as the equations read.
//
//   causal          query i at position p = i + M - N sees { j <= p : p - j < window or j < sink_tokens }
//   bidirectional   it sees { j : |p - j| <= distance }
#pragma once

#include <cstdlib>

#include "dense/scaled_dot_product.hpp"

namespace fovea::reference {

// q [N x D], k [M x D], v [M x E].
template <class Real>
Attention<Real> sliding_window(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, Real scale,
                               Eigen::Index window, Eigen::Index sink_tokens) {
  const Eigen::Index offset = k.rows() - q.rows();
  return scaled_dot_product<Real>(q, k, v, scale, {.visible = [=](Eigen::Index i, Eigen::Index j) {
                                    const Eigen::Index p = i + offset;
                                    return j <= p && (p - j < window || j < sink_tokens);
                                  }});
}

template <class Real>
Attention<Real> bidirectional_window(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, Real scale,
                                     Eigen::Index distance) {
  const Eigen::Index offset = k.rows() - q.rows();
  return scaled_dot_product<Real>(q, k, v, scale, {.visible = [=](Eigen::Index i, Eigen::Index j) {
                                    return std::abs(i + offset - j) <= distance;
                                  }});
}

}  // namespace fovea::reference
