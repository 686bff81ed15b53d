// Keys cut into splits of a fixed length, for calls with so few queries that there is nothing else to share out.
#pragma once

#include <fovea/core/problem.hpp>
#include <fovea/engine/rows.hpp>
#include <fovea/engine/visit.hpp>
#include <fovea/engine/work.hpp>

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
class Splits {
 public:
  // For passes that may differ from sequence to sequence: pass_of(batch).
  template <class Exec, class PassOf>
  Splits(const Exec& executor, Index batch, Index kv_heads, Index length, PassOf&& pass_of)
      : heads_(batch * kv_heads), begin_(allocate_scratch<Index>(executor, heads_ + 1)) {
    Index most = 0;
    for (Index b = 0; b < batch; ++b) most += kv_heads * ((pass_of(b).shape.keys + length - 1) / length);
    all_ = allocate_scratch<Split>(executor, std::max<Index>(most, 1));
    begin_[0] = 0;
    for (Index head = 0; head < heads_; ++head) {
      const auto& pass = pass_of(head / kv_heads);
      const TileRows rows = rows_of_head(pass.problem, head);
      visit_tiles(pass.mask, rows.region(0, rows.count(), {0, pass.shape.keys}), length, [&](Span span, bool) {
        all_[std::size_t(size_++)] = {head, span};
      });
      begin_[std::size_t(head + 1)] = size_;
    }
  }

  Index size() const { return size_; }
  Index heads() const { return heads_; }
  const Split& operator[](Index i) const { return all_[std::size_t(i)]; }
  Span of(Index head) const { return {begin_[std::size_t(head)], begin_[std::size_t(head) + 1]}; }

 private:
  Index heads_, size_ = 0;
  std::unique_ptr<Index[], FreeScratch> begin_;
  std::unique_ptr<Split[], FreeScratch> all_{};
};

}  // namespace fovea::inline FOVEA_ISA::engine
