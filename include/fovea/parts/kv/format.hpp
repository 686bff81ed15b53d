// Formats: how the tokens of one kv head lie in a stretch of memory, a page or a whole cache. Plain<S> keeps rows of S;
// others (quantized.hpp) offer the same members:
//
//   Run, dim                what the engines read (rows.hpp), and the width of a token
//   number_bits             of a number as it is stored
//   granule()               tokens are written so many at a time, from multiples of it on
//   block()                 stretches have room for a multiple of so many tokens
//   packed(tokens)          bytes of so many tokens, whole blocks of them: token `tokens` begins there
//   bytes(tokens)           of a stretch for so many tokens: as many, rounded up to a multiple of 64
//   run(stretch, token)     the tokens from `token` on
//   write(stretch, token, count, rows, stride)    rows of float or double
//   late                    whether the last tokens wait in full precision before they are written, and then
//   residual(), settled(length), largest          of `length` tokens so many are written; at most residual() wait. The
//                           largest magnitude that can be written (infinities and NaN cannot)
//
// What lies in a stretch depends neither on its size nor on the instruction set: a larger stretch begins as a smaller
// one does. Numbers are little-endian.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <fovea/core/check.hpp>
#include <fovea/parts/kv/rows.hpp>
#include <fovea/simd/narrow.hpp>

namespace fovea::inline FOVEA_ISA::kv {

static_assert(std::endian::native == std::endian::little, "fovea: formats of caches are little-endian");

// What quantised formats are made with; plain ones ignore it.
struct Grouping {
  Index group = 32;     // numbers that share a scale: tokens of a channel of keys, channels of a token of values
  Index residual = 32;  // last tokens that stay in full precision, a multiple of the group

  bool operator==(const Grouping&) const = default;
};

template <class F>
concept Format = requires(const F& format, Index n, std::byte* to, const std::byte* from, const float* f,
                          const double* d) {
  typename F::Run;
  { format.dim } -> std::convertible_to<Index>;
  { format.granule() } -> std::same_as<Index>;
  { format.block() } -> std::same_as<Index>;
  { format.packed(n) } -> std::same_as<Index>;
  { format.bytes(n) } -> std::same_as<Index>;
  { format.run(from, n) } -> std::same_as<typename F::Run>;
  { format.settled(n) } -> std::same_as<Index>;
  { format.residual() } -> std::same_as<Index>;
  { F::number_bits } -> std::convertible_to<Index>;
  { F::late } -> std::convertible_to<bool>;
  format.write(to, n, n, f, n);
  format.write(to, n, n, d, n);
};

// Rows of S: float, double, Eigen::bfloat16 or Eigen::half.
template <class S>
struct Plain {
  using Run = Rows<S>;
  static constexpr Index number_bits = 8 * sizeof(S);
  static constexpr bool late = false;

  Index dim = 0;

  Index granule() const { return 1; }
  Index block() const { return 1; }
  Index packed(Index tokens) const { return tokens * dim * Index(sizeof(S)); }
  Index bytes(Index tokens) const { return (packed(tokens) + 63) / 64 * 64; }
  Run run(const std::byte* stretch, Index token) const {
    return {reinterpret_cast<const S*>(stretch) + token * dim, dim, dim};
  }
  // Rounds to the nearest, ties to even.
  template <class T>
  void write(std::byte* stretch, Index token, Index count, const T* rows, Index stride) const {
    S* const to = reinterpret_cast<S*>(stretch) + token * dim;
    if (stride == dim) return simd::copy_rounded(to, rows, count * dim);
    for (Index j = 0; j < count; ++j) simd::copy_rounded(to + j * dim, rows + j * stride, dim);
  }
  Index settled(Index length) const { return length; }
  Index residual() const { return 0; }
};

template <class S>
concept PlainTag = std::same_as<S, float> || std::same_as<S, double> || std::same_as<S, Eigen::bfloat16> ||
    std::same_as<S, Eigen::half>;

// The formats of a tag, the template argument of caches:
//   Keys, Values, keys(where, dim, grouping), values(where, dim, grouping)    ArgumentError when they do not go
//   together code                                                                      in files (docs/cache_format.md)
template <class Tag>
struct Formats;

template <PlainTag S>
struct Formats<S> {
  using Keys = Plain<S>;
  using Values = Plain<S>;
  static Keys keys(const char*, Index dim, const Grouping&) { return {dim}; }
  static Values values(const char*, Index dim, const Grouping&) { return {dim}; }
  static constexpr std::uint32_t code = std::same_as<S, float>             ? 1
                                        : std::same_as<S, double>          ? 2
                                        : std::same_as<S, Eigen::bfloat16> ? 3
                                                                           : 4;
};

template <class Tag>
using KeyFormat = typename Formats<Tag>::Keys;
template <class Tag>
using ValueFormat = typename Formats<Tag>::Values;

}  // namespace fovea::inline FOVEA_ISA::kv
