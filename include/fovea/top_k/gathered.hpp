// Attention over given lists of keys: those of a selection that was made before, by this layer or another.
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j   over   { j in list(i), and j <= i + M - N when causal }
//
// Exact for its lists; equals dense attention when every visible key is listed. Cost O(listed pairs (D + E)); other
// keys and values are not read. A query with an empty list: output zero, log-sum -infinity.
#pragma once

#include <optional>

#include <fovea/engine/attend_lists.hpp>
#include <fovea/parts/mask/causal.hpp>

namespace fovea::inline FOVEA_ISA {

struct GatheredOptions {
  bool causal = false;                            // of its list a query sees the keys up to its own position
  Alignment alignment = Alignment::bottom_right;  // where the queries stand when causal and N != M
  std::optional<double> scale = {};               // 1 / sqrt(D) when empty
};

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; lists [B, H, G or 1, N].
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void gathered(const Q& q, const K& k, const V& v, Out&& out, const select::KeyLists& lists,
              const GatheredOptions& options = {}, const Exec& executor = {}) {
  const auto problem = make_problem("fovea::gathered", q, k, v, out);
  const auto seen = mask::causal_if(options.causal, options.alignment);
  engine::attend_lists(problem, softmax(options.scale).mask(seen), lists, executor);
}

}  // namespace fovea::inline FOVEA_ISA
