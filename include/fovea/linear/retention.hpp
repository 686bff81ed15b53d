// Retention: linear attention with one fixed decay for each head.
// Sun et al., "Retentive Network: A Successor to Transformer for Large Language Models", 2023, arXiv:2307.08621.
//
//   S_t = e^g_h S_{t-1} + k_t v_t^T     o_t = scale S_t^T q_t     that is  o_i = scale sum_{j <= i} e^((i - j) g_h)
//   (q_i . k_j) v_j
//
// Positions, if any, are rotated into q and k before. Self-attention over N = M tokens.
//
// Exact, recurrent and chunked alike; equals linear attention without features and divisor when every log decay is
// zero. Cost O(N D E) for each head, chunked O(N (chunk (D + E) + D E)) at the speed of matrix products; memory D E.
#pragma once

#include <optional>
#include <vector>

#include <fovea/engine/chunk.hpp>
#include <fovea/engine/recur.hpp>
#include <fovea/parts/decay/per_head.hpp>

namespace fovea::inline FOVEA_ISA {

struct RecurrentRetentionOptions {
  std::vector<double> log_decays = {};  // g_h <= 0 of every kv head, or one for all; ln(1 - 2^(-5 - h)) when empty
  std::optional<double> scale = {};     // 1 / sqrt(D) when empty
};

struct ChunkRetentionOptions {
  std::vector<double> log_decays = {};  // as above
  std::optional<double> scale = {};
  Index chunk = engine::default_chunk;  // tokens of a chunk; any number gives the same result
};

namespace detail {

inline decay::PerHead retention_decay(const std::vector<double>& log_decays, Index kv_heads) {
  return decay::per_head(log_decays.empty() && kv_heads > 0 ? decay::retention(kv_heads) : log_decays);
}

}  // namespace detail

// q [B,H,N,D], k [B,G,N,D], v [B,G,N,E], out [B,H,N,E], H a multiple of G; or matrices [N,D], [N,D], [N,E], [N,E].
// with_state(out, state) goes on from a state [B,G,D,E] and leaves it behind; it is all zeros without.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void recurrent_retention(const Q& q, const K& k, const V& v, Out&& out, const RecurrentRetentionOptions& options = {},
                         const Exec& executor = {}) {
  const auto problem = make_problem("fovea::recurrent_retention", q, k, v, state::output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  const auto decay = detail::retention_decay(options.log_decays, problem.k.heads);
  engine::recur(problem, state::of<T>(out), linear(options.scale).decay(decay), executor);
}

// Arrays as for recurrent_retention.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void chunk_retention(const Q& q, const K& k, const V& v, Out&& out, const ChunkRetentionOptions& options = {},
                     const Exec& executor = {}) {
  const auto problem = make_problem("fovea::chunk_retention", q, k, v, state::output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  const auto decay = detail::retention_decay(options.log_decays, problem.k.heads);
  engine::chunk(problem, state::of<T>(out), linear(options.scale).decay(decay), options.chunk, executor);
}

}  // namespace fovea::inline FOVEA_ISA
