// Attention of one head that retrieves or streams, as the equation reads: a query at position p = i + M - N sees the
// keys j <= p, when it streams those of them with p - j < window or j < sink_tokens.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace fovea::reference {

template <class Real>
using SplitMatrix = Eigen::Matrix<Real, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// q [N x D], k [M x D], v [M x E].
template <class Real>
SplitMatrix<Real> head_split(const SplitMatrix<Real>& q, const SplitMatrix<Real>& k, const SplitMatrix<Real>& v,
                             bool retrieval, Eigen::Index window, Eigen::Index sink_tokens) {
  const Real scale = 1 / std::sqrt(Real(q.cols()));
  SplitMatrix<Real> out = SplitMatrix<Real>::Zero(q.rows(), v.cols());
  for (Eigen::Index i = 0; i < q.rows(); ++i) {
    const Eigen::Index p = i + k.rows() - q.rows();
    std::vector<Eigen::Index> seen;
    std::vector<Real> s;
    Real most = -std::numeric_limits<Real>::infinity();
    for (Eigen::Index j = 0; j <= p; ++j) {
      if (!retrieval && p - j >= window && j >= sink_tokens) continue;
      Real product = 0;
      for (Eigen::Index d = 0; d < q.cols(); ++d) product += q(i, d) * k(j, d);
      seen.push_back(j);
      s.push_back(scale * product);
      most = std::max(most, s.back());
    }
    if (seen.empty()) continue;
    Real sum = 0;
    for (std::size_t n = 0; n < seen.size(); ++n) {
      const Real weight = std::exp(s[n] - most);
      sum += weight;
      out.row(i) += weight * v.row(seen[n]);
    }
    out.row(i) /= sum;
  }
  return out;
}

}  // namespace fovea::reference
