// The vector type of the compiled instruction set and the few operations the kernels need. Whatever xsimd renamed
// between 8.1 and 14, and whatever it leaves to the compiler's good will, is settled here and nowhere else.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>
#include <xsimd/xsimd.hpp>

#include <fovea/core/config.hpp>
#include <fovea/simd/native.hpp>

// g++ 12 takes the deliberately undefined operands inside its own 512-bit intrinsics for a mistake (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace fovea::inline FOVEA_ISA::simd {

template <class T>
using Pack = xsimd::batch<T>;

template <class T>
inline constexpr Index lanes = Index(Pack<T>::size);

template <class T>
inline constexpr T infinity = std::numeric_limits<T>::infinity();

// Architectural vector registers: what the register tiles are sized for.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int registers = 32;
#else
inline constexpr int registers = 16;
#endif

// n rounded up to whole vectors.
template <class T>
constexpr Index whole(Index n) {
  return (n + lanes<T> - 1) / lanes<T> * lanes<T>;
}

template <class T>
[[gnu::always_inline]] inline Pack<T> load(const T* p) {
  return Pack<T>::load_unaligned(p);
}

// x, loaded once: without this a compiler may read it from memory again for each of its uses.
template <class T>
[[gnu::always_inline]] inline Pack<T> in_register(Pack<T> x) {
#if defined(__x86_64__)
  asm("" : "+v"(x.data));
#elif defined(__aarch64__)
  asm("" : "+w"(x.data));
#endif
  return x;
}

template <class T>
[[gnu::always_inline]] inline void store(T* p, Pack<T> x) {
  x.store_unaligned(p);
}

namespace detail {

template <class T>
[[gnu::always_inline]] inline Native<T, int(lanes<T>)> native(Pack<T> x) {
  return same_bits<Native<T, int(lanes<T>)>>(x);
}

}  // namespace detail

// a b + c in one rounding wherever the instruction set has it. (xsimd 8.1 spells it as two operations for AVX-512,
// which only some compilers contract.)
template <class T>
[[gnu::always_inline]] inline Pack<T> fma(Pack<T> a, Pack<T> b, Pack<T> c) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float> && lanes<T> == 16) {
    return Pack<T>(_mm512_fmadd_ps(a, b, c));
  } else if constexpr (std::is_same_v<T, double> && lanes<T> == 8) {
    return Pack<T>(_mm512_fmadd_pd(a, b, c));
  } else {
    return xsimd::fma(a, b, c);
  }
#else
  return xsimd::fma(a, b, c);
#endif
}

// a / b, rounded once. (xsimd 8.1 estimates quotients of floats for NEON.)
template <class T>
[[gnu::always_inline]] inline Pack<T> divide(Pack<T> a, Pack<T> b) {
#if defined(__aarch64__)
  if constexpr (std::is_same_v<T, float> && lanes<T> == 4) return Pack<T>(vdivq_f32(a, b));
#endif
  return a / b;
}

// The larger lanes; unspecified where a lane is NaN.
template <class T>
[[gnu::always_inline]] inline Pack<T> max(Pack<T> a, Pack<T> b) {
  return xsimd::max(a, b);
}

// Whether a comparison holds in some lane.
template <class Lanes>
[[gnu::always_inline]] inline bool any(const Lanes& holds) {
  return xsimd::any(holds);
}

#if defined(__SSE2__)
namespace detail {

// x86 returns the second operand when either is NaN. (xsimd gives its operands on as they come up to version 8.1, and
// the other way round in version 14.)
[[gnu::always_inline]] inline __m128 max_or_second(__m128 a, __m128 b) { return _mm_max_ps(a, b); }
[[gnu::always_inline]] inline __m128 min_or_second(__m128 a, __m128 b) { return _mm_min_ps(a, b); }
[[gnu::always_inline]] inline __m128d max_or_second(__m128d a, __m128d b) { return _mm_max_pd(a, b); }
[[gnu::always_inline]] inline __m128d min_or_second(__m128d a, __m128d b) { return _mm_min_pd(a, b); }
#if defined(__AVX__)
[[gnu::always_inline]] inline __m256 max_or_second(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
[[gnu::always_inline]] inline __m256 min_or_second(__m256 a, __m256 b) { return _mm256_min_ps(a, b); }
[[gnu::always_inline]] inline __m256d max_or_second(__m256d a, __m256d b) { return _mm256_max_pd(a, b); }
[[gnu::always_inline]] inline __m256d min_or_second(__m256d a, __m256d b) { return _mm256_min_pd(a, b); }
#endif
#if defined(__AVX512F__)
[[gnu::always_inline]] inline __m512 max_or_second(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
[[gnu::always_inline]] inline __m512 min_or_second(__m512 a, __m512 b) { return _mm512_min_ps(a, b); }
[[gnu::always_inline]] inline __m512d max_or_second(__m512d a, __m512d b) { return _mm512_max_pd(a, b); }
[[gnu::always_inline]] inline __m512d min_or_second(__m512d a, __m512d b) { return _mm512_min_pd(a, b); }
#endif

}  // namespace detail
#endif

// max(floor, x) lane by lane: NaN where x is NaN, x where the floor is.
template <class T>
[[gnu::always_inline]] inline Pack<T> at_least(Pack<T> floor, Pack<T> x) {
#if defined(__SSE2__)
  using Register = typename Pack<T>::register_type;
  return Pack<T>(detail::max_or_second(Register(floor), Register(x)));
#else
  return xsimd::select(x < floor, floor, x);
#endif
}

// min(ceiling, x) lane by lane: NaN where x is NaN, x where the ceiling is.
template <class T>
[[gnu::always_inline]] inline Pack<T> at_most(Pack<T> ceiling, Pack<T> x) {
#if defined(__SSE2__)
  using Register = typename Pack<T>::register_type;
  return Pack<T>(detail::min_or_second(Register(ceiling), Register(x)));
#else
  return xsimd::select(x > ceiling, ceiling, x);
#endif
}

// Sum of the lanes, always in the same order.
template <class T>
[[gnu::always_inline]] inline T sum_of_lanes(Pack<T> x) {
#if defined(__aarch64__)
  if constexpr (std::is_same_v<T, float> && lanes<T> == 4) return vaddvq_f32(x);
  if constexpr (std::is_same_v<T, double> && lanes<T> == 2) return vaddvq_f64(x);
#endif
  return fold<T, int(lanes<T>)>(detail::native(x), [](auto a, auto b) { return a + b; });
}

// Largest lane; unspecified when a lane is NaN.
template <class T>
[[gnu::always_inline]] inline T max_of_lanes(Pack<T> x) {
#if defined(__aarch64__)
  if constexpr (std::is_same_v<T, float> && lanes<T> == 4) return vmaxvq_f32(x);
  if constexpr (std::is_same_v<T, double> && lanes<T> == 2) return vmaxvq_f64(x);
#endif
  return fold<T, int(lanes<T>)>(detail::native(x), [](auto a, auto b) { return a > b ? a : b; });
}

// The integer of the same width.
template <class T>
using Bits = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;

template <class T>
[[gnu::always_inline]] inline Pack<Bits<T>> as_bits(Pack<T> x) {
  return detail::same_bits<Pack<Bits<T>>>(x);
}

template <class T>
[[gnu::always_inline]] inline Pack<T> from_bits(Pack<Bits<T>> x) {
  return detail::same_bits<Pack<T>>(x);
}

// x shifted left by n bits.
template <int n, class I>
[[gnu::always_inline]] inline Pack<I> shift_left(Pack<I> x) {
  return x << n;
}

// The lanes of x whose bit is set in `bits` (lane 0 is bit 0), `rest` in the others.
template <class T>
[[gnu::always_inline]] inline Pack<T> keep_bits(std::uint64_t bits, Pack<T> x, Pack<T> rest) {
  alignas(64) Bits<T> lane[std::size_t(lanes<T>)];
  for (Index i = 0; i < lanes<T>; ++i) lane[i] = Bits<T>(1) << i;
  const auto hit = (Pack<Bits<T>>(static_cast<Bits<T>>(bits)) & load(lane)) != Pack<Bits<T>>(Bits<T>(0));
#if XSIMD_VERSION_MAJOR >= 10
  return xsimd::select(xsimd::batch_bool_cast<T>(hit), x, rest);
#else
  return xsimd::select(xsimd::bool_cast(hit), x, rest);
#endif
}

// 0, 1, 2, ... in the lanes.
template <class T>
[[gnu::always_inline]] inline Pack<T> ramp() {
  alignas(64) T lane[std::size_t(lanes<T>)];
  for (Index i = 0; i < lanes<T>; ++i) lane[i] = T(i);
  return load(lane);
}

namespace detail {

// Whether the instruction set moves some lanes of a vector of T by a mask.
template <class T>
inline constexpr bool masks_lanes =
#if defined(__AVX512F__)
    std::is_floating_point_v<T> && sizeof(Pack<T>) == 64;
#elif defined(__AVX__)
    std::is_floating_point_v<T> && sizeof(Pack<T>) == 32;
#else
    false;
#endif

#if defined(__AVX512F__)
[[gnu::always_inline]] inline __m512 load_lanes(const float* p, Index n, __m512 rest) {
  return _mm512_mask_loadu_ps(rest, __mmask16((1u << n) - 1), p);
}
[[gnu::always_inline]] inline __m512d load_lanes(const double* p, Index n, __m512d rest) {
  return _mm512_mask_loadu_pd(rest, __mmask8((1u << n) - 1), p);
}
[[gnu::always_inline]] inline void store_lanes(float* p, Index n, __m512 x) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), x);
}
[[gnu::always_inline]] inline void store_lanes(double* p, Index n, __m512d x) {
  _mm512_mask_storeu_pd(p, __mmask8((1u << n) - 1), x);
}
#elif defined(__AVX__)
// n lanes of `width` bytes are ones from 32 - n width on.
alignas(32) inline constexpr signed char lane_masks[64] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                                           -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                                           -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
[[gnu::always_inline]] inline __m256i lane_mask(Index bytes) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lane_masks + 32 - bytes));
}
[[gnu::always_inline]] inline __m256 load_lanes(const float* p, Index n, __m256 rest) {
  const __m256i mask = lane_mask(4 * n);
  return _mm256_blendv_ps(rest, _mm256_maskload_ps(p, mask), _mm256_castsi256_ps(mask));
}
[[gnu::always_inline]] inline __m256d load_lanes(const double* p, Index n, __m256d rest) {
  const __m256i mask = lane_mask(8 * n);
  return _mm256_blendv_pd(rest, _mm256_maskload_pd(p, mask), _mm256_castsi256_pd(mask));
}
[[gnu::always_inline]] inline void store_lanes(float* p, Index n, __m256 x) {
  _mm256_maskstore_ps(p, lane_mask(4 * n), x);
}
[[gnu::always_inline]] inline void store_lanes(double* p, Index n, __m256d x) {
  _mm256_maskstore_pd(p, lane_mask(8 * n), x);
}
#else
template <class T>
Pack<T> load_lanes(const T* p, Index n, Pack<T> rest);  // not there
template <class T>
void store_lanes(T* p, Index n, Pack<T> x);
#endif

}  // namespace detail

// The first n (less than a vector) elements at p, `rest` in the other lanes; memory behind them is not read.
template <class T>
[[gnu::always_inline]] inline Pack<T> load_some(const T* p, Index n, T rest = T(0)) {
  if constexpr (detail::masks_lanes<T>) {
    return Pack<T>(detail::load_lanes(p, n, Pack<T>(rest)));
  } else {
    alignas(64) T lane[std::size_t(lanes<T>)];
    for (Index i = 0; i < lanes<T>; ++i) lane[i] = i < n ? p[i] : rest;
    return load(lane);
  }
}

// Stores the first n (less than a vector) lanes; memory behind them is not written.
template <class T>
[[gnu::always_inline]] inline void store_some(T* p, Pack<T> x, Index n) {
  if constexpr (detail::masks_lanes<T>) {
    detail::store_lanes(p, n, x);
  } else {
    alignas(64) T lane[std::size_t(lanes<T>)];
    store(lane, x);
    for (Index i = 0; i < n; ++i) p[i] = lane[i];
  }
}

// What a kernel does about memory that it will want later: nothing, or ask for what lies so many elements further on.
struct AskNothing {
  template <class S>
  [[gnu::always_inline]] void operator()(const S*) const {}
};
struct AskFor {
  Index elements = 0;

  template <class S>
  [[gnu::always_inline]] void operator()(const S* p) const {
    __builtin_prefetch(p + elements);
  }
};

}  // namespace fovea::inline FOVEA_ISA::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
