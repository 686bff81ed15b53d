// Bi-level routing attention as the definition reads: regions by their means, then softmax over the tokens of the
// chosen ones. All heads side by side: q, k [T x H D], v [T x H E].
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "dense/scaled_dot_product.hpp"

namespace fovea::reference {

struct BilevelRouting {
  Eigen::Index heads, height, width;  // of the grid of tokens
  Eigen::Index regions, top_k;
  bool zeros = false;  // keys and values of zero where regions reach beyond the grid, instead of none
  bool soft = false;   // keys and values multiplied by the softmax over the chosen regions

  Eigen::Index rows() const { return (height + regions - 1) / regions; }  // of a region
  Eigen::Index columns() const { return (width + regions - 1) / regions; }
  Eigen::Index region_of(Eigen::Index token) const {
    return token / width / rows() * regions + token % width / columns();
  }
  // The tokens of a region.
  std::vector<Eigen::Index> tokens_of(Eigen::Index region) const {
    std::vector<Eigen::Index> tokens;
    for (Eigen::Index t = 0; t < height * width; ++t) {
      if (region_of(t) == region) tokens.push_back(t);
    }
    return tokens;
  }
};

// Of each region, over all channels; what has no token is NaN.
template <class Real>
Matrix<Real> region_means(const Matrix<Real>& x, const BilevelRouting& r) {
  Matrix<Real> means(r.regions * r.regions, x.cols());
  for (Eigen::Index a = 0; a < means.rows(); ++a) {
    const auto tokens = r.tokens_of(a);
    means.row(a).setZero();
    for (const Eigen::Index t : tokens) means.row(a) += x.row(t);
    means.row(a) /= Real(tokens.size());
  }
  return means;
}

struct Routes {
  std::vector<std::vector<Eigen::Index>> regions;  // that each region reads, ascending
  std::vector<std::vector<double>> weights;
};

template <class Real>
Routes bilevel_routes(const Matrix<Real>& q, const Matrix<Real>& k, Real scale, const BilevelRouting& r) {
  const Matrix<Real> scores = region_means(q, r) * region_means(k, r).transpose();
  Routes routes;
  for (Eigen::Index a = 0; a < scores.rows(); ++a) {
    std::vector<Eigen::Index> order(std::size_t(scores.cols()));
    std::iota(order.begin(), order.end(), Eigen::Index(0));
    order.erase(std::remove_if(order.begin(), order.end(), [&](Eigen::Index b) { return !(scores(a, b) > -HUGE_VAL); }),
                order.end());
    std::stable_sort(order.begin(), order.end(),
                     [&](Eigen::Index b, Eigen::Index c) { return scores(a, b) > scores(a, c); });
    order.resize(std::min(order.size(), std::size_t(r.top_k)));
    std::sort(order.begin(), order.end());
    std::vector<double> weights;
    double total = 0;
    for (const Eigen::Index b : order) weights.push_back(std::exp(double(scale * scores(a, b))));
    for (const double w : weights) total += w;
    for (double& w : weights) w /= total;
    routes.regions.push_back(order);
    routes.weights.push_back(weights);
  }
  return routes;
}

// [T x H E] and, by head, the log-sums [T x H].
template <class Real>
Attention<Real> bilevel_routing(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, Real scale,
                                const Routes& routes, const BilevelRouting& r) {
  const Eigen::Index dim = q.cols() / r.heads, value_dim = v.cols() / r.heads;
  Attention<Real> result{Matrix<Real>::Zero(q.rows(), v.cols()), {}};
  result.log_sum.resize(q.rows() * r.heads);
  for (Eigen::Index h = 0; h < r.heads; ++h) {
    for (Eigen::Index i = 0; i < q.rows(); ++i) {
      const auto a = std::size_t(r.region_of(i));
      std::vector<Real> scores;
      std::vector<Matrix<Real>> values;  // [1 x E]
      for (std::size_t n = 0; n < routes.regions[a].size(); ++n) {
        const Real factor = r.soft ? Real(routes.weights[a][n]) : Real(1);
        const auto tokens = r.tokens_of(routes.regions[a][n]);
        for (const Eigen::Index j : tokens) {
          scores.push_back(scale * factor * q.row(i).segment(h * dim, dim).dot(k.row(j).segment(h * dim, dim)));
          values.push_back(factor * v.row(j).segment(h * value_dim, value_dim));
        }
        for (Eigen::Index j = Eigen::Index(tokens.size()); r.zeros && j < r.rows() * r.columns(); ++j) {
          scores.push_back(0);
          values.push_back(Matrix<Real>::Zero(1, value_dim));
        }
      }
      Real most = -std::numeric_limits<Real>::infinity(), sum = 0;
      for (const Real s : scores) most = std::max(most, s);
      for (std::size_t j = 0; j < scores.size(); ++j) {
        const Real weight = std::exp(scores[j] - most);
        sum += weight;
        result.out.row(i).segment(h * value_dim, value_dim) += weight * values[j].row(0);
      }
      if (sum > 0) result.out.row(i).segment(h * value_dim, value_dim) /= sum;
      result.log_sum(h * q.rows() + i) = sum > 0 ? most + std::log(sum) : most;
    }
  }
  return result;
}

// Adds the depthwise convolution of v with a kernel for each channel, [H E x size size], zero beyond the grid.
template <class Real>
void add_local_enhancement(const Matrix<Real>& v, const Matrix<Real>& kernel, Eigen::Index size,
                           const BilevelRouting& r, Matrix<Real>& out) {
  for (Eigen::Index i = 0; i < v.rows(); ++i) {
    for (Eigen::Index n = 0; n < size * size; ++n) {
      const Eigen::Index y = i / r.width + n / size - size / 2, x = i % r.width + n % size - size / 2;
      if (y < 0 || y >= r.height || x < 0 || x >= r.width) continue;
      out.row(i) += kernel.col(n).transpose().cwiseProduct(v.row(y * r.width + x));
    }
  }
}

}  // namespace fovea::reference
