// The rows of a tile of queries: which query of which head a row is.
#pragma once

#include <fovea/parts/mask/mask.hpp>

namespace fovea::inline FOVEA_ISA::engine {

// `group` query heads of one kv head are rows of the same tile, query by query: row r is query first + r / group of
// head first_head + r % group.
struct TileRows {
  Index batch = 0;
  Index kv_head = 0;
  Index first_head = 0;
  Index group = 1;
  Span queries;

  Index count() const { return queries.size() * group; }

  // Calls f(r, Row) for the rows [first, last) that there are.
  template <class F>
  void each(Index first, Index last, F&& f) const {
    const Index end = std::min(last, count());
    if (first >= end) return;
    Index query = queries.first + first / group, head = first % group;
    for (Index r = first; r < end; ++r) {
      f(r, Row{batch, first_head + head, query});
      if (++head == group) {
        head = 0;
        ++query;
      }
    }
  }

  // What rows [first, last) of the tile and `keys` cover; last is cut to the rows there are.
  mask::Region region(Index first, Index last, Span keys) const {
    const Index end = std::min(last, count());
    return {batch,
            {first_head, first_head + group},
            {queries.first + first / group, queries.first + (end - 1) / group + 1},
            keys};
  }
};

}  // namespace fovea::inline FOVEA_ISA::engine
