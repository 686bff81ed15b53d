// What a feature map is: phi takes a query or key of D numbers to F features, and a kernelised method weighs a value by
// phi(q_i) . phi(k_j).
//
// A map is a small value. `bind<T>(where, shape, dim)` checks it against a call and gives the bound map,
//
//   Index width()                                          F
//   void operator()<side>(const T* x, Index stride, Index count, T* to, Index to_stride, Row first)
//
// which maps the `count` consecutive tokens of one head that begin with token first.query, rows of D numbers `stride`
// apart, to rows of F numbers `to_stride` apart. first.head is a query head for Side::query and a kv head for
// Side::key. to_stride is whole<T>(F) at least; what stands behind the F features of a row is unspecified. `to` is not
// `x`.
//
// signed_features says that features may be negative: their sums are nothing to divide by.
#pragma once

#include <concepts>

#include <fovea/core/problem.hpp>
#include <fovea/core/site.hpp>

namespace fovea::inline FOVEA_ISA::feature {

enum class Side { query, key };

template <class B, class T>
concept BoundFeature = requires(const B& bound, const T* x, T* to, Index n, Row first) {
  { bound.width() } -> std::same_as<Index>;
  bound.template operator()<Side::query>(x, n, n, to, n, first);
  bound.template operator()<Side::key>(x, n, n, to, n, first);
};

template <class F, class T = float>
concept Feature = requires(const F& f, const char* where, const Shape& shape, Index dim) {
  { f.template bind<T>(where, shape, dim) } -> BoundFeature<T>;
};

// Whether features of the map may be negative.
template <class F>
constexpr bool has_signed_features() {
  if constexpr (requires { F::signed_features; }) {
    return F::signed_features;
  } else {
    return false;
  }
}

}  // namespace fovea::inline FOVEA_ISA::feature
