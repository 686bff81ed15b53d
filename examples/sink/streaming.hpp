// Decoding with a cache of sink tokens and the last keys, one head, as it goes: a token at a time, positions are those
// of the slots.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace fovea::reference {

template <class Real>
using StreamMatrix = Eigen::Matrix<Real, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// A row turned by its position: channels k and k + D/2 by the angle position base^(-2 k / D).
template <class Real>
std::vector<Real> turned(const StreamMatrix<Real>& x, Eigen::Index row, Eigen::Index position, Real base) {
  const Eigen::Index half = x.cols() / 2;
  std::vector<Real> y(std::size_t(2 * half));
  for (Eigen::Index k = 0; k < half; ++k) {
    const Real angle = Real(position) * std::pow(base, -2 * Real(k) / Real(x.cols()));
    y[std::size_t(k)] = x(row, k) * std::cos(angle) - x(row, k + half) * std::sin(angle);
    y[std::size_t(k + half)] = x(row, k) * std::sin(angle) + x(row, k + half) * std::cos(angle);
  }
  return y;
}

// q [N x D], k [M x D], v [M x E], the queries are the last N of M tokens. The cache of a token holds the first
// sink_tokens and the last `window` keys, its own included.
template <class Real>
StreamMatrix<Real> streaming(const StreamMatrix<Real>& q, const StreamMatrix<Real>& k, const StreamMatrix<Real>& v,
                             Eigen::Index window, Eigen::Index sink_tokens, Real base = 10000) {
  const Real scale = 1 / std::sqrt(Real(q.cols()));
  StreamMatrix<Real> out = StreamMatrix<Real>::Zero(q.rows(), v.cols());
  for (Eigen::Index i = 0; i < q.rows(); ++i) {
    const Eigen::Index token = i + k.rows() - q.rows();
    std::vector<Eigen::Index> cache;
    for (Eigen::Index j = 0; j <= token; ++j) {
      if (j < sink_tokens || token - j < window) cache.push_back(j);
    }
    if (cache.empty()) continue;

    const auto query = turned(q, i, Eigen::Index(cache.size()) - 1, base);
    std::vector<Real> s;
    Real most = -std::numeric_limits<Real>::infinity();
    for (std::size_t slot = 0; slot < cache.size(); ++slot) {
      const auto key = turned(k, cache[slot], Eigen::Index(slot), base);
      Real product = 0;
      for (std::size_t d = 0; d < key.size(); ++d) product += query[d] * key[d];
      s.push_back(scale * product);
      most = std::max(most, s.back());
    }
    Real sum = 0;
    for (std::size_t slot = 0; slot < cache.size(); ++slot) {
      const Real p = std::exp(s[slot] - most);
      sum += p;
      out.row(i) += p * v.row(cache[slot]);
    }
    out.row(i) /= sum;
  }
  return out;
}

}  // namespace fovea::reference
