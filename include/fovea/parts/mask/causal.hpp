// A query sees the keys at its own position and before it.
#pragma once

#include <fovea/parts/mask/interval.hpp>

namespace fovea::inline FOVEA_ISA::mask {

struct BoundCausal : MonotoneInterval<BoundCausal> {
  Index offset;  // position of query 0

  explicit BoundCausal(Index first) : offset(first) {}
  Span interval(Index query) const { return {0, query + offset + 1}; }
};

struct Causal {
  Alignment alignment = Alignment::bottom_right;
  bool hides = true;  // else every key is seen: a choice at run time that costs no second kernel

  // Query 0 behind the last key sees them all.
  BoundCausal bind(const char*, const Shape& shape) const {
    return BoundCausal(hides ? shape.offset(alignment) : shape.keys);
  }
};

// Key j is seen by query i when j <= i + M - N (bottom_right) or j <= i (top_left).
constexpr Causal causal(Alignment alignment = Alignment::bottom_right) { return {alignment}; }

// The same when wanted, else every key is seen.
constexpr Causal causal_if(bool wanted, Alignment alignment = Alignment::bottom_right) { return {alignment, wanted}; }

}  // namespace fovea::inline FOVEA_ISA::mask
