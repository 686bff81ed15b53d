// Every query sees the leading keys.
#pragma once

#include <fovea/parts/mask/interval.hpp>

namespace fovea::inline FOVEA_ISA::mask {

struct BoundPrefix : MonotoneInterval<BoundPrefix> {
  Index keys;

  explicit BoundPrefix(Index leading) : keys(leading) {}
  Span interval(Index) const { return {0, keys}; }
};

struct Prefix {
  Index keys = 0;

  BoundPrefix bind(const char* where, const Shape&) const {
    check(keys >= 0, where, "the prefix must not be negative, got ", keys);
    return BoundPrefix(keys);
  }
};

// Key j is seen when j < keys. Joined with | it adds leading tokens to another mask: causal() | prefix(n) is a prefix
// LM.
constexpr Prefix prefix(Index keys) { return {keys}; }

}  // namespace fovea::inline FOVEA_ISA::mask
