// Quantised keys and values: codes of 8 or 4 bits, keys grouped by channel, values by token, the last tokens waiting in
// full precision. Liu et al., "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache", ICML 2024,
// arXiv:2402.02750.
//
//   scale = (max x - min x) / (2^bits - 1),  code = round((x - min x) / scale),  x^ = min x + scale code     per group
//
// A group is `group` consecutive tokens of one channel of keys, or `group` consecutive channels of one token of values
// (the last one of a token may be shorter). Codes round to even. The minimum is stored as a half, rounded down, and the
// scale as a half, rounded up until the range is covered, and codes are taken against what is stored: |x - x^| is at
// most half the stored scale, and x^ = x where x lies on the grid. A group of one value that is a half has scale 0 and
// codes 0.
//
// What lies in memory (panels and steps: simd/codes.hpp; halfs and words little-endian; widths rounded up to a
// multiple of 16, P; codes and metadata behind the width are zero, or what was there before):
//
//   keys      blocks of `group` tokens: group / 16 panels of 16 tokens by P channels, then scale[P], then low[P].
//             group P bits / 8 + 4 P bytes
//   values    blocks of 32 tokens: P / 16 panels of 16 channels by 32 tokens, then scale[G][32], then low[G][32],
//             G = P / group rounded up. 4 P bits + 128 G bytes
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <fovea/core/check.hpp>
#include <fovea/parts/kv/format.hpp>
#include <fovea/simd/encode.hpp>
#include <fovea/simd/quantized.hpp>
#include <fovea/simd/range.hpp>
#include <fovea/simd/row.hpp>

namespace fovea::inline FOVEA_ISA::kv {

// Tags of caches: codes of 8 and of 4 bits.
struct Int8 {};
struct Int4 {};

namespace detail {

constexpr Index far_ahead = 8192;  // bytes: what some hundred nanoseconds bring in

constexpr Index up_to(Index step, Index n) { return (n + step - 1) / step * step; }

[[gnu::always_inline]] inline void prefetch(const std::uint8_t* first, const std::uint8_t* last) {
  for (const std::uint8_t* p = first; p < last; p += 64) __builtin_prefetch(p, 0, 2);
}

// Whether all can be stored: finite and not beyond the largest half.
template <class T>
bool storable(const T* rows, Index count, Index stride, Index dim, float largest) {
  if (stride == dim) {
    dim *= count;
    count = std::min<Index>(count, 1);
  }
  for (Index j = 0; j < count; ++j) {
    const T* const row = rows + j * stride;
    if (!simd::all_finite(row, dim) || !simd::within(row, dim, T(-largest), T(largest))) return false;
  }
  return true;
}

}  // namespace detail

// Tokens of keys: a run (rows.hpp).
template <int bits>
struct CodedKeys {
  using Codes = simd::Codes<bits>;
  static constexpr Index piece = 64;

  simd::KeyBlocks<bits> blocks;
  Index token = 0;  // of the blocks, the first one
  Index dim = 0;
  bool long_run = false;  // whether much memory goes on like this behind the run, so that it is asked for early
  Index later = far;      // elements from what is read to what is asked for

  static constexpr Index far = detail::far_ahead * 8 / bits;  // elements

  template <class T>
  static constexpr Index scratch_size(Index /*rows*/, Index dim) {
    return simd::dot_coded_scratch<T>(detail::up_to(simd::panel_lanes, dim));
  }

  template <class T>
  void score(Index queries, const T* q, Index q_stride, Index first, Index count, T* scores, Index scores_stride,
             T* scratch) const {
    simd::dot_coded(queries, q, q_stride, dim, blocks, token + first, count, scores, scores_stride, scratch,
                    long_run ? later * bits / 8 : 0);
  }

  template <class T>
  void read(Index first, Index count, T* to, Index to_stride) const {
    simd::read_coded(blocks, token + first, count, dim, to, to_stride);
  }

  bool finite(Index, Index) const { return true; }

  [[gnu::always_inline]] void prefetch(Index first, Index count) const {
    const Index last = token + first + count;
    for (Index block = (token + first) / blocks.group; block * blocks.group < last; ++block) {
      const Index begin = std::max<Index>(token + first - block * blocks.group, 0) / simd::panel_lanes;
      const Index end = detail::up_to(simd::panel_lanes, std::min(last - block * blocks.group, blocks.group));
      const std::uint8_t* const codes = blocks.codes(block);
      detail::prefetch(codes + begin * blocks.panel_bytes(), codes + end / simd::panel_lanes * blocks.panel_bytes());
      if (begin == 0) detail::prefetch(codes + blocks.codes_bytes(), codes + blocks.bytes());
    }
  }
};

// Tokens of values: a run (rows.hpp).
template <int bits>
struct CodedValues {
  using Codes = simd::Codes<bits>;
  static constexpr Index piece = simd::coded_tokens;  // of a block: sums do not go across

  simd::ValueBlocks<bits> blocks;
  Index token = 0;  // of the blocks, the first one
  Index dim = 0;
  bool long_run = false;  // as of keys
  Index later = far;

  static constexpr Index far = detail::far_ahead * 8 / bits;

  template <class T>
  static constexpr Index scratch_size(Index /*rows*/, Index dim) {
    return simd::add_coded_scratch<T>(detail::up_to(simd::panel_lanes, dim) / simd::panel_lanes);
  }

  bool whole(Index width) const { return width <= blocks.panels * simd::panel_lanes; }

  template <class T>
  void add(Index rows, Index first, Index count, const T* weights, Index weights_stride, T* out, Index width,
           const T* shrink, T* scratch) const {
    simd::add_coded(rows, weights, weights_stride, blocks, token + first, count, out, width, shrink, scratch,
                    long_run ? later * bits / 8 : 0);
  }

  template <class T>
  void read(Index first, Index count, T* to, Index to_stride) const {
    simd::read_coded(blocks, token + first, count, dim, to, to_stride);
  }

  bool finite(Index, Index) const { return true; }

  [[gnu::always_inline]] void prefetch(Index first, Index count) const {
    const Index last = token + first + count;
    for (Index block = (token + first) / simd::coded_tokens; block * simd::coded_tokens < last; ++block) {
      const Index begin = std::max<Index>(token + first - block * simd::coded_tokens, 0);
      const Index end = std::min(last - block * simd::coded_tokens, simd::coded_tokens);
      const std::uint8_t* const codes = blocks.codes(block);
      if (begin == 0 && end == simd::coded_tokens) {
        detail::prefetch(codes, codes + blocks.bytes());
      } else {
        for (Index i = 0; i < blocks.panels; ++i)
          detail::prefetch(codes + i * blocks.panel_bytes + begin / Codes::in_step * Codes::step_bytes,
                           codes + i * blocks.panel_bytes + Codes::panel_bytes(detail::up_to(Codes::in_step, end)));
        if (begin == 0) detail::prefetch(codes + blocks.codes_bytes(), codes + blocks.bytes());
      }
    }
  }
};

// Formats of keys and of values (format.hpp).
template <int bits>
struct QuantizedKeys {
  using Run = CodedKeys<bits>;
  static constexpr bool late = true;
  static constexpr int number_bits = bits;
  static constexpr float largest = 65504;  // magnitudes up to it can be stored

  Index dim = 0;
  Index group = 32;  // tokens, a multiple of 16
  Index residual_tokens = 32;

  simd::KeyBlocks<bits> blocks(const std::byte* stretch) const {
    return {reinterpret_cast<const std::uint8_t*>(stretch), group, detail::up_to(simd::panel_lanes, dim)};
  }

  Index granule() const { return group; }
  Index block() const { return group; }
  Index packed(Index tokens) const { return tokens / group * blocks(nullptr).bytes(); }
  Index bytes(Index tokens) const { return packed(detail::up_to(group, tokens)); }
  Run run(const std::byte* stretch, Index token) const { return {blocks(stretch), token, dim}; }

  // Of `length` tokens the whole residuals are stored.
  Index settled(Index length) const { return length / residual_tokens * residual_tokens; }
  Index residual() const { return residual_tokens; }

  template <class T>
  bool storable(const T* rows, Index count, Index stride) const {
    return detail::storable(rows, count, stride, dim, largest);
  }

  // Whole groups; all of it storable.
  template <class T>
  void write(std::byte* stretch, Index token, Index count, const T* rows, Index stride) const {
    const Index depth = blocks(stretch).depth, block_bytes = blocks(stretch).bytes();
    auto* to = reinterpret_cast<std::uint8_t*>(stretch) + token / group * block_bytes;
    for (Index first = 0; first < count; first += group, to += block_bytes)
      simd::write_coded_keys<bits>(to, group, depth, dim, rows + first * stride, stride);
  }
};

template <int bits>
struct QuantizedValues {
  using Run = CodedValues<bits>;
  static constexpr bool late = true;
  static constexpr int number_bits = bits;
  static constexpr float largest = 65504;

  Index dim = 0;
  Index group = 32;  // channels, a multiple of 16
  Index residual_tokens = 32;

  simd::ValueBlocks<bits> blocks(const std::byte* stretch) const {
    return {reinterpret_cast<const std::uint8_t*>(stretch), group,
            detail::up_to(simd::panel_lanes, dim) / simd::panel_lanes, (dim + group - 1) / group};
  }

  Index granule() const { return 1; }
  Index block() const { return simd::coded_tokens; }
  Index packed(Index tokens) const { return tokens / simd::coded_tokens * blocks(nullptr).bytes(); }
  Index bytes(Index tokens) const { return packed(detail::up_to(simd::coded_tokens, tokens)); }
  Run run(const std::byte* stretch, Index token) const { return {blocks(stretch), token, dim}; }

  // Of `length` tokens all but the last ones are stored.
  Index settled(Index length) const { return std::max<Index>(length - residual_tokens, 0); }
  Index residual() const { return residual_tokens; }

  template <class T>
  bool storable(const T* rows, Index count, Index stride) const {
    return detail::storable(rows, count, stride, dim, largest);
  }

  // All of it storable.
  template <class T>
  void write(std::byte* stretch, Index token, Index count, const T* rows, Index stride) const {
    const Index block_bytes = blocks(stretch).bytes();
    auto* const to = reinterpret_cast<std::uint8_t*>(stretch);
    for (Index j = 0; j < count; ++j)
      simd::write_coded_value<bits>(to + (token + j) / simd::coded_tokens * block_bytes,
                                    (token + j) % simd::coded_tokens, group, dim, rows + j * stride);
  }
};

namespace detail {

inline void check_grouping(const char* where, Index dim, const Grouping& grouping) {
  check(dim >= 0 && dim <= 65536, where, "quantised tokens have at most 65536 numbers, got ", dim);
  check(grouping.group > 0 && grouping.group % simd::panel_lanes == 0, where,
        "group must be a positive multiple of 16, got ", grouping.group);
  check(grouping.residual > 0 && grouping.residual % grouping.group == 0, where,
        "residual must be a positive multiple of the group, ", grouping.group, ", got ", grouping.residual);
}

template <int bits, std::uint32_t number>
struct QuantizedFormats {
  using Keys = QuantizedKeys<bits>;
  using Values = QuantizedValues<bits>;
  static Keys keys(const char* where, Index dim, const Grouping& grouping) {
    check_grouping(where, dim, grouping);
    return {dim, grouping.group, grouping.residual};
  }
  static Values values(const char* where, Index dim, const Grouping& grouping) {
    check_grouping(where, dim, grouping);
    return {dim, grouping.group, grouping.residual};
  }
  static constexpr std::uint32_t code = number;
};

}  // namespace detail

template <>
struct Formats<Int8> : detail::QuantizedFormats<8, 5> {};
template <>
struct Formats<Int4> : detail::QuantizedFormats<4, 6> {};

}  // namespace fovea::inline FOVEA_ISA::kv
