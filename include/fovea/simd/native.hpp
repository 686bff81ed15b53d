// The compilers' own vectors: unlike a batch they can be cut, joined and interleaved on every instruction set.
#pragma once

#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__aarch64__)
#include <xsimd/xsimd.hpp>
#endif

#include <fovea/core/config.hpp>

namespace fovea::inline FOVEA_ISA::simd {

template <class T, int count>
struct NativeVector {
  typedef T type __attribute__((vector_size(count * sizeof(T))));
};
template <class T, int count>
using Native = typename NativeVector<T, count>::type;

template <class T, int count>
[[gnu::always_inline]] inline Native<T, count> native_load(const T* p) {
  Native<T, count> x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

namespace detail {

template <class To, class From>
[[gnu::always_inline]] inline To same_bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &x, sizeof result);
  return result;
}

template <class T, int half, int... i>
[[gnu::always_inline]] inline Native<T, 2 * half> join(Native<T, half> a, Native<T, half> b,
                                                       std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, i...);
}

template <class T, int count, int first, int... i>
[[gnu::always_inline]] inline Native<T, count / 2> half_from(Native<T, count> x, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(x, x, (first + i)...);
}

}  // namespace detail

// a and b side by side.
template <class T, int half>
[[gnu::always_inline]] inline Native<T, 2 * half> join(Native<T, half> a, Native<T, half> b) {
  return detail::join<T, half>(a, b, std::make_integer_sequence<int, 2 * half>{});
}

// The lanes folded in halves by op: always in the same order.
template <class T, int count, class Op>
[[gnu::always_inline]] inline T fold(Native<T, count> x, Op op) {
  if constexpr (count == 2) {
    return op(T(x[0]), T(x[1]));
  } else {
    const auto each = std::make_integer_sequence<int, count / 2>{};
    return fold<T, count / 2>(
        op(detail::half_from<T, count, 0>(x, each), detail::half_from<T, count, count / 2>(x, each)), op);
  }
}

namespace detail {

// In each run of 2 width lanes: the first `width` lanes of a and the last of b, where they are.
template <class T, int count, int width, int... i>
[[gnu::always_inline]] inline Native<T, count> outer_halves(Native<T, count> a, Native<T, count> b,
                                                            std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, (i % (2 * width) < width ? i : i + count)...);
}

// In each run of 2 width lanes: the last `width` lanes of a, then the first of b.
template <class T, int count, int width, int... i>
[[gnu::always_inline]] inline Native<T, count> inner_halves(Native<T, count> a, Native<T, count> b,
                                                            std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, (i % (2 * width) < width ? i + width : i - width + count)...);
}

// A lane is added to one `width` lanes away; the one of the two shuffles that moves nothing is a blend.
template <class T, int count, int width>
[[gnu::always_inline]] inline void fold_each(Native<T, count>* x) {
  const auto each = std::make_integer_sequence<int, count>{};
#pragma GCC unroll 8
  for (int i = 0; i < width; ++i)
    x[i] = outer_halves<T, count, width>(x[i], x[i + width], each) +
           inner_halves<T, count, width>(x[i], x[i + width], each);
  if constexpr (width > 1) fold_each<T, count, width / 2>(x);
}

}  // namespace detail

// Lane i of the result is the sum of the lanes of x[i], for as many vectors as a vector has lanes; x is used up.
template <class T, int count>
[[gnu::always_inline]] inline Native<T, count> sum_each(Native<T, count>* x) {
#if defined(__aarch64__)
  if constexpr (std::is_same_v<T, float> && count == 4)
    return vpaddq_f32(vpaddq_f32(x[0], x[1]), vpaddq_f32(x[2], x[3]));
  if constexpr (std::is_same_v<T, double> && count == 2) return vpaddq_f64(x[0], x[1]);
#endif
  detail::fold_each<T, count, count / 2>(x);
  return x[0];
}

}  // namespace fovea::inline FOVEA_ISA::simd
