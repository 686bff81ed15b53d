// Products with numbers stored as codes of 8 or 4 bits in groups: x = low + scale code, one scale and one low (both
// half-precision) for each group.
//
// Codes lie in panels of 16 lanes by a depth over which products are summed, a whole number of steps. A step is 64
// bytes: one 32-bit word for each lane, with the codes of 4 (8 bits) or 8 (4 bits) consecutive depths. Code k of a step
// is byte k, or in words of 4 bits the low half of byte k for k < 4 and the high half of byte k - 4 for the others.
// Keys have tokens in the lanes and channels in the depth, values the other way round.
#pragma once

#include <algorithm>
#include <cstdint>

#include <fovea/simd/widen.hpp>

namespace fovea::inline FOVEA_ISA::simd {

inline constexpr Index panel_lanes = 16;
inline constexpr Index coded_tokens = 32;  // depth of a panel of values

template <int bits>
struct Codes {
  static_assert(bits == 4 || bits == 8);
  static constexpr int levels = (1 << bits) - 1;  // the largest code
  static constexpr int center = 1 << (bits - 1);  // about the middle one
  static constexpr int in_step = 32 / bits;       // depths of a step
  static constexpr Index step_bytes = 4 * panel_lanes;

  static constexpr Index panel_bytes(Index depth) { return depth / in_step * step_bytes; }
  // Where code k of a word begins, in bits.
  static constexpr int place(int k) { return k < 4 ? 8 * k : 8 * (k - 4) + 4; }
  static constexpr Index byte(Index lane, Index depth) { return depth / in_step * step_bytes + 4 * lane + depth % 4; }

  static int get(const std::uint8_t* panel, Index lane, Index depth) {
    const int stored = panel[byte(lane, depth)];
    return bits == 8 ? stored : depth % in_step < 4 ? stored & 15 : stored >> 4;
  }
  static void set(std::uint8_t* panel, Index lane, Index depth, int code) {
    std::uint8_t& stored = panel[byte(lane, depth)];
    if constexpr (bits == 8) {
      stored = std::uint8_t(code);
    } else if (depth % in_step < 4) {
      stored = std::uint8_t((stored & 0xf0) | code);
    } else {
      stored = std::uint8_t((stored & 15) | code << 4);
    }
  }
};

namespace detail {

// sum[r] = sum_d weights[r][d] (code_d - center) for one vector of lanes; `codes` is the first of its words. Two chains
// for each sum, however many rows there are.
template <class T, int bits, int rows>
[[gnu::always_inline]] inline void coded_products(const std::uint8_t* codes, Index depth, const T* weights,
                                                  Index weights_stride, Pack<T>* sum) {
  using Layout = Codes<bits>;
  constexpr int count = int(lanes<T>);
  Pack<T> chain[rows][2];
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) chain[r][0] = chain[r][1] = Pack<T>(T(0));
  for (Index d = 0; d < depth; d += Layout::in_step, codes += Layout::step_bytes) {
    Native<std::int32_t, count> word;
    std::memcpy(&word, codes, sizeof word);
#pragma GCC unroll 8
    for (int k = 0; k < Layout::in_step; ++k) {
      const Native<std::int32_t, count> code = ((word >> Layout::place(k)) & Layout::levels) - Layout::center;
      const auto x = same_bits<Pack<T>>(__builtin_convertvector(code, Native<T, count>));
#pragma GCC unroll 4
      for (int r = 0; r < rows; ++r)
        chain[r][k % 2] = fma(Pack<T>(weights[r * weights_stride + d + k]), x, chain[r][k % 2]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; ++r) sum[r] = chain[r][0] + chain[r][1];
}

// Weights times scale, and their sums with what the middle code stands for.
template <class T, int bits>
[[gnu::always_inline]] inline T scaled_weights(const T* x, const Eigen::half* scale, const Eigen::half* low, Index n,
                                               T* scaled) {
  Pack<T> sum(T(0));
  for (Index d = 0; d < n; d += lanes<T>) {
    const Pack<T> some = load(x + d), factor = load_as<T>(scale + d);
    store(scaled + d, some * factor);
    sum = fma(some, fma(factor, Pack<T>(T(Codes<bits>::center)), load_as<T>(low + d)), sum);
  }
  return sum_of_lanes<T>(sum);
}

template <class T, int bits, int queries>
inline void dot_coded_rows(const T* q, Index q_stride, Index dim, Index depth, const Eigen::half* scale,
                           const Eigen::half* low, const std::uint8_t* codes, Index first, Index count, T* scores,
                           Index scores_stride, T* scratch) {
  T base[queries];
  const Index whole_dim = whole<T>(dim);
  for (int i = 0; i < queries; ++i) {
    base[i] = scaled_weights<T, bits>(q + i * q_stride, scale, low, whole_dim, scratch + i * depth);
    std::fill(scratch + i * depth + whole_dim, scratch + (i + 1) * depth, T(0));
  }
  const Index bytes = Codes<bits>::panel_bytes(depth);
  for (Index token = first / lanes<T> * lanes<T>; token < first + count; token += lanes<T>) {
    Pack<T> sum[queries];
    coded_products<T, bits, queries>(codes + token / panel_lanes * bytes + 4 * (token % panel_lanes), depth, scratch,
                                     depth, sum);
    const Index begin = std::max(token, first), end = std::min(token + lanes<T>, first + count);
    for (int i = 0; i < queries; ++i) {
      alignas(64) T score[std::size_t(lanes<T>)];
      store(score, sum[i] + Pack<T>(base[i]));
      std::copy(score + (begin - token), score + (end - token), scores + i * scores_stride + (begin - first));
    }
  }
}

template <class T, int bits, int rows>
inline void add_coded_rows(const T* weights, Index weights_stride, Index first, Index count, const Eigen::half* scale,
                           const Eigen::half* low, Index group, const std::uint8_t* codes, T* out, Index width,
                           const T* shrink) {
  constexpr Index bytes = Codes<bits>::panel_bytes(coded_tokens);
  alignas(64) T own[rows * coded_tokens], scaled[rows * coded_tokens];
  for (int r = 0; r < rows; ++r) {
    std::fill_n(own + r * coded_tokens, coded_tokens, T(0));
    std::copy_n(weights + r * weights_stride, count, own + r * coded_tokens + first);
  }
  for (Index begin = 0; begin < width; begin += group, scale += coded_tokens, low += coded_tokens) {
    T base[rows];
    for (int r = 0; r < rows; ++r)
      base[r] = scaled_weights<T, bits>(own + r * coded_tokens, scale, low, coded_tokens, scaled + r * coded_tokens);
    for (Index e = begin; e < std::min(begin + group, width); e += lanes<T>) {
      Pack<T> sum[rows];
      coded_products<T, bits, rows>(codes + e / panel_lanes * bytes + 4 * (e % panel_lanes), coded_tokens, scaled,
                                    coded_tokens, sum);
      for (int r = 0; r < rows; ++r) {
        T* const at = out + r * width + e;
        const Pack<T> more = sum[r] + Pack<T>(base[r]);
        store(at, shrink != nullptr ? fma(load(at), Pack<T>(shrink[r]), more) : load(at) + more);
      }
    }
  }
}

// Calls f(some, i) with some = 4, 2 or 1 (as a type) for blocks of rows i to i + some - 1.
template <class F>
[[gnu::always_inline]] inline void each_block_of_rows(Index rows, F&& f) {
  Index i = 0;
  for (; rows - i >= 4; i += 4) f(std::integral_constant<int, 4>{}, i);
  if (rows - i >= 2) {
    f(std::integral_constant<int, 2>{}, i);
    i += 2;
  }
  if (i < rows) f(std::integral_constant<int, 1>{}, i);
}

}  // namespace detail

// Elements of T that dot_coded wants as scratch.
template <class T>
constexpr Index dot_coded_scratch(Index depth) {
  return 4 * depth;
}

// scores[i][j] = q_i . k_{first + j} for tokens of one group of keys: panels of 16 tokens by `depth` channels, dim
// rounded up to whole panels; scale and low [depth]. Queries are whole vectors, zero behind dim.
template <int bits, class T>
inline void dot_coded(Index queries, const T* q, Index q_stride, Index dim, Index depth, const Eigen::half* scale,
                      const Eigen::half* low, const std::uint8_t* codes, Index first, Index count, T* scores,
                      Index scores_stride, T* scratch) {
  detail::each_block_of_rows(
      queries, [&](auto some, Index i) __attribute__((always_inline)) {
        detail::dot_coded_rows<T, bits, decltype(some)::value>(q + i * q_stride, q_stride, dim, depth, scale, low,
                                                               codes, first, count, scores + i * scores_stride,
                                                               scores_stride, scratch);
      });
}

// out [rows x width] = shrink out + weights v for `count` of coded_tokens tokens of values: panels of 16 channels by
// coded_tokens tokens; scale and low [groups of `group` channels][coded_tokens]. shrink is one where it is null. Width
// is whole vectors and at most whole panels.
template <int bits, class T>
inline void add_coded(Index rows, const T* weights, Index weights_stride, Index first, Index count,
                      const Eigen::half* scale, const Eigen::half* low, Index group, const std::uint8_t* codes, T* out,
                      Index width, const T* shrink) {
  detail::each_block_of_rows(
      rows, [&](auto some, Index i) __attribute__((always_inline)) {
        detail::add_coded_rows<T, bits, decltype(some)::value>(weights + i * weights_stride, weights_stride, first,
                                                               count, scale, low, group, codes, out + i * width, width,
                                                               shrink != nullptr ? shrink + i : nullptr);
      });
}

}  // namespace fovea::inline FOVEA_ISA::simd
