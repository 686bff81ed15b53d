// Visibility by lists: for each block of queries an ascending list of spans of keys. What tables of blocks and of spans
// have in common.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include <fovea/parts/mask/mask.hpp>

namespace fovea::inline FOVEA_ISA::mask {

// A table with members query_block, batch, heads, query_blocks and begin as BlockTable has them, and keys(n), the span
// of keys of entry n.
template <class Table>
class BoundLists {
 public:
  BoundLists(std::shared_ptr<const Table> table, const Shape& shape)
      : table_(std::move(table)),
        heads_of_one_(table_->heads == 1 ? std::max<Index>(shape.heads, 1) : shape.heads / table_->heads),
        by_head_(table_->heads > shape.kv_heads) {}

  std::uint64_t seen(Row row, Span keys) const {
    const Span list = list_of(row.batch, row.head / heads_of_one_, row.query / table_->query_block);
    std::uint64_t bits = 0;
    for (Index n = from(list, keys.first); n < list.last && table_->keys(n).first < keys.last; ++n)
      bits |= bits_of(table_->keys(n), keys);
    return bits;
  }

  Cover cover(const Region& region) const {
    if (region.heads.empty() || region.queries.empty() || region.keys.empty()) return Cover::none;
    bool all = true, some = false;
    each_list(region, [&](Span list) {
      Index n = from(list, region.keys.first), seen = region.keys.first;  // keys before `seen` are seen
      some = some || (n < list.last && table_->keys(n).first < region.keys.last);
      while (n < list.last && table_->keys(n).first <= seen && seen < region.keys.last) seen = table_->keys(n++).last;
      all = all && seen >= region.keys.last;
      return !some || all;
    });
    return !some ? Cover::none : all ? Cover::full : Cover::part;
  }

  Grain grain() const { return {table_->query_block, table_->key_grain(), by_head_}; }

  template <class F>
  void each_span(const Region& region, F&& f) const {
    if (region.heads.empty() || region.queries.empty() || region.keys.empty()) return;
    std::array<Span, most_merged> lists;  // what is left of each
    Index number = 0;
    const bool few = each_list(region, [&](Span list) {
      if (number == most_merged) return false;
      lists[std::size_t(number++)] = {from(list, region.keys.first), list.last};
      return true;
    });
    if (number == 1) {
      for (Index n = lists[0].first; n < lists[0].last && table_->keys(n).first < region.keys.last; ++n)
        f(intersect(table_->keys(n), region.keys), true);
    } else if (few) {
      merge(lists.data(), number, region.keys, f);
    } else {
      scan(region, f);
    }
  }

 private:
  static constexpr Index most_merged = 64;

  Span list_of(Index b, Index h, Index block) const { return table_->list(table_->batch == 1 ? 0 : b, h, block); }

  // Calls f(list) for the lists of a region until it returns false; whether it never did.
  template <class F>
  bool each_list(const Region& region, F&& f) const {
    const Span blocks{region.queries.first / table_->query_block, (region.queries.last - 1) / table_->query_block + 1};
    const Span heads{region.heads.first / heads_of_one_, (region.heads.last - 1) / heads_of_one_ + 1};
    for (Index h = heads.first; h < heads.last; ++h) {
      for (Index i = blocks.first; i < blocks.last; ++i) {
        if (!f(list_of(region.batch, h, i))) return false;
      }
    }
    return true;
  }

  // The first entry of a list that ends behind `key`.
  Index from(Span list, Index key) const {
    while (!list.empty()) {
      const Index middle = list.first + list.size() / 2;
      if (table_->keys(middle).last <= key) {
        list.first = middle + 1;
      } else {
        list.last = middle;
      }
    }
    return list.first;
  }

  // The union of some lists, cut where one of them begins or ends.
  template <class F>
  void merge(Span* lists, Index number, Span keys, F&& f) const {
    for (Index at = keys.first; at < keys.last;) {
      Index next = keys.last, seeing = 0;
      for (Index i = 0; i < number; ++i) {
        Span& list = lists[i];
        if (!list.empty() && table_->keys(list.first).last <= at) ++list.first;
        if (list.empty()) continue;
        const Span span = table_->keys(list.first);
        const bool sees = span.first <= at;
        seeing += sees ? 1 : 0;
        next = std::min(next, sees ? span.last : span.first);
      }
      if (seeing > 0) f(Span{at, next}, seeing == number);
      at = next;
    }
  }

  // For more lists than are merged: one word of keys after the other.
  template <class F>
  void scan(const Region& region, F&& f) const {
    Region part = region;
    for (Index first = region.keys.first; first < region.keys.last; first += word) {
      part.keys = {first, std::min(first + word, region.keys.last)};
      const Cover seen = cover(part);
      if (seen != Cover::none) f(part.keys, seen == Cover::full);
    }
  }

  std::shared_ptr<const Table> table_;
  Index heads_of_one_;  // query heads that share a list
  bool by_head_;
};

// Refuses a table whose lists are not as many as a call needs. What stands in them, the table checks itself.
template <class Table>
void check_lists(const Table& t, const char* where, const Shape& shape) {
  check(t.query_blocks == (shape.queries + t.query_block - 1) / t.query_block, where,
        "a table must have a list for each query block, wanted ", (shape.queries + t.query_block - 1) / t.query_block,
        ", got ", t.query_blocks);
  check(t.batch > 0 && t.heads > 0, where, "a table must have at least one batch and head, got ", t.batch, " and ",
        t.heads);
  check(t.batch == 1 || t.batch == shape.batch, where, "a table must be shared or have the batch of q, wanted ",
        shape.batch, ", got ", t.batch);
  check(t.heads == 1 || t.heads == shape.heads || t.heads == shape.kv_heads, where,
        "a table must be shared or have the heads of q or of k, wanted ", shape.heads, " or ", shape.kv_heads, ", got ",
        t.heads);
  const Index lists = t.batch * t.heads * t.query_blocks;
  check(Index(t.begin.size()) == lists + 1 && t.begin.front() == 0 && t.begin.back() == t.entries() &&
            std::is_sorted(t.begin.begin(), t.begin.end()),
        where, "the lists of a table must cover its entries in order, ", lists, " lists of ", t.entries(),
        " entries in all");
}

}  // namespace fovea::inline FOVEA_ISA::mask
