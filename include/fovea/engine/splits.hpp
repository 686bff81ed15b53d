// Keys cut into splits of a fixed length, for calls with so few queries that there is nothing else to share out.
#pragma once

#include <vector>

#include <fovea/core/problem.hpp>
#include <fovea/engine/rows.hpp>
#include <fovea/engine/visit.hpp>

namespace fovea::inline FOVEA_ISA::engine {

// Whether a call has few enough queries: in a sequence, or of a kv head.
constexpr bool few_queries(Index queries, Index group) { return queries == 1 || queries * group <= 8; }

// All rows of a kv head; head counts over batches, batch * kv_heads + kv_head.
template <class T>
TileRows rows_of_head(const Problem<T>& problem, Index head) {
  const Index group = problem.group, kv_heads = problem.q.heads / group, kv_head = head % kv_heads;
  return {head / kv_heads, kv_head, kv_head * group, group, {0, problem.q.length}};
}

struct Split {
  Index head;  // batch * kv_heads + kv_head
  Span keys;
};

// The splits of which a mask shows anything, head by head; they begin at multiples of their length, which does not
// follow the number of workers.
struct Splits {
  std::vector<Split> all{};
  std::vector<Index> begin{0};  // of each (batch, kv head), and one past the last

  template <class T, mask::BoundMask M>
  Splits(const Problem<T>& problem, const M& mask, Index keys, Index length) {
    const Index heads = problem.q.batch * (problem.q.heads / problem.group);
    for (Index head = 0; head < heads; ++head) {
      const TileRows rows = rows_of_head(problem, head);
      visit_tiles(mask, rows.region(0, rows.count(), {0, keys}), length, [&](Span span, bool) {
        all.push_back({head, span});
      });
      begin.push_back(Index(all.size()));
    }
  }

  Index size() const { return Index(all.size()); }
  Index heads() const { return Index(begin.size()) - 1; }
  Span of(Index head) const { return {begin[std::size_t(head)], begin[std::size_t(head) + 1]}; }
};

}  // namespace fovea::inline FOVEA_ISA::engine
