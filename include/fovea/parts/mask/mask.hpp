// What a mask is: a rule that says which keys a query sees.
//
// A mask is a small value. `bind(where, shape)` checks it against the shape of a call and gives the bound mask, which
// answers
//
//   std::uint64_t seen(Row row, Span keys)   one bit a key, at most 64 keys: bit j is set when the row sees keys.first
//   + j Cover cover(const Region& region)        none, part or full; `part` is always allowed, the others must be true
//
// A mask that treats whole blocks of queries and keys alike may say so with Grain grain(), and tiles are cut along its
// blocks. One that keeps lists of keys may hand them out with each_span(region, f), so that nobody has to look for them
// (Lists, below).
//
// cover() is asked of large regions first and of their halves only where the answer is `part`; seen() only on the
// border.
#pragma once

#include <concepts>
#include <cstdint>

#include <fovea/core/problem.hpp>
#include <fovea/core/site.hpp>
#include <fovea/core/span.hpp>

namespace fovea::inline FOVEA_ISA {

namespace mask {

inline constexpr Index word = 64;  // keys that one call of seen() answers for

struct Region {
  Index batch = 0;
  Span heads;
  Span queries;
  Span keys;
};

enum class Cover { none, part, full };

// Queries, and keys, from a multiple of so many on to the next are treated alike; one says nothing. by_head: the heads
// of a kv head see different keys, and are better not worked on together.
struct Grain {
  Index queries = 1;
  Index keys = 1;
  bool by_head = false;

  constexpr bool operator==(const Grain&) const = default;
};

template <class M>
constexpr Grain grain_of(const M& mask) {
  if constexpr (requires { mask.grain(); }) {
    return mask.grain();
  } else {
    return {};
  }
}

template <class M>
concept BoundMask = requires(const M& m, Row row, Span keys, const Region& region) {
  { m.seen(row, keys) } -> std::same_as<std::uint64_t>;
  { m.cover(region) } -> std::same_as<Cover>;
};

// A bound mask with lists: each_span(region, f) calls f(Span keys, bool full) for ascending spans without overlap that
// hold every key of the region which some of its rows sees; full: every row sees every key of the span.
template <class M>
concept Lists = BoundMask<M> && requires(const M& m, const Region& region) {
  m.each_span(region, [](Span, bool) {});
};

template <class M>
concept Mask = requires(const M& m, const char* where, const Shape& shape) {
  { m.bind(where, shape) } -> BoundMask;
};

// The lowest n bits, 0 <= n <= 64.
constexpr std::uint64_t low_bits(Index n) { return n >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1; }

// The bits of the keys (at most 64) that lie in `seen`.
constexpr std::uint64_t bits_of(Span seen, Span keys) {
  const Span both = intersect(seen, keys);
  return both.empty() ? 0 : low_bits(both.last - keys.first) & ~low_bits(both.first - keys.first);
}

// Whether a row sees a key.
template <BoundMask M>
bool sees(const M& mask, Site site) {
  return (mask.seen({site.batch, site.head, site.query}, {site.key, site.key + 1}) & 1) != 0;
}

// Every key.
struct Everything {
  Everything bind(const char*, const Shape&) const { return {}; }
  std::uint64_t seen(Row, Span keys) const { return low_bits(keys.size()); }
  Cover cover(const Region&) const { return Cover::full; }
};

}  // namespace mask
}  // namespace fovea::inline FOVEA_ISA
