// The gated delta rule of one head, token by token, as a product of matrices.
//
//   S_t = (I - beta_t k_t k_t^T) Diag(e^g_t) S_{t-1} + beta_t k_t v_t^T     o_t = scale S_t^T q_t
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
    const Matrix<Real> along = k.row(t).transpose() * k.row(t);
    const Matrix<Real> erase = Matrix<Real>::Identity(k.cols(), k.cols()) - beta(t) * along;
    memory.state = erase * (gate.asDiagonal() * memory.state) + beta(t) * k.row(t).transpose() * v.row(t);
    memory.out.row(t) = scale * q.row(t) * memory.state;
  }
  return memory;
}

}  // namespace fovea::reference
