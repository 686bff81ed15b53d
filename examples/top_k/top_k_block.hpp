// Attention to the best key blocks, of one head, as the definition reads: pool, score, sort, attend.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <vector>

#include "dense/scaled_dot_product.hpp"

namespace fovea::reference {

// What stands for a block: the mean of its rows, their largest elements, or (of keys) the box that holds them.
enum class BlockPooling { mean, max, bounds };

struct TopKBlock {
  Eigen::Index query_block = 1, key_block = 1;
  BlockPooling query_pooling = BlockPooling::mean, key_pooling = BlockPooling::mean;
  Eigen::Index top_k = 0;            // or
  std::optional<double> top_p = {};  // or
  std::optional<double> threshold = {};
  Eigen::Index first_blocks = 0;
  bool own_blocks = true, forced_extra = false, causal = false;
};

// Scores [query blocks x key blocks] of q [N x D] and k [M x D].
template <class Real>
Matrix<Real> top_k_block_scores(const Matrix<Real>& q, const Matrix<Real>& k, const TopKBlock& o) {
  using Eigen::Index;
  // Element d of what stands for the rows [first, last) of x: their mean, their largest or their smallest.
  enum class Of { mean, largest, smallest };
  const auto pooled = [](const Matrix<Real>& x, Index first, Index last, Index d, Of what) {
    Real sum = 0, largest = x(first, d), smallest = x(first, d);
    for (Index i = first; i < last; ++i) {
      sum += x(i, d);
      largest = std::max(largest, x(i, d));
      smallest = std::min(smallest, x(i, d));
    }
    return what == Of::mean ? sum / Real(last - first) : what == Of::largest ? largest : smallest;
  };
  const Index query_blocks = (q.rows() + o.query_block - 1) / o.query_block;
  const Index key_blocks = (k.rows() + o.key_block - 1) / o.key_block;
  Matrix<Real> scores = Matrix<Real>::Zero(query_blocks, key_blocks);
  for (Index a = 0; a < query_blocks; ++a) {
    for (Index b = 0; b < key_blocks; ++b) {
      for (Index d = 0; d < q.cols(); ++d) {
        const auto query = [&](Of what) {
          return pooled(q, a * o.query_block, std::min((a + 1) * o.query_block, q.rows()), d, what);
        };
        const auto key = [&](Of what) {
          return pooled(k, b * o.key_block, std::min((b + 1) * o.key_block, k.rows()), d, what);
        };
        const Real x = query(o.query_pooling == BlockPooling::mean ? Of::mean : Of::largest);
        if (o.key_pooling == BlockPooling::bounds) {
          scores(a, b) += std::max(x * key(Of::largest), x * key(Of::smallest));
        } else {
          scores(a, b) += x * key(o.key_pooling == BlockPooling::mean ? Of::mean : Of::largest);
        }
      }
    }
  }
  return scores;
}

// The key blocks that each query block takes, in ascending order.
template <class Real>
std::vector<std::vector<Eigen::Index>> top_k_block_lists(const Matrix<Real>& scores, Eigen::Index queries,
                                                         Eigen::Index keys, Real scale, const TopKBlock& o) {
  using Eigen::Index;
  std::vector<std::vector<Index>> lists;
  for (Index a = 0; a < scores.rows(); ++a) {
    const Index first = keys - queries + a * o.query_block;  // positions of the query block
    const Index last = keys - queries + std::min((a + 1) * o.query_block, queries) - 1;
    std::vector<Index> choices, list;
    for (Index b = 0; b < scores.cols(); ++b) {
      if (o.causal && b * o.key_block > last) continue;
      choices.push_back(b);
      const bool own = b * o.key_block <= last && (b + 1) * o.key_block > first;
      if (b < o.first_blocks || (o.own_blocks && own)) list.push_back(b);
    }
    const auto is_in = [](const std::vector<Index>& some, Index b) {
      return std::find(some.begin(), some.end(), b) != some.end();
    };
    const std::vector<Index> forced = list;
    std::stable_sort(choices.begin(), choices.end(), [&](Index x, Index y) { return scores(a, x) > scores(a, y); });
    if (o.top_k > 0) {
      // Inside the budget the forced ones stand in front.
      if (!o.forced_extra)
        std::stable_partition(choices.begin(), choices.end(), [&](Index b) { return is_in(forced, b); });
      choices.resize(std::size_t(std::min(o.top_k, Index(choices.size()))));
    } else if (o.threshold) {
      choices.erase(std::remove_if(choices.begin(), choices.end(),
                                   [&](Index b) { return !(scale * scores(a, b) >= Real(*o.threshold)); }),
                    choices.end());
    } else {
      Real all = 0, sum = 0;
      const auto weight = [&](Index b) { return std::exp(scale * (scores(a, b) - scores(a, choices[0]))); };
      for (const Index b : choices) all += weight(b);
      std::size_t kept = 0;
      while (kept < choices.size() && (*o.top_p == 1 || sum < Real(*o.top_p) * all)) sum += weight(choices[kept++]);
      choices.resize(kept);
    }
    for (const Index b : choices)
      if (!is_in(list, b)) list.push_back(b);
    std::sort(list.begin(), list.end());
    lists.push_back(list);
  }
  return lists;
}

// q [N x D], k [M x D], v [M x E].
template <class Real>
Attention<Real> top_k_block(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, Real scale,
                            const TopKBlock& o) {
  using Eigen::Index;
  const auto lists = top_k_block_lists<Real>(top_k_block_scores<Real>(q, k, o), q.rows(), k.rows(), scale, o);
  const auto visible = [&](Index i, Index j) {
    const auto& list = lists[std::size_t(i / o.query_block)];
    return std::find(list.begin(), list.end(), j / o.key_block) != list.end() &&
           (!o.causal || j <= i + k.rows() - q.rows());
  };
  return scaled_dot_product<Real>(q, k, v, scale, {.visible = visible});
}

}  // namespace fovea::reference
