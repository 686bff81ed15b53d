// Gated linear attention: the state decays by gates that come with the tokens.
// Yang et al., "Gated Linear Attention Transformers with Hardware-Efficient Training", ICML 2024, arXiv:2312.06635.
// One gate for a token and head: Dao and Gu, "Transformers are SSMs", ICML 2024, arXiv:2405.21060.
//
//   S_t = Diag(e^g_t) S_{t-1} + k_t v_t^T     o_t = scale S_t^T q_t
//
// log_gate g <= 0: [B,G,N], one number for a token and kv head, or [B,G,N,D], one for each channel of the keys. A token
// decays what came before it, not itself. -infinity is legal and starts the state anew. Self-attention over N = M
// tokens.
//
// Exact, recurrent and chunked alike; equals retention when all gates of a head are equal. Cost O(N D E) for each head,
// chunked O(N (chunk (D + E) + D E)) at the speed of matrix products; memory D E.
#pragma once

#include <optional>

#include <fovea/engine/chunk.hpp>
#include <fovea/engine/recur.hpp>
#include <fovea/parts/decay/gate.hpp>

namespace fovea::inline FOVEA_ISA {

struct RecurrentGatedLinearOptions {
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

struct ChunkGatedLinearOptions {
  std::optional<double> scale = {};     // 1 / sqrt(D) when empty
  Index chunk = engine::default_chunk;  // tokens of a chunk; any number gives the same result
};

// q [B,H,N,D], k [B,G,N,D], v [B,G,N,E], log_gate [B,G,N] or [B,G,N,D], out [B,H,N,E], H a multiple of G; or matrices
// [N,D], [N,D], [N,E] and [N,E] with log_gate a vector [N] or a matrix [N,D]. A decay::per_token(view) or
// decay::per_channel(view) is taken as well. Refuses a gate above zero. with_state(out, state) goes on from a state
// [B,G,D,E] and leaves it behind; it is all zeros without.
template <class Q, class K, class V, class Gate, class Out, exec::Executor Exec = exec::Serial>
void recurrent_gated_linear(const Q& q, const K& k, const V& v, const Gate& log_gate, Out&& out,
                            const RecurrentGatedLinearOptions& options = {}, const Exec& executor = {}) {
  const auto problem = make_problem("fovea::recurrent_gated_linear", q, k, v, state::output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  engine::recur(problem, state::of<T>(out), linear(options.scale).decay(decay::gate<Q>(log_gate)), executor);
}

// Arrays as for recurrent_gated_linear.
template <class Q, class K, class V, class Gate, class Out, exec::Executor Exec = exec::Serial>
void chunk_gated_linear(const Q& q, const K& k, const V& v, const Gate& log_gate, Out&& out,
                        const ChunkGatedLinearOptions& options = {}, const Exec& executor = {}) {
  const auto problem = make_problem("fovea::chunk_gated_linear", q, k, v, state::output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  engine::chunk(problem, state::of<T>(out), linear(options.scale).decay(decay::gate<Q>(log_gate)), options.chunk,
                executor);
}

}  // namespace fovea::inline FOVEA_ISA
