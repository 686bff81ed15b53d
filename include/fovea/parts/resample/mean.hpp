// Means of tokens: over segments of a sequence, and over the cells of a grid.
#pragma once

#include <algorithm>
#include <vector>

#include <fovea/core/check.hpp>
#include <fovea/core/eigen.hpp>
#include <fovea/core/span.hpp>
#include <fovea/exec/serial.hpp>
#include <fovea/simd/ops.hpp>

namespace fovea::inline FOVEA_ISA::resample {

namespace detail {

// sum += the sum of `count` rows, `n` elements from each, a few vectors (or the first lanes of one).
template <int vectors, bool whole, class T>
inline void add_columns(const T* x, Index stride, Index count, Index n, T* sum) {
  using namespace simd;
  Pack<T> part[vectors];
#pragma GCC unroll 8
  for (int i = 0; i < vectors; ++i) part[i] = Pack<T>(T(0));
  for (Index r = 0; r < count; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < vectors; ++i) {
      const T* const from = x + r * stride + i * lanes<T>;
      part[i] = part[i] + (whole ? load(from) : load_some(from, n));
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < vectors; ++i) {
    T* const to = sum + i * lanes<T>;
    if constexpr (whole) {
      store(to, load(to) + part[i]);
    } else {
      store_some(to, load_some(to, n) + part[i], n);
    }
  }
}

// sum += the sum of `count` rows, in short chains so that errors stay small.
template <class T>
inline void add_rows(const T* x, Index stride, Index count, Index dim, T* sum) {
  constexpr Index chain = 32, lanes = simd::lanes<T>;
  for (; count > 0; count -= chain, x += chain * stride) {
    const Index rows = std::min(count, chain);
    Index d = 0;
    for (; d + 4 * lanes <= dim; d += 4 * lanes) add_columns<4, true>(x + d, stride, rows, lanes, sum + d);
    for (; d + lanes <= dim; d += lanes) add_columns<1, true>(x + d, stride, rows, lanes, sum + d);
    if (d < dim) add_columns<1, false>(x + d, stride, rows, dim - d, sum + d);
  }
}

template <class T>
inline void divide(T* x, Index n, Index number) {
  for (Index d = 0; d < n; ++d) x[d] /= T(number);
}

template <class T>
void check_like(const char* where, const View<const T>& x, const View<T>& out, Index wanted) {
  check(out.batch == x.batch && out.heads == x.heads && out.length == wanted && out.dim == x.dim, where,
        "the result must have the batch, heads and width of the tokens, wanted [", x.batch, ", ", x.heads, ", ", wanted,
        ", ", x.dim, "], got [", out.batch, ", ", out.heads, ", ", out.length, ", ", out.dim, "]");
}

}  // namespace detail

// Refuses lengths of padded sequences, [B] or empty, that do not fit.
inline void check_lengths(const char* where, const std::vector<Index>& lengths, Index batch, Index tokens) {
  check(lengths.empty() || Index(lengths.size()) == batch, where, "there must be a length for each sequence, wanted ",
        batch, ", got ", lengths.size());
  for (const Index length : lengths)
    check(length >= 0 && length <= tokens, where, "a length must be 0 to ", tokens, ", got ", length);
}

// The tokens of segment s when `tokens` are cut into `segments`, at most as many: all segments are tokens / segments
// long, and the last tokens % segments of them one longer.
constexpr Span segment(Index s, Index tokens, Index segments) {
  const Index size = tokens / segments, shorter = segments - tokens % segments;
  const auto begin = [=](Index n) { return n * size + std::max<Index>(n - shorter, 0); };
  return {begin(s), begin(s + 1)};
}

// The mean of each segment: x [B,H,N,D], out [B,H,m,D], 1 <= m <= N. With lengths, [B] or empty, tokens from
// lengths[b] on are padding: they count as zeros, whatever they hold.
template <class X, class Out, exec::Executor Exec = exec::Serial>
void segment_means(const X& tokens, Out&& means, const std::vector<Index>& lengths, const Exec& executor = {}) {
  constexpr auto where = "fovea::resample::segment_means";
  const auto out = view(means);
  using T = std::remove_pointer_t<decltype(out.data)>;
  static_assert(!std::is_const_v<T>, "fovea: the output must not be const");
  const View<const T> x = view(tokens);
  check(out.length >= 1 && out.length <= x.length, where, "there must be 1 to ", x.length, " segments, got ",
        out.length);
  detail::check_like(where, x, out, out.length);
  check_lengths(where, lengths, x.batch, x.length);
  executor.parallel_for(x.batch * x.heads, double(x.length * x.dim), [&](Index begin, Index end) {
    for (Index item = begin; item < end; ++item) {
      const Index b = item / x.heads, h = item % x.heads;
      for (Index s = 0; s < out.length; ++s) {
        const Span rows = segment(s, x.length, out.length);
        const Span counted = lengths.empty() ? rows : intersect(rows, {0, lengths[std::size_t(b)]});
        T* const mean = out.row(b, h, s);
        std::fill(mean, mean + x.dim, T(0));
        detail::add_rows(x.row(b, h, counted.first), x.length_stride, counted.size(), x.dim, mean);
        detail::divide(mean, x.dim, rows.size());
      }
    }
  });
}

template <class X, class Out, exec::Executor Exec = exec::Serial>
void segment_means(const X& tokens, Out&& means, const Exec& executor = {}) {
  segment_means(tokens, means, std::vector<Index>{}, executor);
}

// The places of cell i when an axis of `extent` places is pooled to `cells`: floor(i extent / cells) up to
// ceil((i + 1) extent / cells). Neighbouring cells share a place where the division leaves a rest.
constexpr Span cell(Index i, Index extent, Index cells) {
  return {i * extent / cells, ((i + 1) * extent + cells - 1) / cells};
}

// Adaptive average pooling: the mean of each cell of a grid, x [B,H,height width,D] to out [B,H,rows columns,D], tokens
// row by row of their grid.
template <class X, class Out, exec::Executor Exec = exec::Serial>
void cell_means(const X& tokens, Index height, Index width, Out&& means, Index rows, Index columns,
                const Exec& executor = {}) {
  constexpr auto where = "fovea::resample::cell_means";
  const auto out = view(means);
  using T = std::remove_pointer_t<decltype(out.data)>;
  static_assert(!std::is_const_v<T>, "fovea: the output must not be const");
  const View<const T> x = view(tokens);
  check(height > 0 && width > 0 && x.length / width == height && x.length % width == 0, where,
        "the grid must hold the tokens, wanted ", x.length, ", got ", height, " times ", width);
  check(rows > 0 && columns > 0, where, "there must be cells, got ", rows, " times ", columns);
  detail::check_like(where, x, out, rows * columns);
  executor.parallel_for(x.batch * x.heads, double(x.length * x.dim), [&](Index begin, Index end) {
    for (Index item = begin; item < end; ++item) {
      const Index b = item / x.heads, h = item % x.heads;
      for (Index i = 0; i < rows; ++i) {
        for (Index j = 0; j < columns; ++j) {
          const Span down = cell(i, height, rows), across = cell(j, width, columns);
          T* const mean = out.row(b, h, i * columns + j);
          std::fill(mean, mean + x.dim, T(0));
          for (Index y = down.first; y < down.last; ++y)
            detail::add_rows(x.row(b, h, y * width + across.first), x.length_stride, across.size(), x.dim, mean);
          detail::divide(mean, x.dim, down.size() * across.size());
        }
      }
    }
  });
}

}  // namespace fovea::inline FOVEA_ISA::resample
