// Which tiles of keys, and which bands of queries, have to be looked at.
#pragma once

#include <limits>

#include <fovea/core/function_ref.hpp>
#include <fovea/parts/mask/mask.hpp>

namespace fovea::inline FOVEA_ISA::engine {

// Calls f(i, full) for the pieces i of [first, last) in ascending order, leaving out those whose cover is none.
// cover(a, b) classifies the pieces [a, b) as one: ranges are asked about as a whole before their halves are, so that a
// narrow mask over many pieces costs a logarithm of questions.
inline void visit_pieces(Index first, Index last, FunctionRef<mask::Cover(Index, Index)> cover,
                         FunctionRef<void(Index, bool)> f) {
  Index ends[std::numeric_limits<Index>::digits + 1];  // of the ranges that are still to come, the nearest on top
  int ranges = 0;
  ends[ranges++] = last;
  while (ranges > 0) {
    const Index end = ends[ranges - 1];
    const mask::Cover seen = first < end ? cover(first, end) : mask::Cover::none;
    if (seen == mask::Cover::part && end - first > 1) {
      ends[ranges++] = first + (end - first) / 2;
      continue;
    }
    for (; seen != mask::Cover::none && first < end; ++first) f(first, seen == mask::Cover::full);
    first = end;
    --ranges;
  }
}

// Calls f(Span keys, bool full) for the tiles of `step` keys that some query of the region sees, in ascending order;
// the tiles begin at multiples of step.
template <mask::BoundMask M>
void visit_tiles(const M& mask, const mask::Region& region, Index step, FunctionRef<void(Span, bool)> f) {
  const auto span = [&](Index first, Index last) {
    return Span{first * step, std::min(last * step, region.keys.last)};
  };
  const auto cover = [&](Index first, Index last) {
    mask::Region part = region;
    part.keys = span(first, last);
    return mask.cover(part);
  };
  visit_pieces(region.keys.first / step, (region.keys.last + step - 1) / step, cover,
               [&](Index tile, bool full) { f(span(tile, tile + 1), full); });
}

}  // namespace fovea::inline FOVEA_ISA::engine
