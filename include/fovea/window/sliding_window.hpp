// Sliding windows: causal, with leading sink tokens when wanted, and bidirectional.
// Beltagy et al., "Longformer: The Long-Document Transformer", 2020, arXiv:2004.05150; sink tokens: Xiao et al.,
// "Efficient Streaming Language Models with Attention Sinks", ICLR 2024, arXiv:2309.17453.
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j,  p = i + M - N
//
//   sliding_window          over  { j <= p : p - j < window or j < sink_tokens }
//   bidirectional_window    over  { j : |p - j| <= distance }
//
// window counts the own key, distance does not: a query in the middle sees `window` keys of the one (besides the sink
// tokens) and 2 distance + 1 of the other. Both shrink at the ends. Sink tokens keep their positions.
//
// Exact; sliding_window equals causal attention once window >= M, bidirectional_window all of it once distance covers
// every pair. Cost O(N (window + sink_tokens) (D + E)) or O(N distance (D + E)) for each head.
#pragma once

#include <optional>

#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/band.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/prefix.hpp>
#include <fovea/parts/mask/window.hpp>

namespace fovea::inline FOVEA_ISA {

struct SlidingWindowOptions {
  Index window = 0;                  // keys a query sees, its own included; required
  Index sink_tokens = 0;             // leading keys that every query sees as soon as they are not ahead of it
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; or matrices [N,D], [M,D], [M,E], [N,E].
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void sliding_window(const Q& q, const K& k, const V& v, Out&& out, const SlidingWindowOptions& options,
                    const Exec& executor = {}) {
  constexpr auto where = "fovea::sliding_window";
  const auto problem = make_problem(where, q, k, v, out);
  check(options.window > 0, where, "window must be positive, got ", options.window);
  check(options.sink_tokens >= 0, where, "sink_tokens must not be negative, got ", options.sink_tokens);

  const auto seen = mask::causal() & (mask::window(options.window) | mask::prefix(options.sink_tokens));
  engine::attend(problem, softmax(options.scale).mask(seen), executor);
}

struct BidirectionalWindowOptions {
  Index distance = -1;               // keys a query sees on either side, its own not counted; required
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

// Arrays as for sliding_window.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void bidirectional_window(const Q& q, const K& k, const V& v, Out&& out, const BidirectionalWindowOptions& options,
                          const Exec& executor = {}) {
  constexpr auto where = "fovea::bidirectional_window";
  const auto problem = make_problem(where, q, k, v, out);
  check(options.distance >= 0, where, "distance must be given and not be negative, got ", options.distance);

  engine::attend(problem, softmax(options.scale).mask(mask::band(options.distance)), executor);
}

}  // namespace fovea::inline FOVEA_ISA
