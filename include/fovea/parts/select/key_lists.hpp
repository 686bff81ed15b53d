// A selection of keys: for each query of each head the list of the keys it attends to.
#pragma once

#include <algorithm>
#include <vector>

#include <fovea/core/problem.hpp>
#include <fovea/core/span.hpp>

namespace fovea::inline FOVEA_ISA::select {

// Lists of keys in ascending order, for each batch, each query or kv head (or one for all heads), and each query. A
// plain object: make it once, keep it, copy it, use it in several layers or steps.
struct KeyLists {
  Index batch = 0;
  Index heads = 0;              // query heads, kv heads or 1
  Index queries = 0;            // queries of a sequence
  std::vector<Index> begin{0};  // [batch x heads x queries + 1] where the list of a query begins
  std::vector<Index> keys{};    // the lists, one behind the other

  // Where the list of a query stands in `keys`.
  Span list(Index b, Index h, Index query) const {
    const std::size_t at = std::size_t((b * heads + h) * queries + query);
    return {begin[at], begin[at + 1]};
  }

  // lists[(b * heads + h) * queries + i] are the keys of query i, in any order.
  static KeyLists from_lists(Index batch, Index heads, Index queries, std::vector<std::vector<Index>> lists) {
    constexpr auto where = "fovea::select::KeyLists::from_lists";
    check(batch >= 0 && heads >= 0 && queries >= 0, where, "extents must not be negative, got ", batch, ", ", heads,
          " and ", queries);
    check(Index(lists.size()) == batch * heads * queries, where, "there must be a list for each query, wanted ",
          batch * heads * queries, ", got ", lists.size());
    KeyLists result{batch, heads, queries, {0}, {}};
    for (auto& list : lists) {
      std::sort(list.begin(), list.end());
      result.keys.insert(result.keys.end(), list.begin(), list.end());
      result.begin.push_back(Index(result.keys.size()));
    }
    return result;
  }

  // Length of the longest list.
  Index longest() const {
    Index most = 0;
    for (std::size_t i = 1; i < begin.size(); ++i) most = std::max(most, begin[i] - begin[i - 1]);
    return most;
  }

  // Refuses lists that do not fit a call: of another shape, with a key that is not there or stands twice.
  void check_for(const char* where, const Shape& shape) const {
    check(batch == shape.batch && queries == shape.queries, where,
          "the lists must have the batch and the queries of q, wanted ", shape.batch, " and ", shape.queries, ", got ",
          batch, " and ", queries);
    check(heads == shape.heads || heads == shape.kv_heads || heads == 1, where,
          "the lists must have the heads of q, those of k, or one, wanted ", shape.heads, ", ", shape.kv_heads,
          " or 1, got ", heads);
    const Index lists = batch * heads * queries;
    check(Index(begin.size()) == lists + 1 && begin.front() == 0 && begin.back() == Index(keys.size()) &&
              std::is_sorted(begin.begin(), begin.end()),
          where, "the lists must cover their keys in order, ", lists, " lists of ", keys.size(), " keys in all");
    for (Index i = 0; i < lists; ++i) {
      Index last = -1;
      for (Index n = begin[std::size_t(i)]; n < begin[std::size_t(i) + 1]; ++n) {
        const Index key = keys[std::size_t(n)];
        check(key >= 0 && key < shape.keys, where, "a key must lie among the ", shape.keys, " keys, got ", key);
        check(key > last, where, "the keys of a list must ascend and none stand twice, got ", key, " after ", last);
        last = key;
      }
    }
  }
};

}  // namespace fovea::inline FOVEA_ISA::select
