// Dilated sliding windows of one head, as the equations read: keys by their distance from the query, no residue
// classes.
//
//   causal          query i sees { j : i - j = n dilation, 0 <= n < window }
//   bidirectional   it sees { j : |i - j| = n dilation, 0 <= n <= distance }
#pragma once

#include <cstdlib>

#include "dense/scaled_dot_product.hpp"

namespace fovea::reference {

// q, k [T x D], v [T x E].
template <class Real>
Attention<Real> dilated_window(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, Real scale,
                               Eigen::Index window, Eigen::Index dilation) {
  return scaled_dot_product<Real>(q, k, v, scale, {.visible = [=](Eigen::Index i, Eigen::Index j) {
                                    return j <= i && (i - j) % dilation == 0 && (i - j) / dilation < window;
                                  }});
}

template <class Real>
Attention<Real> bidirectional_dilated_window(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v,
                                             Real scale, Eigen::Index distance, Eigen::Index dilation) {
  return scaled_dot_product<Real>(q, k, v, scale, {.visible = [=](Eigen::Index i, Eigen::Index j) {
                                    return (i - j) % dilation == 0 && std::abs(i - j) / dilation <= distance;
                                  }});
}

}  // namespace fovea::reference
