// Eigen objects as views. The memory order of the axes is said by name and never guessed:
//
//   view(x)   RowMajor  [B,H,T,D], [H,T,D] or [T,D]: tensors, tensor maps, matrices, maps, blocks
//   bthd(x)   RowMajor  [B,T,H,D] or [T,H,D]
//   dthb(x)   ColMajor  [D,T,H,B], [D,T,H] or [D,T]
//
// Axes that are not there have extent one. A view does not own its memory.
#pragma once

#include <Eigen/Core>
#include <type_traits>

#include <fovea/core/view.hpp>

namespace fovea::inline FOVEA_ISA {

namespace detail {

template <class X>
inline constexpr bool is_view = false;
template <class T>
inline constexpr bool is_view<View<T>> = true;

template <class X>
inline constexpr bool never = false;

// Eigen::Tensor, TensorMap, TensorFixedSize; recognised by their members, so that the tensor header is not needed here.
template <class X>
concept TensorLike = requires(X& x) {
  int(X::NumIndices);
  int(X::Layout);
  x.dimension(0);
  x.data();
};

// Eigen::Matrix, Array, Map, Ref, Block, VectorBlock: whatever lies in memory.
template <class X>
concept DenseLike = requires(const X& x) {
  []<class Y>(const Eigen::DenseBase<Y>&) {}(x);
}
&&bool(int(X::Flags) & int(Eigen::DirectAccessBit));

template <class X>
using Bare = std::remove_cv_t<std::remove_reference_t<X>>;

template <class X>
using Element = std::remove_pointer_t<decltype(std::declval<X&>().data())>;

// Positions of batch, heads, length and dim among the axes of a tensor, -1 for an axis that is not there.
struct Axes {
  int batch, heads, length, dim;
};

template <class X>
auto tensor_view(X& x, Axes axes, bool row_major) {
  constexpr int rank = int(Bare<X>::NumIndices);
  Index stride[rank];
  Index next = 1;
  for (int a = 0; a < rank; ++a) {
    const int axis = row_major ? rank - 1 - a : a;
    stride[axis] = next;
    next *= Index(x.dimension(axis));
  }
  const auto extent = [&](int axis) { return axis < 0 ? Index{1} : Index(x.dimension(axis)); };
  const auto step = [&](int axis) { return axis < 0 ? Index{0} : stride[axis]; };
  return View<Element<X>>{x.data(),         extent(axes.batch), extent(axes.heads), extent(axes.length),
                          extent(axes.dim), step(axes.batch),   step(axes.heads),   step(axes.length)};
}

}  // namespace detail

// The view of a RowMajor tensor [B,H,T,D], [H,T,D], [T,D] or matrix [T,D]; a view is its own view.
template <class X>
auto view(X&& x) {
  using Type = detail::Bare<X>;
  if constexpr (detail::is_view<Type>) {
    return x;
  } else if constexpr (detail::TensorLike<Type>) {
    constexpr int rank = int(Type::NumIndices);
    static_assert(int(Type::Layout) == int(Eigen::RowMajor),
                  "fovea: a column-major tensor needs its axes named: wrap a [D,T,H,B] tensor in fovea::dthb(x)");
    static_assert(rank >= 2 && rank <= 4, "fovea: a tensor must have the axes [B,H,T,D], [H,T,D] or [T,D]");
    return detail::tensor_view(x, {rank - 4, rank - 3 < 0 ? -1 : rank - 3, rank - 2, rank - 1}, true);
  } else if constexpr (detail::DenseLike<Type>) {
    static_assert(int(Type::InnerStrideAtCompileTime) == 1,
                  "fovea: the last axis of a matrix must be contiguous (inner stride 1)");
    if constexpr (int(Type::ColsAtCompileTime) == 1) {
      return View<detail::Element<std::remove_reference_t<X>>>{x.data(), 1, 1, Index(x.rows()), 1, 0, 0, 1};
    } else {
      static_assert(bool(Type::IsRowMajor),
                    "fovea: a column-major matrix needs its axes named: wrap a [D,T] matrix in fovea::dthb(x)");
      return View<detail::Element<std::remove_reference_t<X>>>{x.data(),        1, 1, Index(x.rows()),
                                                               Index(x.cols()), 0, 0, Index(x.outerStride())};
    }
  } else {
    static_assert(detail::never<Type>,
                  "fovea: an array must be an Eigen tensor, matrix, map or block, or a fovea::View");
  }
}

// The view of a RowMajor tensor [B,T,H,D] or [T,H,D].
template <class X>
auto bthd(X&& x) {
  using Type = detail::Bare<X>;
  static_assert(detail::TensorLike<Type>, "fovea: bthd takes an Eigen tensor [B,T,H,D] or [T,H,D]");
  constexpr int rank = int(Type::NumIndices);
  static_assert(int(Type::Layout) == int(Eigen::RowMajor), "fovea: bthd takes a RowMajor tensor");
  static_assert(rank == 3 || rank == 4, "fovea: bthd takes a tensor with the axes [B,T,H,D] or [T,H,D]");
  return detail::tensor_view(x, {rank - 4, rank - 2, rank - 3, rank - 1}, true);
}

// The view of a ColMajor tensor [D,T,H,B], [D,T,H], [D,T] or matrix [D,T].
template <class X>
auto dthb(X&& x) {
  using Type = detail::Bare<X>;
  static_assert(detail::TensorLike<Type> || detail::DenseLike<Type>, "fovea: dthb takes an Eigen tensor or matrix");
  if constexpr (detail::TensorLike<Type>) {
    constexpr int rank = int(Type::NumIndices);
    static_assert(int(Type::Layout) == int(Eigen::ColMajor), "fovea: dthb takes a ColMajor tensor");
    static_assert(rank >= 2 && rank <= 4, "fovea: dthb takes a tensor with the axes [D,T,H,B], [D,T,H] or [D,T]");
    return detail::tensor_view(x, {rank < 4 ? -1 : 3, rank < 3 ? -1 : 2, 1, 0}, false);
  } else {
    static_assert(!bool(Type::IsRowMajor) || int(Type::RowsAtCompileTime) == 1, "fovea: dthb takes a ColMajor matrix");
    static_assert(int(Type::InnerStrideAtCompileTime) == 1, "fovea: the columns of a matrix must be contiguous");
    return View<detail::Element<std::remove_reference_t<X>>>{x.data(),        1, 1, Index(x.cols()),
                                                             Index(x.rows()), 0, 0, Index(x.outerStride())};
  }
}

// One number for each query as a view with dim 1: a RowMajor tensor [B,H,N], [H,N] or [N], an Eigen vector [N], or a
// view.
template <class X>
auto row_values(X&& x) {
  using Type = detail::Bare<X>;
  if constexpr (detail::is_view<Type>) {
    return x;
  } else if constexpr (detail::TensorLike<Type>) {
    constexpr int rank = int(Type::NumIndices);
    static_assert(int(Type::Layout) == int(Eigen::RowMajor) || rank == 1, "fovea: row values need a RowMajor tensor");
    static_assert(rank >= 1 && rank <= 3, "fovea: row values are a tensor with the axes [B,H,N], [H,N] or [N]");
    auto result = detail::tensor_view(x, {rank - 3, rank - 2 < 0 ? -1 : rank - 2, rank - 1, -1}, true);
    return result;
  } else if constexpr (detail::DenseLike<Type>) {
    static_assert(bool(Type::IsVectorAtCompileTime), "fovea: row values beside matrices are a vector [N]");
    return View<detail::Element<std::remove_reference_t<X>>>{x.data(), 1, 1, Index(x.size()),
                                                             1,        0, 0, Index(x.innerStride())};
  } else {
    static_assert(detail::never<Type>, "fovea: row values are an Eigen tensor [B,H,N], a vector [N], or a fovea::View");
  }
}

namespace detail {

// The owning Eigen type that can hold what X holds.
template <class X>
struct Owner;
template <template <class, int, int, class> class Tensor, class S, int rank, int options, class I>
struct Owner<Tensor<S, rank, options, I>> {
  using type = Tensor<std::remove_const_t<S>, rank, options, I>;
};
template <template <class, int, template <class> class> class Map, class Plain, int options, template <class> class P>
struct Owner<Map<Plain, options, P>> : Owner<std::remove_const_t<Plain>> {};

}  // namespace detail

// A new, uninitialised array for the result of attention of q over values v: q's shape with the width of v.
template <class Q, class V>
auto output_for(const Q& q, const V& v) {
  if constexpr (detail::TensorLike<Q>) {
    static_assert(int(Q::Layout) == int(Eigen::RowMajor), "fovea: output_for takes RowMajor tensors");
    constexpr int rank = int(Q::NumIndices);
    typename detail::Owner<Q>::type out;
    auto dimensions = out.dimensions();
    for (int a = 0; a + 1 < rank; ++a) dimensions[a] = q.dimension(a);
    dimensions[rank - 1] = v.dimension(int(V::NumIndices) - 1);
    out.resize(dimensions);
    return out;
  } else {
    static_assert(detail::DenseLike<Q>, "fovea: output_for takes Eigen tensors or matrices");
    static_assert(bool(Q::IsRowMajor), "fovea: output_for takes RowMajor matrices");
    return Eigen::Matrix<typename Q::Scalar, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>(q.rows(), v.cols());
  }
}

}  // namespace fovea::inline FOVEA_ISA
