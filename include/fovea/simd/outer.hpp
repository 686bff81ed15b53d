// The register kernel for operands that are read once, from memory: while a product is computed, memory is asked for
// what comes next, a cache line at each step, so that the two go on at the same time.
//
//   add_outer      C [rows x columns] += A^T B,   A [depth x rows], B [depth x columns]
//   multiply_by    C [rows x columns]  = A B,     A [rows x depth], B [depth x columns]
//
// Every element of a product is one chain of fused multiply-adds over depth in ascending order, in add_outer added to
// what C held at the end.
#pragma once

#include <type_traits>

#include <fovea/simd/tile.hpp>

namespace fovea::inline FOVEA_ISA::simd {

// Rows of two arrays that are needed soon. A register tile asks for as many lines as it takes steps: the next ones
// where rows lie behind each other, else the same line of consecutive rows. It may ask for lines behind the last.
class Ahead {
 public:
  static constexpr Index line = 64;

  struct Trail {
    const char* at;
    Index step;
  };

  Ahead() = default;
  // `count` rows of width elements, stride apart, in each.
  template <class T>
  Ahead(Index count, const T* a, Index a_stride, Index a_width, const T* b, Index b_stride, Index b_width)
      : array_{make(count, a, a_stride, a_width), make(count, b, b_stride, b_width)}, which_(count > 0 ? 0 : 2) {}

  // For the next tile, of `steps` steps; `idle` is where to look when there is nothing left to ask for.
  Trail trail(Index steps, const void* idle) {
    if (which_ == 2) return {static_cast<const char*>(idle), 0};
    const Array& x = array_[which_];
    const Trail result{x.at + row_ * x.stride + next_ * line, x.stride};
    if (++next_ == x.lines) {
      next_ = 0;
      row_ += steps;
      if (row_ >= x.rows) {
        row_ = 0;
        ++which_;
      }
    }
    return result;
  }

 private:
  struct Array {
    const char* at = nullptr;
    Index rows = 0, stride = 0, lines = 1;
  };

  template <class T>
  static Array make(Index count, const T* x, Index stride, Index width) {
    const Index lines = (width * Index(sizeof(T)) + line - 1) / line, bytes = stride * Index(sizeof(T));
    const char* const at = reinterpret_cast<const char*>(x);
    return bytes == lines * line ? Array{at, count * lines, line, 1} : Array{at, count, bytes, lines};
  }

  Array array_[2] = {};
  int which_ = 2;
  Index next_ = 0, row_ = 0;
};

namespace detail {

template <int rows, int vectors, bool turned, class T>
inline void outer_tile(Index depth, const T* a, Index lda, const T* b, Index ldb, T* c, Index ldc, Ahead::Trail trail) {
  Pack<T> sum[rows][vectors];
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < vectors; ++j) sum[i][j] = Pack<T>(T(0));
  }
#pragma GCC unroll 4
  for (Index k = 0; k < depth; ++k) {
    __builtin_prefetch(trail.at + k * trail.step);
    Pack<T> row[vectors];
#pragma GCC unroll 16
    for (int j = 0; j < vectors; ++j) row[j] = load(b + k * ldb + j * lanes<T>);
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
      const Pack<T> x(turned ? a[k * lda + i] : a[i * lda + k]);
#pragma GCC unroll 16
      for (int j = 0; j < vectors; ++j) sum[i][j] = fma(x, row[j], sum[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < vectors; ++j) {
      T* const at = c + i * ldc + j * lanes<T>;
      store(at, turned ? load(at) + sum[i][j] : sum[i][j]);
    }
  }
}

template <int rows, bool turned, class T>
inline void outer_band(Index columns, Index depth, const T* a, Index lda, const T* b, Index ldb, T* c, Index ldc,
                       Ahead& ahead) {
  constexpr Index most = tile_vectors * lanes<T>;
  Index j = 0;
  for (; j + most <= columns; j += most)
    outer_tile<rows, tile_vectors, turned>(depth, a, lda, b + j, ldb, c + j, ldc, ahead.trail(depth, b));
  if constexpr (tile_vectors > 2) {
    if (j + 2 * lanes<T> <= columns) {
      outer_tile<rows, 2, turned>(depth, a, lda, b + j, ldb, c + j, ldc, ahead.trail(depth, b));
      j += 2 * lanes<T>;
    }
  }
  if (j < columns) outer_tile<rows, 1, turned>(depth, a, lda, b + j, ldb, c + j, ldc, ahead.trail(depth, b));
}

template <bool turned, class T, class After>
inline void outer_product(Index rows, Index columns, Index depth, const T* a, Index lda, const T* b, Index ldb, T* c,
                          Index ldc, Ahead ahead, const After& after) {
  Index i = 0;
  const auto run = [&](auto some) {
    constexpr int count = decltype(some)::value;
    outer_band<count, turned>(columns, depth, a + (turned ? i : i * lda), lda, b, ldb, c + i * ldc, ldc, ahead);
    after(i, Index(count));
    i += count;
  };
  while (rows - i >= tile_rows) run(std::integral_constant<int, tile_rows>{});
  if (rows - i >= 4) run(std::integral_constant<int, 4>{});
  while (rows - i >= 1) run(std::integral_constant<int, 1>{});
}

}  // namespace detail

// columns is a whole number of vectors, rows any number.
template <class T>
inline void add_outer(Index rows, Index columns, Index depth, const T* a, Index lda, const T* b, Index ldb, T* c,
                      Index ldc, const Ahead& ahead = {}) {
  detail::outer_product<true>(rows, columns, depth, a, lda, b, ldb, c, ldc, ahead, [](Index, Index) {});
}

// The same; after(first, count) is called when rows [first, first + count) are there.
template <class T, class After>
inline void multiply_by(Index rows, Index columns, Index depth, const T* a, Index lda, const T* b, Index ldb, T* c,
                        Index ldc, const Ahead& ahead, const After& after) {
  detail::outer_product<false>(rows, columns, depth, a, lda, b, ldb, c, ldc, ahead, after);
}

}  // namespace fovea::inline FOVEA_ISA::simd
