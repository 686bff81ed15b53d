// Attention of one head over given lists of keys, as the definition reads: softmax over the keys of the query's list.
#pragma once

#include <algorithm>

#include "dense/scaled_dot_product.hpp"

namespace fovea::reference {

// q [N x D], k [M x D], v [M x E]; lists[i] holds the keys of query i.
template <class Real>
Attention<Real> gathered(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, Real scale,
                         const std::vector<std::vector<Eigen::Index>>& lists) {
  return scaled_dot_product<Real>(q, k, v, scale, {.visible = [&](Eigen::Index i, Eigen::Index j) {
                                    const auto& list = lists[std::size_t(i)];
                                    return std::find(list.begin(), list.end(), j) != list.end();
                                  }});
}

}  // namespace fovea::reference
