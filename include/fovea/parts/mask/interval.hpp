// Masks of one interval of keys a query whose two ends never move back as the query advances: causal, window and
// prefix.
#pragma once

#include <fovea/parts/mask/mask.hpp>

namespace fovea::inline FOVEA_ISA::mask {

// Base of a bound mask; Derived gives Span interval(Index query).
template <class Derived>
struct MonotoneInterval {
  std::uint64_t seen(Row row, Span keys) const { return bits_of(self().interval(row.query), keys); }

  Cover cover(const Region& region) const {
    if (region.queries.empty() || region.keys.empty()) return Cover::none;
    const Span first = self().interval(region.queries.first);
    const Span last = self().interval(region.queries.last - 1);
    if (first.contains(region.keys) && last.contains(region.keys)) return Cover::full;
    const Span all{first.first, last.last};
    return intersect(all, region.keys).empty() ? Cover::none : Cover::part;
  }

 private:
  const Derived& self() const { return static_cast<const Derived&>(*this); }
};

}  // namespace fovea::inline FOVEA_ISA::mask
