// Rotary position embedding: pairs of channels turned by an angle that grows with the position.
// Su et al., "RoFormer", 2021, arXiv:2104.09864.
//
//   (a, b) -> (a cos p t_k - b sin p t_k, a sin p t_k + b cos p t_k),   t_k = base^(-2 k / R),  k = 0 .. R/2 - 1
//
// R channels are rotated (all, unless `rotated` says fewer: the leading ones); the rest is copied.
#pragma once

#include <algorithm>
#include <cstring>

#include <fovea/core/check.hpp>
#include <fovea/core/eigen.hpp>
#include <fovea/exec/serial.hpp>
#include <fovea/parts/position/angles.hpp>
#include <fovea/simd/row.hpp>

namespace fovea::inline FOVEA_ISA::position {

namespace detail {

// n pairs: (a[k], b[k]), or (a[2 k], a[2 k + 1]) when interleaved, as are those of the result; it may be the same row.
template <class T>
void rotate_pairs(const T* a, const T* b, const T* cosine, const T* sine, Index n, RotaryLayout layout, T* first,
                  T* second) {
  if (layout == RotaryLayout::interleaved) {
    for (Index k = 0; k < n; ++k) {
      const T x = a[2 * k], y = a[2 * k + 1];
      first[2 * k] = x * cosine[k] - y * sine[k];
      first[2 * k + 1] = x * sine[k] + y * cosine[k];
    }
    return;
  }
  Index k = 0;
  for (; k + simd::lanes<T> <= n; k += simd::lanes<T>) {
    const auto x = simd::load(a + k), y = simd::load(b + k);
    const auto c = simd::load(cosine + k), s = simd::load(sine + k);
    simd::store(first + k, x * c - y * s);
    simd::store(second + k, x * s + y * c);
  }
  for (; k < n; ++k) {
    const T x = a[k], y = b[k];
    first[k] = x * cosine[k] - y * sine[k];
    second[k] = x * sine[k] + y * cosine[k];
  }
}

}  // namespace detail

// out = x rotated, both [B,H,T,D]; they may be the same array. positions holds an integer for each token, [T], or [B x
// T] when sequences differ: anything with size() and []. Angles are made once for all calls; nothing is allocated.
template <class X, class Positions, class Out, exec::Executor Exec = exec::Serial>
void rotary(const X& x, const Positions& positions, Out&& out, const Angles& angles, const Exec& executor = {}) {
  constexpr auto where = "fovea::position::rotary";
  const auto from = view(x);
  const auto to = view(out);
  using T = std::remove_pointer_t<decltype(to.data)>;
  static_assert(!std::is_const_v<T>, "fovea: the output must not be const");
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "fovea: rotary takes float or double");
  const Index count = Index(positions.size());
  check(from.extents() == to.extents(), where, "out must have the shape of x, wanted [", from.batch, ", ", from.heads,
        ", ", from.length, ", ", from.dim, "], got [", to.batch, ", ", to.heads, ", ", to.length, ", ", to.dim, "]");
  check(angles.dim() == from.dim, where, "the angles must be for the width of x, wanted ", from.dim, ", got ",
        angles.dim());
  check(count == from.length || count == from.batch * from.length, where,
        "positions must have one integer for each token, ", "wanted ", from.length, " or ", from.batch * from.length,
        ", got ", count);

  const Index pairs = angles.pairs(), rotated = angles.rotated(), batch_step = count == from.length ? 0 : from.length;
  const bool split = angles.layout() == RotaryLayout::half_split;
  const double flops = 3.0 * double(from.heads * from.dim) + 40.0 * double(pairs);
  executor.parallel_for(from.batch * from.length, flops, [&](Index begin, Index end) {
    alignas(64) T cosine[std::size_t(Angles::block)], sine[std::size_t(Angles::block)];
    for (Index item = begin; item < end; ++item) {
      const Index batch = item / from.length, t = item % from.length;
      const Index position = Index(positions[std::size_t(batch * batch_step + t)]);
      for (Index first = 0; first < pairs; first += Angles::block) {
        const Index n = std::min(Angles::block, pairs - first), at = split ? first : 2 * first;
        angles.of(position, first, n, cosine, sine);
        for (Index head = 0; head < from.heads; ++head) {
          const T* const row = from.row(batch, head, t);
          T* const turned = to.row(batch, head, t);
          detail::rotate_pairs<T>(row + at, row + pairs + first, cosine, sine, n, angles.layout(), turned + at,
                                  turned + pairs + first);
        }
      }
      for (Index head = 0; head < from.heads; ++head) {
        const T* const row = from.row(batch, head, t);
        T* const turned = to.row(batch, head, t);
        if (row != turned && rotated < from.dim)
          std::memcpy(turned + rotated, row + rotated, std::size_t(from.dim - rotated) * sizeof(T));
      }
    }
  });
}

// The same with angles of its own.
template <class X, class Positions, class Out, exec::Executor Exec = exec::Serial>
void rotary(const X& x, const Positions& positions, Out&& out, const RotaryOptions& options = {},
            const Exec& executor = {}) {
  const Angles angles(view(x).dim, options, "fovea::position::rotary");
  rotary(x, positions, std::forward<Out>(out), angles, executor);
}

}  // namespace fovea::inline FOVEA_ISA::position
