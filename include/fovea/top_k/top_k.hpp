// Exact top-k attention: each query attends to the k keys with the largest scores.
// Gupta et al., "Memory-efficient Transformers via Top-k Attention", 2021, arXiv:2106.06899.
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j   over   I_i, the k best of the keys that query i sees
//
// The softmax is that over I_i, or, with keep_mass, the one over all visible keys, of which the other weights are left
// out. Of equal scores the lower key is taken; a NaN score loses (with keep_mass it spoils its row), a score of
// -infinity is never taken. Equals dense attention once k reaches the number of visible keys.
//
// Every score is computed, so that only the value product gets cheaper: O(N M D + N k E). Decoding reads all keys but
// the chosen values alone. What is chosen can be had as a plain object and attended to again: top_k/gathered.hpp.
#pragma once

#include <optional>

#include <fovea/engine/attend_rows.hpp>
#include <fovea/parts/mask/causal.hpp>

namespace fovea::inline FOVEA_ISA {

struct TopKOptions {
  Index top_k = 0;                                // keys of a query; required
  bool causal = false;                            // a query sees the keys up to its own position
  Alignment alignment = Alignment::bottom_right;  // where the queries stand when causal and N != M
  select::Heads heads = select::Heads::each;      // whose scores choose
  bool keep_mass = false;            // weights of the softmax over all visible keys, not made to sum to one
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

namespace detail {

template <class T, class Exec>
void top_k(const Problem<T>& problem, const TopKOptions& options, select::KeyLists* lists, const Exec& executor) {
  const select::TopK choice{options.top_k, options.heads, options.keep_mass};
  const auto seen = mask::causal_if(options.causal, options.alignment);
  engine::attend_rows(problem, softmax(options.scale).mask(seen), choice, lists, executor);
}

}  // namespace detail

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E] (with_log_sum(out, log_sum) for the log-sums of the softmax
// whose weights are used), H a multiple of G.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void top_k(const Q& q, const K& k, const V& v, Out&& out, const TopKOptions& options, const Exec& executor = {}) {
  detail::top_k(make_problem("fovea::top_k", q, k, v, out), options, nullptr, executor);
}

// The same, and what was chosen: lists for each query head, or for each kv head when the heads choose together.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void top_k(const Q& q, const K& k, const V& v, Out&& out, select::KeyLists& chosen, const TopKOptions& options,
           const Exec& executor = {}) {
  detail::top_k(make_problem("fovea::top_k", q, k, v, out), options, &chosen, executor);
}

// The choice alone.
template <class Q, class K, exec::Executor Exec = exec::Serial>
select::KeyLists top_k_selection(const Q& q, const K& k, const TopKOptions& options, const Exec& executor = {}) {
  const auto queries = view(q);
  using T = std::remove_const_t<std::remove_pointer_t<decltype(queries.data)>>;
  const View<T> nowhere{nullptr, queries.batch, queries.heads, queries.length, view(k).dim, 0, 0, 0};
  select::KeyLists chosen;
  detail::top_k(make_problem("fovea::top_k_selection", q, k, k, nowhere), options, &chosen, executor);
  return chosen;
}

}  // namespace fovea::inline FOVEA_ISA
