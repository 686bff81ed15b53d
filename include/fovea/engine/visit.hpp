// Which tiles of keys, and which bands of queries, have to be looked at.
#pragma once

#include <fovea/parts/mask/mask.hpp>

namespace fovea::inline FOVEA_ISA::engine {

// Calls f(i, full) for the pieces i of [first, last) in ascending order, leaving out those whose cover is none.
// cover(a, b) classifies the pieces [a, b) as one: ranges are asked about as a whole before their halves are, so that a
// narrow mask over many pieces costs a logarithm of questions.
template <class Cover, class F>
void visit_pieces(Index first, Index last, Cover&& cover, F&& f) {
  if (first >= last) return;
  const auto seen = cover(first, last);
  if (seen == mask::Cover::none) return;
  if (seen == mask::Cover::part && last - first > 1) {
    const Index middle = first + (last - first) / 2;
    visit_pieces(first, middle, cover, f);
    visit_pieces(middle, last, cover, f);
    return;
  }
  for (Index i = first; i < last; ++i) f(i, seen == mask::Cover::full);
}

// Calls f(Span keys, bool full) for the tiles of `step` keys that some query of the region sees, in ascending order;
// the tiles begin at multiples of step.
template <mask::BoundMask M, class F>
void visit_tiles(const M& mask, const mask::Region& region, Index step, F&& f) {
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
