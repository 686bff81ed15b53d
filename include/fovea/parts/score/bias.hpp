// Additive tables: a dense bias that broadcasts, a bias per key, and a table over relative positions.
#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include <fovea/parts/score/score.hpp>
#include <fovea/simd/row.hpp>

namespace fovea::inline FOVEA_ISA::score {

// The tables are the user's memory, of the scalar type of the call, and must outlive it.

template <class U>
struct Bias {
  View<const U> table;

  template <class T>
  auto bind(const char* where, const Shape& shape) const {
    static_assert(std::is_same_v<T, U>, "fovea: a bias table must have the scalar type of q");
    const auto fits = [](Index got, Index wanted) { return got == wanted || got == 1; };
    check(fits(table.batch, shape.batch) && fits(table.heads, shape.heads) && fits(table.length, shape.queries) &&
              table.dim == shape.keys,
          where, "a bias must have the shape of the scores or broadcast to it, wanted [", shape.batch, " or 1, ",
          shape.heads, " or 1, ", shape.queries, " or 1, ", shape.keys, "], got [", table.batch, ", ", table.heads,
          ", ", table.length, ", ", table.dim, "]");
    View<const U> all = table;
    if (all.batch == 1) all.batch_stride = 0;
    if (all.heads == 1) all.head_stride = 0;
    if (all.length == 1) all.length_stride = 0;
    return [all](T* scores, Row row, Span keys) {
      const T* const bias = all.row(row.batch, row.head, row.query) + keys.first;
      simd::add(scores, bias, keys.size());
      // The rows of a tile lie far apart: what the next tile of keys wants is asked for.
      constexpr Index line = 64 / Index(sizeof(T));
      const Index end = std::min(2 * keys.size(), all.dim - keys.first);
      for (Index j = keys.size(); j < end; j += line) __builtin_prefetch(bias + j);
    };
  }
};

// s_ij + table[b, h, i, j]; table [B,H,N,M], each of the first three axes possibly of extent one; or a matrix [N,M].
template <class X>
auto bias(const X& table) {
  const auto all = view(table);
  return Bias<std::remove_const_t<std::remove_pointer_t<decltype(all.data)>>>{all};
}

namespace detail {

// A table of two axes; a vector is a table of one row.
template <class X>
auto rows_of(const char* where, const X& table) {
  if constexpr (requires { requires bool(X::IsVectorAtCompileTime); }) {
    static_assert(int(X::InnerStrideAtCompileTime) == 1, "fovea: the elements of a table must be contiguous");
    return view(table.data(), Extents{1, 1, 1, Index(table.size())});
  } else if constexpr (requires { requires int(X::NumIndices) == 1; }) {
    return view(table.data(), Extents{1, 1, 1, Index(table.dimension(0))});
  } else {
    const auto rows = view(table);
    check(rows.batch == 1 && rows.heads == 1, where, "the table must have two axes, got ones of extent ", rows.batch,
          " and ", rows.heads, " before them");
    return rows;
  }
}

}  // namespace detail

// s_ij + table[b, j]; a vector [M] for every batch, or a matrix [B,M].
template <class X>
auto key_bias(const X& table) {
  const auto rows = detail::rows_of("fovea::score::key_bias", table);
  using U = std::remove_const_t<std::remove_pointer_t<decltype(rows.data)>>;
  return Bias<U>{{rows.data, rows.length, 1, 1, rows.dim, rows.length_stride, 0, 0}};
}

template <class U>
struct RelativeBias {
  View<const U> table;  // [H or 1, 2 R + 1]
  Alignment alignment;

  template <class T>
  auto bind(const char* where, const Shape& shape) const {
    static_assert(std::is_same_v<T, U>, "fovea: a relative bias must have the scalar type of q");
    check((table.length == shape.heads || table.length == 1) && table.dim % 2 == 1, where,
          "a relative bias needs an odd number of distances for each head or for all, wanted [", shape.heads,
          " or 1, 2 R + 1], got [", table.length, ", ", table.dim, "]");
    // Reversed, the entries of ascending keys lie in ascending order.
    std::vector<T> reversed;
    reversed.reserve(std::size_t(table.length * table.dim));
    for (Index h = 0; h < table.length; ++h) {
      for (Index r = table.dim; r-- > 0;) reversed.push_back(table.data[h * table.length_stride + r]);
    }
    const Index width = table.dim, stride = table.length == 1 ? 0 : width;
    return [reversed = std::move(reversed), width, stride, offset = shape.offset(alignment)](T* scores, Row row,
                                                                                             Span keys) {
      const T* bias = reversed.data() + row.head * stride;
      const Index start = width / 2 - (row.query + offset) + keys.first;  // entry of the first key
      const Index before = std::clamp<Index>(-start, 0, keys.size());
      const Index inside = std::clamp<Index>(width - start, before, keys.size());
      simd::shift(scores, before, bias[0]);
      simd::add(scores + before, bias + start + before, inside - before);
      simd::shift(scores + inside, keys.size() - inside, bias[width - 1]);
    };
  }
};

// s_ij + table[h, clamp(p_i - j + R, 0, 2 R)], p_i the position of query i; table [H, 2 R + 1], or [1, 2 R + 1] for all
// heads.
template <class X>
auto relative_bias(const X& table, Alignment alignment = Alignment::bottom_right) {
  const auto all = detail::rows_of("fovea::score::relative_bias", table);
  return RelativeBias<std::remove_const_t<std::remove_pointer_t<decltype(all.data)>>>{all, alignment};
}

}  // namespace fovea::inline FOVEA_ISA::score
