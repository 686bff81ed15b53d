// Products with codes where the instruction set multiplies bytes and adds them up in integers (AVX-512 VNNI).
//
// The weights x of a group, queries times scale or weights times scale, become integers n of 24 bits,
//
//   x = unit n,  |n| <= coded_limit,  n = d0 + 2^8 d1 + 2^16 d2 with digits of -128 to 127,
//
// and the sums of codes times digits are exact: rounding x costs 2^-24 of the largest x of the group at most, nothing
// is lost behind it, and no sum depends on what is summed beside it. A sum is below 2^31 for depths up to 2^16.
#pragma once

#include <algorithm>

#include <fovea/simd/codes.hpp>
#include <fovea/simd/widen.hpp>

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define FOVEA_CODED_DIGITS 1
#else
#define FOVEA_CODED_DIGITS 0
#endif

#if FOVEA_CODED_DIGITS

// As in simd/ops.hpp: g++ 12 takes undefined operands inside its own intrinsics for a mistake (GCC bug 105593).
#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace fovea::inline FOVEA_ISA::simd::detail {

inline constexpr float coded_limit = 8355584;  // 2^23 - 2^15 - 2^8: with the 2^15 + 2^7 of the lower digits below 2^23

// For four vectors: op over the lanes of vector i, in lane i of each quarter of the result.
template <class Op>
[[gnu::always_inline]] inline __m512 fold_four(const __m512* x, Op op) {
  const __m512 ab = op(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
  const __m512 cd = op(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
  const __m512 quarters = op(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m512 halves = op(quarters, _mm512_shuffle_f32x4(quarters, quarters, 0x4e));
  return op(halves, _mm512_shuffle_f32x4(halves, halves, 0xb1));
}

// The larger magnitude of each lane.
[[gnu::always_inline]] inline __m512 larger(__m512 a, __m512 b) { return _mm512_range_ps(a, b, 0xb); }

// Lane i of each quarter in all lanes of it.
[[gnu::always_inline]] inline __m512 lane_of_quarters(__m512 x, int i) {
  return i == 0   ? _mm512_permute_ps(x, 0x00)
         : i == 1 ? _mm512_permute_ps(x, 0x55)
         : i == 2 ? _mm512_permute_ps(x, 0xaa)
                  : _mm512_permute_ps(x, 0xff);
}

// What four groups are multiplied with to be integers, their units and the sums that go beside the products. most: the
// largest magnitudes of each; sums: lane by lane.
struct FourUnits {
  __m512 factor;
  __m128 unit, sum;

  [[gnu::always_inline]] FourUnits(const __m512* most, const __m512* sums) {
    // Magnitudes are in the order of their bits, and integers are compared in one cycle.
    const __m512 largest = fold_four(most, [](__m512 a, __m512 b) {
      return _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
    });
    // Numbers so small that the quotient were infinite are as good as zero.
    const __m128 times =
        _mm_min_ps(_mm_div_ps(_mm_set1_ps(coded_limit), _mm512_castps512_ps128(largest)), _mm_set1_ps(0x1p126f));
    factor = _mm512_broadcast_f32x4(times);
    unit = _mm_div_ps(_mm_set1_ps(1), times);
    sum = _mm512_castps512_ps128(fold_four(sums, [](__m512 a, __m512 b) { return _mm512_add_ps(a, b); }));
  }
};

// The digits of 16 numbers: in each quarter of 16 bytes those of four numbers, first the four d0, then d1, then d2.
[[gnu::always_inline]] inline __m512i digits_of(__m512 x, __m512 factor) {
  const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  const __m512i n = _mm512_cvtps_epi32(_mm512_fmadd_ps(x, factor, _mm512_set1_ps(0x8080)));
  return _mm512_shuffle_epi8(_mm512_xor_si512(n, _mm512_set1_epi32(0x8080)), order);
}

// Asks for memory `ahead` bytes behind p.
[[gnu::always_inline]] inline void ask_for(const void* p, Index ahead) {
  __builtin_prefetch(static_cast<const char*>(p) + ahead, 0, 2);
}

// sum + code . digit, four bytes to a lane.
[[gnu::always_inline]] inline __m512i multiply_bytes(__m512i sum, __m512i code, __m512i digit) {
#if defined(__clang__)
  return _mm512_dpbusd_epi32(sum, code, digit);
#else
  // g++ copies the sum to and fro around its own intrinsic.
  asm("vpdpbusd\t{%2, %1, %0|%0, %1, %2}" : "+v"(sum) : "v"(code), "v"(digit));
  return sum;
#endif
}

// The sums of the digits of a row, times -center: what sums of codes begin with.
struct Starts {
  alignas(16) std::int32_t of_place[4];

  // `sum` has products of digits with the center, as digits_of arranges them.
  [[gnu::always_inline]] void set(__m512i sum) {
    const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
    const __m128i quarter = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    _mm_store_si128(reinterpret_cast<__m128i*>(of_place), _mm_sub_epi32(_mm_setzero_si128(), quarter));
  }
};

// Sums of codes times the digits of one place, for some rows and panels.
template <int rows, int panels>
struct DigitSums {
  __m512i sum[rows * panels];

  [[gnu::always_inline]] void clear() {
#pragma GCC unroll 8
    for (int i = 0; i < rows * panels; ++i) sum[i] = _mm512_setzero_si512();
  }
  [[gnu::always_inline]] void begin(const Starts* starts, int place) {
#pragma GCC unroll 8
    for (int i = 0; i < rows * panels; ++i) sum[i] = _mm512_set1_epi32(starts[i / panels].of_place[place]);
  }
  [[gnu::always_inline]] void add(const __m512i* code, const char* digits, Index digits_stride) {
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      std::int32_t four;
      std::memcpy(&four, digits + r * digits_stride, sizeof four);
      const __m512i digit = _mm512_set1_epi32(four);
#pragma GCC unroll 2
      for (int p = 0; p < panels; ++p) sum[r * panels + p] = multiply_bytes(sum[r * panels + p], code[p], digit);
    }
  }
};

// sum[r * panels + p] = sum_d n[r][d] (code[p][d] - center) over a depth, for panels `panel_bytes` apart and digits
// `digits_stride` bytes apart; memory `ahead` bytes behind what is read is asked for.
template <int bits, int rows, int panels>
[[gnu::always_inline]] inline void digit_products(const std::uint8_t* codes, Index panel_bytes, Index depth,
                                                  const char* digits, Index digits_stride, const Starts* starts,
                                                  Index ahead, __m512* sum) {
  using Layout = Codes<bits>;
  // Two sums of each kind where there are few that do not wait for each other.
  constexpr bool two = rows * panels <= 2;
  DigitSums<rows, panels> low, middle, high, more_low, more_middle, more_high;
  low.begin(starts, 0);
  middle.begin(starts, 1);
  high.begin(starts, 2);
  if constexpr (two) {
    more_low.clear();
    more_middle.clear();
    more_high.clear();
  }
  const auto add = [&](auto second, const __m512i* code, const char* at) __attribute__((always_inline)) {
    if constexpr (two && decltype(second)::value) {
      more_low.add(code, at, digits_stride);
      more_middle.add(code, at + 4, digits_stride);
      more_high.add(code, at + 8, digits_stride);
    } else {
      low.add(code, at, digits_stride);
      middle.add(code, at + 4, digits_stride);
      high.add(code, at + 8, digits_stride);
    }
  };
    // Digits are read back from memory, not taken out of the vectors that they were written from.
#pragma GCC unroll 1
  for (Index d = 0; d < depth; d += 8) {
    __m512i first[panels], second[panels];
#pragma GCC unroll 2
    for (int p = 0; p < panels; ++p) {
      const std::uint8_t* const at = codes + p * panel_bytes;
      ask_for(at, ahead);
      if constexpr (bits == 8) {
        ask_for(at + Layout::step_bytes, ahead);
        first[p] = _mm512_loadu_si512(at);
        second[p] = _mm512_loadu_si512(at + Layout::step_bytes);
      } else {
        const __m512i word = _mm512_loadu_si512(at);
        first[p] = _mm512_and_si512(word, _mm512_set1_epi8(15));
        second[p] = _mm512_and_si512(_mm512_srli_epi16(word, 4), _mm512_set1_epi8(15));
      }
    }
    add(std::false_type{}, first, digits);
    add(std::true_type{}, second, digits + 16);
    codes += 8 / Layout::in_step * Layout::step_bytes;
    digits += 32;
  }
  const __m512 second_place = _mm512_set1_ps(256), third_place = _mm512_set1_ps(65536);
#pragma GCC unroll 8
  for (int i = 0; i < rows * panels; ++i) {
    if constexpr (two) {
      low.sum[i] = _mm512_add_epi32(low.sum[i], more_low.sum[i]);
      middle.sum[i] = _mm512_add_epi32(middle.sum[i], more_middle.sum[i]);
      high.sum[i] = _mm512_add_epi32(high.sum[i], more_high.sum[i]);
    }
    const __m512 rest =
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(middle.sum[i]), second_place, _mm512_cvtepi32_ps(low.sum[i]));
    sum[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high.sum[i]), third_place, rest);
  }
}

// dot_coded (quantized.hpp) for 1, 2 or 4 queries. A unit is a query in a block; digits of eight units lie in scratch.
template <int bits, int queries>
void dot_digits(const float* q, Index q_stride, const KeyBlocks<bits>& keys, Index first, Index count, float* scores,
                Index scores_stride, float* scratch, Index ahead) {
  constexpr int units = 8, blocks = units / queries;
  const Index depth = keys.depth, panel_bytes = keys.panel_bytes(), last = first + count;
  alignas(64) float unit[units], base[units];
  Starts starts[units];
  const __m512 center = _mm512_set1_ps(Codes<bits>::center);
  const __m512i centers = _mm512_set1_epi8(char(Codes<bits>::center));
  for (Index begin = first / keys.group; begin * keys.group < last; begin += blocks) {
    const Index some = std::min<Index>(blocks, (last + keys.group - 1) / keys.group - begin);
    for (int u = 0; u < some * queries; u += 4) {
      __m512 most[4], sum[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) most[i] = sum[i] = _mm512_setzero_ps();
      constexpr int in_four = 4 / queries;
#pragma GCC unroll 4
      for (int b = 0; b < in_four; ++b) {
        const Index block = u / queries + b;
        if (block >= some) break;
        const Eigen::half *const scale = keys.scale(begin + block), *const low = keys.low(begin + block);
        for (Index d = 0; d < depth; d += 16) {
          if (d % 32 == 0) {
            ask_for(scale + d, ahead);
            ask_for(low + d, ahead);
          }
          const __m512 factor = load_as<float>(scale + d);
          const __m512 middle = _mm512_fmadd_ps(factor, center, load_as<float>(low + d));
#pragma GCC unroll 4
          for (int i = 0; i < queries; ++i) {
            const int own = b * queries + i;
            const __m512 x = _mm512_loadu_ps(q + i * q_stride + d), scaled = _mm512_mul_ps(x, factor);
            _mm512_storeu_ps(scratch + (u + own) * depth + d, scaled);
            most[own] = larger(most[own], scaled);
            sum[own] = _mm512_fmadd_ps(x, middle, sum[own]);
          }
        }
      }
      const FourUnits four(most, sum);
      _mm_store_ps(unit + u, four.unit);
      _mm_store_ps(base + u, four.sum);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        if (u + i >= some * queries) break;
        const __m512 factor = lane_of_quarters(four.factor, i);
        float* const at = scratch + (u + i) * depth;
        __m512i digit_sum = _mm512_setzero_si512();
        for (Index d = 0; d < depth; d += 16) {
          const __m512i digits = digits_of(_mm512_loadu_ps(at + d), factor);
          digit_sum = multiply_bytes(digit_sum, centers, digits);
          _mm512_storeu_si512(at + d, digits);
        }
        starts[u + i].set(digit_sum);
      }
    }
    for (Index b = 0; b < some; ++b) {
      // Tokens are counted from the beginning of the block.
      const Index from = std::max<Index>(first - (begin + b) * keys.group, 0);
      const Index to = std::min(last - (begin + b) * keys.group, keys.group);
      const std::uint8_t* const codes = keys.codes(begin + b);
      float* const block_scores = scores + ((begin + b) * keys.group + from - first);
      const auto run = [&](auto number, Index token) __attribute__((always_inline)) {
        constexpr int panels = decltype(number)::value;
        __m512 sum[queries * panels];
        digit_products<bits, queries, panels>(codes + token / panel_lanes * panel_bytes, panel_bytes, depth,
                                              reinterpret_cast<const char*>(scratch + b * queries * depth), 4 * depth,
                                              starts + b * queries, ahead, sum);
#pragma GCC unroll 4
        for (int i = 0; i < queries; ++i) {
          const __m512 own_unit = _mm512_set1_ps(unit[b * queries + i]), rest = _mm512_set1_ps(base[b * queries + i]);
#pragma GCC unroll 2
          for (int p = 0; p < panels; ++p) {
            const __m512 score = _mm512_fmadd_ps(sum[i * panels + p], own_unit, rest);
            const Index left = std::max(token + p * panel_lanes, from);
            const Index right = std::min(token + (p + 1) * panel_lanes, to);
            float* const at = block_scores + i * scores_stride + (left - from);
            if (right - left == panel_lanes) {
              _mm512_storeu_ps(at, score);
            } else if (right > left) {
              alignas(64) float lane[std::size_t(panel_lanes)];
              _mm512_store_ps(lane, score);
              std::copy_n(lane + left % panel_lanes, right - left, at);
            }
          }
        }
      };
      Index token = from / panel_lanes * panel_lanes;
      if constexpr (queries <= 4) {
        for (; token + panel_lanes < to; token += 2 * panel_lanes) run(std::integral_constant<int, 2>{}, token);
      }
      for (; token < to; token += panel_lanes) run(std::integral_constant<int, 1>{}, token);
    }
  }
}

// Floats that add_digits wants as scratch.
constexpr Index add_digits_scratch(Index panels) { return 4 * (panels + 3) * (coded_tokens + 2 + 4) + 4; }

// add_coded (quantized.hpp) for 1, 2 or 4 rows. A unit is a row in a group of channels.
template <int bits, int rows>
void add_digits(const float* weights, Index weights_stride, const ValueBlocks<bits>& values, Index first, Index count,
                float* out, Index width, const float* shrink, float* scratch, Index ahead) {
  static_assert(coded_tokens == 32);
  constexpr int together = 4 / rows;
  constexpr Index panel_bytes = ValueBlocks<bits>::panel_bytes;
  const Index groups = values.groups, group = values.group, room = 4 * (groups + 3);
  // Aligned to what Starts asks for.
  auto* const starts = reinterpret_cast<Starts*>((reinterpret_cast<std::uintptr_t>(scratch) + 15) / 16 * 16);
  float* const unit = reinterpret_cast<float*>(starts + room);
  float *const base = unit + room, *const digits = base + room;
  const __m512 center = _mm512_set1_ps(Codes<bits>::center);
  const __m512i centers = _mm512_set1_epi8(char(Codes<bits>::center));
  for (Index at = 0; at < count;) {
    const Index block = (first + at) / coded_tokens, begin = (first + at) % coded_tokens;
    const Index n = std::min(count - at, coded_tokens - begin);
    const float* own = weights + at;
    Index own_stride = weights_stride;
    alignas(64) float padded[rows * coded_tokens];
    if (n != coded_tokens) {
      for (int r = 0; r < rows; ++r) {
        std::fill_n(padded + r * coded_tokens, coded_tokens, 0.0f);
        std::copy_n(own + r * own_stride, n, padded + r * coded_tokens + begin);
      }
      own = padded;
      own_stride = coded_tokens;
    }
    const Eigen::half *const scale = values.scale(block), *const low = values.low(block);
    for (Index g = 0; g < groups; g += together) {
      __m512 scaled[4][2], most[4], sum[4];
#pragma GCC unroll 4
      for (int j = 0; j < together; ++j) {
        const Index from = std::min(g + j, groups - 1) * coded_tokens;  // behind the last group it is taken again
        ask_for(scale + from, ahead);
        ask_for(low + from, ahead);
        const __m512 factor[2] = {load_as<float>(scale + from), load_as<float>(scale + from + 16)};
        const __m512 middle[2] = {_mm512_fmadd_ps(factor[0], center, load_as<float>(low + from)),
                                  _mm512_fmadd_ps(factor[1], center, load_as<float>(low + from + 16))};
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
          const int i = j * rows + r;
          const __m512 x[2] = {_mm512_loadu_ps(own + r * own_stride), _mm512_loadu_ps(own + r * own_stride + 16)};
          scaled[i][0] = _mm512_mul_ps(x[0], factor[0]);
          scaled[i][1] = _mm512_mul_ps(x[1], factor[1]);
          most[i] = larger(scaled[i][0], scaled[i][1]);
          sum[i] = _mm512_fmadd_ps(x[0], middle[0], _mm512_mul_ps(x[1], middle[1]));
        }
      }
      const FourUnits four(most, sum);
      _mm_storeu_ps(unit + g * rows, four.unit);
      _mm_storeu_ps(base + g * rows, four.sum);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const __m512 factor = lane_of_quarters(four.factor, i);
        float* const to = digits + (g * rows + i) * coded_tokens;
        const __m512i first_half = digits_of(scaled[i][0], factor), second_half = digits_of(scaled[i][1], factor);
        _mm512_storeu_si512(to, first_half);
        _mm512_storeu_si512(to + 16, second_half);
        const __m512i digit_sum = multiply_bytes(_mm512_setzero_si512(), centers, first_half);
        starts[g * rows + i].set(multiply_bytes(digit_sum, centers, second_half));
      }
    }
    const std::uint8_t* codes = values.codes(block);
    Index e = 0;
    for (Index g = 0; g < groups; ++g) {
      const Index end = std::min((g + 1) * group, width);
      const auto run = [&](auto number) __attribute__((always_inline)) {
        constexpr int panels = decltype(number)::value;
        __m512 sum[rows * panels];
        digit_products<bits, rows, panels>(codes, panel_bytes, coded_tokens,
                                           reinterpret_cast<const char*>(digits + g * rows * coded_tokens),
                                           4 * coded_tokens, starts + g * rows, ahead, sum);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
          const __m512 own_unit = _mm512_set1_ps(unit[g * rows + r]), rest = _mm512_set1_ps(base[g * rows + r]);
#pragma GCC unroll 2
          for (int p = 0; p < panels; ++p) {
            float* const to = out + r * width + e + p * panel_lanes;
            const __m512 more = _mm512_fmadd_ps(sum[r * panels + p], own_unit, rest), old = _mm512_loadu_ps(to);
            _mm512_storeu_ps(to, shrink != nullptr ? _mm512_fmadd_ps(old, _mm512_set1_ps(shrink[r]), more)
                                                   : _mm512_add_ps(old, more));
          }
        }
        codes += panels * panel_bytes;
        e += panels * panel_lanes;
      };
      if constexpr (rows <= 4) {
        while (e + panel_lanes < end) run(std::integral_constant<int, 2>{});
      }
      while (e < end) run(std::integral_constant<int, 1>{});
    }
    shrink = nullptr;
    at += n;
  }
}

}  // namespace fovea::inline FOVEA_ISA::simd::detail

#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#else

namespace fovea::inline FOVEA_ISA::simd::detail {

// Not there.
template <int bits, int queries>
void dot_digits(const float* q, Index q_stride, const KeyBlocks<bits>& keys, Index first, Index count, float* scores,
                Index scores_stride, float* scratch, Index ahead);
constexpr Index add_digits_scratch(Index) { return 0; }
template <int bits, int rows>
void add_digits(const float* weights, Index weights_stride, const ValueBlocks<bits>& values, Index first, Index count,
                float* out, Index width, const float* shrink, float* scratch, Index ahead);

}  // namespace fovea::inline FOVEA_ISA::simd::detail

#endif
