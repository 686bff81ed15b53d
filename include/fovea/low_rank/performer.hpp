// Performer: softmax attention by random features, FAVOR+.
// Choromanski et al., "Rethinking Attention with Performers", ICLR 2021, arXiv:2009.14794.
//
//   o_i = sum_j (phi(q_i) . phi(k_j)) v_j / (sum_j phi(q_i) . phi(k_j) + epsilon),
//   phi_r(x) = m^-1/2 (e^(w_r . z - |z|^2 / 2 - shift) + feature epsilon),   z = sqrt(scale) x,   r = 1..m
//
//   performer                               over all keys
//   chunk_performer, recurrent_performer    over  { j <= i + M - N }; chunk by chunk, or token by token as in decoding
//
// w_r are orthogonal in blocks of D rows, with the lengths of Gaussian rows, or sqrt(D). Kinds besides positive_random:
// hyperbolic_random and relu_random (parts/feature/random.hpp). Queries are shifted by their largest exponent, keys by
// the largest one of all keys; for causal calls by that of all keys so far, and then there is no feature epsilon. The
// epsilon of the divisor is added to what is shifted.
//
// The paper is from memory, held against implementations of other authors: verify before relying on a detail. Exact for
// these features; approaches softmax attention as m grows. Cost O((N + M) m (D + E)), causal chunks
// O(N (chunk (m + E) + m (D + E))), for each head.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <optional>

#include <fovea/engine/kernelised.hpp>
#include <fovea/parts/feature/random.hpp>

namespace fovea::inline FOVEA_ISA {

struct PerformerFeatures {
  Index features = 0;  // m; D ln D rounded down when zero
  std::uint64_t seed = 0;
  feature::RowLength length = feature::RowLength::chi;
  feature::RandomOptions options = {};  // epsilon: 1e-4 when empty, 0 in causal calls, 1e-3 for relu_random
};

// The positive features of a model with heads of dim numbers. Made once and kept: O(m dim^2).
inline feature::ExponentialRandom<false> performer_features(Index dim, const PerformerFeatures& f = {}) {
  constexpr auto where = "fovea::performer_features";
  check(dim > 0, where, "the width must be positive, got ", dim);
  check(f.features >= 0, where, "the number of features must not be negative, got ", f.features);
  const Index usual = std::max<Index>(Index(double(dim) * std::log(double(dim))), 1);
  return feature::positive_random(
      feature::orthogonal_directions(f.features > 0 ? f.features : usual, dim, f.seed, f.length), f.options);
}

struct PerformerOptions {
  double epsilon = 1e-6;  // added to the divisor
};

struct ChunkPerformerOptions {
  double epsilon = 1e-6;                // added to the divisor
  Index chunk = engine::default_chunk;  // tokens of a chunk
};

namespace detail {

template <class Phi>
concept RandomMap = std::same_as<Phi, feature::ExponentialRandom<false>> ||
    std::same_as<Phi, feature::ExponentialRandom<true>> || std::same_as<Phi, feature::ReluRandom>;

template <RandomMap Phi>
auto performer_recipe(Phi phi, double epsilon, bool causal) {
  if (feature::wants_shift<Phi>() && !phi.options.epsilon) phi.options.epsilon = causal ? 0 : 1e-4;
  return linear(1.0).feature(phi).normalizer(normalizer::sum_eps(epsilon));
}

}  // namespace detail

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; or matrices [N,D], [M,D], [M,E], [N,E]. phi
// is performer_features(D) or another of the kinds above. with_state(out, state) goes on from a state and leaves it
// behind: a ShiftedState, for relu_random a MatrixState. Keys of the state count as seen by every query.
template <class Q, class K, class V, class Out, detail::RandomMap Phi, exec::Executor Exec = exec::Serial>
void performer(const Q& q, const K& k, const V& v, Out&& out, const Phi& phi, const PerformerOptions& options = {},
               const Exec& executor = {}) {
  const auto problem = make_problem("fovea::performer", q, k, v, state::plain_output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  auto* const memory = state::kernelised<T, feature::wants_shift<Phi>()>(out);
  engine::kernelised(problem, memory, detail::performer_recipe(phi, options.epsilon, false), executor);
}

// Arrays and states as for performer. Later tokens do not change earlier outputs.
template <class Q, class K, class V, class Out, detail::RandomMap Phi, exec::Executor Exec = exec::Serial>
void chunk_performer(const Q& q, const K& k, const V& v, Out&& out, const Phi& phi,
                     const ChunkPerformerOptions& options = {}, const Exec& executor = {}) {
  constexpr auto where = "fovea::chunk_performer";
  const auto problem = make_problem(where, q, k, v, state::plain_output(out));
  check(options.chunk > 0, where, "chunk must be positive, got ", options.chunk);
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  auto* const memory = state::kernelised<T, feature::wants_shift<Phi>()>(out);
  engine::causal_kernelised(problem, memory, detail::performer_recipe(phi, options.epsilon, true), executor,
                            engine::by_chunk(options.chunk));
}

// Arrays and states as for performer; each token reads and writes the state once.
template <class Q, class K, class V, class Out, detail::RandomMap Phi, exec::Executor Exec = exec::Serial>
void recurrent_performer(const Q& q, const K& k, const V& v, Out&& out, const Phi& phi,
                         const PerformerOptions& options = {}, const Exec& executor = {}) {
  const auto problem = make_problem("fovea::recurrent_performer", q, k, v, state::plain_output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  auto* const memory = state::kernelised<T, feature::wants_shift<Phi>()>(out);
  engine::causal_kernelised(problem, memory, detail::performer_recipe(phi, options.epsilon, true), executor,
                            engine::by_token());
}

}  // namespace fovea::inline FOVEA_ISA
