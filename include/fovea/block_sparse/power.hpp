// PowerAttention: causal attention to the key blocks whose distance is a power of two, so that the receptive field
// doubles with every layer, besides leading and nearest blocks.
// Chen et al., "PowerAttention: Exponentially Scaling of Receptive Fields for Effective Sparse Attention", 2025,
// arXiv:2503.03588. (Rule from the paper's text; the default constants from an analysis of its code: verify.)
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j   over the keys j <= p_i with
//     R < sink_blocks   or   P - R < window_blocks   or   P - R in { 0, 1, 2, 4, 8, ... }
//   P = floor(p_i / block),  R = floor(j / block),  p_i = i + M - N
//
// Exact for its rule; equals dense causal attention once window_blocks covers all blocks. With block = 1, no sinks and
// a window of one it is the token-level form. Cost O(N block (window_blocks + sink_blocks + log(M / block)) (D + E)).
#pragma once

#include <optional>

#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/blocks.hpp>
#include <fovea/parts/mask/causal.hpp>

namespace fovea::inline FOVEA_ISA {

struct PowerOptions {
  Index block = 256;                 // tokens of a block; blocks begin at multiples of it on the axis of the keys
  Index sink_blocks = 1;             // leading blocks that every query sees
  Index window_blocks = 5;           // nearest blocks, the own one included; the own one is seen in any case
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

namespace detail {

inline void check_power(const char* where, const PowerOptions& options) {
  check(options.block > 0, where, "block must be positive, got ", options.block);
  check(options.sink_blocks >= 0, where, "sink_blocks must not be negative, got ", options.sink_blocks);
  check(options.window_blocks >= 0, where, "window_blocks must not be negative, got ", options.window_blocks);
}

}  // namespace detail

// The key blocks of the queries at the positions [first, last), one list for each block of positions. Lists begin at
// `first`, which must stand at the begin of a block unless all queries lie in one. Join with mask::causal().
inline mask::BlockTable power_blocks(Span positions, const PowerOptions& options) {
  constexpr auto where = "fovea::power_blocks";
  detail::check_power(where, options);
  check(positions.first <= positions.last, where, "positions must ascend, got ", positions.first, " to ",
        positions.last);
  const Index block = options.block;
  const auto block_of = [&](Index position) { return (position - (position % block + block) % block) / block; };
  const Index first = block_of(positions.first);
  check(positions.first % block == 0 || positions.empty() || block_of(positions.last - 1) == first, where,
        "positions of several blocks must begin with a block, got ", positions.first, " in blocks of ", block);

  const Index count = (positions.size() + block - 1) / block;
  mask::BlockTable table{block, block, 1, 1, count, {0}, {}};
  for (Index own = first; own < first + count; ++own) {
    const Index sinks = std::min(options.sink_blocks, own + 1);
    const Index window = std::min(std::max<Index>(options.window_blocks, 1), own + 1);
    for (Index b = 0; b < sinks; ++b) table.blocks.push_back(b);
    Index distance = 1;
    while (distance <= own / 2) distance *= 2;
    for (; distance >= window && own > 0; distance /= 2) {
      if (distance <= own - options.sink_blocks) table.blocks.push_back(own - distance);
    }
    for (Index b = std::max(sinks, own + 1 - window); b <= own; ++b) table.blocks.push_back(b);
    table.begin.push_back(Index(table.blocks.size()));
  }
  return table;
}

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; the queries are the last tokens of the keys.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void power(const Q& q, const K& k, const V& v, Out&& out, const PowerOptions& options = {}, const Exec& executor = {}) {
  constexpr auto where = "fovea::power";
  const auto problem = make_problem(where, q, k, v, out);
  detail::check_power(where, options);

  // Lists belong to whole blocks: the queries up to the first border are a call of their own.
  const Index offset = problem.k.length - problem.q.length;
  const Index before = (options.block - (offset % options.block + options.block) % options.block) % options.block;
  const Index border = std::min(before, problem.q.length);
  const auto attend = [&](Span queries) {
    auto part = problem;
    const auto cut = [&](auto& x) {
      x.data += queries.first * x.length_stride;
      x.length = queries.size();
    };
    cut(part.q);
    cut(part.out);
    if (part.log_sum.data != nullptr) cut(part.log_sum);
    part.k.length = part.v.length = std::max<Index>(offset + queries.last, 0);
    const auto table = power_blocks({offset + queries.first, offset + queries.last}, options);
    engine::attend(part, softmax(options.scale).mask(mask::blocks(table)).mask(mask::causal()), executor);
  };
  if (border > 0) attend({0, border});
  attend({border, problem.q.length});
}

}  // namespace fovea::inline FOVEA_ISA
