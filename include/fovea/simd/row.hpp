// Functions of a row in memory, any length and alignment; nothing behind the row is read or written.
#pragma once

#include <fovea/simd/math.hpp>
#include <fovea/simd/widen.hpp>

namespace fovea::inline FOVEA_ISA::simd {

// x[j] = f(x[j], j) for vectors of x; j is the index of the first lane.
template <class T, class F>
[[gnu::always_inline]] inline void transform(T* x, Index n, F&& f) {
  if (n < lanes<T>) {
    if (n > 0) store_some(x, f(load_some(x, n), Index{0}), n);
    return;
  }
  // The last vector overlaps the one before it, so it is computed from what was there.
  const Pack<T> last = f(load(x + n - lanes<T>), n - lanes<T>);
  for (Index j = 0; j + lanes<T> < n; j += lanes<T>) store(x + j, f(load(x + j), j));
  store(x + n - lanes<T>, last);
}

// x[j] = f(x[j], y[j])
template <class T, class F>
[[gnu::always_inline]] inline void combine(T* x, const T* y, Index n, F&& f) {
  if (n < lanes<T>) {
    if (n > 0) store_some(x, f(load_some(x, n), load_some(y, n)), n);
    return;
  }
  const Pack<T> last = f(load(x + n - lanes<T>), load(y + n - lanes<T>));
  for (Index j = 0; j + lanes<T> < n; j += lanes<T>) store(x + j, f(load(x + j), load(y + j)));
  store(x + n - lanes<T>, last);
}

// x[j] *= factor
template <class T>
inline void scale(T* x, Index n, T factor) {
  transform(x, n, [factor](Pack<T> v, Index) { return v * Pack<T>(factor); });
}

// x[j] += value
template <class T>
inline void shift(T* x, Index n, T value) {
  transform(x, n, [value](Pack<T> v, Index) { return v + Pack<T>(value); });
}

// x[j] += y[j]
template <class T>
inline void add(T* x, const T* y, Index n) {
  combine(x, y, n, [](Pack<T> a, Pack<T> b) { return a + b; });
}

// x[j] += factor y[j]
template <class T>
inline void add_scaled(T* x, T factor, const T* y, Index n) {
  combine(x, y, n, [factor](Pack<T> a, Pack<T> b) { return fma(Pack<T>(factor), b, a); });
}

// x[j] += slope |center - j|
template <class T>
inline void add_distance(T* x, Index n, T slope, T center) {
  const Pack<T> step = ramp<T>();
  transform(x, n,
            [=](Pack<T> v, Index j) { return fma(Pack<T>(slope), xsimd::abs(Pack<T>(center - T(j)) - step), v); });
}

// x[j] = cap tanh(x[j] / cap)
template <class T>
inline void soft_cap(T* x, Index n, T cap) {
  const T inverse = T(1) / cap;
  transform(x, n, [=](Pack<T> v, Index) { return Pack<T>(cap) * tanh(v * Pack<T>(inverse)); });
}

// to[j] = from[j]
template <class T>
inline void copy(T* to, const T* from, Index n) {
  Index j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) store(to + j, load(from + j));
  for (; j < n; ++j) to[j] = from[j];
}

// to[j] = from[j] factor; to and from may be the same.
template <class T>
inline void copy_scaled(T* to, const T* from, Index n, T factor) {
  Index j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) store(to + j, load(from + j) * Pack<T>(factor));
  for (; j < n; ++j) to[j] = from[j] * factor;
}

// to[j] = from[j] / divisor
template <class T>
inline void copy_divided(T* to, const T* from, Index n, T divisor) {
  Index j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) store(to + j, divide<T>(load(from + j), Pack<T>(divisor)));
  for (; j < n; ++j) to[j] = from[j] / divisor;
}

// x[j] = -infinity where bit j of `seen` is clear; n is at most 64.
template <class T>
inline void hide(T* x, Index n, std::uint64_t seen) {
  const Pack<T> hidden(-infinity<T>);
  transform(x, n, [=](Pack<T> v, Index j) { return keep_bits(seen >> j, v, hidden); });
}

// Whether every element is a finite number.
template <class S>
inline bool all_finite(const S* x, Index n) {
  using T = std::conditional_t<std::is_same_v<S, double>, double, float>;
  // The sums stay zero unless an infinity or NaN, times zero, joins them.
  Pack<T> none[4] = {Pack<T>(T(0)), Pack<T>(T(0)), Pack<T>(T(0)), Pack<T>(T(0))};
  Index j = 0;
  for (; j + 4 * lanes<T> <= n; j += 4 * lanes<T>) {
    for (Index i = 0; i < 4; ++i) none[i] = fma(load_as<T>(x + j + i * lanes<T>), Pack<T>(T(0)), none[i]);
  }
  for (; j + lanes<T> <= n; j += lanes<T>) none[0] = fma(load_as<T>(x + j), Pack<T>(T(0)), none[0]);
  if (j < n) none[1] = fma(load_some_as<T>(x + j, n - j), Pack<T>(T(0)), none[1]);
  return sum_of_lanes<T>((none[0] + none[1]) + (none[2] + none[3])) == T(0);
}

}  // namespace fovea::inline FOVEA_ISA::simd
