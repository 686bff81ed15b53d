// Hierarchically pruned attention (HiP): a tree search finds the keys of each block of queries; sink tokens and the
// last keys are always kept. Training-free, prefill and decoding alike. Lee et al., "HiP Attention: Sparse
// Sub-Quadratic Attention with Hierarchical Attention Pruning", 2024, arXiv:2406.09827.
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j   over   { j <= i + M - N : j in S(block(i)) }
//   S   = the top_k keys the tree search finds | the last `window` keys the block sees | the first sink_tokens keys
//
// Approximate: the search takes one block of keys for its neighbours, and may miss one. The attention over S is exact.
// Dense causal attention where a block sees at most top_k + window keys. Cost for each head
// O(N top_k D log(M / top_k)) for the search and O(N (top_k + window + sink_tokens) (D + E)) for the attention.
#pragma once

#include <atomic>
#include <cmath>
#include <optional>
#include <span>
#include <vector>

#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/spans.hpp>
#include <fovea/parts/select/tree.hpp>

namespace fovea::inline FOVEA_ISA {

// How the tree is searched:
//   integer_tree   groups of blocks are halved, as the paper has it; the keys of the window are not searched
//   compat_v1      the code released with the paper: a grid of fractions is widened. With query_block and key_block one
//                  its plain form, else its form of blocks, without the optional approximations of scores
enum class HipSearch { integer_tree, compat_v1 };

struct HipOptions {
  Index top_k = 512;       // keys that the search keeps for a block of queries
  Index query_block = 32;  // queries that share a selection, all when there are fewer; every second one searches
  Index key_block = 2;     // keys that are kept or left together
  Index window = 128;      // last keys that the last query of a block sees, its own included: always kept
  Index sink_tokens = 32;  // leading keys that are always kept
  bool causal = true;      // queries are the last tokens of the keys
  HipSearch search = HipSearch::integer_tree;
  double scale_up = 2;                // compat_v1: from one grid to the next
  std::optional<Index> grid = {};     // compat_v1: w_start, ceil(top_k scale_up) when empty
  std::optional<Index> patches = {};  // compat_v1: keys that every grid keeps, ceil(top_k / scale_up) when empty
  std::optional<double> scale = {};   // of the attention, 1 / sqrt(D) when empty; the search ranks q . k
};

namespace detail {

// Makes the lists of one call.
template <class T>
class HipSelection {
 public:
  HipSelection(const char* where, View<const T> q, View<const T> k, const HipOptions& options)
      : q_(q), k_(k), options_(options) {
    const auto positive = [&](Index x, const char* name) { check(x > 0, where, name, " must be positive, got ", x); };
    positive(options.top_k, "top_k");
    positive(options.query_block, "query_block");
    positive(options.key_block, "key_block");
    check(options.window >= 0, where, "window must not be negative, got ", options.window);
    check(options.sink_tokens >= 0, where, "sink_tokens must not be negative, got ", options.sink_tokens);
    // No block is longer than what there is.
    const Index keys = std::max<Index>(k.length, 1);
    options_.top_k = std::min(options.top_k, keys);
    options_.key_block = std::min(options.key_block, keys);
    options_.query_block = std::min(options.query_block, std::max<Index>(q.length, 1));
    if (options.search == HipSearch::integer_tree) return;

    const double scale_up = options.scale_up, most = double(options_.top_k);
    check(scale_up > 1 && scale_up <= 1024, where, "scale_up must be above 1 and at most 1024, got ", scale_up);
    const Index grid = options.grid.value_or(Index(std::ceil(most * scale_up)));
    const Index patches = options.patches.value_or(Index(std::ceil(most / scale_up)));
    positive(grid, "grid");
    positive(patches, "patches");
    const double first = std::min(std::round(double(grid) / scale_up), double(keys));
    check(std::round(first * scale_up) > first, where, "scale_up must widen the first grid of ", first, " places, got ",
          scale_up);
    widening_ = {Index(first), scale_up, options_.top_k, std::min(patches, keys)};
  }

  template <class Exec>
  mask::SpanTable run(const Exec& executor) const {
    const Index blocks = count_of(q_.length, options_.query_block), items = q_.batch * q_.heads * blocks;
    mask::SpanTable table{
        options_.query_block, std::max<Index>(q_.batch, 1), std::max<Index>(q_.heads, 1), blocks, {0}, {}};
    const double levels = std::log2(2 + double(k_.length) / double(options_.top_k));
    const double flops = levels * double(options_.query_block) * double(options_.top_k) * double(k_.dim);
    const Index workers =
        std::clamp<Index>(Index(flops * double(items) / 1e6), 1, std::max<Index>(exec::concurrency(executor), 1));
    std::vector<select::TreeSearch<T>> searches(std::size_t(workers),
                                                {k_.dim, options_.query_block, options_.key_block});
    std::vector<Spans> lists(std::size_t(std::min(items, at_once)));
    for (Index first = 0; first < items; first += at_once) {
      const Index count = std::min(at_once, items - first);
      std::atomic<Index> next{0};
      executor.parallel_for(workers, flops * double(count) / double(workers), [&](Index begin, Index end) {
        for (Index worker = begin; worker < end; ++worker) {
          for (Index n; (n = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
            const Index head = (first + n) / blocks;
            select_block(searches[std::size_t(worker)], head / q_.heads, head % q_.heads, (first + n) % blocks,
                         lists[std::size_t(n)]);
          }
        }
      });
      for (Index n = 0; n < count; ++n) {
        const Spans& list = lists[std::size_t(n)];
        table.spans.insert(table.spans.end(), list.begin(), list.end());
        table.begin.push_back(Index(table.spans.size()));
      }
    }
    table.begin.resize(std::size_t(table.batch * table.heads * blocks + 1), Index(table.spans.size()));
    return table;
  }

 private:
  using Search = select::TreeSearch<T>;
  using Spans = std::vector<Span>;

  static constexpr Index at_once = 1024;  // lists that are made before they are put into the table

  static Index count_of(Index n, Index block) { return (n + block - 1) / block; }

  // Spans come in ascending order of their beginnings.
  static void add(Spans& list, Span keys) {
    if (keys.empty()) return;
    if (!list.empty() && keys.first <= list.back().last) {
      list.back().last = std::max(list.back().last, keys.last);
    } else {
      list.push_back(keys);
    }
  }

  void select_block(Search& search, Index batch, Index head, Index block, Spans& list) const {
    const Span queries{block * options_.query_block, std::min((block + 1) * options_.query_block, q_.length)};
    const Index offset = k_.length - q_.length;
    const Index seen = options_.causal ? std::max<Index>(queries.last + offset, 0) : k_.length;
    const Index recent = std::max<Index>(seen - options_.window, 0);  // the first key of the window
    list.clear();
    add(list, {0, std::min(options_.sink_tokens, seen)});
    if (options_.search == HipSearch::integer_tree && recent <= options_.top_k) {
      add(list, {0, recent});
    } else {
      const T* const keys = k_.row(batch, head / (q_.heads / k_.heads), 0);
      const auto found = options_.search == HipSearch::integer_tree
                             ? halve(search, queries, q_.row(batch, head, queries.first), keys, seen, recent)
                             : widen(search, queries, q_.row(batch, head, queries.first), keys, offset);
      for (const Index b : found) {
        if (b * options_.key_block < recent)
          add(list, {b * options_.key_block, std::min((b + 1) * options_.key_block, seen)});
      }
    }
    add(list, {recent, seen});
  }

  // Every second query ranks, from the second on; a single one too.
  std::span<const Index> halve(Search& search, Span queries, const T* q, const T* keys, Index seen,
                               Index region) const {
    const Index stride = q_.length_stride, block = options_.key_block;
    const bool one = queries.size() == 1;
    return search.halve({one ? q : q + stride, 2 * stride, one ? 1 : queries.size() / 2},
                        {keys, k_.length_stride, seen, block}, count_of(region, block),
                        count_of(options_.top_k, block));
  }

  // Every second query ranks, from the first on, and of the keys only those that are `reach` behind it. The grid spans
  // the keys that the last query of a whole block sees.
  std::span<const Index> widen(Search& search, Span queries, const T* q, const T* keys, Index offset) const {
    const Index block = options_.key_block;
    const bool tokens = options_.query_block == 1 && block == 1;
    const Index reach = tokens ? 0 : std::max<Index>(options_.window - options_.query_block - block, 0);
    const Index length = offset + queries.first + std::max(options_.query_block, block);
    typename Search::Queries rows{q, 2 * q_.length_stride, count_of(queries.size(), 2)};
    if (options_.causal) {
      rows.first_limit = offset + queries.first - reach + 1;
      rows.limit_step = 2;
    }
    return search.widen(
        rows, {keys, k_.length_stride, options_.causal ? std::clamp<Index>(length, 0, k_.length) : k_.length, block},
        widening_, tokens);
  }

  const View<const T> q_, k_;
  HipOptions options_;
  typename Search::Widening widening_;
};

}  // namespace detail

// The keys of each block of queries: q [B,H,N,D], k [B,G,M,D], H a multiple of G, or matrices [N,D], [M,D]. One list
// for each query head. A plain object: keep it and use it again, in another layer or call of as many queries:
//
//   attend(q, k, v, out, softmax().mask(mask::spans(selection) & mask::causal()), executor);
template <class Q, class K, exec::Executor Exec = exec::Serial>
mask::SpanTable hip_selection(const Q& q, const K& k, const HipOptions& options = {}, const Exec& executor = {}) {
  constexpr auto where = "fovea::hip_selection";
  const auto queries = view(q);
  const auto keys = view(k);
  using T = std::remove_const_t<std::remove_pointer_t<decltype(queries.data)>>;
  static_assert(std::is_same_v<T, std::remove_const_t<std::remove_pointer_t<decltype(keys.data)>>>,
                "fovea: q and k must have the same scalar type");
  check(keys.batch == queries.batch, where, "k must have the batch of q, wanted ", queries.batch, ", got ", keys.batch);
  check(queries.dim > 0 && keys.dim == queries.dim, where, "k must have the width of q, wanted ", queries.dim, ", got ",
        keys.dim);
  check(queries.heads == 0 || (keys.heads > 0 && queries.heads % keys.heads == 0), where,
        "the heads of q must be a multiple of the heads of k, wanted a multiple of ", keys.heads, ", got ",
        queries.heads);
  return detail::HipSelection<T>(where, queries, keys, options).run(executor);
}

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; or matrices [N,D], [M,D], [M,E], [N,E].
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void hip(const Q& q, const K& k, const V& v, Out&& out, const HipOptions& options = {}, const Exec& executor = {}) {
  constexpr auto where = "fovea::hip";
  const auto problem = make_problem(where, q, k, v, out);
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  const detail::HipSelection<T> selection(where, problem.q, problem.k, options);
  const auto kept = softmax(options.scale).mask(mask::spans(selection.run(executor)));
  engine::attend(problem, kept.mask(mask::causal_if(options.causal)), executor);
}

}  // namespace fovea::inline FOVEA_ISA
