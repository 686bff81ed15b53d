// Products of a few queries with many keys as they lie in memory: every key is read once and in order.
#pragma once

#include <algorithm>
#include <cstring>

#include <fovea/simd/widen.hpp>

namespace fovea::inline FOVEA_ISA::simd {

namespace detail {

// Queries of one block; the block has one product for each lane of a vector.
template <class T>
inline constexpr Index dot_queries = lanes<T> >= 16  ? 4
                                     : lanes<T> >= 8 ? 2
                                                     : 1;

// The products of one query with as many keys as a vector has lanes, key by key: of rows that are stored narrower than
// T memory is read most evenly in order.
template <class T, class S, class Later>
[[gnu::always_inline]] inline Native<T, int(lanes<T>)> dot_in_order(const T* q, const S* const* key, Index dim,
                                                                    Later later) {
  constexpr int keys = int(lanes<T>);
  constexpr Index line = 64 / Index(sizeof(S));
  const Index four = dim / (4 * lanes<T>)*(4 * lanes<T>), full = dim / lanes<T> * lanes<T>;
  Native<T, keys> product[keys];
#pragma GCC unroll 16
  for (int j = 0; j < keys; ++j) {
    Pack<T> sum[4];
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) sum[c] = Pack<T>(T(0));
    const auto step = [&](Index d, int c) __attribute__((always_inline)) {
      sum[c] = fma(load(q + d), load_as<T>(key[j] + d), sum[c]);
      if (c * lanes<T> % line == 0) later(key[j] + d);
    };
    for (Index d = 0; d < four; d += 4 * lanes<T>) {
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) step(d + c * lanes<T>, c);
    }
    for (Index d = four; d < full; d += lanes<T>) step(d, 0);
    if (full < dim) sum[1] = fma(load(q + full), load_some_as<T>(key[j] + full, dim - full), sum[1]);
    product[j] = native((sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
  return sum_each<T, keys>(product);
}

// The products of `queries` queries with lanes / queries keys, query by query in the lanes of the result. Keys that are
// stored as T are read one by one, since memory is read fastest in order; narrower ones side by side, since turning
// them into T takes longer than reading.
template <class T, int queries, class S, class Later = AskNothing>
[[gnu::always_inline]] inline Native<T, int(lanes<T>)> dot_block(const T* q, Index q_stride, const S* const* key,
                                                                 Index dim, Later later = {}) {
  constexpr int keys = int(lanes<T>) / queries, together = sizeof(S) < sizeof(T) ? keys : 1;
  Pack<T> sum[queries * keys];
#pragma GCC unroll 16
  for (int i = 0; i < queries * keys; ++i) sum[i] = Pack<T>(T(0));
  const Index full = dim / lanes<T> * lanes<T>;
#pragma GCC unroll 16
  for (int first = 0; first < keys; first += together) {
    const auto step = [&](Index d, auto&& load_key) __attribute__((always_inline)) {
      Pack<T> left[queries];
#pragma GCC unroll 4
      for (int i = 0; i < queries; ++i) left[i] = load(q + i * q_stride + d);
#pragma GCC unroll 16
      for (int j = first; j < first + together; ++j) {
        const Pack<T> right = in_register(load_key(key[j] + d));
        later(key[j] + d);
#pragma GCC unroll 4
        for (int i = 0; i < queries; ++i) sum[i * keys + j] = fma(left[i], right, sum[i * keys + j]);
      }
    };
    for (Index d = 0; d < full; d += lanes<T>) step(d, [](const S* p) { return load_as<T>(p); });
    if (full < dim) step(full, [&](const S* p) { return load_some_as<T>(p, dim - full); });
  }
  Native<T, int(lanes<T>)> product[queries * keys];
#pragma GCC unroll 16
  for (int i = 0; i < queries * keys; ++i) product[i] = native(sum[i]);
  return sum_each<T, int(lanes<T>)>(product);
}

// A function of its own: inlined into an engine, g++ finds too few registers for it.
template <class T, int queries, class S, class Later>
[[gnu::noinline]] void dot_queries_with_rows(const T* q, Index q_stride, Index count, const S* k, Index k_stride,
                                             Index dim, T* scores, Index scores_stride, Later later) {
  constexpr Index keys = lanes<T> / queries;
  for (Index j = 0; j < count; j += keys) {
    const Index there = std::min(keys, count - j);
    const S* key[std::size_t(keys)];
    for (Index i = 0; i < keys; ++i) key[i] = k + (j + std::min(i, there - 1)) * k_stride;
    Native<T, int(lanes<T>)> product;
    if constexpr (queries == 1 && sizeof(S) < sizeof(T)) {
      product = dot_in_order<T>(q, key, dim, later);
    } else {
      product = dot_block<T, queries>(q, q_stride, key, dim, later);
    }
    for (Index i = 0; i < queries; ++i) {
      T* const to = scores + i * scores_stride + j;
      const char* const from = reinterpret_cast<const char*>(&product) + i * keys * Index(sizeof(T));
      if (there == keys) {
        std::memcpy(to, from, std::size_t(keys) * sizeof(T));
      } else {
        std::memcpy(to, from, std::size_t(there) * sizeof(T));
      }
    }
  }
}

}  // namespace detail

// scores[i][j] = q_i . k_j for `queries` queries and `count` rows of `dim` elements, stored as S. Queries are whole
// vectors, zero behind dim.
template <class T, class S, class Later = AskNothing>
inline void dot_rows(Index queries, const T* q, Index q_stride, Index count, const S* k, Index k_stride, Index dim,
                     T* scores, Index scores_stride, Later later = {}) {
  Index i = 0;
  const auto run = [&](auto some) {
    detail::dot_queries_with_rows<T, decltype(some)::value>(q + i * q_stride, q_stride, count, k, k_stride, dim,
                                                            scores + i * scores_stride, scores_stride, later);
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

}  // namespace fovea::inline FOVEA_ISA::simd
