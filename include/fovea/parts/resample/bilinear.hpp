// Tokens of a grid on another grid, by bilinear interpolation. Corners are not aligned: the grids have the same outer
// edges, as images have.
#pragma once

#include <algorithm>

#include <fovea/core/check.hpp>
#include <fovea/core/eigen.hpp>
#include <fovea/exec/serial.hpp>
#include <fovea/simd/ops.hpp>

namespace fovea::inline FOVEA_ISA::resample {

// Between which places of an axis of `from` places lies place i of one of `to`, and how far behind the first.
struct Between {
  Index first = 0;
  Index second = 0;
  double behind = 0;  // in [0, 1]

  // At max(0, (i + 1/2) from / to - 1/2); the last place is followed by itself.
  static Between at(Index i, Index from, Index to) {
    const double place = std::max(0.0, (double(i) + 0.5) * double(from) / double(to) - 0.5);
    const Index first = std::min(Index(place), from - 1);
    return {first, std::min(first + 1, from - 1), std::min(place - double(first), 1.0)};
  }
};

// x [B,H,height width,D] to out [B,H,rows columns,D], tokens row by row of their grid.
template <class X, class Out, exec::Executor Exec = exec::Serial>
void bilinear(const X& tokens, Index height, Index width, Out&& result, Index rows, Index columns,
              const Exec& executor = {}) {
  constexpr auto where = "fovea::resample::bilinear";
  const auto out = view(result);
  using T = std::remove_pointer_t<decltype(out.data)>;
  static_assert(!std::is_const_v<T>, "fovea: the output must not be const");
  const View<const T> x = view(tokens);
  check(height > 0 && width > 0 && x.length / width == height && x.length % width == 0, where,
        "the grid must hold the tokens, wanted ", x.length, ", got ", height, " times ", width);
  check(rows >= 0 && columns >= 0 && out.batch == x.batch && out.heads == x.heads && out.length == rows * columns &&
            out.dim == x.dim,
        where, "the result must hold its grid, wanted [", x.batch, ", ", x.heads, ", ", rows * columns, ", ", x.dim,
        "], got [", out.batch, ", ", out.heads, ", ", out.length, ", ", out.dim, "]");
  executor.parallel_for(x.batch * x.heads * rows, double(8 * columns * x.dim), [&](Index begin, Index end) {
    using namespace simd;
    for (Index item = begin; item < end; ++item) {
      const Index b = item / rows / x.heads, h = item / rows % x.heads, i = item % rows;
      const Between down = Between::at(i, height, rows);
      for (Index j = 0; j < columns; ++j) {
        const Between across = Between::at(j, width, columns);
        const T* const corner[4] = {
            x.row(b, h, down.first * width + across.first), x.row(b, h, down.first * width + across.second),
            x.row(b, h, down.second * width + across.first), x.row(b, h, down.second * width + across.second)};
        const Pack<T> lower(T(down.behind)), upper(T(1 - down.behind)), right(T(across.behind)),
            left(T(1 - across.behind));
        T* const to = out.row(b, h, i * columns + j);
        const auto mix = [&](auto&& read) {
          return fma(upper, fma(left, read(corner[0]), right * read(corner[1])),
                     lower * fma(left, read(corner[2]), right * read(corner[3])));
        };
        Index d = 0;
        for (; d + lanes<T> <= x.dim; d += lanes<T>) store(to + d, mix([&](const T* p) { return load(p + d); }));
        if (d < x.dim) store_some(to + d, mix([&](const T* p) { return load_some(p + d, x.dim - d); }), x.dim - d);
      }
    }
  });
}

}  // namespace fovea::inline FOVEA_ISA::resample
