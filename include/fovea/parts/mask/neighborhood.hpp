// A query sees a window of keys around it that is pushed inward at the ends and may move in steps. One axis.
// Hassani et al., "Generalized Neighborhood Attention", 2025, arXiv:2504.16922.
#pragma once

#include <algorithm>

#include <fovea/parts/mask/interval.hpp>

namespace fovea::inline FOVEA_ISA::mask {

struct BoundNeighborhood : MonotoneInterval<BoundNeighborhood> {
  Index window, stride;
  bool causal;
  Index length;

  BoundNeighborhood(Index keys, Index step, bool is_causal, Index tokens)
      : window(keys), stride(step), causal(is_causal), length(tokens) {}

  Span interval(Index query) const {
    // The queries of a stride group share the window of their leader.
    const Index group = query / stride * stride;
    if (causal) {
      const Index leader = std::min(group + stride - 1, length - 1);
      return {std::max<Index>(leader - window + 1, 0), query + 1};
    }
    const Index leader = std::min(group + stride / 2, length - 1);
    const Index first = std::clamp<Index>(leader - window / 2, 0, length - window);
    return {first, first + window};
  }
};

struct Neighborhood {
  Index window = 0;
  Index stride = 1;
  bool causal = false;

  BoundNeighborhood bind(const char* where, const Shape& shape) const {
    check(window > 0, where, "the window must be positive, got ", window);
    check(stride > 0 && stride <= window, where, "the stride must be between 1 and the window, ", window, ", got ",
          stride);
    check(shape.queries == shape.keys, where, "a neighborhood needs as many keys as queries, wanted ", shape.queries,
          ", got ", shape.keys);
    check(window <= shape.keys || shape.keys == 0, where, "the window must not be longer than the keys, ", shape.keys,
          ", got ", window);
    return {window, stride, causal, shape.keys};
  }
};

// Of `length` tokens; queries come in groups of `stride`, the last one may be shorter.
//   not causal   exactly `window` keys, window / 2 (rounded down) of them before the leader, the token stride / 2
//                (rounded down) of the group; moved inward where it would reach past an end
//   causal       the keys from the first of the `window` that end with the last query of the group, to the query; so
//                only that last one sees all `window`
constexpr Neighborhood neighborhood(Index window, Index stride = 1, bool causal = false) {
  return {window, stride, causal};
}

}  // namespace fovea::inline FOVEA_ISA::mask
