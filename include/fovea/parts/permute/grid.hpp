// Attention on the tokens of a grid in another order, so that what is near on the grid is near in memory: some heads at
// a time are copied in that order, attended to, and the result is copied back.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <utility>
#include <vector>

#include <fovea/core/grid.hpp>
#include <fovea/core/problem.hpp>
#include <fovea/exec/executor.hpp>
#include <fovea/simd/row.hpp>

namespace fovea::inline FOVEA_ISA::permute {

// The token at each position, or -1.
using Order = std::vector<Index>;

// The tokens of a grid in tiles; from one place of an axis to the next `step` tokens.
inline Order tokens_of(const TiledGrid& grid, const Place& step) {
  Order order(std::size_t(grid.positions()), -1);
  grid.each_token([&](Index position, const Place& at) {
    order[std::size_t(position)] = at[0] * step[0] + at[1] * step[1] + at[2] * step[2];
  });
  return order;
}

// Calls f(extents, step, begins) for the residue classes of a dilation on each axis, grids of their own that hold every
// token of a grid once: eight times at most, since the classes of an axis differ by one place at most. `begins` are the
// tokens that classes of these extents begin with, `step` what a place of each axis is from the next one in tokens.
// Dilations are positive and not longer than their axis.
template <class F>
void each_grid_class(const Place& grid, const Place& dilation, F&& f) {
  const Place step{dilation[0] * grid[1] * grid[2], dilation[1] * grid[2], dilation[2]};
  for (unsigned longer = 8; longer-- > 0;) {  // a bit for each axis: the classes with a place more than the others
    std::array<Span, 3> residues;
    Place extents;
    for (std::size_t a = 0; a < 3; ++a) {
      const Index more = grid[a] % dilation[a];
      const bool one_more = (longer >> a & 1) != 0;
      residues[a] = one_more ? Span{0, more} : Span{more, dilation[a]};
      extents[a] = grid[a] / dilation[a] + (one_more ? 1 : 0);
    }
    std::vector<Index> begins;
    for (Index i = residues[0].first; i < residues[0].last; ++i) {
      for (Index j = residues[1].first; j < residues[1].last; ++j) {
        for (Index k = residues[2].first; k < residues[2].last; ++k) begins.push_back(index_in(grid, {i, j, k}));
      }
    }
    if (!begins.empty()) f(extents, step, std::as_const(begins));
  }
}

namespace detail {

struct FreeRows {
  void operator()(void* p) const { ::operator delete(p, std::align_val_t(64)); }
};

// Uninitialised rows on cache lines of their own.
template <class T>
std::unique_ptr<T[], FreeRows> allocate_rows(Index elements) {
  return std::unique_ptr<T[], FreeRows>(
      static_cast<T*>(::operator new(std::size_t(elements) * sizeof(T), std::align_val_t(64))));
}

// Positions [first, last) of one head in order, zero where there is no token and behind the width.
template <class T>
void gather(const Order& order, Span positions, const View<const T>& from, Index b, Index h, Index begin, T* to,
            Index width) {
  for (Index p = positions.first; p < positions.last; ++p, to += width) {
    const Index token = order[std::size_t(p)], dim = token < 0 ? 0 : from.dim;
    if (token >= 0) simd::copy(to, from.row(b, h, begin + token), from.dim);
    std::fill(to + dim, to + width, T(0));
  }
}

// The way back.
template <class T>
void scatter(const Order& order, Span positions, const T* from, const View<T>& to, Index b, Index h, Index begin) {
  for (Index p = positions.first; p < positions.last; ++p, from += to.dim) {
    const Index token = order[std::size_t(p)];
    if (token >= 0) simd::copy(to.row(b, h, begin + token), from, to.dim);
  }
}

}  // namespace detail

// Calls f(part, first) on problems that hold the queries of `problem` in one order and its keys in another, and writes
// their results to its outputs. The sequences of a batch element begin at the tokens `begins`. A part has one kv head
// and its query heads for each element of its batch; these are counted by batch, sequence, kv head, `first` is the
// first one's number, and no part reaches beyond a multiple of `together`. Positions without a token hold zeros. The
// copies are made once for each token, and take a few MiB, or what one kv head takes.
template <class T, exec::Executor Exec, class F>
void in_order(const Problem<T>& problem, const Order& queries, const Order& keys, std::span<const Index> begins,
              Index together, const Exec& executor, F&& f) {
  constexpr Index budget = Index{1} << 20;  // bytes for each worker
  constexpr Index block = 256;              // positions copied as one piece of work
  const Index group = problem.group, kv_heads = problem.k.heads, sequences = Index(begins.size());
  const Index rows = Index(queries.size()), key_rows = Index(keys.size());
  const Index dim = problem.q.dim, value_dim = problem.v.dim, width = simd::whole<T>(value_dim);
  const bool sums = problem.log_sum.data != nullptr;
  const Index all = problem.q.batch * sequences * kv_heads;
  const Index elements = group * rows * (dim + value_dim + 1) + key_rows * (dim + width);
  if (all == 0 || elements == 0) return;

  const Index room = budget * exec::concurrency(executor) / (elements * Index(sizeof(T)));
  const Index most = std::clamp<Index>(room, 1, std::min(all, together));
  const auto whole_lines = [](Index n) { return (n + 15) / 16 * 16; };
  const Index q_size = whole_lines(most * group * rows * dim), k_size = whole_lines(most * key_rows * dim);
  const Index v_size = whole_lines(most * key_rows * width), out_size = whole_lines(most * group * rows * value_dim);
  const auto memory = detail::allocate_rows<T>(q_size + k_size + v_size + out_size + most * group * rows);
  T* const q = memory.get();
  T* const k = q + q_size;
  T* const v = k + k_size;
  T* const out = v + v_size;
  T* const log_sum = out + out_size;

  for (Index first = 0, count; first < all; first += count) {
    count = std::min({most, all - first, together - first % together});
    // Calls copy(n, batch, begin, kv_head, positions) for pieces of `length` positions of every element n of the part.
    const auto each = [&](Index length, double elements_moved, const auto& copy) {
      const Index blocks = (length + block - 1) / block;
      executor.parallel_for(count * blocks, elements_moved * double(block), [&](Index begin, Index end) {
        for (Index item = begin; item < end; ++item) {
          const Index n = item / blocks, at = first + n, from = item % blocks * block;
          copy(n, at / kv_heads / sequences, begins[std::size_t(at / kv_heads % sequences)], at % kv_heads,
               Span{from, std::min(from + block, length)});
        }
      });
    };
    each(key_rows, double(dim + width), [&](Index n, Index b, Index begin, Index head, Span span) {
      const Index at = n * key_rows + span.first;
      detail::gather(keys, span, problem.k, b, head, begin, k + at * dim, dim);
      detail::gather(keys, span, problem.v, b, head, begin, v + at * width, width);
    });
    each(rows, double(group * dim), [&](Index n, Index b, Index begin, Index head, Span span) {
      for (Index i = 0; i < group; ++i)
        detail::gather(queries, span, problem.q, b, head * group + i, begin,
                       q + ((n * group + i) * rows + span.first) * dim, dim);
    });

    Problem<T> part = problem;
    part.q = view<const T>(q, {count, group, rows, dim});
    part.k = view<const T>(k, {count, 1, key_rows, dim});
    part.v = view<const T>(v, {count, 1, key_rows, width});
    part.v.dim = value_dim;
    part.out = view(out, {count, group, rows, value_dim});
    if (sums) part.log_sum = view(log_sum, {count, group, rows, 1});
    f(std::as_const(part), first);

    each(rows, double(group * value_dim), [&](Index n, Index b, Index begin, Index head, Span span) {
      for (Index i = 0; i < group; ++i) {
        const Index at = (n * group + i) * rows + span.first;
        detail::scatter(queries, span, out + at * value_dim, problem.out, b, head * group + i, begin);
        if (sums) detail::scatter(queries, span, log_sum + at, problem.log_sum, b, head * group + i, begin);
      }
    });
  }
}

}  // namespace fovea::inline FOVEA_ISA::permute
