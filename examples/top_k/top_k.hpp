// Top-k attention of one head, as the definition reads: all scores, a full sort of each row, softmax over the first k.
#pragma once

#include <algorithm>
#include <numeric>

#include "dense/scaled_dot_product.hpp"

namespace fovea::reference {

// The scores of every query with every key, -infinity where a causal query does not see the key; offset: position of
// query 0. q [N x D], k [M x D].
template <class Real>
Matrix<Real> scores_of(const Matrix<Real>& q, const Matrix<Real>& k, Real scale, bool causal, Eigen::Index offset) {
  Matrix<Real> s = Matrix<Real>::Constant(q.rows(), k.rows(), -std::numeric_limits<Real>::infinity());
  for (Eigen::Index i = 0; i < s.rows(); ++i) {
    for (Eigen::Index j = 0; j < s.cols() && (!causal || j <= i + offset); ++j) {
      Real product = 0;
      for (Eigen::Index d = 0; d < q.cols(); ++d) product += q(i, d) * k(j, d);
      s(i, j) = scale * product;
    }
  }
  return s;
}

// The keys of the k largest scores of each row, ascending; of equal scores the first, NaN and -infinity never.
template <class Real>
std::vector<std::vector<Eigen::Index>> top_k_lists(const Matrix<Real>& scores, Eigen::Index k) {
  std::vector<std::vector<Eigen::Index>> lists;
  for (Eigen::Index i = 0; i < scores.rows(); ++i) {
    std::vector<Eigen::Index> list(static_cast<std::size_t>(scores.cols()));
    std::iota(list.begin(), list.end(), Eigen::Index(0));
    std::erase_if(list, [&](auto j) { return !(scores(i, j) > -std::numeric_limits<Real>::infinity()); });
    std::stable_sort(list.begin(), list.end(), [&](auto a, auto b) { return scores(i, a) > scores(i, b); });
    list.resize(std::min(list.size(), std::size_t(k)));
    std::sort(list.begin(), list.end());
    lists.push_back(list);
  }
  return lists;
}

// q [N x D], k [M x D], v [M x E]; the queries are the last tokens of the keys. keep_mass: the weights of the softmax
// over all visible keys, and its log-sum.
template <class Real>
Attention<Real> top_k(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, Real scale,
                      Eigen::Index count, bool causal = false, bool keep_mass = false) {
  constexpr Real infinity = std::numeric_limits<Real>::infinity();
  const Matrix<Real> s = scores_of(q, k, scale, causal, k.rows() - q.rows());
  const auto lists = top_k_lists(s, count);
  Attention<Real> result{Matrix<Real>::Zero(q.rows(), v.cols()), Vector<Real>::Constant(q.rows(), -infinity)};
  for (Eigen::Index i = 0; i < q.rows(); ++i) {
    const auto& list = lists[std::size_t(i)];
    if (list.empty()) continue;
    Real most = -infinity, sum = 0, chosen = 0;
    for (Eigen::Index j = 0; j < s.cols(); ++j) most = std::max(most, s(i, j));
    for (Eigen::Index j = 0; j < s.cols(); ++j) sum += std::exp(s(i, j) - most);
    for (const auto j : list) chosen += std::exp(s(i, j) - most);
    if (!keep_mass) sum = chosen;
    for (const auto j : list) result.out.row(i) += std::exp(s(i, j) - most) / sum * v.row(j);
    result.log_sum(i) = most + std::log(sum);
  }
  return result;
}

}  // namespace fovea::reference
