// Products of queries with coded keys, and weighted sums of coded values (codes.hpp): groups' scales and minima meet
// the queries or the weights first, so that the inner loops multiply small integers as they are.
//
//   q . k_j  = sum_d (q_d scale_d) code_jd + sum_d q_d low_d
//   o_e     += sum_j (p_j scale_j) code_je + sum_j p_j low_j
#pragma once

#include <algorithm>
#include <type_traits>

#include <fovea/simd/coded_digits.hpp>

namespace fovea::inline FOVEA_ISA::simd {

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

// scaled = x scale; the sum of x times what the middle code stands for.
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
void dot_codes(const T* q, Index q_stride, Index dim, const KeyBlocks<bits>& keys, Index first, Index count, T* scores,
               Index scores_stride, T* scratch) {
  const Index depth = keys.depth, whole_dim = whole<T>(dim), last = first + count;
  for (Index block = first / keys.group; block * keys.group < last; ++block) {
    T base[queries];
    for (int i = 0; i < queries; ++i) {
      T* const scaled = scratch + i * depth;
      base[i] = scaled_weights<T, bits>(q + i * q_stride, keys.scale(block), keys.low(block), whole_dim, scaled);
      std::fill(scaled + whole_dim, scaled + depth, T(0));
    }
    const Index begin = std::max(first, block * keys.group), end = std::min(last, (block + 1) * keys.group);
    for (Index token = begin / lanes<T> * lanes<T>; token < end; token += lanes<T>) {
      const Index place = token - block * keys.group;
      Pack<T> sum[queries];
      coded_products<T, bits, queries>(
          keys.codes(block) + place / panel_lanes * keys.panel_bytes() + 4 * (place % panel_lanes), depth, scratch,
          depth, sum);
      const Index from = std::max(token, begin), to = std::min(token + lanes<T>, end);
      for (int i = 0; i < queries; ++i) {
        alignas(64) T score[std::size_t(lanes<T>)];
        store(score, sum[i] + Pack<T>(base[i]));
        std::copy(score + (from - token), score + (to - token), scores + i * scores_stride + (from - first));
      }
    }
  }
}

template <class T, int bits, int rows>
void add_codes(const T* weights, Index weights_stride, const ValueBlocks<bits>& values, Index first, Index count,
               T* out, Index width, const T* shrink) {
  alignas(64) T own[rows * coded_tokens], scaled[rows * coded_tokens];
  for (Index at = 0; at < count;) {
    const Index block = (first + at) / coded_tokens, begin = (first + at) % coded_tokens;
    const Index n = std::min(count - at, coded_tokens - begin);
    for (int r = 0; r < rows; ++r) {
      std::fill_n(own + r * coded_tokens, coded_tokens, T(0));
      std::copy_n(weights + r * weights_stride + at, n, own + r * coded_tokens + begin);
    }
    const std::uint8_t* const codes = values.codes(block);
    for (Index g = 0; g < values.groups; ++g) {
      T base[rows];
      for (int r = 0; r < rows; ++r)
        base[r] =
            scaled_weights<T, bits>(own + r * coded_tokens, values.scale(block) + g * coded_tokens,
                                    values.low(block) + g * coded_tokens, coded_tokens, scaled + r * coded_tokens);
      for (Index e = g * values.group; e < std::min((g + 1) * values.group, width); e += lanes<T>) {
        Pack<T> sum[rows];
        coded_products<T, bits, rows>(codes + e / panel_lanes * values.panel_bytes + 4 * (e % panel_lanes),
                                      coded_tokens, scaled, coded_tokens, sum);
        for (int r = 0; r < rows; ++r) {
          T* const to = out + r * width + e;
          const Pack<T> more = sum[r] + Pack<T>(base[r]);
          store(to, shrink != nullptr ? fma(load(to), Pack<T>(shrink[r]), more) : load(to) + more);
        }
      }
    }
    shrink = nullptr;
    at += n;
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

template <class T>
inline constexpr bool by_digits = FOVEA_CODED_DIGITS != 0 && std::is_same_v<T, float>;

}  // namespace detail

// Elements of T that dot_coded wants as scratch.
template <class T>
constexpr Index dot_coded_scratch(Index depth) {
  return 8 * depth;
}

// scores[i][j] = q_i . k_{first + j}. Queries are whole vectors, zero behind dim. Memory `ahead` bytes behind what is
// read is asked for where that is free.
template <class T, int bits>
void dot_coded(Index queries, const T* q, Index q_stride, Index dim, const KeyBlocks<bits>& keys, Index first,
               Index count, T* scores, Index scores_stride, T* scratch, [[maybe_unused]] Index ahead = 0) {
  detail::each_block_of_rows(
      queries, [&](auto some, Index i) __attribute__((always_inline)) {
        constexpr int block = decltype(some)::value;
        if constexpr (detail::by_digits<T>) {
          detail::dot_digits<bits, block>(q + i * q_stride, q_stride, keys, first, count, scores + i * scores_stride,
                                          scores_stride, scratch, ahead);
        } else {
          detail::dot_codes<T, bits, block>(q + i * q_stride, q_stride, dim, keys, first, count,
                                            scores + i * scores_stride, scores_stride, scratch);
        }
      });
}

// Elements of T that add_coded wants as scratch.
template <class T>
constexpr Index add_coded_scratch(Index panels) {
  return detail::by_digits<T> ? detail::add_digits_scratch(panels) : 0;
}

// out [rows x width] = shrink out + weights v for the values from `first` on, shrink being one where it is null. Width
// is whole vectors and at most whole panels.
template <class T, int bits>
void add_coded(Index rows, const T* weights, Index weights_stride, const ValueBlocks<bits>& values, Index first,
               Index count, T* out, Index width, const T* shrink, [[maybe_unused]] T* scratch,
               [[maybe_unused]] Index ahead = 0) {
  detail::each_block_of_rows(
      rows, [&](auto some, Index i) __attribute__((always_inline)) {
        constexpr int block = decltype(some)::value;
        const T* const own_shrink = shrink != nullptr ? shrink + i : nullptr;
        if constexpr (detail::by_digits<T>) {
          detail::add_digits<bits, block>(weights + i * weights_stride, weights_stride, values, first, count,
                                          out + i * width, width, own_shrink, scratch, ahead);
        } else {
          detail::add_codes<T, bits, block>(weights + i * weights_stride, weights_stride, values, first, count,
                                            out + i * width, width, own_shrink);
        }
      });
}

}  // namespace fovea::inline FOVEA_ISA::simd
