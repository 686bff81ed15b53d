// Nystroemformer of one head, as the equations read.
//
//   O = F (Z (B V)),   F = softmax(scale Q K~^T),  B = softmax(scale Q~ K^T),  A = softmax(scale Q~ K~^T)
//   Z <- 1/4 Z (13 I - A Z (15 I - A Z (7 I - A Z)))   from   Z = A^T / (largest column sum of A)
#pragma once

#include <cmath>

#include "dense/scaled_dot_product.hpp"

namespace fovea::reference {

// Row i holds softmax_j(scale q_i . k_j).
template <class Real>
Matrix<Real> softmax_rows(const Matrix<Real>& q, const Matrix<Real>& k, Real scale) {
  return scaled_dot_product<Real>(q, k, Matrix<Real>::Identity(k.rows(), k.rows()), scale).out;
}

// Means of m segments of the rows; the first ones are a row shorter when there is a rest.
template <class Real>
Matrix<Real> landmarks(const Matrix<Real>& x, Eigen::Index m) {
  const Eigen::Index size = x.rows() / m, shorter = (size + 1) * m - x.rows();
  Matrix<Real> result(m, x.cols());
  Eigen::Index next = 0;
  for (Eigen::Index s = 0; s < m; ++s) {
    const Eigen::Index length = s < shorter ? size : size + 1;
    result.row(s) = x.middleRows(next, length).colwise().sum() / Real(length);
    next += length;
  }
  return result;
}

// q, k [N x D], v [N x E]. column_sum: by what A^T is divided, the largest column sum of A when zero. Rows from
// `length` on are padding: zero in the landmarks, hidden as keys.
template <class Real>
Matrix<Real> nystrom(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, Real scale, Eigen::Index m,
                     Eigen::Index iterations, Real column_sum = 0, Eigen::Index length = -1) {
  const Eigen::Index padding = length < 0 ? 0 : q.rows() - length;
  const AttentionOptions<Real> hidden{
      .visible = [last = k.rows() - padding](Eigen::Index, Eigen::Index j) { return j < last; }};
  if (q.rows() <= m) return scaled_dot_product<Real>(q, k, v, scale, hidden).out;
  const auto without = [padding](Matrix<Real> x) {
    x.bottomRows(padding).setZero();
    return x;
  };
  const Matrix<Real> q_mean = landmarks(without(q), m), k_mean = landmarks(without(k), m);
  const Matrix<Real> A = softmax_rows(q_mean, k_mean, scale), I = Matrix<Real>::Identity(m, m);
  if (column_sum == 0) {
    for (Eigen::Index j = 0; j < m; ++j) column_sum = std::max(column_sum, A.col(j).sum());
  }
  Matrix<Real> Z = A.transpose() / column_sum;
  for (Eigen::Index n = 0; n < iterations; ++n) {
    const Matrix<Real> P = A.lazyProduct(Z);
    const Matrix<Real> inner = 15 * I - P.lazyProduct(7 * I - P);
    const Matrix<Real> outer = 13 * I - P.lazyProduct(inner);
    Z = Matrix<Real>(Z.lazyProduct(outer) / 4);
  }
  const Matrix<Real> collected = scaled_dot_product<Real>(q_mean, k, v, scale, hidden).out;  // B V
  const Matrix<Real> corrected = Z.lazyProduct(collected);
  return softmax_rows(q, k_mean, scale).lazyProduct(corrected);
}

// o_i += sum_t w_t v_(i + t - r), r = (size - 1) / 2; zero beyond the ends.
template <class Real>
Matrix<Real> convolve_tokens(const Matrix<Real>& v, const Vector<Real>& w) {
  Matrix<Real> result = Matrix<Real>::Zero(v.rows(), v.cols());
  for (Eigen::Index i = 0; i < v.rows(); ++i) {
    for (Eigen::Index t = 0; t < w.size(); ++t) {
      const Eigen::Index j = i + t - (w.size() - 1) / 2;
      if (j >= 0 && j < v.rows()) result.row(i) += w(t) * v.row(j);
    }
  }
  return result;
}

}  // namespace fovea::reference
