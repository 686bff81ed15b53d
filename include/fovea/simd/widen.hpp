// Vectors of numbers that are stored narrower than they are computed with: bfloat16 and half, widened on the way in.
#pragma once

#include <cstdint>

#include <fovea/core/eigen.hpp>
#include <fovea/simd/ops.hpp>

namespace fovea::inline FOVEA_ISA::simd {

namespace detail {

// The numbers in 32 bits. (g++ 12 would go through halves for 512 bits, and take the lanes apart for NEON.)
template <int count>
[[gnu::always_inline]] inline Native<std::uint32_t, count> wide_of(Native<std::uint16_t, count> x) {
#if defined(__AVX512F__)
  if constexpr (count == 16)
    return same_bits<Native<std::uint32_t, 16>>(_mm512_maskz_cvtepu16_epi32(__mmask16(-1), same_bits<__m256i>(x)));
#endif
#if defined(__aarch64__)
  if constexpr (count == 4) return same_bits<Native<std::uint32_t, 4>>(vmovl_u16(same_bits<uint16x4_t>(x)));
#endif
  return __builtin_convertvector(x, Native<std::uint32_t, count>);
}

template <int count>
[[gnu::always_inline]] inline Native<float, count> float_of(Native<std::uint16_t, count> x, Eigen::bfloat16) {
  return same_bits<Native<float, count>>(wide_of<count>(x) << 16);
}

template <int count>
[[gnu::always_inline]] inline Native<float, count> float_of(Native<std::uint16_t, count> x, Eigen::half) {
#if defined(__AVX512F__)
  if constexpr (count == 16)
    return same_bits<Native<float, 16>>(_mm512_maskz_cvtph_ps(__mmask16(-1), same_bits<__m256i>(x)));
#endif
#if defined(__F16C__)
  if constexpr (count == 8) return same_bits<Native<float, 8>>(_mm256_cvtph_ps(same_bits<__m128i>(x)));
#endif
#if defined(__aarch64__)
  if constexpr (count == 4) return vcvt_f32_f16(same_bits<float16x4_t>(x));
  if constexpr (count == 2) {
    const auto four = vreinterpret_f16_u32(vdup_n_u32(same_bits<std::uint32_t>(x)));
    return same_bits<Native<float, 2>>(vget_low_f32(vcvt_f32_f16(four)));
  }
#endif
  // The exponent and the significand at their places in a float, whose exponent is then 112 too small.
  using Wide = Native<std::uint32_t, count>;
  const Wide wide = wide_of<count>(x), magnitude = wide & 0x7fff;
  const Native<float, count> scaled = same_bits<Native<float, count>>(magnitude << 13) * 0x1p112f;
  const Wide special = same_bits<Wide>(magnitude >= 0x7c00) & 0x7f800000;  // infinities and NaN
  return same_bits<Native<float, count>>(same_bits<Wide>(scaled) | special | (wide & 0x8000) << 16);
}

template <class T, int count>
[[gnu::always_inline]] inline Pack<T> pack_of(Native<float, count> x) {
  if constexpr (std::is_same_v<T, float>) {
    return same_bits<Pack<float>>(x);
  } else {
#if defined(__aarch64__)
    if constexpr (count == 2) return Pack<T>(vcvt_f64_f32(same_bits<float32x2_t>(x)));
#endif
    return same_bits<Pack<T>>(__builtin_convertvector(x, Native<T, count>));
  }
}

}  // namespace detail

// The vector of T at p, where it is stored as S.
template <class T, class S>
[[gnu::always_inline]] inline Pack<T> load_as(const S* p) {
  if constexpr (std::is_same_v<T, S>) {
    return load(p);
  } else if constexpr (std::is_same_v<S, float>) {
    return detail::pack_of<T, int(lanes<T>)>(native_load<float, int(lanes<T>)>(p));
  } else if constexpr (std::is_floating_point_v<S>) {
    constexpr int count = int(lanes<T>);
    return detail::same_bits<Pack<T>>(__builtin_convertvector(native_load<S, count>(p), Native<T, count>));
  } else {
    constexpr int count = int(lanes<T>);
    Native<std::uint16_t, count> raw;
    std::memcpy(&raw, p, sizeof raw);
    return detail::pack_of<T, count>(detail::float_of<count>(raw, S()));
  }
}

// Its first n lanes (less than a vector), zero in the others; memory behind them is not read.
template <class T, class S>
[[gnu::always_inline]] inline Pack<T> load_some_as(const S* p, Index n) {
  if constexpr (std::is_same_v<T, S>) {
    return load_some(p, n);
  } else {
    S lane[std::size_t(lanes<T>)] = {};
    std::memcpy(lane, p, std::size_t(n) * sizeof(S));
    return load_as<T>(lane);
  }
}

// to[j] = from[j]
template <class T, class S>
inline void copy_as(T* to, const S* from, Index n) {
  Index j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) store(to + j, load_as<T>(from + j));
  for (; j < n; ++j) to[j] = static_cast<T>(from[j]);
}

}  // namespace fovea::inline FOVEA_ISA::simd
