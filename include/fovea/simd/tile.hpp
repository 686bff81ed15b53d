// The register kernel: products of small row-major matrices with all sums kept in registers.
//
//   C [rows x columns]  =  A [rows x depth] B [depth x columns]   (or C + A B, or s C + A B)
//
// An element of A is broadcast from memory and meets a row of B in vectors. Every element of a product is one chain of
// fused multiply-adds over depth in ascending order, added to what C held at the end: short chains keep rounding errors
// small, and a result does not depend on how rows and columns are cut into tiles.
#pragma once

#include <fovea/simd/widen.hpp>

namespace fovea::inline FOVEA_ISA::simd {

// Rows and vectors of the largest register tile: the sums, one row of B and one broadcast fit the register file.
inline constexpr int tile_rows = 6;
inline constexpr int tile_vectors = registers >= 32 ? 4 : 2;

// rows rounded up to whole register tiles.
constexpr Index whole_rows(Index rows) { return (rows + tile_rows - 1) / tile_rows * tile_rows; }

// What becomes of what C held: it is replaced by the product, the product is added, or it is shrunk first.
enum class Onto { nothing, sum, shrunk_sum };

namespace detail {

template <int rows, int vectors, class T, class S, class Later>
inline void register_tile(Onto onto, Index depth, const T* a, Index lda, const S* b, Index ldb, T* c, Index ldc,
                          const T* shrink, Later later) {
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
    for (int j = 0; j < vectors; ++j) {
      row[j] = load_as<T>(b + k * ldb + j * lanes<T>);
      later(b + k * ldb + j * lanes<T>);
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
      const Pack<T> x(a[i * lda + k]);
#pragma GCC unroll 16
      for (int j = 0; j < vectors; ++j) sum[i][j] = fma(x, row[j], sum[i][j]);
    }
  }
  const auto finish = [&](auto&& of) __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 16
      for (int j = 0; j < vectors; ++j) {
        T* const at = c + i * ldc + j * lanes<T>;
        store(at, of(at, i, sum[i][j]));
      }
    }
  };
  if (onto == Onto::nothing) {
    finish([](const T*, int, Pack<T> x) __attribute__((always_inline)) { return x; });
  } else {  // a factor of one changes no bit
    finish([&](const T* at, int i, Pack<T> x) __attribute__((always_inline)) {
      return fma(load(at), Pack<T>(onto == Onto::sum ? T(1) : shrink[i]), x);
    });
  }
}

}  // namespace detail

// One band of `rows` rows; columns is a whole number of vectors; B is stored as S. shrink (rows numbers) is read for
// Onto::shrunk_sum alone.
template <int rows, class T, class S, class Later = AskNothing>
inline void multiply_rows(Onto onto, Index columns, Index depth, const T* a, Index lda, const S* b, Index ldb, T* c,
                          Index ldc, const T* shrink = nullptr, Later later = {}) {
  constexpr Index most = tile_vectors * lanes<T>;
  Index j = 0;
  if constexpr (rows <= 2) {  // more sums: the machine need not wait for one, and B is read in order
    for (; j + 2 * most <= columns; j += 2 * most)
      detail::register_tile<rows, 2 * tile_vectors>(onto, depth, a, lda, b + j, ldb, c + j, ldc, shrink, later);
  }
  for (; j + most <= columns; j += most)
    detail::register_tile<rows, tile_vectors>(onto, depth, a, lda, b + j, ldb, c + j, ldc, shrink, later);
  if constexpr (tile_vectors > 2) {
    if (j + 2 * lanes<T> <= columns) {
      detail::register_tile<rows, 2>(onto, depth, a, lda, b + j, ldb, c + j, ldc, shrink, later);
      j += 2 * lanes<T>;
    }
  }
  if (j < columns) detail::register_tile<rows, 1>(onto, depth, a, lda, b + j, ldb, c + j, ldc, shrink, later);
}
template <int rows, Onto onto, class T, class S, class Later = AskNothing>
inline void multiply_rows(Index columns, Index depth, const T* a, Index lda, const S* b, Index ldb, T* c, Index ldc,
                          const T* shrink = nullptr, Later later = {}) {
  multiply_rows<rows>(onto, columns, depth, a, lda, b, ldb, c, ldc, shrink, later);
}

}  // namespace fovea::inline FOVEA_ISA::simd
