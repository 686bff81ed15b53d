// The gated delta rule: the state decays, then a token replaces what is left under its key.
// Yang et al., "Gated Delta Networks: Improving Mamba2 with Delta Rule", ICLR 2025, arXiv:2412.06464; a gate for each
// channel: Kimi Team, "Kimi Linear", 2025, arXiv:2510.26692.
//
//   S' = Diag(e^g_t) S_{t-1}     u_t = beta_t (v_t - S'^T k_t)     S_t = S' + k_t u_t^T     o_t = scale S_t^T q_t
//
// log_gate g <= 0: [B,G,N], one number for a token and kv head, or [B,G,N,D], one for each channel of the keys (Kimi
// Delta Attention); -infinity is legal and starts the state anew. beta in [0, 2]. Keys are taken as they come: longer
// than one they may make the state grow; normalise them before. Self-attention over N = M tokens.
//
// Exact, recurrent and chunked alike; equals delta when all gates are zero. Cost O(N D E) for each head, chunked
// O(N (chunk (D + E) + D E)) at the speed of matrix products; memory D E.
#pragma once

#include <optional>

#include <fovea/engine/chunk.hpp>
#include <fovea/engine/recur.hpp>
#include <fovea/parts/decay/gate.hpp>
#include <fovea/parts/write/delta.hpp>

namespace fovea::inline FOVEA_ISA {

struct RecurrentGatedDeltaOptions {
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

struct ChunkGatedDeltaOptions {
  std::optional<double> scale = {};     // 1 / sqrt(D) when empty
  Index chunk = engine::default_chunk;  // tokens of a chunk; any number gives the same result
};

// q [B,H,N,D], k [B,G,N,D], v [B,G,N,E], log_gate [B,G,N] or [B,G,N,D], beta [B,G,N], out [B,H,N,E], H a multiple of G;
// or matrices [N,D], [N,D], [N,E] and [N,E] with log_gate a vector [N] or a matrix [N,D] and beta a vector [N]. A
// decay::per_token(view) or decay::per_channel(view) is taken for log_gate as well. Refuses a gate above zero and a
// beta outside [0, 2]. with_state(out, state) goes on from a state [B,G,D,E] and leaves it behind; it is all zeros
// without.
template <class Q, class K, class V, class Gate, class Beta, class Out, exec::Executor Exec = exec::Serial>
void recurrent_gated_delta(const Q& q, const K& k, const V& v, const Gate& log_gate, const Beta& beta, Out&& out,
                           const RecurrentGatedDeltaOptions& options = {}, const Exec& executor = {}) {
  const auto problem = make_problem("fovea::recurrent_gated_delta", q, k, v, state::output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  const auto recipe = linear(options.scale).decay(decay::gate<Q>(log_gate)).write(write::delta(beta));
  engine::recur(problem, state::of<T>(out), recipe, executor);
}

// Arrays as for recurrent_gated_delta.
template <class Q, class K, class V, class Gate, class Beta, class Out, exec::Executor Exec = exec::Serial>
void chunk_gated_delta(const Q& q, const K& k, const V& v, const Gate& log_gate, const Beta& beta, Out&& out,
                       const ChunkGatedDeltaOptions& options = {}, const Exec& executor = {}) {
  const auto problem = make_problem("fovea::chunk_gated_delta", q, k, v, state::output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  const auto recipe = linear(options.scale).decay(decay::gate<Q>(log_gate)).write(write::delta(beta));
  engine::chunk(problem, state::of<T>(out), recipe, options.chunk, executor);
}

}  // namespace fovea::inline FOVEA_ISA
