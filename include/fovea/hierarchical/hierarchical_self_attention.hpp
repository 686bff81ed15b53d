// Hierarchical self-attention (HSA): attention over tokens that are the leaves of a tree (words in paragraphs in
// pages), where a group gives one weight to all tokens of a sibling group. Amizadeh et al., "Hierarchical
// Self-Attention: Generalizing Neural Attention Mechanics to Multi-Scale Problems", NeurIPS 2025, arXiv:2509.15448.
//
//   o_i = sum_j theta_ij v_j,   theta = argmin sum_i KL(theta_i || softmax_i)
//
// over row-stochastic theta that are equal on every pair of sibling groups; found by dynamic programming
// (engine/tree_attention.hpp). No code was released with the paper; the recursion follows from this minimum, and the
// weight of a token to itself stands as its own leaf.
//
// Exact for its minimum; equals softmax attention when the root holds all tokens, or when the tokens of every group
// have the same query and key. Not causal. Cost O((N a + sum_A a_A^2) (D + E)) for leaves of a tokens and groups of a_A
// groups: about N a (D + E) for a balanced tree.
#pragma once

#include <functional>
#include <optional>

#include <fovea/engine/tree_attention.hpp>

namespace fovea::inline FOVEA_ISA {

using permute::TokenTree;

struct HierarchicalSelfAttentionOptions {
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
  bool gaussian = false;  // scores by distance, -scale / 2 |q - k|^2; what q adds cancels, what k adds does not
  // Added to the score of sibling B for sibling C, nodes of the tree, and to that of a token for itself (B = C). It is
  // called from several threads.
  std::function<double(Index from, Index to)> bias = {};
};

// q [B,H,T,D], k [B,G,T,D], v [B,G,T,E], out [B,H,T,E], H a multiple of G; or matrices [T,D], [T,D], [T,E], [T,E].
// A log-sum that is asked for is L_i with theta_ii = exp(s_ii - L_i): that of softmax for a tree of one level, and
// sum_i KL_i = sum_i (softmax's log-sum - L_i) for any.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void hierarchical_self_attention(const Q& q, const K& k, const V& v, Out&& out, const TokenTree& tree,
                                 const HierarchicalSelfAttentionOptions& options = {}, const Exec& executor = {}) {
  constexpr auto where = "fovea::hierarchical_self_attention";
  const auto problem = make_problem(where, q, k, v, out);
  check(problem.k.length == problem.q.length, where, "k must have the length of q, wanted ", problem.q.length, ", got ",
        problem.k.length);
  const engine::TreeScores scores{options.scale, options.gaussian, options.bias};
  engine::TreeAttention(problem, tree, scores).run(executor);
}

}  // namespace fovea::inline FOVEA_ISA
