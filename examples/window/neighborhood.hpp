// Neighborhood attention of one head, as the definition reads: for each pair, whether on every axis of the grid the
// query's window holds the key.
#pragma once

#include <algorithm>
#include <vector>

#include "dense/scaled_dot_product.hpp"

namespace fovea::reference {

// One axis of a grid.
struct NeighborhoodAxis {
  Eigen::Index extent, window, stride = 1, dilation = 1;
  bool causal = false;

  bool sees(Eigen::Index query, Eigen::Index key) const {
    if (query % dilation != key % dilation) return false;
    const Eigen::Index r = query % dilation, i = query / dilation, j = key / dilation;
    const Eigen::Index places = extent / dilation + (r < extent % dilation ? 1 : 0);  // in this residue class
    const Eigen::Index group = i / stride;
    if (causal) {
      const Eigen::Index leader = std::min(group * stride + stride - 1, places - 1);
      return j <= i && j >= leader - window + 1;
    }
    const Eigen::Index left = window / 2, right = window / 2 + window % 2 - 1;
    const Eigen::Index leader = std::min(group * stride + stride / 2, places - 1);
    Eigen::Index first = std::max<Eigen::Index>(leader - left, 0);
    if (leader + right >= places) first += places - right - leader - 1;
    return j >= first && j < first + window;
  }
};

// Of tokens row by row of a grid with these axes, the slowest first.
inline bool neighborhood_sees(const std::vector<NeighborhoodAxis>& axes, Eigen::Index query, Eigen::Index key) {
  for (auto axis = axes.rbegin(); axis != axes.rend(); ++axis) {
    if (!axis->sees(query % axis->extent, key % axis->extent)) return false;
    query /= axis->extent;
    key /= axis->extent;
  }
  return true;
}

// q, k [T x D], v [T x E].
template <class Real>
Attention<Real> neighborhood(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, Real scale,
                             const std::vector<NeighborhoodAxis>& axes) {
  return scaled_dot_product<Real>(
      q, k, v, scale, {.visible = [&](Eigen::Index i, Eigen::Index j) { return neighborhood_sees(axes, i, j); }});
}

}  // namespace fovea::reference
