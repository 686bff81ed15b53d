// Rows into columns: keys as they lie become the right-hand side of the register kernel.
#pragma once

#include <cstring>
#include <utility>

#include <fovea/simd/native.hpp>
#include <fovea/simd/ops.hpp>

namespace fovea::inline FOVEA_ISA::simd {

namespace detail {

// The 16-byte pieces at p, p + step, p + 2 step, ... side by side in one vector of `count` elements.
template <class T, int count>
[[gnu::always_inline]] inline Native<T, count> gather_pieces(const T* p, Index step) {
  constexpr int piece = 16 / int(sizeof(T));
  if constexpr (count == piece) {
    return native_load<T, piece>(p);
  } else {
    return simd::join<T, count / 2>(gather_pieces<T, count / 2>(p, step),
                                    gather_pieces<T, count / 2>(p + count / 2 / piece * step, step));
  }
}

// Interleaves groups of `width` elements of a and b within each 16 bytes; the low or the high halves.
template <class T, int count, int width, bool high, int... i>
[[gnu::always_inline]] inline Native<T, count> interleave(Native<T, count> a, Native<T, count> b,
                                                          std::integer_sequence<int, i...>) {
  constexpr int piece = 16 / int(sizeof(T));
  constexpr auto source = [](int lane) {
    const int base = lane / piece * piece, at = lane % piece;
    const int group = at / width, within = at % width;
    return base + (high ? piece / 2 : 0) + group / 2 * width + within + (group % 2 ? count : 0);
  };
  return __builtin_shufflevector(a, b, source(i)...);
}

template <class T, int count, int width, bool high>
[[gnu::always_inline]] inline Native<T, count> interleave(Native<T, count> a, Native<T, count> b) {
  return interleave<T, count, width, high>(a, b, std::make_integer_sequence<int, count>{});
}

// columns[c][j] = rows[j][c] for a vector of rows and 16 bytes of columns.
template <class T>
[[gnu::always_inline]] inline void transpose_pieces(const T* rows, Index row_stride, T* columns, Index column_stride) {
  constexpr int count = int(lanes<T>);
  constexpr int piece = 16 / int(sizeof(T));
  const auto put = [&](int c, Native<T, count> x) { std::memcpy(columns + c * column_stride, &x, sizeof x); };
  Native<T, count> r[piece];
#pragma GCC unroll 4
  for (int i = 0; i < piece; ++i) r[i] = gather_pieces<T, count>(rows + i * row_stride, piece * row_stride);
  if constexpr (piece == 4) {
    const auto a = interleave<T, count, 1, false>(r[0], r[1]), b = interleave<T, count, 1, true>(r[0], r[1]);
    const auto c = interleave<T, count, 1, false>(r[2], r[3]), d = interleave<T, count, 1, true>(r[2], r[3]);
    put(0, interleave<T, count, 2, false>(a, c));
    put(1, interleave<T, count, 2, true>(a, c));
    put(2, interleave<T, count, 2, false>(b, d));
    put(3, interleave<T, count, 2, true>(b, d));
  } else {
    put(0, interleave<T, count, 1, false>(r[0], r[1]));
    put(1, interleave<T, count, 1, true>(r[0], r[1]));
  }
}

}  // namespace detail

// columns [width x whole<T>(count)] = the transpose of rows [count x width]; the columns behind `count` are zero.
template <class T>
[[gnu::noinline]] void transpose(Index count, Index width, const T* rows, Index row_stride, T* columns,
                                 Index column_stride) {
  constexpr Index piece = 16 / Index(sizeof(T));
  const Index full = count / lanes<T> * lanes<T>;
  for (Index j = 0; j < full; j += lanes<T>) {
    const T* from = rows + j * row_stride;
    Index c = 0;
    for (; c + piece <= width; c += piece)
      detail::transpose_pieces(from + c, row_stride, columns + c * column_stride + j, column_stride);
    for (; c < width; ++c) {
      for (Index i = 0; i < lanes<T>; ++i) columns[c * column_stride + j + i] = from[i * row_stride + c];
    }
  }
  if (full < count) {
    for (Index c = 0; c < width; ++c) {
      for (Index i = full; i < full + lanes<T>; ++i)
        columns[c * column_stride + i] = i < count ? rows[i * row_stride + c] : T(0);
    }
  }
}

}  // namespace fovea::inline FOVEA_ISA::simd
