// Attention split by heads: retrieval heads see every key before them, streaming heads the sink tokens and a window.
// Xiao et al., "DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads", ICLR 2025,
// arXiv:2410.10819.
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j,   p = i + M - N,
//   over { j <= p } for retrieval heads, over { j <= p : p - j < window or j < sink_tokens } for streaming heads
//
// Exact for this mask, which is the one of training; equals causal attention when every head retrieves or
// window + sink_tokens >= M. Cost O(N M (D + E)) for each retrieval head, O(N (window + sink_tokens) (D + E)) for each
// streaming head; query heads of one key head that differ in kind all cost as much as retrieval heads.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <vector>

#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/by_head.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/prefix.hpp>
#include <fovea/parts/mask/window.hpp>

namespace fovea::inline FOVEA_ISA {

struct HeadSplitOptions {
  std::vector<bool> retrieval = {};  // [H], of each query head: retrieval or streaming; required
  Index window = 0;                  // last keys that a streaming head sees, the query's own included; required
  Index sink_tokens = 0;             // leading keys that a streaming head sees
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; or matrices [N,D], [M,D], [M,E], [N,E].
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void head_split(const Q& q, const K& k, const V& v, Out&& out, const HeadSplitOptions& options,
                const Exec& executor = {}) {
  constexpr auto where = "fovea::head_split";
  const auto problem = make_problem(where, q, k, v, out);
  check(Index(options.retrieval.size()) == problem.q.heads, where,
        "retrieval needs one flag for each query head, wanted ", problem.q.heads, ", got ", options.retrieval.size());
  check(options.window > 0, where, "window must be positive, got ", options.window);
  check(options.sink_tokens >= 0, where, "sink_tokens must not be negative, got ", options.sink_tokens);

  const auto streaming = mask::window(options.window) | mask::prefix(options.sink_tokens);
  const auto seen = mask::causal() & mask::by_head(options.retrieval, mask::Everything{}, streaming);
  engine::attend(problem, softmax(options.scale).mask(seen), executor);
}

// Flags from learned scores in [0, 1] (clamped to it) of the key heads of all layers, layer by layer: the
// round(sparsity x number) lowest stream, the earlier ones among equals; the others are retrieval heads. Repeat each
// flag H / G times for the query heads of a call.
inline std::vector<bool> retrieval_heads(const std::vector<double>& scores, double sparsity) {
  constexpr auto where = "fovea::retrieval_heads";
  check(sparsity >= 0 && sparsity <= 1, where, "sparsity must be between 0 and 1, got ", sparsity);
  for (const double score : scores) check(!std::isnan(score), where, "scores must be numbers, got ", score);

  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::clamp(scores[a], 0.0, 1.0) < std::clamp(scores[b], 0.0, 1.0);
  });
  std::vector<bool> retrieval(scores.size(), true);
  const auto streaming = std::size_t(std::lround(sparsity * double(scores.size())));
  for (std::size_t n = 0; n < streaming; ++n) retrieval[order[n]] = false;
  return retrieval;
}

}  // namespace fovea::inline FOVEA_ISA
