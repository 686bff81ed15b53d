// Agent attention of one head, as the equations read.
//
//   u_a = sum_j softmax_j(scale a_a . k_j + B1_aj) v_j,   o_i = sum_a softmax_a(scale q_i . a_a + B2_ia) u_a
//
// In the vision form the agents are the means of the queries over the cells of a P x P grid, and o gains a depthwise
// convolution of the values on their grid.
#pragma once

#include <algorithm>
#include <cmath>

#include "dense/scaled_dot_product.hpp"

namespace fovea::reference {

// q [N x D], agents [n x D], k [M x D], v [M x E]; B1 [n x M] and B2 [N x n], or empty.
template <class Real>
Matrix<Real> agent(const Matrix<Real>& q, const Matrix<Real>& agents, const Matrix<Real>& k, const Matrix<Real>& v,
                   Real scale, const Matrix<Real>& B1 = {}, const Matrix<Real>& B2 = {}) {
  const auto plus = [](const Matrix<Real>& bias) {
    AttentionOptions<Real> options;
    if (bias.size() > 0) options.score = [&](Real s, Eigen::Index i, Eigen::Index j) { return s + bias(i, j); };
    return options;
  };
  const Matrix<Real> collected = scaled_dot_product<Real>(agents, k, v, scale, plus(B1)).out;
  return scaled_dot_product<Real>(q, agents, collected, scale, plus(B2)).out;
}

// Adaptive average pooling of x [height width x D] to P x P tokens.
template <class Real>
Matrix<Real> pool_to_agents(const Matrix<Real>& x, Eigen::Index height, Eigen::Index width, Eigen::Index P) {
  using Eigen::Index;
  const auto first = [&](Index i, Index extent) { return Index(std::floor(double(i * extent) / double(P))); };
  const auto last = [&](Index i, Index extent) { return Index(std::ceil(double((i + 1) * extent) / double(P))); };
  Matrix<Real> agents = Matrix<Real>::Zero(P * P, x.cols());
  for (Index i = 0; i < P; ++i) {
    for (Index j = 0; j < P; ++j) {
      Real number = 0;
      for (Index r = first(i, height); r < last(i, height); ++r) {
        for (Index c = first(j, width); c < last(j, width); ++c) {
          agents.row(i * P + j) += x.row(r * width + c);
          number += 1;
        }
      }
      agents.row(i * P + j) /= number;
    }
  }
  return agents;
}

// x [height width x C] on a grid of rows x columns, bilinear, corners not aligned.
template <class Real>
Matrix<Real> resize(const Matrix<Real>& x, Eigen::Index height, Eigen::Index width, Eigen::Index rows,
                    Eigen::Index columns) {
  using Eigen::Index;
  Matrix<Real> result(rows * columns, x.cols());
  for (Index i = 0; i < rows; ++i) {
    for (Index j = 0; j < columns; ++j) {
      const Real y = std::max(Real(0), (Real(i) + Real(0.5)) * Real(height) / Real(rows) - Real(0.5));
      const Real c = std::max(Real(0), (Real(j) + Real(0.5)) * Real(width) / Real(columns) - Real(0.5));
      const Index top = Index(y), left = Index(c);
      const Index bottom = std::min(top + 1, height - 1), right = std::min(left + 1, width - 1);
      const Real dy = y - Real(top), dx = c - Real(left);
      result.row(i * columns + j) =
          (1 - dy) * ((1 - dx) * x.row(top * width + left) + dx * x.row(top * width + right)) +
          dy * ((1 - dx) * x.row(bottom * width + left) + dx * x.row(bottom * width + right));
    }
  }
  return result;
}

// The depthwise 3 x 3 convolution of v [height width x E], zero beyond the edges; kernel [E x 9], bias [E].
template <class Real>
Matrix<Real> convolve(const Matrix<Real>& v, Eigen::Index height, Eigen::Index width, const Matrix<Real>& kernel,
                      const Vector<Real>& bias) {
  using Eigen::Index;
  Matrix<Real> result(v.rows(), v.cols());
  for (Index y = 0; y < height; ++y) {
    for (Index x = 0; x < width; ++x) {
      for (Index e = 0; e < v.cols(); ++e) {
        Real sum = bias(e);
        for (Index dy = -1; dy <= 1; ++dy) {
          for (Index dx = -1; dx <= 1; ++dx) {
            const bool inside = y + dy >= 0 && y + dy < height && x + dx >= 0 && x + dx < width;
            if (inside) sum += kernel(e, (dy + 1) * 3 + dx + 1) * v((y + dy) * width + x + dx, e);
          }
        }
        result(y * width + x, e) = sum;
      }
    }
  }
  return result;
}

}  // namespace fovea::reference
