// The gated delta rule of one head, token by token.
//
//   S' = Diag(e^g_t) S_{t-1}     S_t = S' + beta_t k_t (v_t - S'^T k_t)^T     o_t = scale S_t^T q_t
#pragma once

#include <cmath>

#include "linear/memory.hpp"

namespace fovea::reference {

// q, k [N x D], v [N x E], log_gate [N x D], beta [N], start [D x E].
template <class Real>
Memory<Real> gated_delta(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v,
                         const Matrix<Real>& log_gate, const Vector<Real>& beta, Real scale,
                         const Matrix<Real>& start) {
  Memory<Real> memory{Matrix<Real>(q.rows(), v.cols()), start};
  for (Eigen::Index t = 0; t < q.rows(); ++t) {
    const Vector<Real> gate = log_gate.row(t).unaryExpr([](Real g) { return std::exp(g); });
    memory.state = gate.asDiagonal() * memory.state;
    const Matrix<Real> held = k.row(t) * memory.state;  // under this key
    memory.state += beta(t) * k.row(t).transpose() * (v.row(t) - held);
    memory.out.row(t) = scale * q.row(t) * memory.state;
  }
  return memory;
}

}  // namespace fovea::reference
