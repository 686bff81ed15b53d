// Packed sequences of different lengths: a query sees keys of its own sequence alone.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include <fovea/parts/mask/mask.hpp>

namespace fovea::inline FOVEA_ISA::mask {

// Where the sequences of a packed axis begin, and its length: cu_seqlens, [sequences + 1], from 0, never decreasing.
using Boundaries = std::vector<Index>;

template <BoundMask Inner>
class BoundDocument {
 public:
  BoundDocument(Boundaries queries, Boundaries keys, std::vector<Inner> inner)
      : all_(std::make_shared<const Content>(Content{std::move(queries), std::move(keys), std::move(inner)})) {}

  std::uint64_t seen(Row row, Span keys) const {
    const std::size_t d = document_of(row.query);
    const Index begin = all_->keys[d];
    const Span mine = intersect({begin, all_->keys[d + 1]}, keys);
    if (mine.empty()) return 0;
    const Row local{row.batch, row.head, row.query - all_->queries[d]};
    return all_->inner[d].seen(local, {mine.first - begin, mine.last - begin}) << (mine.first - keys.first);
  }

  Cover cover(const Region& region) const {
    if (region.queries.empty() || region.keys.empty()) return Cover::none;
    const std::size_t first = document_of(region.queries.first), last = document_of(region.queries.last - 1);
    const Span mine{all_->keys[first], all_->keys[last + 1]};
    if (intersect(mine, region.keys).empty()) return Cover::none;
    if (first != last) return Cover::part;
    const Span seen = intersect(mine, region.keys);
    const Index query = all_->queries[first], key = mine.first;
    const Cover inner = all_->inner[first].cover({region.batch,
                                                  region.heads,
                                                  {region.queries.first - query, region.queries.last - query},
                                                  {seen.first - key, seen.last - key}});
    return inner == Cover::full && !mine.contains(region.keys) ? Cover::part : inner;
  }

 private:
  struct Content {
    Boundaries queries, keys;
    std::vector<Inner> inner;  // one a document, bound to its own lengths
  };

  std::size_t document_of(Index query) const {
    const auto& begin = all_->queries;
    return std::size_t(std::upper_bound(begin.begin(), begin.end(), query) - begin.begin()) - 1;
  }

  std::shared_ptr<const Content> all_;
};

template <Mask Inner>
struct Document {
  Boundaries queries;
  Boundaries keys;
  Inner inner;

  auto bind(const char* where, const Shape& shape) const {
    check_boundaries(where, "queries", queries, shape.queries);
    check_boundaries(where, "keys", keys, shape.keys);
    check(queries.size() == keys.size(), where,
          "a document mask needs as many sequences of queries as of keys, wanted ", queries.size() - 1, ", got ",
          keys.size() - 1);
    using Bound = decltype(inner.bind(where, shape));
    std::vector<Bound> bound;
    bound.reserve(queries.size() - 1);
    for (std::size_t d = 0; d + 1 < queries.size(); ++d) {
      Shape local = shape;
      local.queries = queries[d + 1] - queries[d];
      local.keys = keys[d + 1] - keys[d];
      bound.push_back(inner.bind(where, local));
    }
    return BoundDocument<Bound>(queries, keys, std::move(bound));
  }

 private:
  static void check_boundaries(const char* where, const char* axis, const Boundaries& x, Index length) {
    check(!x.empty() && x.front() == 0, where, "the boundaries of the ", axis, " of a document mask must begin with 0");
    check(std::is_sorted(x.begin(), x.end()), where, "the boundaries of the ", axis,
          " of a document mask must not decrease");
    check(x.back() == length, where, "the boundaries of the ", axis, " of a document mask must end with their number, ",
          "wanted ", length, ", got ", x.back());
  }
};

// Query i sees key j when both lie in the same sequence and `inner` says so, with indices, lengths and alignment local
// to the sequence: document(cu_q, cu_k, causal()) is causal attention of packed sequences.
template <Mask Inner = Everything>
Document<Inner> document(Boundaries queries, Boundaries keys, Inner inner = {}) {
  return {std::move(queries), std::move(keys), std::move(inner)};
}

// The same for self-attention: one packed axis.
inline Document<Everything> document(const Boundaries& boundaries) { return {boundaries, boundaries, {}}; }

template <Mask Inner>
Document<Inner> document(const Boundaries& boundaries, Inner inner) {
  return {boundaries, boundaries, std::move(inner)};
}

}  // namespace fovea::inline FOVEA_ISA::mask
