// Functions of a vector: powers of two and the hyperbolic tangent. Nothing from libm.
#pragma once

#include <cmath>

#include <fovea/simd/ops.hpp>

namespace fovea::inline FOVEA_ISA::simd {

inline constexpr long double log2_e = 1.442695040888963407359924681001892137L;

namespace detail {

// Adding `magic` rounds x to an integer n and leaves n + bias in the low bits, so that a shift makes the float 2^n.
template <class T>
struct Exponent;
template <>
struct Exponent<float> {
  static constexpr float magic = 12582912.f + 127.f;  // 1.5 x 2^23 + bias
  static constexpr int mantissa_bits = 23;
  static constexpr float floor = -127.f;  // n + bias = 0: the power is exactly zero
  static constexpr float ceiling = 127.f;
};
template <>
struct Exponent<double> {
  static constexpr double magic = 6755399441055744. + 1023.;  // 1.5 x 2^52 + bias
  static constexpr int mantissa_bits = 52;
  static constexpr double floor = -1023.;
  static constexpr double ceiling = 1023.;
};

template <class T>
struct Power {
  Pack<T> scale;     // 2^n
  Pack<T> fraction;  // f in [-1/2, 1/2]
};

// unit x = n + f, the product unrounded.
template <class T>
[[gnu::always_inline]] inline Power<T> split_power(Pack<T> x, Pack<T> unit) {
  const Pack<T> magic(Exponent<T>::magic);
  const Pack<T> shifted = fma(x, unit, magic);
  return {from_bits<T>(shift_left<Exponent<T>::mantissa_bits, Bits<T>>(as_bits<T>(shifted))),
          fma(x, unit, magic - shifted)};
}

// q(f) near (2^f - 1) / f on [-1/2, 1/2] (Remez), to a relative 1.1e-8 (float) or 2.4e-19 (double), so that both
// 1 + f q(f) and, near zero, f q(f) are right to the last place.
[[gnu::always_inline]] inline Pack<float> power_slope(Pack<float> f) {
  Pack<float> q(0.00015403517991626400059f);
  q = fma(q, f, Pack<float>(0.001339073542099666024f));
  q = fma(q, f, Pack<float>(0.0096182374785684626034f));
  q = fma(q, f, Pack<float>(0.055503574338408495636f));
  q = fma(q, f, Pack<float>(0.24022649795026923547f));
  return fma(q, f, Pack<float>(0.69314718792661489388f));
}

[[gnu::always_inline]] inline Pack<double> power_slope(Pack<double> f) {
  Pack<double> q(2.5678414782904213772e-11);
  q = fma(q, f, Pack<double>(4.4558046505305198259e-10));
  q = fma(q, f, Pack<double>(7.0549322792208111452e-09));
  q = fma(q, f, Pack<double>(1.0178057170526063122e-07));
  q = fma(q, f, Pack<double>(1.3215486721345803256e-06));
  q = fma(q, f, Pack<double>(1.5252733841375877574e-05));
  q = fma(q, f, Pack<double>(0.00015403530393466173835));
  q = fma(q, f, Pack<double>(0.0013333558146406631305));
  q = fma(q, f, Pack<double>(0.0096181291076284369801));
  q = fma(q, f, Pack<double>(0.055504108664821624752));
  q = fma(q, f, Pack<double>(0.24022650695910072183));
  return fma(q, f, Pack<double>(0.69314718055994528623));
}

}  // namespace detail

// A positive number of powers of two in one unit of a score, ready for exp2_weight.
template <class T>
struct PowerUnit {
  T unit;
  T rest;    // what rounding took from unit: it would tilt all weights of a row alike
  T lowest;  // the score whose weight is zero, as is that of every lower one

  explicit PowerUnit(long double powers)
      : unit(T(powers)), rest(T(powers - (long double)(unit))), lowest(detail::Exponent<T>::floor / unit) {}
};

// 2^(unit x) for unit x <= 127 (float) or 1023 (double): the weight of a score x. Within one ulp (without fused
// multiply-add 1.2, and of the rounded product); 2^0 is exactly 1; exactly 0 from half a unit below the smallest normal
// exponent down to -infinity; NaN stays NaN.
template <class T>
[[gnu::always_inline]] inline Pack<T> exp2_weight(Pack<T> x, const PowerUnit<T>& unit) {
  const Pack<T> bounded = at_least(Pack<T>(unit.lowest), x);
  auto [scale, f] = detail::split_power<T>(bounded, Pack<T>(unit.unit));
  if constexpr (std::is_same_v<T, double>) f = fma(bounded, Pack<T>(unit.rest), f);  // in float not worth its time
  return fma(detail::power_slope(f), f, Pack<T>(1)) * scale;
}

// tanh x, within 4 ulp; saturates at +-1 and keeps NaN.
template <class T>
[[gnu::always_inline]] inline Pack<T> tanh(Pack<T> x) {
  // With z = e^(2|x|) - 1, tanh |x| = z / (z + 2). z comes from 2^n (2^f - 1) + (2^n - 1): no cancellation near zero.
  const Pack<T> size = xsimd::abs(x);
  const auto [scale, f] = detail::split_power<T>(at_most(Pack<T>(T(22)), size), Pack<T>(T(2 * log2_e)));
  const Pack<T> z = fma(detail::power_slope(f) * f, scale, scale - Pack<T>(1));
  const Pack<T> t = divide<T>(z, z + Pack<T>(2));
  return xsimd::copysign(t, x);
}

}  // namespace fovea::inline FOVEA_ISA::simd
