// Kernelised linear attention: softmax's e^(q . k) replaced by phi(q) . phi(k).
// Katharopoulos et al., "Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention", ICML 2020,
// arXiv:2006.16236.
//
//   S_i = sum_j phi(k_j) v_j^T,   z_i = sum_j phi(k_j),   o_i = scale phi(q_i)^T S_i / (scale phi(q_i) . z_i + epsilon)
//
//   linear                            over all keys
//   chunk_linear, recurrent_linear    over  { j <= i + M - N }; chunk by chunk, or token by token as in decoding
//
// phi is any map of parts/feature: elu_plus_one (the default), relu, squared_relu, exp, softmax, each(f), map(F, f),
// ... Normalizers other than sum_eps: clamp divides by max(scale phi(q_i) . z_i, epsilon); none does not divide; k_norm
// divides phi(q) and phi(k) by (their own sum + epsilon) instead. A divisor of exactly zero gives a row of zeros.
// Exponential maps (exp) are shifted: queries by their largest exponent, keys by the largest one of all keys, for
// causal calls of all keys so far; epsilon is added to what is shifted.
//
// Exact for this definition, whatever the chunk. Cost O((N + M) F E), causal chunks O(N (chunk (F + E) + F E)), for
// each head; memory F E for each piece of 512 keys or more, or the state.
#pragma once

#include <optional>

#include <fovea/engine/kernelised.hpp>
#include <fovea/parts/feature/elu_plus_one.hpp>
#include <fovea/parts/feature/normalized.hpp>

namespace fovea::inline FOVEA_ISA {

enum class LinearNormalizer { sum_eps, clamp, none, k_norm };

struct LinearOptions {
  LinearNormalizer normalizer = LinearNormalizer::sum_eps;
  std::optional<double> epsilon = {};  // 1e-6 when empty, for k_norm 1e-4, for exponential maps 0
  std::optional<double> scale = {};    // when empty 1 for sum_eps and clamp, 1 / sqrt(D) for none and k_norm
};

struct ChunkLinearOptions {
  LinearNormalizer normalizer = LinearNormalizer::sum_eps;
  std::optional<double> epsilon = {};  // as in LinearOptions
  std::optional<double> scale = {};
  Index chunk = engine::default_chunk;  // tokens of a chunk
};

namespace detail {

// Calls run(problem, state or null, recipe) with the recipe of a call.
template <class Q, class K, class V, class Out, class Phi, class Run>
void with_linear_recipe(const char* where, const Q& q, const K& k, const V& v, Out& out, const Phi& phi,
                        const LinearOptions& options, const Run& run) {
  constexpr bool exponential = feature::wants_shift<Phi>();
  const auto problem = make_problem(where, q, k, v, state::plain_output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  auto* const memory = state::kernelised<T, exponential>(out);
  const auto rule = options.normalizer;
  const double epsilon = options.epsilon.value_or(exponential ? 0 : 1e-6);
  const auto division = rule == LinearNormalizer::sum_eps ? normalizer::sum_eps(epsilon)
                        : rule == LinearNormalizer::clamp ? normalizer::clamp(epsilon)
                                                          : normalizer::none();
  const auto recipe = linear(options.scale).normalizer(division);
  if constexpr (exponential || feature::has_signed_features<Phi>()) {
    check(rule != LinearNormalizer::k_norm, where,
          exponential ? "k_norm divides by sums that an exponential map knows up to a factor only; feature::softmax is "
                        "the map that it would make"
                      : "features that may be negative have no sum to divide by: the normalizer must be none");
    run(problem, memory, recipe.feature(phi));
  } else {
    std::optional<double> own;  // one map for all normalizers: the engines are compiled once
    if (rule == LinearNormalizer::k_norm) own = options.epsilon.value_or(1e-4);
    run(problem, memory, recipe.feature(feature::normalized(phi, own)));
  }
}

}  // namespace detail

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; or matrices [N,D], [M,D], [M,E], [N,E].
// with_state(out, state) goes on from a state and leaves it behind: a MatrixState, or a ShiftedState where phi is an
// exponential. Keys of the state count as seen by every query. Refuses maps with negative features unless the
// normalizer is none, and exponential maps with none or k_norm.
template <class Q, class K, class V, class Out, feature::Feature Phi = feature::EluPlusOne,
          exec::Executor Exec = exec::Serial>
void linear(const Q& q, const K& k, const V& v, Out&& out, const Phi& phi = {}, const LinearOptions& options = {},
            const Exec& executor = {}) {
  detail::with_linear_recipe("fovea::linear", q, k, v, out, phi, options,
                             [&](const auto& problem, auto* state, const auto& recipe) {
                               engine::kernelised(problem, state, recipe, executor);
                             });
}

// Arrays and states as for linear. Later tokens do not change earlier outputs.
template <class Q, class K, class V, class Out, feature::Feature Phi = feature::EluPlusOne,
          exec::Executor Exec = exec::Serial>
void chunk_linear(const Q& q, const K& k, const V& v, Out&& out, const Phi& phi = {},
                  const ChunkLinearOptions& options = {}, const Exec& executor = {}) {
  constexpr auto where = "fovea::chunk_linear";
  check(options.chunk > 0, where, "chunk must be positive, got ", options.chunk);
  detail::with_linear_recipe(
      where, q, k, v, out, phi, LinearOptions{options.normalizer, options.epsilon, options.scale},
      [&](const auto& problem, auto* state, const auto& recipe) {
        engine::causal_kernelised(problem, state, recipe, executor, engine::by_chunk(options.chunk));
      });
}

// Arrays and states as for linear; each token reads and writes the state once.
template <class Q, class K, class V, class Out, feature::Feature Phi = feature::EluPlusOne,
          exec::Executor Exec = exec::Serial>
void recurrent_linear(const Q& q, const K& k, const V& v, Out&& out, const Phi& phi = {},
                      const LinearOptions& options = {}, const Exec& executor = {}) {
  detail::with_linear_recipe("fovea::recurrent_linear", q, k, v, out, phi, options,
                             [&](const auto& problem, auto* state, const auto& recipe) {
                               engine::causal_kernelised(problem, state, recipe, executor, engine::by_token());
                             });
}

}  // namespace fovea::inline FOVEA_ISA
