// Runs: some consecutive tokens of one kv head as they lie in memory, and what the engines do with them. Rows<S> is the
// plain run; others (quantized.hpp) offer the same members:
//
//   piece                         tokens that are best worked on at a time
//   score(queries, ...)           products of queries with keys
//   add(rows, ...)                weighted sums of values, on rows for which whole(width) holds
//   read(first, count, to, ...)   the tokens as T, the type of the queries
//   finite, prefetch, scratch_size
//   long_run                      whether score and add ask for what comes later by themselves
#pragma once

#include <algorithm>

#include <fovea/simd/dots.hpp>
#include <fovea/simd/row.hpp>
#include <fovea/simd/tile.hpp>

namespace fovea::inline FOVEA_ISA::kv {

// Rows of `dim` numbers of type S (float, double, Eigen::bfloat16, Eigen::half): row j begins at data + j * stride.
template <class S>
struct Rows {
  const S* data = nullptr;
  Index stride = 0;
  Index dim = 0;
  bool long_run = false;  // whether much memory goes on like this behind the run, so that it is asked for early
  Index later = far;      // elements from what is read to what is asked for

  static constexpr Index piece = 16;
  static constexpr Index far = Index(8192 / sizeof(S));          // elements: what some hundred nanoseconds bring in
  static constexpr Index much = Index((256 << 10) / sizeof(S));  // elements of a head: less is near in any case

  const S* operator[](Index j) const { return data + j * stride; }

  // Elements of T that score and add want as scratch for so many rows of queries.
  template <class T>
  static constexpr Index scratch_size(Index /*rows*/, Index /*dim*/) {
    return 0;
  }

  // scores[i * scores_stride + j] = q_i . k_{first + j}. Queries are whole vectors, zero behind dim.
  template <class T>
  void score(Index queries, const T* q, Index q_stride, Index first, Index count, T* scores, Index scores_stride,
             T* /*scratch*/) const {
    simd::dot_rows(queries, q, q_stride, count, (*this)[first], stride, dim, scores, scores_stride, ahead());
  }

  // Whether add() may write rows of `width` elements: nothing may lie behind the last element of a row.
  bool whole(Index width) const { return width == dim; }

  // out [rows x width] = shrink out + weights v, v being the tokens from `first` on and shrink one where it is null.
  // Two rows at a time, so that a token is read as a whole, since memory is read fastest in order; narrower numbers for
  // four at a time, since turning them into T takes longer than reading.
  template <class T>
  [[gnu::noinline]] void add(Index rows, Index first, Index count, const T* weights, Index weights_stride, T* out,
                             Index width, const T* shrink, T* /*scratch*/) const {
    const auto onto = shrink == nullptr ? simd::Onto::sum : simd::Onto::shrunk_sum;
    Index r = 0;
    const auto run = [&](auto some) {
      constexpr int height = decltype(some)::value;
      simd::multiply_rows<height>(onto, width, count, weights + r * weights_stride, weights_stride, (*this)[first],
                                  stride, out + r * width, width, shrink == nullptr ? nullptr : shrink + r, ahead());
      r += height;
    };
    if constexpr (sizeof(S) < sizeof(T)) {
      while (rows - r >= 4) run(std::integral_constant<int, 4>{});
    }
    while (rows - r >= 2) run(std::integral_constant<int, 2>{});
    if (r < rows) run(std::integral_constant<int, 1>{});
  }

  // Tokens as rows of T, `to_stride` apart.
  template <class T>
  void read(Index first, Index count, T* to, Index to_stride) const {
    for (Index j = 0; j < count; ++j) simd::copy_as(to + j * to_stride, (*this)[first + j], dim);
  }

  // Whether there is neither infinity nor NaN.
  bool finite(Index first, Index count) const {
    if (stride == dim) return simd::all_finite((*this)[first], count * dim);
    for (Index j = 0; j < count; ++j) {
      if (!simd::all_finite((*this)[first + j], dim)) return false;
    }
    return true;
  }

  [[gnu::always_inline]] void prefetch(Index first, Index count) const {
    constexpr Index line = Index(64 / sizeof(S));
    for (Index j = 0; j < count; ++j) {
      for (Index d = 0; d < dim; d += line) __builtin_prefetch((*this)[first + j] + d, 0, 2);
    }
  }

 private:
  simd::AskFor ahead() const { return {long_run ? later : 0}; }
};

}  // namespace fovea::inline FOVEA_ISA::kv
