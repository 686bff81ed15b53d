// Products and solves of small row-major matrices, all rows of them, on the register kernel. Columns are whole vectors.
#pragma once

#include <algorithm>
#include <type_traits>

#include <fovea/simd/tile.hpp>

namespace fovea::inline FOVEA_ISA::simd {

// f(first, count) for bands of rows that together cover [0, rows); count is an integral constant.
template <class F>
[[gnu::always_inline]] inline void each_band(Index rows, F&& f) {
  Index i = 0;
  for (; i + tile_rows <= rows; i += tile_rows) f(i, std::integral_constant<int, tile_rows>{});
  for (; i + 4 <= rows; i += 4) f(i, std::integral_constant<int, 4>{});
  for (; i + 2 <= rows; i += 2) f(i, std::integral_constant<int, 2>{});
  if (i < rows) f(i, std::integral_constant<int, 1>{});
}

// C = A B, or shrink C + A B with a number for each row.
template <Onto onto, class T>
inline void multiply(Index rows, Index columns, Index depth, const T* a, Index lda, const T* b, Index ldb, T* c,
                     Index ldc, const T* shrink = nullptr) {
  each_band(rows, [&](Index i, auto count) {
    multiply_rows<decltype(count)::value, onto>(columns, depth, a + i * lda, lda, b, ldb, c + i * ldc, ldc,
                                                onto == Onto::nothing ? nullptr : shrink + i);
  });
}

// The part of C = A B on the diagonal and below it; a few elements above are written as well, those at or past column
// whole<T>(i + 6) of row i never.
template <class T>
inline void multiply_to_lower(Index rows, Index depth, const T* a, Index lda, const T* b, Index ldb, T* c, Index ldc) {
  each_band(rows, [&](Index i, auto count) {
    multiply_rows<decltype(count)::value, Onto::nothing>(whole<T>(i + count), depth, a + i * lda, lda, b, ldb,
                                                         c + i * ldc, ldc);
  });
}

// C = shrink C + A B for a lower triangular A, zero above its diagonal. When not every element of B is finite, `strict`
// keeps row i from meeting the rows of B behind row i at all.
template <class T>
inline void multiply_lower(Index rows, Index columns, const T* a, Index lda, const T* b, Index ldb, T* c, Index ldc,
                           const T* shrink, bool strict) {
  if (strict) {
    for (Index i = 0; i < rows; ++i)
      multiply_rows<1, Onto::shrunk_sum>(columns, i + 1, a + i * lda, lda, b, ldb, c + i * ldc, ldc, shrink + i);
    return;
  }
  each_band(rows, [&](Index i, auto count) {
    multiply_rows<decltype(count)::value, Onto::shrunk_sum>(columns, i + count, a + i * lda, lda, b, ldb, c + i * ldc,
                                                            ldc, shrink + i);
  });
}

// X = (I - A)^-1 X for a strictly lower triangular A, by forward substitution; nothing on or above its diagonal is
// read. ones: `rows` numbers 1.
template <class T>
inline void solve_unit_lower(Index rows, Index columns, const T* a, Index lda, T* x, Index ldx, const T* ones) {
  each_band(rows, [&](Index i, auto count) {
    if (i > 0)
      multiply_rows<decltype(count)::value, Onto::shrunk_sum>(columns, i, a + i * lda, lda, x, ldx, x + i * ldx, ldx,
                                                              ones);
    for (Index c = 0; c < columns; c += lanes<T>) {
      Pack<T> row[tile_rows];
#pragma GCC unroll 8
      for (int r = 0; r < tile_rows; ++r) {
        if (r >= count) continue;
        row[r] = load(x + (i + r) * ldx + c);
#pragma GCC unroll 8
        for (int s = 0; s < tile_rows; ++s) {
          if (s < r) row[r] = fma(Pack<T>(a[(i + r) * lda + i + s]), row[s], row[r]);
        }
        store(x + (i + r) * ldx + c, row[r]);
      }
    }
  });
}

// x[j] *= factor weight[j] for the first `seen` elements, zero behind them up to `end`, a whole number of vectors; no
// weights when null. What was behind `seen` does not matter, NaN included.
template <class T>
inline void weigh_row(T* x, Index seen, Index end, T factor, const T* weight) {
  const Pack<T> all(factor);
  const auto weighed = [&](Index j) {
    const Pack<T> v = load(x + j) * all;
    return weight == nullptr ? v : v * load(weight + j);
  };
  Index j = 0;
  for (; j + lanes<T> <= seen; j += lanes<T>) store(x + j, weighed(j));
  if (j < end) {
    store(x + j, keep_bits((std::uint64_t{1} << (seen - j)) - 1, weighed(j), Pack<T>(T(0))));
    for (j += lanes<T>; j < end; j += lanes<T>) store(x + j, Pack<T>(T(0)));
  }
}

namespace detail {

// scores[j] = x . k_j, a vector of them, and x moves back over token j: x *= fade_j; for j = count - 1, ..., 0. to = x.
template <int count, class T>
inline void decayed_dots(Index width, const T* x, T* to, const T* k, Index k_stride, const T* fade, Index fade_stride,
                         T* scores) {
  constexpr int n = int(lanes<T>);
  Pack<T> sum[std::size_t(n)];
#pragma GCC unroll 16
  for (int j = 0; j < n; ++j) sum[j] = Pack<T>(T(0));
  for (Index d = 0; d < width; d += n) {
    Pack<T> v = load(x + d);
#pragma GCC unroll 16
    for (int j = n - 1; j >= 0; --j) {
      if (j >= count) continue;
      sum[j] = fma(v, load(k + j * k_stride + d), sum[j]);
      v = v * load(fade + j * fade_stride + d);
    }
    store(to + d, v);
  }
  Native<T, n> sums[std::size_t(n)];
#pragma GCC unroll 16
  for (int j = 0; j < n; ++j) sums[j] = native(sum[j]);
  const auto row = sum_each<T, n>(sums);
  std::memcpy(scores, &row, sizeof row);
}

// The same for a count that is known when the program runs.
template <int count, class T, class... Rest>
[[gnu::always_inline]] inline void decayed_dots_of(Index wanted, Rest... rest) {
  if (wanted == count) return decayed_dots<count, T>(rest...);
  if constexpr (count > 1) decayed_dots_of<count - 1, T>(wanted, rest...);
}

}  // namespace detail

// scores[j] = sum_d x_d k_jd fade_(j+1)d ... fade_(count-1)d for the rows j < count of k; zero behind them up to a
// whole vector. width: whole vectors, zero behind the last element. `moved` is a row to work in.
template <class T>
inline void decayed_scores(Index count, Index width, const T* x, const T* k, Index k_stride, const T* fade,
                           Index fade_stride, T* scores, T* moved) {
  for (Index base = (count - 1) / lanes<T> * lanes<T>; base >= 0; base -= lanes<T>)
    detail::decayed_dots_of<int(lanes<T>), T>(
        std::min(lanes<T>, count - base), width, base + lanes<T> >= count ? x : static_cast<const T*>(moved), moved,
        k + base * k_stride, k_stride, fade + base * fade_stride, fade_stride, scores + base);
}

}  // namespace fovea::inline FOVEA_ISA::simd
