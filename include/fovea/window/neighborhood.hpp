// Neighborhood attention on a sequence: a window around each query, with stride and dilation, causal or not.
// Hassani et al., "Generalized Neighborhood Attention", 2025, arXiv:2504.16922; "Neighborhood Attention Transformer",
// CVPR 2023, arXiv:2204.07143.
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j   over   { j = i mod dilation : lo <= floor(j / dilation) < hi }
//
// [lo, hi) counts inside the residue class of i. With n = floor(i / dilation), L tokens in the class and the queries of
// the class in groups of `stride`, all indices rounded down:
//
//   not causal   lo = clamp(c - window / 2, 0, L - window), hi = lo + window,
//                c = min(n / stride * stride + stride / 2, L - 1)
//   causal       lo = max(c - window + 1, 0), hi = n + 1,  c = min(n / stride * stride + stride - 1, L - 1)
//
// Not causal, every query sees exactly `window` keys: at the ends the window is moved inward and not cut, other than
// that of bidirectional_window. An even window has its extra key before the query. Self-attention only, N = M = T.
//
// Exact; causal with a stride of one equals sliding_window or dilated_window, not causal with window = T equals dense
// attention. Cost O(T window (D + E)) for each head.
#pragma once

#include <optional>

#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/neighborhood.hpp>
#include <fovea/parts/permute/residue_classes.hpp>

namespace fovea::inline FOVEA_ISA {

struct NeighborhoodOptions {
  Index window = 0;    // keys a query sees; required, window dilation <= T
  Index stride = 1;    // queries that share a window, at most `window`; window of them make blocks
  Index dilation = 1;  // from one key to the next
  bool causal = false;
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

// q [B,H,T,D], k [B,G,T,D], v [B,G,T,E], out [B,H,T,E], H a multiple of G; or matrices [T,D], [T,D], [T,E], [T,E].
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void neighborhood(const Q& q, const K& k, const V& v, Out&& out, const NeighborhoodOptions& options,
                  const Exec& executor = {}) {
  constexpr auto where = "fovea::neighborhood";
  const auto problem = make_problem(where, q, k, v, out);
  const Index length = problem.q.length;
  check(options.window > 0, where, "window must be positive, got ", options.window);
  check(options.stride > 0 && options.stride <= options.window, where, "stride must be between 1 and the window, ",
        options.window, ", got ", options.stride);
  check(options.dilation > 0, where, "dilation must be positive, got ", options.dilation);
  check(problem.k.length == length, where, "k must have the length of q, wanted ", length, ", got ", problem.k.length);
  check(options.window <= length / options.dilation || length == 0, where,
        "window dilation must not exceed the length, ", length, ", got ", options.window, " times ", options.dilation);

  const auto recipe = softmax(options.scale).mask(mask::neighborhood(options.window, options.stride, options.causal));
  permute::each_residue_class(problem, options.dilation,
                              [&](const auto& part) { engine::attend(part, recipe, executor); });
}

}  // namespace fovea::inline FOVEA_ISA
