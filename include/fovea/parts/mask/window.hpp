// A query sees the last `keys` keys up to its own position, its own key included.
#pragma once

#include <limits>

#include <fovea/parts/mask/interval.hpp>

namespace fovea::inline FOVEA_ISA::mask {

struct BoundWindow : MonotoneInterval<BoundWindow> {
  Index keys;
  Index offset;  // position of query 0

  BoundWindow(Index most, Index first) : keys(most), offset(first) {}
  Span interval(Index query) const { return {query + offset - keys + 1, std::numeric_limits<Index>::max()}; }
};

struct Window {
  Index keys = 0;
  Alignment alignment = Alignment::bottom_right;

  BoundWindow bind(const char* where, const Shape& shape) const {
    check(keys > 0, where, "the window must be positive, got ", keys);
    return {std::min(keys, shape.queries + shape.keys), shape.offset(alignment)};  // no longer than any distance
  }
};

// Key j is seen by the query at position p when p - j < keys. The keys after p are not hidden: join it with causal().
constexpr Window window(Index keys, Alignment alignment = Alignment::bottom_right) { return {keys, alignment}; }

}  // namespace fovea::inline FOVEA_ISA::mask
