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

// The codes k of a vector of words, less the center, times 2^(32 - bits): at the top of their lanes as signed numbers.
template <int bits, int count>
struct TopCodes {
  using Words = Native<std::uint32_t, count>;
  Words bytes[bits == 8 ? 1 : 2];

  [[gnu::always_inline]] explicit TopCodes(Words word) {
    if constexpr (bits == 8) {
      bytes[0] = word ^ 0x80808080;
    } else {
      bytes[0] = ((word ^ 0x88888888) << 4) & 0xf0f0f0f0;
      bytes[1] = (word ^ 0x88888888) & 0xf0f0f0f0;
    }
  }
  [[gnu::always_inline]] Native<std::int32_t, count> operator[](int k) const {
    const Words& from = bytes[k / 4];
    const int left = 24 - 8 * (k % 4);
    const Words top = left == 0 ? from & 0xff000000 : left == 24 ? from << 24 : (from << left) & 0xff000000;
    return same_bits<Native<std::int32_t, count>>(top);
  }
};

// Vectors of lanes that are worked on at a time: enough sums that do not wait for each other.
template <class T, int rows>
inline constexpr int coded_vectors = std::min<int>(int(panel_lanes / lanes<T>), 4 / rows);

// sum[r * vectors + v] = sum_d weights[r][d] (code_d - center) for some vectors of lanes; `codes` is the first of their
// words. Two chains for each sum, however many rows and vectors there are.
template <class T, int bits, int rows, int vectors>
[[gnu::always_inline]] inline void coded_products(const std::uint8_t* codes, Index depth, const T* weights,
                                                  Index weights_stride, Pack<T>* sum) {
  using Layout = Codes<bits>;
  constexpr int count = int(lanes<T>);
  Pack<T> even[rows * vectors], odd[rows * vectors];
#pragma GCC unroll 4
  for (int i = 0; i < rows * vectors; ++i) even[i] = odd[i] = Pack<T>(T(0));
  for (Index d = 0; d < depth; d += Layout::in_step, codes += Layout::step_bytes) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      Native<std::uint32_t, count> word;
      std::memcpy(&word, codes + 4 * count * v, sizeof word);
      const TopCodes<bits, count> code(word);
      const auto step = [&](int k, Pack<T>* chain) __attribute__((always_inline)) {
        const auto x = same_bits<Pack<T>>(__builtin_convertvector(code[k], Native<T, count>));
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
          Pack<T>& own = chain[r * vectors + v];
          own = fma(Pack<T>(weights[r * weights_stride + d + k]), x, own);
        }
      };
#pragma GCC unroll 4
      for (int k = 0; k < Layout::in_step; k += 2) {
        step(k, even);
        step(k + 1, odd);
      }
    }
  }
  const Pack<T> unit(T(1) / T(std::int64_t{1} << (32 - bits)));
#pragma GCC unroll 4
  for (int i = 0; i < rows * vectors; ++i) sum[i] = (even[i] + odd[i]) * unit;
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
    constexpr int vectors = coded_vectors<T, queries>;
    constexpr Index step = vectors * lanes<T>;
    for (Index token = begin / step * step; token < end; token += step) {
      const Index place = token - block * keys.group;
      Pack<T> sum[queries * vectors];
      coded_products<T, bits, queries, vectors>(
          keys.codes(block) + place / panel_lanes * keys.panel_bytes() + 4 * (place % panel_lanes), depth, scratch,
          depth, sum);
      const Index from = std::max(token, begin), to = std::min(token + step, end);
      for (int i = 0; i < queries; ++i) {
        alignas(64) T score[std::size_t(step)];
        for (int v = 0; v < vectors; ++v) store(score + v * lanes<T>, sum[i * vectors + v] + Pack<T>(base[i]));
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
      const auto run = [&](auto some, Index e) __attribute__((always_inline)) {
        constexpr int vectors = decltype(some)::value;
        Pack<T> sum[rows * vectors];
        coded_products<T, bits, rows, vectors>(codes + e / panel_lanes * values.panel_bytes + 4 * (e % panel_lanes),
                                               coded_tokens, scaled, coded_tokens, sum);
        for (int r = 0; r < rows; ++r) {
          for (int v = 0; v < vectors; ++v) {
            T* const to = out + r * width + e + v * lanes<T>;
            const Pack<T> more = sum[r * vectors + v] + Pack<T>(base[r]);
            store(to, shrink != nullptr ? fma(load(to), Pack<T>(shrink[r]), more) : load(to) + more);
          }
        }
      };
      constexpr int vectors = coded_vectors<T, rows>;
      const Index end = std::min((g + 1) * values.group, width);
      Index e = g * values.group;
      if constexpr (vectors > 1) {
        for (; e + vectors * lanes<T> <= end; e += vectors * lanes<T>) run(std::integral_constant<int, vectors>{}, e);
      }
      for (; e < end; e += lanes<T>) run(std::integral_constant<int, 1>{}, e);
    }
    shrink = nullptr;
    at += n;
  }
}

// 16 codes of one lane from `depth` (a multiple of 16) on, as bytes.
template <int bits>
[[gnu::always_inline]] inline Native<std::uint8_t, 16> codes_of_lane(const std::uint8_t* panel, Index lane,
                                                                     Index depth) {
  using Layout = Codes<bits>;
  const std::uint8_t* const at = panel + depth / Layout::in_step * Layout::step_bytes + 4 * lane;
  const auto word = [&](int i) __attribute__((always_inline)) {
    std::uint32_t four;
    std::memcpy(&four, at + i * Layout::step_bytes, 4);
    return four;
  };
  // Put together in registers: a vector would wait for words that were stored one by one.
  Native<std::uint32_t, 4> codes;
  if constexpr (bits == 8) {
    codes = Native<std::uint32_t, 4>{word(0), word(1), word(2), word(3)};
  } else {
    codes = Native<std::uint32_t, 4>{word(0), word(0) >> 4, word(1), word(1) >> 4} & 0x0f0f0f0f;
  }
  return same_bits<Native<std::uint8_t, 16>>(codes);
}

// A vector of codes that lie side by side.
template <class T>
[[gnu::always_inline]] inline Pack<T> numbers_of(const std::uint8_t* code) {
  constexpr int count = int(lanes<T>);
#if defined(__aarch64__)
  if constexpr (std::is_same_v<T, float> && count == 4) {
    std::uint32_t four;
    std::memcpy(&four, code, sizeof four);
    return Pack<T>(vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four))))));
  }
#endif
  // Twice as wide at a time: g++ 12 takes the lanes apart otherwise.
  const auto half_wide = __builtin_convertvector(native_load<std::uint8_t, count>(code), Native<std::uint16_t, count>);
  const auto wide = __builtin_convertvector(half_wide, Native<std::int32_t, count>);
  return same_bits<Pack<T>>(__builtin_convertvector(wide, Native<T, count>));
}

// The first n (at most a vector) lanes of x.
template <class T>
[[gnu::always_inline]] inline void store_up_to(T* to, Pack<T> x, Index n) {
  if (n >= lanes<T>) {
    store(to, x);
  } else {
    store_some(to, x, n);
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

// Keys as rows of T, `to_stride` apart, dim numbers of each.
template <class T, int bits>
void read_coded(const KeyBlocks<bits>& keys, Index first, Index count, Index dim, T* to, Index to_stride) {
  const Index last = first + count, panel_bytes = keys.panel_bytes();
  for (Index block = first / keys.group; block * keys.group < last; ++block) {
    const Index begin = std::max<Index>(first - block * keys.group, 0);
    const Index end = std::min(last - block * keys.group, keys.group);
    const std::uint8_t* const block_codes = keys.codes(block);
    T* const rows = to + (block * keys.group - first) * to_stride;
    for (Index d = 0; d < dim; d += panel_lanes) {
      constexpr int vectors = int(panel_lanes / lanes<T>);
      Pack<T> scale[vectors], low[vectors];
      for (int i = 0; i < vectors; ++i) {
        scale[i] = load_as<T>(keys.scale(block) + d + i * lanes<T>);
        low[i] = load_as<T>(keys.low(block) + d + i * lanes<T>);
      }
      for (Index j = begin; j < end; ++j) {
        const std::uint8_t* const panel = block_codes + j / panel_lanes * panel_bytes;
        const auto codes = detail::codes_of_lane<bits>(panel, j % panel_lanes, d);
        std::uint8_t code[16];
        std::memcpy(code, &codes, sizeof code);
        for (Index i = 0; i < vectors && d + i * lanes<T> < dim; ++i) {
          constexpr int some = int(lanes<T>);
          const auto x = detail::numbers_of<T>(code + i * some);
          detail::store_up_to(rows + j * to_stride + d + i * some, fma(x, scale[i], low[i]), dim - (d + i * some));
        }
      }
    }
  }
}

// Values as rows of T, `to_stride` apart, dim numbers of each.
template <class T, int bits>
void read_coded(const ValueBlocks<bits>& values, Index first, Index count, Index dim, T* to, Index to_stride) {
  using Layout = Codes<bits>;
  constexpr int some = int(lanes<T>);
  const Index last = first + count;
  for (Index block = first / coded_tokens; block * coded_tokens < last; ++block) {
    const Index begin = std::max<Index>(first - block * coded_tokens, 0);
    const Index end = std::min(last - block * coded_tokens, coded_tokens);
    T* const rows = to + (block * coded_tokens - first) * to_stride;
    T scale[std::size_t(coded_tokens)], low[std::size_t(coded_tokens)];
    for (Index d = 0; d < dim; d += lanes<T>) {
      if (d % values.group == 0) {
        const Index own = d / values.group * coded_tokens;
        for (Index j = 0; j < coded_tokens; j += lanes<T>) {
          store(scale + j, load_as<T>(values.scale(block) + own + j));
          store(low + j, load_as<T>(values.low(block) + own + j));
        }
      }
      const std::uint8_t* const panel = values.codes(block) + d / panel_lanes * values.panel_bytes;
      for (Index j = begin / Layout::in_step * Layout::in_step; j < end; j += Layout::in_step) {
        Native<std::int32_t, some> word;
        std::memcpy(&word, panel + j / Layout::in_step * Layout::step_bytes + 4 * (d % panel_lanes), sizeof word);
        for (int k = 0; k < Layout::in_step; ++k) {
          if (j + k < begin || j + k >= end) continue;
          const Native<std::int32_t, some> code = (word >> Layout::place(k)) & Layout::levels;
          const auto x = detail::same_bits<Pack<T>>(__builtin_convertvector(code, Native<T, some>));
          detail::store_up_to(rows + (j + k) * to_stride + d, fma(x, Pack<T>(scale[j + k]), Pack<T>(low[j + k])),
                              dim - d);
        }
      }
    }
  }
}

}  // namespace fovea::inline FOVEA_ISA::simd
