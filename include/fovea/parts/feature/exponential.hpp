// Maps that are exponentials of something, kept within the range of numbers by shifts of the exponents:
//
//   phi(q_i) = factor (e^(y(q_i) - a_i) + added)     a_i the largest exponent of the token
//   phi(k_j) = factor (e^(y(k_j) - b_j) + added)     b_j from outside; zero when there is none
//
// The shift of a query cancels in a quotient of sums, up to what is added. That of a key weighs the key: it must be the
// same for all keys, or whoever sums must shrink what was summed with another shift. engine/kernelised.hpp does both.
#pragma once

#include <type_traits>

#include <fovea/parts/feature/identity.hpp>
#include <fovea/simd/features.hpp>

namespace fovea::inline FOVEA_ISA::feature {

// Whether keys of the map want a shift: the map is an exponential.
template <class F>
constexpr bool wants_shift() {
  if constexpr (requires { F::exponential; }) {
    return F::exponential;
  } else {
    return false;
  }
}

// Exponents is a bound map to y; or to rows p with y = unit() p - offset(x), unit() not negative.
template <class T, class Exponents>
struct BoundExponential {
  static constexpr bool affine = requires(const Exponents& e, const T* x) { e.unit(), e.offset(x); };

  Exponents exponents;
  T factor = T(1);
  T added = T(0);
  View<const T> shift = {};  // b [B,G,M,1]

  Index width() const { return exponents.width(); }

  template <Side side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row first) const {
    constexpr bool as_they_are = std::is_same_v<Exponents, BoundIdentity<T>>;
    if constexpr (!as_they_are) exponents.template operator()<side>(x, stride, count, to, to_stride, first);
    const Index n = width();
    const simd::Pack<T> f(factor), constant(factor * added), times(unit());
    for (Index i = 0; i < count; ++i) {
      T* const row = to + i * to_stride;
      const T* const from = as_they_are ? x + i * stride : row;
      T taken = T(0);  // from unit p; the offset of a query is part of its shift
      if constexpr (side == Side::query) {
        taken = simd::largest(from, n) * unit();
      } else {
        if (shift.data != nullptr) taken = *shift.row(first.batch, first.head, first.query + i);
        if (taken == -simd::infinity<T>) taken = T(0);
        taken += offset(x + i * stride);
      }
      if (taken == -simd::infinity<T>) taken = T(0);
      const simd::Pack<T> least(-taken);
      simd::map_row(from, n, row, [=](simd::Pack<T> p) {
        return fma(simd::exp<T>(affine ? fma(p, times, least) : p + least), f, constant);
      });
    }
  }

  // most[i] = the largest exponent of key i; scratch has count rows, scratch_stride apart, for the exponents.
  void largest_exponents(const T* x, Index stride, Index count, T* scratch, Index scratch_stride, Row first,
                         T* most) const {
    constexpr bool as_they_are = std::is_same_v<Exponents, BoundIdentity<T>>;
    if constexpr (!as_they_are)
      exponents.template operator()<Side::key>(x, stride, count, scratch, scratch_stride, first);
    for (Index i = 0; i < count; ++i) {
      const T* const row = as_they_are ? x + i * stride : scratch + i * scratch_stride;
      most[i] = simd::largest(row, width()) * unit() - offset(x + i * stride);
    }
  }

 private:
  T unit() const {
    if constexpr (affine) {
      return exponents.unit();
    } else {
      return T(1);
    }
  }
  T offset(const T* x) const {
    if constexpr (affine) {
      return exponents.offset(x);
    } else {
      return T(0);
    }
  }
};

// An exponential with shifts b [B,G,M,1] of its keys.
template <class Phi, class T>
struct Shifted {
  Phi inner;
  View<const T> shift;

  template <class Scalar>
  auto bind(const char* where, const Shape& shape, Index dim) const {
    auto bound = inner.template bind<Scalar>(where, shape, dim);
    bound.shift = shift;
    return bound;
  }
};

template <class Phi, class T>
Shifted<Phi, T> shifted(const Phi& phi, View<const T> shift) {
  static_assert(wants_shift<Phi>(), "fovea: only exponential feature maps take a shift");
  return {phi, shift};
}

}  // namespace fovea::inline FOVEA_ISA::feature
