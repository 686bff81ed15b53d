// The delta rule: a token replaces what the state holds under its key instead of adding to it.
// Yang et al., "Parallelizing Linear Transformers with the Delta Rule over Sequence Length", NeurIPS 2024,
// arXiv:2406.06484; Schlag et al., "Linear Transformers Are Secretly Fast Weight Programmers", ICML 2021,
// arXiv:2102.11174.
//
//   u_t = beta_t (v_t - S_{t-1}^T k_t)     S_t = S_{t-1} + k_t u_t^T     o_t = scale S_t^T q_t
//
// beta in [0, 2]. Keys are taken as they come: the part of the state along k_t is multiplied by 1 - beta_t |k_t|^2, so
// keys longer than one may make it grow; normalise them before. Self-attention over N = M tokens.
//
// Exact, recurrent and chunked alike; with orthonormal keys and beta one it returns the value stored under a key. Cost
// O(N D E) for each head, chunked O(N (chunk (D + E) + D E)) at the speed of matrix products; memory D E.
#pragma once

#include <optional>

#include <fovea/engine/chunk.hpp>
#include <fovea/engine/recur.hpp>
#include <fovea/parts/write/delta.hpp>

namespace fovea::inline FOVEA_ISA {

struct RecurrentDeltaOptions {
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

struct ChunkDeltaOptions {
  std::optional<double> scale = {};     // 1 / sqrt(D) when empty
  Index chunk = engine::default_chunk;  // tokens of a chunk; any number gives the same result
};

// q [B,H,N,D], k [B,G,N,D], v [B,G,N,E], beta [B,G,N], out [B,H,N,E], H a multiple of G; or matrices [N,D], [N,D],
// [N,E] and [N,E] with beta a vector [N]. Refuses a beta outside [0, 2]. with_state(out, state) goes on from a state
// [B,G,D,E] and leaves it behind; it is all zeros without.
template <class Q, class K, class V, class Beta, class Out, exec::Executor Exec = exec::Serial>
void recurrent_delta(const Q& q, const K& k, const V& v, const Beta& beta, Out&& out,
                     const RecurrentDeltaOptions& options = {}, const Exec& executor = {}) {
  const auto problem = make_problem("fovea::recurrent_delta", q, k, v, state::output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  engine::recur(problem, state::of<T>(out), linear(options.scale).write(write::delta(beta)), executor);
}

// Arrays as for recurrent_delta.
template <class Q, class K, class V, class Beta, class Out, exec::Executor Exec = exec::Serial>
void chunk_delta(const Q& q, const K& k, const V& v, const Beta& beta, Out&& out, const ChunkDeltaOptions& options = {},
                 const Exec& executor = {}) {
  const auto problem = make_problem("fovea::chunk_delta", q, k, v, state::output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  engine::chunk(problem, state::of<T>(out), linear(options.scale).write(write::delta(beta)), options.chunk, executor);
}

}  // namespace fovea::inline FOVEA_ISA
