// Hedgehog: linear attention with learned features that mimic softmax.
// Zhang et al., "The Hedgehog & the Porcupine: Expressive Linear Attentions with Softmax Mimicry", ICLR 2024,
// arXiv:2402.04347.
//
//   o_i = sum_j (phi(q_i) . phi(k_j)) v_j / (sum_j phi(q_i) . phi(k_j) + epsilon)
//
//   hedgehog                              over all keys
//   chunk_hedgehog, recurrent_hedgehog    over  { j <= i + M - N }; chunk by chunk, or token by token as in decoding
//
// phi is one of feature::hedgehog, hedgehog_joint and hedgehog_exp over y = W x + b (parts/feature/hedgehog.hpp); F = 2
// D. The exponential form is shifted: queries by their largest exponent, keys by the largest one of all keys, for
// causal calls of all keys so far; epsilon is added to what is shifted. There is no 1 / sqrt(D).
//
// The paper's equations are from memory, held against two implementations of other authors: verify before relying on a
// detail. Exact for this definition; an approximation of softmax attention as good as W. Cost O((N + M) D (D + E)),
// causal chunks O(N (chunk (D + E) + D (D + E))), for each head.
#pragma once

#include <concepts>
#include <optional>

#include <fovea/engine/kernelised.hpp>
#include <fovea/parts/feature/hedgehog.hpp>

namespace fovea::inline FOVEA_ISA {

struct HedgehogOptions {
  std::optional<double> epsilon = {};  // 1e-12 when empty, 0 for the exponential form
};

struct ChunkHedgehogOptions {
  std::optional<double> epsilon = {};   // as in HedgehogOptions
  Index chunk = engine::default_chunk;  // tokens of a chunk
};

namespace detail {

template <class Phi>
concept HedgehogMap = std::same_as<Phi, feature::Hedgehog<false>> || std::same_as<Phi, feature::Hedgehog<true>> ||
    std::same_as<Phi, feature::HedgehogExp>;

template <HedgehogMap Phi>
auto hedgehog_recipe(const Phi& phi, const std::optional<double>& epsilon) {
  return linear(1.0).feature(phi).normalizer(
      normalizer::sum_eps(epsilon.value_or(feature::wants_shift<Phi>() ? 0 : 1e-12)));
}

}  // namespace detail

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; or matrices [N,D], [M,D], [M,E], [N,E].
// with_state(out, state) goes on from a state and leaves it behind: a MatrixState, for hedgehog_exp a ShiftedState.
// Keys of the state count as seen by every query.
template <class Q, class K, class V, class Out, detail::HedgehogMap Phi, exec::Executor Exec = exec::Serial>
void hedgehog(const Q& q, const K& k, const V& v, Out&& out, const Phi& phi, const HedgehogOptions& options = {},
              const Exec& executor = {}) {
  const auto problem = make_problem("fovea::hedgehog", q, k, v, state::plain_output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  auto* const memory = state::kernelised<T, feature::wants_shift<Phi>()>(out);
  engine::kernelised(problem, memory, detail::hedgehog_recipe(phi, options.epsilon), executor);
}

// Arrays and states as for hedgehog. Later tokens do not change earlier outputs.
template <class Q, class K, class V, class Out, detail::HedgehogMap Phi, exec::Executor Exec = exec::Serial>
void chunk_hedgehog(const Q& q, const K& k, const V& v, Out&& out, const Phi& phi,
                    const ChunkHedgehogOptions& options = {}, const Exec& executor = {}) {
  constexpr auto where = "fovea::chunk_hedgehog";
  const auto problem = make_problem(where, q, k, v, state::plain_output(out));
  check(options.chunk > 0, where, "chunk must be positive, got ", options.chunk);
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  auto* const memory = state::kernelised<T, feature::wants_shift<Phi>()>(out);
  engine::causal_kernelised(problem, memory, detail::hedgehog_recipe(phi, options.epsilon), executor,
                            engine::by_chunk(options.chunk));
}

// Arrays and states as for hedgehog; each token reads and writes the state once.
template <class Q, class K, class V, class Out, detail::HedgehogMap Phi, exec::Executor Exec = exec::Serial>
void recurrent_hedgehog(const Q& q, const K& k, const V& v, Out&& out, const Phi& phi,
                        const HedgehogOptions& options = {}, const Exec& executor = {}) {
  const auto problem = make_problem("fovea::recurrent_hedgehog", q, k, v, state::plain_output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  auto* const memory = state::kernelised<T, feature::wants_shift<Phi>()>(out);
  engine::causal_kernelised(problem, memory, detail::hedgehog_recipe(phi, options.epsilon), executor,
                            engine::by_token());
}

}  // namespace fovea::inline FOVEA_ISA
