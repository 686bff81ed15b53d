// Numbers stored narrower than they were computed: rounded to the nearest, ties to even, as Eigen's own types round.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <fovea/core/eigen.hpp>
#include <fovea/simd/ops.hpp>
#include <fovea/simd/widen.hpp>

namespace fovea::inline FOVEA_ISA::simd {

namespace detail {

template <int count>
[[gnu::always_inline]] inline Native<std::uint16_t, count> rounded(Native<float, count> x, Eigen::bfloat16) {
  using Wide = Native<std::uint32_t, count>;
  const Wide raw = same_bits<Wide>(x);
  const Wide none = same_bits<Wide>((raw & 0x7fffffff) > 0x7f800000);  // NaN
  const Wide nearest = (raw + 0x7fff + (raw >> 16 & 1)) >> 16;
  return __builtin_convertvector((nearest & ~none) | (((raw >> 16 & 0x8000) | 0x7fc0) & none),
                                 Native<std::uint16_t, count>);
}

// Numbers that are rounded at a time: as many floats as a vector has, at most 8.
inline constexpr int narrowed = std::min(int(lanes<float>), 8);

template <int count>
[[gnu::always_inline]] inline Native<std::uint16_t, count> rounded(Native<float, count> x, Eigen::half) {
#if defined(__F16C__)
  if constexpr (count == 8)
    return same_bits<Native<std::uint16_t, 8>>(_mm256_cvtps_ph(same_bits<__m256>(x), _MM_FROUND_TO_NEAREST_INT));
#endif
#if defined(__aarch64__)
  if constexpr (count == 4) return same_bits<Native<std::uint16_t, 4>>(vcvt_f16_f32(x));
#endif
  using Wide = Native<std::uint32_t, count>;
  const Wide raw = same_bits<Wide>(x), magnitude = raw & 0x7fffffff;
  const Wide none = same_bits<Wide>(magnitude > 0x7f800000);    // NaN
  const Wide large = same_bits<Wide>(magnitude >= 0x47800000);  // 2^16 and more: infinity
  const Wide small = same_bits<Wide>(magnitude < 0x38800000);   // below 2^-14: a multiple of 2^-24
  const Wide normal = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
  // Next to one half a float has steps of 2^-24, so that the sum is rounded as wanted.
  const Wide steps = same_bits<Wide>(same_bits<Native<float, count>>(magnitude) + 0.5f) - 0x3f000000;
  const Wide finite = (steps & small) | (normal & ~small);
  const Wide rest = (none & 0x7e00) | (~none & 0x7c00);
  return __builtin_convertvector((raw >> 16 & 0x8000) | (finite & ~large) | (rest & large),
                                 Native<std::uint16_t, count>);
}

}  // namespace detail

// to[j] = from[j] as S: float, double, Eigen::bfloat16, Eigen::half (the last two from double by way of float). `to`
// may lie anywhere.
template <class S, class T>
inline void copy_rounded(S* to, const T* from, Index n) {
  if constexpr (std::is_same_v<S, T>) {
    if (n > 0) std::memcpy(to, from, std::size_t(n) * sizeof(T));
  } else if constexpr (std::is_floating_point_v<S>) {
    for (Index j = 0; j < n; ++j) to[j] = static_cast<S>(from[j]);
  } else {
    constexpr int count = detail::narrowed;
    Index j = 0;
    for (; j + count <= n; j += count) {
      Native<float, count> x;
      if constexpr (std::is_same_v<T, float>) {
        x = native_load<float, count>(from + j);
      } else {
        for (int i = 0; i < count; ++i) x[i] = static_cast<float>(from[j + i]);
      }
      const auto narrow = detail::rounded<count>(x, S());
      std::memcpy(static_cast<void*>(to + j), &narrow, sizeof narrow);
    }
    if (j < n) {
      float rest[count] = {};
      for (Index i = 0; j + i < n; ++i) rest[i] = static_cast<float>(from[j + i]);
      const auto narrow = detail::rounded<count>(native_load<float, count>(rest), S());
      std::memcpy(static_cast<void*>(to + j), &narrow, std::size_t(n - j) * sizeof(S));
    }
  }
}

}  // namespace fovea::inline FOVEA_ISA::simd
