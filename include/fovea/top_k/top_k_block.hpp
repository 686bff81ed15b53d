// Attention to the best key blocks: blocks of keys are ranked for blocks of queries by pooled queries and keys, and
// softmax runs over the tokens of the chosen ones.
//
//   u_ab = pooled(Q_a) . pooled(K_b);   S_a = the blocks that the rule chooses from u_a, and the forced ones
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j   over   { j : block(j) in S_block(i), and j <= i + M - N when causal }
//
// The common primitive of block selectors. With query_block = 1 and means of the keys it is MoBA (see moba): Lu et al.,
// "MoBA: Mixture of Block Attention for Long-Context LLMs", 2025, arXiv:2502.13189. With bounds of the keys, the score
// of Quest (Tang et al. 2024, arXiv:2406.10774) for blocks of queries.
//
// Approximate; exact on the chosen blocks, and equal to dense attention when they are all blocks. With P_i the share of
// the full softmax that lies on S, ||o_i - dense_i|| <= 2 (1 - P_i) max_j ||v_j||. Cost O(N M D / (query_block
// key_block)) for the choice and O(chosen pairs (D + E)).
#pragma once

#include <cmath>
#include <optional>

#include <fovea/engine/by_key_block.hpp>
#include <fovea/parts/select/rank_blocks.hpp>

namespace fovea::inline FOVEA_ISA {

using mask::BlockTable;
using select::Pooling;
using select::Sharing;
using select::TopP;

struct TopKBlockOptions {
  Index query_block = 64;  // queries that share a choice; 1 when every query chooses for itself
  Index key_block = 64;

  // The rule; exactly one of the three.
  Index top_k = 0;                       // this many blocks, the largest u
  std::optional<double> top_p = {};      // in (0, 1]: the largest weights softmax_b(scale u_ab) that hold this share
  std::optional<double> threshold = {};  // the blocks with scale u_ab >= threshold

  Pooling query_pooling = Pooling::mean;  // mean or max
  Pooling key_pooling = Pooling::mean;    // mean, max, or bounds: u_ab >= pooled(Q_a) . k_j for every key of the block
  TopP top_p_rule = TopP::inclusive;      // what becomes of the weight that crosses top_p
  Index first_blocks = 0;                 // leading blocks that are always taken
  bool own_blocks = true;                 // the blocks where the positions i + M - N lie are always taken
  bool forced_extra = false;              // forced blocks come on top of top_k; they always do of top_p and threshold
  Sharing sharing = Sharing::none;        // a choice for each query head, or for each kv head by the max or sum of u
  Alignment alignment = Alignment::bottom_right;  // where the queries stand when N != M
  bool causal = false;  // only blocks that do not lie behind the queries; of them, keys up to the own position
  std::optional<double> scale = {};  // positive; 1 / sqrt(D) when empty
};

// MoBA: every query takes its own block and the top_k - 1 past ones whose mean key it meets best.
inline TopKBlockOptions moba(Index key_block, Index top_k) {
  TopKBlockOptions options;
  options.query_block = 1;
  options.key_block = key_block;
  options.top_k = top_k;
  options.causal = true;
  return options;
}

namespace detail {

template <class T, exec::Executor Exec>
BlockTable choose_top_blocks(const char* where, const View<const T>& q, const View<const T>& k,
                             const TopKBlockOptions& o, const Exec& executor) {
  const Shape shape{q.batch, q.heads, k.heads, q.length, k.length};
  const select::BlockGrid grid{o.query_block, o.key_block, q.length, k.length, shape.offset(o.alignment), o.causal};
  const select::BlockRule rule{
      o.top_k,        o.top_p,      o.top_p_rule,   o.threshold, o.scale.value_or(1 / std::sqrt(double(q.dim))),
      o.first_blocks, o.own_blocks, o.forced_extra, o.sharing};
  check(o.query_block > 0 && o.key_block > 0, where, "query_block and key_block must be positive, got ", o.query_block,
        " and ", o.key_block);
  check(o.query_pooling != Pooling::bounds, where, "query_pooling must be mean or max, got bounds");
  rule.check_for(where);
  const auto keys = select::pool(k, o.key_block, o.key_pooling, executor);
  if (o.query_block == 1) return select::rank_blocks<T>(q, keys.view(), grid, rule, executor);
  const auto queries = select::pool(q, o.query_block, o.query_pooling, executor);
  return select::rank_blocks<T>(queries.view(), keys.view(), grid, rule, executor);
}

}  // namespace detail

// The blocks that top_k_block would read, q [B,H,N,D], k [B,G,M,D]: keep them, pass them to block_sparse for another
// layer or step.
template <class Q, class K, exec::Executor Exec = exec::Serial>
BlockTable top_k_block_selection(const Q& q, const K& k, const TopKBlockOptions& options, const Exec& executor = {}) {
  constexpr auto where = "fovea::top_k_block_selection";
  const auto queries = view(q);
  const auto keys = view(k);
  using T = std::remove_const_t<std::remove_pointer_t<decltype(queries.data)>>;
  const View<const T> nothing{nullptr, keys.batch, keys.heads, keys.length, 0, 0, 0, 0};
  const View<T> no_result{nullptr, queries.batch, queries.heads, queries.length, 0, 0, 0, 0};
  make_problem(where, queries, keys, nothing, no_result);  // the checks of an attention call
  return detail::choose_top_blocks<T>(where, queries, keys, options, executor);
}

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E].
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void top_k_block(const Q& q, const K& k, const V& v, Out&& out, const TopKBlockOptions& options,
                 const Exec& executor = {}) {
  constexpr auto where = "fovea::top_k_block";
  const auto problem = make_problem(where, q, k, v, out);
  const BlockTable table = detail::choose_top_blocks(where, problem.q, problem.k, options, executor);
  engine::attend_blocks(problem, options.scale, table, options.causal, options.alignment, executor);
}

}  // namespace fovea::inline FOVEA_ISA
