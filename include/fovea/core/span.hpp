// Half-open ranges of indices.
#pragma once

#include <algorithm>

#include <fovea/core/config.hpp>

namespace fovea::inline FOVEA_ISA {

struct Span {
  Index first = 0;
  Index last = 0;  // one past the end

  constexpr Index size() const { return last - first; }
  constexpr bool empty() const { return last <= first; }
  constexpr bool contains(Span other) const { return first <= other.first && other.last <= last; }
  constexpr bool operator==(const Span&) const = default;
};

constexpr Span intersect(Span a, Span b) {
  const Index first = std::max(a.first, b.first);
  return {first, std::max(first, std::min(a.last, b.last))};
}

// The smallest span that holds both; an empty span adds nothing.
constexpr Span hull(Span a, Span b) {
  if (a.empty()) return b;
  if (b.empty()) return a;
  return {std::min(a.first, b.first), std::max(a.last, b.last)};
}

}  // namespace fovea::inline FOVEA_ISA
