// Hierarchical self-attention of one head, as its recursion reads, with the matrix of weights written out.
//
//   s_BC = scale q_B . k_C + bias(B, C) over means; D_B = exp(-F(B)) + sum_C |C| exp(s_BC)
//   F(i) = -s_ii, F(A) = -sum_B |B| / |A| ln D_B;   m(root) = 1, m(B) = m(A) exp(-F(B)) / D_B
//   theta_ij = m(A) exp(s_BC) / D_B for i below B and j below C, siblings under A; theta_ii = m(i)
#pragma once

#include <vector>

#include "dense/scaled_dot_product.hpp"

namespace fovea::reference {

template <class Real>
struct HierarchicalSelfAttention {
  Matrix<Real> theta;  // [N x N]
  Matrix<Real> out;    // [N x E]
  Real energy = 0;     // F(root)
};

// q [N x D], k [N x D], v [N x E]; parent[x] the node above x, -1 for the root; the tokens are nodes 0 ... N - 1.
template <class Real>
HierarchicalSelfAttention<Real> hierarchical_self_attention(
    const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, Real scale,
    const std::vector<Eigen::Index>& parent, bool gaussian = false,
    const std::function<double(Eigen::Index, Eigen::Index)>& bias = {}) {
  using Eigen::Index;
  const Index tokens = q.rows(), nodes = Index(parent.size());
  std::vector<std::vector<Index>> children(static_cast<std::size_t>(nodes)), leaves(static_cast<std::size_t>(nodes));
  Index root = 0;
  for (Index x = 0; x < nodes; ++x) {
    if (parent[std::size_t(x)] < 0) {
      root = x;
    } else {
      children[std::size_t(parent[std::size_t(x)])].push_back(x);
    }
  }
  for (Index i = 0; i < tokens; ++i) {
    for (Index x = i; x >= 0; x = parent[std::size_t(x)]) leaves[std::size_t(x)].push_back(i);
  }

  // The mean over all pairs of a token below `from` and one below `to`.
  const auto score = [&](Index from, Index to) {
    Vector<Real> query = Vector<Real>::Zero(q.cols()), key = Vector<Real>::Zero(q.cols());
    Real squares = 0;
    for (const Index i : leaves[std::size_t(from)]) query += q.row(i).transpose();
    for (const Index j : leaves[std::size_t(to)]) {
      key += k.row(j).transpose();
      for (Index d = 0; d < k.cols(); ++d) squares += k(j, d) * k(j, d);
    }
    const Real pairs = Real(leaves[std::size_t(from)].size() * leaves[std::size_t(to)].size());
    Real s = 0;
    for (Index d = 0; d < q.cols(); ++d) s += query(d) * key(d);
    s *= scale / pairs;
    if (gaussian) s -= scale / 2 * squares / Real(leaves[std::size_t(to)].size());
    return bias ? s + Real(bias(from, to)) : s;
  };

  std::vector<Real> energy(static_cast<std::size_t>(nodes)), total(static_cast<std::size_t>(nodes));
  const std::function<void(Index)> up = [&](Index a) {
    if (children[std::size_t(a)].empty()) {
      energy[std::size_t(a)] = -score(a, a);
      return;
    }
    Real sum = 0;
    for (const Index b : children[std::size_t(a)]) {
      up(b);
      total[std::size_t(b)] = std::exp(-energy[std::size_t(b)]);
      for (const Index c : children[std::size_t(a)]) {
        if (c != b) total[std::size_t(b)] += Real(leaves[std::size_t(c)].size()) * std::exp(score(b, c));
      }
      sum -= Real(leaves[std::size_t(b)].size()) * std::log(total[std::size_t(b)]);
    }
    energy[std::size_t(a)] = sum / Real(leaves[std::size_t(a)].size());
  };
  up(root);

  HierarchicalSelfAttention<Real> result{Matrix<Real>::Zero(tokens, tokens), Matrix<Real>::Zero(tokens, v.cols()),
                                         energy[std::size_t(root)]};
  const std::function<void(Index, Real)> down = [&](Index a, Real mass) {
    if (children[std::size_t(a)].empty()) result.theta(a, a) = mass;
    for (const Index b : children[std::size_t(a)]) {
      for (const Index c : children[std::size_t(a)]) {
        if (c == b) continue;
        const Real weight = mass * std::exp(score(b, c)) / total[std::size_t(b)];
        for (const Index i : leaves[std::size_t(b)]) {
          for (const Index j : leaves[std::size_t(c)]) result.theta(i, j) = weight;
        }
      }
      down(b, mass * std::exp(-energy[std::size_t(b)]) / total[std::size_t(b)]);
    }
  };
  down(root, Real(1));
  for (Index i = 0; i < tokens; ++i) {
    for (Index j = 0; j < tokens; ++j) result.out.row(i) += result.theta(i, j) * v.row(j);
  }
  return result;
}

}  // namespace fovea::reference
