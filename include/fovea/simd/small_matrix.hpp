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

// sums += x . w_j over some vectors of columns, in vectors, for the rows w_j; those before the last one are moved
// first.
template <int count, int vectors, bool moves, class T>
inline void dot_moved(Index rows, Index column, T* w, Index stride, const T* fade, const T* const* x, bool begin,
                      T* sums, Index sums_stride) {
  Pack<T> left[count][vectors], factor[vectors];
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) {
    if constexpr (moves) factor[v] = load(fade + column + v * lanes<T>);
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) left[i][v] = load(x[i] + column + v * lanes<T>);
  }
  const auto dot = [&](Index j, bool move) __attribute__((always_inline)) {
    Pack<T> sum[count];
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) sum[i] = begin ? Pack<T>(T(0)) : load(sums + i * sums_stride + j * lanes<T>);
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      T* const at = w + j * stride + column + v * lanes<T>;
      Pack<T> right = load(at);
      if (move) {
        right = right * factor[v];
        store(at, right);
      }
#pragma GCC unroll 8
      for (int i = 0; i < count; ++i) sum[i] = fma(left[i][v], right, sum[i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) store(sums + i * sums_stride + j * lanes<T>, sum[i]);
  };
  for (Index j = 0; j + 1 < rows; ++j) dot(j, moves);
  dot(rows - 1, false);
}

}  // namespace detail

// scores[i][j] = x_i . w_j for `count` rows x and the rows w_j of width `width`, whole vectors, zero behind the last
// element; zero behind the scores of a row up to a whole vector. If it `moves`, the rows of w before the last one are
// multiplied by fade first. sums: a vector for every score, in whole vectors of scores.
template <int count, bool moves, class T>
inline void moved_scores(Index rows, Index width, T* w, Index stride, const T* fade, const T* const* x,
                         T* const* scores, T* sums) {
  constexpr int most = registers >= 32 ? 4 : 2, n = int(lanes<T>);
  const Index sums_stride = whole<T>(rows) * n;
  Index d = 0;
  for (; d + most * n <= width; d += most * n)
    detail::dot_moved<count, most, moves>(rows, d, w, stride, fade, x, d == 0, sums, sums_stride);
  for (; d < width; d += n) detail::dot_moved<count, 1, moves>(rows, d, w, stride, fade, x, d == 0, sums, sums_stride);
  for (int i = 0; i < count; ++i) {
    for (Index base = 0; base < rows; base += n) {
      Native<T, n> part[std::size_t(n)];
#pragma GCC unroll 16
      for (int j = 0; j < n; ++j)
        part[j] = base + j < rows ? native_load<T, n>(sums + i * sums_stride + (base + j) * n) : Native<T, n>{};
      const auto row = sum_each<T, n>(part);
      std::memcpy(scores[i] + base, &row, sizeof row);
    }
  }
}

}  // namespace fovea::inline FOVEA_ISA::simd
