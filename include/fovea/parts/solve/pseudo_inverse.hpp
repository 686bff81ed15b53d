// The pseudo-inverse of a small matrix by a fixed number of iterations, which converge at third order once they do:
//
//   Z <- 1/4 Z (13 I - A Z (15 I - A Z (7 I - A Z)))   from   Z = start A^T
//
// Razavi et al., "A New Iterative Method for Finding Approximate Inverses of Complex Matrices", 2014, as Nystroemformer
// uses it: the number of iterations is part of the result.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>

#include <fovea/simd/row.hpp>
#include <fovea/simd/tile.hpp>

namespace fovea::inline FOVEA_ISA::solve {

// A small row-major matrix in memory of the caller's: rows of whole vectors, whole register tiles of them, zero behind
// the numbers that there are.
template <class T>
struct SmallMatrix {
  T* data = nullptr;
  Index rows = 0;
  Index columns = 0;

  static constexpr Index size(Index rows, Index columns) { return simd::whole_rows(rows) * simd::whole<T>(columns); }

  // The matrix at `memory`, of size(rows, columns) numbers, all zero.
  static SmallMatrix zero(T* memory, Index rows, Index columns) {
    std::fill(memory, memory + size(rows, columns), T(0));
    return {memory, rows, columns};
  }

  Index stride() const { return simd::whole<T>(columns); }
  T* row(Index i) const { return data + i * stride(); }
};

// c = a b, in pieces of the depth so that no chain of additions is long. c is neither a nor b.
template <class T>
void multiply(const SmallMatrix<T>& a, const SmallMatrix<T>& b, const SmallMatrix<T>& c) {
  constexpr Index piece = 64;
  constexpr int rows = simd::tile_rows;
  for (Index i = 0; i < a.rows; i += rows) {
    for (Index k = 0; k < a.columns; k += piece) {
      const Index depth = std::min(piece, a.columns - k);
      const T* const left = a.row(i) + k;
      if (k == 0) {
        simd::multiply_rows<rows, simd::Onto::nothing>(c.stride(), depth, left, a.stride(), b.row(k), b.stride(),
                                                       c.row(i), c.stride());
      } else {
        simd::multiply_rows<rows, simd::Onto::sum>(c.stride(), depth, left, a.stride(), b.row(k), b.stride(), c.row(i),
                                                   c.stride());
      }
    }
  }
}

// The largest sum of the sizes of a column's numbers.
template <class T>
T largest_column_sum(const SmallMatrix<T>& a) {
  T most = T(0);
  for (Index j = 0; j < a.columns; ++j) {
    T sum = T(0);
    for (Index i = 0; i < a.rows; ++i) sum += std::abs(a.row(i)[j]);
    most = std::max(most, sum);
  }
  return most;
}

// z = what the iterations leave, of a square matrix; z, p, s and next are other matrices of
// its size, the last three for scratch.
template <class T>
void pseudo_inverse(const SmallMatrix<T>& a, T start, Index iterations, SmallMatrix<T> z, SmallMatrix<T> p,
                    SmallMatrix<T> s, SmallMatrix<T> next) {
  const Index n = a.rows;
  // x = value I - x
  const auto subtract_from = [n](T value, SmallMatrix<T> x) {
    simd::scale(x.data, SmallMatrix<T>::size(n, n), T(-1));
    for (Index i = 0; i < n; ++i) x.row(i)[i] += value;
  };
  T* const result = z.data;
  for (Index i = 0; i < n; ++i) {
    for (Index j = 0; j < n; ++j) z.row(j)[i] = start * a.row(i)[j];
  }
  for (Index iteration = 0; iteration < iterations; ++iteration) {
    multiply(a, z, p);
    std::copy_n(p.data, SmallMatrix<T>::size(n, n), next.data);
    subtract_from(T(7), next);
    multiply(p, next, s);
    subtract_from(T(15), s);
    multiply(p, s, next);
    subtract_from(T(13), next);
    multiply(z, next, s);
    simd::scale(s.data, SmallMatrix<T>::size(n, n), T(0.25));
    std::swap(z.data, s.data);
  }
  if (z.data != result) std::copy_n(z.data, SmallMatrix<T>::size(n, n), result);
}

}  // namespace fovea::inline FOVEA_ISA::solve
