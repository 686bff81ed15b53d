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
// What lies in memory (panels and steps: simd/quantized.hpp; halfs and words little-endian; widths rounded up to a
// multiple of 16, P; codes and metadata behind the width are zero, or what was there before):
//
//   keys      blocks of `group` tokens: group / 16 panels of 16 tokens by P channels, then scale[P], then low[P].
//             group P bits / 8 + 4 P bytes
//   values    blocks of 32 tokens: P / 16 panels of 16 channels by 32 tokens, then scale[G][32], then low[G][32],
//             G = P / group rounded up. 4 P bits + 128 G bytes
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include <fovea/core/check.hpp>
#include <fovea/parts/kv/format.hpp>
#include <fovea/simd/quantized.hpp>

namespace fovea::inline FOVEA_ISA::kv {

// Tags of caches: codes of 8 and of 4 bits.
struct Int8 {};
struct Int4 {};

namespace detail {

constexpr Index up_to(Index step, Index n) { return (n + step - 1) / step * step; }

inline Eigen::half half_from(std::uint16_t raw) { return Eigen::numext::bit_cast<Eigen::half>(raw); }
inline std::uint16_t raw_half(Eigen::half x) { return Eigen::numext::bit_cast<std::uint16_t>(x); }

// The largest half that is not above x, and the smallest that is not below it; |x| is at most the largest half.
inline Eigen::half half_below(double x) {
  const auto nearest = Eigen::half(static_cast<float>(x));
  if (static_cast<double>(static_cast<float>(nearest)) <= x) return nearest;
  const std::uint16_t raw = raw_half(nearest);
  return half_from((raw & 0x7fff) == 0   ? 0x8001
                   : (raw & 0x8000) != 0 ? std::uint16_t(raw + 1)
                                         : std::uint16_t(raw - 1));
}
inline Eigen::half half_above(double x) { return -half_below(-x); }

// Scale and low of a group, and what codes are taken with.
template <int bits>
struct Grid {
  static constexpr int levels = simd::Codes<bits>::levels;
  Eigen::half scale, low;

  Grid(double least, double most) : low(half_below(least)) {
    const double wide = most - value(low);
    scale = half_above(wide / levels);
    // The quotient was rounded.
    if (value(low) + levels * value(scale) < most) scale = half_from(std::uint16_t(raw_half(scale) + 1));
  }

  static double value(Eigen::half x) { return static_cast<double>(static_cast<float>(x)); }
  int code(double x) const {
    const double step = value(scale);
    if (step == 0) return 0;
    return int(std::nearbyint(std::min(std::max((x - value(low)) / step, 0.0), double(levels))));
  }
};

// Whether all can be stored: finite and not beyond the largest half.
template <class T>
bool storable(const T* rows, Index count, Index stride, Index dim, float largest) {
  for (Index j = 0; j < count; ++j) {
    for (Index d = 0; d < dim; ++d) {
      if (!(std::fabs(rows[j * stride + d]) <= T(largest))) return false;
    }
  }
  return true;
}

}  // namespace detail

template <int bits>
struct CodedKeys {
  using Codes = simd::Codes<bits>;
  static constexpr Index piece = 32;

  const std::byte* stretch = nullptr;
  Index token = 0;  // of the stretch, the first one
  Index dim = 0;
  Index group = 0;

  Index depth() const { return detail::up_to(simd::panel_lanes, dim); }
  Index codes_bytes() const { return group / simd::panel_lanes * Codes::panel_bytes(depth()); }
  Index block_bytes() const { return codes_bytes() + 4 * depth(); }

  template <class T>
  static constexpr Index scratch_size(Index /*rows*/, Index dim) {
    return simd::dot_coded_scratch<T>(detail::up_to(simd::panel_lanes, dim));
  }

  template <class T>
  void score(Index queries, const T* q, Index q_stride, Index first, Index count, T* scores, Index scores_stride,
             T* scratch) const {
    each_block(first, count, [&](const Block& block, Index begin, Index at, Index n) {
      simd::dot_coded<bits>(queries, q, q_stride, dim, depth(), block.scale, block.low, block.codes, begin, n,
                            scores + at, scores_stride, scratch);
    });
  }

  template <class T>
  void read(Index first, Index count, T* to, Index to_stride) const {
    each_block(first, count, [&](const Block& block, Index begin, Index at, Index n) {
      for (Index j = 0; j < n; ++j) {
        const std::uint8_t* const panel = block.codes + (begin + j) / simd::panel_lanes * Codes::panel_bytes(depth());
        T* const row = to + (at + j) * to_stride;
        for (Index d = 0; d < dim; ++d)
          row[d] = static_cast<T>(static_cast<float>(block.scale[d])) *
                       T(Codes::get(panel, (begin + j) % simd::panel_lanes, d)) +
                   static_cast<T>(static_cast<float>(block.low[d]));
      }
    });
  }

  bool finite(Index, Index) const { return true; }

  [[gnu::always_inline]] void prefetch(Index first, Index count) const {
    each_block(
        first, count, [&](const Block& block, Index begin, Index, Index n) __attribute__((always_inline)) {
          const Index bytes = Codes::panel_bytes(depth());
          const std::uint8_t* const end = block.codes + (begin + n + simd::panel_lanes - 1) / simd::panel_lanes * bytes;
          for (const std::uint8_t* p = block.codes + begin / simd::panel_lanes * bytes; p < end; p += 64)
            __builtin_prefetch(p, 0, 2);
          if (begin > 0) return;
          const auto* const metadata = reinterpret_cast<const std::uint8_t*>(block.scale);
          for (Index i = 0; i < 4 * depth(); i += 64) __builtin_prefetch(metadata + i, 0, 2);
        });
  }

 private:
  struct Block {
    const std::uint8_t* codes;
    const Eigen::half *scale, *low;
  };
  // Calls f(block, begin, at, n): tokens begin to begin + n of the block are those from first + at on.
  template <class F>
  [[gnu::always_inline]] void each_block(Index first, Index count, F&& f) const {
    Index number = (token + first) / group, begin = (token + first) % group;
    for (Index at = 0; at < count; ++number, begin = 0) {
      const Index n = std::min(count - at, group - begin);
      const auto* const codes = reinterpret_cast<const std::uint8_t*>(stretch + number * block_bytes());
      const auto* const scale = reinterpret_cast<const Eigen::half*>(codes + codes_bytes());
      f(Block{codes, scale, scale + depth()}, begin, at, n);
      at += n;
    }
  }
};

template <int bits>
struct CodedValues {
  using Codes = simd::Codes<bits>;
  static constexpr Index piece = 32;
  static constexpr Index tokens = simd::coded_tokens;  // of a block
  static constexpr Index panel_bytes = Codes::panel_bytes(tokens);

  const std::byte* stretch = nullptr;
  Index token = 0;  // of the stretch, the first one
  Index dim = 0;
  Index group = 0;

  Index panels() const { return detail::up_to(simd::panel_lanes, dim) / simd::panel_lanes; }
  Index groups() const { return (dim + group - 1) / group; }
  Index block_bytes() const { return panels() * panel_bytes + groups() * tokens * 4; }

  template <class T>
  static constexpr Index scratch_size(Index /*rows*/, Index /*dim*/) {
    return 0;
  }

  bool whole(Index width) const { return width <= panels() * simd::panel_lanes; }

  template <class T>
  void add(Index rows, Index first, Index count, const T* weights, Index weights_stride, T* out, Index width,
           const T* shrink, T* /*scratch*/) const {
    each_block(first, count, [&](const Block& block, Index begin, Index at, Index n) {
      simd::add_coded<bits>(rows, weights + at, weights_stride, begin, n, block.scale, block.low, group, block.codes,
                            out, width, at == 0 ? shrink : nullptr);
    });
  }

  template <class T>
  void read(Index first, Index count, T* to, Index to_stride) const {
    each_block(first, count, [&](const Block& block, Index begin, Index at, Index n) {
      for (Index j = 0; j < n; ++j) {
        T* const row = to + (at + j) * to_stride;
        for (Index d = 0; d < dim; ++d) {
          const Index own = d / group * tokens + begin + j;
          row[d] =
              static_cast<T>(static_cast<float>(block.scale[own])) *
                  T(Codes::get(block.codes + d / simd::panel_lanes * panel_bytes, d % simd::panel_lanes, begin + j)) +
              static_cast<T>(static_cast<float>(block.low[own]));
        }
      }
    });
  }

  bool finite(Index, Index) const { return true; }

  [[gnu::always_inline]] void prefetch(Index first, Index count) const {
    each_block(
        first, count, [&](const Block& block, Index begin, Index, Index n) __attribute__((always_inline)) {
          const Index from = begin / Codes::in_step * Codes::step_bytes;
          const Index to = (begin + n + Codes::in_step - 1) / Codes::in_step * Codes::step_bytes;
          for (Index i = 0; i < panels(); ++i) {
            for (Index p = from; p < to; p += 64) __builtin_prefetch(block.codes + i * panel_bytes + p, 0, 2);
          }
          if (begin > 0) return;
          const auto* const metadata = reinterpret_cast<const std::uint8_t*>(block.scale);
          for (Index i = 0; i < groups() * tokens * 4; i += 64) __builtin_prefetch(metadata + i, 0, 2);
        });
  }

 private:
  struct Block {
    const std::uint8_t* codes;
    const Eigen::half *scale, *low;
  };
  template <class F>
  [[gnu::always_inline]] void each_block(Index first, Index count, F&& f) const {
    Index number = (token + first) / tokens, begin = (token + first) % tokens;
    for (Index at = 0; at < count; ++number, begin = 0) {
      const Index n = std::min(count - at, tokens - begin);
      const auto* const codes = reinterpret_cast<const std::uint8_t*>(stretch + number * block_bytes());
      const auto* const scale = reinterpret_cast<const Eigen::half*>(codes + panels() * panel_bytes);
      f(Block{codes, scale, scale + groups() * tokens}, begin, at, n);
      at += n;
    }
  }
};

// Formats of keys and of values (format.hpp).
template <int bits>
struct QuantizedKeys {
  using Run = CodedKeys<bits>;
  static constexpr bool late = true;
  static constexpr float largest = 65504;  // magnitudes up to it can be stored

  Index dim = 0;
  Index group = 32;  // tokens, a multiple of 16
  Index residual_tokens = 32;

  Index granule() const { return group; }
  Index block() const { return group; }
  Index packed(Index tokens) const { return tokens / group * run(nullptr, 0).block_bytes(); }
  Index bytes(Index tokens) const { return packed(detail::up_to(group, tokens)); }
  Run run(const std::byte* stretch, Index token) const { return {stretch, token, dim, group}; }

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
    const Run own = run(nullptr, 0);
    const Index bytes = Run::Codes::panel_bytes(own.depth());
    for (Index first = 0; first < count; first += group) {
      auto* const codes = reinterpret_cast<std::uint8_t*>(stretch + (token + first) / group * own.block_bytes());
      auto* const scale = reinterpret_cast<Eigen::half*>(codes + own.codes_bytes());
      for (Index d = 0; d < dim; ++d) {
        const T* const x = rows + first * stride + d;
        double least = double(x[0]), most = least;
        for (Index j = 1; j < group; ++j) {
          least = std::min(least, double(x[j * stride]));
          most = std::max(most, double(x[j * stride]));
        }
        const detail::Grid<bits> grid(least, most);
        scale[d] = grid.scale;
        scale[own.depth() + d] = grid.low;
        for (Index j = 0; j < group; ++j)
          Run::Codes::set(codes + j / simd::panel_lanes * bytes, j % simd::panel_lanes, d,
                          grid.code(double(x[j * stride])));
      }
    }
  }
};

template <int bits>
struct QuantizedValues {
  using Run = CodedValues<bits>;
  static constexpr bool late = true;
  static constexpr float largest = 65504;

  Index dim = 0;
  Index group = 32;  // channels, a multiple of 16
  Index residual_tokens = 32;

  Index granule() const { return 1; }
  Index block() const { return Run::tokens; }
  Index packed(Index tokens) const { return tokens / Run::tokens * run(nullptr, 0).block_bytes(); }
  Index bytes(Index tokens) const { return packed(detail::up_to(Run::tokens, tokens)); }
  Run run(const std::byte* stretch, Index token) const { return {stretch, token, dim, group}; }

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
    const Run own = run(nullptr, 0);
    for (Index j = 0; j < count; ++j) {
      const Index at = (token + j) % Run::tokens;
      auto* const codes = reinterpret_cast<std::uint8_t*>(stretch + (token + j) / Run::tokens * own.block_bytes());
      auto* const scale = reinterpret_cast<Eigen::half*>(codes + own.panels() * Run::panel_bytes);
      const T* const x = rows + j * stride;
      for (Index begin = 0, g = 0; begin < dim; begin += group, ++g) {
        const Index end = std::min(begin + group, dim);
        double least = double(x[begin]), most = least;
        for (Index d = begin + 1; d < end; ++d) {
          least = std::min(least, double(x[d]));
          most = std::max(most, double(x[d]));
        }
        const detail::Grid<bits> grid(least, most);
        scale[g * Run::tokens + at] = grid.scale;
        scale[(own.groups() + g) * Run::tokens + at] = grid.low;
        for (Index d = begin; d < end; ++d)
          Run::Codes::set(codes + d / simd::panel_lanes * Run::panel_bytes, d % simd::panel_lanes, at,
                          grid.code(double(x[d])));
      }
    }
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
