// Retention of one head as weights of earlier tokens, no recurrence.
//
//   o_i = scale (sum_{j <= i} gamma^(i - j) (q_i . k_j) v_j + gamma^(i + 1) S_0^T q_i)
//   S_N = gamma^N S_0 + sum_j gamma^(N - 1 - j) k_j v_j^T
#pragma once

#include <cmath>

#include "linear/memory.hpp"

namespace fovea::reference {

// q, k [N x D], v [N x E], start [D x E]; gamma = e^log_decay.
template <class Real>
Memory<Real> retention(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, Real log_decay, Real scale,
                       const Matrix<Real>& start) {
  const Eigen::Index tokens = q.rows();
  const auto power = [&](Eigen::Index n) { return n == 0 ? Real(1) : std::exp(Real(n) * log_decay); };
  Memory<Real> memory{Matrix<Real>(tokens, v.cols()), power(tokens) * start};
  for (Eigen::Index i = 0; i < tokens; ++i) {
    memory.out.row(i) = scale * power(i + 1) * q.row(i) * start;
    for (Eigen::Index j = 0; j <= i; ++j) memory.out.row(i) += scale * power(i - j) * q.row(i).dot(k.row(j)) * v.row(j);
    memory.state += power(tokens - 1 - i) * k.row(i).transpose() * v.row(i);
  }
  return memory;
}

}  // namespace fovea::reference
