// Products with rows that a list picks out of memory: queries with listed keys, weights with listed values.
#pragma once

#include <fovea/simd/dots.hpp>

namespace fovea::inline FOVEA_ISA::simd {

namespace detail {

// Rows between the one that is used and the one that is asked for.
inline constexpr Index rows_ahead = 16;

template <class T>
[[gnu::always_inline]] inline void prefetch_row(const T* row, Index dim) {
  for (Index d = 0; d < dim; d += Index(64 / sizeof(T))) __builtin_prefetch(row + d, 0, 3);
}

template <class T, int queries, class Key>
inline void dot_queries_with_listed(const T* q, Index q_stride, Index count, const Key* list, const T* k,
                                    Index k_stride, Index dim, T* scores, Index scores_stride) {
  constexpr Index keys = lanes<T> / queries;
  for (Index j = 0; j < count; j += keys) {
    const T* key[std::size_t(keys)];
    for (Index i = 0; i < keys; ++i) {
      key[i] = k + Index(list[std::min(j + i, count - 1)]) * k_stride;
      if (j + i + rows_ahead < count) prefetch_row(k + Index(list[j + i + rows_ahead]) * k_stride, dim);
    }
    const auto product = dot_block<T, queries>(q, q_stride, key, dim);
    for (Index i = 0; i < queries; ++i)
      std::memcpy(scores + i * scores_stride + j, reinterpret_cast<const char*>(&product) + i * keys * Index(sizeof(T)),
                  std::size_t(std::min(keys, count - j)) * sizeof(T));
  }
}

// Sums over `count` listed rows of `vectors` vectors, of which the last may be a part of one.
template <class T, int vectors, bool part, class Key>
inline void add_listed_columns(Index count, const T* weights, const Key* list, const T* v, Index v_stride, Index rest,
                               T* out) {
  constexpr Index run = 64;  // rows of one chain of additions
  for (Index first = 0; first < count; first += run) {
    Pack<T> sum[2][vectors];
#pragma GCC unroll 2
    for (int s = 0; s < 2; ++s) {
#pragma GCC unroll 8
      for (int i = 0; i < vectors; ++i) sum[s][i] = Pack<T>(T(0));
    }
    const auto add = [&](Index j, int s) __attribute__((always_inline)) {
      const T* const row = v + Index(list[j]) * v_stride;
      const Pack<T> weight(weights[j]);
#pragma GCC unroll 8
      for (int i = 0; i < vectors; ++i) {
        const bool cut = part && i == vectors - 1;
        const Pack<T> x = cut ? load_some(row + i * lanes<T>, rest) : load(row + i * lanes<T>);
        sum[s][i] = fma(weight, x, sum[s][i]);
      }
    };
    const Index last = std::min(first + run, count);
    Index j = first;
    for (; j + 2 <= last; j += 2) {
      if (j + rows_ahead + 1 < count) {
        prefetch_row(v + Index(list[j + rows_ahead]) * v_stride, vectors * lanes<T>);
        prefetch_row(v + Index(list[j + rows_ahead + 1]) * v_stride, vectors * lanes<T>);
      }
      add(j, 0);
      add(j + 1, 1);
    }
    if (j < last) add(j, 0);
#pragma GCC unroll 8
    for (int i = 0; i < vectors; ++i) {
      T* const at = out + i * lanes<T>;
      store(at, load(at) + (sum[0][i] + sum[1][i]));
    }
  }
}

}  // namespace detail

// scores[i][j] = q_i . k_list[j] for `queries` queries and `count` listed keys. Queries are whole vectors, zero behind
// dim.
template <class T, class Key>
inline void dot_listed(Index queries, const T* q, Index q_stride, Index count, const Key* list, const T* k,
                       Index k_stride, Index dim, T* scores, Index scores_stride) {
  Index i = 0;
  const auto run = [&](auto some) {
    detail::dot_queries_with_listed<T, decltype(some)::value>(q + i * q_stride, q_stride, count, list, k, k_stride, dim,
                                                              scores + i * scores_stride, scores_stride);
    i += decltype(some)::value;
  };
  if constexpr (detail::dot_queries<T> >= 4) {
    while (queries - i >= 4) run(std::integral_constant<int, 4>{});
  }
  if constexpr (detail::dot_queries<T> >= 2) {
    while (queries - i >= 2) run(std::integral_constant<int, 2>{});
  }
  while (i < queries) run(std::integral_constant<int, 1>{});
}

// out += sum_j weights[j] v_list[j] over `count` listed rows of `dim` elements; out is whole vectors.
template <class T, class Key>
inline void add_listed(Index count, const T* weights, const Key* list, const T* v, Index v_stride, Index dim, T* out) {
  constexpr int most = registers >= 32 ? 8 : 4;
  const Index vectors = dim / lanes<T>, rest = dim % lanes<T>;
  Index i = 0;
  const auto run = [&](auto some) {
    constexpr int width = decltype(some)::value;
    for (; i + width <= vectors; i += width)
      detail::add_listed_columns<T, width, false>(count, weights, list, v + i * lanes<T>, v_stride, 0,
                                                  out + i * lanes<T>);
  };
  if constexpr (most == 8) run(std::integral_constant<int, 8>{});
  run(std::integral_constant<int, 4>{});
  run(std::integral_constant<int, 1>{});
  if (rest > 0)
    detail::add_listed_columns<T, 1, true>(count, weights, list, v + i * lanes<T>, v_stride, rest, out + i * lanes<T>);
}

}  // namespace fovea::inline FOVEA_ISA::simd
