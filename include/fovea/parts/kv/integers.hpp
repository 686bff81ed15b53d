// Integers that come with keys and values: tables of pages, lists of tokens, lengths. They are read where they lie.
#pragma once

#include <concepts>
#include <type_traits>
#include <utility>

#include <fovea/core/eigen.hpp>

namespace fovea::inline FOVEA_ISA::kv {

// Rows of n integers: a RowMajor tensor [B,G,n] or [B,n], a RowMajor matrix [B x n]; one row [n]: a vector of Eigen's,
// a tensor [n], or a range with data() and size(). The view is [B,G,1,n], and an axis of one repeats its row.
template <class X>
auto integers(const X& x) {
  const auto rows = [](const auto* data, Index batch, Index heads, Index n, Index batch_stride, Index head_stride) {
    using I = std::remove_cvref_t<decltype(*data)>;
    static_assert(std::integral<I>, "fovea: tables, lists and lengths hold integers");
    return View<const I>{
        data, batch, heads, 1, n, batch == 1 ? Index{0} : batch_stride, heads == 1 ? Index{0} : head_stride, 0};
  };
  if constexpr (fovea::detail::TensorLike<X>) {
    if constexpr (int(X::NumIndices) == 1) {
      return rows(x.data(), 1, 1, Index(x.size()), 0, 0);
    } else {
      static_assert(int(X::NumIndices) <= 3, "fovea: integers are a tensor [B,G,n], [B,n] or [n]");
      const auto all = view(x);  // [1,B,G,n] or [1,1,B,n]
      if constexpr (int(X::NumIndices) == 3)
        return rows(all.data, all.heads, all.length, all.dim, all.head_stride, all.length_stride);
      else
        return rows(all.data, all.length, 1, all.dim, all.length_stride, 0);
    }
  } else if constexpr (fovea::detail::DenseLike<X>) {
    const auto all = view(x);
    if constexpr (int(X::ColsAtCompileTime) == 1)
      return rows(all.data, 1, 1, all.length, 0, 0);
    else
      return rows(all.data, all.length, 1, all.dim, all.length_stride, 0);
  } else {
    return rows(x.data(), 1, 1, Index(x.size()), 0, 0);
  }
}

template <class X>
using IntegerOf = std::remove_cvref_t<decltype(*integers(std::declval<const X&>()).data)>;

}  // namespace fovea::inline FOVEA_ISA::kv
