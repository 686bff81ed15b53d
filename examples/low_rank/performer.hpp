// Performer attention of one head, as the equations read, with z = sqrt(scale) x and rows w_r of W.
//
//   positive     phi_r(x) = m^-1/2 (e^(w_r . z - |z|^2 / 2) + epsilon), shifted as in linear/linear.hpp
//   hyperbolic   phi(x) = (2 m)^-1/2 ([e^(w_r . z - |z|^2 / 2), e^(-w_r . z - |z|^2 / 2)] + epsilon), shifted
//   relu         phi_r(x) = max(w_r . z, 0) + epsilon
#pragma once

#include "linear/linear.hpp"

namespace fovea::reference {

enum class Performer { positive, hyperbolic, relu };

// q [N x D], k [M x D], v [M x E], w [m x D]; the softmax imitated has `scale`. The divisor's scale is one.
template <class Real>
Matrix<Real> performer(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, const Matrix<Real>& w,
                       Performer kind, Real scale, Real epsilon, const KernelisedOptions<Real>& options) {
  const Real root = std::sqrt(scale);
  const RowVector<Real> zero = RowVector<Real>::Zero(w.rows());
  if (kind == Performer::relu) {
    const auto phi = [&](const RowVector<Real>& x) {
      RowVector<Real> y = projected<Real>(root * x, w, zero);
      for (Real& t : y) t = std::max(t, Real(0)) + epsilon;
      return y;
    };
    return kernelised<Real>(q, k, v, phi, phi, options);
  }
  const auto y = [&](const RowVector<Real>& x) {
    Real half_norm = 0;
    for (const Real t : x) half_norm += scale * t * t / 2;
    const RowVector<Real> along = projected<Real>(root * x, w, zero);
    RowVector<Real> exponents(kind == Performer::hyperbolic ? 2 * along.size() : along.size());
    for (Eigen::Index r = 0; r < exponents.size(); ++r)
      exponents[r] = (r < along.size() ? along[r] : -along[r - along.size()]) - half_norm;
    return exponents;
  };
  const Real features = Real(kind == Performer::hyperbolic ? 2 * w.rows() : w.rows());
  return kernelised_exponential<Real>(q, k, v, y, y, 1 / std::sqrt(features), epsilon, options);
}

}  // namespace fovea::reference
