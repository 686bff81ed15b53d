// Attention of one head with a sink logit, and with an extra key and value, as the equations read.
//
//   sink_logits      o_i = sum_j exp(s_ij) v_j / (exp(c) + sum_j exp(s_ij))
//   sink_key_value   softmax over the keys k* and k_j, values v* and v_j; every query sees k*
//
// s_ij = scale q_i . k_j over the keys that query i sees.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

namespace fovea::reference {

template <class Real>
using SinkMatrix = Eigen::Matrix<Real, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

using Visible = std::function<bool(Eigen::Index i, Eigen::Index j)>;

// q [N x D], k [M x D], v [M x E]; c finite or -infinity.
template <class Real>
SinkMatrix<Real> sink_logits(const SinkMatrix<Real>& q, const SinkMatrix<Real>& k, const SinkMatrix<Real>& v,
                             Real scale, Real c, const Visible& visible) {
  SinkMatrix<Real> out = SinkMatrix<Real>::Zero(q.rows(), v.cols());
  for (Eigen::Index i = 0; i < q.rows(); ++i) {
    std::vector<Real> s(std::size_t(k.rows()));
    Real most = c;
    for (Eigen::Index j = 0; j < k.rows(); ++j) {
      if (!visible(i, j)) continue;
      Real product = 0;
      for (Eigen::Index d = 0; d < q.cols(); ++d) product += q(i, d) * k(j, d);
      s[std::size_t(j)] = scale * product;
      most = std::max(most, scale * product);
    }
    if (std::isinf(most)) continue;
    Real sum = std::exp(c - most);
    for (Eigen::Index j = 0; j < k.rows(); ++j) {
      if (!visible(i, j)) continue;
      const Real p = std::exp(s[std::size_t(j)] - most);
      sum += p;
      out.row(i) += p * v.row(j);
    }
    out.row(i) /= sum;
  }
  return out;
}

// sink_key [1 x D], sink_value [1 x E].
template <class Real>
SinkMatrix<Real> sink_key_value(const SinkMatrix<Real>& q, const SinkMatrix<Real>& k, const SinkMatrix<Real>& v,
                                const SinkMatrix<Real>& sink_key, const SinkMatrix<Real>& sink_value, Real scale,
                                const Visible& visible) {
  SinkMatrix<Real> keys(1 + k.rows(), k.cols()), values(1 + v.rows(), v.cols());
  keys << sink_key, k;
  values << sink_value, v;
  return sink_logits<Real>(q, keys, values, scale, -std::numeric_limits<Real>::infinity(),
                           [&](Eigen::Index i, Eigen::Index j) { return j == 0 || visible(i, j - 1); });
}

}  // namespace fovea::reference
