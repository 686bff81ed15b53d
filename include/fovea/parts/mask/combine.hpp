// Masks joined by & | !.
#pragma once

#include <numeric>

#include <fovea/parts/mask/mask.hpp>

namespace fovea::inline FOVEA_ISA::mask {

// The blocks of two masks joined: those of the one that has any, or what fits both.
constexpr Grain join(const Grain& a, const Grain& b) {
  const auto one = [](Index x, Index y) { return x == 1 ? y : y == 1 ? x : std::gcd(x, y); };
  return {one(a.queries, b.queries), one(a.keys, b.keys), a.by_head || b.by_head};
}

template <BoundMask A, BoundMask B>
struct BoundBoth {
  A a;
  B b;

  std::uint64_t seen(Row row, Span keys) const { return a.seen(row, keys) & b.seen(row, keys); }
  Cover cover(const Region& region) const {
    const Cover first = a.cover(region);
    if (first == Cover::none) return first;
    const Cover second = b.cover(region);
    if (second == Cover::none) return second;
    return first == Cover::full ? second : Cover::part;
  }
  Grain grain() const { return join(grain_of(a), grain_of(b)); }

  template <class F>
  void each_span(const Region& region, F&& f) const requires Lists<A> || Lists<B> {
    const auto joined = [&](const auto& lists, const auto& other) {
      lists.each_span(region, [&](Span keys, bool full) {
        Region part = region;
        part.keys = keys;
        const Cover cover = other.cover(part);
        if (cover != Cover::none) f(keys, full && cover == Cover::full);
      });
    };
    if constexpr (Lists<A>) {
      joined(a, b);
    } else {
      joined(b, a);
    }
  }
};

template <BoundMask A, BoundMask B>
struct BoundEither {
  A a;
  B b;

  std::uint64_t seen(Row row, Span keys) const { return a.seen(row, keys) | b.seen(row, keys); }
  Cover cover(const Region& region) const {
    const Cover first = a.cover(region);
    if (first == Cover::full) return first;
    const Cover second = b.cover(region);
    if (second == Cover::full) return second;
    return first == Cover::none ? second : Cover::part;
  }
  Grain grain() const { return join(grain_of(a), grain_of(b)); }
};

template <BoundMask A>
struct BoundNot {
  A a;

  std::uint64_t seen(Row row, Span keys) const { return ~a.seen(row, keys) & low_bits(keys.size()); }
  Cover cover(const Region& region) const {
    const Cover inner = a.cover(region);
    return inner == Cover::none ? Cover::full : inner == Cover::full ? Cover::none : Cover::part;
  }
  Grain grain() const { return grain_of(a); }
};

template <Mask A, Mask B>
struct Both {
  A a;
  B b;

  auto bind(const char* where, const Shape& shape) const {
    return BoundBoth<decltype(a.bind(where, shape)), decltype(b.bind(where, shape))>{a.bind(where, shape),
                                                                                     b.bind(where, shape)};
  }
};

template <Mask A, Mask B>
struct Either {
  A a;
  B b;

  auto bind(const char* where, const Shape& shape) const {
    return BoundEither<decltype(a.bind(where, shape)), decltype(b.bind(where, shape))>{a.bind(where, shape),
                                                                                       b.bind(where, shape)};
  }
};

template <Mask A>
struct Not {
  A a;

  auto bind(const char* where, const Shape& shape) const {
    return BoundNot<decltype(a.bind(where, shape))>{a.bind(where, shape)};
  }
};

// Seen by both.
template <Mask A, Mask B>
constexpr Both<A, B> operator&(const A& a, const B& b) {
  return {a, b};
}

// Seen by either.
template <Mask A, Mask B>
constexpr Either<A, B> operator|(const A& a, const B& b) {
  return {a, b};
}

// Seen where a does not see. In front of & and | write (!a): g++ takes a bare ! there for a slip.
template <Mask A>
constexpr Not<A> operator!(const A& a) {
  return {a};
}

}  // namespace fovea::inline FOVEA_ISA::mask
