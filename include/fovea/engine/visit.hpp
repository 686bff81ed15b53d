// Which tiles of keys a group of queries has to look at.
#pragma once

#include <fovea/parts/mask/mask.hpp>

namespace fovea::inline FOVEA_ISA::engine {

// Calls f(Span keys, bool full) for the tiles of `step` keys that some query of the region sees, in ascending order;
// the tiles begin at multiples of step. Ranges are asked about as a whole before their halves are, so a narrow mask
// over many keys costs a logarithm of questions.
template <mask::BoundMask M, class F>
void visit_tiles(const M& mask, const mask::Region& region, Index step, F&& f) {
  struct Walk {
    const M& mask;
    mask::Region region;
    Index all;
    Index step;
    F& f;

    void range(Index first, Index last, mask::Cover cover) {  // tiles [first, last)
      if (first >= last) return;
      if (cover == mask::Cover::part) {
        region.keys = span(first, last);
        cover = mask.cover(region);
      }
      if (cover == mask::Cover::none) return;
      if (cover == mask::Cover::full) {
        for (Index t = first; t < last; ++t) f(span(t, t + 1), true);
      } else if (last - first == 1) {
        f(span(first, last), false);
      } else {
        const Index middle = first + (last - first) / 2;
        range(first, middle, cover);
        range(middle, last, cover);
      }
    }
    Span span(Index first, Index last) const { return {first * step, std::min(last * step, all)}; }
  };
  const Index first = region.keys.first / step, last = (region.keys.last + step - 1) / step;
  Walk{mask, region, region.keys.last, step, f}.range(first, last, mask::Cover::part);
}

}  // namespace fovea::inline FOVEA_ISA::engine
