// One mask for some heads and another for the rest.
#pragma once

#include <utility>
#include <vector>

#include <fovea/parts/mask/mask.hpp>

namespace fovea::inline FOVEA_ISA::mask {

template <BoundMask A, BoundMask B>
struct BoundByHead {
  std::vector<bool> chosen;
  A a;
  B b;

  std::uint64_t seen(Row row, Span keys) const {
    return chosen[std::size_t(row.head)] ? a.seen(row, keys) : b.seen(row, keys);
  }

  Cover cover(const Region& region) const {
    Index with_a = 0;
    for (Index h = region.heads.first; h < region.heads.last; ++h) with_a += chosen[std::size_t(h)] ? 1 : 0;
    if (with_a == region.heads.size()) return a.cover(region);
    const Cover rest = b.cover(region);
    if (with_a == 0 || rest == Cover::part) return rest;
    return a.cover(region) == rest ? rest : Cover::part;
  }
};

template <Mask A, Mask B>
struct ByHead {
  std::vector<bool> chosen;
  A a;
  B b;

  auto bind(const char* where, const Shape& shape) const {
    check(Index(chosen.size()) == shape.heads, where, "a mask by head needs one flag for each head, wanted ",
          shape.heads, ", got ", chosen.size());
    using Bound = BoundByHead<decltype(a.bind(where, shape)), decltype(b.bind(where, shape))>;
    return Bound{chosen, a.bind(where, shape), b.bind(where, shape)};
  }
};

// Query heads h with chosen[h] see what a says, the others what b says; [H]. Query heads of one key head share its
// tiles: where they differ, a tile is visited when one of them sees it.
template <Mask A, Mask B>
ByHead<A, B> by_head(std::vector<bool> chosen, A a, B b) {
  return {std::move(chosen), std::move(a), std::move(b)};
}

}  // namespace fovea::inline FOVEA_ISA::mask
