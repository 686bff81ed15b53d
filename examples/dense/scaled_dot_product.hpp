// Softmax attention of one head, as the equation reads.
//
//   s_ij = f(scale q_i . k_j, i, j)
//   o_i  = sum_j exp(s_ij) v_j / (exp(c) + sum_j exp(s_ij)),   L_i = ln sum_j exp(s_ij)   over the keys j that i sees
//
// f changes scores and c is the logit of a sink; without them f leaves a score as it is and exp(c) is zero. A query
// that sees no key gives o_i = 0 and L_i = -infinity.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

namespace fovea::reference {

template <class Real>
using Matrix = Eigen::Matrix<Real, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class Real>
using Vector = Eigen::Matrix<Real, Eigen::Dynamic, 1>;

template <class Real>
struct Attention {
  Matrix<Real> out;      // [N x E]
  Vector<Real> log_sum;  // [N]
};

template <class Real>
struct AttentionOptions {
  std::function<bool(Eigen::Index i, Eigen::Index j)> visible = {};        // every key when empty
  std::function<Real(Real s, Eigen::Index i, Eigen::Index j)> score = {};  // the score itself when empty
  std::optional<Real> sink_logit = {};                                     // no sink when empty
};

// q [N x D], k [M x D], v [M x E].
template <class Real>
Attention<Real> scaled_dot_product(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, Real scale,
                                   const AttentionOptions<Real>& options = {}) {
  constexpr Real infinity = std::numeric_limits<Real>::infinity();
  Attention<Real> result{Matrix<Real>::Zero(q.rows(), v.cols()), Vector<Real>::Constant(q.rows(), -infinity)};

  for (Eigen::Index i = 0; i < q.rows(); ++i) {
    std::vector<Eigen::Index> seen;
    std::vector<Real> s;
    Real most = -infinity;
    for (Eigen::Index j = 0; j < k.rows(); ++j) {
      if (options.visible && !options.visible(i, j)) continue;
      Real product = 0;
      for (Eigen::Index d = 0; d < q.cols(); ++d) product += q(i, d) * k(j, d);
      seen.push_back(j);
      s.push_back(options.score ? options.score(scale * product, i, j) : scale * product);
      most = std::max(most, s.back());
    }
    if (most == -infinity) continue;

    Real sum = 0;
    for (std::size_t n = 0; n < seen.size(); ++n) {
      const Real p = std::exp(s[n] - most);
      sum += p;
      result.out.row(i) += p * v.row(seen[n]);
    }
    result.out.row(i) /= sum + (options.sink_logit ? std::exp(*options.sink_logit - most) : Real(0));
    result.log_sum(i) = most + std::log(sum);
  }
  return result;
}

}  // namespace fovea::reference
