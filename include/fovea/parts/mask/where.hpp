// Any rule of the user's: a predicate on (batch, head, query, key).
#pragma once

#include <utility>

#include <fovea/parts/mask/mask.hpp>

namespace fovea::inline FOVEA_ISA::mask {

template <class Predicate>
struct Where {
  Predicate predicate;

  Where bind(const char*, const Shape&) const { return *this; }

  std::uint64_t seen(Row row, Span keys) const {
    std::uint64_t bits = 0;
    for (Index j = 0; j < keys.size(); ++j) {
      const bool sees = predicate(Site{row.batch, row.head, row.query, keys.first + j});
      bits |= std::uint64_t{sees} << j;
    }
    return bits;
  }
  Cover cover(const Region&) const { return Cover::part; }
};

// predicate(Site{batch, head, query, key}) says whether the key is seen. It is asked for every pair that the masks
// joined with it do not settle, possibly more than once and from several threads.
template <class Predicate>
Where<Predicate> where(Predicate predicate) {
  static_assert(std::is_invocable_r_v<bool, const Predicate&, Site>,
                "fovea: mask::where takes a predicate callable as bool(fovea::Site)");
  return {std::move(predicate)};
}

}  // namespace fovea::inline FOVEA_ISA::mask
