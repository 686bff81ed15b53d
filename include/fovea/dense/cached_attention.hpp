// Attention over a cache of keys and values: decoding token by token, several sequences at a time, prompts in pieces.
// Split keys merged by log-sums: Dao et al., "Flash-Decoding for long-context inference", 2023; pages: Kwon et al.,
// "Efficient Memory Management for Large Language Model Serving with PagedAttention", 2023, arXiv:2309.06180; caches of
// few bits: Liu et al., "KIVI", ICML 2024, arXiv:2402.02750.
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j   over   { j <= p : p - j < window or j < sink_tokens }
//   p = i + M_b - N
//
// The N queries of sequence b are the last of its M_b tokens; k_j and v_j are the numbers that the cache stands for,
// and are widened as they are read. Exact for these.
//
// Few queries (one, or at most eight for each kv head) read every key once: keys are cut into splits of 512, which are
// merged in a fixed order. More queries go by tiles. The bits of a row do not depend on threads, on the other
// sequences, or on how a cache is cut into pages; with as_prefill they do not depend on how a prompt is cut into pieces
// either.
//
// Cost O(N M_b (D + E)) for each head, or O(N (window + sink_tokens) (D + E)). Nothing is allocated in the steady state
// with an executor from exec::reuse(workspace). Other masks, scores and sink logits: attend(q, cache, out, recipe).
#pragma once

#include <limits>
#include <optional>
#include <ranges>

#include <fovea/engine/attend.hpp>
#include <fovea/parts/kv/batch.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/prefix.hpp>
#include <fovea/parts/mask/window.hpp>

namespace fovea::inline FOVEA_ISA {

struct CachedAttentionOptions {
  std::optional<Index> window = {};  // keys a query sees, its own included; all up to its own when empty
  Index sink_tokens = 0;             // leading keys that every query sees beside the window
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
  bool as_prefill = false;           // few queries go by tiles too
};

namespace detail {

// The source of a cache, of several, or the source itself.
template <class Cache>
auto source_of_some(const Cache& cache) {
  if constexpr (std::ranges::random_access_range<const Cache>) {
    return kv::batch(cache);
  } else {
    return engine::source_of(cache);
  }
}

}  // namespace detail

// q [B,H,N,D] and out [B,H,N,E] against one sequence (B = 1) or a batch of them: `cache` is a cache (fovea/cache/), a
// range of caches or of pointers to them, or a source (kv::contiguous, kv::paged, ...); its kv heads divide H.
template <class Q, class Cache, class Out, exec::Executor Exec = exec::Serial>
void cached_attention(const Q& q, const Cache& cache, Out&& out, const CachedAttentionOptions& options = {},
                      const Exec& executor = {}) {
  constexpr auto where = "fovea::cached_attention";
  const auto source = detail::source_of_some(cache);
  const auto problem = engine::make_problem(where, q, source, out);
  check(!options.window || *options.window > 0, where, "window must be positive, got ", options.window.value_or(0));
  check(options.sink_tokens >= 0, where, "sink_tokens must not be negative, got ", options.sink_tokens);
  check(options.window || options.sink_tokens == 0, where, "sink_tokens want a window, got ", options.sink_tokens);

  const Index window = options.window.value_or(std::numeric_limits<Index>::max() / 4);
  auto recipe =
      softmax(options.scale).mask(mask::causal() & (mask::window(window) | mask::prefix(options.sink_tokens)));
  recipe.tiles_only = options.as_prefill;
  engine::attend(problem, source, recipe, executor);
}

}  // namespace fovea::inline FOVEA_ISA
