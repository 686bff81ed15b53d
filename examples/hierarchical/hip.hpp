// Hierarchically pruned attention of one head, as its definition reads: for each block of queries a tree search for key
// blocks, sinks and window added, then softmax over what was found.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "dense/scaled_dot_product.hpp"

namespace fovea::reference {

struct Hip {
  // query_block is no larger than the number of queries: decoding has blocks of one.
  Eigen::Index top_k = 512, query_block = 32, key_block = 2, window = 128, sink_tokens = 32;
  bool causal = true;
  bool compat_v1 = false;
  double scale_up = 2;
  Eigen::Index grid = 0, patches = 0;  // of compat_v1: w_start and n_patches
};

namespace hip_detail {

using Eigen::Index;

// Of the scored places the `count` best by position; equal ones the earlier; never one of -infinity.
template <class Real>
std::vector<std::size_t> best(const std::vector<Real>& scores, Index count) {
  std::vector<std::size_t> order;
  for (std::size_t n = 0; n < scores.size(); ++n)
    if (scores[n] > -std::numeric_limits<Real>::infinity()) order.push_back(n);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  order.resize(std::min(order.size(), std::size_t(count)));
  std::sort(order.begin(), order.end());
  return order;
}

// The largest q_i . k_j over the rows first_row, first_row + 2, ... below last_row, and the keys of a block before
// `keys`; when `reach` is not negative, over pairs with i + offset >= j + reach alone.
template <class Real>
Real block_score(const Matrix<Real>& q, const Matrix<Real>& k, Index first_row, Index last_row, Index block,
                 Index key_block, Index keys, Index reach) {
  Real most = -std::numeric_limits<Real>::infinity();
  for (Index i = first_row; i < last_row; i += 2) {
    for (Index j = block * key_block; j < std::min((block + 1) * key_block, keys); ++j) {
      if (reach >= 0 && i + k.rows() - q.rows() < j + reach) continue;
      Real product = 0;
      for (Index d = 0; d < q.cols(); ++d) product += q(i, d) * k(j, d);
      most = std::max(most, product);
    }
  }
  return most;
}

inline Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }

}  // namespace hip_detail

// The first keys of the blocks that the search finds for the queries [first, last); `seen` keys are visible to the last
// of them, of which the first `region` are searched.
template <class Real>
std::vector<Eigen::Index> hip_tree(const Matrix<Real>& q, const Matrix<Real>& k, Eigen::Index first, Eigen::Index last,
                                   Eigen::Index region, Eigen::Index seen, const Hip& o) {
  using hip_detail::Index;
  const Index blocks = hip_detail::ceil_div(region, o.key_block), kept = hip_detail::ceil_div(o.top_k, o.key_block);
  std::vector<Index> found;
  if (region <= o.top_k) {
    for (Index b = 0; b < blocks; ++b) found.push_back(b * o.key_block);
    return found;
  }
  std::vector<std::pair<Index, Index>> groups;  // start and size
  for (Index g = 0; g < kept; ++g) groups.push_back({blocks * g / kept, blocks * (g + 1) / kept - blocks * g / kept});
  for (double width = double(blocks) / double(kept); width > 1; width /= 2) {
    std::vector<std::pair<Index, Index>> halves;
    std::vector<Real> scores;
    for (const auto& group : groups) {
      const Index left = group.second / 2;
      halves.push_back({group.first, left});
      halves.push_back({group.first + left, group.second - left});
    }
    for (const auto& half : halves) {
      scores.push_back(half.second == 0 ? -std::numeric_limits<Real>::infinity()
                                        : hip_detail::block_score<Real>(q, k, last - first == 1 ? first : first + 1,
                                                                        last, half.first, o.key_block, seen, -1));
    }
    groups.clear();
    for (const std::size_t n : hip_detail::best(scores, kept)) groups.push_back(halves[n]);
  }
  for (const auto& group : groups) found.push_back(group.first * o.key_block);
  return found;
}

// The same in the form of the released code.
template <class Real>
std::vector<Eigen::Index> hip_fractions(const Matrix<Real>& q, const Matrix<Real>& k, Eigen::Index first,
                                        Eigen::Index last, Eigen::Index length, const Hip& o) {
  using hip_detail::ceil_div, hip_detail::Index;
  const bool tokens = o.query_block == 1 && o.key_block == 1;
  const Index reach = !o.causal ? -1 : tokens ? 0 : std::max<Index>(0, o.window - o.query_block - o.key_block);
  std::vector<double> at;
  Index w = std::min(length, Index(std::round(double(o.grid) / o.scale_up)));
  for (Index n = 0; n < ceil_div(w, o.key_block); ++n) at.push_back(double(n) / double(ceil_div(w, o.key_block)));
  while (w < length) {
    const Index wider = std::min(Index(std::round(double(w) * o.scale_up)), length);
    const Index places = ceil_div(w, o.key_block), more = ceil_div(wider, o.key_block);
    const Index blocks = ceil_div(length, o.key_block);
    const double share = std::min(double(ceil_div(o.top_k, o.key_block)) / double(blocks), 1.0);
    const Index kept =
        std::min(blocks, std::max(ceil_div(o.patches, o.key_block), Index(std::floor(share * double(more)))));
    std::vector<double> finer;
    for (const double x : at) {
      const double i = std::floor(x * double(places));
      const Index a = Index(std::floor(i / double(places) * double(more)));
      const Index e = Index(std::floor((i + 1) / double(places) * double(more)));
      for (Index n = a; n < e; ++n) finer.push_back(double(n) / double(more));
    }
    if (kept < Index(finer.size())) {
      std::vector<Real> scores;
      for (const double x : finer)
        scores.push_back(hip_detail::block_score<Real>(
            q, k, first, last, Index(std::floor(x * double(length))) / o.key_block, o.key_block, length, reach));
      at.clear();
      for (const std::size_t n : hip_detail::best(scores, kept)) at.push_back(finer[n]);
    } else {
      at = finer;
    }
    w = wider;
  }
  std::vector<Index> found;
  Index column = -1;
  for (const double x : at) {
    const double place = x * double(w);
    column = tokens ? Index(std::floor(place)) : std::max(column + 1, Index(std::ceil(place / double(o.key_block))));
    found.push_back(column * o.key_block);
  }
  return found;
}

// kept(a, j): whether the queries of block a keep key j (before the causal mask). q [N x D], k [M x D].
template <class Real>
Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic> hip_selection(const Matrix<Real>& q, const Matrix<Real>& k, Hip o) {
  using hip_detail::Index;
  const Index queries = q.rows(), keys = k.rows();
  o.query_block = std::min(o.query_block, std::max<Index>(queries, 1));
  const Index blocks = hip_detail::ceil_div(queries, o.query_block);
  Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic> kept(blocks, keys);
  kept.setConstant(false);
  for (Index a = 0; a < blocks; ++a) {
    const Index first = a * o.query_block, last = std::min(first + o.query_block, queries);
    const Index seen = o.causal ? std::max<Index>(keys - queries + last, 0) : keys;
    const Index region = std::max<Index>(0, seen - o.window);
    Index length = keys;
    if (o.causal)
      length = std::clamp<Index>(keys - queries + 1 + first + std::max(o.query_block, o.key_block) - 1, 0, keys);
    const auto found = o.compat_v1 ? hip_fractions<Real>(q, k, first, last, length, o)
                                   : hip_tree<Real>(q, k, first, last, region, seen, o);
    for (const Index start : found) {
      for (Index j = start; j < std::min(start + o.key_block, seen); ++j) kept(a, j) = true;
    }
    for (Index j = 0; j < std::min(o.sink_tokens, seen); ++j) kept(a, j) = true;
    for (Index j = region; j < seen; ++j) kept(a, j) = true;
  }
  return kept;
}

// q [N x D], k [M x D], v [M x E].
template <class Real>
Attention<Real> hip(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, Real scale, const Hip& o) {
  const auto kept = hip_selection<Real>(q, k, o);
  const Eigen::Index offset = k.rows() - q.rows();
  return scaled_dot_product<Real>(q, k, v, scale, {.visible = [&](Eigen::Index i, Eigen::Index j) {
                                    return kept(i / o.query_block, j) && (!o.causal || j <= i + offset);
                                  }});
}

}  // namespace fovea::reference
