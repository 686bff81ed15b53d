// Dilated sliding windows: every dilation-th key of a longer stretch, causal or on both sides.
// Beltagy et al., "Longformer: The Long-Document Transformer", 2020, arXiv:2004.05150.
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j
//
//   dilated_window                  over  { j : i - j = n dilation, 0 <= n < window }
//   bidirectional_dilated_window    over  { j : |i - j| = n dilation, 0 <= n <= distance }
//
// window counts keys, the own one included; distance counts the keys on either side. Self-attention only, N = M = T.
// Tokens of different residue modulo the dilation never meet: each residue class is a sequence of its own with an
// ordinary window, read where it lies.
//
// Exact; equals sliding_window and bidirectional_window when the dilation is one, and dense attention inside each
// residue class once the window covers it. Cost O(T window (D + E)) or O(T distance (D + E)) for each head.
#pragma once

#include <optional>

#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/band.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/window.hpp>
#include <fovea/parts/permute/residue_classes.hpp>

namespace fovea::inline FOVEA_ISA {

struct DilatedWindowOptions {
  Index window = 0;                  // keys a query sees, its own included; required
  Index dilation = 0;                // from one of them to the next; required
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

// q [B,H,T,D], k [B,G,T,D], v [B,G,T,E], out [B,H,T,E], H a multiple of G; or matrices [T,D], [T,D], [T,E], [T,E].
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void dilated_window(const Q& q, const K& k, const V& v, Out&& out, const DilatedWindowOptions& options,
                    const Exec& executor = {}) {
  constexpr auto where = "fovea::dilated_window";
  const auto problem = make_problem(where, q, k, v, out);
  check(options.window > 0, where, "window must be positive, got ", options.window);
  check(options.dilation > 0, where, "dilation must be positive, got ", options.dilation);
  check(problem.k.length == problem.q.length, where, "k must have the length of q, wanted ", problem.q.length, ", got ",
        problem.k.length);

  const auto recipe = softmax(options.scale).mask(mask::causal() & mask::window(options.window));
  permute::each_residue_class(problem, options.dilation,
                              [&](const auto& part) { engine::attend(part, recipe, executor); });
}

struct BidirectionalDilatedWindowOptions {
  Index distance = -1;               // keys a query sees on either side, its own not counted; required
  Index dilation = 0;                // from one of them to the next; required
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

// Arrays as for dilated_window.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void bidirectional_dilated_window(const Q& q, const K& k, const V& v, Out&& out,
                                  const BidirectionalDilatedWindowOptions& options, const Exec& executor = {}) {
  constexpr auto where = "fovea::bidirectional_dilated_window";
  const auto problem = make_problem(where, q, k, v, out);
  check(options.distance >= 0, where, "distance must be given and not be negative, got ", options.distance);
  check(options.dilation > 0, where, "dilation must be positive, got ", options.dilation);
  check(problem.k.length == problem.q.length, where, "k must have the length of q, wanted ", problem.q.length, ", got ",
        problem.k.length);

  const auto recipe = softmax(options.scale).mask(mask::band(options.distance));
  permute::each_residue_class(problem, options.dilation,
                              [&](const auto& part) { engine::attend(part, recipe, executor); });
}

}  // namespace fovea::inline FOVEA_ISA
