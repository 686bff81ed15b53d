// Visibility by spans: for each block of queries the spans of keys it sees, of any length.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include <fovea/parts/mask/lists.hpp>

namespace fovea::inline FOVEA_ISA::mask {

// A table of spans of keys for each query block, shared by batches and heads or one for each. A plain object: make it
// once, keep it, copy it, use it in several layers or steps.
struct SpanTable {
  Index query_block = 0;       // queries of a block; the last block may be shorter
  Index batch = 1;             // 1 (shared) or B
  Index heads = 1;             // 1 (shared), the kv heads or the query heads
  Index query_blocks = 0;      // ceil(N / query_block)
  std::vector<Index> begin{};  // [batch x heads x query_blocks + 1] where the list of a query block begins
  std::vector<Span> spans{};   // the lists: spans that ascend, do not overlap and are not empty

  // The list of a query block.
  Span list(Index b, Index h, Index query) const {
    const std::size_t at = std::size_t((b * heads + h) * query_blocks + query);
    return {begin[at], begin[at + 1]};
  }

  Index entries() const { return Index(spans.size()); }
  Index key_grain() const { return 1; }
  Span keys(Index entry) const { return spans[std::size_t(entry)]; }

  // lists[(b * heads + h) * query_blocks + i] are the spans of query block i, in any order; what they share counts
  // once.
  static SpanTable from_lists(Index query_block, Index query_blocks, std::vector<std::vector<Span>> lists,
                              Index batch = 1, Index heads = 1) {
    constexpr auto where = "fovea::mask::SpanTable::from_lists";
    check(query_blocks >= 0 && batch > 0 && heads > 0, where, "there must be at least one batch and head, got ", batch,
          " and ", heads);
    check(Index(lists.size()) == batch * heads * query_blocks, where,
          "there must be a list for each query block, wanted ", batch * heads * query_blocks, ", got ", lists.size());
    SpanTable table{query_block, batch, heads, query_blocks, {0}, {}};
    for (auto& list : lists) {
      std::sort(list.begin(), list.end(), [](Span a, Span b) { return a.first < b.first; });
      for (const Span span : list) {
        if (span.empty()) continue;
        if (Index(table.spans.size()) > table.begin.back() && span.first <= table.spans.back().last) {
          table.spans.back().last = std::max(table.spans.back().last, span.last);
        } else {
          table.spans.push_back(span);
        }
      }
      table.begin.push_back(Index(table.spans.size()));
    }
    return table;
  }
};

struct Spans {
  std::shared_ptr<const SpanTable> table;

  BoundLists<SpanTable> bind(const char* where, const Shape& shape) const {
    const SpanTable& t = *table;
    check(t.query_block > 0, where, "blocks must have a positive size, got ", t.query_block);
    check_lists(t, where, shape);
    for (std::size_t list = 0; list + 1 < t.begin.size(); ++list) {
      Index last = 0;
      for (Index n = t.begin[list]; n < t.begin[list + 1]; ++n) {
        const Span span = t.keys(n);
        check(span.first >= last && span.last > span.first, where,
              "the spans of a list must ascend, not overlap and not be empty, got [", span.first, ", ", span.last,
              ") after a key of ", last);
        check(span.last <= shape.keys, where, "a span must lie among the ", shape.keys, " keys, got [", span.first,
              ", ", span.last, ")");
        last = span.last;
      }
    }
    return {table, shape};
  }
};

// Query i sees key j when a span that the table lists for the block of i holds j. Join it with other masks for spans
// that are seen in part. The table is copied.
inline Spans spans(SpanTable table) { return {std::make_shared<const SpanTable>(std::move(table))}; }

}  // namespace fovea::inline FOVEA_ISA::mask
