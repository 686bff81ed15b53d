// Kernelised linear attention of one head as N x M weights, row by row.
//
//   w_ij = scale phi(q_i) . phi(k_j)          over all keys, or over the keys j <= i + M - N
//   o_i  = sum_j w_ij v_j / divisor_i,        divisor_i = sum_j w_ij + epsilon, or max(sum_j w_ij, epsilon), or 1
//
// A divisor of zero gives o_i = 0. For exponential maps, phi(x) = factor (e^(y(x) - shift) + added), the shift of q_i
// is its own largest exponent, that of the keys the largest exponent of the keys that i sees.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "dense/scaled_dot_product.hpp"

namespace fovea::reference {

template <class Real>
using RowVector = Eigen::Matrix<Real, 1, Eigen::Dynamic>;

enum class Divisor { sum_eps, clamp, none };

template <class Real>
struct KernelisedOptions {
  bool causal = false;
  Divisor divisor = Divisor::sum_eps;
  Real epsilon = 0;
  Real scale = 1;
};

// weights(i, j) for the keys that row i sees.
template <class Real, class Weights>
Matrix<Real> kernelised_by_weights(Eigen::Index queries, const Matrix<Real>& v, const KernelisedOptions<Real>& options,
                                   const Weights& weights) {
  const Eigen::Index keys = v.rows();
  Matrix<Real> out = Matrix<Real>::Zero(queries, v.cols());
  for (Eigen::Index i = 0; i < queries; ++i) {
    const Eigen::Index seen = options.causal ? std::clamp<Eigen::Index>(i + keys - queries + 1, 0, keys) : keys;
    Real sum = 0;
    for (Eigen::Index j = 0; j < seen; ++j) {
      const Real w = options.scale * weights(i, j, seen);
      sum += w;
      out.row(i) += w * v.row(j);
    }
    const Real divisor = options.divisor == Divisor::sum_eps ? sum + options.epsilon
                         : options.divisor == Divisor::clamp ? std::max(sum, options.epsilon)
                                                             : Real(1);
    if (divisor == 0) {
      out.row(i).setZero();
    } else {
      out.row(i) /= divisor;
    }
  }
  return out;
}

template <class Real>
Real largest(const RowVector<Real>& x) {
  return *std::max_element(x.data(), x.data() + x.size());
}

// The rows of x, mapped.
template <class Real, class Phi>
std::vector<RowVector<Real>> mapped(const Matrix<Real>& x, const Phi& phi) {
  std::vector<RowVector<Real>> rows;
  for (Eigen::Index i = 0; i < x.rows(); ++i) rows.push_back(phi(RowVector<Real>(x.row(i))));
  return rows;
}

// q [N x D], k [M x D], v [M x E]; phi maps a row to its features.
template <class Real, class PhiQ, class PhiK>
Matrix<Real> kernelised(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, const PhiQ& phi_q,
                        const PhiK& phi_k, const KernelisedOptions<Real>& options) {
  const auto a = mapped(q, phi_q), b = mapped(k, phi_k);
  return kernelised_by_weights<Real>(q.rows(), v, options, [&](Eigen::Index i, Eigen::Index j, Eigen::Index) {
    const auto &x = a[std::size_t(i)], &y = b[std::size_t(j)];
    Real sum = 0;
    for (Eigen::Index f = 0; f < x.size(); ++f) sum += x[f] * y[f];
    return sum;
  });
}

// The same for exponential maps; y maps a row to its exponents.
template <class Real, class YQ, class YK>
Matrix<Real> kernelised_exponential(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, const YQ& y_q,
                                    const YK& y_k, Real factor, Real added, const KernelisedOptions<Real>& options) {
  const auto a = mapped(q, y_q), b = mapped(k, y_k);
  std::vector<Real> shift;  // of the keys up to j
  for (const auto& y : b) shift.push_back(shift.empty() ? largest(y) : std::max(shift.back(), largest(y)));
  return kernelised_by_weights<Real>(q.rows(), v, options, [&](Eigen::Index i, Eigen::Index j, Eigen::Index seen) {
    const auto &x = a[std::size_t(i)], &y = b[std::size_t(j)];
    const Real of_query = largest(x), of_keys = shift[std::size_t(seen - 1)];
    Real sum = 0;
    for (Eigen::Index f = 0; f < x.size(); ++f)
      sum += factor * (std::exp(x[f] - of_query) + added) * factor * (std::exp(y[f] - of_keys) + added);
    return sum;
  });
}

// The usual maps.
template <class Real>
RowVector<Real> identity(const RowVector<Real>& x) {
  return x;
}
template <class Real>
RowVector<Real> elu_plus_one(const RowVector<Real>& x) {
  return x.unaryExpr([](Real t) { return t > 0 ? t + 1 : std::exp(t); });
}
template <class Real>
RowVector<Real> relu(const RowVector<Real>& x) {
  return x.unaryExpr([](Real t) { return std::max(t, Real(0)); });
}
template <class Real>
RowVector<Real> softmax_features(RowVector<Real> x) {
  const Real most = largest(x);
  Real sum = 0;
  for (Real& t : x) sum += t = std::exp(t - most);
  for (Real& t : x) t /= sum;
  return x;
}

// W x + b; W [F x D], b [F].
template <class Real>
RowVector<Real> projected(const RowVector<Real>& x, const Matrix<Real>& w, const RowVector<Real>& b) {
  RowVector<Real> y = b;
  for (Eigen::Index r = 0; r < w.rows(); ++r) {
    for (Eigen::Index d = 0; d < w.cols(); ++d) y[r] += w(r, d) * x[d];
  }
  return y;
}

}  // namespace fovea::reference
