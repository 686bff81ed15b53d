// The angles of rotary positions: cosines and sines of p t_k for any integer position p, without a table of positions.
//
// A frequency is kept in quarter turns, cut into parts of 26 bits, so that its products with a position are exact and
// whole turns can be taken off before anything is rounded: the angles of positions up to 2^27 are those of the kept
// frequency to one and a half epsilons of double, beyond that to |p| 2^-27 epsilons.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include <fovea/core/check.hpp>
#include <fovea/simd/ops.hpp>

namespace fovea::inline FOVEA_ISA::position {

// Which channels make a pair: half_split (x_k, x_{k + R/2}) as in Llama and NeoX, interleaved (x_2k, x_2k+1) as in
// GPT-J.
enum class RotaryLayout { half_split, interleaved };

struct RotaryOptions {
  RotaryLayout layout = RotaryLayout::half_split;
  double base = 10000;
  Index rotated = 0;  // channels that are rotated, even; 0 for all

  bool operator==(const RotaryOptions&) const = default;
};

// count positions from `first` on.
struct Consecutive {
  Index first = 0;
  Index count = 0;

  Index size() const { return count; }
  Index operator[](std::size_t i) const { return first + Index(i); }
};

namespace detail {

inline constexpr int angle_lanes = int(simd::lanes<double>);
using AngleLanes = simd::Native<double, angle_lanes>;
using AngleBits = simd::Native<std::int64_t, angle_lanes>;

template <class To, class From>
[[gnu::always_inline]] inline To as(const From& x) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &x, sizeof to);
  return to;
}

// Adding it rounds to an integer and leaves that in the low bits.
inline constexpr double round_to_integer = 0x1.8p52;

// Cosine and sine of n + r quarter turns, |r| <= 1/2, n an integer of at most 50 bits. Taylor series of which what is
// left out is below 2^-54.
[[gnu::always_inline]] inline void turn(const AngleLanes& n, const AngleLanes& r, AngleLanes& cosine,
                                        AngleLanes& sine) {
  const AngleLanes x = r * 0x1.921fb54442d18p0, x2 = x * x;  // pi / 2
  AngleLanes s = x2 * (-1 / 1307674368000.0);                // 15!
  for (const double part : {1 / 6227020800.0, -1 / 39916800.0, 1 / 362880.0, -1 / 5040.0, 1 / 120.0, -1 / 6.0})
    s = (s + part) * x2;
  s = x + x * s;
  AngleLanes c = x2 * (1 / 20922789888000.0);  // 16!
  for (const double part : {-1 / 87178291200.0, 1 / 479001600.0, -1 / 3628800.0, 1 / 40320.0, -1 / 720.0, 1 / 24.0})
    c = (c + part) * x2;
  c = 1.0 - (0.5 * x2 - x2 * c);
  // Quarter turns: (c, s), (-s, c), (-c, -s), (s, -c).
  const AngleBits quarter = as<AngleBits>(n + round_to_integer);
  const AngleBits odd = -(quarter & 1), minus_s = (quarter & 2) << 62, minus_c = ((quarter + 1) & 2) << 62;
  const AngleBits cosines = as<AngleBits>(c), sines = as<AngleBits>(s);
  cosine = as<AngleLanes>(((cosines & ~odd) | (sines & odd)) ^ minus_c);
  sine = as<AngleLanes>(((sines & ~odd) | (cosines & odd)) ^ minus_s);
}

}  // namespace detail

// The frequencies t_k of a rotation of rows of `dim` channels; made once and used for every call.
class Angles {
 public:
  // Throws ArgumentError, in the name of `where`, for options that are not legal.
  explicit Angles(Index dim, const RotaryOptions& options = {}, const char* where = "fovea::position::Angles")
      : dim_(dim), rotated_(options.rotated == 0 ? dim : options.rotated), layout_(options.layout) {
    check(dim >= 0 && rotated_ >= 0 && rotated_ % 2 == 0 && rotated_ <= dim, where,
          "the rotated channels must be even and at most the width ", dim, ", got ", rotated_);
    check(std::isfinite(options.base) && options.base > 0, where, "the base must be positive and finite, got ",
          options.base);
    const Index blocks = (pairs() + detail::angle_lanes - 1) / detail::angle_lanes;
    parts_.resize(std::size_t(3 * blocks * detail::angle_lanes), 0.0);
    for (Index k = 0; k < pairs(); ++k) {
      constexpr long double quarters = 0.636619772367581343075535053490057448L;  // of a unit, 2 / pi
      long double rest = quarters * std::pow((long double)options.base, -2.0L * (long double)k / (long double)rotated_);
      double* const part = &parts_[std::size_t(k / detail::angle_lanes * 3 * detail::angle_lanes)];
      for (Index p = 0; p < 3; ++p) {
        const double next = p == 2 ? double(rest) : leading_bits(double(rest));
        part[p * detail::angle_lanes + k % detail::angle_lanes] = next;
        rest -= (long double)next;
      }
    }
  }

  Index dim() const { return dim_; }
  Index rotated() const { return rotated_; }
  Index pairs() const { return rotated_ / 2; }
  RotaryLayout layout() const { return layout_; }

  // Pairs of which one call of of() gives the angles at most.
  static constexpr Index block = 64;

  // Cosines and sines of the pairs [first, first + n), n <= block, first a multiple of block. Room is for `block`.
  template <class T>
  void of(Index position, Index first, Index n, T* cosine, T* sine) const {
    using Lanes = detail::AngleLanes;
    constexpr int lanes = detail::angle_lanes;
    const double p = double(position);
    for (Index k = 0; k < n; k += lanes) {
      const double* const part = &parts_[std::size_t((first + k) * 3)];
      const Lanes large = p * simd::native_load<double, lanes>(part);
      const Lanes middle = p * simd::native_load<double, lanes>(part + lanes);
      const Lanes small = p * simd::native_load<double, lanes>(part + 2 * lanes);
      const Lanes of_large = rounded(large), of_middle = rounded(middle);
      const Lanes rest = (large - of_large) + ((middle - of_middle) + small);
      const Lanes of_rest = rounded(rest);
      Lanes c, s;
      detail::turn(of_large + of_middle + of_rest, rest - of_rest, c, s);
      for (int i = 0; i < lanes; ++i) {
        cosine[k + i] = T(c[i]);
        sine[k + i] = T(s[i]);
      }
    }
  }

 private:
  [[gnu::always_inline]] static detail::AngleLanes rounded(detail::AngleLanes x) {
    return x + detail::round_to_integer - detail::round_to_integer;
  }
  // The first 26 bits of x.
  static double leading_bits(double x) {
    return detail::as<double>(detail::as<std::uint64_t>(x) & ~((std::uint64_t{1} << 27) - 1));
  }

  Index dim_, rotated_;
  RotaryLayout layout_;
  std::vector<double> parts_{};  // vector by vector: the three parts of its frequencies
};

}  // namespace fovea::inline FOVEA_ISA::position
