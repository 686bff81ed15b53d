// The score that parts the k largest from the rest, by counting: scores are halved by value, then by bits, in passes on
// vectors that move nothing. NaN and -infinity count for nothing.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>

#include <fovea/simd/sift.hpp>

namespace fovea::inline FOVEA_ISA::select {

// Kept are the scores above `least`, and of those equal to it the first `ties`.
template <class T>
struct Threshold {
  T least;
  Index ties;
};

namespace detail {

using simd::Bits;
using simd::Pack;

// Calls f(vector) for whole vectors and the rest filled up with -infinity.
template <class T, class F>
[[gnu::always_inline]] inline void each_vector(const T* x, Index n, F&& f) {
  constexpr Index step = simd::lanes<T>;
  Index j = 0;
  for (; j + 4 * step <= n; j += 4 * step) {
#pragma GCC unroll 4
    for (Index i = 0; i < 4; ++i) f(simd::load(x + j + i * step), i);
  }
  for (; j + step <= n; j += step) f(simd::load(x + j), 0);
  if (j < n) f(simd::load_some(x + j, n - j, -simd::infinity<T>), 1);
}

template <class T>
inline Index count_reaching(const T* x, Index n, T least) {
  constexpr Index step = simd::lanes<T>;
  const Pack<T> limit(least);
  Index count = 0, j = 0;
  for (; j + 4 * step <= n; j += 4 * step) {
    std::uint64_t bits = 0;
#pragma GCC unroll 4
    for (Index i = 0; i < 4; ++i) bits |= simd::bits_reaching(simd::load(x + j + i * step), limit) << (i * step);
    count += std::popcount(bits);
  }
  for (; j + step <= n; j += step) count += std::popcount(simd::bits_reaching(simd::load(x + j), limit));
  if (j < n) count += std::popcount(simd::bits_reaching(simd::load_some(x + j, n - j, -simd::infinity<T>), limit));
  return count;
}

template <class T>
inline Index count_above(const T* x, Index n, T least) {
  const Pack<T> limit(least);
  Index count = 0;
  each_vector(x, n, [&](Pack<T> v, Index) { count += std::popcount(simd::bits_above(v, limit)); });
  return count;
}

// The smallest and the largest of the scores above -infinity that reach `least`; (infinity, -infinity) without any.
template <class T>
struct Range {
  T low, high;
};
template <class T>
inline Range<T> range_from(const T* x, Index n, T least) {
  const Pack<T> limit(least), none(-simd::infinity<T>);
  Pack<T> low[4], high[4];
  for (int i = 0; i < 4; ++i) {
    low[i] = Pack<T>(simd::infinity<T>);
    high[i] = none;
  }
  each_vector(x, n, [&](Pack<T> v, Index i) {
    high[i] = xsimd::select(v > high[i], v, high[i]);
    const Pack<T> reaching = xsimd::select(v >= limit, v, Pack<T>(simd::infinity<T>));
    low[i] = xsimd::select(reaching > none, simd::at_most(low[i], reaching), low[i]);
  });
  for (int i = 1; i < 4; ++i) {
    low[0] = xsimd::select(low[i] < low[0], low[i], low[0]);
    high[0] = simd::max(high[0], high[i]);
  }
  return {T(0) - simd::max_of_lanes<T>(Pack<T>(T(0)) - low[0]), simd::max_of_lanes<T>(high[0])};
}

// log2 n, straight between powers of two; n > 0.
inline float rough_log2(Index n) { return float(std::bit_cast<std::int32_t>(float(n)) - (127 << 23)) * 0x1p-23f; }

// Integers in the order of the numbers; -0 lies below 0.
template <class T>
inline Bits<T> to_order(T x) {
  const auto bits = std::bit_cast<Bits<T>>(x);
  return bits >= 0 ? bits : Bits<T>(std::numeric_limits<Bits<T>>::min() - bits - 1);
}
template <class T>
inline T from_order(Bits<T> order) {
  return std::bit_cast<T>(order >= 0 ? order : Bits<T>(std::numeric_limits<Bits<T>>::min() - order - 1));
}

}  // namespace detail

// The threshold of the k largest of n scores, of which more than k > 0 must be above -infinity. With `slack` it may be
// the threshold of up to k + slack, which takes fewer passes.
template <class T>
inline Threshold<T> threshold_of(const T* x, Index n, Index k, Index slack = 0) {
  using namespace detail;
  constexpr int by_value = 16;  // passes before bits are halved
  const auto [lowest, highest] = range_from(x, n, -simd::infinity<T>);
  if (k == 1 || lowest == highest) return {highest, k};
  T low = lowest, high = highest;       // reached by at least k; by fewer, or the largest score
  Index reach_low = n, reach_high = 1;  // by about so many
  const float wanted = rough_log2(k + slack / 2);
  for (int pass = 0;; ++pass) {
    T middle;
    if (pass >= by_value) {
      low = range_from(x, n, low).low;
      const Index above = count_above(x, n, low);
      if (above < k) return {low, k - above};
      const Bits<T> a = to_order(low), b = to_order(high);
      middle = from_order<T>(Bits<T>((a & b) + ((a ^ b) >> 1)));
    } else {
      // The logarithm of the number of scores that reach a value falls about evenly near the largest.
      const float top = rough_log2(reach_low), bottom = rough_log2(reach_high);
      const float part = pass % 3 == 2 ? 0.5f : std::clamp((top - wanted) / (top - bottom), 0.02f, 0.98f);
      middle = low + (high - low) * T(part);
    }
    if (!(middle > low)) middle = std::nextafter(low, simd::infinity<T>);
    const Index reached = count_reaching(x, n, middle);
    if (reached >= k) {
      if (reached <= k + slack) return {middle, reached};
      low = middle;
      reach_low = reached;
    } else {
      high = middle;
      reach_high = std::max<Index>(reached, 1);
    }
  }
}

}  // namespace fovea::inline FOVEA_ISA::select
