// Block-sparse attention of one head, as the definition reads: softmax over the keys whose block is listed for the
// query's block.
#pragma once

#include <algorithm>
#include <vector>

#include "dense/scaled_dot_product.hpp"

namespace fovea::reference {

// q [N x D], k [M x D], v [M x E]; lists[a] holds the key blocks of query block a. offset: position of query 0 when
// causal.
template <class Real>
Attention<Real> block_sparse(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, Real scale,
                             Eigen::Index query_block, Eigen::Index key_block,
                             const std::vector<std::vector<Eigen::Index>>& lists, bool causal = false) {
  const Eigen::Index offset = k.rows() - q.rows();
  const auto visible = [&](Eigen::Index i, Eigen::Index j) {
    const auto& list = lists[std::size_t(i / query_block)];
    return std::find(list.begin(), list.end(), j / key_block) != list.end() && (!causal || j <= i + offset);
  };
  return scaled_dot_product<Real>(q, k, v, scale, {.visible = visible});
}

}  // namespace fovea::reference
