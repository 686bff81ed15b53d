// Numbers become codes (codes.hpp): the range of a group, its scale and minimum as halfs, and what lies where.
//
// The minimum is rounded down, and the scale up until the range is covered; codes are taken against what is stored, in
// double, and round to even. A group of one number that is a half has scale zero.
#pragma once

#include <algorithm>
#include <cmath>

#include <fovea/simd/codes.hpp>
#include <fovea/simd/widen.hpp>

// As in simd/ops.hpp: g++ 12 takes undefined operands inside its own intrinsics for a mistake (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace fovea::inline FOVEA_ISA::simd {

namespace detail {

inline Eigen::half half_of_bits(std::uint16_t bits) { return Eigen::numext::bit_cast<Eigen::half>(bits); }
inline std::uint16_t bits_of_half(Eigen::half x) { return Eigen::numext::bit_cast<std::uint16_t>(x); }
inline double double_of_half(Eigen::half x) { return static_cast<double>(static_cast<float>(x)); }

// The largest half that is not above x, and the smallest that is not below it; |x| is at most the largest half.
inline Eigen::half half_below(double x) {
  const auto nearest = Eigen::half(static_cast<float>(x));
  if (double_of_half(nearest) <= x) return nearest;
  const std::uint16_t bits = bits_of_half(nearest);
  return half_of_bits((bits & 0x7fff) == 0 ? std::uint16_t(0x8001)
                                           : std::uint16_t((bits & 0x8000) != 0 ? bits + 1 : bits - 1));
}
inline Eigen::half half_above(double x) { return -half_below(-x); }

}  // namespace detail

// What is stored of a group of numbers from `least` to `most`.
template <int bits>
struct Grid {
  static constexpr int levels = Codes<bits>::levels;
  Eigen::half scale, low;

  Grid(double least, double most) : low(detail::half_below(least)) {
    scale = detail::half_above((most - detail::double_of_half(low)) / levels);
    // The quotient was rounded.
    if (detail::double_of_half(low) + levels * detail::double_of_half(scale) < most)
      scale = detail::half_of_bits(std::uint16_t(detail::bits_of_half(scale) + 1));
  }

  double minimum() const { return detail::double_of_half(low); }
  // What to divide by: codes are zero where the scale is.
  double step() const { return static_cast<float>(scale) == 0 ? 1.0 : detail::double_of_half(scale); }
};

namespace detail {

// code[i] = round((x[i] - low[i]) / step[i]) for 16 numbers of grids that cover them.
template <class T>
[[gnu::always_inline]] inline void encode_lanes(const T* x, const double* low, const double* step, std::uint8_t* code) {
  constexpr int some = int(lanes<double>);
  for (int i = 0; i < 16; i += some) {
    const auto wide = __builtin_convertvector(native_load<T, some>(x + i), Native<double, some>);
    const auto quotient = (wide - native_load<double, some>(low + i)) / native_load<double, some>(step + i);
    // Next to 2^52 a double has steps of one. Half as wide at a time: g++ 12 takes the lanes apart otherwise.
    const auto round = (quotient + 0x1.8p52) - 0x1.8p52;
    const auto half_wide = __builtin_convertvector(__builtin_convertvector(round, Native<std::int32_t, some>),
                                                   Native<std::uint16_t, some>);
    const auto narrow = __builtin_convertvector(half_wide, Native<std::uint8_t, some>);
    std::memcpy(code + i, &narrow, sizeof narrow);
  }
}

// 16 numbers of a row from d on: where they lie, or a copy with `fill` behind the row.
template <class T>
[[gnu::always_inline]] inline const T* sixteen(const T* row, Index d, Index dim, T fill, T* copy) {
  if (d + 16 <= dim) return row + d;
  std::fill_n(std::copy(row + d, row + dim, copy), d + 16 - dim, fill);
  return copy;
}

template <int bits>
[[gnu::always_inline]] inline void put_codes_of_lane(std::uint8_t* panel, Index lane, Index depth,
                                                     const std::uint8_t* code) {
  using Layout = Codes<bits>;
  std::uint8_t* const to = panel + depth / Layout::in_step * Layout::step_bytes + 4 * lane;
  std::uint32_t word[4];
  std::memcpy(word, code, sizeof word);
  if constexpr (bits == 8) {
    for (int i = 0; i < 4; ++i) std::memcpy(to + i * Layout::step_bytes, word + i, 4);
  } else {
    for (int i = 0; i < 2; ++i) {
      const std::uint32_t both = word[2 * i] | word[2 * i + 1] << 4;
      std::memcpy(to + i * Layout::step_bytes, &both, 4);
    }
  }
}

}  // namespace detail

// One block of keys from `group` rows of dim numbers.
template <int bits, class T>
void write_coded_keys(std::uint8_t* block, Index group, Index depth, Index dim, const T* rows, Index stride) {
  using Layout = Codes<bits>;
  const Index panel_bytes = Layout::panel_bytes(depth);
  auto* const scales = reinterpret_cast<Eigen::half*>(block + group / panel_lanes * panel_bytes);
  alignas(64) T copy[16], least[16], most[16];
  alignas(64) double low[16], step[16];
  std::uint8_t code[16];
  for (Index d = 0; d < dim; d += 16) {
    constexpr int vectors = 16 / int(lanes<T>);
    Pack<T> smallest[vectors], largest[vectors];
    for (Index j = 0; j < group; ++j) {
      const T* const x = detail::sixteen(rows + j * stride, d, dim, T(0), copy);
      for (int i = 0; i < vectors; ++i) {
        const Pack<T> some = load(x + i * lanes<T>);
        smallest[i] = j == 0 ? some : xsimd::min(smallest[i], some);
        largest[i] = j == 0 ? some : xsimd::max(largest[i], some);
      }
    }
    for (int i = 0; i < vectors; ++i) {
      store(least + i * lanes<T>, smallest[i]);
      store(most + i * lanes<T>, largest[i]);
    }
    for (int i = 0; i < 16; ++i) {
      const Grid<bits> grid(static_cast<double>(least[i]), static_cast<double>(most[i]));
      low[i] = grid.minimum();
      step[i] = grid.step();
      scales[d + i] = grid.scale;
      scales[depth + d + i] = grid.low;
    }
    for (Index j = 0; j < group; ++j) {
      detail::encode_lanes(detail::sixteen(rows + j * stride, d, dim, T(0), copy), low, step, code);
      detail::put_codes_of_lane<bits>(block + j / panel_lanes * panel_bytes, j % panel_lanes, d, code);
    }
  }
}

// Token `token` of a block of values from dim numbers, grouped by `group` channels.
template <int bits, class T>
void write_coded_value(std::uint8_t* block, Index token, Index group, Index dim, const T* x) {
  using Layout = Codes<bits>;
  constexpr Index panel_bytes = Layout::panel_bytes(coded_tokens);
  const Index panels = (dim + panel_lanes - 1) / panel_lanes, groups = (dim + group - 1) / group;
  auto* const scales = reinterpret_cast<Eigen::half*>(block + panels * panel_bytes);
  alignas(64) T copy[16];
  alignas(64) double low[16], step[16];
  std::uint8_t code[16];
  for (Index g = 0; g < groups; ++g) {
    const Index end = std::min((g + 1) * group, dim);
    Pack<T> smallest(x[g * group]), largest(x[g * group]);
    for (Index d = g * group; d < end; d += 16) {
      const T* const some = detail::sixteen(x, d, end, x[d], copy);
      for (int i = 0; i < 16; i += int(lanes<T>)) {
        smallest = xsimd::min(smallest, load(some + i));
        largest = xsimd::max(largest, load(some + i));
      }
    }
    const T least = fold<T, int(lanes<T>)>(detail::native(smallest), [](auto a, auto b) { return a < b ? a : b; });
    const T most = max_of_lanes(largest);
    const Grid<bits> grid(static_cast<double>(least), static_cast<double>(most));
    scales[g * coded_tokens + token] = grid.scale;
    scales[(groups + g) * coded_tokens + token] = grid.low;
    std::fill_n(low, 16, grid.minimum());
    std::fill_n(step, 16, grid.step());
    for (Index d = g * group; d < end; d += 16) {
      detail::encode_lanes(detail::sixteen(x, d, end, T(0), copy), low, step, code);
      std::uint8_t* const panel = block + d / panel_lanes * panel_bytes;
      const Index some = std::min<Index>(16, end - d);
      for (Index i = 0; i < some; ++i) Layout::set(panel, i, token, code[i]);
    }
  }
}

}  // namespace fovea::inline FOVEA_ISA::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
