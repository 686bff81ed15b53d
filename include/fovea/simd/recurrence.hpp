// One token of a linear recurrence on a state S [depth x columns] in memory: fade, write, read.
//
//   S = fade S + k u^T    o = S^T q    u = v, or beta (v - (fade S)^T k)
//
// A column of the state takes part in nothing but its own sums, so a result does not depend on how columns are cut.
#pragma once

#include <fovea/simd/ops.hpp>

namespace fovea::inline FOVEA_ISA::simd {

// What multiplies the state first: nothing, one number, or a number for each row.
enum class Fade { none, one, rows };

template <class T>
struct Token {
  const T* fade;     // one number or [depth]
  const T* k;        // [depth]
  const T* v;        // [columns]
  T beta;            // for a write that corrects
  const T* q;        // [queries x depth]
  Index q_stride;    // from one query to the next
  Index queries;     // that read the state
  T* out;            // [queries x columns]
  Index out_stride;  // from one query to the next
};

namespace detail {

template <int vectors, Fade fade, bool corrects, class T>
inline void recur_columns(Index depth, T* s, Index stride, const Token<T>& token, Index column) {
  const auto row = [&](Index d, int j) __attribute__((always_inline)) {
    const Pack<T> x = load(s + d * stride + column + j * lanes<T>);
    if constexpr (fade == Fade::none) {
      return x;
    } else {
      return x * Pack<T>(token.fade[fade == Fade::rows ? d : 0]);
    }
  };
  Pack<T> u[vectors], sum[vectors];
#pragma GCC unroll 8
  for (int j = 0; j < vectors; ++j) u[j] = load(token.v + column + j * lanes<T>);
  if constexpr (corrects) {
#pragma GCC unroll 8
    for (int j = 0; j < vectors; ++j) sum[j] = Pack<T>(T(0));
    for (Index d = 0; d < depth; ++d) {
      const Pack<T> k(token.k[d]);
#pragma GCC unroll 8
      for (int j = 0; j < vectors; ++j) sum[j] = fma(k, row(d, j), sum[j]);
    }
#pragma GCC unroll 8
    for (int j = 0; j < vectors; ++j) u[j] = Pack<T>(token.beta) * (u[j] - sum[j]);
  }

#pragma GCC unroll 8
  for (int j = 0; j < vectors; ++j) sum[j] = Pack<T>(T(0));
  for (Index d = 0; d < depth; ++d) {
    const Pack<T> k(token.k[d]), q(token.q[d]);
#pragma GCC unroll 8
    for (int j = 0; j < vectors; ++j) {
      const Pack<T> x = fma(k, u[j], row(d, j));
      store(s + d * stride + column + j * lanes<T>, x);
      sum[j] = fma(q, x, sum[j]);
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < vectors; ++j) store(token.out + column + j * lanes<T>, sum[j]);

  for (Index i = 1; i < token.queries; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < vectors; ++j) sum[j] = Pack<T>(T(0));
    for (Index d = 0; d < depth; ++d) {
      const Pack<T> q(token.q[i * token.q_stride + d]);
#pragma GCC unroll 8
      for (int j = 0; j < vectors; ++j) sum[j] = fma(q, load(s + d * stride + column + j * lanes<T>), sum[j]);
    }
#pragma GCC unroll 8
    for (int j = 0; j < vectors; ++j) store(token.out + i * token.out_stride + column + j * lanes<T>, sum[j]);
  }
}

}  // namespace detail

// `columns` is a whole number of vectors; rows of the state are `stride` apart.
template <Fade fade, bool corrects, class T>
inline void recur(Index depth, Index columns, T* s, Index stride, const Token<T>& token) {
  constexpr int most = 4;
  Index c = 0;
  for (; c + most * lanes<T> <= columns; c += most * lanes<T>)
    detail::recur_columns<most, fade, corrects>(depth, s, stride, token, c);
  for (; c < columns; c += lanes<T>) detail::recur_columns<1, fade, corrects>(depth, s, stride, token, c);
}

}  // namespace fovea::inline FOVEA_ISA::simd
