// Quest, of one query of one head, as the paper reads: pages ranked by an upper bound of their scores, the last page
// always read.
#pragma once

#include <algorithm>
#include <vector>

#include "dense/scaled_dot_product.hpp"

namespace fovea::reference {

// The pages in ascending order; q [1 x D], k [M x D].
template <class Real>
std::vector<Eigen::Index> quest_pages(const Matrix<Real>& q, const Matrix<Real>& k, Eigen::Index page,
                                      Eigen::Index top_k) {
  using Eigen::Index;
  const Index pages = (k.rows() + page - 1) / page;
  std::vector<Real> bound;
  std::vector<Index> order;
  for (Index p = 0; p + 1 < pages; ++p) {
    Real u = 0;
    for (Index d = 0; d < q.cols(); ++d) {
      Real high = k(p * page, d), low = high;
      for (Index j = p * page; j < (p + 1) * page; ++j) {
        high = std::max(high, k(j, d));
        low = std::min(low, k(j, d));
      }
      u += std::max(q(0, d) * high, q(0, d) * low);
    }
    bound.push_back(u);
    order.push_back(p);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](Index a, Index b) { return bound[std::size_t(a)] > bound[std::size_t(b)]; });
  order.resize(std::size_t(std::min(top_k - 1, Index(order.size()))));
  if (pages > 0) order.push_back(pages - 1);
  std::sort(order.begin(), order.end());
  return order;
}

// q [1 x D], k [M x D], v [M x E].
template <class Real>
Attention<Real> quest(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, Real scale,
                      Eigen::Index page, Eigen::Index top_k) {
  using Eigen::Index;
  const auto pages = quest_pages<Real>(q, k, page, top_k);
  const auto visible = [&](Index, Index j) { return std::binary_search(pages.begin(), pages.end(), j / page); };
  return scaled_dot_product<Real>(q, k, v, scale, {.visible = visible});
}

}  // namespace fovea::reference
