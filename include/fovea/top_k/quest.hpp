// Quest: one query reads the pages of the cache that may hold its largest scores.
// Tang et al., "Quest: Query-Aware Sparsity for Efficient Long-Context LLM Inference", 2024, arXiv:2406.10774.
//
//   high_p, low_p = the largest and smallest key of page p, element by element
//   u_p = sum_d max(q_d high_pd, q_d low_pd)   >=   q . k_j for every key j of the page
//   S = the last page, and the top_k - 1 others with the largest u_p
//   o = sum_j softmax_j(scale q . k_j) v_j   over   { j : page(j) in S }
//
// The last page is always read, as in the published kernels; the published evaluation code lets it compete. A prompt is
// attended densely there, and so are the first two layers.
//
// Approximate; exact on its pages, equal to dense attention when top_k covers them all, and to exact top-k with pages
// of one key. Cost O(2 M D / page) to choose and O(top_k page (D + E)).
#pragma once

#include <optional>

#include <fovea/engine/by_key_block.hpp>
#include <fovea/parts/select/page_bounds.hpp>
#include <fovea/parts/select/rank_blocks.hpp>

namespace fovea::inline FOVEA_ISA {

using mask::BlockTable;
using select::PageBounds;
using select::Sharing;

struct QuestOptions {
  Index top_k = 0;                   // pages that a query reads, the last one among them; required
  Sharing sharing = Sharing::none;   // the paper's: each query head has its pages. max or sum of u_p over the query
                                     // heads of a kv head is our extension: one choice for all of them
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

namespace detail {

template <class T, exec::Executor Exec>
BlockTable choose_pages(const char* where, const View<const T>& q, const View<const T>& k, const PageBounds<T>& bounds,
                        const QuestOptions& options, const Exec& executor) {
  check(q.length <= 1, where, "there must be one query, got ", q.length);
  check(options.top_k > 0, where, "top_k must be positive, got ", options.top_k);
  bounds.check_for(where, k);
  const select::BlockGrid grid{1, bounds.page, q.length, k.length, k.length - q.length, true};
  select::BlockRule rule;
  rule.top_k = options.top_k;
  rule.sharing = options.sharing;
  return select::rank_blocks<T>(q, bounds.view(), grid, rule, executor);
}

}  // namespace detail

// The pages that quest would read, as key blocks: keep them, pass them to block_sparse for another layer or step. q
// [B,H,1,D]; the bounds are those of the keys [B,G,M,D].
template <class Q, class T, exec::Executor Exec = exec::Serial>
BlockTable quest_selection(const Q& q, const PageBounds<T>& bounds, const QuestOptions& options,
                           const Exec& executor = {}) {
  constexpr auto where = "fovea::quest_selection";
  const auto queries = view(q);
  static_assert(std::is_same_v<std::remove_const_t<std::remove_pointer_t<decltype(queries.data)>>, T>,
                "fovea: page bounds must have the scalar type of q");
  const View<const T> keys{nullptr, bounds.batch, bounds.kv_heads, bounds.length, bounds.dim, 0, 0, 0};
  const View<T> no_result{nullptr, queries.batch, queries.heads, queries.length, bounds.dim, 0, 0, 0};
  make_problem(where, queries, keys, keys, no_result);  // the checks of an attention call
  return detail::choose_pages<T>(where, queries, keys, bounds, options, executor);
}

// q [B,H,1,D], k [B,G,M,D], v [B,G,M,E], out [B,H,1,E]; bounds hold all M keys, the current one included.
template <class Q, class K, class V, class Out, class T, exec::Executor Exec = exec::Serial>
void quest(const Q& q, const K& k, const V& v, Out&& out, const PageBounds<T>& bounds, const QuestOptions& options,
           const Exec& executor = {}) {
  const auto problem = make_problem("fovea::quest", q, k, v, out);
  static_assert(std::is_same_v<std::remove_cv_t<decltype(problem)>, Problem<T>>,
                "fovea: page bounds must have the scalar type of q");
  const BlockTable table = detail::choose_pages<T>(problem.where, problem.q, problem.k, bounds, options, executor);
  engine::attend_blocks(problem, options.scale, table, false, Alignment::bottom_right, executor);
}

}  // namespace fovea::inline FOVEA_ISA
