// Learned features that mimic softmax: y = W x + b in each head, and F = 2 D features of [y, -y].
// Zhang et al., "The Hedgehog & the Porcupine", ICLR 2024, arXiv:2402.04347.
//
//   hedgehog           phi = [softmax(y), softmax(-y)], no feature below 1e-12
//   hedgehog_joint     phi = softmax([2 y, -2 y])
//   hedgehog_exp       phi = [e^y, e^-y], with shifts that keep it in range (exponential.hpp); the form of the paper
#pragma once

#include <fovea/parts/feature/exponential.hpp>
#include <fovea/parts/feature/projection.hpp>
#include <fovea/parts/feature/softmax.hpp>

namespace fovea::inline FOVEA_ISA::feature {

namespace detail {

// The projections of queries and keys of a call.
template <class T>
struct BoundSides {
  BoundProjection<T> query, key;

  template <Side side>
  const BoundProjection<T>& of() const {
    if constexpr (side == Side::query) {
      return query;
    } else {
      return key;
    }
  }
};

// Matrices for queries, one or as many as kv heads or query heads, and for keys, one or as many as kv heads.
struct Sides {
  Projection query, key;

  template <class T>
  BoundSides<T> bind(const char* where, const Shape& shape, Index dim) const {
    check(query.out() == key.out(), where, "queries and keys must get as many features, got ", query.out(), " and ",
          key.out());
    return {query.bind<T>(where, shape.heads, dim), key.bind<T>(where, shape.kv_heads, dim)};
  }
};

}  // namespace detail

// [softmax(y), softmax(-y)], or the softmax of [2 y, -2 y] when joint.
template <class T, bool joint>
struct BoundHedgehog {
  detail::BoundSides<T> sides;

  Index width() const { return 2 * sides.key.out; }

  template <Side side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row first) const {
    sides.template of<side>().template operator()<side>(x, stride, count, to, to_stride, first);
    const Index n = sides.key.out;
    for (Index i = 0; i < count; ++i) {
      T* const row = to + i * to_stride;
      simd::mirror(row, row + n, n, joint ? T(2) : T(1), T(0));
      if constexpr (joint) {
        detail::softmax_row(row, 2 * n, row);
      } else {
        detail::softmax_row(row, n, row);
        detail::softmax_row(row + n, n, row + n);
        simd::map_row(row, 2 * n, row, [](simd::Pack<T> v) { return simd::at_least(simd::Pack<T>(T(1e-12)), v); });
      }
    }
  }
};

template <bool joint>
struct Hedgehog {
  detail::Sides sides;

  template <class T>
  BoundHedgehog<T, joint> bind(const char* where, const Shape& shape, Index dim) const {
    return {sides.bind<T>(where, shape, dim)};
  }
};

// The exponents [y, -y].
template <class T>
struct BoundMirror {
  detail::BoundSides<T> sides;

  Index width() const { return 2 * sides.key.out; }

  template <Side side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row first) const {
    sides.template of<side>().template operator()<side>(x, stride, count, to, to_stride, first);
    const Index n = sides.key.out;
    for (Index i = 0; i < count; ++i) simd::mirror(to + i * to_stride, to + i * to_stride + n, n, T(1), T(0));
  }
};

struct HedgehogExp {
  static constexpr bool exponential = true;

  detail::Sides sides;

  template <class T>
  BoundExponential<T, BoundMirror<T>> bind(const char* where, const Shape& shape, Index dim) const {
    return {BoundMirror<T>{sides.bind<T>(where, shape, dim)}};
  }
};

// One projection for queries and keys, with one matrix or one for each kv head; or one for queries, which may have one
// for each query head, and one for keys.
inline Hedgehog<false> hedgehog(const Projection& both) { return {{both, both}}; }
inline Hedgehog<false> hedgehog(const Projection& query, const Projection& key) { return {{query, key}}; }
inline Hedgehog<true> hedgehog_joint(const Projection& both) { return {{both, both}}; }
inline Hedgehog<true> hedgehog_joint(const Projection& query, const Projection& key) { return {{query, key}}; }
inline HedgehogExp hedgehog_exp(const Projection& both) { return {{both, both}}; }
inline HedgehogExp hedgehog_exp(const Projection& query, const Projection& key) { return {{query, key}}; }

}  // namespace fovea::inline FOVEA_ISA::feature
