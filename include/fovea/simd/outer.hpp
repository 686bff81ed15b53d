// The register kernel with its left side turned: sums of outer products of rows.
//
//   C [rows x columns]  +=  A^T B,   A [depth x rows], B [depth x columns]
//
// Both sides are read row by row as they lie. Every element of the product is one chain of fused multiply-adds over
// depth in ascending order, added to what C held at the end.
#pragma once

#include <type_traits>

#include <fovea/simd/tile.hpp>

namespace fovea::inline FOVEA_ISA::simd {

namespace detail {

template <int rows, int vectors, class T>
inline void outer_tile(Index depth, const T* a, Index lda, const T* b, Index ldb, T* c, Index ldc) {
  Pack<T> sum[rows][vectors];
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < vectors; ++j) sum[i][j] = Pack<T>(T(0));
  }
#pragma GCC unroll 4
  for (Index k = 0; k < depth; ++k) {
    Pack<T> row[vectors];
#pragma GCC unroll 16
    for (int j = 0; j < vectors; ++j) row[j] = load(b + k * ldb + j * lanes<T>);
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
      const Pack<T> x(a[k * lda + i]);
#pragma GCC unroll 16
      for (int j = 0; j < vectors; ++j) sum[i][j] = fma(x, row[j], sum[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < vectors; ++j) {
      T* const at = c + i * ldc + j * lanes<T>;
      store(at, load(at) + sum[i][j]);
    }
  }
}

template <int rows, class T>
inline void add_outer_band(Index columns, Index depth, const T* a, Index lda, const T* b, Index ldb, T* c, Index ldc) {
  constexpr Index most = tile_vectors * lanes<T>;
  Index j = 0;
  for (; j + most <= columns; j += most) outer_tile<rows, tile_vectors>(depth, a, lda, b + j, ldb, c + j, ldc);
  if constexpr (tile_vectors > 2) {
    if (j + 2 * lanes<T> <= columns) {
      outer_tile<rows, 2>(depth, a, lda, b + j, ldb, c + j, ldc);
      j += 2 * lanes<T>;
    }
  }
  if (j < columns) outer_tile<rows, 1>(depth, a, lda, b + j, ldb, c + j, ldc);
}

}  // namespace detail

// columns is a whole number of vectors, rows any number.
template <class T>
inline void add_outer(Index rows, Index columns, Index depth, const T* a, Index lda, const T* b, Index ldb, T* c,
                      Index ldc) {
  Index i = 0;
  const auto run = [&](auto some) {
    constexpr int count = decltype(some)::value;
    detail::add_outer_band<count>(columns, depth, a + i, lda, b, ldb, c + i * ldc, ldc);
    i += count;
  };
  while (rows - i >= tile_rows) run(std::integral_constant<int, tile_rows>{});
  if (rows - i >= 4) run(std::integral_constant<int, 4>{});
  if (rows - i >= 2) run(std::integral_constant<int, 2>{});
  if (rows - i >= 1) run(std::integral_constant<int, 1>{});
}

}  // namespace fovea::inline FOVEA_ISA::simd
