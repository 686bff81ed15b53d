// Blocks of tokens pooled into one row each: what stands for a block when blocks are ranked.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include <fovea/core/check.hpp>
#include <fovea/core/eigen.hpp>
#include <fovea/exec/serial.hpp>
#include <fovea/simd/row.hpp>

namespace fovea::inline FOVEA_ISA::select {

// What stands for the tokens of a block, element by element.
//   mean    their mean
//   max     the largest
//   bounds  the largest, and behind them the smallest: a row of twice the width, which bounds every product with a
//           token of the block from above (see bound_query)
enum class Pooling { mean, max, bounds };

// One row for each block of each head. A plain object.
template <class T>
struct Pooled {
  Index batch = 0;
  Index heads = 0;
  Index blocks = 0;
  Index dim = 0;          // that of the tokens, or twice that for bounds
  std::vector<T> rows{};  // [batch x heads x blocks x dim]

  View<const T> view() const { return fovea::view(rows.data(), {batch, heads, blocks, dim}); }
};

namespace detail {

// The larger or the smaller lanes; NaN where either is.
template <class T>
inline constexpr auto larger =
    [](simd::Pack<T> a, simd::Pack<T> b) { return xsimd::select(b > a, b, xsimd::select(b == b, a, b)); };
template <class T>
inline constexpr auto smaller =
    [](simd::Pack<T> a, simd::Pack<T> b) { return xsimd::select(b < a, b, xsimd::select(b == b, a, b)); };

// to[d] = op folded over x[i][d] for `count` > 0 rows, in their order.
template <class T, class Op>
void fold_rows(Index count, Index dim, const T* x, Index stride, T* to, Op op) {
  using simd::Pack;
  constexpr Index lanes = simd::lanes<T>, most = 4;
  Index d = 0;
  for (; d + most * lanes <= dim; d += most * lanes) {
    Pack<T> all[std::size_t(most)];
    for (Index n = 0; n < most; ++n) all[n] = simd::load(x + d + n * lanes);
    for (Index i = 1; i < count; ++i) {
      for (Index n = 0; n < most; ++n) all[n] = op(all[n], simd::load(x + i * stride + d + n * lanes));
    }
    for (Index n = 0; n < most; ++n) simd::store(to + d + n * lanes, all[n]);
  }
  for (; d < dim; d += lanes) {
    const Index n = std::min(lanes, dim - d);
    const auto part = [&](Index i) {
      return n == lanes ? simd::load(x + i * stride + d) : simd::load_some(x + i * stride + d, n);
    };
    Pack<T> all = part(0);
    for (Index i = 1; i < count; ++i) all = op(all, part(i));
    if (n == lanes) {
      simd::store(to + d, all);
    } else {
      simd::store_some(to + d, all, n);
    }
  }
}

}  // namespace detail

// The row of one block of `count` > 0 tokens x, `stride` apart; `to` has room for it.
template <class T>
void pool_block(Pooling pooling, Index count, Index dim, const T* x, Index stride, T* to) {
  if (pooling == Pooling::mean) {
    detail::fold_rows(count, dim, x, stride, to, [](simd::Pack<T> a, simd::Pack<T> b) { return a + b; });
    simd::copy_divided(to, to, dim, T(count));
  } else {
    detail::fold_rows(count, dim, x, stride, to, detail::larger<T>);
    if (pooling == Pooling::bounds) detail::fold_rows(count, dim, x, stride, to + dim, detail::smaller<T>);
  }
}

// The blocks of `block` tokens of x [B,H,T,D], counted from the first; the last one may be shorter.
template <class X, exec::Executor Exec = exec::Serial>
auto pool(const X& x, Index block, Pooling pooling, const Exec& executor = {}) {
  const auto tokens = view(x);
  using T = std::remove_const_t<std::remove_pointer_t<decltype(tokens.data)>>;
  check(block > 0, "fovea::select::pool", "blocks must have a positive size, got ", block);
  const Index dim = tokens.dim, width = pooling == Pooling::bounds ? 2 * dim : dim;
  const Index blocks = (tokens.length + block - 1) / block;
  Pooled<T> pooled{tokens.batch, tokens.heads, blocks, width, {}};
  pooled.rows.resize(std::size_t(tokens.batch * tokens.heads * blocks * width));
  T* const rows = pooled.rows.data();
  executor.parallel_for(tokens.batch * tokens.heads * blocks, double(block * width), [&](Index begin, Index end) {
    for (Index item = begin; item < end; ++item) {
      const Index n = item % blocks, head = item / blocks % tokens.heads, batch = item / blocks / tokens.heads;
      const Index count = std::min(block, tokens.length - n * block);
      pool_block<T>(pooling, count, dim, tokens.row(batch, head, n * block), tokens.length_stride, rows + item * width);
    }
  });
  return pooled;
}

// to [2 dim] = the positive parts of a query q [dim], then the negative ones. Its product with the bounds of a block is
//
//   sum_d max(q_d high_d, q_d low_d)   >=   q . k   for every token k of the block.
template <class T>
void bound_query(const T* q, Index dim, T* to) {
  for (Index d = 0; d < dim; ++d) {
    to[d] = q[d] < T(0) ? T(0) : q[d];
    to[dim + d] = q[d] > T(0) ? T(0) : q[d];
  }
}

}  // namespace fovea::inline FOVEA_ISA::select
