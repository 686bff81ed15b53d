// A query sees the keys up to a distance from its position, on both sides.
#pragma once

#include <fovea/parts/mask/interval.hpp>

namespace fovea::inline FOVEA_ISA::mask {

struct BoundBand : MonotoneInterval<BoundBand> {
  Index distance;
  Index offset;  // position of query 0

  BoundBand(Index farthest, Index first) : distance(farthest), offset(first) {}
  Span interval(Index query) const { return {query + offset - distance, query + offset + distance + 1}; }
};

struct Band {
  Index distance = 0;
  Alignment alignment = Alignment::bottom_right;

  BoundBand bind(const char* where, const Shape& shape) const {
    check(distance >= 0, where, "the distance must not be negative, got ", distance);
    return {std::min(distance, shape.queries + shape.keys), shape.offset(alignment)};  // no longer than any distance
  }
};

// Key j is seen by the query at position p when |p - j| <= distance. The own key does not count: 2 distance + 1 keys
// are seen, fewer at the ends. (A window counts it: causal() & window(w) is the lower half of band(w - 1).)
constexpr Band band(Index distance, Alignment alignment = Alignment::bottom_right) { return {distance, alignment}; }

}  // namespace fovea::inline FOVEA_ISA::mask
