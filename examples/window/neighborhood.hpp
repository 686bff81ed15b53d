// Neighborhood attention of one head, as the definition reads: for each pair, whether the query's window holds the key.
#pragma once

#include <algorithm>

#include "dense/scaled_dot_product.hpp"

namespace fovea::reference {

struct NeighborhoodWindow {
  Eigen::Index window, stride = 1, dilation = 1;
  bool causal = false;

  // Of a sequence of `length` tokens.
  bool sees(Eigen::Index query, Eigen::Index key, Eigen::Index length) const {
    if (query % dilation != key % dilation) return false;
    const Eigen::Index r = query % dilation, i = query / dilation, j = key / dilation;
    const Eigen::Index tokens = length / dilation + (r < length % dilation ? 1 : 0);  // in this residue class
    const Eigen::Index group = i / stride;
    if (causal) {
      const Eigen::Index leader = std::min(group * stride + stride - 1, tokens - 1);
      return j <= i && j >= leader - window + 1;
    }
    const Eigen::Index left = window / 2, right = window / 2 + window % 2 - 1;
    const Eigen::Index leader = std::min(group * stride + stride / 2, tokens - 1);
    Eigen::Index first = std::max<Eigen::Index>(leader - left, 0);
    if (leader + right >= tokens) first += tokens - right - leader - 1;
    return j >= first && j < first + window;
  }
};

// q, k [T x D], v [T x E].
template <class Real>
Attention<Real> neighborhood(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, Real scale,
                             const NeighborhoodWindow& window) {
  return scaled_dot_product<Real>(
      q, k, v, scale, {.visible = [&](Eigen::Index i, Eigen::Index j) { return window.sees(i, j, k.rows()); }});
}

}  // namespace fovea::reference
