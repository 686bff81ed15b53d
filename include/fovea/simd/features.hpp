// Functions of rows that feature maps are made of. Rows are any length and alignment; nothing behind a row is read, and
// what is written goes up to whole vectors.
#pragma once

#include <fovea/simd/math.hpp>

namespace fovea::inline FOVEA_ISA::simd {

namespace detail {

// log2(e) x = n + f; 2^n and f in [-1/2, 1/2].
template <class T>
[[gnu::always_inline]] inline Power<T> split_natural(Pack<T> x) {
  constexpr T unit = T(log2_e);
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
  constexpr T rest = T(log2_e - (long double)(unit));
  const auto [scale, f] = split_power<T>(x, Pack<T>(unit));
  return {scale, fma(x, Pack<T>(rest), f)};
#else
  // n ln 2 is taken off in two parts; the product with the first, of few bits, is not rounded.
  constexpr T high = std::is_same_v<T, float> ? T(0.693359375) : T(0.693145751953125);
  constexpr T low = T(0.693147180559945309417232121458176568L - (long double)(high));
  const Pack<T> magic(Exponent<T>::magic), shifted = x * Pack<T>(unit) + magic, n = shifted - magic;
  const Pack<T> r = (x - n * Pack<T>(high)) - n * Pack<T>(low);
  return {from_bits<T>(shift_left<Exponent<T>::mantissa_bits, Bits<T> >(as_bits<T>(shifted))), r * Pack<T>(unit)};
#endif
}

}  // namespace detail

// e^x for x up to about 88 (float) or 709 (double), within two ulp: zero below the normal numbers, NaN where x is NaN,
// exactly one at zero.
template <class T>
[[gnu::always_inline]] inline Pack<T> exp_in_range(Pack<T> x) {
  constexpr T lowest = T((long double)(detail::Exponent<T>::floor) / log2_e);
  const auto [scale, f] = detail::split_natural<T>(at_least(Pack<T>(lowest), x));
  return fma(detail::power_slope(f), f, Pack<T>(1)) * scale;
}

// The same for any x: infinite from 2^127.5 (float) or 2^1023.5 (double) up.
template <class T>
[[gnu::always_inline]] inline Pack<T> exp(Pack<T> x) {
  constexpr T highest = T((long double)(detail::Exponent<T>::ceiling + 1) / log2_e);
  return exp_in_range<T>(at_most(Pack<T>(highest), x));
}

// to[j] = f(x[j]) for vectors of x; to has room for whole vectors.
template <class T, class F>
[[gnu::always_inline]] inline void map_row(const T* x, Index n, T* to, F&& f) {
  Index j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) store(to + j, f(load(x + j)));
  if (j < n) store(to + j, f(load_some(x + j, n - j)));
}

// y[j] = factor y[j] + added, and minus[j] = -factor y[j] + added for what y was.
template <class T>
inline void mirror(T* y, T* minus, Index n, T factor, T added) {
  const Pack<T> times(factor), plus(added);
  Index j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) {
    const Pack<T> v = load(y + j) * times;
    store(y + j, plus + v);
    store(minus + j, plus - v);
  }
  if (j < n) {
    const Pack<T> v = load_some(y + j, n - j) * times;
    store_some(y + j, plus + v, n - j);
    store_some(minus + j, plus - v, n - j);
  }
}

// The largest of n elements, -infinity for none; unspecified when one is NaN.
template <class T>
inline T largest(const T* x, Index n) {
  Pack<T> most(-infinity<T>);
  Index j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) most = max(most, load(x + j));
  if (j < n) most = max(most, load_some(x + j, n - j, -infinity<T>));
  return max_of_lanes<T>(most);
}

// Sum of n elements.
template <class T>
inline T total(const T* x, Index n) {
  Pack<T> sum(T(0));
  Index j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) sum = sum + load(x + j);
  if (j < n) sum = sum + load_some(x + j, n - j);
  return sum_of_lanes<T>(sum);
}

namespace detail {

template <int vectors, class T>
inline void add_row_vectors(Index count, const T* rows, Index stride, T* sum) {
  Pack<T> even[vectors], odd[vectors];
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) even[v] = odd[v] = Pack<T>(T(0));
  Index i = 0;
  for (; i + 1 < count; i += 2) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      even[v] = even[v] + load(rows + i * stride + v * lanes<T>);
      odd[v] = odd[v] + load(rows + (i + 1) * stride + v * lanes<T>);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) {
    if (i < count) even[v] = even[v] + load(rows + i * stride + v * lanes<T>);
    store(sum + v * lanes<T>, load(sum + v * lanes<T>) + (even[v] + odd[v]));
  }
}

}  // namespace detail

// sum[j] += element j of `count` rows of n elements.
template <class T>
inline void add_rows(Index count, Index n, const T* rows, Index stride, T* sum) {
  Index j = 0;
  for (; j + 4 * lanes<T> <= n; j += 4 * lanes<T>) detail::add_row_vectors<4>(count, rows + j, stride, sum + j);
  for (; j + lanes<T> <= n; j += lanes<T>) detail::add_row_vectors<1>(count, rows + j, stride, sum + j);
  for (; j < n; ++j) {
    T rest = T(0);
    for (Index i = 0; i < count; ++i) rest += rows[i * stride + j];
    sum[j] += rest;
  }
}

// Sum of the squares of n elements.
template <class T>
inline T square_norm(const T* x, Index n) {
  Pack<T> sum(T(0));
  Index j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) sum = fma(load(x + j), load(x + j), sum);
  if (j < n) sum = fma(load_some(x + j, n - j), load_some(x + j, n - j), sum);
  return sum_of_lanes<T>(sum);
}

}  // namespace fovea::inline FOVEA_ISA::simd
