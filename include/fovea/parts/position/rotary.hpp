// Rotary position embedding: pairs of channels turned by an angle that grows with the position.
// Su et al., "RoFormer", 2021, arXiv:2104.09864.
//
//   (a, b) -> (a cos p t_k - b sin p t_k, a sin p t_k + b cos p t_k),   t_k = base^(-2 k / R),  k = 0 .. R/2 - 1
//
// R channels are rotated (all, unless `rotated` says fewer: the leading ones); the rest is copied.
#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include <fovea/core/check.hpp>
#include <fovea/core/eigen.hpp>
#include <fovea/exec/serial.hpp>
#include <fovea/simd/row.hpp>

namespace fovea::inline FOVEA_ISA::position {

// Which channels make a pair: half_split (x_k, x_{k + R/2}) as in Llama and NeoX, interleaved (x_2k, x_2k+1) as in
// GPT-J.
enum class RotaryLayout { half_split, interleaved };

struct RotaryOptions {
  RotaryLayout layout = RotaryLayout::half_split;
  double base = 10000;
  Index rotated = 0;  // channels that are rotated, even; 0 for all
};

namespace detail {

template <class T>
void rotate_row(const T* x, const T* cosine, const T* sine, Index half, RotaryLayout layout, T* out) {
  if (layout == RotaryLayout::interleaved) {
    for (Index k = 0; k < half; ++k) {
      const T a = x[2 * k], b = x[2 * k + 1];
      out[2 * k] = a * cosine[k] - b * sine[k];
      out[2 * k + 1] = a * sine[k] + b * cosine[k];
    }
    return;
  }
  Index k = 0;
  for (; k + simd::lanes<T> <= half; k += simd::lanes<T>) {
    const auto a = simd::load(x + k), b = simd::load(x + half + k);
    const auto c = simd::load(cosine + k), s = simd::load(sine + k);
    simd::store(out + k, a * c - b * s);
    simd::store(out + half + k, a * s + b * c);
  }
  for (; k < half; ++k) {
    const T a = x[k], b = x[half + k];
    out[k] = a * cosine[k] - b * sine[k];
    out[half + k] = a * sine[k] + b * cosine[k];
  }
}

}  // namespace detail

// out = x rotated, both [B,H,T,D]; they may be the same array. positions holds an integer for each token: [T], or [B x
// T] when sequences differ.
template <class X, class Positions, class Out, exec::Executor Exec = exec::Serial>
void rotary(const X& x, const Positions& positions, Out&& out, const RotaryOptions& options = {},
            const Exec& executor = {}) {
  constexpr auto where = "fovea::position::rotary";
  const auto from = view(x);
  const auto to = view(out);
  using T = std::remove_pointer_t<decltype(to.data)>;
  static_assert(!std::is_const_v<T>, "fovea: the output must not be const");
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "fovea: rotary takes float or double");
  const Index rotated = options.rotated == 0 ? from.dim : options.rotated;
  const Index count = Index(positions.size());
  check(from.extents() == to.extents(), where, "out must have the shape of x, wanted [", from.batch, ", ", from.heads,
        ", ", from.length, ", ", from.dim, "], got [", to.batch, ", ", to.heads, ", ", to.length, ", ", to.dim, "]");
  check(rotated >= 0 && rotated % 2 == 0 && rotated <= from.dim, where,
        "the rotated channels must be even and at most the width ", from.dim, ", got ", rotated);
  check(count == from.length || count == from.batch * from.length, where,
        "positions must have one integer for each token, ", "wanted ", from.length, " or ", from.batch * from.length,
        ", got ", count);
  check(std::isfinite(options.base) && options.base > 0, where, "the base must be positive and finite, got ",
        options.base);

  const Index half = rotated / 2;
  std::vector<T> cosine(std::size_t(count * half)), sine(cosine.size());
  for (Index p = 0; p < count; ++p) {
    for (Index k = 0; k < half; ++k) {
      const double angle =
          double(positions[std::size_t(p)]) * std::pow(options.base, -2.0 * double(k) / double(rotated));
      cosine[std::size_t(p * half + k)] = T(std::cos(angle));
      sine[std::size_t(p * half + k)] = T(std::sin(angle));
    }
  }
  const Index batch_step = count == from.length ? 0 : from.length;
  executor.parallel_for(from.batch * from.heads, 3.0 * double(from.length * from.dim), [&](Index begin, Index end) {
    for (Index item = begin; item < end; ++item) {
      const Index batch = item / from.heads, head = item % from.heads;
      for (Index t = 0; t < from.length; ++t) {
        const T* const row = from.row(batch, head, t);
        T* const turned = to.row(batch, head, t);
        const Index at = (batch * batch_step + t) * half;
        if (row != turned) std::memcpy(turned + rotated, row + rotated, std::size_t(from.dim - rotated) * sizeof(T));
        detail::rotate_row<T>(row, cosine.data() + at, sine.data() + at, half, options.layout, turned);
      }
    }
  });
}

}  // namespace fovea::inline FOVEA_ISA::position
