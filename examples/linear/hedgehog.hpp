// Hedgehog attention of one head, as the equations read, with y = W x + b.
//
//   softmax   phi(x) = [softmax(y), softmax(-y)], no feature below 1e-12
//   joint     phi(x) = softmax([2 y, -2 y])
//   exp       phi(x) = [e^y, e^-y], shifted as in linear.hpp
#pragma once

#include "linear/linear.hpp"

namespace fovea::reference {

enum class Hedgehog { softmax, joint, exp };

// [s (W x + b), -s (W x + b)]; W [D x D], b [D].
template <class Real>
RowVector<Real> mirrored(const RowVector<Real>& x, const Matrix<Real>& w, const RowVector<Real>& b, Real s) {
  const RowVector<Real> y = s * projected(x, w, b);
  RowVector<Real> both(2 * y.size());
  both << y, -y;
  return both;
}

// q [N x D], k [M x D], v [M x E].
template <class Real>
Matrix<Real> hedgehog(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, const Matrix<Real>& w,
                      const RowVector<Real>& b, Hedgehog form, const KernelisedOptions<Real>& options) {
  if (form == Hedgehog::exp) {
    const auto y = [&](const RowVector<Real>& x) { return mirrored<Real>(x, w, b, 1); };
    return kernelised_exponential<Real>(q, k, v, y, y, 1, 0, options);
  }
  const auto phi = [&](const RowVector<Real>& x) -> RowVector<Real> {
    if (form == Hedgehog::joint) return softmax_features<Real>(mirrored<Real>(x, w, b, 2));
    RowVector<Real> both = mirrored<Real>(x, w, b, 1);
    const Eigen::Index n = both.size() / 2;
    both.head(n) = softmax_features<Real>(both.head(n));
    both.tail(n) = softmax_features<Real>(both.tail(n));
    return both.cwiseMax(Real(1e-12));
  };
  return kernelised<Real>(q, k, v, phi, phi, options);
}

}  // namespace fovea::reference
