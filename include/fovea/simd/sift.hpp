// Lanes chosen by a comparison, packed side by side.
#pragma once

#include <array>
#include <bit>
#include <cstring>

#include <fovea/simd/ops.hpp>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace fovea::inline FOVEA_ISA::simd {

#if defined(__aarch64__)
namespace detail {

// One bit a lane of a comparison, lane 0 the lowest.
[[gnu::always_inline]] inline std::uint64_t bits_of_lanes(uint32x4_t holds) {
  return vaddvq_u32(vandq_u32(holds, uint32x4_t{1, 2, 4, 8}));
}
[[gnu::always_inline]] inline std::uint64_t bits_of_lanes(uint64x2_t holds) {
  return vaddvq_u64(vandq_u64(holds, uint64x2_t{1, 2}));
}

// The bytes of the set lanes of four, side by side.
inline constexpr auto bytes_of_set_lanes = [] {
  std::array<std::array<std::uint8_t, 16>, 16> table{};
  for (unsigned bits = 0; bits < 16; ++bits) {
    unsigned at = 0;
    for (unsigned i = 0; i < 4; ++i) {
      if ((bits >> i & 1) == 0) continue;
      for (unsigned byte = 0; byte < 4; ++byte) table[bits][at++] = std::uint8_t(4 * i + byte);
    }
  }
  return table;
}();

}  // namespace detail
#endif

// One bit a lane, lane 0 the lowest: x > limit. NaN is above nothing.
template <class T>
[[gnu::always_inline]] inline std::uint64_t bits_above(Pack<T> x, Pack<T> limit) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float> && lanes<T> == 16) return _mm512_cmp_ps_mask(x, limit, _CMP_GT_OQ);
  if constexpr (std::is_same_v<T, double> && lanes<T> == 8) return _mm512_cmp_pd_mask(x, limit, _CMP_GT_OQ);
#elif defined(__AVX__)
  if constexpr (std::is_same_v<T, float> && lanes<T> == 8)
    return unsigned(_mm256_movemask_ps(_mm256_cmp_ps(x, limit, _CMP_GT_OQ)));
  if constexpr (std::is_same_v<T, double> && lanes<T> == 4)
    return unsigned(_mm256_movemask_pd(_mm256_cmp_pd(x, limit, _CMP_GT_OQ)));
#elif defined(__SSE2__)
  if constexpr (std::is_same_v<T, float>) return unsigned(_mm_movemask_ps(_mm_cmpgt_ps(x, limit)));
  if constexpr (std::is_same_v<T, double>) return unsigned(_mm_movemask_pd(_mm_cmpgt_pd(x, limit)));
#elif defined(__aarch64__)
  if constexpr (std::is_same_v<T, float> && lanes<T> == 4) return detail::bits_of_lanes(vcgtq_f32(x, limit));
  if constexpr (std::is_same_v<T, double> && lanes<T> == 2) return detail::bits_of_lanes(vcgtq_f64(x, limit));
#endif
  alignas(64) T lane[std::size_t(lanes<T>)], bound[std::size_t(lanes<T>)];
  store(lane, x);
  store(bound, limit);
  std::uint64_t bits = 0;
  for (Index i = 0; i < lanes<T>; ++i) bits |= std::uint64_t(lane[i] > bound[i]) << i;
  return bits;
}

// x >= limit.
template <class T>
[[gnu::always_inline]] inline std::uint64_t bits_reaching(Pack<T> x, Pack<T> limit) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float> && lanes<T> == 16) return _mm512_cmp_ps_mask(x, limit, _CMP_GE_OQ);
  if constexpr (std::is_same_v<T, double> && lanes<T> == 8) return _mm512_cmp_pd_mask(x, limit, _CMP_GE_OQ);
#elif defined(__AVX__)
  if constexpr (std::is_same_v<T, float> && lanes<T> == 8)
    return unsigned(_mm256_movemask_ps(_mm256_cmp_ps(x, limit, _CMP_GE_OQ)));
  if constexpr (std::is_same_v<T, double> && lanes<T> == 4)
    return unsigned(_mm256_movemask_pd(_mm256_cmp_pd(x, limit, _CMP_GE_OQ)));
#elif defined(__SSE2__)
  if constexpr (std::is_same_v<T, float>) return unsigned(_mm_movemask_ps(_mm_cmpge_ps(x, limit)));
  if constexpr (std::is_same_v<T, double>) return unsigned(_mm_movemask_pd(_mm_cmpge_pd(x, limit)));
#elif defined(__aarch64__)
  if constexpr (std::is_same_v<T, float> && lanes<T> == 4) return detail::bits_of_lanes(vcgeq_f32(x, limit));
  if constexpr (std::is_same_v<T, double> && lanes<T> == 2) return detail::bits_of_lanes(vcgeq_f64(x, limit));
#endif
  alignas(64) T lane[std::size_t(lanes<T>)], bound[std::size_t(lanes<T>)];
  store(lane, x);
  store(bound, limit);
  std::uint64_t bits = 0;
  for (Index i = 0; i < lanes<T>; ++i) bits |= std::uint64_t(lane[i] >= bound[i]) << i;
  return bits;
}

namespace detail {

// The lanes of the set bits of a byte, in ascending order, a byte each.
inline constexpr auto set_bits_of = [] {
  std::array<std::uint64_t, 256> table{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    int at = 0;
    for (unsigned i = 0; i < 8; ++i) {
      if ((byte >> i & 1) != 0) table[byte] |= std::uint64_t(i) << 8 * at++;
    }
  }
  return table;
}();

}  // namespace detail

// Stores the lanes whose bit is set side by side and gives their number. Up to a whole vector is written.
template <class E>
[[gnu::always_inline]] inline Index pack_lanes(E* to, Pack<E> x, std::uint64_t bits) {
  const Index count = std::popcount(bits);
#if defined(__AVX512F__)
  if constexpr (lanes<E> * Index(sizeof(E)) == 64) {
    if constexpr (std::is_same_v<E, float>) {
      _mm512_storeu_ps(to, _mm512_maskz_compress_ps(__mmask16(bits), x));
    } else if constexpr (std::is_same_v<E, double>) {
      _mm512_storeu_pd(to, _mm512_maskz_compress_pd(__mmask8(bits), x));
    } else if constexpr (sizeof(E) == 4) {
      _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(__mmask16(bits), x));
    } else {
      _mm512_storeu_si512(to, _mm512_maskz_compress_epi64(__mmask8(bits), x));
    }
    return count;
  }
#elif defined(__AVX2__)
  if constexpr (lanes<E> == 8 && sizeof(E) == 4) {
    const __m256i from = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(detail::set_bits_of[bits])));
    if constexpr (std::is_same_v<E, float>) {
      _mm256_storeu_ps(to, _mm256_permutevar8x32_ps(x, from));
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(x, from));
    }
    return count;
  }
#elif defined(__aarch64__)
  if constexpr (lanes<E> == 4) {
    uint8x16_t bytes;
    std::memcpy(&bytes, &x, sizeof bytes);
    bytes = vqtbl1q_u8(bytes, vld1q_u8(detail::bytes_of_set_lanes[bits].data()));
    std::memcpy(to, &bytes, sizeof bytes);
    return count;
  }
#endif
  alignas(64) E lane[std::size_t(lanes<E>)];
  store(lane, x);
  for (; bits != 0; bits &= bits - 1) *to++ = lane[std::countr_zero(bits)];
  return count;
}

}  // namespace fovea::inline FOVEA_ISA::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
