// fovea 0.1.0: attention kernels for CPUs, in one file that packaging/single_header wrote.
//
// MIT License
//
// Copyright (c) 2026 fovea contributors
//
// Permission is hereby granted, free of charge, to any person obtaining a copy
// of this software and associated documentation files (the "Software"), to deal
// in the Software without restriction, including without limitation the rights
// to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
// copies of the Software, and to permit persons to whom the Software is
// furnished to do so, subject to the following conditions:
//
// The above copyright notice and this permission notice shall be included in all
// copies or substantial portions of the Software.
//
// THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
// IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
// FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
// AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
// LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
// OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
// SOFTWARE.

#pragma once
// clang-format off

#include <Eigen/Core>
#include <xsimd/xsimd.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <istream>
#include <iterator>
#include <limits>
#include <memory>
#include <new>
#include <numeric>
#include <optional>
#include <ostream>
#include <random>
#include <ranges>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

// fovea/core/config.hpp

// Index type and the inline namespace that keeps code for different instruction sets apart.
//
// A program may compile the same header several times with different -m flags and choose at run time. Everything in
// fovea sits in an inline namespace named after the instruction set, so that those copies are different symbols and the
// linker never mixes them.

#if defined(FOVEA_ISA)
#error "fovea: include its single header, or headers of include/fovea, and not both"
#endif

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define FOVEA_ISA avx512_vnni
#elif defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define FOVEA_ISA avx512
#elif defined(__AVX512F__)
#define FOVEA_ISA avx512f
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define FOVEA_ISA avx2_fma_f16c
#elif defined(__AVX2__) && defined(__FMA__)
#define FOVEA_ISA avx2_fma
#elif defined(__AVX2__)
#define FOVEA_ISA avx2
#elif defined(__AVX__) && defined(__FMA__)
#define FOVEA_ISA avx_fma
#elif defined(__AVX__)
#define FOVEA_ISA avx
#elif defined(__SSE4_2__)
#define FOVEA_ISA sse4_2
#elif defined(__SSE4_1__)
#define FOVEA_ISA sse4_1
#elif defined(__SSSE3__)
#define FOVEA_ISA ssse3
#elif defined(__SSE3__)
#define FOVEA_ISA sse3
#elif defined(__SSE2__)
#define FOVEA_ISA sse2
#elif defined(__aarch64__) && defined(__ARM_FEATURE_SVE)
#define FOVEA_ISA neon64_sve
#elif defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#define FOVEA_ISA neon64_dotprod
#elif defined(__aarch64__)
#define FOVEA_ISA neon64
#elif defined(__ARM_NEON)
#define FOVEA_ISA neon
#else
#define FOVEA_ISA portable
#endif

namespace fovea::inline FOVEA_ISA {

using Index = std::int64_t;  // every extent, stride and position

// Which keys the queries of a causal call line up with when there are fewer or more queries than keys.
//
//   bottom_right   queries are the last tokens of the keys, as with a cache: query i sits at position i + M - N
//   top_left       query i sits at position i
enum class Alignment { bottom_right, top_left };

}  // namespace fovea::inline FOVEA_ISA

// fovea/core/function_ref.hpp

// A function that is called and not kept, whatever its type. What is called once for a work item or a tile takes its
// callback so: it is compiled once then, and not for every caller.

namespace fovea::inline FOVEA_ISA {

template <class Signature>
class FunctionRef;

template <class Result, class... Args>
class FunctionRef<Result(Args...)> {
 public:
  // f is an object (of a function, its pointer) and must outlive the reference, as an argument outlives the call.
  template <class F>
  requires(!std::same_as<std::remove_cvref_t<F>, FunctionRef> && std::is_object_v<std::remove_reference_t<F>> &&
           std::is_invocable_r_v<Result, F&, Args...>) FunctionRef(F&& f)
      : object_(const_cast<void*>(static_cast<const volatile void*>(std::addressof(f)))),
        call_([](void* object, Args... args) -> Result {
          return static_cast<Result>((*static_cast<std::remove_reference_t<F>*>(object))(std::forward<Args>(args)...));
        }) {}

  Result operator()(Args... args) const { return call_(object_, std::forward<Args>(args)...); }

 private:
  void* object_;
  Result (*call_)(void*, Args...);
};

}  // namespace fovea::inline FOVEA_ISA

// fovea/core/check.hpp

// What an illegal call gets: an ArgumentError that names the function, the rule, what was wanted and what came.

namespace fovea::inline FOVEA_ISA {

// Thrown before any work is done and before any output is touched. what() is "function: rule, ... got ...".
class ArgumentError : public std::invalid_argument {
 public:
  ArgumentError(std::string_view function, const std::string& message)
      : std::invalid_argument(std::string(function) + ": " + message), function_(function) {}

  const std::string& function() const { return function_; }  // the public function that refused, "fovea::attend"

 private:
  std::string function_;
};

namespace detail {

inline void append(std::string& text, std::string_view part) { text += part; }

template <std::integral I>
void append(std::string& text, I value) {
  text += std::to_string(value);
}

inline void append(std::string& text, double value) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%g", value);
  text += digits;
}

template <class... Parts>
[[noreturn, gnu::noinline, gnu::cold]] void refuse(std::string_view function, const Parts&... parts) {
  std::string message;
  (append(message, parts), ...);
  throw ArgumentError(function, message);
}

}  // namespace detail

// check(options.window > 0, "fovea::sliding_window", "window must be positive, got ", options.window);
template <class... Parts>
void check(bool holds, std::string_view function, const Parts&... parts) {
  if (!holds) detail::refuse(function, parts...);
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/core/view.hpp

// View<T>: a [batch, heads, length, dim] array with free strides on the first three axes and a contiguous last one.
// The only array type inside the library; core/eigen.hpp turns Eigen objects into views.

namespace fovea::inline FOVEA_ISA {

// Extents of a contiguous array given by a raw pointer.
struct Extents {
  Index batch = 1;
  Index heads = 1;
  Index length = 0;
  Index dim = 0;

  bool operator==(const Extents&) const = default;
};

template <class T>
struct View {
  T* data = nullptr;
  Index batch = 0;
  Index heads = 0;
  Index length = 0;
  Index dim = 0;
  Index batch_stride = 0;  // in elements, as are the other strides; zero repeats the same memory
  Index head_stride = 0;
  Index length_stride = 0;

  T* row(Index b, Index h, Index i) const { return data + (b * batch_stride + h * head_stride + i * length_stride); }
  Extents extents() const { return {batch, heads, length, dim}; }

  operator View<const T>() const requires(!std::is_const_v<T>) {
    return {data, batch, heads, length, dim, batch_stride, head_stride, length_stride};
  }
};

// The contiguous row-major array [batch, heads, length, dim] at `data`.
template <class T>
View<T> view(T* data, const Extents& extents) {
  const auto [batch, heads, length, dim] = extents;
  return {data, batch, heads, length, dim, heads * length * dim, length * dim, dim};
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/core/eigen.hpp

// Eigen objects as views. The memory order of the axes is said by name and never guessed:
//
//   view(x)   RowMajor  [B,H,T,D], [H,T,D] or [T,D]: tensors, tensor maps, matrices, maps, blocks
//   bthd(x)   RowMajor  [B,T,H,D] or [T,H,D]
//   dthb(x)   ColMajor  [D,T,H,B], [D,T,H] or [D,T]
//
// Axes that are not there have extent one. A view does not own its memory.

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

// fovea/core/problem.hpp

// Problem<T>: the arrays of one attention call, their shapes checked once.

namespace fovea::inline FOVEA_ISA {

// An output together with the place for the log-sum-exp of each row's scores (natural log).
template <class Out, class LogSum>
struct WithLogSum {
  Out& out;
  LogSum& log_sum;
};

// out as in the call without it; log_sum a RowMajor tensor [B,H,N], or a vector [N] beside matrices.
template <class Out, class LogSum>
WithLogSum<std::remove_reference_t<Out>, std::remove_reference_t<LogSum>> with_log_sum(Out&& out, LogSum&& log_sum) {
  return {out, log_sum};
}

// The extents that masks and scores may need to know.
struct Shape {
  Index batch = 0;
  Index heads = 0;
  Index kv_heads = 0;
  Index queries = 0;
  Index keys = 0;

  // Position of query 0 on the axis of the keys.
  constexpr Index offset(Alignment alignment) const {
    return alignment == Alignment::bottom_right ? keys - queries : Index{0};
  }
};

template <class T>
struct Problem {
  View<const T> q;         // [B, H, N, D]
  View<const T> k;         // [B, G, M, D]
  View<const T> v;         // [B, G, M, E]
  View<T> out;             // [B, H, N, E]
  View<T> log_sum;         // [B, H, N, 1]; data is null when it was not asked for
  Index group = 1;         // query heads of one kv head, H / G
  const char* where = "";  // the public function, for messages

  Shape shape() const { return {q.batch, q.heads, k.heads, q.length, k.length}; }
};

namespace detail {

template <class X>
inline constexpr bool has_log_sum = false;
template <class Out, class LogSum>
inline constexpr bool has_log_sum<WithLogSum<Out, LogSum>> = true;

template <class X>
auto output_view(X& out) {
  if constexpr (has_log_sum<std::remove_cv_t<X>>) {
    return view(out.out);
  } else {
    return view(out);
  }
}

// The problem of views whose types fit, or an ArgumentError in the name of `where`.
template <class T, class Out>
Problem<T> checked_problem(const char* where, const View<const T>& queries, const View<const T>& keys,
                           const View<const T>& values, Out&& out) {
  const auto result = output_view(out);
  using Result = std::remove_pointer_t<decltype(result.data)>;
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "fovea: queries must be float or double");
  static_assert(!std::is_const_v<Result>, "fovea: the output must not be const");
  static_assert(std::is_same_v<T, std::remove_const_t<Result>>, "fovea: the output must have the scalar type of q");

  check(keys.batch == queries.batch, where, "k must have the batch of q, wanted ", queries.batch, ", got ", keys.batch);
  check(values.batch == queries.batch, where, "v must have the batch of q, wanted ", queries.batch, ", got ",
        values.batch);
  check(queries.dim > 0, where, "the key width must be positive, got ", queries.dim);
  check(keys.dim == queries.dim, where, "k must have the width of q, wanted ", queries.dim, ", got ", keys.dim);
  check(values.heads == keys.heads, where, "v must have the heads of k, wanted ", keys.heads, ", got ", values.heads);
  check(values.length == keys.length, where, "v must have the length of k, wanted ", keys.length, ", got ",
        values.length);
  check(keys.heads > 0 || queries.heads == 0, where, "k must have at least one head, got 0");
  check(keys.heads == 0 || queries.heads % keys.heads == 0, where,
        "the heads of q must be a multiple of the heads of k, ", "wanted a multiple of ", keys.heads, ", got ",
        queries.heads);
  check(result.batch == queries.batch, where, "out must have the batch of q, wanted ", queries.batch, ", got ",
        result.batch);
  check(result.heads == queries.heads, where, "out must have the heads of q, wanted ", queries.heads, ", got ",
        result.heads);
  check(result.length == queries.length, where, "out must have the length of q, wanted ", queries.length, ", got ",
        result.length);
  check(result.dim == values.dim, where, "out must have the width of v, wanted ", values.dim, ", got ", result.dim);

  Problem<T> problem{queries, keys, values, result, {}, keys.heads == 0 ? 1 : queries.heads / keys.heads, where};
  if constexpr (has_log_sum<Bare<Out>>) {
    const auto sums = row_values(out.log_sum);
    static_assert(std::is_same_v<T, std::remove_pointer_t<decltype(sums.data)>>,
                  "fovea: log_sum must have the scalar type of q and must not be const");
    problem.log_sum = sums;
    const auto& s = problem.log_sum;
    check(s.batch == queries.batch && s.heads == queries.heads && s.length == queries.length && s.dim == 1, where,
          "log_sum must have one number for each query, wanted [", queries.batch, ", ", queries.heads, ", ",
          queries.length, "], got [", s.batch, ", ", s.heads, ", ", s.length, "]");
  }
  return problem;
}

}  // namespace detail

// Views of the arrays of an attention call, or an ArgumentError in the name of `where`.
template <class Q, class K, class V, class Out>
auto make_problem(const char* where, const Q& q, const K& k, const V& v, Out&& out) {
  const auto queries = view(q);
  const auto keys = view(k);
  const auto values = view(v);
  using T = std::remove_const_t<std::remove_pointer_t<decltype(queries.data)>>;
  using Key = std::remove_const_t<std::remove_pointer_t<decltype(keys.data)>>;
  using Value = std::remove_const_t<std::remove_pointer_t<decltype(values.data)>>;
  static_assert(std::is_same_v<T, Key> && std::is_same_v<T, Value>, "fovea: q, k and v must have the same scalar type");
  return detail::checked_problem<T>(where, queries, keys, values, out);
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/core/site.hpp

// Places in the grid of queries and keys.

namespace fovea::inline FOVEA_ISA {

// A query of one head.
struct Row {
  Index batch = 0;
  Index head = 0;
  Index query = 0;
};

// A query of one head and a key.
struct Site {
  Index batch = 0;
  Index head = 0;
  Index query = 0;
  Index key = 0;
};

}  // namespace fovea::inline FOVEA_ISA

// fovea/core/span.hpp

// Half-open ranges of indices.

namespace fovea::inline FOVEA_ISA {

struct Span {
  Index first = 0;
  Index last = 0;  // one past the end

  constexpr Index size() const { return last - first; }
  constexpr bool empty() const { return last <= first; }
  constexpr bool contains(Span other) const { return first <= other.first && other.last <= last; }
  constexpr bool operator==(const Span&) const = default;
};

constexpr Span intersect(Span a, Span b) {
  const Index first = std::max(a.first, b.first);
  return {first, std::max(first, std::min(a.last, b.last))};
}

// The smallest span that holds both; an empty span adds nothing.
constexpr Span hull(Span a, Span b) {
  if (a.empty()) return b;
  if (b.empty()) return a;
  return {std::min(a.first, b.first), std::max(a.last, b.last)};
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/parts/mask/mask.hpp

// What a mask is: a rule that says which keys a query sees.
//
// A mask is a small value. `bind(where, shape)` checks it against the shape of a call and gives the bound mask, which
// answers
//
//   std::uint64_t seen(Row row, Span keys)   one bit a key, at most 64 keys: bit j is set when the row sees keys.first
//   + j Cover cover(const Region& region)        none, part or full; `part` is always allowed, the others must be true
//
// A mask that treats whole blocks of queries and keys alike may say so with Grain grain(), and tiles are cut along its
// blocks. One that keeps lists of keys may hand them out with each_span(region, f), so that nobody has to look for them
// (Lists, below).
//
// cover() is asked of large regions first and of their halves only where the answer is `part`; seen() only on the
// border.

namespace fovea::inline FOVEA_ISA {

namespace mask {

inline constexpr Index word = 64;  // keys that one call of seen() answers for

struct Region {
  Index batch = 0;
  Span heads;
  Span queries;
  Span keys;
};

enum class Cover { none, part, full };

// Queries, and keys, from a multiple of so many on to the next are treated alike; one says nothing. by_head: the heads
// of a kv head see different keys, and are better not worked on together.
struct Grain {
  Index queries = 1;
  Index keys = 1;
  bool by_head = false;

  constexpr bool operator==(const Grain&) const = default;
};

template <class M>
constexpr Grain grain_of(const M& mask) {
  if constexpr (requires { mask.grain(); }) {
    return mask.grain();
  } else {
    return {};
  }
}

template <class M>
concept BoundMask = requires(const M& m, Row row, Span keys, const Region& region) {
  { m.seen(row, keys) } -> std::same_as<std::uint64_t>;
  { m.cover(region) } -> std::same_as<Cover>;
};

// A bound mask with lists: each_span(region, f) calls f(Span keys, bool full) for ascending spans without overlap that
// hold every key of the region which some of its rows sees; full: every row sees every key of the span.
template <class M>
concept Lists = BoundMask<M> && requires(const M& m, const Region& region) {
  m.each_span(region, [](Span, bool) {});
};

template <class M>
concept Mask = requires(const M& m, const char* where, const Shape& shape) {
  { m.bind(where, shape) } -> BoundMask;
};

// The lowest n bits, 0 <= n <= 64.
constexpr std::uint64_t low_bits(Index n) { return n >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1; }

// The bits of the keys (at most 64) that lie in `seen`.
constexpr std::uint64_t bits_of(Span seen, Span keys) {
  const Span both = intersect(seen, keys);
  return both.empty() ? 0 : low_bits(both.last - keys.first) & ~low_bits(both.first - keys.first);
}

// Whether a row sees a key.
template <BoundMask M>
bool sees(const M& mask, Site site) {
  return (mask.seen({site.batch, site.head, site.query}, {site.key, site.key + 1}) & 1) != 0;
}

// Every key.
struct Everything {
  Everything bind(const char*, const Shape&) const { return {}; }
  std::uint64_t seen(Row, Span keys) const { return low_bits(keys.size()); }
  Cover cover(const Region&) const { return Cover::full; }
};

}  // namespace mask
}  // namespace fovea::inline FOVEA_ISA

// fovea/engine/visit.hpp

// Which tiles of keys, and which bands of queries, have to be looked at.

namespace fovea::inline FOVEA_ISA::engine {

// Calls f(i, full) for the pieces i of [first, last) in ascending order, leaving out those whose cover is none.
// cover(a, b) classifies the pieces [a, b) as one: ranges are asked about as a whole before their halves are, so that a
// narrow mask over many pieces costs a logarithm of questions.
inline void visit_pieces(Index first, Index last, FunctionRef<mask::Cover(Index, Index)> cover,
                         FunctionRef<void(Index, bool)> f) {
  Index ends[std::numeric_limits<Index>::digits + 1];  // of the ranges that are still to come, the nearest on top
  int ranges = 0;
  ends[ranges++] = last;
  while (ranges > 0) {
    const Index end = ends[ranges - 1];
    const mask::Cover seen = first < end ? cover(first, end) : mask::Cover::none;
    if (seen == mask::Cover::part && end - first > 1) {
      ends[ranges++] = first + (end - first) / 2;
      continue;
    }
    for (; seen != mask::Cover::none && first < end; ++first) f(first, seen == mask::Cover::full);
    first = end;
    --ranges;
  }
}

// Calls f(Span keys, bool full) for the tiles of `step` keys that some query of the region sees, in ascending order;
// the tiles begin at multiples of step.
template <mask::BoundMask M>
void visit_tiles(const M& mask, const mask::Region& region, Index step, FunctionRef<void(Span, bool)> f) {
  const auto span = [&](Index first, Index last) {
    return Span{first * step, std::min(last * step, region.keys.last)};
  };
  const auto cover = [&](Index first, Index last) {
    mask::Region part = region;
    part.keys = span(first, last);
    return mask.cover(part);
  };
  visit_pieces(region.keys.first / step, (region.keys.last + step - 1) / step, cover,
               [&](Index tile, bool full) { f(span(tile, tile + 1), full); });
}

}  // namespace fovea::inline FOVEA_ISA::engine

// fovea/engine/key_tile.hpp

// The keys of a tile: mostly neighbours, or runs of neighbours where a mask lists scattered keys.

namespace fovea::inline FOVEA_ISA::engine {

// A word of keys at most; column j of the tile is its j-th key. Runs ascend and are as long as they can be.
class KeyTile {
 public:
  Index size() const { return size_; }
  bool full() const { return full_; }  // every row of the tile sees every key
  Index runs() const { return runs_; }
  Span first_run() const { return keys_[0]; }
  Index last_key() const { return keys_[runs_ - 1].last - 1; }

  // Calls f(column, keys) for the runs, cut to columns [first, last).
  template <class F>
  [[gnu::always_inline]] void each_run(Index first, Index last, F&& f) const {
    Index i = std::upper_bound(columns_, columns_ + runs_, first) - columns_ - 1;
    for (; i < runs_ && columns_[i] < last; ++i) {
      const Index begin = std::max(first, columns_[i]), end = std::min(last, columns_[i] + keys_[i].size());
      f(begin, Span{keys_[i].first + (begin - columns_[i]), keys_[i].first + (end - columns_[i])});
    }
  }
  template <class F>
  [[gnu::always_inline]] void each_run(F&& f) const {
    for (Index i = 0; i < runs_; ++i) f(columns_[i], keys_[i]);
  }

  // The bits of the keys that a row sees.
  template <mask::BoundMask M>
  std::uint64_t seen(const M& mask, Row row) const {
    std::uint64_t bits = 0;
    each_run([&](Index column, Span keys) { bits |= mask.seen(row, keys) << column; });
    return bits;
  }

  void clear() {
    runs_ = size_ = 0;
    full_ = true;
  }

  // Keys behind those that are there; full: every row sees them.
  void add(Span keys, bool full) {
    if (runs_ > 0 && keys_[runs_ - 1].last == keys.first) {
      keys_[runs_ - 1].last = keys.last;
    } else {
      columns_[runs_] = size_;
      keys_[runs_++] = keys;
    }
    size_ += keys.size();
    full_ = full_ && full;
  }

 private:
  Index runs_ = 0, size_ = 0;
  bool full_ = true;
  Index columns_[std::size_t(mask::word)];
  Span keys_[std::size_t(mask::word)];
};

// Calls f(const KeyTile& tile, const KeyTile* next) for the tiles of at most `step` keys that some row of the region
// sees, in ascending order; next is the one that follows, for those who want to ask for it early. What a mask lists is
// gathered into whole tiles, else tiles begin at multiples of step.
template <mask::BoundMask M>
void each_tile(const M& mask, const mask::Region& region, Index step,
               FunctionRef<void(const KeyTile&, const KeyTile*)> f) {
  KeyTile tiles[2];
  int filling = 0;
  bool waiting = false;
  const auto close = [&] {
    if (tiles[filling].size() == 0) return;
    if (waiting) f(tiles[1 - filling], &tiles[filling]);
    waiting = true;
    filling = 1 - filling;
    tiles[filling].clear();
  };
  if constexpr (mask::Lists<M>) {
    mask.each_span(region, [&](Span span, bool full) {
      while (!span.empty()) {
        const Span part{span.first, std::min(span.last, span.first + step - tiles[filling].size())};
        tiles[filling].add(part, full);
        span.first = part.last;
        if (tiles[filling].size() == step) close();
      }
    });
  } else {
    visit_tiles(mask, region, step, [&](Span span, bool full) {
      tiles[filling].add(span, full);
      close();
    });
  }
  close();
  if (waiting) f(tiles[1 - filling], nullptr);
}

}  // namespace fovea::inline FOVEA_ISA::engine

// fovea/parts/mask/combine.hpp

// Masks joined by & | !.

namespace fovea::inline FOVEA_ISA::mask {

// The blocks of two masks joined: those of the one that has any, or what fits both.
constexpr Grain join(const Grain& a, const Grain& b) {
  const auto one = [](Index x, Index y) { return x == 1 ? y : y == 1 ? x : std::gcd(x, y); };
  return {one(a.queries, b.queries), one(a.keys, b.keys), a.by_head || b.by_head};
}

template <BoundMask A, BoundMask B>
struct BoundBoth {
  A a;
  B b;

  std::uint64_t seen(Row row, Span keys) const { return a.seen(row, keys) & b.seen(row, keys); }
  Cover cover(const Region& region) const {
    const Cover first = a.cover(region);
    if (first == Cover::none) return first;
    const Cover second = b.cover(region);
    if (second == Cover::none) return second;
    return first == Cover::full ? second : Cover::part;
  }
  Grain grain() const { return join(grain_of(a), grain_of(b)); }

  template <class F>
  void each_span(const Region& region, F&& f) const requires Lists<A> || Lists<B> {
    const auto joined = [&](const auto& lists, const auto& other) {
      lists.each_span(region, [&](Span keys, bool full) {
        Region part = region;
        part.keys = keys;
        const Cover cover = other.cover(part);
        if (cover != Cover::none) f(keys, full && cover == Cover::full);
      });
    };
    if constexpr (Lists<A>) {
      joined(a, b);
    } else {
      joined(b, a);
    }
  }
};

template <BoundMask A, BoundMask B>
struct BoundEither {
  A a;
  B b;

  std::uint64_t seen(Row row, Span keys) const { return a.seen(row, keys) | b.seen(row, keys); }
  Cover cover(const Region& region) const {
    const Cover first = a.cover(region);
    if (first == Cover::full) return first;
    const Cover second = b.cover(region);
    if (second == Cover::full) return second;
    return first == Cover::none ? second : Cover::part;
  }
  Grain grain() const { return join(grain_of(a), grain_of(b)); }
};

template <BoundMask A>
struct BoundNot {
  A a;

  std::uint64_t seen(Row row, Span keys) const { return ~a.seen(row, keys) & low_bits(keys.size()); }
  Cover cover(const Region& region) const {
    const Cover inner = a.cover(region);
    return inner == Cover::none ? Cover::full : inner == Cover::full ? Cover::none : Cover::part;
  }
  Grain grain() const { return grain_of(a); }
};

template <Mask A, Mask B>
struct Both {
  A a;
  B b;

  auto bind(const char* where, const Shape& shape) const {
    return BoundBoth<decltype(a.bind(where, shape)), decltype(b.bind(where, shape))>{a.bind(where, shape),
                                                                                     b.bind(where, shape)};
  }
};

template <Mask A, Mask B>
struct Either {
  A a;
  B b;

  auto bind(const char* where, const Shape& shape) const {
    return BoundEither<decltype(a.bind(where, shape)), decltype(b.bind(where, shape))>{a.bind(where, shape),
                                                                                       b.bind(where, shape)};
  }
};

template <Mask A>
struct Not {
  A a;

  auto bind(const char* where, const Shape& shape) const {
    return BoundNot<decltype(a.bind(where, shape))>{a.bind(where, shape)};
  }
};

// Seen by both.
template <Mask A, Mask B>
constexpr Both<A, B> operator&(const A& a, const B& b) {
  return {a, b};
}

// Seen by either.
template <Mask A, Mask B>
constexpr Either<A, B> operator|(const A& a, const B& b) {
  return {a, b};
}

// Seen where a does not see. In front of & and | write (!a): g++ takes a bare ! there for a slip.
template <Mask A>
constexpr Not<A> operator!(const A& a) {
  return {a};
}

}  // namespace fovea::inline FOVEA_ISA::mask

// fovea/simd/native.hpp

// The compilers' own vectors: unlike a batch they can be cut, joined and interleaved on every instruction set.

#if defined(__aarch64__)
#include <xsimd/xsimd.hpp>
#endif

namespace fovea::inline FOVEA_ISA::simd {

template <class T, int count>
struct NativeVector {
  typedef T type __attribute__((vector_size(count * sizeof(T))));
};
template <class T, int count>
using Native = typename NativeVector<T, count>::type;

template <class T, int count>
[[gnu::always_inline]] inline Native<T, count> native_load(const T* p) {
  Native<T, count> x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

namespace detail {

template <class To, class From>
[[gnu::always_inline]] inline To same_bits(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &x, sizeof result);
  return result;
}

template <class T, int half, int... i>
[[gnu::always_inline]] inline Native<T, 2 * half> join(Native<T, half> a, Native<T, half> b,
                                                       std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, i...);
}

template <class T, int count, int first, int... i>
[[gnu::always_inline]] inline Native<T, count / 2> half_from(Native<T, count> x, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(x, x, (first + i)...);
}

}  // namespace detail

// a and b side by side.
template <class T, int half>
[[gnu::always_inline]] inline Native<T, 2 * half> join(Native<T, half> a, Native<T, half> b) {
  return detail::join<T, half>(a, b, std::make_integer_sequence<int, 2 * half>{});
}

// The lanes folded in halves by op: always in the same order.
template <class T, int count, class Op>
[[gnu::always_inline]] inline T fold(Native<T, count> x, Op op) {
  if constexpr (count == 2) {
    return op(T(x[0]), T(x[1]));
  } else {
    const auto each = std::make_integer_sequence<int, count / 2>{};
    return fold<T, count / 2>(
        op(detail::half_from<T, count, 0>(x, each), detail::half_from<T, count, count / 2>(x, each)), op);
  }
}

namespace detail {

// In each run of 2 width lanes: the first `width` lanes of a and the last of b, where they are.
template <class T, int count, int width, int... i>
[[gnu::always_inline]] inline Native<T, count> outer_halves(Native<T, count> a, Native<T, count> b,
                                                            std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, (i % (2 * width) < width ? i : i + count)...);
}

// In each run of 2 width lanes: the last `width` lanes of a, then the first of b.
template <class T, int count, int width, int... i>
[[gnu::always_inline]] inline Native<T, count> inner_halves(Native<T, count> a, Native<T, count> b,
                                                            std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, (i % (2 * width) < width ? i + width : i - width + count)...);
}

// A lane is added to one `width` lanes away; the one of the two shuffles that moves nothing is a blend.
template <class T, int count, int width>
[[gnu::always_inline]] inline void fold_each(Native<T, count>* x) {
  const auto each = std::make_integer_sequence<int, count>{};
#pragma GCC unroll 8
  for (int i = 0; i < width; ++i)
    x[i] = outer_halves<T, count, width>(x[i], x[i + width], each) +
           inner_halves<T, count, width>(x[i], x[i + width], each);
  if constexpr (width > 1) fold_each<T, count, width / 2>(x);
}

}  // namespace detail

// Lane i of the result is the sum of the lanes of x[i], for as many vectors as a vector has lanes; x is used up.
template <class T, int count>
[[gnu::always_inline]] inline Native<T, count> sum_each(Native<T, count>* x) {
#if defined(__aarch64__)
  if constexpr (std::is_same_v<T, float> && count == 4)
    return vpaddq_f32(vpaddq_f32(x[0], x[1]), vpaddq_f32(x[2], x[3]));
  if constexpr (std::is_same_v<T, double> && count == 2) return vpaddq_f64(x[0], x[1]);
#endif
  detail::fold_each<T, count, count / 2>(x);
  return x[0];
}

}  // namespace fovea::inline FOVEA_ISA::simd

// fovea/simd/ops.hpp

// The vector type of the compiled instruction set and the few operations the kernels need. Whatever xsimd renamed
// between 8.1 and 14, and whatever it leaves to the compiler's good will, is settled here and nowhere else.

// g++ 12 takes the deliberately undefined operands inside its own 512-bit intrinsics for a mistake (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace fovea::inline FOVEA_ISA::simd {

template <class T>
using Pack = xsimd::batch<T>;

template <class T>
inline constexpr Index lanes = Index(Pack<T>::size);

template <class T>
inline constexpr T infinity = std::numeric_limits<T>::infinity();

// Architectural vector registers: what the register tiles are sized for.
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int registers = 32;
#else
inline constexpr int registers = 16;
#endif

// n rounded up to whole vectors.
template <class T>
constexpr Index whole(Index n) {
  return (n + lanes<T> - 1) / lanes<T> * lanes<T>;
}

template <class T>
[[gnu::always_inline]] inline Pack<T> load(const T* p) {
  return Pack<T>::load_unaligned(p);
}

// x, loaded once: without this a compiler may read it from memory again for each of its uses.
template <class T>
[[gnu::always_inline]] inline Pack<T> in_register(Pack<T> x) {
#if defined(__x86_64__)
  asm("" : "+v"(x.data));
#elif defined(__aarch64__)
  asm("" : "+w"(x.data));
#endif
  return x;
}

template <class T>
[[gnu::always_inline]] inline void store(T* p, Pack<T> x) {
  x.store_unaligned(p);
}

namespace detail {

template <class T>
[[gnu::always_inline]] inline Native<T, int(lanes<T>)> native(Pack<T> x) {
  return same_bits<Native<T, int(lanes<T>)>>(x);
}

}  // namespace detail

// a b + c in one rounding wherever the instruction set has it. (xsimd 8.1 spells it as two operations for AVX-512,
// which only some compilers contract.)
template <class T>
[[gnu::always_inline]] inline Pack<T> fma(Pack<T> a, Pack<T> b, Pack<T> c) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float> && lanes<T> == 16) {
    return Pack<T>(_mm512_fmadd_ps(a, b, c));
  } else if constexpr (std::is_same_v<T, double> && lanes<T> == 8) {
    return Pack<T>(_mm512_fmadd_pd(a, b, c));
  } else {
    return xsimd::fma(a, b, c);
  }
#else
  return xsimd::fma(a, b, c);
#endif
}

// a / b, rounded once. (xsimd 8.1 estimates quotients of floats for NEON.)
template <class T>
[[gnu::always_inline]] inline Pack<T> divide(Pack<T> a, Pack<T> b) {
#if defined(__aarch64__)
  if constexpr (std::is_same_v<T, float> && lanes<T> == 4) return Pack<T>(vdivq_f32(a, b));
#endif
  return a / b;
}

// The larger lanes; unspecified where a lane is NaN.
template <class T>
[[gnu::always_inline]] inline Pack<T> max(Pack<T> a, Pack<T> b) {
  return xsimd::max(a, b);
}

// Whether a comparison holds in some lane.
template <class Lanes>
[[gnu::always_inline]] inline bool any(const Lanes& holds) {
  return xsimd::any(holds);
}

#if defined(__SSE2__)
namespace detail {

// x86 returns the second operand when either is NaN. (xsimd gives its operands on as they come up to version 8.1, and
// the other way round in version 14.)
[[gnu::always_inline]] inline __m128 max_or_second(__m128 a, __m128 b) { return _mm_max_ps(a, b); }
[[gnu::always_inline]] inline __m128 min_or_second(__m128 a, __m128 b) { return _mm_min_ps(a, b); }
[[gnu::always_inline]] inline __m128d max_or_second(__m128d a, __m128d b) { return _mm_max_pd(a, b); }
[[gnu::always_inline]] inline __m128d min_or_second(__m128d a, __m128d b) { return _mm_min_pd(a, b); }
#if defined(__AVX__)
[[gnu::always_inline]] inline __m256 max_or_second(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
[[gnu::always_inline]] inline __m256 min_or_second(__m256 a, __m256 b) { return _mm256_min_ps(a, b); }
[[gnu::always_inline]] inline __m256d max_or_second(__m256d a, __m256d b) { return _mm256_max_pd(a, b); }
[[gnu::always_inline]] inline __m256d min_or_second(__m256d a, __m256d b) { return _mm256_min_pd(a, b); }
#endif
#if defined(__AVX512F__)
[[gnu::always_inline]] inline __m512 max_or_second(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
[[gnu::always_inline]] inline __m512 min_or_second(__m512 a, __m512 b) { return _mm512_min_ps(a, b); }
[[gnu::always_inline]] inline __m512d max_or_second(__m512d a, __m512d b) { return _mm512_max_pd(a, b); }
[[gnu::always_inline]] inline __m512d min_or_second(__m512d a, __m512d b) { return _mm512_min_pd(a, b); }
#endif

}  // namespace detail
#endif

// max(floor, x) lane by lane: NaN where x is NaN, x where the floor is.
template <class T>
[[gnu::always_inline]] inline Pack<T> at_least(Pack<T> floor, Pack<T> x) {
#if defined(__SSE2__)
  using Register = typename Pack<T>::register_type;
  return Pack<T>(detail::max_or_second(Register(floor), Register(x)));
#else
  return xsimd::select(x < floor, floor, x);
#endif
}

// min(ceiling, x) lane by lane: NaN where x is NaN, x where the ceiling is.
template <class T>
[[gnu::always_inline]] inline Pack<T> at_most(Pack<T> ceiling, Pack<T> x) {
#if defined(__SSE2__)
  using Register = typename Pack<T>::register_type;
  return Pack<T>(detail::min_or_second(Register(ceiling), Register(x)));
#else
  return xsimd::select(x > ceiling, ceiling, x);
#endif
}

// Sum of the lanes, always in the same order.
template <class T>
[[gnu::always_inline]] inline T sum_of_lanes(Pack<T> x) {
#if defined(__aarch64__)
  if constexpr (std::is_same_v<T, float> && lanes<T> == 4) return vaddvq_f32(x);
  if constexpr (std::is_same_v<T, double> && lanes<T> == 2) return vaddvq_f64(x);
#endif
  return fold<T, int(lanes<T>)>(detail::native(x), [](auto a, auto b) { return a + b; });
}

// Largest lane; unspecified when a lane is NaN.
template <class T>
[[gnu::always_inline]] inline T max_of_lanes(Pack<T> x) {
#if defined(__aarch64__)
  if constexpr (std::is_same_v<T, float> && lanes<T> == 4) return vmaxvq_f32(x);
  if constexpr (std::is_same_v<T, double> && lanes<T> == 2) return vmaxvq_f64(x);
#endif
  return fold<T, int(lanes<T>)>(detail::native(x), [](auto a, auto b) { return a > b ? a : b; });
}

// The integer of the same width.
template <class T>
using Bits = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;

template <class T>
[[gnu::always_inline]] inline Pack<Bits<T>> as_bits(Pack<T> x) {
  return detail::same_bits<Pack<Bits<T>>>(x);
}

template <class T>
[[gnu::always_inline]] inline Pack<T> from_bits(Pack<Bits<T>> x) {
  return detail::same_bits<Pack<T>>(x);
}

// x shifted left by n bits.
template <int n, class I>
[[gnu::always_inline]] inline Pack<I> shift_left(Pack<I> x) {
  return x << n;
}

// The lanes of x whose bit is set in `bits` (lane 0 is bit 0), `rest` in the others.
template <class T>
[[gnu::always_inline]] inline Pack<T> keep_bits(std::uint64_t bits, Pack<T> x, Pack<T> rest) {
  alignas(64) Bits<T> lane[std::size_t(lanes<T>)];
  for (Index i = 0; i < lanes<T>; ++i) lane[i] = Bits<T>(1) << i;
  const auto hit = (Pack<Bits<T>>(static_cast<Bits<T>>(bits)) & load(lane)) != Pack<Bits<T>>(Bits<T>(0));
#if XSIMD_VERSION_MAJOR >= 10
  return xsimd::select(xsimd::batch_bool_cast<T>(hit), x, rest);
#else
  return xsimd::select(xsimd::bool_cast(hit), x, rest);
#endif
}

// 0, 1, 2, ... in the lanes.
template <class T>
[[gnu::always_inline]] inline Pack<T> ramp() {
  alignas(64) T lane[std::size_t(lanes<T>)];
  for (Index i = 0; i < lanes<T>; ++i) lane[i] = T(i);
  return load(lane);
}

namespace detail {

// Whether the instruction set moves some lanes of a vector of T by a mask.
template <class T>
inline constexpr bool masks_lanes =
#if defined(__AVX512F__)
    std::is_floating_point_v<T> && sizeof(Pack<T>) == 64;
#elif defined(__AVX__)
    std::is_floating_point_v<T> && sizeof(Pack<T>) == 32;
#else
    false;
#endif

#if defined(__AVX512F__)
[[gnu::always_inline]] inline __m512 load_lanes(const float* p, Index n, __m512 rest) {
  return _mm512_mask_loadu_ps(rest, __mmask16((1u << n) - 1), p);
}
[[gnu::always_inline]] inline __m512d load_lanes(const double* p, Index n, __m512d rest) {
  return _mm512_mask_loadu_pd(rest, __mmask8((1u << n) - 1), p);
}
[[gnu::always_inline]] inline void store_lanes(float* p, Index n, __m512 x) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), x);
}
[[gnu::always_inline]] inline void store_lanes(double* p, Index n, __m512d x) {
  _mm512_mask_storeu_pd(p, __mmask8((1u << n) - 1), x);
}
#elif defined(__AVX__)
// n lanes of `width` bytes are ones from 32 - n width on.
alignas(32) inline constexpr signed char lane_masks[64] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                                           -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                                           -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
[[gnu::always_inline]] inline __m256i lane_mask(Index bytes) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(lane_masks + 32 - bytes));
}
[[gnu::always_inline]] inline __m256 load_lanes(const float* p, Index n, __m256 rest) {
  const __m256i mask = lane_mask(4 * n);
  return _mm256_blendv_ps(rest, _mm256_maskload_ps(p, mask), _mm256_castsi256_ps(mask));
}
[[gnu::always_inline]] inline __m256d load_lanes(const double* p, Index n, __m256d rest) {
  const __m256i mask = lane_mask(8 * n);
  return _mm256_blendv_pd(rest, _mm256_maskload_pd(p, mask), _mm256_castsi256_pd(mask));
}
[[gnu::always_inline]] inline void store_lanes(float* p, Index n, __m256 x) {
  _mm256_maskstore_ps(p, lane_mask(4 * n), x);
}
[[gnu::always_inline]] inline void store_lanes(double* p, Index n, __m256d x) {
  _mm256_maskstore_pd(p, lane_mask(8 * n), x);
}
#else
template <class T>
Pack<T> load_lanes(const T* p, Index n, Pack<T> rest);  // not there
template <class T>
void store_lanes(T* p, Index n, Pack<T> x);
#endif

}  // namespace detail

// The first n (less than a vector) elements at p, `rest` in the other lanes; memory behind them is not read.
template <class T>
[[gnu::always_inline]] inline Pack<T> load_some(const T* p, Index n, T rest = T(0)) {
  if constexpr (detail::masks_lanes<T>) {
    return Pack<T>(detail::load_lanes(p, n, Pack<T>(rest)));
  } else {
    alignas(64) T lane[std::size_t(lanes<T>)];
    for (Index i = 0; i < lanes<T>; ++i) lane[i] = i < n ? p[i] : rest;
    return load(lane);
  }
}

// Stores the first n (less than a vector) lanes; memory behind them is not written.
template <class T>
[[gnu::always_inline]] inline void store_some(T* p, Pack<T> x, Index n) {
  if constexpr (detail::masks_lanes<T>) {
    detail::store_lanes(p, n, x);
  } else {
    alignas(64) T lane[std::size_t(lanes<T>)];
    store(lane, x);
    for (Index i = 0; i < n; ++i) p[i] = lane[i];
  }
}

// What a kernel does about memory that it will want later: nothing, or ask for what lies so many elements further on.
struct AskNothing {
  template <class S>
  [[gnu::always_inline]] void operator()(const S*) const {}
};
struct AskFor {
  Index elements = 0;

  template <class S>
  [[gnu::always_inline]] void operator()(const S* p) const {
    __builtin_prefetch(p + elements);
  }
};

}  // namespace fovea::inline FOVEA_ISA::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

// fovea/simd/math.hpp

// Functions of a vector: powers of two and the hyperbolic tangent. Nothing from libm.

namespace fovea::inline FOVEA_ISA::simd {

inline constexpr long double log2_e = 1.442695040888963407359924681001892137L;

namespace detail {

// Adding `magic` rounds x to an integer n and leaves n + bias in the low bits, so that a shift makes the float 2^n.
template <class T>
struct Exponent;
template <>
struct Exponent<float> {
  static constexpr float magic = 12582912.f + 127.f;  // 1.5 x 2^23 + bias
  static constexpr int mantissa_bits = 23;
  static constexpr float floor = -127.f;  // n + bias = 0: the power is exactly zero
  static constexpr float ceiling = 127.f;
};
template <>
struct Exponent<double> {
  static constexpr double magic = 6755399441055744. + 1023.;  // 1.5 x 2^52 + bias
  static constexpr int mantissa_bits = 52;
  static constexpr double floor = -1023.;
  static constexpr double ceiling = 1023.;
};

template <class T>
struct Power {
  Pack<T> scale;     // 2^n
  Pack<T> fraction;  // f in [-1/2, 1/2]
};

// unit x = n + f, the product unrounded.
template <class T>
[[gnu::always_inline]] inline Power<T> split_power(Pack<T> x, Pack<T> unit) {
  const Pack<T> magic(Exponent<T>::magic);
  const Pack<T> shifted = fma(x, unit, magic);
  return {from_bits<T>(shift_left<Exponent<T>::mantissa_bits, Bits<T>>(as_bits<T>(shifted))),
          fma(x, unit, magic - shifted)};
}

// q(f) near (2^f - 1) / f on [-1/2, 1/2] (Remez), to a relative 1.1e-8 (float) or 2.4e-19 (double), so that both
// 1 + f q(f) and, near zero, f q(f) are right to the last place.
[[gnu::always_inline]] inline Pack<float> power_slope(Pack<float> f) {
  Pack<float> q(0.00015403517991626400059f);
  q = fma(q, f, Pack<float>(0.001339073542099666024f));
  q = fma(q, f, Pack<float>(0.0096182374785684626034f));
  q = fma(q, f, Pack<float>(0.055503574338408495636f));
  q = fma(q, f, Pack<float>(0.24022649795026923547f));
  return fma(q, f, Pack<float>(0.69314718792661489388f));
}

[[gnu::always_inline]] inline Pack<double> power_slope(Pack<double> f) {
  Pack<double> q(2.5678414782904213772e-11);
  q = fma(q, f, Pack<double>(4.4558046505305198259e-10));
  q = fma(q, f, Pack<double>(7.0549322792208111452e-09));
  q = fma(q, f, Pack<double>(1.0178057170526063122e-07));
  q = fma(q, f, Pack<double>(1.3215486721345803256e-06));
  q = fma(q, f, Pack<double>(1.5252733841375877574e-05));
  q = fma(q, f, Pack<double>(0.00015403530393466173835));
  q = fma(q, f, Pack<double>(0.0013333558146406631305));
  q = fma(q, f, Pack<double>(0.0096181291076284369801));
  q = fma(q, f, Pack<double>(0.055504108664821624752));
  q = fma(q, f, Pack<double>(0.24022650695910072183));
  return fma(q, f, Pack<double>(0.69314718055994528623));
}

}  // namespace detail

// A positive number of powers of two in one unit of a score, ready for exp2_weight.
template <class T>
struct PowerUnit {
  T unit;
  T rest;    // what rounding took from unit: it would tilt all weights of a row alike
  T lowest;  // the score whose weight is zero, as is that of every lower one

  explicit PowerUnit(long double powers)
      : unit(T(powers)), rest(T(powers - (long double)(unit))), lowest(detail::Exponent<T>::floor / unit) {}
};

// 2^(unit x) for unit x <= 127 (float) or 1023 (double): the weight of a score x. Within one ulp (without fused
// multiply-add 1.2, and of the rounded product); 2^0 is exactly 1; exactly 0 from half a unit below the smallest normal
// exponent down to -infinity; NaN stays NaN.
template <class T>
[[gnu::always_inline]] inline Pack<T> exp2_weight(Pack<T> x, const PowerUnit<T>& unit) {
  const Pack<T> bounded = at_least(Pack<T>(unit.lowest), x);
  auto [scale, f] = detail::split_power<T>(bounded, Pack<T>(unit.unit));
  if constexpr (std::is_same_v<T, double>) f = fma(bounded, Pack<T>(unit.rest), f);  // in float not worth its time
  return fma(detail::power_slope(f), f, Pack<T>(1)) * scale;
}

// tanh x, within 4 ulp; saturates at +-1 and keeps NaN.
template <class T>
[[gnu::always_inline]] inline Pack<T> tanh(Pack<T> x) {
  // With z = e^(2|x|) - 1, tanh |x| = z / (z + 2). z comes from 2^n (2^f - 1) + (2^n - 1): no cancellation near zero.
  const Pack<T> size = xsimd::abs(x);
  const auto [scale, f] = detail::split_power<T>(at_most(Pack<T>(T(22)), size), Pack<T>(T(2 * log2_e)));
  const Pack<T> z = fma(detail::power_slope(f) * f, scale, scale - Pack<T>(1));
  const Pack<T> t = divide<T>(z, z + Pack<T>(2));
  return xsimd::copysign(t, x);
}

}  // namespace fovea::inline FOVEA_ISA::simd

// fovea/simd/widen.hpp

// Vectors of numbers that are stored narrower than they are computed with: bfloat16 and half, widened on the way in.

namespace fovea::inline FOVEA_ISA::simd {

namespace detail {

// The numbers in 32 bits. (g++ 12 would go through halves for 512 bits, and take the lanes apart for NEON.)
template <int count>
[[gnu::always_inline]] inline Native<std::uint32_t, count> wide_of(Native<std::uint16_t, count> x) {
#if defined(__AVX512F__)
  if constexpr (count == 16)
    return same_bits<Native<std::uint32_t, 16>>(_mm512_maskz_cvtepu16_epi32(__mmask16(-1), same_bits<__m256i>(x)));
#endif
#if defined(__aarch64__)
  if constexpr (count == 4) return same_bits<Native<std::uint32_t, 4>>(vmovl_u16(same_bits<uint16x4_t>(x)));
#endif
  return __builtin_convertvector(x, Native<std::uint32_t, count>);
}

template <int count>
[[gnu::always_inline]] inline Native<float, count> float_of(Native<std::uint16_t, count> x, Eigen::bfloat16) {
  return same_bits<Native<float, count>>(wide_of<count>(x) << 16);
}

template <int count>
[[gnu::always_inline]] inline Native<float, count> float_of(Native<std::uint16_t, count> x, Eigen::half) {
#if defined(__AVX512F__)
  if constexpr (count == 16)
    return same_bits<Native<float, 16>>(_mm512_maskz_cvtph_ps(__mmask16(-1), same_bits<__m256i>(x)));
#endif
#if defined(__F16C__)
  if constexpr (count == 8) return same_bits<Native<float, 8>>(_mm256_cvtph_ps(same_bits<__m128i>(x)));
#endif
#if defined(__aarch64__)
  if constexpr (count == 4) return vcvt_f32_f16(same_bits<float16x4_t>(x));
  if constexpr (count == 2) {
    const auto four = vreinterpret_f16_u32(vdup_n_u32(same_bits<std::uint32_t>(x)));
    return same_bits<Native<float, 2>>(vget_low_f32(vcvt_f32_f16(four)));
  }
#endif
  // The exponent and the significand at their places in a float, whose exponent is then 112 too small.
  using Wide = Native<std::uint32_t, count>;
  const Wide wide = wide_of<count>(x), magnitude = wide & 0x7fff;
  const Native<float, count> scaled = same_bits<Native<float, count>>(magnitude << 13) * 0x1p112f;
  const Wide special = same_bits<Wide>(magnitude >= 0x7c00) & 0x7f800000;  // infinities and NaN
  return same_bits<Native<float, count>>(same_bits<Wide>(scaled) | special | (wide & 0x8000) << 16);
}

template <class T, int count>
[[gnu::always_inline]] inline Pack<T> pack_of(Native<float, count> x) {
  if constexpr (std::is_same_v<T, float>) {
    return same_bits<Pack<float>>(x);
  } else {
#if defined(__aarch64__)
    if constexpr (count == 2) return Pack<T>(vcvt_f64_f32(same_bits<float32x2_t>(x)));
#endif
    return same_bits<Pack<T>>(__builtin_convertvector(x, Native<T, count>));
  }
}

}  // namespace detail

// The vector of T at p, where it is stored as S.
template <class T, class S>
[[gnu::always_inline]] inline Pack<T> load_as(const S* p) {
  if constexpr (std::is_same_v<T, S>) {
    return load(p);
  } else if constexpr (std::is_same_v<S, float>) {
    return detail::pack_of<T, int(lanes<T>)>(native_load<float, int(lanes<T>)>(p));
  } else if constexpr (std::is_floating_point_v<S>) {
    constexpr int count = int(lanes<T>);
    return detail::same_bits<Pack<T>>(__builtin_convertvector(native_load<S, count>(p), Native<T, count>));
  } else {
    constexpr int count = int(lanes<T>);
    Native<std::uint16_t, count> raw;
    std::memcpy(&raw, p, sizeof raw);
    return detail::pack_of<T, count>(detail::float_of<count>(raw, S()));
  }
}

// Its first n lanes (less than a vector), zero in the others; memory behind them is not read.
template <class T, class S>
[[gnu::always_inline]] inline Pack<T> load_some_as(const S* p, Index n) {
  if constexpr (std::is_same_v<T, S>) {
    return load_some(p, n);
  } else {
    S lane[std::size_t(lanes<T>)] = {};
    std::memcpy(lane, p, std::size_t(n) * sizeof(S));
    return load_as<T>(lane);
  }
}

// to[j] = from[j]
template <class T, class S>
inline void copy_as(T* to, const S* from, Index n) {
  Index j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) store(to + j, load_as<T>(from + j));
  for (; j < n; ++j) to[j] = static_cast<T>(from[j]);
}

}  // namespace fovea::inline FOVEA_ISA::simd

// fovea/simd/row.hpp

// Functions of a row in memory, any length and alignment; nothing behind the row is read or written.

namespace fovea::inline FOVEA_ISA::simd {

// x[j] = f(x[j], j) for vectors of x; j is the index of the first lane.
template <class T, class F>
[[gnu::always_inline]] inline void transform(T* x, Index n, F&& f) {
  if (n < lanes<T>) {
    if (n > 0) store_some(x, f(load_some(x, n), Index{0}), n);
    return;
  }
  // The last vector overlaps the one before it, so it is computed from what was there.
  const Pack<T> last = f(load(x + n - lanes<T>), n - lanes<T>);
  for (Index j = 0; j + lanes<T> < n; j += lanes<T>) store(x + j, f(load(x + j), j));
  store(x + n - lanes<T>, last);
}

// x[j] = f(x[j], y[j])
template <class T, class F>
[[gnu::always_inline]] inline void combine(T* x, const T* y, Index n, F&& f) {
  if (n < lanes<T>) {
    if (n > 0) store_some(x, f(load_some(x, n), load_some(y, n)), n);
    return;
  }
  const Pack<T> last = f(load(x + n - lanes<T>), load(y + n - lanes<T>));
  for (Index j = 0; j + lanes<T> < n; j += lanes<T>) store(x + j, f(load(x + j), load(y + j)));
  store(x + n - lanes<T>, last);
}

// x[j] *= factor
template <class T>
inline void scale(T* x, Index n, T factor) {
  transform(x, n, [factor](Pack<T> v, Index) { return v * Pack<T>(factor); });
}

// x[j] += value
template <class T>
inline void shift(T* x, Index n, T value) {
  transform(x, n, [value](Pack<T> v, Index) { return v + Pack<T>(value); });
}

// x[j] += y[j]
template <class T>
inline void add(T* x, const T* y, Index n) {
  combine(x, y, n, [](Pack<T> a, Pack<T> b) { return a + b; });
}

// x[j] += factor y[j]
template <class T>
inline void add_scaled(T* x, T factor, const T* y, Index n) {
  combine(x, y, n, [factor](Pack<T> a, Pack<T> b) { return fma(Pack<T>(factor), b, a); });
}

// x[j] += slope |center - j|
template <class T>
inline void add_distance(T* x, Index n, T slope, T center) {
  const Pack<T> step = ramp<T>();
  transform(x, n,
            [=](Pack<T> v, Index j) { return fma(Pack<T>(slope), xsimd::abs(Pack<T>(center - T(j)) - step), v); });
}

// x[j] = cap tanh(x[j] / cap)
template <class T>
inline void soft_cap(T* x, Index n, T cap) {
  const T inverse = T(1) / cap;
  transform(x, n, [=](Pack<T> v, Index) { return Pack<T>(cap) * tanh(v * Pack<T>(inverse)); });
}

// to[j] = from[j]
template <class T>
inline void copy(T* to, const T* from, Index n) {
  Index j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) store(to + j, load(from + j));
  for (; j < n; ++j) to[j] = from[j];
}

// to[j] = from[j] factor; to and from may be the same.
template <class T>
inline void copy_scaled(T* to, const T* from, Index n, T factor) {
  Index j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) store(to + j, load(from + j) * Pack<T>(factor));
  for (; j < n; ++j) to[j] = from[j] * factor;
}

// to[j] = from[j] / divisor
template <class T>
inline void copy_divided(T* to, const T* from, Index n, T divisor) {
  Index j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) store(to + j, divide<T>(load(from + j), Pack<T>(divisor)));
  for (; j < n; ++j) to[j] = from[j] / divisor;
}

// x[j] = -infinity where bit j of `seen` is clear; n is at most 64.
template <class T>
inline void hide(T* x, Index n, std::uint64_t seen) {
  const Pack<T> hidden(-infinity<T>);
  transform(x, n, [=](Pack<T> v, Index j) { return keep_bits(seen >> j, v, hidden); });
}

// Whether every element is a finite number.
template <class S>
inline bool all_finite(const S* x, Index n) {
  using T = std::conditional_t<std::is_same_v<S, double>, double, float>;
  // The sums stay zero unless an infinity or NaN, times zero, joins them.
  Pack<T> none[4] = {Pack<T>(T(0)), Pack<T>(T(0)), Pack<T>(T(0)), Pack<T>(T(0))};
  Index j = 0;
  for (; j + 4 * lanes<T> <= n; j += 4 * lanes<T>) {
    for (Index i = 0; i < 4; ++i) none[i] = fma(load_as<T>(x + j + i * lanes<T>), Pack<T>(T(0)), none[i]);
  }
  for (; j + lanes<T> <= n; j += lanes<T>) none[0] = fma(load_as<T>(x + j), Pack<T>(T(0)), none[0]);
  if (j < n) none[1] = fma(load_some_as<T>(x + j, n - j), Pack<T>(T(0)), none[1]);
  return sum_of_lanes<T>((none[0] + none[1]) + (none[2] + none[3])) == T(0);
}

}  // namespace fovea::inline FOVEA_ISA::simd

// fovea/simd/tile.hpp

// The register kernel: products of small row-major matrices with all sums kept in registers.
//
//   C [rows x columns]  =  A [rows x depth] B [depth x columns]   (or C + A B, or s C + A B)
//
// An element of A is broadcast from memory and meets a row of B in vectors. Every element of a product is one chain of
// fused multiply-adds over depth in ascending order, added to what C held at the end: short chains keep rounding errors
// small, and a result does not depend on how rows and columns are cut into tiles.

namespace fovea::inline FOVEA_ISA::simd {

// Rows and vectors of the largest register tile: the sums, one row of B and one broadcast fit the register file.
inline constexpr int tile_rows = 6;
inline constexpr int tile_vectors = registers >= 32 ? 4 : 2;

// rows rounded up to whole register tiles.
constexpr Index whole_rows(Index rows) { return (rows + tile_rows - 1) / tile_rows * tile_rows; }

// What becomes of what C held: it is replaced by the product, the product is added, or it is shrunk first.
enum class Onto { nothing, sum, shrunk_sum };

namespace detail {

template <int rows, int vectors, class T, class S, class Later>
inline void register_tile(Onto onto, Index depth, const T* a, Index lda, const S* b, Index ldb, T* c, Index ldc,
                          const T* shrink, Later later) {
  Pack<T> sum[rows][vectors];
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < vectors; ++j) sum[i][j] = Pack<T>(T(0));
  }
#pragma GCC unroll 4
  for (Index k = 0; k < depth; ++k) {
    Pack<T> row[vectors];
#pragma GCC unroll 16
    for (int j = 0; j < vectors; ++j) {
      row[j] = load_as<T>(b + k * ldb + j * lanes<T>);
      later(b + k * ldb + j * lanes<T>);
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
      const Pack<T> x(a[i * lda + k]);
#pragma GCC unroll 16
      for (int j = 0; j < vectors; ++j) sum[i][j] = fma(x, row[j], sum[i][j]);
    }
  }
  const auto finish = [&](auto&& of) __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 16
      for (int j = 0; j < vectors; ++j) {
        T* const at = c + i * ldc + j * lanes<T>;
        store(at, of(at, i, sum[i][j]));
      }
    }
  };
  if (onto == Onto::nothing) {
    finish([](const T*, int, Pack<T> x) __attribute__((always_inline)) { return x; });
  } else {  // a factor of one changes no bit
    finish([&](const T* at, int i, Pack<T> x) __attribute__((always_inline)) {
      return fma(load(at), Pack<T>(onto == Onto::sum ? T(1) : shrink[i]), x);
    });
  }
}

}  // namespace detail

// One band of `rows` rows; columns is a whole number of vectors; B is stored as S. shrink (rows numbers) is read for
// Onto::shrunk_sum alone.
template <int rows, class T, class S, class Later = AskNothing>
inline void multiply_rows(Onto onto, Index columns, Index depth, const T* a, Index lda, const S* b, Index ldb, T* c,
                          Index ldc, const T* shrink = nullptr, Later later = {}) {
  constexpr Index most = tile_vectors * lanes<T>;
  Index j = 0;
  if constexpr (rows <= 2) {  // more sums: the machine need not wait for one, and B is read in order
    for (; j + 2 * most <= columns; j += 2 * most)
      detail::register_tile<rows, 2 * tile_vectors>(onto, depth, a, lda, b + j, ldb, c + j, ldc, shrink, later);
  }
  for (; j + most <= columns; j += most)
    detail::register_tile<rows, tile_vectors>(onto, depth, a, lda, b + j, ldb, c + j, ldc, shrink, later);
  if constexpr (tile_vectors > 2) {
    if (j + 2 * lanes<T> <= columns) {
      detail::register_tile<rows, 2>(onto, depth, a, lda, b + j, ldb, c + j, ldc, shrink, later);
      j += 2 * lanes<T>;
    }
  }
  if (j < columns) detail::register_tile<rows, 1>(onto, depth, a, lda, b + j, ldb, c + j, ldc, shrink, later);
}
template <int rows, Onto onto, class T, class S, class Later = AskNothing>
inline void multiply_rows(Index columns, Index depth, const T* a, Index lda, const S* b, Index ldb, T* c, Index ldc,
                          const T* shrink = nullptr, Later later = {}) {
  multiply_rows<rows>(onto, columns, depth, a, lda, b, ldb, c, ldc, shrink, later);
}

}  // namespace fovea::inline FOVEA_ISA::simd

// fovea/parts/normalizer/softmax.hpp

// Online softmax over tiles of keys: the running state of some rows and what a tile of scores does to it.
// Milakov and Gimelshein 2018, arXiv:1805.02867; the tiled form of FlashAttention-2, Dao 2023, arXiv:2307.08691.
//
//   p_ij = exp(c (s_ij - r_i)),  l_i = sum_j p_ij,  o_i = sum_j p_ij v_j / l_i,  log_sum_i = c r_i + ln l_i
//
// c is what is left of the scale of the scores: it is applied inside the exponential, where it costs no rounding and no
// time. The reference r_i is the largest score of the first tile in which row i sees a key; it moves only when a score
// exceeds it by so much that p would pass 2^slack, which spares most tiles the rescaling of what was summed before.

namespace fovea::inline FOVEA_ISA::normalizer {

// The state of the rows of one tile; the memory is the engine's.
template <class T>
struct SoftmaxRows {
  static constexpr double slack = 8;

  simd::PowerUnit<T> unit;  // c in powers of two: p = 2^(unit (s - r))
  T* reference;             // [rows] r_i; 0 before the first key
  T* limit;                 // [rows] the score whose weight is 2^slack; -infinity before the first key
  T* shrink;                // [rows] what the last tile multiplies earlier sums with
  T* sum;                   // [rows x lanes] l_i spread over the lanes

  static constexpr Index size(Index rows) { return simd::whole<T>(rows) * 3 + rows * simd::lanes<T>; }

  SoftmaxRows(const simd::PowerUnit<T>& power_unit, T* memory, Index rows)
      : unit(power_unit),
        reference(memory),
        limit(memory + simd::whole<T>(rows)),
        shrink(memory + 2 * simd::whole<T>(rows)),
        sum(memory + 3 * simd::whole<T>(rows)) {}

  void begin(Index rows) {
    for (Index i = 0; i < rows; ++i) {
      reference[i] = T(0);
      limit[i] = -simd::infinity<T>;
    }
    for (Index i = 0; i < rows * simd::lanes<T>; ++i) sum[i] = T(0);
  }

  // Turns the scores of `rows` rows from row `first` on into weights, in place; columns is a whole number of vectors.
  // Either may be a constant. True when a reference moved: what was summed before must then be multiplied by shrink.
  template <class Rows, class Columns>
  bool absorb(Index first, Rows rows, T* scores, Index stride, Columns columns) {
    using simd::Pack;
    constexpr Index step = simd::lanes<T>;
    auto over = Pack<T>(T(0)) > Pack<T>(T(0));
    for (Index i = 0; i < rows; ++i) {
      const T* row = scores + i * stride;
      Pack<T> top = simd::load(row);
      for (Index j = step; j < columns; j += step) top = simd::max(top, simd::load(row + j));
      over = over | (top > Pack<T>(limit[first + i]));
    }
    const bool moved = simd::any(over);
    if (moved) [[unlikely]]
      move_references(first, rows, scores, stride, columns);
    for (Index i = 0; i < rows; ++i) {
      T* row = scores + i * stride;
      const Pack<T> r(reference[first + i]);
      Pack<T> total = simd::load(sum + (first + i) * step);
      for (Index j = 0; j < columns; j += step) {
        const Pack<T> p = simd::exp2_weight(simd::load(row + j) - r, unit);
        total = total + p;
        simd::store(row + j, p);
      }
      simd::store(sum + (first + i) * step, total);
    }
    return moved;
  }

  // l_i, the sum of the weights of row i; zero when it saw no key.
  T total(Index i) const { return simd::sum_of_lanes(simd::load(sum + i * simd::lanes<T>)); }

 private:
  [[gnu::noinline]] void move_references(Index first, Index rows, const T* scores, Index stride, Index columns) {
    for (Index i = 0; i < rows; ++i) {
      const Index at = first + i;
      simd::Pack<T> top = simd::load(scores + i * stride);
      for (Index j = simd::lanes<T>; j < columns; j += simd::lanes<T>)
        top = simd::max(top, simd::load(scores + i * stride + j));
      const T most = simd::max_of_lanes(top);
      if (!(most > limit[at])) {
        shrink[at] = T(1);
        continue;
      }
      const bool begun = limit[at] > -simd::infinity<T>;
      shrink[at] = begun ? std::exp2(unit.unit * (reference[at] - most)) : T(1);
      simd::scale(sum + at * simd::lanes<T>, simd::lanes<T>, shrink[at]);
      reference[at] = most;
      limit[at] = most + T(slack) / unit.unit;
    }
  }
};

// ln sum_j exp(s_ij) from the sum of a row's weights and their reference in natural units.
template <class T>
T log_sum(T total, T reference) {
  return total == T(0) ? -simd::infinity<T> : reference + std::log(total);
}

// Scores as the engine computes them, (query q) . k, and what turns them into scale q . k. The power of two and the
// sign of the scale go into the query, which is exact; the rest, in [1/2, 1), is left for later.
template <class T>
struct SplitScale {
  T query;
  double rest;

  explicit SplitScale(double scale) : query(T(0)), rest(1) {
    if (scale == 0) return;
    int exponent = 0;
    rest = std::frexp(std::abs(scale), &exponent);
    query = T(std::copysign(std::ldexp(1.0, exponent), scale));
  }
};

// softmax as a value of a recipe: the scale of the scores and, when asked for, a learned logit per head that takes part
// in the denominator alone.
struct Softmax {
  std::optional<double> scale = {};      // 1 / sqrt(D) when empty
  std::vector<double> sink_logits = {};  // [H] or empty

  // The scale for keys of width `dim`.
  double scale_for(Index dim) const { return scale ? *scale : 1.0 / std::sqrt(double(dim)); }

  void check_for(const char* where, const Shape& shape) const {
    check(!scale || std::isfinite(*scale), where, "the scale must be finite, got ", scale.value_or(0.0));
    check(sink_logits.empty() || Index(sink_logits.size()) == shape.heads, where,
          "sink logits need one number for each head, wanted ", shape.heads, ", got ", sink_logits.size());
    for (const double logit : sink_logits)
      check(logit < HUGE_VAL, where, "sink logits must be finite or -infinity, got ", logit);
  }

  // What the sink of `head` adds to a sum of weights relative to exp(reference); zero without sinks.
  template <class T>
  T sink_weight(Index head, T reference) const {
    if (sink_logits.empty()) return T(0);
    return std::exp(T(sink_logits[std::size_t(head)]) - reference);
  }
};

}  // namespace fovea::inline FOVEA_ISA::normalizer

// fovea/parts/score/score.hpp

// What a score modifier is: a rule that changes the scaled scores of a row before the mask hides some of them.
//
// A score is a small value. `bind<T>(where, shape)` checks it against the shape of a call and gives the bound score,
//
//   void operator()(T* scores, Row row, Span keys)   scores[j] belongs to key keys.first + j; changed in place
//
// It may be asked about keys that the mask hides afterwards. Scores are in natural units: scale q . k.

namespace fovea::inline FOVEA_ISA::score {

template <class S, class T>
concept BoundScore = requires(const S& s, T* scores, Row row, Span keys) {
  s(scores, row, keys);
};

template <class S, class T = float>
concept Score = requires(const S& s, const char* where, const Shape& shape) {
  { s.template bind<T>(where, shape) } -> BoundScore<T>;
};

// Modifiers applied left to right.
template <class... Parts>
struct Chain {
  static constexpr bool empty = sizeof...(Parts) == 0;

  std::tuple<Parts...> parts;

  template <class T>
  auto bind(const char* where, const Shape& shape) const {
    return std::apply(
        [&](const auto&... part) {
          auto all = std::make_tuple(part.template bind<T>(where, shape)...);
          return [all = std::move(all)](T* scores, Row row, Span keys) {
            std::apply([&](const auto&... bound) { (bound(scores, row, keys), ...); }, all);
          };
        },
        parts);
  }

  template <class Next>
  Chain<Parts..., Next> then(const Next& next) const {
    return {std::tuple_cat(parts, std::make_tuple(next))};
  }
};

}  // namespace fovea::inline FOVEA_ISA::score

// fovea/engine/recipe.hpp

// A recipe: the equation of a method as a value. softmax(scale).mask(m).score(s) reads
//
//   o_i = sum_j softmax_j( s(scale q_i . k_j) ) v_j  over the keys j that m lets query i see

namespace fovea::inline FOVEA_ISA {

template <class Mask = mask::Everything, class Scores = score::Chain<>>
struct Recipe {
  normalizer::Softmax normalizer = {};
  Mask visible = {};
  Scores scores = {};
  bool tiles_only = false;

  // Hides keys; a second mask hides more.
  template <mask::Mask M>
  auto mask(const M& m) const {
    if constexpr (std::is_same_v<Mask, mask::Everything>) {
      return Recipe<M, Scores>{normalizer, m, scores, tiles_only};
    } else {
      return Recipe<mask::Both<Mask, M>, Scores>{normalizer, visible & m, scores, tiles_only};
    }
  }

  // Changes the scaled scores; several are applied left to right, before the mask.
  template <class S>
  auto score(const S& s) const {
    return Recipe<Mask, decltype(scores.then(s))>{normalizer, visible, scores.then(s), tiles_only};
  }

  // One learned logit per head, [H], that joins the denominator: exp(logit_h) + sum_j exp(s_ij).
  Recipe sink_logits(std::vector<double> logits) const {
    Recipe result = *this;
    result.normalizer.sink_logits = std::move(logits);
    return result;
  }

  // Takes the way of many queries for few as well. The two ways add up in different orders; with this a prompt that
  // goes into a cache in pieces gets the same bits however small the pieces are, at the price of speed for small ones.
  Recipe as_prefill() const {
    Recipe result = *this;
    result.tiles_only = true;
    return result;
  }
};

// Softmax over the visible keys of the scores scale q . k; scale is 1 / sqrt(D) when empty.
inline Recipe<> softmax(std::optional<double> scale = {}) { return {{scale, {}}, {}, {}, false}; }

}  // namespace fovea::inline FOVEA_ISA

// fovea/engine/rows.hpp

// The rows of a tile of queries: which query of which head a row is.

namespace fovea::inline FOVEA_ISA::engine {

// `group` query heads of one kv head are rows of the same tile, query by query: row r is query first + r / group of
// head first_head + r % group.
struct TileRows {
  Index batch = 0;
  Index kv_head = 0;
  Index first_head = 0;
  Index group = 1;
  Span queries;

  Index count() const { return queries.size() * group; }

  // Calls f(r, Row) for the rows [first, last) that there are.
  template <class F>
  void each(Index first, Index last, F&& f) const {
    const Index end = std::min(last, count());
    if (first >= end) return;
    Index query = queries.first + first / group, head = first % group;
    for (Index r = first; r < end; ++r) {
      f(r, Row{batch, first_head + head, query});
      if (++head == group) {
        head = 0;
        ++query;
      }
    }
  }

  // What rows [first, last) of the tile and `keys` cover; last is cut to the rows there are.
  mask::Region region(Index first, Index last, Span keys) const {
    const Index end = std::min(last, count());
    return {batch,
            {first_head, first_head + group},
            {queries.first + first / group, queries.first + (end - 1) / group + 1},
            keys};
  }
};

}  // namespace fovea::inline FOVEA_ISA::engine

// fovea/core/memory.hpp

// Memory that is aligned to cache lines. Much of it is asked for in large pages where the system has them (Linux, 2
// MiB): reading a long cache then walks far fewer page tables, which a quarter of the time of decoding can go into
// otherwise, and memory that is new is made hundreds of small pages at a time, both above all on virtual machines.

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fovea::inline FOVEA_ISA {

inline constexpr std::size_t scratch_alignment = 64;

namespace detail {

inline constexpr std::size_t large_page = std::size_t{2} << 20, least_large = 2 * large_page;

inline std::align_val_t alignment_of(std::size_t bytes) {
  return std::align_val_t(bytes >= least_large ? large_page : scratch_alignment);
}

// Not initialised. Throws std::bad_alloc.
inline void* allocate(std::size_t bytes) {
  void* const memory = ::operator new(bytes, alignment_of(bytes));
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes >= least_large)
    madvise(memory, bytes / large_page * large_page, MADV_HUGEPAGE);  // a wish; nothing depends on it
#endif
  return memory;
}
// What allocate(bytes) gave, or null.
inline void release(void* memory, std::size_t bytes) { ::operator delete(memory, alignment_of(bytes)); }

}  // namespace detail
}  // namespace fovea::inline FOVEA_ISA

// fovea/exec/executor.hpp

// The Executor concept: who runs the work items of a call.
//
//   executor.parallel_for(count, flops, f)
//
// calls f(begin, end) for ranges that together cover [0, count) exactly once and returns when all are done. `flops` is
// the rough cost of one item, a hint. f is never nested and never throws. Results never depend on how the ranges are
// cut.

namespace fovea::inline FOVEA_ISA::exec {

namespace detail {
struct AnyRange {
  void operator()(Index, Index) const {}
};
}  // namespace detail

template <class E>
concept Executor = requires(const E& executor) {
  executor.parallel_for(Index{}, double{}, detail::AnyRange{});
};

// How many ranges may run at the same time: what the executor says, else what the machine has.
template <Executor E>
Index concurrency(const E& executor) {
  if constexpr (requires {
                  { executor.concurrency() } -> std::convertible_to<Index>;
                }) {
    return executor.concurrency();
  } else {
    return std::thread::hardware_concurrency() > 0 ? Index(std::thread::hardware_concurrency()) : Index{1};
  }
}

}  // namespace fovea::inline FOVEA_ISA::exec

// fovea/exec/serial.hpp

// The default executor: the calling thread.

namespace fovea::inline FOVEA_ISA::exec {

struct Serial {
  static constexpr Index concurrency() { return 1; }

  template <class F>
  void parallel_for(Index count, double /*flops*/, F&& f) const {
    if (count > 0) f(Index{0}, count);
  }
};

}  // namespace fovea::inline FOVEA_ISA::exec

// fovea/exec/workspace.hpp

// Scratch memory that is kept between calls, so that calls which come again and again (decoding) allocate nothing.
//
//   fovea::Workspace workspace;
//   for (...) fovea::attend(q, cache, out, recipe, fovea::exec::reuse(workspace, pool));
//
// The first calls find out how much is wanted; after that nothing is allocated as long as the shapes do not grow.

namespace fovea::inline FOVEA_ISA {

// Memory handed out and taken back, mostly in reverse order. One call at a time uses it.
class Workspace {
 public:
  Workspace() = default;
  Workspace(Workspace&& other) noexcept { *this = std::move(other); }
  Workspace& operator=(Workspace&& other) noexcept {
    std::swap(blocks_, other.blocks_);
    std::swap(last_, other.last_);
    return *this;
  }
  ~Workspace() { release_blocks(); }

  // Bytes that it holds.
  std::size_t size() const {
    std::size_t all = 0;
    for (const Block& block : blocks_) all += block.size;
    return all;
  }

  void* take(std::size_t bytes) {
    const std::size_t size = sizeof(Piece) + (bytes + scratch_alignment - 1) / scratch_alignment * scratch_alignment;
    if (last_ == nullptr && blocks_.size() > 1) {  // what was wanted in pieces is wanted in one
      const std::size_t all = std::max(this->size(), size);
      release_blocks();
      add_block(all);
    }
    if (blocks_.empty() || blocks_.back().size - blocks_.back().used < size)
      add_block(std::max(size, 2 * this->size()));
    Block& block = blocks_.back();
    Piece* const piece = new (block.data + block.used) Piece{last_, blocks_.size() - 1, block.used, false};
    block.used += size;
    last_ = piece;
    return piece + 1;
  }

  void give(void* memory) {
    static_cast<Piece*>(memory)[-1].free = true;
    while (last_ != nullptr && last_->free) {
      for (std::size_t b = last_->block + 1; b < blocks_.size(); ++b) blocks_[b].used = 0;
      blocks_[last_->block].used = last_->begin;
      last_ = last_->before;
    }
  }

 private:
  struct alignas(scratch_alignment) Piece {
    Piece* before;
    std::size_t block, begin;
    bool free;
  };
  struct Block {
    std::byte* data;
    std::size_t size, used;
  };

  void add_block(std::size_t size) {
    blocks_.reserve(blocks_.size() + 1);
    blocks_.push_back({static_cast<std::byte*>(detail::allocate(size)), size, std::size_t{0}});
  }
  void release_blocks() {
    for (const Block& block : blocks_) detail::release(block.data, block.size);
    blocks_.clear();
  }

  std::vector<Block> blocks_{};
  Piece* last_ = nullptr;
};

namespace exec {

// An executor whose calls take their scratch memory from a workspace.
template <class Exec>
class Reusing {
 public:
  Reusing(Workspace& workspace, const Exec& executor) : workspace_(&workspace), executor_(&executor) {}

  Workspace& workspace() const { return *workspace_; }
  Index concurrency() const { return exec::concurrency(*executor_); }
  template <class F>
  void parallel_for(Index count, double flops, F&& f) const {
    executor_->parallel_for(count, flops, std::forward<F>(f));
  }

 private:
  Workspace* workspace_;
  const Exec* executor_;  // not owned
};

namespace detail {
inline constexpr Serial calling_thread{};
}  // namespace detail

// Both must outlive the executor.
template <Executor Exec>
Reusing<Exec> reuse(Workspace& workspace, const Exec& executor) {
  return {workspace, executor};
}
inline Reusing<Serial> reuse(Workspace& workspace) { return {workspace, detail::calling_thread}; }

}  // namespace exec
}  // namespace fovea::inline FOVEA_ISA

// fovea/engine/work.hpp

// Work items on an executor, each worker with scratch memory of its own.

namespace fovea::inline FOVEA_ISA::engine {

struct FreeScratch {
  Workspace* workspace = nullptr;  // where the memory goes back to, or null
  std::size_t bytes = 0;

  void operator()(void* p) const {
    if (workspace != nullptr) return workspace->give(p);
    fovea::detail::release(p, bytes);
  }
};

// n uninitialised elements on a cache line of their own.
template <class T>
std::unique_ptr<T[], FreeScratch> allocate_scratch(Index n) {
  const std::size_t bytes = std::size_t(n) * sizeof(T);
  return {static_cast<T*>(fovea::detail::allocate(bytes)), FreeScratch{nullptr, bytes}};
}

// The same from the workspace of the executor, if it has one.
template <class T, exec::Executor Exec>
std::unique_ptr<T[], FreeScratch> allocate_scratch(const Exec& executor, Index n) {
  if constexpr (requires { executor.workspace(); }) {
    Workspace& workspace = executor.workspace();
    const std::size_t bytes = std::size_t(n) * sizeof(T);
    return {static_cast<T*>(workspace.take(bytes)), FreeScratch{&workspace, bytes}};
  } else {
    return allocate_scratch<T>(n);
  }
}

// n rounded up to whole cache lines.
template <class T>
constexpr Index whole_lines(Index n) {
  constexpr Index line = Index(scratch_alignment / sizeof(T));
  return (n + line - 1) / line * line;
}

// Hands out consecutive pieces of scratch memory, each on its own cache line.
template <class T>
class Carve {
 public:
  explicit Carve(T* memory) : next_(memory) {}

  T* operator()(Index n) {
    T* piece = next_;
    next_ += whole_lines<T>(n);
    return piece;
  }

 private:
  T* next_;
};

// Objects made one behind the other in scratch memory.
template <class X>
class Several {
 public:
  template <exec::Executor Exec>
  Several(const Exec& executor, Index most) : memory_(allocate_scratch<Place>(executor, std::max<Index>(most, 1))) {}
  Several(const Several&) = delete;
  Several& operator=(const Several&) = delete;
  ~Several() {
    while (size_ > 0) std::destroy_at(&(*this)[--size_]);
  }

  template <class... Parts>
  void add(Parts&&... parts) {
    new (&memory_[std::size_t(size_)]) X(std::forward<Parts>(parts)...);
    ++size_;
  }
  Index size() const { return size_; }
  X& operator[](Index i) const { return *std::launder(reinterpret_cast<X*>(&memory_[std::size_t(i)])); }

 private:
  struct Place {
    alignas(X) std::byte bytes[sizeof(X)];
  };
  std::unique_ptr<Place[], FreeScratch> memory_;
  Index size_ = 0;
};

// What a further worker must find to do: waking a thread costs some microseconds.
inline constexpr double worthwhile_flops = 1e6;

// Calls work(item, scratch) for every item of [0, items). Workers take the next free item as they go; an item's result
// must not depend on which worker takes it. flops is the rough cost of an item.
template <class T, exec::Executor Exec>
void distribute(const Exec& executor, Index items, double flops, Index scratch_size,
                FunctionRef<void(Index, T*)> work) {
  if (items <= 0) return;
  const double share = std::min(flops * double(items) / worthwhile_flops, double(items));
  const Index workers = std::clamp<Index>(Index(share), 1, std::max<Index>(exec::concurrency(executor), 1));
  const Index stride = whole_lines<T>(scratch_size);
  const auto scratch = allocate_scratch<T>(executor, workers * stride);
  std::atomic<Index> next{0};
  executor.parallel_for(workers, flops * double(items) / double(workers), [&](Index begin, Index end) {
    for (Index worker = begin; worker < end; ++worker) {
      for (Index item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;)
        work(item, scratch.get() + worker * stride);
    }
  });
}

}  // namespace fovea::inline FOVEA_ISA::engine

// fovea/simd/dots.hpp

// Products of a few queries with many keys as they lie in memory: every key is read once and in order.

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

// fovea/parts/kv/rows.hpp

// Runs: some consecutive tokens of one kv head as they lie in memory, and what the engines do with them. Rows<S> is the
// plain run; others (quantized.hpp) offer the same members:
//
//   piece                         tokens that are best worked on at a time
//   score(queries, ...)           products of queries with keys
//   add(rows, ...)                weighted sums of values, on rows for which whole(width) holds
//   read(first, count, to, ...)   the tokens as T, the type of the queries
//   finite, prefetch, scratch_size
//   long_run                      whether score and add ask for what comes later by themselves

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

// fovea/parts/kv/contiguous.hpp

// Keys and values as plain arrays [B,G,M,D] and [B,G,M,E], and what a source of keys and values is.
//
// A source tells the engines how many tokens each sequence has and hands out runs (rows.hpp) of them:
//
//   length(batch), longest(), batch(), kv_heads(), key_dim(), value_dim()
//   each_keys(batch, kv_head, tokens, f)     f(Span part, run) for ascending parts that make up `tokens`; the first row
//   each_values(batch, kv_head, tokens, f)   of a run is token part.first. Runs may be of several types
//   scratch_size<T>(rows)                    the largest that its runs want
//
// Tokens are counted 0, 1, ... in the order in which masks see them.

namespace fovea::inline FOVEA_ISA::kv {

namespace detail {
struct AnyRun {
  template <class Run>
  void operator()(Span, const Run&) const {}
};
}  // namespace detail

template <class S>
concept Source = requires(const S& source, Index n, Span tokens, detail::AnyRun f) {
  { source.length(n) } -> std::convertible_to<Index>;
  { source.longest() } -> std::convertible_to<Index>;
  { source.batch() } -> std::convertible_to<Index>;
  { source.kv_heads() } -> std::convertible_to<Index>;
  { source.key_dim() } -> std::convertible_to<Index>;
  { source.value_dim() } -> std::convertible_to<Index>;
  { source.template scratch_size<float>(n) } -> std::convertible_to<Index>;
  source.each_keys(n, n, tokens, f);
  source.each_values(n, n, tokens, f);
};

template <class K, class V = K>
struct Contiguous {
  View<const K> k;
  View<const V> v;
  std::span<const Index> lengths = {};  // of the sequences, [B]; all of k when empty

  Index length(Index batch) const { return lengths.empty() ? k.length : lengths[std::size_t(batch)]; }
  Index longest() const { return lengths.empty() ? k.length : std::ranges::max(lengths); }
  Index batch() const { return k.batch; }
  Index kv_heads() const { return k.heads; }
  Index key_dim() const { return k.dim; }
  Index value_dim() const { return v.dim; }

  Rows<K> keys(Index batch, Index kv_head, Span tokens) const {
    return {k.row(batch, kv_head, tokens.first), k.length_stride, k.dim, k.length * k.dim >= Rows<K>::much};
  }
  Rows<V> values(Index batch, Index kv_head, Span tokens) const {
    return {v.row(batch, kv_head, tokens.first), v.length_stride, v.dim, v.length * v.dim >= Rows<V>::much};
  }
  template <class F>
  [[gnu::always_inline]] void each_keys(Index batch, Index kv_head, Span tokens, F&& f) const {
    f(tokens, keys(batch, kv_head, tokens));
  }
  template <class F>
  [[gnu::always_inline]] void each_values(Index batch, Index kv_head, Span tokens, F&& f) const {
    f(tokens, values(batch, kv_head, tokens));
  }
  template <class T>
  Index scratch_size(Index) const {
    return 0;
  }
};

namespace detail {

// Refuses values that are not as many, or not of the same sequences and heads, as the keys.
inline void check_alike(const char* where, const Extents& keys, const Extents& values) {
  check(values.batch == keys.batch, where, "v must have the batch of k, wanted ", keys.batch, ", got ", values.batch);
  check(values.heads == keys.heads, where, "v must have the heads of k, wanted ", keys.heads, ", got ", values.heads);
  check(values.length == keys.length, where, "v must have the length of k, wanted ", keys.length, ", got ",
        values.length);
}

}  // namespace detail

// The source of k [B,G,M,D] and v [B,G,M,E], whose scalar types may differ: float, double, Eigen::bfloat16,
// Eigen::half. lengths, where there are any, hold the tokens of each sequence that count, [B], and are not copied.
// Throws ArgumentError when they do not fit together.
template <class K, class V>
auto contiguous(const K& k, const V& v, std::span<const Index> lengths = {}) {
  constexpr auto where = "fovea::kv::contiguous";
  const auto keys = view(k);
  const auto values = view(v);
  using Key = std::remove_const_t<std::remove_pointer_t<decltype(keys.data)>>;
  using Value = std::remove_const_t<std::remove_pointer_t<decltype(values.data)>>;
  detail::check_alike(where, keys.extents(), values.extents());
  check(lengths.empty() || Index(lengths.size()) == keys.batch, where, "there must be one length for each sequence, ",
        "wanted ", keys.batch, ", got ", lengths.size());
  for (const Index length : lengths)
    check(length >= 0 && length <= keys.length, where, "lengths must be between 0 and ", keys.length, ", got ", length);
  return Contiguous<Key, Value>{keys, values, lengths};
}

}  // namespace fovea::inline FOVEA_ISA::kv

// fovea/engine/pass.hpp

// What both paths of the engine do to a tile besides the products: bring in queries and values, finish scores, write
// rows.

namespace fovea::inline FOVEA_ISA::engine {

// One call, or one sequence of it: its arrays, and the parts of its recipe bound to its shape. Where lengths differ,
// shape.keys is that of the sequence. k and v of the problem are there for their extents; they are read by the source.
template <class T, class Source, class Mask, class Scores>
class Pass {
 public:
  const Problem<T>& problem;
  const Shape shape;
  const Source& source;
  const normalizer::Softmax& softmax;
  const Mask& mask;
  const Scores& scores;
  const bool modified;  // whether there are score modifiers, which want scores in natural units

  Pass(const Problem<T>& the_problem, const Shape& the_shape, const Source& the_source,
       const normalizer::Softmax& the_softmax, const Mask& the_mask, const Scores& the_scores, bool are_modified)
      : problem(the_problem),
        shape(the_shape),
        source(the_source),
        softmax(the_softmax),
        mask(the_mask),
        scores(the_scores),
        modified(are_modified),
        scale_(softmax.scale_for(source.key_dim())) {}

  // Natural units, and powers of two, in one unit of the finished scores.
  T natural_unit() const { return T(modified ? 1.0 : scale_.rest); }
  simd::PowerUnit<T> power_unit() const { return simd::PowerUnit<T>((modified ? 1.0 : scale_.rest) * simd::log2_e); }

  // Rows of q as the products want them, `stride` apart and zero behind the width.
  void load_queries(const TileRows& rows, T* q, Index stride) const {
    const Index dim = source.key_dim();
    rows.each(0, rows.count(), [&](Index r, Row at) {
      simd::copy_scaled(q + r * stride, problem.q.row(at.batch, at.head, at.query), dim, scale_.query);
      for (Index d = dim; d < stride; ++d) q[r * stride + d] = T(0);
    });
  }

  // Calls f(part, run) for the runs of keys, or of values, that hold a span of tokens.
  template <class F>
  [[gnu::always_inline]] void each_keys(const TileRows& rows, Span span, F&& f) const {
    source.each_keys(rows.batch, rows.kv_head, span, f);
  }
  template <class F>
  [[gnu::always_inline]] void each_values(const TileRows& rows, Span span, F&& f) const {
    source.each_values(rows.batch, rows.kv_head, span, f);
  }

  // g++ takes a function that does nothing but prefetch for one without effect and drops its calls: it begins with
  // this, or is always inlined.
  [[gnu::always_inline]] static void has_effect() { asm volatile(""); }

  // Asks for keys or values, so that they are near when their turn comes.
  [[gnu::always_inline]] void prefetch_keys(const TileRows& rows, Span span) const {
    each_keys(
        rows, span, [](Span part, const auto& run) __attribute__((always_inline)) { run.prefetch(0, part.size()); });
  }
  [[gnu::always_inline]] void prefetch_values(const TileRows& rows, Span span) const {
    each_values(
        rows, span, [](Span part, const auto& run) __attribute__((always_inline)) { run.prefetch(0, part.size()); });
  }

  [[gnu::always_inline]] static void prefetch(const T* row, Index dim) {
    constexpr Index line = Index(scratch_alignment / sizeof(T));
    for (Index d = 0; d < dim; d += line) __builtin_prefetch(row + d, 0, 2);
  }

  // The keys of a tile as rows of T: where they are, if they lie in one stretch, else read into `gathered`.
  kv::Rows<T> key_rows(const TileRows& rows, const KeyTile& tile, T* gathered) const {
    const Index dim = source.key_dim();
    kv::Rows<T> found{gathered, dim, dim};
    tile.each_run([&](Index column, Span keys) {
      each_keys(rows, keys, [&](Span part, const auto& k) {
        if constexpr (std::is_same_v<decltype(k), const kv::Rows<T>&>) {
          if (part.size() == tile.size()) {
            found = k;
            return;
          }
        }
        k.read(0, part.size(), gathered + (column + part.first - keys.first) * dim, dim);
      });
    });
    return found;
  }

  // Finishes rows [first, last) of scores against `count` keys of a tile from column `skip` on, `columns` apart: score
  // modifiers, then the mask unless all keys are seen, then the columns behind the last key. `seen`
  // holds the bits of those keys that each row sees; where it is null, the mask is asked.
  [[gnu::noinline]] void finish_scores(const TileRows& rows, Index first, Index last, const KeyTile& tile, Index skip,
                                       Index count, bool all, const std::uint64_t* seen, T* band, Index columns) const {
    if (modified || !all) {
      rows.each(first, last, [&](Index r, Row at) {
        T* const row = band + (r - first) * columns;
        if (modified) {
          simd::scale(row, columns, T(scale_.rest));
          tile.each_run(skip, skip + count, [&](Index column, Span keys) { scores(row + (column - skip), at, keys); });
        }
        if (all) return;
        const std::uint64_t bits = seen == nullptr ? tile.seen(mask, at) >> skip : seen[r - first];
        if (bits != mask::low_bits(count)) simd::hide(row, count, bits);
      });
    }
    if (columns == count) return;
    for (Index r = 0; r < last - first; ++r)
      std::fill(band + r * columns + count, band + (r + 1) * columns, -simd::infinity<T>);
  }

  // Whether some query may leave out a key of the tile: by the mask, or by a modifier that makes its score -infinity.
  // Then an infinity or NaN among the values must not meet a weight of zero.
  bool careful(bool full) const { return !full || modified; }

  // Whether the values of a span have neither infinity nor NaN.
  bool finite(const TileRows& rows, Span span) const {
    bool all = true;
    each_values(rows, span, [&](Span part, const auto& v) { all = all && v.finite(0, part.size()); });
    return all;
  }

  // Values from `first` on as aligned rows of `width` elements, zero behind theirs. When `leave_out`, rows with an
  // infinity or NaN are left out (zero) and true is returned: they are for add_spoiled.
  template <class Run>
  [[gnu::noinline]] bool load_values(const Run& v, Index first, Index count, bool leave_out, T* values,
                                     Index width) const {
    bool spoiled = false;
    const Index dim = source.value_dim();
    v.read(first, count, values, width);
    for (Index j = 0; j < count; ++j) {
      T* const row = values + j * width;
      for (Index e = dim; e < width; ++e) row[e] = T(0);
      if (leave_out && !simd::all_finite(row, dim)) {
        std::memset(row, 0, std::size_t(dim) * sizeof(T));
        spoiled = true;
      }
    }
    return spoiled;
  }

  // Adds the values of columns [first, last) that load_values left out to those of `count` rows that see them: whose
  // finished score is not -infinity. Scores and weights begin with column `first` and are `columns` apart, out is
  // `width` apart; `row` has room for one token.
  [[gnu::noinline, gnu::cold]] void add_spoiled(const TileRows& rows, const KeyTile& tile, Index first, Index last,
                                                Index count, const T* finished, const T* weights, Index columns, T* out,
                                                Index width, T* row) const {
    tile.each_run(first, last, [&](Index column, Span keys) {
      each_values(rows, keys, [&](Span part, const auto& v) {
        for (Index j = 0; j < part.size(); ++j) {
          if (v.finite(j, 1)) continue;
          v.read(j, 1, row, width);
          const Index at = column - first + part.first - keys.first + j;
          for (Index r = 0; r < count; ++r) {
            if (finished[r * columns + at] != -simd::infinity<T>)
              simd::add_scaled(out + r * width, weights[r * columns + at], row, source.value_dim());
          }
        }
      });
    });
  }

  // The result of a row from its weighted sum of values, the sum of its weights and their reference.
  void write_row(Row at, const T* sum, T total, T reference) const {
    const T natural = reference * natural_unit();
    T* const out = problem.out.row(at.batch, at.head, at.query);
    if (total == T(0)) {
      if (source.value_dim() > 0) std::memset(out, 0, std::size_t(source.value_dim()) * sizeof(T));
    } else {
      simd::copy_divided(out, sum, source.value_dim(), total + softmax.sink_weight(at.head, natural));
    }
    if (problem.log_sum.data != nullptr)
      *problem.log_sum.row(at.batch, at.head, at.query) = normalizer::log_sum(total, natural);
  }

 private:
  const normalizer::SplitScale<T> scale_;
};

}  // namespace fovea::inline FOVEA_ISA::engine

// fovea/engine/splits.hpp

// Keys cut into splits of a fixed length, for calls with so few queries that there is nothing else to share out.

namespace fovea::inline FOVEA_ISA::engine {

// Whether a call has few enough queries: in a sequence, or of a kv head.
constexpr bool few_queries(Index queries, Index group) { return queries == 1 || queries * group <= 8; }

// All rows of a kv head; head counts over batches, batch * kv_heads + kv_head.
template <class T>
TileRows rows_of_head(const Problem<T>& problem, Index head) {
  const Index group = problem.group, kv_heads = problem.q.heads / group, kv_head = head % kv_heads;
  return {head / kv_heads, kv_head, kv_head * group, group, {0, problem.q.length}};
}

struct Split {
  Index head;  // batch * kv_heads + kv_head
  Span keys;
};

// The splits of which a mask shows anything, head by head; they begin at multiples of their length, which does not
// follow the number of workers.
class Splits {
 public:
  // For passes that may differ from sequence to sequence: pass_of(batch).
  template <class Exec, class PassOf>
  Splits(const Exec& executor, Index batch, Index kv_heads, Index length, PassOf&& pass_of)
      : heads_(batch * kv_heads), begin_(allocate_scratch<Index>(executor, heads_ + 1)) {
    Index most = 0;
    for (Index b = 0; b < batch; ++b) most += kv_heads * ((pass_of(b).shape.keys + length - 1) / length);
    all_ = allocate_scratch<Split>(executor, std::max<Index>(most, 1));
    begin_[0] = 0;
    for (Index head = 0; head < heads_; ++head) {
      const auto& pass = pass_of(head / kv_heads);
      const TileRows rows = rows_of_head(pass.problem, head);
      visit_tiles(pass.mask, rows.region(0, rows.count(), {0, pass.shape.keys}), length, [&](Span span, bool) {
        all_[std::size_t(size_++)] = {head, span};
      });
      begin_[std::size_t(head + 1)] = size_;
    }
  }

  Index size() const { return size_; }
  Index heads() const { return heads_; }
  const Split& operator[](Index i) const { return all_[std::size_t(i)]; }
  Span of(Index head) const { return {begin_[std::size_t(head)], begin_[std::size_t(head) + 1]}; }

 private:
  Index heads_, size_ = 0;
  std::unique_ptr<Index[], FreeScratch> begin_;
  std::unique_ptr<Split[], FreeScratch> all_{};
};

}  // namespace fovea::inline FOVEA_ISA::engine

// fovea/engine/over_splits.hpp

// The few-query path, as in decoding against a cache: bound by memory, so keys and values are read once, in order,
// where they lie. Keys are cut into splits of a fixed length that run independently and are merged by their references
// and sums. Flash-decoding: Dao et al. 2023.

namespace fovea::inline FOVEA_ISA::engine {

template <class T, class Source, class Mask, class Scores>
class OverSplits {
 public:
  using OnePass = Pass<T, Source, Mask, Scores>;

  // One pass for all sequences, or one for each.
  explicit OverSplits(const Several<OnePass>& passes)
      : passes_(passes),
        problem_(passes[0].problem),
        source_(passes[0].source),
        rows_(problem_.q.length * problem_.group),
        depth_(simd::whole<T>(source_.key_dim())),
        width_(simd::whole<T>(source_.value_dim())),
        part_size_(whole_lines<T>(rows_ * (width_ + 2))),
        look_ahead_(double(problem_.k.batch * problem_.k.heads) * double(source_.longest()) *
                        double(source_.key_dim() + source_.value_dim()) * double(sizeof(T)) >
                    cache_size) {}

  template <class Exec>
  void run(const Exec& executor) const {
    const Splits splits(executor, problem_.q.batch, problem_.q.heads / problem_.group, split,
                        [&](Index batch) -> const OnePass& { return pass_of(batch); });
    const Index heads = splits.heads();
    const auto results = allocate_scratch<T>(executor, std::max<Index>(splits.size() * part_size_, 1));
    const double flops = 2.0 * double(rows_) * double(split) * double(depth_ + width_);
    distribute<T>(executor, splits.size(), flops, scratch_size(), [&](Index item, T* memory) {
      attend_split(splits[item], memory, results.get() + item * part_size_);
    });
    const double additions = 2.0 * double(rows_ * width_) * double(splits.size()) / double(heads);
    distribute<T>(executor, heads, additions, width_, [&](Index head, T* sum) {
      const Span own = splits.of(head);
      const TileRows rows = rows_of_head(problem_, head);
      merge(pass_of(rows.batch), rows, results.get() + own.first * part_size_, own.size(), sum);
    });
  }

 private:
  static constexpr Index split = 512;        // keys of a split
  static constexpr Index step = mask::word;  // keys of a tile
  // Keys and values of so many bytes come from memory in any case and are asked for early; fewer may come from a cache,
  // where asking costs more than it gains.
  static constexpr double cache_size = 64 << 20;

  const OnePass& pass_of(Index batch) const { return passes_[passes_.size() == 1 ? 0 : batch]; }

  // A part leaves behind the weighted sum of values [rows x width], its totals [rows] and references [rows].
  T* totals(T* part) const { return part + rows_ * width_; }
  T* references(T* part) const { return totals(part) + rows_; }

  Index scratch_size() const {
    return whole_lines<T>(rows_ * depth_) + 2 * whole_lines<T>(rows_ * step) +
           whole_lines<T>(kv::Rows<T>::piece * width_) + whole_lines<T>(width_) +
           whole_lines<T>(normalizer::SoftmaxRows<T>::size(rows_)) +
           whole_lines<T>(source_.template scratch_size<T>(rows_));
  }

  void attend_split(const Split& part, T* memory, T* result) const {
    const TileRows rows = rows_of_head(problem_, part.head);
    const OnePass& pass = pass_of(rows.batch);
    Carve<T> carve(memory);
    T* const q = carve(rows_ * depth_);
    T* const scores = carve(rows_ * step);
    T* const kept_scores = carve(rows_ * step);
    T* const values = carve(kv::Rows<T>::piece * width_);
    T* const row = carve(width_);
    normalizer::SoftmaxRows<T> state(pass.power_unit(), carve(normalizer::SoftmaxRows<T>::size(rows_)), rows_);
    T* const scratch = carve(source_.template scratch_size<T>(rows_));
    pass.load_queries(rows, q, depth_);
    std::fill(result, result + rows_ * width_, T(0));
    state.begin(rows_);
    const auto keys_soon = [&](Span soon) __attribute__((always_inline)) { pass.prefetch_keys(rows, soon); };
    const auto values_soon = [&](Span soon) __attribute__((always_inline)) { pass.prefetch_values(rows, soon); };
    each_tile(pass.mask, rows.region(0, rows_, part.keys), step, [&](const KeyTile& tile, const KeyTile* next) {
      const Index count = tile.size(), columns = simd::whole<T>(count);
      tile.each_run([&](Index column, Span keys) {
        pass.each_keys(rows, keys, [&](Span some, const auto& k) {
          const Index at = column + some.first - keys.first;
          each_piece(
              k, some.size(), [&](Index j, Index n) __attribute__((always_inline)) {
                if (look_ahead_ && !k.long_run) ahead(pass, tile, next, at + j, n, keys_soon);
                k.score(rows_, q, depth_, j, n, scores + at + j, columns, scratch);
              });
        });
      });
      if (pass.modified || !tile.full() || columns != count) {
        pass.finish_scores(rows, 0, rows_, tile, 0, count, tile.full(), nullptr, scores, columns);
      }
      bool spoiled = false;
      if (pass.careful(tile.full()))
        tile.each_run([&](Index, Span keys) { spoiled = spoiled || !pass.finite(rows, keys); });
      if (spoiled) [[unlikely]]
        std::copy_n(scores, rows_ * columns, kept_scores);
      const T* shrink = state.absorb(0, rows_, scores, columns, columns) ? state.shrink : nullptr;
      // Pieces are counted from the beginning of the tile: sums do not depend on where runs end.
      Index waiting = 0;  // values that are read, of a piece of which more are to come
      const auto add = [&](const auto& run, Index first, Index at, Index n) __attribute__((always_inline)) {
        run.add(rows_, first, n, scores + at, columns, result, width_, shrink, scratch);
        shrink = nullptr;
      };
      tile.each_run([&](Index column, Span keys) {
        pass.each_values(rows, keys, [&](Span some, const auto& v) {
          const Index begin = column + some.first - keys.first, size = some.size();
          const bool in_place = !spoiled && v.whole(width_);
          for (Index j = 0, n = 0; j < size; j += n) {
            const Index at = begin + j;
            n = std::min(v.piece, size - j);
            const bool all = waiting == 0 && at % v.piece == 0 && (n == v.piece || at + n == count);
            if (in_place && all) {
              if (look_ahead_ && !v.long_run) ahead(pass, tile, next, at, n, values_soon);
              add(v, j, at, n);
              continue;
            }
            constexpr Index piece = kv::Rows<T>::piece;
            n = std::min(size - j, piece - waiting);
            if (look_ahead_ && !v.long_run) ahead(pass, tile, next, at, n, values_soon);
            pass.load_values(v, j, n, spoiled, values + waiting * width_, width_);
            waiting += n;
            if (waiting < piece && at + n < count) continue;
            add(kv::Rows<T>{values, width_, width_}, 0, at + n - waiting, waiting);
            waiting = 0;
          }
        });
      });
      if (spoiled) [[unlikely]]
        pass.add_spoiled(rows, tile, 0, count, rows_, kept_scores, scores, columns, result, width_, row);
    });
    for (Index r = 0; r < rows_; ++r) {
      totals(result)[r] = state.total(r);
      references(result)[r] = state.reference[r];
    }
  }

  // Calls f(first, count) for the pieces of a run.
  template <class Run, class F>
  [[gnu::always_inline]] static void each_piece(const Run& run, Index size, F&& f) {
    for (Index j = 0; j < size; j += run.piece) f(j, std::min(run.piece, size - j));
  }

  // Calls f(keys) for the keys of the next tile in the place of the `count` keys from `column` on: what memory should
  // be busy with meanwhile. Behind the last tile of a part the keys that follow are taken for it.
  template <class F>
  [[gnu::noinline]] static void ahead(const OnePass& pass, const KeyTile& tile, const KeyTile* next, Index column,
                                      Index count, F&& f) {
    pass.has_effect();
    if (next != nullptr) {
      const auto run = [&](Index, Span keys) __attribute__((always_inline)) { f(keys); };
      next->each_run(column, std::min(column + count, next->size()), run);
    } else {
      const Index first = std::min(tile.last_key() + 1 + column, pass.shape.keys);
      f(Span{first, std::min(first + count, pass.shape.keys)});
    }
  }

  // Adds the parts of one kv head up, in order, and writes its rows.
  void merge(const OnePass& pass, const TileRows& rows, T* parts, Index count, T* sum) const {
    rows.each(0, rows_, [&](Index r, Row at) {
      T reference = -simd::infinity<T>, total = T(0);
      for (Index s = 0; s < count; ++s) {
        T* const part = parts + s * part_size_;
        if (totals(part)[r] != T(0) && !(references(part)[r] <= reference)) reference = references(part)[r];
      }
      std::fill(sum, sum + width_, T(0));
      for (Index s = 0; s < count; ++s) {
        T* const part = parts + s * part_size_;
        if (totals(part)[r] == T(0)) continue;
        const T weight = std::exp(pass.natural_unit() * (references(part)[r] - reference));
        total += weight * totals(part)[r];
        simd::add_scaled(sum, weight, part + r * width_, width_);
      }
      pass.write_row(at, sum, total, reference);
    });
  }

  const Several<OnePass>& passes_;
  const Problem<T>& problem_;
  const Source& source_;
  const Index rows_, depth_, width_, part_size_;
  const bool look_ahead_;
};

}  // namespace fovea::inline FOVEA_ISA::engine

// fovea/simd/transpose.hpp

// Rows into columns: keys as they lie become the right-hand side of the register kernel.

namespace fovea::inline FOVEA_ISA::simd {

namespace detail {

// The 16-byte pieces at p, p + step, p + 2 step, ... side by side in one vector of `count` elements.
template <class T, int count>
[[gnu::always_inline]] inline Native<T, count> gather_pieces(const T* p, Index step) {
  constexpr int piece = 16 / int(sizeof(T));
  if constexpr (count == piece) {
    return native_load<T, piece>(p);
  } else {
    return simd::join<T, count / 2>(gather_pieces<T, count / 2>(p, step),
                                    gather_pieces<T, count / 2>(p + count / 2 / piece * step, step));
  }
}

// Interleaves groups of `width` elements of a and b within each 16 bytes; the low or the high halves.
template <class T, int count, int width, bool high, int... i>
[[gnu::always_inline]] inline Native<T, count> interleave(Native<T, count> a, Native<T, count> b,
                                                          std::integer_sequence<int, i...>) {
  constexpr int piece = 16 / int(sizeof(T));
  constexpr auto source = [](int lane) {
    const int base = lane / piece * piece, at = lane % piece;
    const int group = at / width, within = at % width;
    return base + (high ? piece / 2 : 0) + group / 2 * width + within + (group % 2 ? count : 0);
  };
  return __builtin_shufflevector(a, b, source(i)...);
}

template <class T, int count, int width, bool high>
[[gnu::always_inline]] inline Native<T, count> interleave(Native<T, count> a, Native<T, count> b) {
  return interleave<T, count, width, high>(a, b, std::make_integer_sequence<int, count>{});
}

// columns[c][j] = rows[j][c] for a vector of rows and 16 bytes of columns.
template <class T>
[[gnu::always_inline]] inline void transpose_pieces(const T* rows, Index row_stride, T* columns, Index column_stride) {
  constexpr int count = int(lanes<T>);
  constexpr int piece = 16 / int(sizeof(T));
  const auto put = [&](int c, Native<T, count> x) { std::memcpy(columns + c * column_stride, &x, sizeof x); };
  Native<T, count> r[piece];
#pragma GCC unroll 4
  for (int i = 0; i < piece; ++i) r[i] = gather_pieces<T, count>(rows + i * row_stride, piece * row_stride);
  if constexpr (piece == 4) {
    const auto a = interleave<T, count, 1, false>(r[0], r[1]), b = interleave<T, count, 1, true>(r[0], r[1]);
    const auto c = interleave<T, count, 1, false>(r[2], r[3]), d = interleave<T, count, 1, true>(r[2], r[3]);
    put(0, interleave<T, count, 2, false>(a, c));
    put(1, interleave<T, count, 2, true>(a, c));
    put(2, interleave<T, count, 2, false>(b, d));
    put(3, interleave<T, count, 2, true>(b, d));
  } else {
    put(0, interleave<T, count, 1, false>(r[0], r[1]));
    put(1, interleave<T, count, 1, true>(r[0], r[1]));
  }
}

}  // namespace detail

// columns [width x whole<T>(count)] = the transpose of rows [count x width]; the columns behind `count` are zero.
template <class T>
[[gnu::noinline]] void transpose(Index count, Index width, const T* rows, Index row_stride, T* columns,
                                 Index column_stride) {
  constexpr Index piece = 16 / Index(sizeof(T));
  const Index full = count / lanes<T> * lanes<T>;
  for (Index j = 0; j < full; j += lanes<T>) {
    const T* from = rows + j * row_stride;
    Index c = 0;
    for (; c + piece <= width; c += piece)
      detail::transpose_pieces(from + c, row_stride, columns + c * column_stride + j, column_stride);
    for (; c < width; ++c) {
      for (Index i = 0; i < lanes<T>; ++i) columns[c * column_stride + j + i] = from[i * row_stride + c];
    }
  }
  if (full < count) {
    for (Index c = 0; c < width; ++c) {
      for (Index i = full; i < full + lanes<T>; ++i)
        columns[c * column_stride + i] = i < count ? rows[i * row_stride + c] : T(0);
    }
  }
}

}  // namespace fovea::inline FOVEA_ISA::simd

// fovea/engine/panels.hpp

// Keys laid out as columns once, for all the tiles of queries that read them.

namespace fovea::inline FOVEA_ISA::engine {

// The tiles of `step` keys of some kv heads, each [dim x step], one behind the other.
template <class T>
class Panels {
 public:
  template <exec::Executor Exec>
  Panels(const Exec& executor, Index heads, Index keys, Index dim, Index step)
      : keys_(keys),
        dim_(dim),
        step_(step),
        tiles_((keys + step - 1) / step),
        memory_(allocate_scratch<T>(executor, std::max<Index>(heads * tiles_ * dim * step, 1))) {}

  Index tiles() const { return tiles_; }
  T* panel(Index head, Index tile) const { return memory_.get() + (head * tiles_ + tile) * dim_ * step_; }

  Span tokens(Index tile) const { return {tile * step_, std::min((tile + 1) * step_, keys_)}; }

  // The panel that holds exactly the keys of a tile, or null.
  const T* find(Index head, const KeyTile& tile) const {
    const Index first = tile.first_run().first;
    const bool whole = tile.runs() == 1 && first % step_ == 0 && tile.size() == std::min(step_, keys_ - first);
    return whole ? panel(head, first / step_) : nullptr;
  }

 private:
  Index keys_, dim_, step_, tiles_;
  std::unique_ptr<T[], FreeScratch> memory_;
};

}  // namespace fovea::inline FOVEA_ISA::engine

// fovea/engine/over_tiles.hpp

// The many-query path: tiles of queries against tiles of keys, both products on the register kernel.
//
// A work item is the tile of some queries of one (batch, kv head). It walks over tiles of keys; for each it lays the
// keys out as columns and the values as rows in aligned scratch, and then, band by band of a few rows:
//
//   scores = q k^T          register kernel
//   weights = normalizer    in place, on vectors
//   out += weights v        register kernel; what the normalizer shrinks, it shrinks on the way in

namespace fovea::inline FOVEA_ISA::engine {

// Sizes of the tiles of one call.
template <class T>
struct TilePlan {
  Index key_dim, value_dim, width;  // width: value_dim in whole vectors
  Index step;                       // keys of a tile
  Index queries;                    // queries of a tile
  Index rows;                       // rows of a tile, in whole bands

  // Keys of a tile: one register tile wide at least, 64 where the vectors are shorter.
  static constexpr Index most_keys = std::max<Index>(simd::tile_vectors * simd::lanes<T>, 64);
  // Queries and sums of a tile in bytes: they stay in the second-level cache while keys and values pass by.
  static constexpr Index budget = 320 * 1024;

  bool gathers;  // whether the keys of a tile may be scattered

  // Tiles as large as fits, so that keys are laid out seldom; but at least `wanted` of them to share out, as long as
  // they have some bands; and along the blocks of a mask that has any. `group` heads are rows of one tile. Results do
  // not depend on the queries of a tile.
  TilePlan(const Shape& shape, Index key_width, Index value_width, Index group, Index wanted, const mask::Grain& grain,
           bool listed)
      : key_dim(key_width), value_dim(value_width), width(simd::whole<T>(value_width)), gathers(listed) {
    constexpr Index least_rows = 8 * simd::tile_rows, most_rows = 64 * simd::tile_rows;
    const Index fit = std::clamp<Index>(budget / Index(sizeof(T)) / (key_dim + width), least_rows, most_rows);
    const Index share = (shape.queries * group + wanted - 1) / wanted;
    const Index most = std::max<Index>((gathers ? fit : std::min(fit, std::max(share, least_rows))) / group, 1);
    if (grain.queries > 1 && grain.queries <= most) {
      queries = std::max<Index>(least_rows / group / grain.queries, 1) * grain.queries;
    } else if (gathers) {
      // What is gathered depends on the lists of a tile, so these must not depend on the workers.
      Index parts = (grain.queries + most - 1) / most;
      while (grain.queries % parts != 0) ++parts;
      queries = std::max(grain.queries / parts, std::max<Index>(least_rows / group, 1));
    } else {
      const Index tiles = (shape.queries + most - 1) / most;
      queries = (shape.queries + tiles - 1) / tiles;
    }
    queries = std::min(queries, shape.queries);
    rows = simd::whole_rows(queries * group);
    const Index block = grain.keys > 1 && grain.keys < most_keys && !gathers ? simd::whole<T>(grain.keys) : most_keys;
    step = std::min(most_keys % block == 0 ? block : most_keys, std::max(simd::whole<T>(shape.keys), simd::lanes<T>));
  }

  Index scratch_size() const {
    return whole_lines<T>(rows * key_dim) + whole_lines<T>(rows * width) + whole_lines<T>(key_dim * step) +
           whole_lines<T>(step * width) + 2 * whole_lines<T>(simd::tile_rows * step) +
           whole_lines<T>(normalizer::SoftmaxRows<T>::size(rows)) + whole_lines<T>(step * key_dim) +
           whole_lines<T>(width);
  }
};

// The product of a band of 2, 4 or 6 rows. A function of its own: every mask, source and score of a program shares it.
template <class T>
[[gnu::noinline]] void multiply_band(simd::Onto onto, Index height, Index columns, Index depth, const T* a, Index lda,
                                     const T* b, Index ldb, T* c, Index ldc, const T* shrink) {
  if (height == 6) return simd::multiply_rows<6>(onto, columns, depth, a, lda, b, ldb, c, ldc, shrink);
  if (height == 4) return simd::multiply_rows<4>(onto, columns, depth, a, lda, b, ldb, c, ldc, shrink);
  simd::multiply_rows<2>(onto, columns, depth, a, lda, b, ldb, c, ldc, shrink);
}

template <class T, class Source, class Mask, class Scores>
class OverTiles {
 public:
  // For some sequences, of one shape.
  OverTiles(const Pass<T, Source, Mask, Scores>& pass, Span batches, Index workers)
      : pass_(pass),
        batches_(batches),
        workers_(workers),
        group_(mask::grain_of(pass.mask).by_head ? 1 : pass.problem.group),
        plan_(pass.shape, pass.source.key_dim(), pass.source.value_dim(), group_,
              tiles_for(workers, batches.size() * pass.problem.q.heads / group_), mask::grain_of(pass.mask),
              mask::Lists<Mask>) {}

  template <class Exec>
  void run(const Exec& executor) const {
    const auto& q = pass_.problem.q;
    const Index kv_heads = q.heads / pass_.problem.group;
    const Span all{batches_.first * kv_heads, batches_.last * kv_heads};
    if (!shares_keys()) return attend_heads(all, nullptr, executor);
    const Index keys = pass_.shape.keys, some = heads_at_a_time(all.size());
    const Panels<T> panels(executor, some, keys, plan_.key_dim, plan_.step);
    for (Index first = all.first; first < all.last; first += some) {
      const Span heads{first, std::min(first + some, all.last)};
      const double moves = 4.0 * double(plan_.step) * double(plan_.key_dim);
      const Index items = heads.size() * panels.tiles();
      distribute<T>(executor, items, moves, plan_.step * plan_.key_dim, [&](Index item, T* gathered) {
        const Index head = item / panels.tiles(), n = first + head, place = item % panels.tiles();
        KeyTile tile;
        tile.clear();
        tile.add(panels.tokens(place), true);
        const auto k = pass_.key_rows({n / kv_heads, n % kv_heads, 0, 1, {}}, tile, gathered);
        simd::transpose(tile.size(), plan_.key_dim, k.data, k.stride, panels.panel(head, place),
                        simd::whole<T>(tile.size()));
      });
      attend_heads(heads, &panels, executor);
    }
  }

 private:
  static constexpr Index band = simd::tile_rows;
  static constexpr Index whole_step = TilePlan<T>::most_keys;
  static_assert(whole_step <= mask::word);
  static_assert(band == 6);

  // Tiles of each of some groups of heads such that every worker finds a few.
  static Index tiles_for(Index workers, Index groups) { return workers == 1 ? 1 : (4 * workers + groups - 1) / groups; }

  // Panels of keys use so much memory at most, or that of one kv head.
  static constexpr Index panel_budget = Index{32} << 20;

  // As few kv heads as keep the workers busy, since memory that is new costs time (a thread of its own needs one), and
  // as have room for their panels. The results do not depend on it.
  Index heads_at_a_time(Index heads) const {
    const Index tiles_of_head = tiles() * pass_.problem.group / group_, wanted = workers_ == 1 ? 1 : 32 * workers_;
    const Index room = panel_budget / (pass_.shape.keys * plan_.key_dim * Index(sizeof(T)));
    return std::clamp<Index>(std::min((wanted + tiles_of_head - 1) / tiles_of_head, room), 1, heads);
  }

  Index tiles() const { return (pass_.problem.q.length + plan_.queries - 1) / plan_.queries; }
  Span queries(Span tiles) const {
    return {tiles.first * plan_.queries, std::min(tiles.last * plan_.queries, pass_.problem.q.length)};
  }

  // Whether enough tiles of queries read a tile of keys, one in the middle, for it to be laid out once for all.
  bool shares_keys() const {
    constexpr Index enough = 4;
    const Index keys = pass_.shape.keys, groups = pass_.problem.group / group_;
    if (tiles() * groups < enough || keys == 0) return false;
    const Index middle = keys / 2 / plan_.step * plan_.step;
    const Span tile{middle, std::min(middle + plan_.step, keys)};
    Index readers = 0;
    const auto cover = [&](Index first, Index last) {
      return pass_.mask.cover({batches_.first, {0, group_}, queries({first, last}), tile});
    };
    visit_pieces(0, tiles(), cover, [&](Index, bool) { ++readers; });
    return readers * groups >= enough;
  }

  // Attends for the query heads of some kv heads, counted over batches; panels begin with the first of them.
  template <class Exec>
  void attend_heads(Span heads, const Panels<T>* panels, const Exec& executor) const {
    const auto& problem = pass_.problem;
    const Index kv_heads = problem.q.heads / problem.group, groups = problem.group / group_;
    const double flops = 2.0 * double(plan_.rows) * double(pass_.shape.keys) * double(plan_.key_dim + plan_.value_dim);
    distribute<T>(executor, heads.size() * groups * tiles(), flops, plan_.scratch_size(), [&](Index item, T* memory) {
      // The last queries first: under a causal mask they have most to do.
      const Index t = tiles() - 1 - item % tiles(), n = item / tiles(), place = n / groups;
      const Index kv_head = (heads.first + place) % kv_heads, batch = (heads.first + place) / kv_heads;
      const Index first_head = kv_head * problem.group + n % groups * group_;
      tile({batch, kv_head, first_head, group_, queries({t, t + 1})}, panels, place, memory);
    });
  }

  struct Scratch {
    const Panels<T>* panels;  // null, or where the keys of this kv head lie as columns
    Index place;              // of the kv head among the panels
    T *q, *out, *keys, *values, *scores, *kept_scores, *gathered, *row;
    normalizer::SoftmaxRows<T> state;
  };

  void tile(const TileRows& rows, const Panels<T>* panels, Index place, T* memory) const {
    Carve<T> carve(memory);
    T* const q = carve(plan_.rows * plan_.key_dim);
    T* const out = carve(plan_.rows * plan_.width);
    T* const keys = carve(plan_.key_dim * plan_.step);
    T* const values = carve(plan_.step * plan_.width);
    T* const scores = carve(band * plan_.step);
    T* const kept_scores = carve(band * plan_.step);
    T* const gathered = carve(plan_.step * plan_.key_dim);
    T* const row = carve(plan_.width);
    T* const state = carve(normalizer::SoftmaxRows<T>::size(plan_.rows));
    Scratch scratch{panels,
                    place,
                    q,
                    out,
                    keys,
                    values,
                    scores,
                    kept_scores,
                    gathered,
                    row,
                    {pass_.power_unit(), state, plan_.rows}};
    const Index padded = simd::whole_rows(rows.count());
    std::fill(out, out + padded * plan_.width, T(0));
    scratch.state.begin(padded);
    bool begun = false;
    each_tile(pass_.mask, rows.region(0, rows.count(), {0, pass_.shape.keys}), plan_.step,
              [&](const KeyTile& keys_of_tile, const KeyTile* next) {
                if (!begun) {
                  ask(rows, keys_of_tile, 0, keys_of_tile.size(), scratch);
                  pass_.load_queries(rows, q, plan_.key_dim);
                  std::fill(q + rows.count() * plan_.key_dim, q + padded * plan_.key_dim, T(0));
                  begun = true;
                }
                absorb_tile(rows, keys_of_tile, next, scratch);
              });
    rows.each(0, rows.count(), [&](Index r, Row at) {
      pass_.write_row(at, out + r * plan_.width, scratch.state.total(r), scratch.state.reference[r]);
    });
  }

  // The keys of a tile as columns that are there already, or null.
  const T* panel_of(const KeyTile& tile, const Scratch& scratch) const {
    return scratch.panels == nullptr ? nullptr : scratch.panels->find(scratch.place, tile);
  }

  // Asks for columns [first, last) of a tile.
  [[gnu::noinline]] void ask(const TileRows& rows, const KeyTile& tile, Index first, Index last,
                             const Scratch& scratch) const {
    pass_.has_effect();
    const T* const panel = panel_of(tile, scratch);
    if (panel != nullptr) {
      const Index all = plan_.key_dim * simd::whole<T>(tile.size());
      pass_.prefetch(panel + all * first / tile.size(), all * last / tile.size() - all * first / tile.size());
    }
    tile.each_run(
        first, last, [&](Index, Span keys) __attribute__((always_inline)) {
          if (panel == nullptr) pass_.prefetch_keys(rows, keys);
          pass_.prefetch_values(rows, keys);
        });
  }

  void absorb_tile(const TileRows& rows, const KeyTile& tile, const KeyTile* next, Scratch& scratch) const {
    const Index columns = simd::whole<T>(tile.size());
    const T* const panel = panel_of(tile, scratch);
    if (panel == nullptr) lay_out_keys(rows, tile, columns, scratch);
    const T* const keys = panel == nullptr ? scratch.keys : panel;
    bool spoiled = false;
    const T* const values = values_of(rows, tile, columns, scratch, spoiled);

    // While bands are worked on, the next tile is asked for: some rows a band, at last what is left.
    const Index bands = (rows.count() + band - 1) / band, wanted = next == nullptr ? 0 : next->size();
    const Index share = (wanted + bands - 1) / bands;
    Index asked = 0;
    const auto ask_for = [&](Index count) __attribute__((always_inline)) {
      const Index last = std::min(asked + count, wanted);
      if (asked < last) ask(rows, *next, asked, last, scratch);
      asked = last;
    };
    const auto cover = [&](Index first, Index last) {
      return tile.full() ? mask::Cover::full : cover_of(rows.region(first * band, last * band, {0, 0}), tile);
    };
    visit_pieces(0, bands, cover, [&](Index i, bool all) {
      ask_for(share);
      absorb_band(rows, i * band, tile, all, columns, keys, values, spoiled, scratch);
    });
    ask_for(wanted);
  }

  // What the rows of a region see of a tile.
  mask::Cover cover_of(mask::Region region, const KeyTile& tile) const {
    bool some = false, all = true;
    tile.each_run([&](Index, Span keys) {
      if (some && !all) return;
      region.keys = keys;
      const mask::Cover seen = pass_.mask.cover(region);
      some = some || seen != mask::Cover::none;
      all = all && seen == mask::Cover::full;
    });
    return !some ? mask::Cover::none : all ? mask::Cover::full : mask::Cover::part;
  }

  // The keys of a tile as columns.
  void lay_out_keys(const TileRows& rows, const KeyTile& tile, Index columns, Scratch& scratch) const {
    const auto k = pass_.key_rows(rows, tile, scratch.gathered);
    simd::transpose(tile.size(), plan_.key_dim, k.data, k.stride, scratch.keys, columns);
  }

  // The values of a tile as rows: where they lie when they lie well, else as load_values leaves them.
  const T* values_of(const TileRows& rows, const KeyTile& tile, Index columns, Scratch& scratch, bool& spoiled) const {
    const bool careful = pass_.careful(tile.full());
    const T* in_place = nullptr;
    tile.each_run([&](Index column, Span keys) {
      pass_.each_values(rows, keys, [&](Span part, const auto& v) {
        if constexpr (std::is_same_v<decltype(v), const kv::Rows<T>&>) {
          if (part.size() == tile.size() && columns == tile.size() && lies_well(v) &&
              !(careful && !v.finite(0, part.size()))) {
            in_place = v.data;
            return;
          }
        }
        T* const to = scratch.values + (column + part.first - keys.first) * plan_.width;
        const bool left_out = pass_.load_values(v, 0, part.size(), careful, to, plan_.width);
        spoiled = spoiled || left_out;
      });
    });
    if (in_place != nullptr) return in_place;
    std::fill(scratch.values + tile.size() * plan_.width, scratch.values + columns * plan_.width, T(0));
    return scratch.values;
  }

  // Whether values can be read where they are: whole, aligned vectors, row behind row.
  bool lies_well(const kv::Rows<T>& v) const {
    return v.stride == plan_.width && reinterpret_cast<std::uintptr_t>(v.data) % sizeof(simd::Pack<T>) == 0;
  }

  // `stride` columns of keys and rows of values; spoiled: load_values left some out.
  [[gnu::noinline]] void absorb_band(const TileRows& rows, Index first, const KeyTile& tile, bool all, Index stride,
                                     const T* tile_keys, const T* tile_values, bool spoiled, Scratch& scratch) const {
    // Of a tile that the border cuts, only the vectors of keys that some row of the band sees.
    std::uint64_t seen[std::size_t(band)] = {};
    Index skip = 0, columns = stride, count = tile.size();
    if (!all) {
      std::uint64_t some = 0;
      rows.each(first, first + band, [&](Index r, Row at) { some |= seen[r - first] = tile.seen(pass_.mask, at); });
      if (some == 0) return;
      skip = Index(std::countr_zero(some)) / simd::lanes<T> * simd::lanes<T>;
      columns = simd::whole<T>(mask::word - Index(std::countl_zero(some)) - skip);
      count = std::min(columns, tile.size() - skip);
      for (std::uint64_t& bits : seen) bits >>= skip;
    }
    const T* const values = tile_values + skip * plan_.width;
    const Index height = height_of(rows.count() - first);
    score_band(height, scratch.q + first * plan_.key_dim, plan_.key_dim, columns, tile_keys + skip, stride,
               scratch.scores);
    if (pass_.modified || !all || columns != count) {
      pass_.finish_scores(rows, first, first + height, tile, skip, count, all, seen, scratch.scores, columns);
    }
    if (spoiled) [[unlikely]]
      std::copy_n(scratch.scores, height * columns, scratch.kept_scores);
    constexpr std::integral_constant<Index, whole_step> whole;
    const bool moved = columns == whole_step ? scratch.state.absorb(first, height, scratch.scores, whole, whole)
                                             : scratch.state.absorb(first, height, scratch.scores, columns, columns);
    T* const out = scratch.out + first * plan_.width;
    multiply_band(moved ? simd::Onto::shrunk_sum : simd::Onto::sum, height, plan_.width, count, scratch.scores, columns,
                  values, plan_.width, out, plan_.width, scratch.state.shrink + first);
    if (spoiled) [[unlikely]]
      pass_.add_spoiled(rows, tile, skip, skip + count, std::min(band, rows.count() - first), scratch.kept_scores,
                        scratch.scores, columns, out, plan_.width, scratch.row);
  }

  // Rows of a band that are computed when there are `left`: a band, or an even number of rows at the end of a tile.
  static Index height_of(Index left) { return std::min(band, (left + 1) / 2 * 2); }

  // Scores of one band, in pieces of the depth so that no chain of additions is long.
  static void score_band(Index height, const T* q, Index dim, Index columns, const T* keys, Index stride, T* scores) {
    constexpr Index piece = 64;
    simd::Onto onto = simd::Onto::nothing;
    Index d = 0;
    do {
      multiply_band<T>(onto, height, columns, std::min(piece, dim - d), q + d, dim, keys + d * stride, stride, scores,
                       columns, nullptr);
      onto = simd::Onto::sum;
      d += piece;
    } while (d < dim);
  }

  const Pass<T, Source, Mask, Scores>& pass_;
  const Span batches_;
  const Index workers_;
  const Index group_;  // heads of a tile
  const TilePlan<T> plan_;
};

}  // namespace fovea::inline FOVEA_ISA::engine

// fovea/engine/attend.hpp

// Runs a recipe on a problem: o = normalizer(mask(scores(scale q k^T))) v, exact, in memory that does not grow with N x
// M.

namespace fovea::inline FOVEA_ISA {

namespace engine {

// A source, or the one that an object has.
template <class From>
auto source_of(const From& from) {
  if constexpr (kv::Source<From>) {
    return from;
  } else {
    return from.source();
  }
}

// The problem of queries against a source, or an ArgumentError in the name of `where`.
template <class Q, kv::Source Source, class Out>
auto make_problem(const char* where, const Q& q, const Source& source, Out&& out) {
  const auto queries = view(q);
  using T = std::remove_const_t<std::remove_pointer_t<decltype(queries.data)>>;
  // No sequences have whatever heads and widths are asked of them.
  const bool none = source.batch() == 0;
  const auto extents = [&](Index dim) {
    return View<const T>{nullptr, source.batch(), none ? queries.heads : source.kv_heads(), source.longest(), dim, 0, 0,
                         0};
  };
  const Index key_dim = none ? queries.dim : source.key_dim();
  const Index value_dim = none ? fovea::detail::output_view(out).dim : source.value_dim();
  return fovea::detail::checked_problem<T>(where, queries, extents(key_dim), extents(value_dim), out);
}

// Keys and values are those of `source`; k and v of the problem are there for their extents.
template <class T, kv::Source Source, class Mask, class Scores, exec::Executor Exec = exec::Serial>
void attend(const Problem<T>& problem, const Source& source, const Recipe<Mask, Scores>& recipe,
            const Exec& executor = {}) {
  const Shape shape = problem.shape();
  recipe.normalizer.check_for(problem.where, shape);
  const auto shape_of = [&](Index batch) {
    Shape own = shape;
    own.keys = source.length(batch);
    return own;
  };
  bool alike = true;
  for (Index b = 0; b < shape.batch; ++b) alike = alike && source.length(b) == source.length(0);

  using Bound = std::remove_const_t<decltype(recipe.visible.bind(problem.where, shape))>;
  using BoundScores = std::remove_const_t<decltype(recipe.scores.template bind<T>(problem.where, shape))>;
  const Index number = alike ? 1 : shape.batch;
  Several<Bound> masks(executor, number);
  Several<BoundScores> scores(executor, number);
  Several<Pass<T, Source, Bound, BoundScores>> passes(executor, number);
  for (Index b = 0; b < number; ++b) {
    const Shape own = shape.batch == 0 ? shape : shape_of(b);
    masks.add(recipe.visible.bind(problem.where, own));
    scores.add(recipe.scores.template bind<T>(problem.where, own));
    passes.add(problem, own, source, recipe.normalizer, masks[b], scores[b], !Scores::empty);
  }
  if (shape.batch == 0 || shape.heads == 0 || shape.queries == 0) return;
  if (few_queries(shape.queries, problem.group) && !recipe.tiles_only) return OverSplits(passes).run(executor);
  for (Index b = 0; b < number; ++b)
    OverTiles(passes[b], alike ? Span{0, shape.batch} : Span{b, b + 1}, exec::concurrency(executor)).run(executor);
}

template <class T, class Mask, class Scores, exec::Executor Exec = exec::Serial>
void attend(const Problem<T>& problem, const Recipe<Mask, Scores>& recipe, const Exec& executor = {}) {
  attend(problem, kv::Contiguous<T>{problem.k, problem.v}, recipe, executor);
}

}  // namespace engine

// Attention by recipe. q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E] (with_log_sum(out, log_sum) for the
// log-sums too), H a multiple of G; query head h reads kv head h / (H / G).
//
//   attend(q, k, v, out, softmax().mask(mask::causal() & mask::window(256)).score(score::alibi(slopes)), executor);
//
// Throws ArgumentError before any work when shapes or parts do not fit.
template <class Q, class K, class V, class Out, class Mask, class Scores, exec::Executor Exec = exec::Serial>
void attend(const Q& q, const K& k, const V& v, Out&& out, const Recipe<Mask, Scores>& recipe,
            const Exec& executor = {}) {
  engine::attend(make_problem("fovea::attend", q, k, v, out), recipe, executor);
}

// Attention over keys and values wherever they lie: `from` is a source (parts/kv/contiguous.hpp says what that is), or
// has one, as caches do. q [B,H,N,D], out [B,H,N,E]; every sequence has its own length M_b, and the queries stand at
// its end unless a mask says otherwise. Narrower storage types are widened to the type of q as they are read.
//
//   attend(q, cache, out, softmax().mask(mask::causal()), executor);
//
// Throws ArgumentError before any work when shapes or parts do not fit.
template <class Q, class From, class Out, class Mask, class Scores, exec::Executor Exec = exec::Serial>
void attend(const Q& q, const From& from, Out&& out, const Recipe<Mask, Scores>& recipe, const Exec& executor = {}) {
  const auto source = engine::source_of(from);
  engine::attend(engine::make_problem("fovea::attend", q, source, out), source, recipe, executor);
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/parts/combine/depthwise.hpp

// A depthwise convolution of the values on their grid, added to a finished result: each channel has a small kernel of
// its own. The values are zero beyond the edges of the grid.
//
//   o_(y,x),c += b_c + sum_u,w K_c,u,w v_(y + u - r, x + w - r),c   over 0 <= u, w < size,   r = (size - 1) / 2
//
// A correlation, as neural networks call convolution. Cost 2 size^2 operations for each number of the result.

namespace fovea::inline FOVEA_ISA::combine {

// The learned numbers, of any type: {.size = 3, .weights = {w.data(), w.data() + w.size()}}. Channel h E + e is number
// e of head h.
struct DepthwiseKernel {
  Index size = 0;                 // odd; zero is no convolution at all
  std::vector<double> weights{};  // [channels, size, size]
  std::vector<double> bias{};     // [channels], or empty

  bool empty() const { return size == 0; }

  void check_for(const char* where, Index channels) const {
    check(size >= 0 && (size % 2 == 1 || size == 0), where, "the size of a depthwise kernel must be odd, got ", size);
    check(Index(weights.size()) == channels * size * size, where,
          "a depthwise kernel needs size x size weights for each channel, wanted ", channels * size * size, ", got ",
          weights.size());
    check(bias.empty() || (size > 0 && Index(bias.size()) == channels), where,
          "a depthwise kernel needs a bias for each channel or none, wanted ", size > 0 ? channels : 0, ", got ",
          bias.size());
  }
};

namespace detail {

// `count` neighbouring tokens, one vector of channels (n of its lanes): rows and columns of the kernel that lie on the
// grid. v is the first token's, at the kernel's centre.
template <int count, bool whole, class T>
inline void convolve(const T* v, Index column_step, Index row_step, Index size, Span rows, Span columns, const T* taps,
                     Index width, const T* bias, T* out, Index out_step, Index n) {
  using namespace simd;
  const Index centre = size / 2;
  Pack<T> sum[count];
#pragma GCC unroll 8
  for (int i = 0; i < count; ++i) sum[i] = load(bias);
  for (Index u = rows.first; u < rows.last; ++u) {
    for (Index w = columns.first; w < columns.last; ++w) {
      const Pack<T> tap = load(taps + (u * size + w) * width);
      const T* const from = v + ((u - centre) * row_step + (w - centre) * column_step);
#pragma GCC unroll 8
      for (int i = 0; i < count; ++i)
        sum[i] = fma(tap, whole ? load(from + i * column_step) : load_some(from + i * column_step, n), sum[i]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < count; ++i) {
    T* const to = out + i * out_step;
    if constexpr (whole) {
      store(to, load(to) + sum[i]);
    } else {
      store_some(to, load_some(to, n) + sum[i], n);
    }
  }
}

}  // namespace detail

// Adds the convolution of v [B,G,height width,E] to out [B,H,height width,E], H a multiple of G, tokens row by row of
// the grid; head h reads v's head h / (H / G). The two must not overlap.
template <class V, class Out, exec::Executor Exec = exec::Serial>
void add_depthwise(const V& values, Out&& result, Index height, Index width, const DepthwiseKernel& kernel,
                   const Exec& executor = {}) {
  constexpr auto where = "fovea::combine::add_depthwise";
  const auto out = view(result);
  using T = std::remove_pointer_t<decltype(out.data)>;
  static_assert(!std::is_const_v<T>, "fovea: the output must not be const");
  const View<const T> v = view(values);
  check(height >= 0 && width >= 0 &&
            (width == 0 ? out.length == 0 : out.length % width == 0 && out.length / width == height),
        where, "the grid must hold the tokens, wanted ", out.length, ", got ", height, " times ", width);
  check(v.batch == out.batch && v.length == out.length && v.dim == out.dim, where,
        "v must have the batch, tokens and width of out, wanted [", out.batch, ", ", out.length, ", ", out.dim,
        "], got [", v.batch, ", ", v.length, ", ", v.dim, "]");
  check(out.heads == 0 || (v.heads > 0 && out.heads % v.heads == 0), where,
        "the heads of out must be a multiple of those of v, wanted a multiple of ", v.heads, ", got ", out.heads);
  kernel.check_for(where, out.heads * out.dim);
  if (kernel.empty() || out.batch * out.heads * out.length * out.dim == 0) return;

  // The kernel with its channels side by side, [H][size size + 1][whole vectors of E]; the bias comes last.
  const Index size = kernel.size, area = size * size, centre = size / 2, dim = simd::whole<T>(out.dim);
  std::vector<T> taps(std::size_t(out.heads * (area + 1) * dim), T(0));
  for (Index c = 0; c < out.heads * out.dim; ++c) {
    T* const to = taps.data() + c / out.dim * (area + 1) * dim + c % out.dim;
    for (Index a = 0; a < area; ++a) to[a * dim] = T(kernel.weights[std::size_t(c * area + a)]);
    if (!kernel.bias.empty()) to[area * dim] = T(kernel.bias[std::size_t(c)]);
  }

  const Index group = out.heads / v.heads;
  const auto on_grid = [&](Index at, Index extent) {  // of the kernel's rows, or columns, around place `at`
    return Span{std::max<Index>(centre - at, 0), std::min(size, extent - at + centre)};
  };
  const auto grid_row = [&](Index b, Index h, Index y) {
    const T* const kernel_of_head = taps.data() + h * (area + 1) * dim;
    const Span rows = on_grid(y, height);
    const auto tokens = [&](auto count, Index x) {
      const Span columns = count == 1 ? on_grid(x, width) : Span{0, size};
      const T* const from = v.row(b, h / group, y * width + x);
      T* const to = out.row(b, h, y * width + x);
      for (Index e = 0; e < out.dim; e += simd::lanes<T>) {
        const T* const tap = kernel_of_head + e;
        const auto vector = [&](auto whole) {
          detail::convolve<count, whole>(from + e, v.length_stride, width * v.length_stride, size, rows, columns, tap,
                                         dim, tap + area * dim, to + e, out.length_stride, out.dim - e);
        };
        if (e + simd::lanes<T> <= out.dim) {
          vector(std::true_type{});
        } else {
          vector(std::false_type{});
        }
      }
    };
    constexpr int most = simd::registers >= 32 ? 8 : 4;
    for (Index x = 0; x < width;) {
      const bool inner = x >= centre && x + most + centre <= width;
      if (inner) {
        tokens(std::integral_constant<int, most>{}, x);
      } else {
        tokens(std::integral_constant<int, 1>{}, x);
      }
      x += inner ? most : 1;
    }
  };
  executor.parallel_for(out.batch * out.heads * height, double(2 * area * width * dim), [&](Index begin, Index end) {
    for (Index item = begin; item < end; ++item)
      grid_row(item / (out.heads * height), item / height % out.heads, item % height);
  });
}

}  // namespace fovea::inline FOVEA_ISA::combine

// fovea/parts/resample/bilinear.hpp

// Tokens of a grid on another grid, by bilinear interpolation. Corners are not aligned: the grids have the same outer
// edges, as images have.

namespace fovea::inline FOVEA_ISA::resample {

// Between which places of an axis of `from` places lies place i of one of `to`, and how far behind the first.
struct Between {
  Index first = 0;
  Index second = 0;
  double behind = 0;  // in [0, 1]

  // At max(0, (i + 1/2) from / to - 1/2); the last place is followed by itself.
  static Between at(Index i, Index from, Index to) {
    const double place = std::max(0.0, (double(i) + 0.5) * double(from) / double(to) - 0.5);
    const Index first = std::min(Index(place), from - 1);
    return {first, std::min(first + 1, from - 1), std::min(place - double(first), 1.0)};
  }
};

// x [B,H,height width,D] to out [B,H,rows columns,D], tokens row by row of their grid.
template <class X, class Out, exec::Executor Exec = exec::Serial>
void bilinear(const X& tokens, Index height, Index width, Out&& result, Index rows, Index columns,
              const Exec& executor = {}) {
  constexpr auto where = "fovea::resample::bilinear";
  const auto out = view(result);
  using T = std::remove_pointer_t<decltype(out.data)>;
  static_assert(!std::is_const_v<T>, "fovea: the output must not be const");
  const View<const T> x = view(tokens);
  check(height > 0 && width > 0 && x.length / width == height && x.length % width == 0, where,
        "the grid must hold the tokens, wanted ", x.length, ", got ", height, " times ", width);
  check(rows >= 0 && columns >= 0 && out.batch == x.batch && out.heads == x.heads && out.length == rows * columns &&
            out.dim == x.dim,
        where, "the result must hold its grid, wanted [", x.batch, ", ", x.heads, ", ", rows * columns, ", ", x.dim,
        "], got [", out.batch, ", ", out.heads, ", ", out.length, ", ", out.dim, "]");
  executor.parallel_for(x.batch * x.heads * rows, double(8 * columns * x.dim), [&](Index begin, Index end) {
    using namespace simd;
    for (Index item = begin; item < end; ++item) {
      const Index b = item / rows / x.heads, h = item / rows % x.heads, i = item % rows;
      const Between down = Between::at(i, height, rows);
      for (Index j = 0; j < columns; ++j) {
        const Between across = Between::at(j, width, columns);
        const T* const corner[4] = {
            x.row(b, h, down.first * width + across.first), x.row(b, h, down.first * width + across.second),
            x.row(b, h, down.second * width + across.first), x.row(b, h, down.second * width + across.second)};
        const Pack<T> lower(T(down.behind)), upper(T(1 - down.behind)), right(T(across.behind)),
            left(T(1 - across.behind));
        T* const to = out.row(b, h, i * columns + j);
        const auto mix = [&](auto&& read) {
          return fma(upper, fma(left, read(corner[0]), right * read(corner[1])),
                     lower * fma(left, read(corner[2]), right * read(corner[3])));
        };
        Index d = 0;
        for (; d + lanes<T> <= x.dim; d += lanes<T>) store(to + d, mix([&](const T* p) { return load(p + d); }));
        if (d < x.dim) store_some(to + d, mix([&](const T* p) { return load_some(p + d, x.dim - d); }), x.dim - d);
      }
    }
  });
}

}  // namespace fovea::inline FOVEA_ISA::resample

// fovea/parts/resample/mean.hpp

// Means of tokens: over segments of a sequence, and over the cells of a grid.

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

// fovea/parts/score/bias.hpp

// Additive tables: a dense bias that broadcasts, a bias per key, and a table over relative positions.

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

// fovea/agent/agent.hpp

// Agent attention: a few agent tokens first collect from the keys, then every query asks the agents.
// Han et al., "Agent Attention: On the Integration of Softmax and Linear Attention", ECCV 2024, arXiv:2312.08874.
//
//   u_a = sum_j softmax_j(scale a_a . k_j + B1_aj) v_j,   o_i = sum_a softmax_a(scale q_i . a_a + B2_ia) u_a
//
// In the vision form the agents are the means of the queries over the cells of their grid, and o gains a depthwise
// convolution of the values on the grid.
//
// Approximates dense attention; exactly it when agents are the keys and every agent collects its own value alone, or
// agents are the queries and every query asks its own agent alone (by biases of -infinity). Exact for its definition.
// Not causal: agents have seen all queries. Cost O((N + M) n (D + E)) for n agents.

namespace fovea::inline FOVEA_ISA {

// The biases of both steps, of the scalar type of the call; a view of no data is no bias.
template <class T>
struct AgentBiases {
  View<const T> collect;  // B1 [B or 1, H or 1, n, M]
  View<const T> ask;      // B2 [B or 1, H or 1, N, n]
};

// RowMajor tensors or matrices whose last axes are [n, M] and [N, n].
template <class B1, class B2>
auto agent_biases(const B1& collect, const B2& ask) {
  const auto first = view(collect);
  return AgentBiases<std::remove_const_t<std::remove_pointer_t<decltype(first.data)>>>{first, view(ask)};
}

struct AgentOptions {
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

struct VisionAgentOptions {
  Index height = 0;  // grid of the queries; required
  Index width = 0;
  Index agents = 7;      // cells along each axis: agents squared in all
  Index key_height = 0;  // grid of the keys when it is another one
  Index key_width = 0;
  bool class_token = false;             // token 0 of queries and keys lies outside the grids
  combine::DepthwiseKernel residual{};  // [H E, size, size], of the values on the grid of the queries, 3 in the paper
  std::optional<double> scale = {};     // 1 / sqrt(D) when empty
};

namespace detail {

// All that can be refused about one step is refused before the first one is taken.
template <class T>
void check_agent_step(const Problem<T>& problem, const Recipe<>& recipe, const View<const T>& bias) {
  recipe.normalizer.check_for(problem.where, problem.shape());
  if (bias.data != nullptr) (void)score::bias(bias).template bind<T>(problem.where, problem.shape());
}

template <class T, exec::Executor Exec>
void agent_step(const Problem<T>& problem, const Recipe<>& recipe, const View<const T>& bias, const Exec& executor) {
  if (bias.data != nullptr) {
    engine::attend(problem, recipe.score(score::bias(bias)), executor);
  } else {
    engine::attend(problem, recipe, executor);
  }
}

// Both steps as problems; `collected` is room for [B,H,n,E].
template <class T>
struct AgentSteps {
  Problem<T> collect, ask;
  Recipe<> recipe;

  AgentSteps(const Problem<T>& problem, const View<const T>& agents, const View<T>& collected,
             std::optional<double> scale)
      : collect{agents, problem.k, problem.v, collected, {}, problem.group, problem.where},
        ask{problem.q, agents, collected, problem.out, {}, 1, problem.where},
        recipe(softmax(scale)) {}

  void check_with(const AgentBiases<T>& biases) const {
    check_agent_step(collect, recipe, biases.collect);
    check_agent_step(ask, recipe, biases.ask);
  }
  template <exec::Executor Exec>
  void run(const AgentBiases<T>& biases, const Exec& executor) const {
    agent_step(collect, recipe, biases.collect, executor);
    agent_step(ask, recipe, biases.ask, executor);
  }
};

template <class T>
void check_agents(const Problem<T>& problem, Index agents) {
  check(problem.log_sum.data == nullptr, problem.where, "there is no log-sum of two steps");
  check(agents > 0, problem.where, "there must be agents, got ", agents);
  const Index tokens = std::max(problem.q.length, problem.k.length);
  check(agents <= std::max<Index>(tokens, 1), problem.where, "there must not be more agents than the ", tokens,
        " tokens, got ", agents);
}

// The tokens of a grid behind a class token.
template <class T>
View<T> without_class_token(View<T> x, bool class_token) {
  if (class_token) {
    x.data += x.length_stride;
    x.length -= 1;
  }
  return x;
}

}  // namespace detail

// The plain form, with agents of the caller's: q [B,H,N,D], agents [B,H,n,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E],
// H a multiple of G; or matrices. With biases, agent_biases(B1, B2).
template <class Q, class A, class K, class V, class Out, class T, exec::Executor Exec = exec::Serial>
void agent(const Q& q, const A& agents, const K& k, const V& v, Out&& out, const AgentBiases<T>& biases,
           const AgentOptions& options = {}, const Exec& executor = {}) {
  constexpr auto where = "fovea::agent";
  const auto problem = make_problem(where, q, k, v, out);
  const View<const T> a = view(agents);
  const auto& shape = problem.q;
  detail::check_agents(problem, a.length);
  check(a.batch == shape.batch && a.heads == shape.heads && a.dim == shape.dim, where,
        "agents must have the batch, heads and width of q, wanted [", shape.batch, ", ", shape.heads, ", n, ",
        shape.dim, "], got [", a.batch, ", ", a.heads, ", ", a.length, ", ", a.dim, "]");
  const Extents extents{a.batch, a.heads, a.length, problem.v.dim};
  const auto memory = engine::allocate_scratch<T>(std::max<Index>(a.batch * a.heads * a.length * problem.v.dim, 1));
  const detail::AgentSteps<T> steps(problem, a, view(memory.get(), extents), options.scale);
  steps.check_with(biases);
  steps.run(biases, executor);
}

template <class Q, class A, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void agent(const Q& q, const A& agents, const K& k, const V& v, Out&& out, const AgentOptions& options = {},
           const Exec& executor = {}) {
  using T = std::remove_const_t<std::remove_pointer_t<decltype(view(agents).data)>>;
  agent(q, agents, k, v, out, AgentBiases<T>{}, options, executor);
}

// The vision form: tokens row by row of their grid, behind a class token when there is one. Arrays as above without the
// agents; the biases count the class token as key 0 and query 0. With a key grid of its own the values are brought to
// the grid of the queries, by bilinear interpolation, before the convolution. The class token gets no convolution.
template <class Q, class K, class V, class Out, class T, exec::Executor Exec = exec::Serial>
void vision_agent(const Q& q, const K& k, const V& v, Out&& out, const AgentBiases<T>& biases,
                  const VisionAgentOptions& options, const Exec& executor = {}) {
  constexpr auto where = "fovea::vision_agent";
  const auto problem = make_problem(where, q, k, v, out);
  const Index height = options.height, width = options.width, before = options.class_token ? 1 : 0;
  const bool other_grid = options.key_height != 0 || options.key_width != 0;
  const Index key_height = other_grid ? options.key_height : height, key_width = other_grid ? options.key_width : width;
  const auto fits = [&](Index h, Index w, Index tokens) {
    return h > 0 && w > 0 && (tokens - before) % w == 0 && (tokens - before) / w == h;
  };
  check(fits(height, width, problem.q.length), where, "the grid must hold the queries, wanted ",
        problem.q.length - before, ", got ", height, " times ", width);
  check(fits(key_height, key_width, problem.k.length), where, "the grid must hold the keys, wanted ",
        problem.k.length - before, ", got ", key_height, " times ", key_width);
  check(options.agents > 0, where, "there must be agents, got ", options.agents);
  check(options.agents <= height * width / options.agents, where, "there must not be more agents than the ",
        height * width, " tokens of the grid, got ", options.agents, " squared");
  const Index number = options.agents * options.agents;
  detail::check_agents(problem, number);
  options.residual.check_for(where, problem.out.heads * problem.out.dim);

  const Extents all{problem.q.batch, problem.q.heads, number, problem.q.dim};
  const auto room =
      engine::allocate_scratch<T>(std::max<Index>(all.batch * all.heads * number * (problem.q.dim + problem.v.dim), 1));
  const View<T> agents = view(room.get(), all);
  T* const behind = room.get() + all.batch * all.heads * number * all.dim;
  const detail::AgentSteps<T> steps(problem, agents, view(behind, {all.batch, all.heads, number, problem.v.dim}),
                                    options.scale);
  steps.check_with(biases);

  resample::cell_means(detail::without_class_token(problem.q, options.class_token), height, width, agents,
                       options.agents, options.agents, executor);
  steps.run(biases, executor);
  if (options.residual.empty()) return;
  const View<const T> values = detail::without_class_token(problem.v, options.class_token);
  const View<T> on_grid = detail::without_class_token(problem.out, options.class_token);
  if (key_height == height && key_width == width) {
    combine::add_depthwise(values, on_grid, height, width, options.residual, executor);
  } else {
    const Extents wide{values.batch, values.heads, height * width, values.dim};
    const auto memory =
        engine::allocate_scratch<T>(std::max<Index>(wide.batch * wide.heads * wide.length * wide.dim, 1));
    const View<T> widened = view(memory.get(), wide);
    resample::bilinear(values, key_height, key_width, widened, height, width, executor);
    combine::add_depthwise(widened, on_grid, height, width, options.residual, executor);
  }
}

template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void vision_agent(const Q& q, const K& k, const V& v, Out&& out, const VisionAgentOptions& options,
                  const Exec& executor = {}) {
  using T = std::remove_const_t<std::remove_pointer_t<decltype(view(q).data)>>;
  vision_agent(q, k, v, out, AgentBiases<T>{}, options, executor);
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/parts/mask/lists.hpp

// Visibility by lists: for each block of queries an ascending list of spans of keys. What tables of blocks and of spans
// have in common.

namespace fovea::inline FOVEA_ISA::mask {

// A table with members query_block, batch, heads, query_blocks and begin as BlockTable has them, and keys(n), the span
// of keys of entry n.
template <class Table>
class BoundLists {
 public:
  BoundLists(std::shared_ptr<const Table> table, const Shape& shape)
      : table_(std::move(table)),
        heads_of_one_(table_->heads == 1 ? std::max<Index>(shape.heads, 1) : shape.heads / table_->heads),
        by_head_(table_->heads > shape.kv_heads) {}

  std::uint64_t seen(Row row, Span keys) const {
    const Span list = list_of(row.batch, row.head / heads_of_one_, row.query / table_->query_block);
    std::uint64_t bits = 0;
    for (Index n = from(list, keys.first); n < list.last && table_->keys(n).first < keys.last; ++n)
      bits |= bits_of(table_->keys(n), keys);
    return bits;
  }

  Cover cover(const Region& region) const {
    if (region.heads.empty() || region.queries.empty() || region.keys.empty()) return Cover::none;
    bool all = true, some = false;
    each_list(region, [&](Span list) {
      Index n = from(list, region.keys.first), seen = region.keys.first;  // keys before `seen` are seen
      some = some || (n < list.last && table_->keys(n).first < region.keys.last);
      while (n < list.last && table_->keys(n).first <= seen && seen < region.keys.last) seen = table_->keys(n++).last;
      all = all && seen >= region.keys.last;
      return !some || all;
    });
    return !some ? Cover::none : all ? Cover::full : Cover::part;
  }

  Grain grain() const { return {table_->query_block, table_->key_grain(), by_head_}; }

  template <class F>
  void each_span(const Region& region, F&& f) const {
    if (region.heads.empty() || region.queries.empty() || region.keys.empty()) return;
    std::array<Span, most_merged> lists;  // what is left of each
    Index number = 0;
    const bool few = each_list(region, [&](Span list) {
      if (number == most_merged) return false;
      lists[std::size_t(number++)] = {from(list, region.keys.first), list.last};
      return true;
    });
    if (number == 1) {
      for (Index n = lists[0].first; n < lists[0].last && table_->keys(n).first < region.keys.last; ++n)
        f(intersect(table_->keys(n), region.keys), true);
    } else if (few) {
      merge(lists.data(), number, region.keys, f);
    } else {
      scan(region, f);
    }
  }

 private:
  static constexpr Index most_merged = 64;

  Span list_of(Index b, Index h, Index block) const { return table_->list(table_->batch == 1 ? 0 : b, h, block); }

  // Calls f(list) for the lists of a region until it returns false; whether it never did.
  template <class F>
  bool each_list(const Region& region, F&& f) const {
    const Span blocks{region.queries.first / table_->query_block, (region.queries.last - 1) / table_->query_block + 1};
    const Span heads{region.heads.first / heads_of_one_, (region.heads.last - 1) / heads_of_one_ + 1};
    for (Index h = heads.first; h < heads.last; ++h) {
      for (Index i = blocks.first; i < blocks.last; ++i) {
        if (!f(list_of(region.batch, h, i))) return false;
      }
    }
    return true;
  }

  // The first entry of a list that ends behind `key`.
  Index from(Span list, Index key) const {
    while (!list.empty()) {
      const Index middle = list.first + list.size() / 2;
      if (table_->keys(middle).last <= key) {
        list.first = middle + 1;
      } else {
        list.last = middle;
      }
    }
    return list.first;
  }

  // The union of some lists, cut where one of them begins or ends.
  template <class F>
  void merge(Span* lists, Index number, Span keys, F&& f) const {
    for (Index at = keys.first; at < keys.last;) {
      Index next = keys.last, seeing = 0;
      for (Index i = 0; i < number; ++i) {
        Span& list = lists[i];
        if (!list.empty() && table_->keys(list.first).last <= at) ++list.first;
        if (list.empty()) continue;
        const Span span = table_->keys(list.first);
        const bool sees = span.first <= at;
        seeing += sees ? 1 : 0;
        next = std::min(next, sees ? span.last : span.first);
      }
      if (seeing > 0) f(Span{at, next}, seeing == number);
      at = next;
    }
  }

  // For more lists than are merged: one word of keys after the other.
  template <class F>
  void scan(const Region& region, F&& f) const {
    Region part = region;
    for (Index first = region.keys.first; first < region.keys.last; first += word) {
      part.keys = {first, std::min(first + word, region.keys.last)};
      const Cover seen = cover(part);
      if (seen != Cover::none) f(part.keys, seen == Cover::full);
    }
  }

  std::shared_ptr<const Table> table_;
  Index heads_of_one_;  // query heads that share a list
  bool by_head_;
};

// Refuses a table whose lists are not as many as a call needs. What stands in them, the table checks itself.
template <class Table>
void check_lists(const Table& t, const char* where, const Shape& shape) {
  check(t.query_blocks == (shape.queries + t.query_block - 1) / t.query_block, where,
        "a table must have a list for each query block, wanted ", (shape.queries + t.query_block - 1) / t.query_block,
        ", got ", t.query_blocks);
  check(t.batch > 0 && t.heads > 0, where, "a table must have at least one batch and head, got ", t.batch, " and ",
        t.heads);
  check(t.batch == 1 || t.batch == shape.batch, where, "a table must be shared or have the batch of q, wanted ",
        shape.batch, ", got ", t.batch);
  check(t.heads == 1 || t.heads == shape.heads || t.heads == shape.kv_heads, where,
        "a table must be shared or have the heads of q or of k, wanted ", shape.heads, " or ", shape.kv_heads, ", got ",
        t.heads);
  const Index lists = t.batch * t.heads * t.query_blocks;
  check(Index(t.begin.size()) == lists + 1 && t.begin.front() == 0 && t.begin.back() == t.entries() &&
            std::is_sorted(t.begin.begin(), t.begin.end()),
        where, "the lists of a table must cover its entries in order, ", lists, " lists of ", t.entries(),
        " entries in all");
}

}  // namespace fovea::inline FOVEA_ISA::mask

// fovea/parts/mask/blocks.hpp

// Block-sparse visibility: for each block of queries the blocks of keys it sees.

namespace fovea::inline FOVEA_ISA::mask {

// A table of key blocks for each query block, shared by batches and heads or one for each. A plain object: make it
// once, keep it, copy it, use it in several layers or steps.
struct BlockTable {
  Index query_block = 0;        // queries of a block; the last block may be shorter
  Index key_block = 0;          // keys of a block; the last block may be shorter
  Index batch = 1;              // 1 (shared) or B
  Index heads = 1;              // 1 (shared), the kv heads or the query heads
  Index query_blocks = 0;       // ceil(N / query_block)
  std::vector<Index> begin{};   // [batch x heads x query_blocks + 1] where the list of a query block begins
  std::vector<Index> blocks{};  // the lists: key blocks in ascending order

  // The list of a query block.
  Span list(Index b, Index h, Index query) const {
    const std::size_t at = std::size_t((b * heads + h) * query_blocks + query);
    return {begin[at], begin[at + 1]};
  }

  Index entries() const { return Index(blocks.size()); }
  Index key_grain() const { return key_block; }
  // The keys of an entry; of the last block some may not be there.
  Span keys(Index entry) const {
    const Index block = blocks[std::size_t(entry)];
    return {block * key_block, (block + 1) * key_block};
  }

  // lists[(b * heads + h) * query_blocks + i] are the key blocks of query block i, in any order.
  static BlockTable from_lists(Index query_block, Index key_block, Index query_blocks,
                               std::vector<std::vector<Index>> lists, Index batch = 1, Index heads = 1) {
    constexpr auto where = "fovea::mask::BlockTable::from_lists";
    check(query_blocks >= 0 && batch > 0 && heads > 0, where, "there must be at least one batch and head, got ", batch,
          " and ", heads);
    check(Index(lists.size()) == batch * heads * query_blocks, where,
          "there must be a list for each query block, wanted ", batch * heads * query_blocks, ", got ", lists.size());
    BlockTable table{query_block, key_block, batch, heads, query_blocks, {0}, {}};
    for (auto& list : lists) {
      std::sort(list.begin(), list.end());
      table.blocks.insert(table.blocks.end(), list.begin(), list.end());
      table.begin.push_back(Index(table.blocks.size()));
    }
    return table;
  }

  // From a matrix of booleans, or of numbers that are zero where a block is not seen, [query blocks x key blocks].
  template <class Matrix>
  static BlockTable from_matrix(Index query_block, Index key_block, const Matrix& seen) {
    BlockTable table{query_block, key_block, 1, 1, Index(seen.rows()), {0}, {}};
    for (Index i = 0; i < Index(seen.rows()); ++i) {
      for (Index j = 0; j < Index(seen.cols()); ++j) {
        if (seen(i, j)) table.blocks.push_back(j);
      }
      table.begin.push_back(Index(table.blocks.size()));
    }
    return table;
  }

  // The blocks of which a mask shows anything, for a call of that shape. The mask must not depend on batch and head.
  // Join the result with the mask itself to hide what single keys of a block hide.
  template <Mask M>
  static BlockTable from_mask(Index query_block, Index key_block, const M& mask, const Shape& shape) {
    constexpr auto where = "fovea::mask::BlockTable::from_mask";
    check(query_block > 0 && key_block > 0, where, "blocks must have a positive size, got ", query_block, " and ",
          key_block);
    const auto bound = mask.bind(where, shape);
    const Index query_blocks = (shape.queries + query_block - 1) / query_block;
    BlockTable table{query_block, key_block, 1, 1, query_blocks, {0}, {}};
    for (Index i = 0; i < query_blocks; ++i) {
      const Span queries{i * query_block, std::min((i + 1) * query_block, shape.queries)};
      for (Index j = 0; j * key_block < shape.keys; ++j) {
        const Span keys{j * key_block, std::min((j + 1) * key_block, shape.keys)};
        if (shows_any(bound, queries, keys, shape.heads)) table.blocks.push_back(j);
      }
      table.begin.push_back(Index(table.blocks.size()));
    }
    return table;
  }

 private:
  template <BoundMask M>
  static bool shows_any(const M& mask, Span queries, Span keys, Index heads) {
    const Cover cover = mask.cover({0, {0, heads}, queries, keys});
    if (cover != Cover::part) return cover == Cover::full;
    for (Index i = queries.first; i < queries.last; ++i) {
      for (Index j = keys.first; j < keys.last; j += word) {
        if (mask.seen({0, 0, i}, {j, std::min(j + word, keys.last)}) != 0) return true;
      }
    }
    return false;
  }
};

struct Blocks {
  std::shared_ptr<const BlockTable> table;

  BoundLists<BlockTable> bind(const char* where, const Shape& shape) const {
    const BlockTable& t = *table;
    check(t.query_block > 0 && t.key_block > 0, where, "blocks must have a positive size, got ", t.query_block, " and ",
          t.key_block);
    check_lists(t, where, shape);
    const Index key_blocks = (shape.keys + t.key_block - 1) / t.key_block;
    for (std::size_t list = 0; list + 1 < t.begin.size(); ++list) {
      Index last = -1;
      for (Index n = t.begin[list]; n < t.begin[list + 1]; ++n) {
        const Index block = t.blocks[std::size_t(n)];
        check(block > last, where, "the blocks of a list must ascend and none stand twice, got ", block, " after ",
              last);
        check(block < key_blocks, where, "a block must lie among the ", key_blocks, " key blocks, got ", block);
        last = block;
      }
    }
    return {table, shape};
  }
};

// Query i sees key j when the table lists the block of j for the block of i. Join it with other masks for blocks that
// are seen in part. The table is copied.
inline Blocks blocks(BlockTable table) { return {std::make_shared<const BlockTable>(std::move(table))}; }

}  // namespace fovea::inline FOVEA_ISA::mask

// fovea/parts/mask/interval.hpp

// Masks of one interval of keys a query whose two ends never move back as the query advances: causal, window and
// prefix.

namespace fovea::inline FOVEA_ISA::mask {

// Base of a bound mask; Derived gives Span interval(Index query).
template <class Derived>
struct MonotoneInterval {
  std::uint64_t seen(Row row, Span keys) const { return bits_of(self().interval(row.query), keys); }

  Cover cover(const Region& region) const {
    if (region.queries.empty() || region.keys.empty()) return Cover::none;
    const Span first = self().interval(region.queries.first);
    const Span last = self().interval(region.queries.last - 1);
    if (first.contains(region.keys) && last.contains(region.keys)) return Cover::full;
    const Span all{first.first, last.last};
    return intersect(all, region.keys).empty() ? Cover::none : Cover::part;
  }

 private:
  const Derived& self() const { return static_cast<const Derived&>(*this); }
};

}  // namespace fovea::inline FOVEA_ISA::mask

// fovea/parts/mask/causal.hpp

// A query sees the keys at its own position and before it.

namespace fovea::inline FOVEA_ISA::mask {

struct BoundCausal : MonotoneInterval<BoundCausal> {
  Index offset;  // position of query 0

  explicit BoundCausal(Index first) : offset(first) {}
  Span interval(Index query) const { return {0, query + offset + 1}; }
};

struct Causal {
  Alignment alignment = Alignment::bottom_right;
  bool hides = true;  // else every key is seen: a choice at run time that costs no second kernel

  // Query 0 behind the last key sees them all.
  BoundCausal bind(const char*, const Shape& shape) const {
    return BoundCausal(hides ? shape.offset(alignment) : shape.keys);
  }
};

// Key j is seen by query i when j <= i + M - N (bottom_right) or j <= i (top_left).
constexpr Causal causal(Alignment alignment = Alignment::bottom_right) { return {alignment}; }

// The same when wanted, else every key is seen.
constexpr Causal causal_if(bool wanted, Alignment alignment = Alignment::bottom_right) { return {alignment, wanted}; }

}  // namespace fovea::inline FOVEA_ISA::mask

// fovea/engine/by_key_block.hpp

// Attention over a table in which neighbouring queries list different key blocks, so that a tile of queries would have
// to visit the blocks of all of them. Here the key blocks come first: the queries that list a block are gathered and
// attend to it alone, and what they get from their blocks is merged by log-sum. Pairs that the table does not list are
// computed only between a block and causal queries inside it. Lu et al., "MoBA: Mixture of Block Attention", 2025,
// arXiv:2502.13189, for the idea.

namespace fovea::inline FOVEA_ISA::engine {

template <class T>
class ByKeyBlock {
 public:
  // The mask is the table's, and causal too when `position`, that of query 0, is given.
  ByKeyBlock(const Problem<T>& problem, std::optional<double> scale, const mask::BlockTable& table,
             std::optional<Index> position)
      : problem_(problem),
        softmax_(softmax(scale)),
        table_(table),
        position_(position),
        key_blocks_((problem.k.length + table.key_block - 1) / table.key_block),
        shared_(table.heads == 1 ? problem.q.heads : problem.q.heads / table.heads) {
    // Segments of so many queries that a block finds a full gathering among them, if the lists are alike.
    const Index lists = table.batch * table.heads * table.query_blocks;
    const double listed = std::max(double(table.entries()) / double(lists), 1.0);
    const double wanted = std::min(double(gathered) * double(key_blocks_) / listed, double(problem.q.length));
    const Index blocks = std::max<Index>(Index(wanted) / table.query_block, 1);
    segment_ = blocks * table.query_block;
    for (Index list = 0; list < lists; list += table.query_blocks) {
      for (Index a = 0; a < table.query_blocks; a += blocks) {
        const Index end = std::min(a + blocks, table.query_blocks);
        most_listed_ =
            std::max(most_listed_, table.begin[std::size_t(list + end)] - table.begin[std::size_t(list + a)]);
      }
    }
  }

  template <class Exec>
  void run(const Exec& executor) const {
    const auto& q = problem_.q;
    const Index segments = (q.length + segment_ - 1) / segment_;
    const double pairs = double(most_listed_) * double(table_.query_block) * double(table_.key_block);
    distribute<T>(executor, q.batch * q.heads * segments, 2 * pairs * double(q.dim + problem_.v.dim), scratch_size(),
                  [&](Index item, T* memory) {
                    // The last queries first: when causal they have most to do.
                    const Index s = segments - 1 - item % segments, head = item / segments % q.heads;
                    attend_segment(item / segments / q.heads, head,
                                   {s * segment_, std::min((s + 1) * segment_, q.length)}, memory);
                  });
  }

 private:
  static constexpr Index gathered = 384;  // queries of a gathering: what the tiles of the engine hold
  static constexpr Index ahead = 6;       // rows that are asked for before their turn

  static_assert(sizeof(Index) % sizeof(T) == 0);
  static constexpr Index per_index = Index(sizeof(Index) / sizeof(T));  // elements that an index takes up

  struct Scratch {
    T *q, *out, *log_sum;    // of a gathering
    T *reference, *total;    // of the queries of a segment: o_i = out_i / total_i, both relative to exp(reference_i)
    Index *begin, *queries;  // the queries that list each block
    Index* rows;             // the queries that list one block
  };

  Index scratch_size() const {
    return whole_lines<T>(gathered * problem_.q.dim) + whole_lines<T>(gathered * problem_.v.dim) +
           whole_lines<T>(gathered) + 2 * whole_lines<T>(segment_) + whole_lines<T>((key_blocks_ + 2) * per_index) +
           whole_lines<T>(most_listed_ * per_index) + whole_lines<T>(segment_ * per_index);
  }

  void attend_segment(Index batch, Index head, Span queries, T* memory) const {
    Carve<T> carve(memory);
    const auto indices = [&](Index n) { return reinterpret_cast<Index*>(carve(n * per_index)); };
    Scratch s{};
    s.q = carve(gathered * problem_.q.dim);
    s.out = carve(gathered * problem_.v.dim);
    s.log_sum = carve(gathered);
    s.reference = carve(segment_);
    s.total = carve(segment_);
    s.begin = indices(key_blocks_ + 2);
    s.queries = indices(most_listed_);
    s.rows = indices(segment_);
    sort(batch, head, queries, s);
    for (Index i = queries.first; i < queries.last; ++i) {
      s.reference[i - queries.first] = -simd::infinity<T>;
      s.total[i - queries.first] = T(0);
      std::fill_n(problem_.out.row(batch, head, i), problem_.v.dim, T(0));
    }
    for (Index b = 0; b < key_blocks_; ++b) attend_block(batch, head, queries, b, s);
    for (Index i = queries.first; i < queries.last; ++i) finish(batch, head, i, i - queries.first, s);
  }

  // The query blocks that list each key block, ascending: begin[b] to begin[b + 1].
  void sort(Index batch, Index head, Span queries, const Scratch& s) const {
    const Span blocks{queries.first / table_.query_block, (queries.last - 1) / table_.query_block + 1};
    const auto each = [&](auto&& f) {
      for (Index a = blocks.first; a < blocks.last; ++a) {
        const Span list = table_.list(table_.batch == 1 ? 0 : batch, head / shared_, a);
        for (Index n = list.first; n < list.last; ++n) f(table_.blocks[std::size_t(n)], a);
      }
    };
    std::fill_n(s.begin, key_blocks_ + 2, Index{0});
    each([&](Index b, Index) { ++s.begin[b + 2]; });
    for (Index b = 0; b < key_blocks_; ++b) s.begin[b + 2] += s.begin[b + 1];
    each([&](Index b, Index a) { s.queries[s.begin[b + 1]++] = a; });
  }

  void attend_block(Index batch, Index head, Span queries, Index b, const Scratch& s) const {
    const Span keys{b * table_.key_block, std::min((b + 1) * table_.key_block, problem_.k.length)};
    // The queries that list the block and do not stand before it; the first `inside` of them do not see all of it.
    Index count = 0, inside = 0;
    for (Index n = s.begin[b]; n < s.begin[b + 1]; ++n) {
      const Index a = s.queries[n] * table_.query_block;
      for (Index i = a; i < std::min(a + table_.query_block, problem_.q.length); ++i) {
        if (position_ && *position_ + i < keys.first) continue;
        inside += position_ && *position_ + i < keys.last - 1 ? 1 : 0;
        s.rows[count++] = i;
      }
    }
    for (Index first = 0, last = 0; first < inside; first = last) {
      while (last < inside && s.rows[last] - s.rows[first] < gathered) ++last;
      attend_inside(batch, head, {s.rows[first], s.rows[last - 1] + 1}, keys, s);
      for (Index n = first; n < last; ++n) merge(batch, head, queries.first, s.rows[n], s.rows[n] - s.rows[first], s);
    }
    const Index behind = count - inside, parts = (behind + gathered - 1) / gathered;
    for (Index part = 0; part < parts; ++part) {
      const Index first = inside + behind * part / parts, last = inside + behind * (part + 1) / parts;
      attend_behind(batch, head, s.rows + first, last - first, keys, s);
      for (Index n = first; n < last; ++n) {
        if (n + ahead < last) prefetch(problem_.out.row(batch, head, s.rows[n + ahead]), problem_.v.dim);
        merge(batch, head, queries.first, s.rows[n], n - first, s);
      }
    }
  }

  // Gathered queries that see the whole block.
  void attend_behind(Index batch, Index head, const Index* rows, Index count, Span keys, const Scratch& s) const {
    const Index dim = problem_.q.dim;
    for (Index r = 0; r < count; ++r) {
      if (r + ahead < count) prefetch(problem_.q.row(batch, head, rows[r + ahead]), dim);
      simd::copy(s.q + r * dim, problem_.q.row(batch, head, rows[r]), dim);
    }
    attend_part(part(batch, head, {s.q, 1, 1, count, dim, 0, 0, dim}, keys, s), mask::Everything{});
  }

  // A range of queries whose positions lie in the block. Those that do not list it are computed for nothing.
  void attend_inside(Index batch, Index head, Span queries, Span keys, const Scratch& s) const {
    const View<const T> q{problem_.q.row(batch, head, queries.first),
                          1,
                          1,
                          queries.size(),
                          problem_.q.dim,
                          0,
                          0,
                          problem_.q.length_stride};
    attend_part(part(batch, head, q, {keys.first, *position_ + queries.last}, s), mask::causal());
  }

  Problem<T> part(Index batch, Index head, const View<const T>& q, Span keys, const Scratch& s) const {
    const Index kv_head = head / problem_.group;
    const auto rows = [&](const View<const T>& x) {
      return View<const T>{x.row(batch, kv_head, keys.first), 1, 1, keys.size(), x.dim, 0, 0, x.length_stride};
    };
    const Index width = problem_.v.dim;
    return {q,
            rows(problem_.k),
            rows(problem_.v),
            {s.out, 1, 1, q.length, width, 0, 0, width},
            {s.log_sum, 1, 1, q.length, 1, 0, 0, 1},
            1,
            problem_.where};
  }

  // By tiles however few the queries are: their results must not depend on how many were gathered.
  template <class Mask>
  void attend_part(const Problem<T>& part, const Mask& mask) const {
    using Source = kv::Contiguous<T>;
    const auto bound = mask.bind(part.where, part.shape());
    const auto scores = softmax_.scores.template bind<T>(part.where, part.shape());
    const Source source{part.k, part.v};
    const Pass<T, Source, std::remove_const_t<decltype(bound)>, std::remove_const_t<decltype(scores)>> pass(
        part, part.shape(), source, softmax_.normalizer, bound, scores, false);
    OverTiles(pass, {0, part.q.batch}, 1).run(exec::Serial());
  }

  // Adds row r of the last part to the result of query i.
  void merge(Index batch, Index head, Index segment, Index i, Index r, const Scratch& s) const {
    using simd::Pack;
    const T log_sum = s.log_sum[r];
    if (log_sum == -simd::infinity<T>) return;
    T& reference = s.reference[i - segment];
    T& total = s.total[i - segment];
    T* const out = problem_.out.row(batch, head, i);
    const T* const more = s.out + r * problem_.v.dim;
    if (log_sum > reference) {
      const T shrink = std::exp(reference - log_sum);
      total = total * shrink + T(1);
      reference = log_sum;
      simd::combine(out, more, problem_.v.dim, [shrink](Pack<T> o, Pack<T> m) { return fma(o, Pack<T>(shrink), m); });
    } else {
      const T weight = std::exp(log_sum - reference);
      total += weight;
      simd::add_scaled(out, weight, more, problem_.v.dim);
    }
  }

  [[gnu::always_inline]] static void prefetch(const T* row, Index dim) {
    for (Index d = 0; d < dim; d += Index(scratch_alignment / sizeof(T))) __builtin_prefetch(row + d);
  }

  void finish(Index batch, Index head, Index i, Index at, const Scratch& s) const {
    const T total = s.total[at];
    T* const out = problem_.out.row(batch, head, i);
    if (total != T(0)) simd::copy_divided(out, out, problem_.v.dim, total);
    if (problem_.log_sum.data != nullptr)
      *problem_.log_sum.row(batch, head, i) = normalizer::log_sum(total, s.reference[at]);
  }

  const Problem<T>& problem_;
  const Recipe<> softmax_;
  const mask::BlockTable& table_;
  const std::optional<Index> position_;
  const Index key_blocks_, shared_;  // shared_: query heads of one list
  Index segment_ = 0;                // queries
  Index most_listed_ = 0;            // entries of the lists of a segment
};

// softmax(scale) over the blocks of a table, and causal when asked for: by key block where there are many query blocks
// so small that a tile would have to join their lists, else by the tiles of attend.
template <class T, exec::Executor Exec = exec::Serial>
void attend_blocks(const Problem<T>& problem, std::optional<double> scale, const mask::BlockTable& table, bool causal,
                   Alignment alignment = Alignment::bottom_right, const Exec& executor = {}) {
  constexpr Index least_block = 16, least_queries = 384;
  const Shape shape = problem.shape();
  // The table is not copied: it outlives the call.
  const mask::Blocks blocks{std::shared_ptr<const mask::BlockTable>(std::shared_ptr<void>(), &table)};
  if (table.query_block < least_block && table.query_blocks > 1 && shape.queries >= least_queries &&
      shape.keys > table.key_block) {
    softmax(scale).normalizer.check_for(problem.where, shape);
    blocks.bind(problem.where, shape);
    if (shape.batch == 0 || shape.heads == 0) return;
    const auto position = causal ? std::optional<Index>(shape.offset(alignment)) : std::nullopt;
    ByKeyBlock<T>(problem, scale, table, position).run(executor);
  } else {
    attend(problem, softmax(scale).mask(blocks & mask::causal_if(causal, alignment)), executor);
  }
}

}  // namespace fovea::inline FOVEA_ISA::engine

// fovea/block_sparse/block_sparse.hpp

// Block-sparse attention: for each block of queries a list of blocks of keys. The executor of methods that choose
// blocks. Child et al., "Generating Long Sequences with Sparse Transformers", 2019, arXiv:1904.10509, for the idea; the
// table is the user's.
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j   over   { j : block(j) in list(block(i)), and j <= i + M - N when
//   causal }
//
// Exact for its table; equals dense attention when every block is listed. Cost O(kept pairs (D + E)).

namespace fovea::inline FOVEA_ISA {

using mask::BlockTable;

struct BlockSparseOptions {
  Alignment alignment = Alignment::bottom_right;  // where the queries stand when causal and N != M
  bool causal = false;                            // of the listed blocks a query sees the keys up to its own position
  std::optional<double> scale = {};               // 1 / sqrt(D) when empty
};

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E]; the table's lists by query block, shared or for each batch and
// head.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void block_sparse(const Q& q, const K& k, const V& v, Out&& out, const BlockTable& table,
                  const BlockSparseOptions& options = {}, const Exec& executor = {}) {
  const auto problem = make_problem("fovea::block_sparse", q, k, v, out);
  engine::attend_blocks(problem, options.scale, table, options.causal, options.alignment, executor);
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/block_sparse/power.hpp

// PowerAttention: causal attention to the key blocks whose distance is a power of two, so that the receptive field
// doubles with every layer, besides leading and nearest blocks.
// Chen et al., "PowerAttention: Exponentially Scaling of Receptive Fields for Effective Sparse Attention", 2025,
// arXiv:2503.03588. (Rule from the paper's text; the default constants from an analysis of its code: verify.)
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j   over the keys j <= p_i with
//     R < sink_blocks   or   P - R < window_blocks   or   P - R in { 0, 1, 2, 4, 8, ... }
//   P = floor(p_i / block),  R = floor(j / block),  p_i = i + M - N
//
// Exact for its rule; equals dense causal attention once window_blocks covers all blocks. With block = 1, no sinks and
// a window of one it is the token-level form. Cost O(N block (window_blocks + sink_blocks + log(M / block)) (D + E)).

namespace fovea::inline FOVEA_ISA {

struct PowerOptions {
  Index block = 256;                 // tokens of a block; blocks begin at multiples of it on the axis of the keys
  Index sink_blocks = 1;             // leading blocks that every query sees
  Index window_blocks = 5;           // nearest blocks, the own one included; the own one is seen in any case
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

namespace detail {

inline void check_power(const char* where, const PowerOptions& options) {
  check(options.block > 0, where, "block must be positive, got ", options.block);
  check(options.sink_blocks >= 0, where, "sink_blocks must not be negative, got ", options.sink_blocks);
  check(options.window_blocks >= 0, where, "window_blocks must not be negative, got ", options.window_blocks);
}

}  // namespace detail

// The key blocks of the queries at the positions [first, last), one list for each block of positions. Lists begin at
// `first`, which must stand at the begin of a block unless all queries lie in one. Join with mask::causal().
inline mask::BlockTable power_blocks(Span positions, const PowerOptions& options) {
  constexpr auto where = "fovea::power_blocks";
  detail::check_power(where, options);
  check(positions.first <= positions.last, where, "positions must ascend, got ", positions.first, " to ",
        positions.last);
  const Index block = options.block;
  const auto block_of = [&](Index position) { return (position - (position % block + block) % block) / block; };
  const Index first = block_of(positions.first);
  check(positions.first % block == 0 || positions.empty() || block_of(positions.last - 1) == first, where,
        "positions of several blocks must begin with a block, got ", positions.first, " in blocks of ", block);

  const Index count = (positions.size() + block - 1) / block;
  mask::BlockTable table{block, block, 1, 1, count, {0}, {}};
  for (Index own = first; own < first + count; ++own) {
    const Index sinks = std::min(options.sink_blocks, own + 1);
    const Index window = std::min(std::max<Index>(options.window_blocks, 1), own + 1);
    for (Index b = 0; b < sinks; ++b) table.blocks.push_back(b);
    Index distance = 1;
    while (distance <= own / 2) distance *= 2;
    for (; distance >= window && own > 0; distance /= 2) {
      if (distance <= own - options.sink_blocks) table.blocks.push_back(own - distance);
    }
    for (Index b = std::max(sinks, own + 1 - window); b <= own; ++b) table.blocks.push_back(b);
    table.begin.push_back(Index(table.blocks.size()));
  }
  return table;
}

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; the queries are the last tokens of the keys.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void power(const Q& q, const K& k, const V& v, Out&& out, const PowerOptions& options = {}, const Exec& executor = {}) {
  constexpr auto where = "fovea::power";
  const auto problem = make_problem(where, q, k, v, out);
  detail::check_power(where, options);

  // Lists belong to whole blocks: the queries up to the first border are a call of their own.
  const Index offset = problem.k.length - problem.q.length;
  const Index before = (options.block - (offset % options.block + options.block) % options.block) % options.block;
  const Index border = std::min(before, problem.q.length);
  const auto attend = [&](Span queries) {
    auto part = problem;
    const auto cut = [&](auto& x) {
      x.data += queries.first * x.length_stride;
      x.length = queries.size();
    };
    cut(part.q);
    cut(part.out);
    if (part.log_sum.data != nullptr) cut(part.log_sum);
    part.k.length = part.v.length = std::max<Index>(offset + queries.last, 0);
    const auto table = power_blocks({offset + queries.first, offset + queries.last}, options);
    engine::attend(part, softmax(options.scale).mask(mask::blocks(table)).mask(mask::causal()), executor);
  };
  if (border > 0) attend({0, border});
  attend({border, problem.q.length});
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/parts/mask/frame_bands.hpp

// Frames of tokens, as in a video: a query sees the keys near its own place in each frame, the nearer the frame the
// more.

namespace fovea::inline FOVEA_ISA::mask {

struct FrameBandsOptions {
  Index frame = 0;                // tokens of a frame; required
  std::vector<Index> reach = {};  // by the distance of two frames: how far a key may lie from the query's place in its
                                  // frame, or -1 where the frame is not seen; a number for each distance
  bool first_frame = false;       // whether all keys of the first frame are seen
  Index others = 0;               // tokens behind the frames: they see every key, and every query sees them
};

class BoundFrameBands {
 public:
  BoundFrameBands(std::shared_ptr<const FrameBandsOptions> options, Index keys)
      : options_(std::move(options)), frame_(options_->frame), end_(keys - options_->others) {}

  std::uint64_t seen(Row row, Span keys) const {
    if (row.query >= end_) return low_bits(keys.size());
    const Index own = row.query / frame_, place = row.query - own * frame_;
    std::uint64_t bits = bits_of({end_, keys.last}, keys);
    Index other = keys.first / frame_;
    for (Index begin = other * frame_; begin < std::min(keys.last, end_); begin += frame_, ++other) {
      const Index far = reach(own, other);
      if (far >= 0) bits |= bits_of({begin + std::max<Index>(place - far, 0), begin + end(place, far)}, keys);
    }
    return bits;
  }

  Cover cover(const Region& region) const {
    if (region.heads.empty() || region.queries.empty() || region.keys.empty()) return Cover::none;
    bool some = region.queries.last > end_ || region.keys.last > end_, all = true;
    const Span queries = intersect(region.queries, {0, end_}), keys = intersect(region.keys, {0, end_});
    if (queries.empty() || keys.empty()) return Cover::full;  // tokens behind the frames
    for (Index own = queries.first / frame_; own * frame_ < queries.last; ++own) {
      const Span rows = piece(queries, own);
      for (Index other = keys.first / frame_; other * frame_ < keys.last; ++other) {
        const Span columns = piece(keys, other);
        // Distances of places run from the nearest to the farthest without a gap.
        const Index nearest = std::max({rows.first - columns.last + 1, columns.first - rows.last + 1, Index{0}});
        const Index farthest = std::max(rows.last - 1 - columns.first, columns.last - 1 - rows.first);
        const Index far = reach(own, other);
        some = some || nearest <= far;
        all = all && farthest <= far;
        if (some && !all) return Cover::part;
      }
    }
    return all ? Cover::full : Cover::none;
  }

 private:
  Index reach(Index own, Index other) const {
    if (options_->first_frame && other == 0) return frame_;
    return options_->reach[std::size_t(own < other ? other - own : own - other)];
  }
  Index end(Index place, Index far) const { return far < frame_ - place ? place + far + 1 : frame_; }

  // What of a span lies in a frame, counted from the begin of the frame.
  Span piece(Span span, Index number) const {
    const Span inside = intersect(span, {number * frame_, (number + 1) * frame_});
    return {inside.first - number * frame_, inside.last - number * frame_};
  }

  std::shared_ptr<const FrameBandsOptions> options_;
  Index frame_;
  Index end_;  // tokens of all frames
};

struct FrameBands {
  std::shared_ptr<const FrameBandsOptions> options;

  BoundFrameBands bind(const char* where, const Shape& shape) const {
    const FrameBandsOptions& o = *options;
    check(o.frame > 0, where, "a frame must have tokens, got ", o.frame);
    check(shape.queries == shape.keys, where, "frames need as many queries as keys, got ", shape.queries, " and ",
          shape.keys);
    check(o.others >= 0 && o.others <= shape.keys, where, "the tokens behind the frames must be at most ", shape.keys,
          ", got ", o.others);
    const Index tokens = shape.keys - o.others;
    check(tokens % o.frame == 0, where, "frames must be whole, wanted a multiple of ", o.frame, " tokens, got ",
          tokens);
    check(Index(o.reach.size()) >= tokens / o.frame, where,
          "there must be a reach for each distance of frames, wanted ", tokens / o.frame, ", got ", o.reach.size());
    return {options, shape.keys};
  }
};

// Frame a holds the tokens [a frame, (a + 1) frame). The query at place k of frame a sees the key at place l of frame c
// when |k - l| <= reach[|a - c|].
inline FrameBands frame_bands(FrameBandsOptions options) {
  return {std::make_shared<const FrameBandsOptions>(std::move(options))};
}

}  // namespace fovea::inline FOVEA_ISA::mask

// fovea/block_sparse/radial.hpp

// Radial Attention over the frames of a video: the farther two frames, the narrower the band of places that see each
// other, until only every so manieth frame is left. Not causal.
// Li et al., "Radial Attention: O(n log n) Sparse Attention with Energy Decay for Long Video Generation", NeurIPS 2025,
// arXiv:2506.19852. (The released rule from its code; the published one from memory of the paper: verify.)
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j,   i at place k of frame a, j at place l of frame c, d = |a - c|, S
//   places
//
//   published   p = 2^floor(log2 max(d, 1)):  |k - l| + 1 <= S / p   where p <= S,
//               k = l and d mod ceil(p / S) = 0                      where p > S
//   released    D = 2^bits(S) / 2^bits(d):  |k - l| <= max(decay D, least)  for d > 1, any k, l for d <= 1,
//               and where D < least only frames with d mod floor(least / D) = 0;  bits(x) = floor(log2 x) + 1, bits(0)
//               = 0
//
// Besides, the keys of the first frame are seen by all (a sink), and tokens of text behind the frames see and are seen
// by all. Self-attention only, N = M.
//
// Exact for its rule; equals dense attention with one or two frames. Kept pairs about 4 S N log2(F) of N^2.

namespace fovea::inline FOVEA_ISA {

enum class RadialRule { published, released };

struct RadialOptions {
  Index frame = 0;  // places of a frame, S; required
  Index text = 0;   // tokens of text behind the frames
  RadialRule rule = RadialRule::published;
  bool first_frame = true;  // whether every query sees the first frame
  double decay = 1;         // released rule: narrows the bands
  Index least = 128;        // released rule: the narrowest band, the size of a block
  std::optional<double> scale = {};
};

namespace detail {

inline void check_radial(const char* where, const RadialOptions& options) {
  check(options.frame > 0, where, "frame must be positive, got ", options.frame);
  check(options.text >= 0, where, "text must not be negative, got ", options.text);
  check(options.decay > 0 && std::isfinite(options.decay), where, "decay must be positive and finite, got ",
        options.decay);
  check(options.least > 0, where, "least must be positive, got ", options.least);
}

// How far from the place of a query the keys of a frame at distance d may lie, -1 for a frame that is not seen.
inline Index radial_reach(Index d, const RadialOptions& options) {
  const auto bits = [](Index x) { return std::bit_width(std::uint64_t(x)); };
  if (options.rule == RadialRule::published) {
    const Index p = Index{1} << (bits(std::max<Index>(d, 1)) - 1);
    if (p <= options.frame) return options.frame / p - 1;
    return d % ((p + options.frame - 1) / options.frame) == 0 ? 0 : -1;
  }
  const double width = std::ldexp(1.0, bits(options.frame) - bits(d));
  if (width < double(options.least) && d % Index(double(options.least) / width) != 0) return -1;
  if (d <= 1) return options.frame;
  return Index(std::min(std::max(width * options.decay, double(options.least)), double(options.frame)));
}

inline mask::FrameBandsOptions radial_bands(Index frames, const RadialOptions& options) {
  mask::FrameBandsOptions bands{options.frame, {}, options.first_frame, options.text};
  for (Index d = 0; d < frames; ++d) bands.reach.push_back(radial_reach(d, options));
  return bands;
}

}  // namespace detail

// q [B,H,T,D], k [B,G,T,D], v [B,G,T,E], out [B,H,T,E], H a multiple of G; the tokens are whole frames, place by place,
// and the text behind them.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void radial(const Q& q, const K& k, const V& v, Out&& out, const RadialOptions& options, const Exec& executor = {}) {
  constexpr auto where = "fovea::radial";
  const auto problem = make_problem(where, q, k, v, out);
  detail::check_radial(where, options);
  const Index tokens = problem.q.length - options.text;
  check(tokens >= 0 && tokens % options.frame == 0, where, "the tokens must be whole frames of ", options.frame,
        " and text of ", options.text, ", got ", problem.q.length);
  const auto bands = mask::frame_bands(detail::radial_bands(tokens / options.frame, options));
  engine::attend(problem, softmax(options.scale).mask(bands), executor);
}

struct RadialBlocksOptions {
  Index block = 128;
  // The released code looks at no more than ceil(S / block) blocks from the one where a frame begins, and so forgets
  // the end of a frame that reaches into one more.
  bool released_tail = false;
};

// The same as a schedule of whole blocks, for block_sparse(): a block is kept when, for some pair of frames, more than
// 0.6 of its columns that the pair touches are each seen by more than a third of a block of rows. Kept blocks are seen
// whole, and so are those that hold text. A plan to be made once for a shape.
inline mask::BlockTable radial_blocks(Index frames, const RadialOptions& options,
                                      const RadialBlocksOptions& blocks = {}) {
  constexpr auto where = "fovea::radial_blocks";
  detail::check_radial(where, options);
  check(frames >= 0, where, "there cannot be ", frames, " frames");
  check(blocks.block > 0, where, "block must be positive, got ", blocks.block);
  const Index size = blocks.block, frame = options.frame, tokens = frames * frame;
  const Index count = (tokens + options.text + size - 1) / size, with_text = options.text > 0 ? tokens / size : count;
  const auto bands = detail::radial_bands(frames, options);

  // Whether the pair of frames that begin at `row` and `column` marks a block, given by its first row and column.
  const auto marks = [&](Index row, Index column, Index far, Index block_row, Index block_column) {
    const Span rows = intersect({block_row, block_row + size}, {row, row + frame});
    const Span columns = intersect({block_column, block_column + size}, {column, column + frame});
    Index touched = 0, dense = 0;
    for (Index j = columns.first; j < columns.last; ++j) {
      const Index place = j - column;
      const Index kept = intersect(rows, {row + place - far, row + place + far + 1}).size();
      touched += kept > 0;
      dense += 3 * kept > size;
    }
    return 10 * dense > 6 * touched;
  };

  std::vector<std::vector<bool>> kept(std::size_t(count), std::vector<bool>(std::size_t(count), false));
  for (Index a = 0; a < frames; ++a) {
    for (Index c = 0; c < frames; ++c) {
      const Index far = options.first_frame && c == 0 ? frame : bands.reach[std::size_t(std::abs(a - c))];
      if (far < 0) continue;
      const auto last_block = [&](Index begin) {
        const Index all = (begin + frame - 1) / size;
        return blocks.released_tail ? std::min(all, begin / size + (frame + size - 1) / size - 1) : all;
      };
      for (Index i = a * frame / size; i <= last_block(a * frame); ++i) {
        for (Index j = c * frame / size; j <= last_block(c * frame); ++j) {
          if (!kept[std::size_t(i)][std::size_t(j)])
            kept[std::size_t(i)][std::size_t(j)] = marks(a * frame, c * frame, far, i * size, j * size);
        }
      }
    }
  }
  mask::BlockTable table{size, size, 1, 1, count, {0}, {}};
  for (Index i = 0; i < count; ++i) {
    for (Index j = 0; j < count; ++j) {
      if (kept[std::size_t(i)][std::size_t(j)] || i >= with_text || j >= with_text) table.blocks.push_back(j);
    }
    table.begin.push_back(Index(table.blocks.size()));
  }
  return table;
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/cache/appended.hpp

// What caches of one sequence accept.

namespace fovea::inline FOVEA_ISA::cache {

inline void check_extents(const char* where, Index kv_heads, Index key_dim, Index value_dim) {
  constexpr Index most = Index{1} << 20;  // sizes in bytes cannot overflow
  const auto one = [&](Index extent, const char* name) {
    check(extent > 0 && extent <= most, where, name, " must be between 1 and ", most, ", got ", extent);
  };
  one(kv_heads, "kv_heads");
  one(key_dim, "key_dim");
  one(value_dim, "value_dim");
}

// Tokens that are to be appended: [G,n,D], or [n,D] of one head, of float or double.
template <class X>
auto appended(const X& x) {
  const auto rows = view(x);
  using T = std::remove_const_t<std::remove_pointer_t<decltype(rows.data)>>;
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>,
                "fovea: caches take keys and values as float or double");
  return View<const T>(rows);
}

inline void check_appended(const char* where, const Extents& k, const Extents& v, Index kv_heads, Index key_dim,
                           Index value_dim) {
  check(k.batch == 1 && v.batch == 1, where, "k and v must be of one sequence, got a batch of ", k.batch, " and of ",
        v.batch);
  check(k.heads == kv_heads && k.dim == key_dim, where, "k must have the heads and the width of the cache, wanted [",
        kv_heads, ", n, ", key_dim, "], got [", k.heads, ", ", k.length, ", ", k.dim, "]");
  check(v.heads == kv_heads && v.dim == value_dim, where, "v must have the heads and the width of the cache, wanted [",
        kv_heads, ", n, ", value_dim, "], got [", v.heads, ", ", v.length, ", ", v.dim, "]");
  check(v.length == k.length, where, "v must have the length of k, wanted ", k.length, ", got ", v.length);
}

}  // namespace fovea::inline FOVEA_ISA::cache

// fovea/simd/narrow.hpp

// Numbers stored narrower than they were computed: rounded to the nearest, ties to even, as Eigen's own types round.

namespace fovea::inline FOVEA_ISA::simd {

namespace detail {

template <int count>
[[gnu::always_inline]] inline Native<std::uint16_t, count> rounded(Native<float, count> x, Eigen::bfloat16) {
  using Wide = Native<std::uint32_t, count>;
  const Wide raw = same_bits<Wide>(x);
  const Wide none = same_bits<Wide>((raw & 0x7fffffff) > 0x7f800000);  // NaN
  const Wide nearest = (raw + 0x7fff + (raw >> 16 & 1)) >> 16;
  return __builtin_convertvector((nearest & ~none) | (((raw >> 16 & 0x8000) | 0x7fc0) & none),
                                 Native<std::uint16_t, count>);
}

// Numbers that are rounded at a time: as many floats as a vector has, at most 8.
inline constexpr int narrowed = std::min(int(lanes<float>), 8);

template <int count>
[[gnu::always_inline]] inline Native<std::uint16_t, count> rounded(Native<float, count> x, Eigen::half) {
#if defined(__F16C__)
  if constexpr (count == 8)
    return same_bits<Native<std::uint16_t, 8>>(_mm256_cvtps_ph(same_bits<__m256>(x), _MM_FROUND_TO_NEAREST_INT));
#endif
#if defined(__aarch64__)
  if constexpr (count == 4) return same_bits<Native<std::uint16_t, 4>>(vcvt_f16_f32(x));
#endif
  using Wide = Native<std::uint32_t, count>;
  const Wide raw = same_bits<Wide>(x), magnitude = raw & 0x7fffffff;
  const Wide none = same_bits<Wide>(magnitude > 0x7f800000);    // NaN
  const Wide large = same_bits<Wide>(magnitude >= 0x47800000);  // 2^16 and more: infinity
  const Wide small = same_bits<Wide>(magnitude < 0x38800000);   // below 2^-14: a multiple of 2^-24
  const Wide normal = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
  // Next to one half a float has steps of 2^-24, so that the sum is rounded as wanted.
  const Wide steps = same_bits<Wide>(same_bits<Native<float, count>>(magnitude) + 0.5f) - 0x3f000000;
  const Wide finite = (steps & small) | (normal & ~small);
  const Wide rest = (none & 0x7e00) | (~none & 0x7c00);
  return __builtin_convertvector((raw >> 16 & 0x8000) | (finite & ~large) | (rest & large),
                                 Native<std::uint16_t, count>);
}

}  // namespace detail

// to[j] = from[j] as S: float, double, Eigen::bfloat16, Eigen::half (the last two from double by way of float). `to`
// may lie anywhere.
template <class S, class T>
inline void copy_rounded(S* to, const T* from, Index n) {
  if constexpr (std::is_same_v<S, T>) {
    if (n > 0) std::memcpy(to, from, std::size_t(n) * sizeof(T));
  } else if constexpr (std::is_floating_point_v<S>) {
    for (Index j = 0; j < n; ++j) to[j] = static_cast<S>(from[j]);
  } else {
    constexpr int count = detail::narrowed;
    Index j = 0;
    for (; j + count <= n; j += count) {
      Native<float, count> x;
      if constexpr (std::is_same_v<T, float>) {
        x = native_load<float, count>(from + j);
      } else {
        for (int i = 0; i < count; ++i) x[i] = static_cast<float>(from[j + i]);
      }
      const auto narrow = detail::rounded<count>(x, S());
      std::memcpy(static_cast<void*>(to + j), &narrow, sizeof narrow);
    }
    if (j < n) {
      float rest[count] = {};
      for (Index i = 0; j + i < n; ++i) rest[i] = static_cast<float>(from[j + i]);
      const auto narrow = detail::rounded<count>(native_load<float, count>(rest), S());
      std::memcpy(static_cast<void*>(to + j), &narrow, std::size_t(n - j) * sizeof(S));
    }
  }
}

}  // namespace fovea::inline FOVEA_ISA::simd

// fovea/parts/kv/format.hpp

// Formats: how the tokens of one kv head lie in a stretch of memory, a page or a whole cache. Plain<S> keeps rows of S;
// others (quantized.hpp) offer the same members:
//
//   Run, dim                what the engines read (rows.hpp), and the width of a token
//   number_bits             of a number as it is stored
//   granule()               tokens are written so many at a time, from multiples of it on
//   block()                 stretches have room for a multiple of so many tokens
//   packed(tokens)          bytes of so many tokens, whole blocks of them: token `tokens` begins there
//   bytes(tokens)           of a stretch for so many tokens: as many, rounded up to a multiple of 64
//   run(stretch, token)     the tokens from `token` on
//   write(stretch, token, count, rows, stride)    rows of float or double
//   late                    whether the last tokens wait in full precision before they are written, and then
//   residual(), settled(length), largest          of `length` tokens so many are written; at most residual() wait. The
//                           largest magnitude that can be written (infinities and NaN cannot)
//
// What lies in a stretch depends neither on its size nor on the instruction set: a larger stretch begins as a smaller
// one does. Numbers are little-endian.

namespace fovea::inline FOVEA_ISA::kv {

static_assert(std::endian::native == std::endian::little, "fovea: formats of caches are little-endian");

// What quantised formats are made with; plain ones ignore it.
struct Grouping {
  Index group = 32;     // numbers that share a scale: tokens of a channel of keys, channels of a token of values
  Index residual = 32;  // last tokens that stay in full precision, a multiple of the group

  bool operator==(const Grouping&) const = default;
};

template <class F>
concept Format = requires(const F& format, Index n, std::byte* to, const std::byte* from, const float* f,
                          const double* d) {
  typename F::Run;
  { format.dim } -> std::convertible_to<Index>;
  { format.granule() } -> std::same_as<Index>;
  { format.block() } -> std::same_as<Index>;
  { format.packed(n) } -> std::same_as<Index>;
  { format.bytes(n) } -> std::same_as<Index>;
  { format.run(from, n) } -> std::same_as<typename F::Run>;
  { format.settled(n) } -> std::same_as<Index>;
  { format.residual() } -> std::same_as<Index>;
  { F::number_bits } -> std::convertible_to<Index>;
  { F::late } -> std::convertible_to<bool>;
  format.write(to, n, n, f, n);
  format.write(to, n, n, d, n);
};

// Rows of S: float, double, Eigen::bfloat16 or Eigen::half.
template <class S>
struct Plain {
  using Run = Rows<S>;
  static constexpr Index number_bits = 8 * sizeof(S);
  static constexpr bool late = false;

  Index dim = 0;

  Index granule() const { return 1; }
  Index block() const { return 1; }
  Index packed(Index tokens) const { return tokens * dim * Index(sizeof(S)); }
  Index bytes(Index tokens) const { return (packed(tokens) + 63) / 64 * 64; }
  Run run(const std::byte* stretch, Index token) const {
    return {reinterpret_cast<const S*>(stretch) + token * dim, dim, dim};
  }
  // Rounds to the nearest, ties to even.
  template <class T>
  void write(std::byte* stretch, Index token, Index count, const T* rows, Index stride) const {
    S* const to = reinterpret_cast<S*>(stretch) + token * dim;
    if (stride == dim) return simd::copy_rounded(to, rows, count * dim);
    for (Index j = 0; j < count; ++j) simd::copy_rounded(to + j * dim, rows + j * stride, dim);
  }
  Index settled(Index length) const { return length; }
  Index residual() const { return 0; }
};

template <class S>
concept PlainTag = std::same_as<S, float> || std::same_as<S, double> || std::same_as<S, Eigen::bfloat16> ||
    std::same_as<S, Eigen::half>;

// The formats of a tag, the template argument of caches:
//   Keys, Values, keys(where, dim, grouping), values(where, dim, grouping)    ArgumentError when they do not go
//   together code                                                                      in files (docs/cache_format.md)
template <class Tag>
struct Formats;

template <PlainTag S>
struct Formats<S> {
  using Keys = Plain<S>;
  using Values = Plain<S>;
  static Keys keys(const char*, Index dim, const Grouping&) { return {dim}; }
  static Values values(const char*, Index dim, const Grouping&) { return {dim}; }
  static constexpr std::uint32_t code = std::same_as<S, float>             ? 1
                                        : std::same_as<S, double>          ? 2
                                        : std::same_as<S, Eigen::bfloat16> ? 3
                                                                           : 4;
};

template <class Tag>
using KeyFormat = typename Formats<Tag>::Keys;
template <class Tag>
using ValueFormat = typename Formats<Tag>::Values;

}  // namespace fovea::inline FOVEA_ISA::kv

// fovea/parts/kv/tokens.hpp

// The keys and values of one sequence as a cache stores them: pages of equal size, and behind them the last tokens in
// full precision where the format asks for it (format.hpp). A contiguous cache is one page.

namespace fovea::inline FOVEA_ISA::kv {

// The keys, or the values. Token t of kv head h, where it is below `stored`, is token t % page of the stretch at
// pages[t / page] + offset + h * head_bytes; tokens from there on wait as floats, token t in slot t % ring of
// waiting [kv_heads, ring, dim].
template <class Format>
struct Tokens {
  Format format;
  const std::byte* const* pages = nullptr;
  Index page = 1;    // tokens of one
  Index offset = 0;  // bytes, as is head_bytes
  Index head_bytes = 0;
  Index stored = 0;
  Index length = 0;
  const float* waiting = nullptr;
  Index ring = 0;

  // f(Span part, const Run& run) for ascending parts that make up `tokens`; run begins with token part.first.
  template <class F>
  [[gnu::always_inline]] void each_run(Index kv_head, Span tokens, F&& f) const {
    const Index last = std::min(tokens.last, stored);
    if (tokens.first < last) each_stored(kv_head, {tokens.first, last}, f);
    if constexpr (Format::late) {
      const float* const slots = waiting + kv_head * ring * format.dim;
      for (Index first = std::max(tokens.first, stored); first < tokens.last;) {
        const Index slot = first % ring, end = std::min(tokens.last, first + (ring - slot));
        f(Span{first, end}, Rows<float>{slots + slot * format.dim, format.dim, format.dim});
        first = end;
      }
    }
  }

  // Elements of T that its runs want as scratch for so many rows of queries.
  template <class T>
  Index scratch_size(Index rows) const {
    const Index some = Format::Run::template scratch_size<T>(rows, format.dim);
    return Format::late ? std::max(some, Rows<float>::scratch_size<T>(rows, format.dim)) : some;
  }

 private:
  // Pages are read in parts, each with its distance (bytes) to what is asked for while it is read: to what comes `far`
  // tokens later, in this page or in a later one, wherever that is. Parts that follow one another in memory and have
  // the same distance are one run.
  struct Part {
    Index end, later;  // the end is a token of the page
  };

  template <class F>
  [[gnu::always_inline]] void each_stored(Index kv_head, Span tokens, F&& f) const {
    const Index at = offset + kv_head * head_bytes, page_bytes = format.packed(page), far = far_tokens();
    const std::byte* const* next = pages + tokens.first / page;
    const std::byte* const* const last_page = pages + (stored - 1) / page;
    Index in_page = tokens.first % page;
    const auto part = [&]() __attribute__((always_inline)) {
      if (far >= page) return Part{page, next[std::min<Index>(far / page, last_page - next)] - next[0]};
      Part result{page, format.packed(far)};
      if (in_page + far < page)
        result.end = far == 0 ? page : page - far;
      else if (next != last_page)
        result.later += next[1] - next[0] - page_bytes;
      return result;
    };
    Part own = part();
    for (Index first = tokens.first; first < tokens.last;) {
      auto run = format.run(*next + at, in_page);
      run.long_run = own.later != 0;
      run.later = own.later * 8 / Format::number_bits;
      const Index later = own.later;
      Index end = first + (own.end - in_page);
      while (end < tokens.last) {
        bool follows = true;
        if (own.end == page) {
          follows = next[1] == next[0] + page_bytes;
          ++next;
        }
        in_page = own.end == page ? 0 : own.end;
        own = part();
        if (!follows || own.later != later) break;
        end += own.end - in_page;
      }
      end = std::min(end, tokens.last);
      f(Span{first, end}, run);
      first = end;
    }
  }

  // So many tokens after one that is read the next one is asked for: whole pages, or whole blocks where pages are
  // larger. None when all of a head is near in any case.
  Index far_tokens() const {
    constexpr Index much = Index{256} << 10;  // bytes
    const Index block = format.block(), block_bytes = format.packed(block), page_bytes = format.packed(page);
    if (stored / block * block_bytes < much) return 0;
    const Index far = Format::Run::far * Format::number_bits / 8;  // bytes
    return far >= page_bytes ? far / page_bytes * page : std::max<Index>(1, far / block_bytes) * block;
  }
};

// The source (contiguous.hpp) of one sequence.
template <class KeyFormat, class ValueFormat>
struct Stored {
  Tokens<KeyFormat> k;
  Tokens<ValueFormat> v;
  Index heads = 0;

  Index length(Index = 0) const { return k.length; }
  Index longest() const { return k.length; }
  Index batch() const { return 1; }
  Index kv_heads() const { return heads; }
  Index key_dim() const { return k.format.dim; }
  Index value_dim() const { return v.format.dim; }

  template <class F>
  [[gnu::always_inline]] void each_keys(Index, Index kv_head, Span tokens, F&& f) const {
    k.each_run(kv_head, tokens, f);
  }
  template <class F>
  [[gnu::always_inline]] void each_values(Index, Index kv_head, Span tokens, F&& f) const {
    v.each_run(kv_head, tokens, f);
  }
  template <class T>
  Index scratch_size(Index rows) const {
    return std::max(k.template scratch_size<T>(rows), v.template scratch_size<T>(rows));
  }
};

}  // namespace fovea::inline FOVEA_ISA::kv

// fovea/cache/side.hpp

// One side of a sequence, its keys or its values, whatever holds its pages: tokens come in, are written as soon as
// their format settles them, and the last ones are kept in full precision where the format asks for it.
//
// What is written is a function of the length alone. A side keeps the last 2 R tokens (R = residual()) in full
// precision, although at most R of them wait: after truncate() by up to R tokens it is what it would be if it had never
// seen them. Beyond that, tokens that must wait again come back as they had been rounded.

namespace fovea::inline FOVEA_ISA::cache {

// Where the stretches of a side lie: that of kv head h in page p at pages[p] + offset + h * head_bytes.
struct Place {
  std::byte* const* pages = nullptr;
  Index page = 1;    // tokens of one
  Index offset = 0;  // bytes, as is head_bytes
  Index head_bytes = 0;
};

struct Places {
  Place k, v;
};

template <class Format>
class Side {
 public:
  Side(const Format& format, Index heads)
      : format_(format), heads_(heads), recent_(std::size_t(heads * 2 * format.residual() * format.dim)) {}

  const Format& format() const { return format_; }

  // Whether the format can store the numbers of a token.
  template <class T>
  bool is_storable(const T* row) const {
    bool fits = true;
    if constexpr (Format::late) {
      for (Index d = 0; d < format_.dim; ++d) fits = fits && std::fabs(row[d]) <= T(Format::largest);
    }
    return fits;
  }
  // Refuses numbers that the format cannot store.
  template <class T>
  void check_storable(const char* where, const char* name, const View<const T>& rows) const {
    if constexpr (Format::late) {
      for (Index h = 0; h < rows.heads; ++h) {
        for (Index i = 0; i < rows.length; ++i) {
          check(is_storable(rows.row(0, h, i)), where, name, " must be finite and at most ", double(Format::largest),
                " in magnitude to be stored in this format, token ", i, " of head ", h, " is not");
        }
      }
    }
  }

  // rows [heads, n, dim] follow `length` tokens. Pages must be there for settled(length + n) tokens.
  template <class T>
  void append(const Place& place, const View<const T>& rows, Index length) {
    if constexpr (Format::late) {
      const Index residual = format_.residual();
      for (Index i = 0; i < rows.length;) {
        const Index some = std::min(rows.length - i, residual - length % residual);
        for (Index h = 0; h < heads_; ++h) {
          for (Index j = 0; j < some; ++j)
            simd::copy_rounded(recent(h, length + j), rows.row(0, h, i + j), format_.dim);
        }
        settle(place, {format_.settled(length), format_.settled(length + some)});
        length += some;
        i += some;
      }
      held_ = std::max(held_, length - ring());
    } else {
      for (Index i = 0; i < rows.length;) {
        const Index in_page = (length + i) % place.page, some = std::min(rows.length - i, place.page - in_page);
        for (Index h = 0; h < heads_; ++h)
          format_.write(stretch(place, h, length + i), in_page, some, rows.row(0, h, i), rows.length_stride);
        i += some;
      }
    }
  }

  // The first `written` tokens, from one place of one page to another one.
  void copy(const Place& from, const Place& to, Index written) const {
    const auto bytes = std::size_t(format_.packed(whole_blocks(written)));
    if (bytes == 0) return;
    for (Index h = 0; h < heads_; ++h) std::memcpy(stretch(to, h, 0), stretch(from, h, 0), bytes);
  }

  // f(bytes, size, tokens) for what is written of `tokens`, which begin with a block: head by head, a piece for each
  // page, whole blocks of which the last one may hold less.
  template <class F>
  void each_piece(const Place& place, Span tokens, F&& f) const {
    for (Index h = 0; h < heads_; ++h) {
      for (Index t = tokens.first; t < tokens.last;) {
        const Index in_page = t % place.page, some = std::min(tokens.last - t, place.page - in_page);
        f(stretch(place, h, t) + format_.packed(in_page), format_.packed(whole_blocks(some)), some);
        t += some;
      }
    }
  }

  // Of `length` tokens the first `left` stay. To be called while the pages are still there.
  void truncate(const Place& place, Index length, Index left) {
    if constexpr (Format::late) {
      const Index waiting = format_.settled(left);
      if (waiting >= held_) return;
      const Span lost{waiting, std::min(held_, left)};
      const auto all = stored(place, format_.settled(length));
      for (Index h = 0; h < heads_; ++h) {
        all.each_run(h, lost, [&](Span part, const auto& run) {
          for (Index t = part.first; t < part.last; ++t) run.read(t - part.first, 1, recent(h, t), format_.dim);
        });
      }
      held_ = waiting;
    }
  }

  // What the engine reads of `length` tokens.
  kv::Tokens<Format> tokens(const Place& place, Index length) const {
    auto all = stored(place, length);
    all.stored = format_.settled(length);
    return all;
  }
  // The first `written` tokens as they are written, which may be more than those that are settled so far.
  kv::Tokens<Format> stored(const Place& place, Index written) const {
    return {format_, place.pages, place.page, place.offset, place.head_bytes, written, written, recent_.data(), ring()};
  }

  // Of `length` tokens the first one that is held in full precision; so are all behind it.
  Index held(Index length) const { return Format::late ? held_ : length; }
  bool can_hold_from(Index token, Index length) const {
    if (!Format::late) return token == length;
    return token >= std::max<Index>(0, length - ring()) && token <= format_.settled(length);
  }
  void hold_from(Index token) { held_ = token; }
  Index ring() const { return 2 * format_.residual(); }
  // Token t of them.
  float* recent(Index head, Index t) { return recent_.data() + (head * ring() + t % ring()) * format_.dim; }
  const float* recent(Index head, Index t) const { return const_cast<Side*>(this)->recent(head, t); }

  static std::byte* stretch(const Place& place, Index head, Index token) {
    return place.pages[token / place.page] + place.offset + head * place.head_bytes;
  }

 private:
  Index whole_blocks(Index tokens) const {
    const Index block = format_.block();
    return (tokens + block - 1) / block * block;
  }

  void settle(const Place& place, Span tokens) {
    const Index block = format_.block();
    for (Index t = tokens.first; t < tokens.last;) {
      const Index in_page = t % place.page, in_block = in_page % block;
      const Index some = std::min({tokens.last - t, block - in_block, ring() - t % ring()});
      for (Index h = 0; h < heads_; ++h) {
        std::byte* const to = stretch(place, h, t);
        // What a format leaves as it was is zero, here and in files.
        if (in_block == 0) std::memset(to + format_.packed(in_page), 0, std::size_t(format_.packed(block)));
        format_.write(to, in_page, some, recent(h, t), format_.dim);
      }
      t += some;
    }
  }

  Format format_;
  Index heads_;
  Index held_ = 0;
  std::vector<float> recent_;  // [heads, ring, dim], token t in slot t % ring
};

}  // namespace fovea::inline FOVEA_ISA::cache

// fovea/cache/file.hpp

// Sequences in files: what Contiguous and Paged write and read. docs/cache_format.md describes every byte.

namespace fovea::inline FOVEA_ISA::cache {

// A file that is damaged, cut short, of another version, or of another kind of cache than the one that reads it. what()
// is "function: what is wrong, wanted ... got ...".
class FormatError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace detail {

template <class... Parts>
void check_file(bool holds, const char* where, const Parts&... parts) {
  if (holds) return;
  std::string message = std::string(where) + ": ";
  (fovea::detail::append(message, parts), ...);
  throw FormatError(message);
}

using ChecksumTables = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr ChecksumTables make_checksum_tables() {
  ChecksumTables t{};
  for (std::uint32_t n = 0; n < 256; ++n) {
    std::uint32_t x = n;
    for (int bit = 0; bit < 8; ++bit) x = x >> 1 ^ ((x & 1) != 0 ? 0xedb88320u : 0u);
    t[0][n] = x;
  }
  for (std::size_t i = 1; i < 8; ++i) {
    for (std::size_t n = 0; n < 256; ++n) t[i][n] = t[i - 1][n] >> 8 ^ t[0][t[i - 1][n] & 255];
  }
  return t;
}

// The cyclic redundancy check of zlib, gzip and PNG (reflected polynomial 0xedb88320), eight bytes at a time.
class Checksum {
 public:
  void add(const void* data, std::size_t size) {
    const auto* p = static_cast<const unsigned char*>(data);
    for (; size >= 8; size -= 8, p += 8) {
      std::uint64_t word;
      std::memcpy(&word, p, sizeof word);
      word ^= state_;
      state_ = 0;
      for (std::size_t i = 0; i < 8; ++i) state_ ^= tables[7 - i][(word >> 8 * i) & 255];
    }
    for (; size > 0; --size) state_ = state_ >> 8 ^ tables[0][(state_ ^ *p++) & 255];
  }
  std::uint32_t value() const { return ~state_; }

 private:
  static constexpr ChecksumTables tables = make_checksum_tables();

  std::uint32_t state_ = ~std::uint32_t{0};
};

inline std::string storage_name(std::uint32_t code) {
  constexpr const char* names[] = {"float", "double", "bfloat16", "half", "int8", "int4"};
  return code >= 1 && code <= 6 ? names[code - 1] : "number " + std::to_string(code);
}

// What stands in front of the tokens.
struct FileHeader {
  static constexpr std::size_t size = 96;  // and its checksum behind it
  static constexpr std::uint32_t version = 1;
  static constexpr char magic[9] = "fovea-kv";

  std::uint32_t rotated = 0;  // 0 or 1
  std::uint32_t key_type = 0, value_type = 0;
  Index kv_heads = 0, key_dim = 0, value_dim = 0;
  Index group = 0, residual = 0;  // 0 when neither type is quantised
  Index length = 0;
  Index key_held = 0, value_held = 0;  // the first token that is there in full precision as well

  std::array<char, size> bytes() const {
    std::array<char, size> to{};
    std::memcpy(to.data(), magic, 8);
    std::memcpy(to.data() + 8, &version, 4);
    const std::uint32_t words[] = {rotated, key_type, value_type};
    std::memcpy(to.data() + 12, words, sizeof words);
    const Index numbers[] = {kv_heads, key_dim, value_dim, group, residual, length, key_held, value_held};
    std::memcpy(to.data() + 24, numbers, sizeof numbers);
    return to;
  }
  static FileHeader from(const std::array<char, size>& bytes) {
    std::uint32_t words[3];
    Index numbers[8];
    std::memcpy(words, bytes.data() + 12, sizeof words);
    std::memcpy(numbers, bytes.data() + 24, sizeof numbers);
    return {words[0],   words[1],   words[2],   numbers[0], numbers[1], numbers[2],
            numbers[3], numbers[4], numbers[5], numbers[6], numbers[7]};
  }
};

class Writer {
 public:
  Writer(const char* where, std::ostream& to) : where_(where), to_(&to) {}

  void write(const void* data, std::size_t size) {
    to_->write(static_cast<const char*>(data), std::streamsize(size));
    check_file(!to_->fail(), where_, "the stream does not take what is written");
    sum_.add(data, size);
  }
  // What was written since the last one.
  void write_checksum() {
    const std::uint32_t sum = sum_.value();
    write(&sum, sizeof sum);
    sum_ = {};
  }

 private:
  const char* where_;
  std::ostream* to_;
  Checksum sum_;
};

class Reader {
 public:
  Reader(const char* where, std::istream& from) : where_(where), from_(&from) {}

  void read(void* data, std::size_t size) {
    from_->read(static_cast<char*>(data), std::streamsize(size));
    check_file(!from_->fail() && std::size_t(from_->gcount()) == size, where_,
               "the file ends too early, or cannot be read");
    sum_.add(data, size);
  }
  void check_sum(const char* of) {
    const std::uint32_t wanted = sum_.value();
    std::uint32_t sum = 0;
    read(&sum, sizeof sum);
    check_file(sum == wanted, where_, "the file is damaged, the checksum of its ", of, " is wrong");
    sum_ = {};
  }

 private:
  const char* where_;
  std::istream* from_;
  Checksum sum_;
};

// Tokens that lie together in a file: keys of each head, then values of each head.
template <class Keys, class Values>
Index file_chunk(const Keys& k, const Values& v) {
  const Index block = std::lcm(k.block(), v.block());
  return (64 + block - 1) / block * block;
}

template <class K, class V, class Options>
FileHeader file_header(const Options& o) {
  constexpr bool grouped = kv::KeyFormat<K>::late || kv::ValueFormat<V>::late;
  return {o.rotated ? 1u : 0u,
          kv::Formats<K>::code,
          kv::Formats<V>::code,
          o.kv_heads,
          o.key_dim,
          o.value_dim,
          grouped ? o.grouping.group : 0,
          grouped ? o.grouping.residual : 0,
          0,
          0,
          0};
}

template <class Format>
Index settled_in(const Side<Format>& side, Index length, Span chunk) {
  return std::clamp(side.format().settled(length), chunk.first, chunk.last);
}

// header: as file_header() gives it.
template <class Keys, class Values>
void write_sequence(const char* where, std::ostream& to, FileHeader header, const Side<Keys>& k, const Side<Values>& v,
                    const Places& places, Index length) {
  Writer writer(where, to);
  header.length = length;
  header.key_held = k.held(length);
  header.value_held = v.held(length);
  const auto bytes = header.bytes();
  writer.write(bytes.data(), bytes.size());
  writer.write_checksum();

  const Index step = file_chunk(k.format(), v.format());
  std::vector<std::byte> last;
  const auto put_pieces = [&](const auto& side, const Place& place, Span tokens) {
    const auto& format = side.format();
    side.each_piece(place, tokens, [&](const std::byte* data, Index size, Index count) {
      const Index block = format.block(), rest = count % block, whole = format.packed(count - rest);
      writer.write(data, std::size_t(whole));
      if (rest == 0) return;
      // Places for tokens that are not there are zero, whatever was there.
      last.assign(data + whole, data + size);
      const std::vector<float> zero(std::size_t((block - rest) * format.dim), 0.0f);
      format.write(last.data(), rest, block - rest, zero.data(), format.dim);
      writer.write(last.data(), last.size());
    });
  };
  for (Index first = 0; first < length; first += step) {
    const Span chunk{first, std::min(length, first + step)};
    put_pieces(k, places.k, {first, settled_in(k, length, chunk)});
    put_pieces(v, places.v, {first, settled_in(v, length, chunk)});
  }
  const auto put_recent = [&](const auto& side) {
    for (Index h = 0; h < header.kv_heads; ++h) {
      for (Index t = side.held(length); t < length; ++t)
        writer.write(side.recent(h, t), std::size_t(side.format().dim) * sizeof(float));
    }
  };
  put_recent(k);
  put_recent(v);
  writer.write_checksum();
  to.flush();
  check_file(!to.fail(), where, "the stream does not take what is written");
}

// Reads into sides that are empty. `begin(length)` is told what comes; `make_room(tokens)` makes pages for so many
// tokens and gives their places. `wanted` is the header of the cache. Returns the length.
template <class Keys, class Values, class Begin, class MakeRoom>
Index read_sequence(const char* where, std::istream& from, const FileHeader& wanted, Side<Keys>& k, Side<Values>& v,
                    const Begin& begin, const MakeRoom& make_room) {
  Reader reader(where, from);
  std::array<char, FileHeader::size> bytes;
  reader.read(bytes.data(), bytes.size());
  check_file(std::memcmp(bytes.data(), FileHeader::magic, 8) == 0, where, "this is not the file of a cache");
  std::uint32_t version;
  std::memcpy(&version, bytes.data() + 8, sizeof version);
  check_file(version == FileHeader::version, where, "unknown version of the file, wanted ", FileHeader::version,
             ", got ", version);
  reader.check_sum("header");

  const FileHeader header = FileHeader::from(bytes);
  const auto same = [&](const char* what, Index got, Index want) {
    check_file(got == want, where, what, " of the file must be that of the cache, wanted ", want, ", got ", got);
  };
  const auto same_type = [&](const char* what, std::uint32_t got, std::uint32_t want) {
    check_file(got == want, where, what, " of the file must be that of the cache, wanted ", storage_name(want),
               ", got ", storage_name(got));
  };
  same_type("the storage type of the keys", header.key_type, wanted.key_type);
  same_type("the storage type of the values", header.value_type, wanted.value_type);
  same("the number of kv heads", header.kv_heads, wanted.kv_heads);
  same("the width of the keys", header.key_dim, wanted.key_dim);
  same("the width of the values", header.value_dim, wanted.value_dim);
  same("the group", header.group, wanted.group);
  same("the residual", header.residual, wanted.residual);
  check_file(header.rotated == wanted.rotated, where, "keys of the cache are stored ",
             wanted.rotated != 0 ? "after" : "before", " their rotation, those of the file are not");
  const Index length = header.length, most = Index{1} << 56;
  check_file(length >= 0 && length <= most, where, "the length of the file must be between 0 and ", most, ", got ",
             length);
  const auto check_held = [&](const auto& side, Index held) {
    const Index settled = side.format().settled(length);
    check_file(side.can_hold_from(held, length), where, "tokens in full precision must begin between ",
               std::max<Index>(0, length - side.ring()), " and ", settled, ", got ", held);
  };
  check_held(k, header.key_held);
  check_held(v, header.value_held);
  begin(length);

  const auto get = [&](std::byte* data, Index size, Index) { reader.read(data, std::size_t(size)); };
  const Index step = file_chunk(k.format(), v.format());
  std::vector<float> row;
  const auto check_finite = [&](const auto& side, const Place& place, Span tokens) {
    using Format = std::remove_cvref_t<decltype(side.format())>;
    if constexpr (Format::late) {
      row.resize(std::size_t(side.format().dim));
      for (Index h = 0; h < wanted.kv_heads; ++h) {
        side.stored(place, tokens.last).each_run(h, tokens, [&](Span part, const auto& run) {
          for (Index t = part.first; t < part.last; ++t) {
            run.read(t - part.first, 1, row.data(), Index(row.size()));
            check_file(std::all_of(row.begin(), row.end(), [](float x) { return std::isfinite(x); }), where,
                       "the file holds quantised numbers that are not finite");
          }
        });
      }
    }
  };
  for (Index first = 0; first < length; first += step) {
    const Span chunk{first, std::min(length, first + step)};
    const Span keys{first, settled_in(k, length, chunk)}, values{first, settled_in(v, length, chunk)};
    if (keys.empty() && values.empty()) break;
    const Places places = make_room(std::max(keys.last, values.last));
    k.each_piece(places.k, keys, get);
    v.each_piece(places.v, values, get);
    check_finite(k, places.k, keys);
    check_finite(v, places.v, values);
  }
  const auto get_recent = [&](auto& side, Index held) {
    for (Index h = 0; h < wanted.kv_heads; ++h) {
      for (Index t = held; t < length; ++t) {
        float* const x = side.recent(h, t);
        reader.read(x, std::size_t(side.format().dim) * sizeof(float));
        check_file(side.is_storable(x), where, "the file holds numbers in full precision that its types cannot store");
      }
    }
    side.hold_from(held);
  };
  get_recent(k, header.key_held);
  get_recent(v, header.value_held);
  reader.check_sum("tokens");
  return length;
}

}  // namespace detail
}  // namespace fovea::inline FOVEA_ISA::cache

// fovea/cache/memory.hpp

// Memory of caches: bytes at addresses that are multiples of 64.

namespace fovea::inline FOVEA_ISA::cache {

// Owned and not initialised; moved, never copied.
class Memory {
 public:
  Memory() = default;
  explicit Memory(Index bytes) : size_(std::size_t(bytes)) {
    if (size_ > 0) data_ = static_cast<std::byte*>(fovea::detail::allocate(size_));
  }
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Memory() { fovea::detail::release(data_, size_); }

  std::byte* data() const { return data_; }
  std::byte* const* address() const { return &data_; }  // a table of one page

 private:
  void swap(Memory& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace fovea::inline FOVEA_ISA::cache

// fovea/cache/contiguous.hpp

// The keys and values of one sequence in one piece of memory.
//
//   cache::Contiguous<Eigen::bfloat16> cache({.kv_heads = 8, .key_dim = 128, .value_dim = 128, .reserve = 4096});
//   cache.append(k, v);                                        k [G,n,D], v [G,n,E]: the prompt, then token by token
//   fovea::attend(q, cache, out, recipe);                      q [1,H,N,D] are the last N tokens
//
// Memory is [G, capacity] keys and then as many values, in the formats of K and V. It grows by doubling, or not at all.
// A cache is moved, and copied by fork() alone. What source() gives is valid until the cache changes or moves.

namespace fovea::inline FOVEA_ISA::cache {

struct ContiguousOptions {
  Index kv_heads = 0;  // required, as are the widths
  Index key_dim = 0;
  Index value_dim = 0;
  Index reserve = 0;           // tokens for which there is room from the start
  bool may_grow = true;        // beyond the reserve; otherwise append() refuses
  bool rotated = true;         // whether keys are given rotated by their positions; kept in files
  kv::Grouping grouping = {};  // of quantised formats
};

// K and V: float, double, Eigen::bfloat16, Eigen::half, kv::Int8 or kv::Int4.
template <class K, class V = K>
class Contiguous {
 public:
  using Keys = kv::KeyFormat<K>;
  using Values = kv::ValueFormat<V>;

  // Throws ArgumentError for extents or groups that are not legal.
  explicit Contiguous(const ContiguousOptions& options)
      : options_(checked(options)),
        keys_(kv::Formats<K>::keys(name, options.key_dim, options.grouping), options.kv_heads),
        values_(kv::Formats<V>::values(name, options.value_dim, options.grouping), options.kv_heads) {
    reserve(options.reserve);
  }
  // What is left is empty and refuses tokens.
  Contiguous(Contiguous&& other) noexcept
      : options_(other.options_),
        keys_(std::move(other.keys_)),
        values_(std::move(other.values_)),
        length_(std::exchange(other.length_, 0)),
        capacity_(std::exchange(other.capacity_, 0)),
        memory_(std::move(other.memory_)) {
    other.options_.kv_heads = 0;
  }
  Contiguous& operator=(Contiguous&& other) noexcept {
    Contiguous moved(std::move(other));
    swap(moved);
    return *this;
  }

  const ContiguousOptions& options() const { return options_; }
  Index length() const { return length_; }
  Index capacity() const { return capacity_; }  // tokens for which there is room
  bool rotated() const { return options_.rotated; }

  // Makes room for `tokens` tokens in all, also where the cache may not grow by itself.
  void reserve(Index tokens) {
    constexpr auto where = "fovea::cache::Contiguous::reserve";
    check_whole(where);
    check(tokens >= 0 && tokens <= most_tokens(), where, "the tokens must be between 0 and ", most_tokens(), ", got ",
          tokens);
    if (tokens > capacity_) move_to(tokens, *this);
  }

  // Tokens that follow: k [G,n,D] and v [G,n,E], or matrices [n,D] and [n,E] when there is one head; float or double.
  // Throws ArgumentError, and leaves the cache as it was, when they do not fit it, when there is no room and the cache
  // may not grow, or when the format cannot store a number.
  template <class Tk, class Tv>
  void append(const Tk& k, const Tv& v) {
    constexpr auto where = "fovea::cache::Contiguous::append";
    const auto keys = appended(k);
    const auto values = appended(v);
    check_whole(where);
    check_appended(where, keys.extents(), values.extents(), options_.kv_heads, options_.key_dim, options_.value_dim);
    const Index more = keys.length;
    check(options_.may_grow || more <= capacity_ - length_, where, "the cache may not grow, it has room for ",
          capacity_ - length_, " tokens, got ", more);
    check(more <= most_tokens() - length_, where, "there is no room for ", more, " tokens behind ", length_);
    keys_.check_storable(where, "k", keys);
    values_.check_storable(where, "v", values);
    if (more == 0) return;
    if (more > capacity_ - length_)
      move_to(std::max({length_ + more, std::min(2 * capacity_, most_tokens()), Index{16}}), *this);
    keys_.append(places().k, keys, length_);
    values_.append(places().v, values, length_);
    length_ += more;
  }

  // Only the first `tokens` tokens stay (speculative ones that were rejected go). Of quantised formats up to `residual`
  // tokens go without a trace; when more do, the last tokens that stay come back into full precision as rounded.
  void truncate(Index tokens) {
    constexpr auto where = "fovea::cache::Contiguous::truncate";
    check(tokens >= 0 && tokens <= length_, where, "the tokens that stay must be between 0 and ", length_, ", got ",
          tokens);
    keys_.truncate(places().k, length_, tokens);
    values_.truncate(places().v, length_, tokens);
    length_ = tokens;
  }
  void clear() { truncate(0); }

  // A copy with a memory of its own.
  Contiguous fork() const {
    constexpr auto where = "fovea::cache::Contiguous::fork";
    check_whole(where);
    return Contiguous(*this);
  }

  // Writes the sequence (docs/cache_format.md). Throws FormatError when the stream fails.
  void save(std::ostream& to) const {
    constexpr auto where = "fovea::cache::Contiguous::save";
    check_whole(where);
    detail::write_sequence(where, to, detail::file_header<K, V>(options_), keys_, values_, places(), length_);
  }
  // Reads what a cache of the same types, heads, widths and groups has written, Contiguous or Paged, and takes it in
  // place of what was there. Memory is taken as tokens arrive, whatever the file promises. Throws FormatError, and
  // leaves the cache as it was, when the file is not such a one or when the cache may not grow and has no room for it.
  void load(std::istream& from) {
    constexpr auto where = "fovea::cache::Contiguous::load";
    check_whole(where);
    ContiguousOptions options = options_;
    options.reserve = capacity_;
    Contiguous fresh(options);
    Index written = 0;
    const auto begin = [&](Index length) {
      detail::check_file(options_.may_grow || length <= capacity_, where, "the cache may not grow, it has room for ",
                         capacity_, " tokens, the file has ", length);
    };
    const auto make_room = [&](Index tokens) {
      if (tokens > fresh.capacity_) fresh.move_to(std::max(tokens, 2 * fresh.capacity_), fresh, written, written);
      written = tokens;
      return fresh.places();
    };
    const Index length = detail::read_sequence(where, from, detail::file_header<K, V>(options_), fresh.keys_,
                                               fresh.values_, begin, make_room);
    if (length > fresh.capacity_) fresh.move_to(length, fresh, written, written);
    fresh.length_ = length;
    fresh.options_ = options_;
    swap(fresh);
  }

  // What the engine reads (parts/kv/contiguous.hpp).
  kv::Stored<Keys, Values> source() const {
    return {keys_.tokens(places().k, length_), values_.tokens(places().v, length_), options_.kv_heads};
  }

 private:
  static constexpr auto name = "fovea::cache::Contiguous";

  Contiguous(const Contiguous& other)
      : options_(other.options_), keys_(other.keys_), values_(other.values_), length_(other.length_) {
    move_to(other.capacity_, other);
  }

  static const ContiguousOptions& checked(const ContiguousOptions& options) {
    check_extents(name, options.kv_heads, options.key_dim, options.value_dim);
    check(options.reserve >= 0, name, "reserve must not be negative, got ", options.reserve);
    return options;
  }
  void check_whole(const char* where) const { check(options_.kv_heads > 0, where, "the cache was moved from"); }

  void swap(Contiguous& other) noexcept {
    std::swap(options_, other.options_);
    std::swap(keys_, other.keys_);
    std::swap(values_, other.values_);
    std::swap(length_, other.length_);
    std::swap(capacity_, other.capacity_);
    std::swap(memory_, other.memory_);
  }

  Index block() const { return std::lcm(keys_.format().block(), values_.format().block()); }
  Index bytes(Index tokens) const {
    return options_.kv_heads * (keys_.format().bytes(tokens) + values_.format().bytes(tokens));
  }
  Index most_tokens() const { return (Index{1} << 62) / bytes(block()); }
  Places places_in(const Memory& memory, Index capacity) const {
    const Index key_bytes = keys_.format().bytes(capacity), value_bytes = values_.format().bytes(capacity);
    return {{memory.address(), capacity, 0, key_bytes},
            {memory.address(), capacity, options_.kv_heads * key_bytes, value_bytes}};
  }

  Places places() const { return places_in(memory_, capacity_); }

  // Takes a memory for at least so many tokens and copies what `other`, itself or one like it, has written in its own.
  void move_to(Index tokens, const Contiguous& other) {
    move_to(tokens, other, keys_.format().settled(length_), values_.format().settled(length_));
  }
  void move_to(Index tokens, const Contiguous& other, Index keys, Index values) {
    const Index capacity = (tokens + block() - 1) / block() * block();
    Memory memory(bytes(capacity));
    const Places from = other.places(), to = places_in(memory, capacity);
    keys_.copy(from.k, to.k, keys);
    values_.copy(from.v, to.v, values);
    std::swap(memory_, memory);
    capacity_ = capacity;
  }

  ContiguousOptions options_;
  Side<Keys> keys_;
  Side<Values> values_;
  Index length_ = 0, capacity_ = 0;
  Memory memory_;
};

}  // namespace fovea::inline FOVEA_ISA::cache

// fovea/cache/pages.hpp

// The pages of a pool (paged.hpp): memory that is made many pages at a time, and who refers to which.

namespace fovea::inline FOVEA_ISA::cache {

// Pages of one size with the number of sequences that refer to each.
//
// Memory is read at half its speed when every page is somewhere else, since the processor fetches ahead what lies
// behind a page and not what follows in the sequence; at four fifths in stretches of eight pages of 8 KB, and nearly
// as fast as in one piece in stretches of 64. So a sequence takes the page behind its last one where that is free, and
// begins where there is room for others of its own: at the start of 64 free pages, or in the middle of fewer, whose
// first half is left to the sequence before them.
class Pages {
 public:
  struct Sizes {
    Index heads, key_bytes, value_bytes;  // bytes of a page for one head, of its keys and of its values

    Index page() const { return heads * (key_bytes + value_bytes); }
  };

  static constexpr Index none = -1;

  Pages(const Sizes& sizes, Index at_a_time, bool may_grow)
      : sizes_(sizes),
        step_(at_a_time > 0 ? at_a_time : std::max<Index>(1, (Index{4} << 20) / sizes.page())),
        may_grow_(may_grow) {}

  bool may_grow() const { return may_grow_; }
  Index page_bytes() const { return sizes_.page(); }
  Index count() const { return Index(references_.size()); }
  Index free() const { return free_count_; }
  Index references(Index page) const { return references_[std::size_t(page)]; }

  // The keys, the values of kv head 0, and how far those of the next head are.
  std::byte* keys(Index page) const { return slab(page) + page % step_ * sizes_.key_bytes; }
  std::byte* values(Index page) const {
    return slab(page) + sizes_.heads * key_stride() + page % step_ * sizes_.value_bytes;
  }
  Index key_stride() const { return step_ * sizes_.key_bytes; }
  Index value_stride() const { return step_ * sizes_.value_bytes; }

  // Makes sure that `wanted` pages are free.
  void provide(const char* where, Index wanted) {
    if (wanted <= free()) return;
    check(may_grow_, where, "the pool may not grow, it has ", free(), " free pages, wanted ", wanted);
    grow(std::max(wanted - free(), count() / 2));  // room for stretches
  }
  // At least so many more.
  void grow(Index more) {
    for (Index n = 0; n < more; n += step_) add_slab();
  }

  // One of the free pages, of which there must be one, referred to once: the one behind page `last` of its sequence
  // where that is free; `last` is none for the first page.
  Index take(Index last = none) {
    const Index behind = last + 1;
    const Index page = last != none && behind < count() && references(behind) == 0 ? behind : roomy();
    references_[std::size_t(page)] = 1;
    group(page) ^= bit(page);
    --free_count_;
    return page;
  }
  void refer(Index page) { ++references_[std::size_t(page)]; }
  void give(Index page) {
    if (--references_[std::size_t(page)] > 0) return;
    group(page) ^= bit(page);
    ++free_count_;
  }
  void copy(Index from, Index to) {
    for (Index h = 0; h < sizes_.heads; ++h) {
      std::memcpy(keys(to) + h * key_stride(), keys(from) + h * key_stride(), std::size_t(sizes_.key_bytes));
      std::memcpy(values(to) + h * value_stride(), values(from) + h * value_stride(), std::size_t(sizes_.value_bytes));
    }
  }

 private:
  using Group = std::uint64_t;  // which of so many pages are free
  static constexpr Index group_size = 64;

  struct Stretch {
    Index first = 0, size = 0;
  };

  std::byte* slab(Index page) const { return slabs_[std::size_t(page / step_)].data(); }
  Group& group(Index page) { return free_[std::size_t(page / group_size)]; }
  static Group bit(Index page) { return Group{1} << page % group_size; }

  // Where a sequence begins: in the longest stretch of free pages that a group has.
  Index roomy() const {
    Stretch best;
    Index base = 0;
    for (Index g = 0; g < Index(free_.size()) && best.size < group_size; ++g) {
      if (std::popcount(free_[std::size_t(g)]) <= best.size) continue;
      if (const Stretch found = longest(free_[std::size_t(g)]); found.size > best.size) {
        best = found;
        base = g * group_size;
      }
    }
    return base + best.first + (best.first > 0 ? best.size / 2 : 0);
  }
  static Stretch longest(Group free) {
    Stretch best;
    for (Index at = 0; at < group_size;) {
      const Group left = free >> at;
      if (left == 0) break;
      at += std::countr_zero(left);
      const Index size = std::countr_one(free >> at);
      if (size > best.size) best = {at, size};
      at += size;
    }
    return best;
  }

  void add_slab() {
    const Index first = count();
    const auto pages = std::size_t(first + step_);
    if (references_.capacity() < pages) references_.reserve(std::max(pages, 2 * references_.size()));
    free_.resize((pages + group_size - 1) / group_size, 0);
    slabs_.emplace_back(step_ * page_bytes());
    references_.resize(pages, 0);
    for (Index page = first; page < count(); ++page) group(page) |= bit(page);
    free_count_ += step_;
  }

  Sizes sizes_;
  Index step_;
  bool may_grow_;
  std::vector<Memory> slabs_{};  // each of `step_` pages
  std::vector<Index> references_{};
  std::vector<Group> free_{};
  Index free_count_ = 0;
};

}  // namespace fovea::inline FOVEA_ISA::cache

// fovea/cache/paged.hpp

// Sequences whose keys and values lie in pages of one pool: they grow a page at a time, and share the pages of a
// prefix. The layout is that of block tables: Kwon et al., "Efficient Memory Management for Large Language Model
// Serving with PagedAttention", SOSP 2023, arXiv:2309.06180.
//
//   cache::Pool<float> pool({.kv_heads = 8, .key_dim = 128, .value_dim = 128, .page_tokens = 16, .pages = 4096});
//   cache::Paged<float> prompt(pool);
//   prompt.append(k, v);                                       k [G,n,D], v [G,n,E]
//   auto answer = prompt.fork();                               shares all pages; what is appended is its own
//   fovea::attend(q, answer, out, recipe);                     q [1,H,N,D] are its last N tokens
//
// Token t of a sequence is token t % page_tokens of page pages()[t / page_tokens]. The last tokens of quantised
// formats, which wait in full precision, are with the sequence. A page that several sequences share is never written:
// who appends to it copies it first.
//
// Pages are made many at a time: [G, pages, page_tokens] keys and then as many values, in the formats of K and V, so
// that pages with consecutive numbers are one piece of memory for each head. A sequence takes them in long stretches
// where there are such (pages.hpp).
//
// A pool lives as long as the last sequence on it. Neither is thread-safe: what changes one sequence (and the end of
// its life) may change the pool, so all sequences of a pool change on one thread at a time. Reading them changes
// nothing. What source() gives is valid until the sequence changes or moves.

namespace fovea::inline FOVEA_ISA::cache {

struct PoolOptions {
  Index kv_heads = 0;  // required, as are the widths
  Index key_dim = 0;
  Index value_dim = 0;
  Index page_tokens = 16;      // of quantised formats a multiple of the group and of 32
  Index pages = 0;             // that there are from the start
  bool may_grow = true;        // by half, in pieces of as many (4 MiB when 0); else append() refuses when none is free
  bool rotated = true;         // whether keys are given rotated by their positions; kept in files
  kv::Grouping grouping = {};  // of quantised formats
};

template <class K, class V>
class Paged;

// Copies are the same pool. K and V: float, double, Eigen::bfloat16, Eigen::half, kv::Int8 or kv::Int4.
template <class K, class V = K>
class Pool {
 public:
  using Keys = kv::KeyFormat<K>;
  using Values = kv::ValueFormat<V>;

  // Throws ArgumentError for extents, pages or groups that are not legal.
  explicit Pool(const PoolOptions& options) : Pool(options, formats(options)) {}
  Pool(const Pool&) = default;
  Pool& operator=(const Pool&) = default;

  const PoolOptions& options() const { return options_; }
  Index page_tokens() const { return options_.page_tokens; }
  Index pages() const { return pages_->count(); }
  Index free_pages() const { return pages_->free(); }
  bool rotated() const { return options_.rotated; }
  // Sequences that refer to a page; none when it is free.
  Index references(Index page) const {
    check(page >= 0 && page < pages(), "fovea::cache::Pool::references", "the page must be between 0 and ", pages() - 1,
          ", got ", page);
    return pages_->references(page);
  }
  // Makes sure that there are so many pages in all, or more, also where the pool may not grow by itself.
  void reserve(Index pages) {
    check(pages >= 0 && pages <= most_pages(), "fovea::cache::Pool::reserve", "the pages must be between 0 and ",
          most_pages(), ", got ", pages);
    if (pages > pages_->count()) pages_->grow(pages - pages_->count());
  }

 private:
  friend class Paged<K, V>;

  struct Both {
    Keys k;
    Values v;
  };

  static constexpr auto name = "fovea::cache::Pool";

  static Both formats(const PoolOptions& options) {
    check_extents(name, options.kv_heads, options.key_dim, options.value_dim);
    const Both both{kv::Formats<K>::keys(name, options.key_dim, options.grouping),
                    kv::Formats<V>::values(name, options.value_dim, options.grouping)};
    const Index block = std::lcm(both.k.block(), both.v.block()), most = Index{1} << 20;
    check(options.page_tokens > 0 && options.page_tokens <= most, name, "page_tokens must be between 1 and ", most,
          ", got ", options.page_tokens);
    check(options.page_tokens % block == 0, name, "page_tokens must be a multiple of the block of the format, ",
          "wanted a multiple of ", block, ", got ", options.page_tokens);
    return both;
  }
  Pool(const PoolOptions& options, const Both& both)
      : options_(options),
        formats_(both),
        pages_(std::make_shared<Pages>(
            Pages::Sizes{options.kv_heads, both.k.bytes(options.page_tokens), both.v.bytes(options.page_tokens)},
            options.pages, options.may_grow)) {
    check(options.pages >= 0 && options.pages <= most_pages(), name, "pages must be between 0 and ", most_pages(),
          ", got ", options.pages);
    if (options.pages > 0) pages_->grow(options.pages);
  }
  Index most_pages() const { return (Index{1} << 62) / pages_->page_bytes(); }

  PoolOptions options_;
  Both formats_;
  std::shared_ptr<Pages> pages_;
};

// A sequence. It is moved, and copied by fork() alone; what it was moved from refuses everything but its end.
template <class K, class V = K>
class Paged {
 public:
  using Keys = kv::KeyFormat<K>;
  using Values = kv::ValueFormat<V>;

  explicit Paged(const Pool<K, V>& pool)
      : pool_(pool), keys_(pool.formats_.k, pool.options_.kv_heads), values_(pool.formats_.v, pool.options_.kv_heads) {}

  // The first `length` tokens of pages that other sequences have written, with which it shares them. Plain formats.
  // Throws ArgumentError when a page is not one of the pool's or is free, or when there are too few.
  Paged(const Pool<K, V>& pool, std::span<const Index> pages, Index length) requires(!Keys::late && !Values::late)
      : Paged(pool) {
    constexpr auto where = "fovea::cache::Paged";
    check(length >= 0, where, "the length must not be negative, got ", length);
    const Index wanted = pages_for(length), page_count = pool.pages();
    check(Index(pages.size()) >= wanted, where, "the page table is shorter than the length, wanted ", wanted,
          " pages, got ", pages.size());
    for (Index p = 0; p < wanted; ++p) {
      const Index page = pages[std::size_t(p)];
      check(page >= 0 && page < page_count, where, "pages must be between 0 and ", page_count - 1, ", entry ", p,
            " is ", page);
      check(pool.references(page) > 0, where, "page ", page, " is free, no sequence has written it, entry ", p);
    }
    reserve_table(wanted);
    for (Index p = 0; p < wanted; ++p) share(pages[std::size_t(p)]);
    length_ = length;
  }
  Paged(Paged&& other) noexcept
      : pool_(other.pool_),
        keys_(std::move(other.keys_)),
        values_(std::move(other.values_)),
        length_(std::exchange(other.length_, 0)),
        numbers_(std::exchange(other.numbers_, {})),
        keys_of_(std::exchange(other.keys_of_, {})),
        values_of_(std::exchange(other.values_of_, {})) {
    other.pool_.pages_ = nullptr;
  }
  Paged& operator=(Paged&& other) noexcept {
    Paged moved(std::move(other));
    swap(moved);
    return *this;
  }
  ~Paged() { keep_pages(0); }

  Index length() const { return length_; }
  bool rotated() const { return pool_.rotated(); }
  std::span<const Index> pages() const { return numbers_; }  // the page table
  const Pool<K, V>& pool() const {
    check_whole("fovea::cache::Paged::pool");
    return pool_;
  }

  // Makes the page table long enough for so many tokens. It takes no pages: see Pool::reserve.
  void reserve(Index tokens) {
    constexpr auto where = "fovea::cache::Paged::reserve";
    check_whole(where);
    check(tokens >= 0 && tokens <= most_tokens, where, "the tokens must be between 0 and ", most_tokens, ", got ",
          tokens);
    make_table((tokens + page() - 1) / page());
  }

  // Tokens that follow: k [G,n,D] and v [G,n,E], or matrices [n,D] and [n,E] when there is one head; float or double.
  // Throws ArgumentError, and leaves the sequence and the pool as they were, when they do not fit, when there are too
  // few free pages in a pool that may not grow, or when the format cannot store a number.
  template <class Tk, class Tv>
  void append(const Tk& k, const Tv& v) {
    constexpr auto where = "fovea::cache::Paged::append";
    const auto keys = appended(k);
    const auto values = appended(v);
    check_whole(where);
    const PoolOptions& o = pool_.options_;
    check_appended(where, keys.extents(), values.extents(), o.kv_heads, o.key_dim, o.value_dim);
    check(keys.length <= most_tokens - length_, where, "there is no room for ", keys.length, " tokens behind ",
          length_);
    keys_.check_storable(where, "k", keys);
    values_.check_storable(where, "v", values);
    if (keys.length == 0) return;
    make_pages(where, length_ + keys.length);
    keys_.append(places().k, keys, length_);
    values_.append(places().v, values, length_);
    length_ += keys.length;
  }

  // Only the first `tokens` tokens stay (speculative ones that were rejected go), and pages that hold none of them are
  // given back. Of quantised formats up to `residual` tokens go without a trace; when more do, the last tokens that
  // stay come back into full precision as rounded.
  void truncate(Index tokens) {
    constexpr auto where = "fovea::cache::Paged::truncate";
    check_whole(where);
    check(tokens >= 0 && tokens <= length_, where, "the tokens that stay must be between 0 and ", length_, ", got ",
          tokens);
    keys_.truncate(places().k, length_, tokens);
    values_.truncate(places().v, length_, tokens);
    length_ = tokens;
    keep_pages(pages_for(tokens));
  }
  void clear() { truncate(0); }

  // A sequence that shares the pages of this one; only tokens that wait in full precision are copied.
  Paged fork() const { return fork(length_); }
  // The same of the first `tokens` tokens: what fork() and truncate(tokens) would leave.
  Paged fork(Index tokens) const {
    constexpr auto where = "fovea::cache::Paged::fork";
    check_whole(where);
    check(tokens >= 0 && tokens <= length_, where, "the tokens must be between 0 and ", length_, ", got ", tokens);
    Paged other(pool_);
    other.keys_ = keys_;
    other.values_ = values_;
    other.keys_.truncate(places().k, length_, tokens);
    other.values_.truncate(places().v, length_, tokens);
    const Index pages = pages_for(tokens);
    other.reserve_table(pages);
    for (Index p = 0; p < pages; ++p) other.share(numbers_[std::size_t(p)]);
    other.length_ = tokens;
    return other;
  }

  // Writes the sequence (docs/cache_format.md). Throws FormatError when the stream fails.
  void save(std::ostream& to) const {
    constexpr auto where = "fovea::cache::Paged::save";
    check_whole(where);
    detail::write_sequence(where, to, detail::file_header<K, V>(pool_.options_), keys_, values_, places(), length_);
  }
  // Reads what a cache of the same types, heads, widths and groups has written, Contiguous or Paged, and takes it in
  // place of what was there. Pages are taken as tokens arrive, whatever the file promises. Throws FormatError, and
  // leaves the sequence as it was, when the file is not such a one or when there are too few free pages in a pool that
  // may not grow (the old ones are in use until the end).
  void load(std::istream& from) {
    constexpr auto where = "fovea::cache::Paged::load";
    check_whole(where);
    Paged fresh(pool_);
    const auto begin = [&](Index length) {
      const Index wanted = pages_for(length), free = pool_.free_pages();
      detail::check_file(pool_.options_.may_grow || wanted <= free, where, "the pool may not grow, it has ", free,
                         " free pages, wanted ", wanted);
    };
    const auto make_room = [&](Index tokens) {
      const Index pages = (tokens + page() - 1) / page();
      fresh.reserve_table(pages);
      pool_.pages_->provide(where, pages - Index(fresh.numbers_.size()));
      while (Index(fresh.numbers_.size()) < pages) fresh.add_new();
      return fresh.places();
    };
    fresh.length_ = detail::read_sequence(where, from, detail::file_header<K, V>(pool_.options_), fresh.keys_,
                                          fresh.values_, begin, make_room);
    swap(fresh);
  }

  // What the engine reads (parts/kv/contiguous.hpp).
  kv::Stored<Keys, Values> source() const {
    check_whole("fovea::cache::Paged::source");
    return {keys_.tokens(places().k, length_), values_.tokens(places().v, length_), pool_.options_.kv_heads};
  }

 private:
  static constexpr Index most_tokens = Index{1} << 56;

  void check_whole(const char* where) const { check(pool_.pages_ != nullptr, where, "the sequence was moved from"); }

  void swap(Paged& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(keys_, other.keys_);
    std::swap(values_, other.values_);
    std::swap(length_, other.length_);
    std::swap(numbers_, other.numbers_);
    std::swap(keys_of_, other.keys_of_);
    std::swap(values_of_, other.values_of_);
  }

  Index page() const { return pool_.options_.page_tokens; }
  // Pages that hold what is written of `length` tokens.
  Index pages_for(Index length) const {
    const Index written = std::max(keys_.format().settled(length), values_.format().settled(length));
    return (written + page() - 1) / page();
  }
  Places places() const {
    const Pages& pool = *pool_.pages_;
    return {{keys_of_.data(), page(), 0, pool.key_stride()}, {values_of_.data(), page(), 0, pool.value_stride()}};
  }

  // Pages for what follows up to `length` tokens: new ones, and copies of those that are shared and will be written.
  void make_pages(const char* where, Index length) {
    Pages& pool = *pool_.pages_;
    const Index had = Index(numbers_.size()), wanted = pages_for(length);
    const Span keys{keys_.format().settled(length_), keys_.format().settled(length)};
    const Span values{values_.format().settled(length_), values_.format().settled(length)};
    const auto is_copied = [&](Index p) {
      const Span tokens{p * page(), (p + 1) * page()};
      return pool.references(numbers_[std::size_t(p)]) > 1 &&
             !(intersect(keys, tokens).empty() && intersect(values, tokens).empty());
    };
    const Index first = std::min({had, keys.first / page(), values.first / page()});
    Index fresh = wanted - had;
    for (Index p = first; p < had; ++p) fresh += is_copied(p);
    if (fresh == 0) return;
    reserve_table(wanted);
    pool.provide(where, fresh);
    for (Index p = first; p < had; ++p) {
      if (!is_copied(p)) continue;
      const Index copy = pool.take(p > 0 ? numbers_[std::size_t(p - 1)] : Pages::none),
                  shared = std::exchange(numbers_[std::size_t(p)], copy);
      pool.copy(shared, copy);
      keys_of_[std::size_t(p)] = pool.keys(copy);
      values_of_[std::size_t(p)] = pool.values(copy);
      pool.give(shared);
    }
    for (Index p = had; p < wanted; ++p) add_new();
  }

  void make_table(Index pages) {
    numbers_.reserve(std::size_t(pages));
    keys_of_.reserve(std::size_t(pages));
    values_of_.reserve(std::size_t(pages));
  }
  void reserve_table(Index pages) {
    if (pages > Index(std::min({numbers_.capacity(), keys_of_.capacity(), values_of_.capacity()})))
      make_table(std::max({pages, 2 * Index(numbers_.size()), Index{16}}));
  }
  void add(Index page) {
    numbers_.push_back(page);
    keys_of_.push_back(pool_.pages_->keys(page));
    values_of_.push_back(pool_.pages_->values(page));
  }
  void add_new() { add(pool_.pages_->take(numbers_.empty() ? Pages::none : numbers_.back())); }
  void share(Index page) {
    pool_.pages_->refer(page);
    add(page);
  }
  void keep_pages(Index pages) {
    while (Index(numbers_.size()) > pages) {
      pool_.pages_->give(numbers_.back());
      numbers_.pop_back();
      keys_of_.pop_back();
      values_of_.pop_back();
    }
  }

  Pool<K, V> pool_;
  Side<Keys> keys_;
  Side<Values> values_;
  Index length_ = 0;
  std::vector<Index> numbers_{};                     // the page table
  std::vector<std::byte*> keys_of_{}, values_of_{};  // where each page is
};

}  // namespace fovea::inline FOVEA_ISA::cache

// fovea/parts/kv/integers.hpp

// Integers that come with keys and values: tables of pages, lists of tokens, lengths. They are read where they lie.

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

// fovea/parts/kv/ring.hpp

// Keys and values of which the first tokens stay and the last ones go round in a ring behind them.
// Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024, arXiv:2309.17453.
//
// Slot t holds token t as long as there is room. Later tokens t >= pinned stand in slot pinned + (t - pinned) % ring,
// where a ring of so many slots follows the pinned ones. They are read in the order in which they came, the pinned ones
// first, in three runs at most: masks and windows stand as they do over an array of these tokens.

namespace fovea::inline FOVEA_ISA::kv {

// Which slots are read, and in what order.
struct RingOrder {
  Index pinned = 0;  // tokens that stay
  Index ring = 1;    // slots behind them
  Index window = 0;  // last tokens behind the pinned ones that are read, at most `ring`

  // Tokens to be read when `seen` came.
  Index length(Index seen) const { return std::min(seen, pinned + window); }

  // f(Span part, slot) for the tokens of a span, counted as they are read, that stand in slots from `slot` on.
  template <class F>
  [[gnu::always_inline]] void each_run(Index seen, Span tokens, F&& f) const {
    const Index left_out = std::max<Index>(0, seen - pinned - window), start = left_out % ring;
    Index first = tokens.first;
    while (first < tokens.last) {
      Index slot = first, room = pinned + ring - first;
      if (start > 0 && first < pinned) {
        room = pinned - first;
      } else if (start > 0) {
        slot = start + first - pinned < ring ? start + first : start + first - ring;
        room = pinned + ring - slot;
      }
      const Index end = std::min(tokens.last, first + room);
      f(Span{first, end}, slot);
      first = end;
    }
  }
};

// The source (contiguous.hpp) of arrays k [B,G,slots,D] and v [B,G,slots,E].
template <class K, class V, class Seen = Index>
struct Ring {
  View<const K> k;
  View<const V> v;
  RingOrder order;
  Index seen_by_all = 0;       // tokens that came
  const Seen* seen = nullptr;  // the same for each sequence, [B], unless it is null

  Index seen_of(Index batch) const { return seen == nullptr ? seen_by_all : Index(seen[batch]); }
  Index length(Index batch) const { return order.length(seen_of(batch)); }
  Index longest() const {
    Index most = 0;
    for (Index b = 0; b < batch(); ++b) most = std::max(most, length(b));
    return most;
  }
  Index batch() const { return k.batch; }
  Index kv_heads() const { return k.heads; }
  Index key_dim() const { return k.dim; }
  Index value_dim() const { return v.dim; }

  template <class F>
  [[gnu::always_inline]] void each_keys(Index batch, Index kv_head, Span tokens, F&& f) const {
    each_run(k, batch, kv_head, tokens, f);
  }
  template <class F>
  [[gnu::always_inline]] void each_values(Index batch, Index kv_head, Span tokens, F&& f) const {
    each_run(v, batch, kv_head, tokens, f);
  }
  template <class T>
  Index scratch_size(Index) const {
    return 0;
  }

 private:
  template <class S, class F>
  [[gnu::always_inline]] void each_run(const View<const S>& x, Index batch, Index kv_head, Span tokens, F&& f) const {
    const bool much = x.length * x.dim >= Rows<S>::much;
    order.each_run(
        seen_of(batch), tokens, [&](Span part, Index slot) __attribute__((always_inline)) {
          f(part, Rows<S>{x.row(batch, kv_head, slot), x.length_stride, x.dim, much});
        });
  }
};

namespace detail {

// count: how many numbers there are in seen, negative where seen_by_all holds for all.
template <class K, class V, class Seen>
auto checked_ring(const K& k, const V& v, Index pinned, Index seen_by_all, const Seen* seen, Index count) {
  constexpr auto where = "fovea::kv::ring";
  const auto keys = view(k);
  const auto values = view(v);
  using Key = std::remove_const_t<std::remove_pointer_t<decltype(keys.data)>>;
  using Value = std::remove_const_t<std::remove_pointer_t<decltype(values.data)>>;
  check_alike(where, keys.extents(), values.extents());
  check(pinned >= 0 && pinned < keys.length, where, "there must be slots behind the pinned tokens, pinned are ", pinned,
        " of ", keys.length);
  check(count < 0 || count == keys.batch, where, "there must be one number of tokens for each sequence, wanted ",
        keys.batch, ", got ", count);
  const Index ring = keys.length - pinned;
  const Ring<Key, Value, Seen> source{keys, values, {pinned, ring, ring}, seen_by_all, seen};
  for (Index b = 0; b < keys.batch; ++b)
    check(source.seen_of(b) >= 0, where, "numbers of tokens must not be negative, got ", source.seen_of(b));
  return source;
}

}  // namespace detail

// The source of k [B,G,slots,D] and v [B,G,slots,E], whose scalar types may differ: float, double, Eigen::bfloat16,
// Eigen::half. The first `pinned` slots are for the tokens that stay, the others are the ring. seen is how many tokens
// came: one integer, or integers [B], which are not copied.
// Throws ArgumentError when they do not fit together.
template <class K, class V>
auto ring(const K& k, const V& v, Index pinned, Index seen) {
  return detail::checked_ring<K, V, Index>(k, v, pinned, seen, nullptr, -1);
}
template <class K, class V, class Seen>
requires(!std::integral<Seen>) auto ring(const K& k, const V& v, Index pinned, const Seen& seen) {
  const auto counts = integers(seen);
  return detail::checked_ring(k, v, pinned, 0, counts.data, counts.dim);
}

}  // namespace fovea::inline FOVEA_ISA::kv

// fovea/cache/rolling_cache.hpp

// The first and the last tokens of one sequence: some that stay, and a ring behind them in which new tokens take the
// places of the oldest. Its memory is taken once and does not grow.
// Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024, arXiv:2309.17453.
//
//   cache::Rolling<Eigen::half> cache({.kv_heads = 8, .key_dim = 128, .value_dim = 128, .window = 1020,
//                                      .sink_tokens = 4});
//   cache.append(k, v);                                        k [G,n,D], v [G,n,E]: the prompt, then token by token
//   fovea::attend(q, cache, out, softmax().mask(mask::causal()));       q [1,H,1,D] is the last token
//
// Masks and windows see the tokens that are left numbered 0, 1, ... in the order in which they came. Keys may be given
// before or after rotation; `streaming` (sink/streaming.hpp) counts rotary positions inside a cache of this kind.

namespace fovea::inline FOVEA_ISA::cache {

struct RollingOptions {
  Index kv_heads = 0;  // required, as are the widths
  Index key_dim = 0;
  Index value_dim = 0;
  Index window = 0;       // last tokens that stay; required
  Index sink_tokens = 0;  // first tokens that stay
  Index spare = 0;        // further slots of the ring: as many tokens can be taken back, or asked for by source(more)
};

// K and V: float, double, Eigen::bfloat16 or Eigen::half. Moved, and copied by fork() alone.
template <class K = float, class V = K>
class Rolling {
  static_assert(kv::PlainTag<K> && kv::PlainTag<V>, "fovea: rolling caches store float, double, bfloat16 or half");

 public:
  // Throws ArgumentError for extents that are not legal.
  explicit Rolling(const RollingOptions& options)
      : options_(checked(options)), keys_(options.kv_heads * key_bytes()), values_(options.kv_heads * value_bytes()) {}
  // What is left is empty and refuses tokens.
  Rolling(Rolling&& other) noexcept
      : options_(other.options_),
        seen_(std::exchange(other.seen_, 0)),
        most_(std::exchange(other.most_, 0)),
        keys_(std::move(other.keys_)),
        values_(std::move(other.values_)) {
    other.options_.kv_heads = 0;
  }
  Rolling& operator=(Rolling&& other) noexcept {
    std::swap(options_, other.options_);
    std::swap(seen_, other.seen_);
    std::swap(most_, other.most_);
    std::swap(keys_, other.keys_);
    std::swap(values_, other.values_);
    return *this;
  }

  const RollingOptions& options() const { return options_; }
  Index seen() const { return seen_; }                                   // tokens that came
  Index length() const { return order(options_.window).length(seen_); }  // tokens that are left
  Index capacity() const { return options_.sink_tokens + ring(); }       // slots

  // Tokens that follow: k [G,n,D] and v [G,n,E], or matrices [n,D] and [n,E] when there is one head; float or double.
  // Throws ArgumentError, and leaves the cache as it was, when they do not fit it.
  template <class Tk, class Tv>
  void append(const Tk& k, const Tv& v) {
    constexpr auto where = "fovea::cache::Rolling::append";
    const auto keys = appended(k);
    const auto values = appended(v);
    check(options_.kv_heads > 0, where, "the cache was moved from");
    check_appended(where, keys.extents(), values.extents(), options_.kv_heads, options_.key_dim, options_.value_dim);
    write(kv::Plain<K>{options_.key_dim}, keys_.data(), key_bytes(), keys);
    write(kv::Plain<V>{options_.value_dim}, values_.data(), value_bytes(), values);
    seen_ += keys.length;
    most_ = std::max(most_, seen_);
  }

  // Only the first `tokens` tokens that came stay (speculative ones that were rejected go), and the window moves back
  // over older ones. Refused when those have been overwritten: as long as no token has left the ring, and from then on
  // for `spare` tokens, they are there.
  void truncate(Index tokens) {
    constexpr auto where = "fovea::cache::Rolling::truncate";
    check(tokens >= 0 && tokens <= seen_, where, "the tokens that stay must be between 0 and ", seen_, ", got ",
          tokens);
    check(tokens <= options_.sink_tokens || first_of(tokens, options_.window) >= oldest(), where,
          "tokens that would come back are overwritten, at least ", std::min(oldest() + options_.window, seen_),
          " must stay, got ", tokens);
    seen_ = tokens;
    if (tokens <= options_.sink_tokens) most_ = tokens;
  }
  void clear() { truncate(0); }

  // A copy with a memory of its own.
  Rolling fork() const {
    check(options_.kv_heads > 0, "fovea::cache::Rolling::fork", "the cache was moved from");
    Rolling copy(options_);
    const Index slots = std::min(most_, capacity());
    for (Index h = 0; h < options_.kv_heads; ++h) {
      copy_slots(copy.keys_.data() + h * key_bytes(), keys_.data() + h * key_bytes(),
                 slots * options_.key_dim * Index(sizeof(K)));
      copy_slots(copy.values_.data() + h * value_bytes(), values_.data() + h * value_bytes(),
                 slots * options_.value_dim * Index(sizeof(V)));
    }
    copy.seen_ = seen_;
    copy.most_ = most_;
    return copy;
  }

  // What the engine reads (parts/kv/contiguous.hpp): the sink tokens and the window.
  kv::Ring<K, V> source() const { return of_window(options_.window); }
  // The same with `more` tokens in front of the window, as long as there are any: N queries that each see a window of
  // their own want N - 1. Throws ArgumentError when the ring has no room for them.
  kv::Ring<K, V> source(Index more) const {
    constexpr auto where = "fovea::cache::Rolling::source";
    check(more >= 0 && more <= options_.spare, where, "the tokens in front of the window must be between 0 and ",
          options_.spare, ", got ", more);
    check(seen_ <= options_.sink_tokens || first_of(seen_, options_.window + more) >= oldest(), where,
          "tokens in front of the window are overwritten, there are ", first_of(seen_, options_.window) - oldest(),
          ", got ", more);
    return of_window(options_.window + more);
  }

 private:
  static constexpr auto name = "fovea::cache::Rolling";

  static const RollingOptions& checked(const RollingOptions& options) {
    check_extents(name, options.kv_heads, options.key_dim, options.value_dim);
    constexpr Index most = Index{1} << 40;
    check(options.window > 0 && options.window <= most, name, "window must be between 1 and ", most, ", got ",
          options.window);
    check(options.sink_tokens >= 0 && options.sink_tokens <= most, name, "sink_tokens must be between 0 and ", most,
          ", got ", options.sink_tokens);
    check(options.spare >= 0 && options.spare <= most, name, "spare must be between 0 and ", most, ", got ",
          options.spare);
    const Index widest = options.key_dim * Index(sizeof(K)) + options.value_dim * Index(sizeof(V));
    const Index slots = options.sink_tokens + options.window + options.spare;
    check(slots <= (Index{1} << 62) / (options.kv_heads * widest) - 64, name, "there is no room for ", slots,
          " tokens");
    return options;
  }

  Index ring() const { return options_.window + options_.spare; }
  kv::RingOrder order(Index window) const { return {options_.sink_tokens, ring(), window}; }
  // Bytes of a head.
  Index key_bytes() const { return kv::Plain<K>{options_.key_dim}.bytes(capacity()); }
  Index value_bytes() const { return kv::Plain<V>{options_.value_dim}.bytes(capacity()); }

  // The first token of a window that ends with `tokens`, and the oldest one that stands in the ring.
  Index first_of(Index tokens, Index window) const { return std::max(options_.sink_tokens, tokens - window); }
  Index oldest() const { return first_of(most_, ring()); }

  kv::Ring<K, V> of_window(Index window) const {
    const auto view = [&](const auto* data, Index dim, Index bytes) {
      using S = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
      const Index head = bytes / Index(sizeof(S));
      return View<const S>{data, 1, options_.kv_heads, capacity(), dim, 0, head, dim};
    };
    return {view(reinterpret_cast<const K*>(keys_.data()), options_.key_dim, key_bytes()),
            view(reinterpret_cast<const V*>(values_.data()), options_.value_dim, value_bytes()), order(window), seen_};
  }

  // Rows of tokens into their slots; what would be overwritten is left out.
  template <class Format, class T>
  void write(const Format& format, std::byte* memory, Index head_bytes, const View<const T>& rows) {
    const Index end = seen_ + rows.length, pinned = std::clamp<Index>(options_.sink_tokens - seen_, 0, rows.length);
    for (Index h = 0; h < options_.kv_heads; ++h) {
      std::byte* const stretch = memory + h * head_bytes;
      if (pinned > 0) format.write(stretch, seen_, pinned, rows.row(0, h, 0), rows.length_stride);
      for (Index token = std::max(seen_ + pinned, end - ring()); token < end;) {
        const Index place = (token - options_.sink_tokens) % ring(), n = std::min(end - token, ring() - place);
        format.write(stretch, options_.sink_tokens + place, n, rows.row(0, h, token - seen_), rows.length_stride);
        token += n;
      }
    }
  }
  static void copy_slots(std::byte* to, const std::byte* from, Index bytes) {
    if (bytes > 0) std::memcpy(to, from, std::size_t(bytes));
  }

  RollingOptions options_;
  Index seen_ = 0, most_ = 0;  // tokens that came, and that had come before some were taken back
  Memory keys_, values_;
};

}  // namespace fovea::inline FOVEA_ISA::cache

// fovea/core/grid.hpp

// Tokens on a grid of up to three axes, and the order of its tokens tile by tile.

namespace fovea::inline FOVEA_ISA {

// One number for each axis, the slowest first: extents, or the place of a token. An axis that is not there has extent
// one.
using Place = std::array<Index, 3>;

constexpr Index volume(const Place& extents) { return extents[0] * extents[1] * extents[2]; }

// Where a place stands when tokens lie row by row.
constexpr Index index_in(const Place& extents, const Place& at) {
  return (at[0] * extents[1] + at[1]) * extents[2] + at[2];
}

constexpr Place place_in(const Place& extents, Index index) {
  return {index / extents[2] / extents[1], index / extents[2] % extents[1], index % extents[2]};
}

// One value for all axes of a grid, or one for each: 7 or {4, 7, 7}.
template <class T>
class PerAxis {
 public:
  constexpr PerAxis(T all = T()) : values_{all}, count_(1) {}
  constexpr PerAxis(std::initializer_list<T> each) : count_(each.size()) {
    std::size_t a = 0;
    for (const T value : each) {
      if (a < values_.size()) values_[a++] = value;
    }
  }

  constexpr Index count() const { return Index(count_); }
  constexpr T operator[](Index axis) const { return values_[count_ == 1 ? 0 : std::size_t(axis)]; }

 private:
  std::array<T, 3> values_{};
  std::size_t count_;
};

// The places whose coordinates lie in a span of each axis.
struct Box {
  std::array<Span, 3> axes;

  constexpr bool empty() const { return axes[0].empty() || axes[1].empty() || axes[2].empty(); }
  constexpr bool operator==(const Box&) const = default;
};

// The order of a grid's tokens in equal tiles, row by row of tiles, the places of a tile in equal patches, row by row
// of patches, and those of a patch row by row. Tile n holds positions [n pitch, (n + 1) pitch). Positions beyond the
// grid's edge, or behind the places of a tile, hold no token.
class TiledGrid {
 public:
  // patch divides tile in every axis; pitch is the volume of a tile when zero.
  TiledGrid(const Place& grid, const Place& tile, const Place& patch = {1, 1, 1}, Index pitch = 0)
      : grid_(grid), tile_(tile), patch_(patch), pitch_(pitch == 0 ? volume(tile) : pitch), patch_size_(volume(patch)) {
    const Place tiles = whole(grid, tile), patches = whole(tile, patch);
    tiled_ = times(tiles, tile);
    for (Index t = 0; t < volume(tiles); ++t) origins_.push_back(narrow(times(place_in(tiles, t), tile)));
    for (Index i = 0; i < volume(tile); ++i) {
      const Place corner = times(place_in(patches, i / volume(patch)), patch),
                  inner = place_in(patch, i % volume(patch));
      offsets_.push_back(narrow({corner[0] + inner[0], corner[1] + inner[1], corner[2] + inner[2]}));
    }
  }

  const Place& grid() const { return grid_; }
  const Place& tile() const { return tile_; }
  Index pitch() const { return pitch_; }
  Index tiles() const { return Index(origins_.size()); }
  Index positions() const { return tiles() * pitch_; }

  // The first place of a tile.
  Place origin(Index tile) const { return wide(origins_[std::size_t(tile)]); }

  // Calls f(position, place) for every token.
  template <class F>
  void each_token(F&& f) const {
    for (Index t = 0; t < tiles(); ++t) {
      for (Index i = 0; i < size(); ++i) {
        const Place a = origin(t), b = wide(offsets_[std::size_t(i)]), at{a[0] + b[0], a[1] + b[1], a[2] + b[2]};
        if (at[0] < grid_[0] && at[1] < grid_[1] && at[2] < grid_[2]) f(t * pitch_ + i, at);
      }
    }
  }

  // Whether some positions that are not empty are places all of them, on the grid or beyond its edge.
  bool gapless(Span positions) const {
    if (pitch_ == size()) return true;
    const Index tile = quotient(positions.first, pitch_);
    return positions.last <= tile * pitch_ + size();
  }

  // A box that holds the places of some positions; it may reach beyond the grid's edge.
  Box box(Span positions) const {
    if (positions.empty()) return {};
    const Index first = quotient(positions.first, pitch_), begin = first * pitch_;
    if (positions.last > begin + pitch_) {
      const Index last = quotient(positions.last - 1, pitch_);
      return hull(origins_[std::size_t(first)], origins_[std::size_t(last)], tile_, {0, 0, 0}, tiled_);
    }
    const Index from = positions.first - begin, to = std::min(positions.last - begin, size()) - 1;
    if (to < from) return {};
    const Index a = quotient(from, patch_size_) * patch_size_;
    const auto& patch = offsets_[std::size_t(a)];
    const Box inner =
        to >= a + patch_size_
            ? hull(patch, offsets_[std::size_t(quotient(to, patch_size_) * patch_size_)], patch_, {0, 0, 0}, tile_)
            : hull(offsets_[std::size_t(from)], offsets_[std::size_t(to)], {1, 1, 1}, wide(patch), patch_);
    return moved(inner, origin(first));
  }

 private:
  using Narrow = std::array<std::int32_t, 3>;

  static Narrow narrow(const Place& x) { return {std::int32_t(x[0]), std::int32_t(x[1]), std::int32_t(x[2])}; }
  static Place wide(const Narrow& x) { return {x[0], x[1], x[2]}; }
  static Place times(const Place& a, const Place& b) { return {a[0] * b[0], a[1] * b[1], a[2] * b[2]}; }
  static Place whole(const Place& extents, const Place& part) {
    const auto count = [&](std::size_t a) { return (extents[a] + part[a] - 1) / part[a]; };
    return {count(0), count(1), count(2)};
  }

  // a / b; a division of 64 bits takes several times as long.
  static Index quotient(Index a, Index b) {
    const bool narrow = ((a | b) >> 32) == 0;
    return narrow ? Index(std::uint32_t(a) / std::uint32_t(b)) : a / b;
  }

  Index size() const { return Index(offsets_.size()); }

  static Box moved(const Box& x, const Place& by) {
    const auto span = [&](std::size_t a) { return Span{x.axes[a].first + by[a], x.axes[a].last + by[a]}; };
    return {{span(0), span(1), span(2)}};
  }

  // Around pieces of the extents `piece` that stand row by row from place a to place b, in a whole that begins at
  // `begin` and has the extents `all`.
  static Box hull(const Narrow& a, const Narrow& b, const Place& piece, const Place& begin, const Place& all) {
    const auto between = [&](std::size_t axis) { return Span{a[axis], b[axis] + piece[axis]}; };
    const auto across = [&](std::size_t axis) { return Span{begin[axis], begin[axis] + all[axis]}; };
    if (a[0] != b[0]) return {{between(0), across(1), across(2)}};
    if (a[1] != b[1]) return {{between(0), between(1), across(2)}};
    return {{between(0), between(1), between(2)}};
  }

  Place grid_, tile_, patch_;
  Place tiled_{};  // the extents of all tiles
  Index pitch_, patch_size_;
  std::vector<Narrow> origins_;  // of each tile
  std::vector<Narrow> offsets_;  // of each place of a tile, from its origin
};

}  // namespace fovea::inline FOVEA_ISA

// fovea/parts/kv/batch.hpp

// Several sequences in one call, each of its own length.
//
//   std::vector<cache::Paged<float>> sequences;
//   fovea::attend(q, kv::batch(sequences), out, recipe, executor);       q [B,H,N,D], B sequences

namespace fovea::inline FOVEA_ISA::kv {

namespace detail {

// What has a source(): the item, or what it points to.
template <class Item>
const auto& sequence_of(const Item& item) {
  if constexpr (requires { item.source(); }) {
    return item;
  } else {
    return *item;
  }
}

}  // namespace detail

// The source (contiguous.hpp) of the sequences that an iterator leads to: objects with source(), or pointers to them.
// Each is asked when it is read, and nothing is copied: the objects must stay where they are.
template <class Iterator>
class Batch {
 public:
  Batch(Iterator first, Index size) : first_(first), size_(size) {}

  Index length(Index batch) const { return of(batch).length(0); }
  Index longest() const {
    Index most = 0;
    for (Index b = 0; b < size_; ++b) most = std::max(most, length(b));
    return most;
  }
  Index batch() const { return size_; }
  // Of a batch of none, nothing is known.
  Index kv_heads() const { return size_ == 0 ? 0 : of(0).kv_heads(); }
  Index key_dim() const { return size_ == 0 ? 0 : of(0).key_dim(); }
  Index value_dim() const { return size_ == 0 ? 0 : of(0).value_dim(); }

  template <class F>
  [[gnu::always_inline]] void each_keys(Index batch, Index kv_head, Span tokens, F&& f) const {
    of(batch).each_keys(0, kv_head, tokens, f);
  }
  template <class F>
  [[gnu::always_inline]] void each_values(Index batch, Index kv_head, Span tokens, F&& f) const {
    of(batch).each_values(0, kv_head, tokens, f);
  }
  template <class T>
  Index scratch_size(Index rows) const {
    Index most = 0;
    for (Index b = 0; b < size_; ++b) most = std::max(most, of(b).template scratch_size<T>(rows));
    return most;
  }

 private:
  auto of(Index batch) const { return detail::sequence_of(first_[std::iter_difference_t<Iterator>(batch)]).source(); }

  Iterator first_;
  Index size_;
};

// The source of a range of caches, or of pointers to them: a vector, an array, a span. Throws ArgumentError when a
// pointer is null or when they differ in their heads or widths.
template <std::ranges::random_access_range Range>
auto batch(const Range& caches) {
  constexpr auto where = "fovea::kv::batch";
  using Iterator = std::ranges::iterator_t<const Range>;
  const Batch<Iterator> all(std::ranges::begin(caches), Index(std::ranges::size(caches)));
  Index n = 0, heads = 0, key_dim = 0, value_dim = 0;
  for (const auto& item : caches) {
    if constexpr (requires { item == nullptr; }) check(item != nullptr, where, "sequence ", n, " is a null pointer");
    const auto source = detail::sequence_of(item).source();
    check(source.batch() == 1, where, "each must be one sequence, the batch of number ", n, " is ", source.batch());
    if (n == 0) {
      heads = source.kv_heads();
      key_dim = source.key_dim();
      value_dim = source.value_dim();
    }
    check(source.kv_heads() == heads && source.key_dim() == key_dim && source.value_dim() == value_dim, where,
          "sequences must have the same kv heads and widths, wanted ", heads, " heads, ", key_dim, " and ", value_dim,
          ", sequence ", n, " has ", source.kv_heads(), ", ", source.key_dim(), " and ", source.value_dim());
    ++n;
  }
  return all;
}

}  // namespace fovea::inline FOVEA_ISA::kv

// fovea/parts/mask/prefix.hpp

// Every query sees the leading keys.

namespace fovea::inline FOVEA_ISA::mask {

struct BoundPrefix : MonotoneInterval<BoundPrefix> {
  Index keys;

  explicit BoundPrefix(Index leading) : keys(leading) {}
  Span interval(Index) const { return {0, keys}; }
};

struct Prefix {
  Index keys = 0;

  BoundPrefix bind(const char* where, const Shape&) const {
    check(keys >= 0, where, "the prefix must not be negative, got ", keys);
    return BoundPrefix(keys);
  }
};

// Key j is seen when j < keys. Joined with | it adds leading tokens to another mask: causal() | prefix(n) is a prefix
// LM.
constexpr Prefix prefix(Index keys) { return {keys}; }

}  // namespace fovea::inline FOVEA_ISA::mask

// fovea/parts/mask/window.hpp

// A query sees the last `keys` keys up to its own position, its own key included.

namespace fovea::inline FOVEA_ISA::mask {

struct BoundWindow : MonotoneInterval<BoundWindow> {
  Index keys;
  Index offset;  // position of query 0

  BoundWindow(Index most, Index first) : keys(most), offset(first) {}
  Span interval(Index query) const { return {query + offset - keys + 1, std::numeric_limits<Index>::max()}; }
};

struct Window {
  Index keys = 0;
  Alignment alignment = Alignment::bottom_right;

  BoundWindow bind(const char* where, const Shape& shape) const {
    check(keys > 0, where, "the window must be positive, got ", keys);
    return {std::min(keys, shape.queries + shape.keys), shape.offset(alignment)};  // no longer than any distance
  }
};

// Key j is seen by the query at position p when p - j < keys. The keys after p are not hidden: join it with causal().
constexpr Window window(Index keys, Alignment alignment = Alignment::bottom_right) { return {keys, alignment}; }

}  // namespace fovea::inline FOVEA_ISA::mask

// fovea/dense/cached_attention.hpp

// Attention over a cache of keys and values: decoding token by token, several sequences at a time, prompts in pieces.
// Split keys merged by log-sums: Dao et al., "Flash-Decoding for long-context inference", 2023; pages: Kwon et al.,
// "Efficient Memory Management for Large Language Model Serving with PagedAttention", 2023, arXiv:2309.06180; caches of
// few bits: Liu et al., "KIVI", ICML 2024, arXiv:2402.02750.
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j   over   { j <= p : p - j < window or j < sink_tokens }
//   p = i + M_b - N
//
// The N queries of sequence b are the last of its M_b tokens; k_j and v_j are the numbers that the cache stands for,
// and are widened as they are read. Exact for these.
//
// Few queries (one, or at most eight for each kv head) read every key once: keys are cut into splits of 512, which are
// merged in a fixed order. More queries go by tiles. The bits of a row do not depend on threads, on the other
// sequences, or on how a cache is cut into pages; with as_prefill they do not depend on how a prompt is cut into pieces
// either.
//
// Cost O(N M_b (D + E)) for each head, or O(N (window + sink_tokens) (D + E)). Nothing is allocated in the steady state
// with an executor from exec::reuse(workspace). Other masks, scores and sink logits: attend(q, cache, out, recipe).

namespace fovea::inline FOVEA_ISA {

struct CachedAttentionOptions {
  std::optional<Index> window = {};  // keys a query sees, its own included; all up to its own when empty
  Index sink_tokens = 0;             // leading keys that every query sees beside the window
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
  bool as_prefill = false;           // few queries go by tiles too
};

namespace detail {

// The source of a cache, of several, or the source itself.
template <class Cache>
auto source_of_some(const Cache& cache) {
  if constexpr (std::ranges::random_access_range<const Cache>) {
    return kv::batch(cache);
  } else {
    return engine::source_of(cache);
  }
}

}  // namespace detail

// q [B,H,N,D] and out [B,H,N,E] against one sequence (B = 1) or a batch of them: `cache` is a cache (fovea/cache/), a
// range of caches or of pointers to them, or a source (kv::contiguous, kv::paged, ...); its kv heads divide H.
template <class Q, class Cache, class Out, exec::Executor Exec = exec::Serial>
void cached_attention(const Q& q, const Cache& cache, Out&& out, const CachedAttentionOptions& options = {},
                      const Exec& executor = {}) {
  constexpr auto where = "fovea::cached_attention";
  const auto source = detail::source_of_some(cache);
  const auto problem = engine::make_problem(where, q, source, out);
  check(!options.window || *options.window > 0, where, "window must be positive, got ", options.window.value_or(0));
  check(options.sink_tokens >= 0, where, "sink_tokens must not be negative, got ", options.sink_tokens);
  check(options.window || options.sink_tokens == 0, where, "sink_tokens want a window, got ", options.sink_tokens);

  const Index window = options.window.value_or(std::numeric_limits<Index>::max() / 4);
  auto recipe =
      softmax(options.scale).mask(mask::causal() & (mask::window(window) | mask::prefix(options.sink_tokens)));
  recipe.tiles_only = options.as_prefill;
  engine::attend(problem, source, recipe, executor);
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/dense/scaled_dot_product.hpp

// Scaled dot-product attention: multi-head, multi-query and grouped-query, self and cross.
// Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762; multi-query: Shazeer 2019, arXiv:1911.02150;
// grouped-query: Ainslie et al. 2023, arXiv:2305.13245.
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j   over all keys j, or over j <= i + M - N when causal
//
// Exact. Cost O(N M (D + E)) for each head. Memory beside the arrays does not grow with N or M, but for few queries a
// row of E + 2 numbers for each query and 512 keys.

namespace fovea::inline FOVEA_ISA {

struct ScaledDotProductOptions {
  Alignment alignment = Alignment::bottom_right;  // where the queries stand when causal and N != M
  bool causal = false;                            // a query sees its own position and those before it
  std::optional<double> scale = {};               // 1 / sqrt(D) when empty
};

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; or matrices [N,D], [M,D], [M,E], [N,E].
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void scaled_dot_product(const Q& q, const K& k, const V& v, Out&& out, const ScaledDotProductOptions& options = {},
                        const Exec& executor = {}) {
  const auto problem = make_problem("fovea::scaled_dot_product", q, k, v, out);
  const auto seen = mask::causal_if(options.causal, options.alignment);
  engine::attend(problem, softmax(options.scale).mask(seen), executor);
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/simd/range.hpp

// Whether numbers in memory stay within bounds.

namespace fovea::inline FOVEA_ISA::simd {

// Whether no element lies below `low` or above `high`; NaN does neither.
template <class T>
inline bool within(const T* x, Index n, T low, T high) {
  const Pack<T> least(low), most(high);
  Index j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) {
    const Pack<T> v = load(x + j);
    if (any((v < least) || (v > most))) return false;
  }
  for (; j < n; ++j) {
    if (x[j] < low || x[j] > high) return false;
  }
  return true;
}

}  // namespace fovea::inline FOVEA_ISA::simd

// fovea/parts/decay/decay.hpp

// What a decay is: how much of the state a token leaves of what stood there before it, e^g with a log decay g <= 0.
//
//   S_t = Diag(e^g_t) S_{t-1} + ...        the token's own part is not decayed
//
// A decay is a small value. `bind<T>(where, shape, width)` checks it against a call (width: the rows of the state) and
// gives the bound decay: its kind, and
//
//   per_head     double log_decay(kv_head)                            the same for every token
//   per_token    T log_gate(batch, kv_head, token)
//   per_channel  const T* log_gates(batch, kv_head, token)            one number for each row of the state
//
// -infinity is legal: e^g is zero and the state starts anew.

namespace fovea::inline FOVEA_ISA::decay {

enum class Kind { none, per_head, per_token, per_channel };

template <class T>
struct BoundNone {
  static constexpr Kind kind = Kind::none;
};

// Nothing is forgotten.
struct None {
  template <class T>
  BoundNone<T> bind(const char*, const Shape&, Index /*width*/) const {
    return {};
  }
};

inline None none() { return {}; }

namespace detail {

// Gates of a call: right shape, none above zero.
template <class T>
void check_gates(const char* where, const View<const T>& gates, const Shape& shape, Index dim) {
  check(gates.batch == shape.batch && gates.heads == shape.kv_heads && gates.length == shape.keys && gates.dim == dim,
        where, "log gates must belong to the tokens and heads of k, wanted [", shape.batch, ", ", shape.kv_heads, ", ",
        shape.keys, ", ", dim, "], got [", gates.batch, ", ", gates.heads, ", ", gates.length, ", ", gates.dim, "]");
  for (Index b = 0; b < gates.batch; ++b) {
    for (Index h = 0; h < gates.heads; ++h) {
      const bool one_row = gates.length_stride == gates.dim;
      for (Index t = 0; t < (one_row ? Index{1} : gates.length); ++t) {
        const T* row = gates.row(b, h, t);
        const Index n = one_row ? gates.length * gates.dim : gates.dim;
        check(simd::within(row, n, -simd::infinity<T>, T(0)), where, "log gates must not be positive, batch ", b,
              " head ", h, " has one that is");
      }
    }
  }
}

}  // namespace detail

}  // namespace fovea::inline FOVEA_ISA::decay

// fovea/parts/feature/feature.hpp

// What a feature map is: phi takes a query or key of D numbers to F features, and a kernelised method weighs a value by
// phi(q_i) . phi(k_j).
//
// A map is a small value. `bind<T>(where, shape, dim)` checks it against a call and gives the bound map,
//
//   Index width()                                          F
//   void operator()<side>(const T* x, Index stride, Index count, T* to, Index to_stride, Row first)
//
// which maps the `count` consecutive tokens of one head that begin with token first.query, rows of D numbers `stride`
// apart, to rows of F numbers `to_stride` apart. first.head is a query head for Side::query and a kv head for
// Side::key. to_stride is whole<T>(F) at least; what stands behind the F features of a row is unspecified. `to` is not
// `x`.
//
// signed_features says that features may be negative: their sums are nothing to divide by.

namespace fovea::inline FOVEA_ISA::feature {

enum class Side { query, key };

template <class B, class T>
concept BoundFeature = requires(const B& bound, const T* x, T* to, Index n, Row first) {
  { bound.width() } -> std::same_as<Index>;
  bound.template operator()<Side::query>(x, n, n, to, n, first);
  bound.template operator()<Side::key>(x, n, n, to, n, first);
};

template <class F, class T = float>
concept Feature = requires(const F& f, const char* where, const Shape& shape, Index dim) {
  { f.template bind<T>(where, shape, dim) } -> BoundFeature<T>;
};

// Whether features of the map may be negative.
template <class F>
constexpr bool has_signed_features() {
  if constexpr (requires { F::signed_features; }) {
    return F::signed_features;
  } else {
    return false;
  }
}

}  // namespace fovea::inline FOVEA_ISA::feature

// fovea/parts/feature/identity.hpp

// phi(x) = x: queries and keys as they are. An engine may read them where they lie.

namespace fovea::inline FOVEA_ISA::feature {

template <class T>
struct BoundIdentity {
  Index dim;

  Index width() const { return dim; }

  template <Side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row) const {
    for (Index i = 0; i < count; ++i) simd::copy(to + i * to_stride, x + i * stride, dim);
  }
};

struct Identity {
  static constexpr bool signed_features = true;

  template <class T>
  BoundIdentity<T> bind(const char*, const Shape&, Index dim) const {
    return {dim};
  }
};

inline Identity identity() { return {}; }

}  // namespace fovea::inline FOVEA_ISA::feature

// fovea/parts/normalizer/feature_sum.hpp

// What kernelised attention divides by: the sum of the weights phi(q_i) . phi(k_j), taken along as one more value
// column.
//
//   none       o_i = sum_j (phi(q_i) . phi(k_j)) v_j
//   sum_eps    the same, divided by   sum_j phi(q_i) . phi(k_j) + epsilon
//   clamp      the same, divided by   max(sum_j phi(q_i) . phi(k_j), least)

namespace fovea::inline FOVEA_ISA::normalizer {

struct FeatureSum {
  enum class Rule { none, sum_eps, clamp };

  Rule rule = Rule::none;
  double bound = 0;  // epsilon or the least divisor

  bool divides() const { return rule != Rule::none; }
  void check_for(const char* where) const {
    check(bound >= 0 && bound - bound == 0, where, "the bound of the divisor must be finite and not negative, got ",
          bound);
  }

  template <class T>
  T divisor(T sum) const {
    if (rule == Rule::sum_eps) return sum + T(bound);
    return sum < T(bound) ? T(bound) : sum;
  }
};

inline FeatureSum none() { return {}; }
inline FeatureSum sum_eps(double epsilon = 1e-6) { return {FeatureSum::Rule::sum_eps, epsilon}; }
inline FeatureSum clamp(double least) { return {FeatureSum::Rule::clamp, least}; }

}  // namespace fovea::inline FOVEA_ISA::normalizer

// fovea/parts/write/write.hpp

// What a write is: how a token changes the decayed state S.
//
//   outer_product   S + k v^T                             add
//   delta           S + k (beta (v - S^T k))^T            replace what is stored under k
//
// A write is a small value; `bind<T>(where, shape)` checks it against a call and gives the bound write: whether it
// `corrects`, that is reads the state before it writes, and if it does the strength `T beta(batch, kv_head, token)`.

namespace fovea::inline FOVEA_ISA::write {

template <class T>
struct BoundOuterProduct {
  static constexpr bool corrects = false;
};

struct OuterProduct {
  template <class T>
  BoundOuterProduct<T> bind(const char*, const Shape&) const {
    return {};
  }
};

// S_t = S + k_t v_t^T
inline OuterProduct outer_product() { return {}; }

}  // namespace fovea::inline FOVEA_ISA::write

// fovea/engine/linear_recipe.hpp

// The recipe of a linear method. linear(scale).feature(phi).decay(d).write(w).normalizer(n) reads
//
//   S_t = w(d_t S_{t-1}, phi(k_t), v_t)      o_t = scale S_t^T phi(q_t)      divided as n says
//
// without features the identity, without a decay nothing is forgotten, the write is the outer product, the divisor one.

namespace fovea::inline FOVEA_ISA {

template <class Feature = feature::Identity, class Decay = decay::None, class Write = write::OuterProduct>
struct LinearRecipe {
  std::optional<double> factor = {};
  Feature features = {};
  Decay forgetting = {};
  Write writing = {};
  normalizer::FeatureSum division = {};

  // Maps queries and keys first.
  template <class F>
  LinearRecipe<F, Decay, Write> feature(const F& phi) const {
    return {factor, phi, forgetting, writing, division};
  }

  // What a token leaves of the state before it.
  template <class D>
  LinearRecipe<Feature, D, Write> decay(const D& d) const {
    return {factor, features, d, writing, division};
  }

  // How a token changes what is left.
  template <class W>
  LinearRecipe<Feature, Decay, W> write(const W& w) const {
    return {factor, features, forgetting, w, division};
  }

  // What outputs are divided by; the features should not be negative then.
  LinearRecipe normalizer(const normalizer::FeatureSum& n) const {
    LinearRecipe result = *this;
    result.division = n;
    return result;
  }
};

// The scale multiplies the features of the queries. When empty it is 1 / sqrt(D), or 1 where outputs are divided.
inline LinearRecipe<> linear(std::optional<double> scale = {}) { return {scale, {}, {}, {}, {}}; }

}  // namespace fovea::inline FOVEA_ISA

// fovea/parts/state/matrix_state.hpp

// The memory of a linear method: one matrix [key_dim x value_dim] for each batch and kv head, the caller's own. It
// holds S_0 when a call begins and S_T when it returns; passed again it goes on where the last call ended.
//
//   MatrixState<float> state;                                     // zeros of the shape of the first call
//   chunk_delta(q, k, v, beta, with_state(out, state), options);  // the prompt
//   recurrent_delta(q, k, v, beta, with_state(out, state));       // a token
//
// A method that divides by the sum of its features keeps that sum in one more column, the last.

namespace fovea::inline FOVEA_ISA {

template <class T>
class MatrixState {
 public:
  // Takes the shape of the first call that gets it.
  MatrixState() = default;

  // Zeros. `sums` asks for the column of a method that divides.
  MatrixState(Index batch, Index heads, Index key_dim, Index value_dim, bool sums = false)
      : shape_{batch, heads, key_dim, value_dim},
        sums_(sums),
        lines_(std::size_t(batch * heads * key_dim * (stride() / line))) {}

  bool empty() const { return lines_.empty() && shape_ == Extents{0, 0, 0, 0}; }
  Index batch() const { return shape_.batch; }
  Index heads() const { return shape_.heads; }  // kv heads
  Index key_dim() const { return shape_.length; }
  Index value_dim() const { return shape_.dim; }
  bool sums() const { return sums_; }

  // [batch, heads, key_dim, value_dim], value_dim + 1 with sums. Rows begin on cache lines; what lies between their
  // ends and the next line belongs to nobody.
  View<T> view() { return view_of(reinterpret_cast<T*>(lines_.data())); }
  View<const T> view() const { return view_of(reinterpret_cast<const T*>(lines_.data())); }

  T& operator()(Index b, Index h, Index key, Index value) { return view().row(b, h, key)[value]; }
  const T& operator()(Index b, Index h, Index key, Index value) const { return view().row(b, h, key)[value]; }

 private:
  static constexpr Index line = 64 / Index(sizeof(T));
  struct alignas(64) Line {
    T x[std::size_t(line)] = {};
  };

  Index stride() const { return (shape_.dim + sums_ + line - 1) / line * line; }
  template <class U>
  View<U> view_of(U* data) const {
    const auto [batch, heads, length, dim] = shape_;
    return {data, batch, heads, length, dim + sums_, heads * length * stride(), length * stride(), stride()};
  }

  Extents shape_ = {0, 0, 0, 0};
  bool sums_ = false;
  std::vector<Line> lines_;
};

// An output together with the state that a call starts from and leaves behind.
template <class Out, class T>
struct WithState {
  Out& out;
  MatrixState<T>& state;
};

template <class Out, class T>
WithState<std::remove_reference_t<Out>, T> with_state(Out&& out, MatrixState<T>& state) {
  return {out, state};
}

namespace state {

namespace detail {
template <class X>
inline constexpr bool has_state = false;
template <class Out, class T>
inline constexpr bool has_state<WithState<Out, T>> = true;
}  // namespace detail

// The output alone, with a state or without.
template <class Out>
auto& output(Out& out) {
  if constexpr (detail::has_state<std::remove_cv_t<Out>>) {
    return out.out;
  } else {
    return out;
  }
}

// The state that came with the output, or null.
template <class T, class Out>
MatrixState<T>* of(Out& out) {
  if constexpr (detail::has_state<std::remove_cv_t<Out>>) {
    static_assert(std::is_same_v<decltype(&out.state), MatrixState<T>*>,
                  "fovea: a state must have the scalar type of q");
    return &out.state;
  } else {
    return nullptr;
  }
}

// Refuses a state that a call of this shape has not left behind; one of no shape yet is let pass.
template <class T>
void check_shape(const char* where, const MatrixState<T>& state, const Extents& wanted, bool sums) {
  if (state.empty()) return;
  check(state.batch() == wanted.batch && state.heads() == wanted.heads && state.key_dim() == wanted.length &&
            state.value_dim() == wanted.dim,
        where, "the state must have the shape of the call, wanted [", wanted.batch, ", ", wanted.heads, ", ",
        wanted.length, ", ", wanted.dim, "], got [", state.batch(), ", ", state.heads(), ", ", state.key_dim(), ", ",
        state.value_dim(), "]");
  check(state.sums() == sums, where, "the state must ", sums ? "" : "not ", "have a column of sums");
}

}  // namespace state

}  // namespace fovea::inline FOVEA_ISA

// fovea/simd/features.hpp

// Functions of rows that feature maps are made of. Rows are any length and alignment; nothing behind a row is read, and
// what is written goes up to whole vectors.

namespace fovea::inline FOVEA_ISA::simd {

namespace detail {

// log2(e) x = n + f; 2^n and f in [-1/2, 1/2].
template <class T>
[[gnu::always_inline]] inline Power<T> split_natural(Pack<T> x) {
  constexpr T unit = T(log2_e);
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
  constexpr T rest = T(log2_e - (long double)(unit));
  const auto [scale, f] = split_power<T>(x, Pack<T>(unit));
  return {scale, fma(x, Pack<T>(rest), f)};
#else
  // n ln 2 is taken off in two parts; the product with the first, of few bits, is not rounded.
  constexpr T high = std::is_same_v<T, float> ? T(0.693359375) : T(0.693145751953125);
  constexpr T low = T(0.693147180559945309417232121458176568L - (long double)(high));
  const Pack<T> magic(Exponent<T>::magic), shifted = x * Pack<T>(unit) + magic, n = shifted - magic;
  const Pack<T> r = (x - n * Pack<T>(high)) - n * Pack<T>(low);
  return {from_bits<T>(shift_left<Exponent<T>::mantissa_bits, Bits<T> >(as_bits<T>(shifted))), r * Pack<T>(unit)};
#endif
}

}  // namespace detail

// e^x for x up to about 88 (float) or 709 (double), within two ulp: zero below the normal numbers, NaN where x is NaN,
// exactly one at zero.
template <class T>
[[gnu::always_inline]] inline Pack<T> exp_in_range(Pack<T> x) {
  constexpr T lowest = T((long double)(detail::Exponent<T>::floor) / log2_e);
  const auto [scale, f] = detail::split_natural<T>(at_least(Pack<T>(lowest), x));
  return fma(detail::power_slope(f), f, Pack<T>(1)) * scale;
}

// The same for any x: infinite from 2^127.5 (float) or 2^1023.5 (double) up.
template <class T>
[[gnu::always_inline]] inline Pack<T> exp(Pack<T> x) {
  constexpr T highest = T((long double)(detail::Exponent<T>::ceiling + 1) / log2_e);
  return exp_in_range<T>(at_most(Pack<T>(highest), x));
}

// to[j] = f(x[j]) for vectors of x; to has room for whole vectors.
template <class T, class F>
[[gnu::always_inline]] inline void map_row(const T* x, Index n, T* to, F&& f) {
  Index j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) store(to + j, f(load(x + j)));
  if (j < n) store(to + j, f(load_some(x + j, n - j)));
}

// y[j] = factor y[j] + added, and minus[j] = -factor y[j] + added for what y was.
template <class T>
inline void mirror(T* y, T* minus, Index n, T factor, T added) {
  const Pack<T> times(factor), plus(added);
  Index j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) {
    const Pack<T> v = load(y + j) * times;
    store(y + j, plus + v);
    store(minus + j, plus - v);
  }
  if (j < n) {
    const Pack<T> v = load_some(y + j, n - j) * times;
    store_some(y + j, plus + v, n - j);
    store_some(minus + j, plus - v, n - j);
  }
}

// The largest of n elements, -infinity for none; unspecified when one is NaN.
template <class T>
inline T largest(const T* x, Index n) {
  Pack<T> most(-infinity<T>);
  Index j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) most = max(most, load(x + j));
  if (j < n) most = max(most, load_some(x + j, n - j, -infinity<T>));
  return max_of_lanes<T>(most);
}

// Sum of n elements.
template <class T>
inline T total(const T* x, Index n) {
  Pack<T> sum(T(0));
  Index j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) sum = sum + load(x + j);
  if (j < n) sum = sum + load_some(x + j, n - j);
  return sum_of_lanes<T>(sum);
}

namespace detail {

template <int vectors, class T>
inline void add_row_vectors(Index count, const T* rows, Index stride, T* sum) {
  Pack<T> even[vectors], odd[vectors];
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) even[v] = odd[v] = Pack<T>(T(0));
  Index i = 0;
  for (; i + 1 < count; i += 2) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      even[v] = even[v] + load(rows + i * stride + v * lanes<T>);
      odd[v] = odd[v] + load(rows + (i + 1) * stride + v * lanes<T>);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < vectors; ++v) {
    if (i < count) even[v] = even[v] + load(rows + i * stride + v * lanes<T>);
    store(sum + v * lanes<T>, load(sum + v * lanes<T>) + (even[v] + odd[v]));
  }
}

}  // namespace detail

// sum[j] += element j of `count` rows of n elements.
template <class T>
inline void add_rows(Index count, Index n, const T* rows, Index stride, T* sum) {
  Index j = 0;
  for (; j + 4 * lanes<T> <= n; j += 4 * lanes<T>) detail::add_row_vectors<4>(count, rows + j, stride, sum + j);
  for (; j + lanes<T> <= n; j += lanes<T>) detail::add_row_vectors<1>(count, rows + j, stride, sum + j);
  for (; j < n; ++j) {
    T rest = T(0);
    for (Index i = 0; i < count; ++i) rest += rows[i * stride + j];
    sum[j] += rest;
  }
}

// Sum of the squares of n elements.
template <class T>
inline T square_norm(const T* x, Index n) {
  Pack<T> sum(T(0));
  Index j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) sum = fma(load(x + j), load(x + j), sum);
  if (j < n) sum = fma(load_some(x + j, n - j), load_some(x + j, n - j), sum);
  return sum_of_lanes<T>(sum);
}

}  // namespace fovea::inline FOVEA_ISA::simd

// fovea/simd/outer.hpp

// The register kernel for operands that are read once, from memory: while a product is computed, memory is asked for
// what comes next, a cache line at each step, so that the two go on at the same time.
//
//   add_outer      C [rows x columns] += A^T B,   A [depth x rows], B [depth x columns]
//   multiply_by    C [rows x columns]  = A B,     A [rows x depth], B [depth x columns]
//
// Every element of a product is one chain of fused multiply-adds over depth in ascending order, in add_outer added to
// what C held at the end.

namespace fovea::inline FOVEA_ISA::simd {

// Rows of two arrays that are needed soon. A register tile asks for as many lines as it takes steps: the next ones
// where rows lie behind each other, else the same line of consecutive rows. It may ask for lines behind the last.
class Ahead {
 public:
  static constexpr Index line = 64;

  struct Trail {
    const char* at;
    Index step;
  };

  Ahead() = default;
  // `count` rows of width elements, stride apart, in each.
  template <class T>
  Ahead(Index count, const T* a, Index a_stride, Index a_width, const T* b, Index b_stride, Index b_width)
      : array_{make(count, a, a_stride, a_width), make(count, b, b_stride, b_width)}, which_(count > 0 ? 0 : 2) {}

  // For the next tile, of `steps` steps; `idle` is where to look when there is nothing left to ask for.
  Trail trail(Index steps, const void* idle) {
    if (which_ == 2) return {static_cast<const char*>(idle), 0};
    const Array& x = array_[which_];
    const Trail result{x.at + row_ * x.stride + next_ * line, x.stride};
    if (++next_ == x.lines) {
      next_ = 0;
      row_ += steps;
      if (row_ >= x.rows) {
        row_ = 0;
        ++which_;
      }
    }
    return result;
  }

 private:
  struct Array {
    const char* at = nullptr;
    Index rows = 0, stride = 0, lines = 1;
  };

  template <class T>
  static Array make(Index count, const T* x, Index stride, Index width) {
    const Index lines = (width * Index(sizeof(T)) + line - 1) / line, bytes = stride * Index(sizeof(T));
    const char* const at = reinterpret_cast<const char*>(x);
    return bytes == lines * line ? Array{at, count * lines, line, 1} : Array{at, count, bytes, lines};
  }

  Array array_[2] = {};
  int which_ = 2;
  Index next_ = 0, row_ = 0;
};

namespace detail {

template <int rows, int vectors, bool turned, class T>
inline void outer_tile(Index depth, const T* a, Index lda, const T* b, Index ldb, T* c, Index ldc, Ahead::Trail trail) {
  Pack<T> sum[rows][vectors];
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < vectors; ++j) sum[i][j] = Pack<T>(T(0));
  }
#pragma GCC unroll 4
  for (Index k = 0; k < depth; ++k) {
    __builtin_prefetch(trail.at + k * trail.step);
    Pack<T> row[vectors];
#pragma GCC unroll 16
    for (int j = 0; j < vectors; ++j) row[j] = load(b + k * ldb + j * lanes<T>);
#pragma GCC unroll 16
    for (int i = 0; i < rows; ++i) {
      const Pack<T> x(turned ? a[k * lda + i] : a[i * lda + k]);
#pragma GCC unroll 16
      for (int j = 0; j < vectors; ++j) sum[i][j] = fma(x, row[j], sum[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < vectors; ++j) {
      T* const at = c + i * ldc + j * lanes<T>;
      store(at, turned ? load(at) + sum[i][j] : sum[i][j]);
    }
  }
}

template <int rows, bool turned, class T>
inline void outer_band(Index columns, Index depth, const T* a, Index lda, const T* b, Index ldb, T* c, Index ldc,
                       Ahead& ahead) {
  constexpr Index most = tile_vectors * lanes<T>;
  Index j = 0;
  for (; j + most <= columns; j += most)
    outer_tile<rows, tile_vectors, turned>(depth, a, lda, b + j, ldb, c + j, ldc, ahead.trail(depth, b));
  if constexpr (tile_vectors > 2) {
    if (j + 2 * lanes<T> <= columns) {
      outer_tile<rows, 2, turned>(depth, a, lda, b + j, ldb, c + j, ldc, ahead.trail(depth, b));
      j += 2 * lanes<T>;
    }
  }
  if (j < columns) outer_tile<rows, 1, turned>(depth, a, lda, b + j, ldb, c + j, ldc, ahead.trail(depth, b));
}

template <bool turned, class T, class After>
inline void outer_product(Index rows, Index columns, Index depth, const T* a, Index lda, const T* b, Index ldb, T* c,
                          Index ldc, Ahead ahead, const After& after) {
  Index i = 0;
  const auto run = [&](auto some) {
    constexpr int count = decltype(some)::value;
    outer_band<count, turned>(columns, depth, a + (turned ? i : i * lda), lda, b, ldb, c + i * ldc, ldc, ahead);
    after(i, Index(count));
    i += count;
  };
  while (rows - i >= tile_rows) run(std::integral_constant<int, tile_rows>{});
  if (rows - i >= 4) run(std::integral_constant<int, 4>{});
  while (rows - i >= 1) run(std::integral_constant<int, 1>{});
}

}  // namespace detail

// columns is a whole number of vectors, rows any number.
template <class T>
inline void add_outer(Index rows, Index columns, Index depth, const T* a, Index lda, const T* b, Index ldb, T* c,
                      Index ldc, const Ahead& ahead = {}) {
  detail::outer_product<true>(rows, columns, depth, a, lda, b, ldb, c, ldc, ahead, [](Index, Index) {});
}

// The same; after(first, count) is called when rows [first, first + count) are there.
template <class T, class After>
inline void multiply_by(Index rows, Index columns, Index depth, const T* a, Index lda, const T* b, Index ldb, T* c,
                        Index ldc, const Ahead& ahead, const After& after) {
  detail::outer_product<false>(rows, columns, depth, a, lda, b, ldb, c, ldc, ahead, after);
}

}  // namespace fovea::inline FOVEA_ISA::simd

// fovea/engine/accumulate.hpp

// Runs a linear recipe without a decay on all keys at once, for queries that see them all:
//
//   S = S_0 + sum_j phi(k_j) v_j^T      o_i = scale S^T phi(q_i)      divided as the recipe says
//
// Two passes on the register kernel. Keys are cut into pieces of a length that the number of keys alone decides; their
// sums are added up in order. Blocks of features live in scratch and are never stored.

namespace fovea::inline FOVEA_ISA::engine {

template <class T, class Phi>
class Accumulation {
 public:
  // phi is bound; the state's data is null when the call has none.
  Accumulation(const Problem<T>& problem, const Phi& phi, const normalizer::FeatureSum& division, T scale,
               const View<T>& state)
      : problem_(problem),
        phi_(phi),
        division_(division),
        scale_(scale),
        state_(state),
        features_(phi.width()),
        feature_stride_(simd::whole<T>(features_)),
        width_(simd::whole<T>(problem.v.dim)),
        sums_size_(whole_lines<T>(features_ * width_) + whole_lines<T>(feature_stride_)) {
    const Index keys = problem.k.length;
    const Index share = (keys + most_pieces - 1) / most_pieces;
    piece_ = std::max(least_piece, (share + key_step - 1) / key_step * key_step);
    pieces_ = std::max<Index>((keys + piece_ - 1) / piece_, 1);
  }

  template <class Exec>
  void run(const Exec& executor) const {
    const auto& p = problem_;
    const Index heads = p.k.batch * p.k.heads;
    const auto sums = allocate_scratch<T>(std::max<Index>(heads * pieces_ * sums_size_, 1));
    const double token_flops = 2.0 * double(features_) * double(width_);
    const double all_keys = double(p.k.length);
    distribute<T>(executor, heads * pieces_, token_flops * std::min(all_keys, double(piece_)), key_scratch_size(),
                  [&](Index item, T* memory) {
                    const Index head = item / pieces_, first = item % pieces_ * piece_;
                    add_keys(head / p.k.heads, head % p.k.heads, {first, std::min(first + piece_, p.k.length)}, memory,
                             sums.get() + item * sums_size_);
                  });
    if (pieces_ > 1 || state_.data != nullptr) {
      distribute<T>(executor, heads, double(sums_size_) * double(pieces_ + 1), 1, [&](Index head, T*) {
        add_up(head / p.k.heads, head % p.k.heads, sums.get() + head * pieces_ * sums_size_);
      });
    }
    const Index blocks = (p.q.length + query_item - 1) / query_item;
    distribute<T>(executor, p.q.batch * p.q.heads * blocks, token_flops * double(query_item), query_scratch_size(),
                  [&](Index item, T* memory) {
                    const Index row = item / blocks, first = item % blocks * query_item;
                    const Index batch = row / p.q.heads, head = row % p.q.heads;
                    read(batch, head, {first, std::min(first + query_item, p.q.length)}, memory,
                         sums.get() + (batch * p.k.heads + head / p.group) * pieces_ * sums_size_);
                  });
  }

 private:
  static constexpr Index key_step = 128;  // keys of a block: its features and values stay in the first cache
  static constexpr Index query_step = 16 * simd::tile_rows;
  static constexpr Index query_item = 4 * query_step;
  static constexpr Index least_piece = 4 * key_step;
  static constexpr Index most_pieces = 64;  // of a head

  // Sums: S [F x width], then the sums of the features [whole vectors of F], zero behind the last.
  T* totals(T* sums) const { return sums + whole_lines<T>(features_ * width_); }

  bool values_in_place() const { return width_ == problem_.v.dim; }

  Index key_scratch_size() const {
    return whole_lines<T>(key_step * feature_stride_) + (values_in_place() ? 0 : whole_lines<T>(key_step * width_));
  }
  Index query_scratch_size() const {
    return whole_lines<T>(query_step * feature_stride_) + whole_lines<T>(query_step) +
           (values_in_place() ? 0 : whole_lines<T>(query_step * width_));
  }

  void add_keys(Index batch, Index kv_head, Span keys, T* memory, T* sums) const {
    const auto& p = problem_;
    Carve<T> carve(memory);
    T* const features = carve(key_step * feature_stride_);
    T* const padded = values_in_place() ? nullptr : carve(key_step * width_);
    std::memset(sums, 0, std::size_t(sums_size_) * sizeof(T));
    for (Index first = keys.first; first < keys.last; first += key_step) {
      const Index count = std::min(key_step, keys.last - first);
      const T* a = p.k.row(batch, kv_head, first);
      Index a_stride = p.k.length_stride;
      if constexpr (!std::is_same_v<Phi, feature::BoundIdentity<T>>) {
        phi_.template operator()<feature::Side::key>(a, a_stride, count, features, feature_stride_,
                                                     Row{batch, kv_head, first});
        a = features;
        a_stride = feature_stride_;
      }
      const T* v = p.v.row(batch, kv_head, first);
      Index v_stride = p.v.length_stride;
      if (padded != nullptr) {
        for (Index j = 0; j < count; ++j) {
          simd::copy(padded + j * width_, v + j * v_stride, p.v.dim);
          std::fill(padded + j * width_ + p.v.dim, padded + (j + 1) * width_, T(0));
        }
        v = padded;
        v_stride = width_;
      }
      const Span next{first + count, std::min(first + count + key_step, keys.last)};
      simd::add_outer(features_, width_, count, a, a_stride, v, v_stride, sums, width_,
                      soon(next, p.k, p.v, batch, kv_head));
      if (division_.divides()) simd::add_rows(count, features_, a, a_stride, totals(sums));
    }
  }

  // The pieces of a head and the state, in order, into the first piece; and the state anew.
  void add_up(Index batch, Index kv_head, T* sums) const {
    for (Index s = 1; s < pieces_; ++s) simd::add(sums, sums + s * sums_size_, sums_size_);
    if (state_.data == nullptr) return;
    const Index columns = problem_.v.dim;
    for (Index f = 0; f < features_; ++f) {
      T *const state = state_.row(batch, kv_head, f), *const row = sums + f * width_;
      simd::add(row, state, columns);
      simd::copy(state, row, columns);
      if (division_.divides()) state[columns] = totals(sums)[f] += state[columns];
    }
  }

  void read(Index batch, Index head, Span queries, T* memory, const T* sums) const {
    for (Index first = queries.first; first < queries.last; first += query_step) {
      const Index last = std::min(first + query_step, queries.last);
      read_block(batch, head, {first, last}, {last, std::min(last + query_step, queries.last)}, memory, sums);
    }
  }

  void read_block(Index batch, Index head, Span queries, Span next, T* memory, const T* sums) const {
    const auto& p = problem_;
    Carve<T> carve(memory);
    T* const features = carve(query_step * feature_stride_);
    T* const weight = carve(query_step);
    T* const padded = values_in_place() ? nullptr : carve(query_step * width_);
    const Index count = queries.size();
    phi_.template operator()<feature::Side::query>(p.q.row(batch, head, queries.first), p.q.length_stride, count,
                                                   features, feature_stride_, Row{batch, head, queries.first});
    if (scale_ != T(1)) {
      for (Index i = 0; i < count; ++i) simd::scale(features + i * feature_stride_, features_, scale_);
    }
    if (division_.divides()) {
      simd::dot_rows(1, totals(const_cast<T*>(sums)), feature_stride_, count, features, feature_stride_, features_,
                     weight, count);
    }
    const auto finish_rows = [&](T* rows, Index stride, Index i, Index n) {
      for (Index r = 0; r < n; ++r)
        finish(rows + r * stride, division_.divides() ? weight[i + r] : T(0),
               p.out.row(batch, head, queries.first + i + r));
    };
    const simd::Ahead ahead = soon(next, p.q, View<const T>(p.out), batch, head);
    if (padded == nullptr) {
      T* const out = p.out.row(batch, head, queries.first);
      const Index stride = p.out.length_stride;
      simd::multiply_by(count, width_, features_, features, feature_stride_, sums, width_, out, stride, ahead,
                        [&](Index i, Index n) { finish_rows(out + i * stride, stride, i, n); });
    } else {
      simd::multiply_by(count, width_, features_, features, feature_stride_, sums, width_, padded, width_, ahead,
                        [&](Index i, Index n) { finish_rows(padded + i * width_, width_, i, n); });
    }
  }

  static simd::Ahead soon(Span rows, const View<const T>& a, const View<const T>& b, Index batch, Index head) {
    if (rows.empty()) return {};
    return {rows.size(), a.row(batch, head, rows.first), a.length_stride,
            a.dim,       b.row(batch, head, rows.first), b.length_stride,
            b.dim};
  }

  // An output row from its sums, which may stand where it goes.
  void finish(const T* sums, T weight, T* out) const {
    const Index columns = problem_.v.dim;
    if (!division_.divides()) {
      if (sums != out) simd::copy(out, sums, columns);
      return;
    }
    const T divisor = division_.divisor(weight), inverse = T(1) / divisor;
    if (divisor == T(0)) {  // no weight at all
      std::fill_n(out, columns, T(0));
    } else if (std::isinf(inverse)) {
      simd::copy_divided(out, sums, columns, divisor);
    } else {
      simd::copy_scaled(out, sums, columns, inverse);
    }
  }

  const Problem<T>& problem_;
  const Phi& phi_;
  const normalizer::FeatureSum division_;
  const T scale_;
  const View<T> state_;
  const Index features_, feature_stride_, width_, sums_size_;
  Index piece_, pieces_;
};

// N and M may differ. The state may be null; it comes with S_0 and leaves with S.
template <class T, class F, exec::Executor Exec = exec::Serial>
void accumulate(const Problem<T>& problem, std::type_identity_t<MatrixState<T>>* state, const LinearRecipe<F>& recipe,
                const Exec& executor = {}) {
  const char* where = problem.where;
  const Shape shape = problem.shape();
  check(!recipe.factor || std::isfinite(*recipe.factor), where, "scale must be finite");
  recipe.division.check_for(where);
  const auto features = recipe.features.template bind<T>(where, shape, problem.q.dim);
  const bool sums = recipe.division.divides();
  View<T> memory;
  if (state != nullptr) {
    const Extents wanted{shape.batch, shape.kv_heads, features.width(), problem.v.dim};
    state::check_shape(where, *state, wanted, sums);
    if (state->empty()) *state = MatrixState<T>(wanted.batch, wanted.heads, wanted.length, wanted.dim, sums);
    memory = state->view();
  }
  const double scale = recipe.factor.value_or(sums ? 1 : 1 / std::sqrt(double(problem.q.dim)));
  using Bound = std::remove_const_t<decltype(features)>;
  Accumulation<T, Bound>(problem, features, recipe.division, T(scale), memory).run(executor);
}

}  // namespace fovea::inline FOVEA_ISA::engine

// fovea/parts/select/key_lists.hpp

// A selection of keys: for each query of each head the list of the keys it attends to.

namespace fovea::inline FOVEA_ISA::select {

// Lists of keys in ascending order, for each batch, each query or kv head (or one for all heads), and each query. A
// plain object: make it once, keep it, copy it, use it in several layers or steps.
struct KeyLists {
  Index batch = 0;
  Index heads = 0;              // query heads, kv heads or 1
  Index queries = 0;            // queries of a sequence
  std::vector<Index> begin{0};  // [batch x heads x queries + 1] where the list of a query begins
  std::vector<Index> keys{};    // the lists, one behind the other

  // Where the list of a query stands in `keys`.
  Span list(Index b, Index h, Index query) const {
    const std::size_t at = std::size_t((b * heads + h) * queries + query);
    return {begin[at], begin[at + 1]};
  }

  // lists[(b * heads + h) * queries + i] are the keys of query i, in any order.
  static KeyLists from_lists(Index batch, Index heads, Index queries, std::vector<std::vector<Index>> lists) {
    constexpr auto where = "fovea::select::KeyLists::from_lists";
    check(batch >= 0 && heads >= 0 && queries >= 0, where, "extents must not be negative, got ", batch, ", ", heads,
          " and ", queries);
    check(Index(lists.size()) == batch * heads * queries, where, "there must be a list for each query, wanted ",
          batch * heads * queries, ", got ", lists.size());
    KeyLists result{batch, heads, queries, {0}, {}};
    for (auto& list : lists) {
      std::sort(list.begin(), list.end());
      result.keys.insert(result.keys.end(), list.begin(), list.end());
      result.begin.push_back(Index(result.keys.size()));
    }
    return result;
  }

  // Length of the longest list.
  Index longest() const {
    Index most = 0;
    for (std::size_t i = 1; i < begin.size(); ++i) most = std::max(most, begin[i] - begin[i - 1]);
    return most;
  }

  // Refuses lists that do not fit a call: of another shape, with a key that is not there or stands twice.
  void check_for(const char* where, const Shape& shape) const {
    check(batch == shape.batch && queries == shape.queries, where,
          "the lists must have the batch and the queries of q, wanted ", shape.batch, " and ", shape.queries, ", got ",
          batch, " and ", queries);
    check(heads == shape.heads || heads == shape.kv_heads || heads == 1, where,
          "the lists must have the heads of q, those of k, or one, wanted ", shape.heads, ", ", shape.kv_heads,
          " or 1, got ", heads);
    const Index lists = batch * heads * queries;
    check(Index(begin.size()) == lists + 1 && begin.front() == 0 && begin.back() == Index(keys.size()) &&
              std::is_sorted(begin.begin(), begin.end()),
          where, "the lists must cover their keys in order, ", lists, " lists of ", keys.size(), " keys in all");
    for (Index i = 0; i < lists; ++i) {
      Index last = -1;
      for (Index n = begin[std::size_t(i)]; n < begin[std::size_t(i) + 1]; ++n) {
        const Index key = keys[std::size_t(n)];
        check(key >= 0 && key < shape.keys, where, "a key must lie among the ", shape.keys, " keys, got ", key);
        check(key > last, where, "the keys of a list must ascend and none stand twice, got ", key, " after ", last);
        last = key;
      }
    }
  }
};

}  // namespace fovea::inline FOVEA_ISA::select

// fovea/simd/gathered.hpp

// Products with rows that a list picks out of memory: queries with listed keys, weights with listed values.

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

// fovea/engine/attend_lists.hpp

// Runs a recipe over given lists of keys: o = softmax(mask(scores(scale q k_list^T))) v_list. Keys and values are read
// where they lie, and only those that are listed.

namespace fovea::inline FOVEA_ISA::engine {

// What a list of keys does to a row.
template <class T, class Source, class Mask, class Scores>
class ListRows {
 public:
  explicit ListRows(const Pass<T, Source, Mask, Scores>& pass)
      : pass_(pass), depth_(simd::whole<T>(pass.source.key_dim())), width_(simd::whole<T>(pass.source.value_dim())) {}

  struct Scratch {
    T *scores, *sum, *state;
  };

  // For lists of at most `longest` keys that `rows` rows share.
  Index scratch_size(Index rows, Index longest) const {
    return whole_lines<T>(rows * simd::whole<T>(longest)) + whole_lines<T>(width_) +
           whole_lines<T>(normalizer::SoftmaxRows<T>::size(1));
  }
  Scratch carve(Carve<T>& memory, Index rows, Index longest) const {
    T* const scores = memory(rows * simd::whole<T>(longest));
    T* const sum = memory(width_);
    return {scores, sum, memory(normalizer::SoftmaxRows<T>::size(1))};
  }

  Index depth() const { return depth_; }  // from a row of queries to the next

  // The finished scores of rows [first, last) of a tile, q their queries, and the n keys of a list that they share;
  // rows whole vectors apart.
  template <class Key>
  void score(const TileRows& rows, Index first, Index last, const T* q, const Key* list, Index n, T* scores) const {
    if (n == 0) return;
    const Index columns = simd::whole<T>(n);
    const auto k = pass_.source.keys(rows.batch, rows.kv_head, {0, pass_.shape.keys});
    simd::dot_listed(last - first, q, depth_, n, list, k.data, k.stride, pass_.source.key_dim(), scores, columns);
    rows.each(first, last, [&](Index r, Row at) { finish(at, list, n, scores + (r - first) * columns); });
  }

  // A row from its finished scores, which become weights; behind them is room up to a whole vector.
  template <class Key>
  void attend(Row at, const Key* list, Index n, T* scores, const Scratch& scratch) const {
    normalizer::SoftmaxRows<T> softmax(pass_.power_unit(), scratch.state, 1);
    softmax.begin(1);
    const Index columns = simd::whole<T>(n);
    std::fill(scores + n, scores + columns, -simd::infinity<T>);
    if (n > 0) softmax.absorb(0, std::integral_constant<Index, 1>{}, scores, columns, columns);
    write(at, list, n, scores, softmax.total(0), softmax.reference[0], scratch);
  }

  // A row from its finished scores, which become weights of a softmax whose total and reference are given.
  template <class Key>
  void attend_within(Row at, const Key* list, Index n, T* scores, T total, T reference, const Scratch& scratch) const {
    const auto unit = pass_.power_unit();
    simd::transform(scores, n,
                    [&](simd::Pack<T> s, Index) { return simd::exp2_weight(s - simd::Pack<T>(reference), unit); });
    write(at, list, n, scores, total, reference, scratch);
  }

 private:
  template <class Key>
  void write(Row at, const Key* list, Index n, const T* weights, T total, T reference, const Scratch& scratch) const {
    std::fill(scratch.sum, scratch.sum + width_, T(0));
    if (n > 0) {
      const auto v = pass_.source.values(at.batch, at.head / pass_.problem.group, {0, pass_.shape.keys});
      simd::add_listed(n, weights, list, v.data, v.stride, pass_.source.value_dim(), scratch.sum);
    }
    pass_.write_row(at, scratch.sum, total, reference);
  }

  // Modifiers and mask, a word of keys at a time.
  template <class Key>
  void finish(Row at, const Key* list, Index n, T* scores) const {
    const Span queries{at.query, at.query + 1}, heads{at.head, at.head + 1};
    const Span keys{Index(list[0]), Index(list[n - 1]) + 1};
    const bool all = pass_.mask.cover(mask::Region{at.batch, heads, queries, keys}) == mask::Cover::full;
    if (all && !pass_.modified) return;
    const TileRows row{at.batch, at.head / pass_.problem.group, at.head, 1, queries};
    KeyTile tile;
    for (Index j = 0; j < n; j += mask::word) {
      const Index count = std::min(mask::word, n - j);
      tile.clear();
      for (Index i = j; i < j + count; ++i) tile.add({Index(list[i]), Index(list[i]) + 1}, all);
      pass_.finish_scores(row, 0, 1, tile, 0, count, all, nullptr, scores + j, count);
    }
  }

  const Pass<T, Source, Mask, Scores>& pass_;
  const Index depth_, width_;
};

// Tiles of queries with the lists that belong to them.
template <class T, class Source, class Mask, class Scores>
class OverLists {
 public:
  OverLists(const Pass<T, Source, Mask, Scores>& pass, const select::KeyLists& lists)
      : pass_(pass),
        rows_(pass),
        lists_(lists),
        sharing_(std::min(pass.problem.group, pass.problem.q.heads / lists.heads)),
        longest_(lists.longest()) {}

  template <class Exec>
  void run(const Exec& executor) const {
    const auto& q = pass_.problem.q;
    const Index tiles = (q.length + tile_queries - 1) / tile_queries, groups = q.heads / sharing_;
    const double pairs = double(lists_.keys.size()) / double(lists_.begin.size()) * double(tile_queries * sharing_);
    const double flops = 2.0 * pairs * double(pass_.source.key_dim() + pass_.source.value_dim());
    const Index size = whole_lines<T>(tile_queries * sharing_ * rows_.depth()) + rows_.scratch_size(sharing_, longest_);
    distribute<T>(executor, q.batch * groups * tiles, flops, size, [&](Index item, T* memory) {
      const Index t = tiles - 1 - item % tiles, head = item / tiles % groups * sharing_, batch = item / tiles / groups;
      const Span queries{t * tile_queries, std::min((t + 1) * tile_queries, q.length)};
      tile({batch, head / pass_.problem.group, head, sharing_, queries}, memory);
    });
  }

 private:
  static constexpr Index tile_queries = 16;

  void tile(const TileRows& rows, T* memory) const {
    Carve<T> carve(memory);
    T* const q = carve(tile_queries * sharing_ * rows_.depth());
    const auto scratch = rows_.carve(carve, sharing_, longest_);
    pass_.load_queries(rows, q, rows_.depth());
    const Index list_head = rows.first_head * lists_.heads / pass_.problem.q.heads;
    for (Index first = 0; first < rows.count(); first += sharing_) {
      const Span list = lists_.list(rows.batch, list_head, rows.queries.first + first / sharing_);
      const Index* const keys = lists_.keys.data() + list.first;
      const Index n = list.size();
      rows_.score(rows, first, first + sharing_, q + first * rows_.depth(), keys, n, scratch.scores);
      rows.each(first, first + sharing_, [&](Index r, Row at) {
        rows_.attend(at, keys, n, scratch.scores + (r - first) * simd::whole<T>(n), scratch);
      });
    }
  }

  const Pass<T, Source, Mask, Scores>& pass_;
  const ListRows<T, Source, Mask, Scores> rows_;
  const select::KeyLists& lists_;
  const Index sharing_;  // query heads of a kv head that share a list
  const Index longest_;
};

template <class T, class Mask, class Scores, exec::Executor Exec = exec::Serial>
void attend_lists(const Problem<T>& problem, const Recipe<Mask, Scores>& recipe, const select::KeyLists& lists,
                  const Exec& executor = {}) {
  const Shape shape = problem.shape();
  recipe.normalizer.check_for(problem.where, shape);
  const auto mask = recipe.visible.bind(problem.where, shape);
  const auto scores = recipe.scores.template bind<T>(problem.where, shape);
  lists.check_for(problem.where, shape);
  if (shape.batch == 0 || shape.heads == 0 || shape.queries == 0) return;
  using Source = kv::Contiguous<T>;
  using Bound = std::remove_const_t<decltype(mask)>;
  using BoundScores = std::remove_const_t<decltype(scores)>;
  const Source source{problem.k, problem.v};
  const Pass<T, Source, Bound, BoundScores> pass(problem, shape, source, recipe.normalizer, mask, scores,
                                                 !Scores::empty);
  OverLists(pass, lists).run(executor);
}

}  // namespace fovea::inline FOVEA_ISA::engine

namespace fovea::inline FOVEA_ISA {

// Attention by recipe over lists of keys; arrays as for attend, lists for the query heads, the kv heads or all.
// Throws ArgumentError before any work when shapes, parts or lists do not fit.
template <class Q, class K, class V, class Out, class Mask, class Scores, exec::Executor Exec = exec::Serial>
void attend_lists(const Q& q, const K& k, const V& v, Out&& out, const Recipe<Mask, Scores>& recipe,
                  const select::KeyLists& lists, const Exec& executor = {}) {
  engine::attend_lists(make_problem("fovea::attend_lists", q, k, v, out), recipe, lists, executor);
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/simd/sift.hpp

// Lanes chosen by a comparison, packed side by side.

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace fovea::inline FOVEA_ISA::simd {

#if defined(__aarch64__)
namespace detail {

// One bit a lane of a comparison, lane 0 the lowest.
[[gnu::always_inline]] inline std::uint64_t bits_of_lanes(uint32x4_t holds) {
  return vaddvq_u32(vandq_u32(holds, uint32x4_t{1, 2, 4, 8}));
}
[[gnu::always_inline]] inline std::uint64_t bits_of_lanes(uint64x2_t holds) {
  return vaddvq_u64(vandq_u64(holds, uint64x2_t{1, 2}));
}

// The bytes of the set lanes of four, side by side.
inline constexpr auto bytes_of_set_lanes = [] {
  std::array<std::array<std::uint8_t, 16>, 16> table{};
  for (unsigned bits = 0; bits < 16; ++bits) {
    unsigned at = 0;
    for (unsigned i = 0; i < 4; ++i) {
      if ((bits >> i & 1) == 0) continue;
      for (unsigned byte = 0; byte < 4; ++byte) table[bits][at++] = std::uint8_t(4 * i + byte);
    }
  }
  return table;
}();

}  // namespace detail
#endif

// One bit a lane, lane 0 the lowest: x > limit. NaN is above nothing.
template <class T>
[[gnu::always_inline]] inline std::uint64_t bits_above(Pack<T> x, Pack<T> limit) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float> && lanes<T> == 16) return _mm512_cmp_ps_mask(x, limit, _CMP_GT_OQ);
  if constexpr (std::is_same_v<T, double> && lanes<T> == 8) return _mm512_cmp_pd_mask(x, limit, _CMP_GT_OQ);
#elif defined(__AVX__)
  if constexpr (std::is_same_v<T, float> && lanes<T> == 8)
    return unsigned(_mm256_movemask_ps(_mm256_cmp_ps(x, limit, _CMP_GT_OQ)));
  if constexpr (std::is_same_v<T, double> && lanes<T> == 4)
    return unsigned(_mm256_movemask_pd(_mm256_cmp_pd(x, limit, _CMP_GT_OQ)));
#elif defined(__SSE2__)
  if constexpr (std::is_same_v<T, float>) return unsigned(_mm_movemask_ps(_mm_cmpgt_ps(x, limit)));
  if constexpr (std::is_same_v<T, double>) return unsigned(_mm_movemask_pd(_mm_cmpgt_pd(x, limit)));
#elif defined(__aarch64__)
  if constexpr (std::is_same_v<T, float> && lanes<T> == 4) return detail::bits_of_lanes(vcgtq_f32(x, limit));
  if constexpr (std::is_same_v<T, double> && lanes<T> == 2) return detail::bits_of_lanes(vcgtq_f64(x, limit));
#endif
  alignas(64) T lane[std::size_t(lanes<T>)], bound[std::size_t(lanes<T>)];
  store(lane, x);
  store(bound, limit);
  std::uint64_t bits = 0;
  for (Index i = 0; i < lanes<T>; ++i) bits |= std::uint64_t(lane[i] > bound[i]) << i;
  return bits;
}

// x >= limit.
template <class T>
[[gnu::always_inline]] inline std::uint64_t bits_reaching(Pack<T> x, Pack<T> limit) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float> && lanes<T> == 16) return _mm512_cmp_ps_mask(x, limit, _CMP_GE_OQ);
  if constexpr (std::is_same_v<T, double> && lanes<T> == 8) return _mm512_cmp_pd_mask(x, limit, _CMP_GE_OQ);
#elif defined(__AVX__)
  if constexpr (std::is_same_v<T, float> && lanes<T> == 8)
    return unsigned(_mm256_movemask_ps(_mm256_cmp_ps(x, limit, _CMP_GE_OQ)));
  if constexpr (std::is_same_v<T, double> && lanes<T> == 4)
    return unsigned(_mm256_movemask_pd(_mm256_cmp_pd(x, limit, _CMP_GE_OQ)));
#elif defined(__SSE2__)
  if constexpr (std::is_same_v<T, float>) return unsigned(_mm_movemask_ps(_mm_cmpge_ps(x, limit)));
  if constexpr (std::is_same_v<T, double>) return unsigned(_mm_movemask_pd(_mm_cmpge_pd(x, limit)));
#elif defined(__aarch64__)
  if constexpr (std::is_same_v<T, float> && lanes<T> == 4) return detail::bits_of_lanes(vcgeq_f32(x, limit));
  if constexpr (std::is_same_v<T, double> && lanes<T> == 2) return detail::bits_of_lanes(vcgeq_f64(x, limit));
#endif
  alignas(64) T lane[std::size_t(lanes<T>)], bound[std::size_t(lanes<T>)];
  store(lane, x);
  store(bound, limit);
  std::uint64_t bits = 0;
  for (Index i = 0; i < lanes<T>; ++i) bits |= std::uint64_t(lane[i] >= bound[i]) << i;
  return bits;
}

namespace detail {

// The lanes of the set bits of a byte, in ascending order, a byte each.
inline constexpr auto set_bits_of = [] {
  std::array<std::uint64_t, 256> table{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    int at = 0;
    for (unsigned i = 0; i < 8; ++i) {
      if ((byte >> i & 1) != 0) table[byte] |= std::uint64_t(i) << 8 * at++;
    }
  }
  return table;
}();

}  // namespace detail

// Stores the lanes whose bit is set side by side and gives their number. Up to a whole vector is written.
template <class E>
[[gnu::always_inline]] inline Index pack_lanes(E* to, Pack<E> x, std::uint64_t bits) {
  const Index count = std::popcount(bits);
#if defined(__AVX512F__)
  if constexpr (lanes<E> * Index(sizeof(E)) == 64) {
    if constexpr (std::is_same_v<E, float>) {
      _mm512_storeu_ps(to, _mm512_maskz_compress_ps(__mmask16(bits), x));
    } else if constexpr (std::is_same_v<E, double>) {
      _mm512_storeu_pd(to, _mm512_maskz_compress_pd(__mmask8(bits), x));
    } else if constexpr (sizeof(E) == 4) {
      _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(__mmask16(bits), x));
    } else {
      _mm512_storeu_si512(to, _mm512_maskz_compress_epi64(__mmask8(bits), x));
    }
    return count;
  }
#elif defined(__AVX2__)
  if constexpr (lanes<E> == 8 && sizeof(E) == 4) {
    const __m256i from = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(detail::set_bits_of[bits])));
    if constexpr (std::is_same_v<E, float>) {
      _mm256_storeu_ps(to, _mm256_permutevar8x32_ps(x, from));
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(x, from));
    }
    return count;
  }
#elif defined(__aarch64__)
  if constexpr (lanes<E> == 4) {
    uint8x16_t bytes;
    std::memcpy(&bytes, &x, sizeof bytes);
    bytes = vqtbl1q_u8(bytes, vld1q_u8(detail::bytes_of_set_lanes[bits].data()));
    std::memcpy(to, &bytes, sizeof bytes);
    return count;
  }
#endif
  alignas(64) E lane[std::size_t(lanes<E>)];
  store(lane, x);
  for (; bits != 0; bits &= bits - 1) *to++ = lane[std::countr_zero(bits)];
  return count;
}

}  // namespace fovea::inline FOVEA_ISA::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

// fovea/parts/select/threshold.hpp

// The score that parts the k largest from the rest, by counting: scores are halved by value, then by bits, in passes on
// vectors that move nothing. NaN and -infinity count for nothing.

namespace fovea::inline FOVEA_ISA::select {

// Kept are the scores above `least`, and of those equal to it the first `ties`.
template <class T>
struct Threshold {
  T least;
  Index ties;
};

namespace detail {

using simd::Bits;
using simd::Pack;

// Calls f(vector) for whole vectors and the rest filled up with -infinity.
template <class T, class F>
[[gnu::always_inline]] inline void each_vector(const T* x, Index n, F&& f) {
  constexpr Index step = simd::lanes<T>;
  Index j = 0;
  for (; j + 4 * step <= n; j += 4 * step) {
#pragma GCC unroll 4
    for (Index i = 0; i < 4; ++i) f(simd::load(x + j + i * step), i);
  }
  for (; j + step <= n; j += step) f(simd::load(x + j), 0);
  if (j < n) f(simd::load_some(x + j, n - j, -simd::infinity<T>), 1);
}

template <class T>
inline Index count_reaching(const T* x, Index n, T least) {
  constexpr Index step = simd::lanes<T>;
  const Pack<T> limit(least);
  Index count = 0, j = 0;
  for (; j + 4 * step <= n; j += 4 * step) {
    std::uint64_t bits = 0;
#pragma GCC unroll 4
    for (Index i = 0; i < 4; ++i) bits |= simd::bits_reaching(simd::load(x + j + i * step), limit) << (i * step);
    count += std::popcount(bits);
  }
  for (; j + step <= n; j += step) count += std::popcount(simd::bits_reaching(simd::load(x + j), limit));
  if (j < n) count += std::popcount(simd::bits_reaching(simd::load_some(x + j, n - j, -simd::infinity<T>), limit));
  return count;
}

template <class T>
inline Index count_above(const T* x, Index n, T least) {
  const Pack<T> limit(least);
  Index count = 0;
  each_vector(x, n, [&](Pack<T> v, Index) { count += std::popcount(simd::bits_above(v, limit)); });
  return count;
}

// The smallest and the largest of the scores above -infinity that reach `least`; (infinity, -infinity) without any.
template <class T>
struct Range {
  T low, high;
};
template <class T>
inline Range<T> range_from(const T* x, Index n, T least) {
  const Pack<T> limit(least), none(-simd::infinity<T>);
  Pack<T> low[4], high[4];
  for (int i = 0; i < 4; ++i) {
    low[i] = Pack<T>(simd::infinity<T>);
    high[i] = none;
  }
  each_vector(x, n, [&](Pack<T> v, Index i) {
    high[i] = xsimd::select(v > high[i], v, high[i]);
    const Pack<T> reaching = xsimd::select(v >= limit, v, Pack<T>(simd::infinity<T>));
    low[i] = xsimd::select(reaching > none, simd::at_most(low[i], reaching), low[i]);
  });
  for (int i = 1; i < 4; ++i) {
    low[0] = xsimd::select(low[i] < low[0], low[i], low[0]);
    high[0] = simd::max(high[0], high[i]);
  }
  return {T(0) - simd::max_of_lanes<T>(Pack<T>(T(0)) - low[0]), simd::max_of_lanes<T>(high[0])};
}

// log2 n, straight between powers of two; n > 0.
inline float rough_log2(Index n) { return float(std::bit_cast<std::int32_t>(float(n)) - (127 << 23)) * 0x1p-23f; }

// Integers in the order of the numbers; -0 lies below 0.
template <class T>
inline Bits<T> to_order(T x) {
  const auto bits = std::bit_cast<Bits<T>>(x);
  return bits >= 0 ? bits : Bits<T>(std::numeric_limits<Bits<T>>::min() - bits - 1);
}
template <class T>
inline T from_order(Bits<T> order) {
  return std::bit_cast<T>(order >= 0 ? order : Bits<T>(std::numeric_limits<Bits<T>>::min() - order - 1));
}

}  // namespace detail

// The threshold of the k largest of n scores, of which more than k > 0 must be above -infinity. With `slack` it may be
// the threshold of up to k + slack, which takes fewer passes.
template <class T>
inline Threshold<T> threshold_of(const T* x, Index n, Index k, Index slack = 0) {
  using namespace detail;
  constexpr int by_value = 16;  // passes before bits are halved
  const auto [lowest, highest] = range_from(x, n, -simd::infinity<T>);
  if (k == 1 || lowest == highest) return {highest, k};
  T low = lowest, high = highest;       // reached by at least k; by fewer, or the largest score
  Index reach_low = n, reach_high = 1;  // by about so many
  const float wanted = rough_log2(k + slack / 2);
  for (int pass = 0;; ++pass) {
    T middle;
    if (pass >= by_value) {
      low = range_from(x, n, low).low;
      const Index above = count_above(x, n, low);
      if (above < k) return {low, k - above};
      const Bits<T> a = to_order(low), b = to_order(high);
      middle = from_order<T>(Bits<T>((a & b) + ((a ^ b) >> 1)));
    } else {
      // The logarithm of the number of scores that reach a value falls about evenly near the largest.
      const float top = rough_log2(reach_low), bottom = rough_log2(reach_high);
      const float part = pass % 3 == 2 ? 0.5f : std::clamp((top - wanted) / (top - bottom), 0.02f, 0.98f);
      middle = low + (high - low) * T(part);
    }
    if (!(middle > low)) middle = std::nextafter(low, simd::infinity<T>);
    const Index reached = count_reaching(x, n, middle);
    if (reached >= k) {
      if (reached <= k + slack) return {middle, reached};
      low = middle;
      reach_low = reached;
    } else {
      high = middle;
      reach_high = std::max<Index>(reached, 1);
    }
  }
}

}  // namespace fovea::inline FOVEA_ISA::select

// fovea/parts/select/streaming_top_k.hpp

// The k largest of a row of scores that comes piece by piece, in memory that does not grow with the row.
//
// Scores that pass a threshold are collected together with their keys; whenever the room for about 2k of them is used
// up, the threshold rises and those below are dropped. Keys come in ascending order and a later equal score loses, so
// that "above the threshold" is exact as soon as k scores reach it. Same order as Ranking: equal scores by the lower
// key, NaN counts as -infinity, -infinity is never chosen.

namespace fovea::inline FOVEA_ISA::select {

// The chosen keys in ascending order, and their scores.
template <class T>
struct Chosen {
  const simd::Bits<T>* keys;
  T* scores;
  Index count;
};

// One row; the memory is the caller's.
template <class T>
class StreamingTopK {
 public:
  using Key = simd::Bits<T>;  // float: fewer than 2^31 keys

  // Scores (and keys) that a row of at most `most` scores needs room for.
  static constexpr Index room(Index k, Index most) {
    const Index kept = std::min(k, most);
    return simd::whole<T>(std::min(kept + std::max(kept, least_slack), most)) + run;
  }

  StreamingTopK() = default;

  // scores and keys [room(k, most)]
  StreamingTopK(Index k, Index most, T* scores, Key* keys)
      : k_(k), full_(room(k, most)), scores_(scores), keys_(keys) {}

  void begin() {
    count_ = 0;
    threshold_ = -simd::infinity<T>;
  }

  // Takes the scores of `count` keys from `first` on; keys ascend from call to call.
  [[gnu::always_inline]] void take(const T* scores, Index count, Index first) {
    using namespace simd;
    Index j = 0;
    for (; j + run <= count; j += run) {
      const std::uint64_t bits = bits_of_run(scores + j);
      if (bits != 0) [[unlikely]]
        add_run(scores + j, bits, first + j);
    }
    if (j < count) add_rest(scores + j, count - j, first + j);
  }

  // Takes what another selector has chosen among keys that follow.
  void take(const Chosen<T>& chosen) {
    using namespace simd;
    for (Index j = 0; j < chosen.count; j += lanes<T>) {
      const Index some = std::min(lanes<T>, chosen.count - j);
      const Pack<T> x = some == lanes<T> ? load(chosen.scores + j) : load_some(chosen.scores + j, some, -infinity<T>);
      const Pack<Key> keys = some == lanes<T> ? load(chosen.keys + j) : load_some(chosen.keys + j, some);
      add(x, bits_above(x, Pack<T>(threshold_)), keys);
    }
  }

  // The largest min(k, scores above -infinity) of all that were taken; valid until the next begin().
  Chosen<T> finish() {
    if (count_ > k_) keep(threshold_of(scores_, fill_up(), k_));
    return {keys_, scores_, count_};
  }

 private:
  static constexpr Index least_slack = 256;

  static constexpr Index run = 4 * simd::lanes<T>;

  // Which scores of a run are above the threshold.
  [[gnu::always_inline]] std::uint64_t bits_of_run(const T* scores) const {
    using namespace simd;
    const Pack<T> limit(threshold_);
    std::uint64_t bits = 0;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) bits |= bits_above(load(scores + i * lanes<T>), limit) << (i * lanes<T>);
    return bits;
  }

  [[gnu::noinline]] void add_run(const T* scores, std::uint64_t bits, Index first) {
    using namespace simd;
    constexpr std::uint64_t one = (std::uint64_t{1} << lanes<T>)-1;
    if (full_ - count_ < run) [[unlikely]] {
      rise();
      bits = bits_of_run(scores);
    }
    Index count = count_;
    Pack<Key> keys = ramp<Key>() + Pack<Key>(Key(first));
    for (; bits != 0; bits >>= lanes<T>) {
      pack_lanes(scores_ + count, load(scores), bits & one);
      count += pack_lanes(keys_ + count, keys, bits & one);
      scores += lanes<T>;
      keys = keys + Pack<Key>(Key(lanes<T>));
    }
    count_ = count;
  }

  [[gnu::noinline]] void add_rest(const T* scores, Index count, Index first) {
    using namespace simd;
    for (Index j = 0; j < count; j += lanes<T>) {
      const Pack<T> x = j + lanes<T> <= count ? load(scores + j) : load_some(scores + j, count - j, -infinity<T>);
      add(x, bits_above(x, Pack<T>(threshold_)), ramp<Key>() + Pack<Key>(Key(first + j)));
    }
  }

  [[gnu::always_inline]] void add(simd::Pack<T> x, std::uint64_t bits, simd::Pack<Key> keys) {
    if (full_ - count_ < simd::lanes<T>) [[unlikely]] {
      rise();
      bits = simd::bits_above(x, simd::Pack<T>(threshold_));
    }
    simd::pack_lanes(scores_ + count_, x, bits);
    count_ += simd::pack_lanes(keys_ + count_, keys, bits);
  }

  // Makes whole vectors of what is collected and gives their length.
  Index fill_up() {
    const Index whole = simd::whole<T>(count_);
    std::fill(scores_ + count_, scores_ + whole, -simd::infinity<T>);
    return whole;
  }

  [[gnu::noinline]] void rise() {
    if (count_ <= k_) return;
    const auto t = threshold_of(scores_, fill_up(), k_, k_ / 4);
    keep(t);
    threshold_ = t.least;
  }

  // Drops what is below; those that stay keep their order.
  void keep(Threshold<T> t) {
    using namespace simd;
    const Pack<T> least(t.least);
    Index kept = 0;
    for (Index j = 0; j < count_; j += lanes<T>) {
      const Pack<T> x = load(scores_ + j);
      std::uint64_t bits = bits_reaching(x, least);
      if (j + lanes < T >> count_) bits &= (std::uint64_t{1} << (count_ - j)) - 1;
      if (t.ties < count_) {
        std::uint64_t equal = bits & ~bits_above(x, least);
        for (; equal != 0; equal &= equal - 1) {
          if (t.ties-- <= 0) bits &= ~(equal & -equal);
        }
      }
      pack_lanes(scores_ + kept, x, bits);
      kept += pack_lanes(keys_ + kept, load(keys_ + j), bits);
    }
    count_ = kept;
  }

  Index k_ = 0, full_ = 0, count_ = 0;
  T threshold_ = -simd::infinity<T>;
  T* scores_ = nullptr;
  Key* keys_ = nullptr;
};

}  // namespace fovea::inline FOVEA_ISA::select

// fovea/parts/select/top_k.hpp

// A choice of keys by their scores, as a value: how many for each query, and whose scores choose.

namespace fovea::inline FOVEA_ISA::select {

// Whose scores choose: each query head's its own keys, or the query heads of a kv head the same keys by the largest or
// the sum of their scores.
enum class Heads { each, kv_max, kv_sum };

struct TopK {
  Index k = 0;  // keys of a query
  Heads heads = Heads::each;
  bool keep_mass = false;  // chosen keys keep their weights of the softmax over all visible keys

  // Heads that have lists of their own.
  Index lists(const Shape& shape) const { return heads == Heads::each ? shape.heads : shape.kv_heads; }

  void check_for(const char* where, const Shape& shape) const {
    check(k > 0, where, "top_k must be positive, got ", k);
    check(shape.keys < (Index(1) << 31), where, "there must be fewer than 2^31 keys, got ", shape.keys);
  }
};

}  // namespace fovea::inline FOVEA_ISA::select

// fovea/engine/attend_rows.hpp

// Runs a recipe on the keys that each query chooses from all that it sees: the scores of tiles of queries against tiles
// of keys go to a selector for each row, and behind the last key the chosen scores become weights of the chosen values.
// Memory holds the selectors of one tile of queries and does not grow with N x M.

namespace fovea::inline FOVEA_ISA::engine {

// Where chosen keys go when they are asked for: places of one size for all lists, closed up at the end.
class KeySlots {
 public:
  KeySlots(const Shape& shape, Index heads, Index size)
      : lists_{shape.batch, heads, shape.queries, {0}, {}},
        size_(size),
        counts_(std::size_t(shape.batch * heads * shape.queries)) {
    lists_.keys.resize(counts_.size() * std::size_t(size));
  }

  template <class Key>
  void put(Index batch, Index head, Index query, const Key* keys, Index count) {
    const Index at = (batch * lists_.heads + head) * lists_.queries + query;
    counts_[std::size_t(at)] = count;
    std::copy(keys, keys + count, lists_.keys.begin() + at * size_);
  }

  select::KeyLists close() && {
    Index end = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      const auto from = lists_.keys.begin() + Index(i) * size_;
      std::copy(from, from + counts_[i], lists_.keys.begin() + end);
      lists_.begin.push_back(end += counts_[i]);
    }
    lists_.keys.resize(std::size_t(end));
    return std::move(lists_);
  }

 private:
  select::KeyLists lists_;
  Index size_;
  std::vector<Index> counts_;
};

// The selectors of the rows of a tile: one for each row, or for each query when the heads choose together.
template <class T, class Source, class Mask, class Scores>
class Choices {
 public:
  using Selector = select::StreamingTopK<T>;
  using Key = typename Selector::Key;

  // length: keys that a selector may see.
  Choices(const Pass<T, Source, Mask, Scores>& pass, const select::TopK& choice, Index length)
      : pass_(pass),
        choice_(choice),
        lists_(pass),
        length_(length),
        room_(Selector::room(choice.k, length)),
        rows_(choice.heads == select::Heads::each ? 1 : pass.problem.group) {}

  Index rows_of_one() const { return rows_; }  // rows that choose together
  Index most() const { return std::min(choice_.k, length_); }
  Index size_of_one() const { return 2 * room_ + Index(sizeof(Selector) / sizeof(T)); }  // elements, roughly
  Index depth() const { return lists_.depth(); }
  bool keeps_mass() const { return choice_.keep_mass; }

  struct Scratch {
    Selector* selectors;
    T* joined;
    typename ListRows<T, Source, Mask, Scores>::Scratch lists;
  };

  Index scratch_size(Index rows) const {
    const Index count = rows / rows_;
    return whole_lines<T>(selector_size(count)) + whole_lines<T>(count * 2 * room_) + whole_lines<T>(mask::word) +
           lists_.scratch_size(rows_, most());
  }

  Scratch begin(Carve<T>& carve, Index rows) const {
    const Index count = rows / rows_;
    auto* const selectors = reinterpret_cast<Selector*>(carve(selector_size(count)));
    T* const memory = carve(count * 2 * room_);
    for (Index i = 0; i < count; ++i) {
      T* const scores = memory + i * 2 * room_;
      std::construct_at(selectors + i, choice_.k, length_, scores, reinterpret_cast<Key*>(scores + room_))->begin();
    }
    T* const joined = carve(mask::word);
    return {selectors, joined, lists_.carve(carve, rows_, most())};
  }

  // Shows the finished scores of rows [first, last), whole queries when they choose together, to their selectors.
  void take(Index first, Index last, const KeyTile& tile, const T* scores, Index columns, const Scratch& to) const {
    for (Index r = first; r < last; r += rows_) {
      const T* row = scores + (r - first) * columns;
      if (rows_ > 1) row = join(row, columns, to.joined);
      Selector& selector = to.selectors[r / rows_];
      if (tile.runs() == 1) {
        selector.take(row, tile.size(), tile.first_run().first);
      } else {
        tile.each_run([&](Index column, Span keys) { selector.take(row + column, keys.size(), keys.first); });
      }
    }
  }

  // Ends the choices of a tile, q its queries: keeps the lists and attends to them, as far as either is asked for.
  // whole(r) is the total and the reference of the softmax over all keys that row r sees, for choices that keep mass.
  template <class Whole>
  void finish(const TileRows& rows, const T* q, const Scratch& scratch, KeySlots* slots, Whole&& whole) const {
    for (Index first = 0; first < rows.count(); first += rows_) {
      const select::Chosen<T> chosen = scratch.selectors[first / rows_].finish();
      const Index n = chosen.count;
      T* scores = chosen.scores;
      if (rows_ > 1 && pass_.problem.out.data != nullptr) {
        scores = scratch.lists.scores;
        lists_.score(rows, first, first + rows_, q + first * depth(), chosen.keys, n, scores);
      }
      rows.each(first, first + rows_, [&](Index r, Row at) {
        if (slots != nullptr && r == first)
          slots->put(at.batch, choice_.heads == select::Heads::each ? at.head : rows.kv_head, at.query, chosen.keys, n);
        if (pass_.problem.out.data == nullptr) return;
        T* const row = scores + (r - first) * simd::whole<T>(n);
        if (choice_.keep_mass) {
          const auto [total, reference] = whole(r);
          lists_.attend_within(at, chosen.keys, n, row, total, reference, scratch.lists);
        } else {
          lists_.attend(at, chosen.keys, n, row, scratch.lists);
        }
      });
    }
  }

 private:
  static Index selector_size(Index count) { return count * Index((sizeof(Selector) + sizeof(T) - 1) / sizeof(T)); }

  // The largest, or the sum, of the scores of the rows that choose together.
  const T* join(const T* scores, Index columns, T* joined) const {
    using simd::Pack;
    const Pack<T> none(-simd::infinity<T>);
    for (Index j = 0; j < columns; j += simd::lanes<T>) {
      Pack<T> all = simd::load(scores + j);
      if (choice_.heads == select::Heads::kv_sum) {
        for (Index r = 1; r < rows_; ++r) all = all + simd::load(scores + r * columns + j);
      } else {
        all = xsimd::select(all > none, all, none);
        for (Index r = 1; r < rows_; ++r) {
          const Pack<T> next = simd::load(scores + r * columns + j);
          all = xsimd::select(next > all, next, all);
        }
      }
      simd::store(joined + j, all);
    }
    return joined;
  }

  const Pass<T, Source, Mask, Scores>& pass_;
  const select::TopK& choice_;
  const ListRows<T, Source, Mask, Scores> lists_;
  const Index length_, room_, rows_;
};

// Many queries: tiles of queries against tiles of keys on the register kernel.
template <class T, class Source, class Mask, class Scores>
class RowsOverTiles {
 public:
  RowsOverTiles(const Pass<T, Source, Mask, Scores>& pass, const select::TopK& choice, KeySlots* slots, Index workers)
      : pass_(pass), slots_(slots), choices_(pass, choice, pass.shape.keys) {
    const Index group = pass.problem.group, kv_heads = pass.problem.q.batch * pass.problem.q.heads / group;
    const Index of_query =
        (group / choices_.rows_of_one() * choices_.size_of_one() + group * (choices_.depth() + step));
    const Index share = workers == 1 ? 1 : (4 * workers + kv_heads - 1) / kv_heads;
    const Index least = (band + group - 1) / group, wanted = (pass.problem.q.length + share - 1) / share;
    const Index fit = std::min(budget / Index(sizeof(T)) / of_query, most_rows / group);
    queries_ = std::max(std::min(fit, wanted), least);
    rows_ = queries_ * group;
  }

  template <class Exec>
  void run(const Exec& executor) const {
    const auto& q = pass_.problem.q;
    const Index group = pass_.problem.group, kv_heads = q.heads / group, tiles = (q.length + queries_ - 1) / queries_;
    const double flops = 2.0 * double(rows_) * double(pass_.shape.keys) * double(pass_.source.key_dim());
    const Index padded = simd::whole_rows(rows_), dim = pass_.source.key_dim();
    const Index size = whole_lines<T>(padded * choices_.depth()) + whole_lines<T>(dim * step) +
                       whole_lines<T>(step * dim) + whole_lines<T>(padded * step) +
                       whole_lines<T>(normalizer::SoftmaxRows<T>::size(padded)) + choices_.scratch_size(rows_);
    distribute<T>(executor, q.batch * kv_heads * tiles, flops, size, [&](Index item, T* memory) {
      const Index t = tiles - 1 - item % tiles, kv_head = item / tiles % kv_heads, batch = item / tiles / kv_heads;
      tile({batch, kv_head, kv_head * group, group, {t * queries_, std::min((t + 1) * queries_, q.length)}}, memory);
    });
  }

 private:
  static constexpr Index band = simd::tile_rows;
  static constexpr Index step = mask::word;  // keys of a tile
  static constexpr Index most_rows = 32 * band;
  static constexpr Index budget = 768 * 1024;  // bytes of the selectors of a tile

  void tile(const TileRows& rows, T* memory) const {
    const Index padded = simd::whole_rows(rows_), dim = pass_.source.key_dim(), depth = choices_.depth();
    Carve<T> carve(memory);
    T* const q = carve(padded * depth);
    T* const keys = carve(dim * step);
    T* const gathered = carve(step * dim);
    T* const scores = carve(padded * step);
    normalizer::SoftmaxRows<T> whole(pass_.power_unit(), carve(normalizer::SoftmaxRows<T>::size(padded)), padded);
    const auto choices = choices_.begin(carve, rows_);
    pass_.load_queries(rows, q, depth);
    std::fill(q + rows.count() * depth, q + padded * depth, T(0));
    whole.begin(padded);
    const Index bands = (rows.count() + band - 1) / band;
    each_tile(
        pass_.mask, rows.region(0, rows.count(), {0, pass_.shape.keys}), step,
        [&](const KeyTile& tile, const KeyTile* next) {
          const Index columns = simd::whole<T>(tile.size());
          lay_out_keys(rows, tile, columns, keys, gathered);
          const bool together = choices_.rows_of_one() > 1;
          if (together && !tile.full()) std::fill(scores, scores + padded * columns, -simd::infinity<T>);
          const auto cover = [&](Index first, Index last) {
            return tile.full() ? mask::Cover::full : cover_of(rows.region(first * band, last * band, {0, 0}), tile);
          };
          visit_pieces(0, bands, cover, [&](Index i, bool all) {
            const Index first = i * band;
            T* const of_band = scores + first * columns;
            score_band(q + first * depth, depth, columns, keys, of_band);
            if (pass_.modified || !all || columns != tile.size()) {
              pass_.finish_scores(rows, first, first + band, tile, 0, tile.size(), all, nullptr, of_band, columns);
            }
            if (together) return;
            choices_.take(first, std::min(first + band, rows.count()), tile, of_band, columns, choices);
            if (choices_.keeps_mass()) whole.absorb(first, band, of_band, columns, columns);
          });
          if (next != nullptr) ask(rows, *next);
          if (!together) return;
          choices_.take(0, rows.count(), tile, scores, columns, choices);
          if (choices_.keeps_mass()) whole.absorb(0, bands * band, scores, columns, columns);
        });
    choices_.finish(rows, q, choices, slots_, [&](Index r) { return std::pair(whole.total(r), whole.reference[r]); });
  }

  [[gnu::always_inline]] void ask(const TileRows& rows, const KeyTile& tile) const {
    tile.each_run([&](Index, Span keys) { pass_.prefetch_keys(rows, keys); });
  }

  mask::Cover cover_of(mask::Region region, const KeyTile& tile) const {
    bool some = false, all = true;
    tile.each_run([&](Index, Span keys) {
      if (some && !all) return;
      region.keys = keys;
      const mask::Cover seen = pass_.mask.cover(region);
      some = some || seen != mask::Cover::none;
      all = all && seen == mask::Cover::full;
    });
    return !some ? mask::Cover::none : all ? mask::Cover::full : mask::Cover::part;
  }

  void lay_out_keys(const TileRows& rows, const KeyTile& tile, Index columns, T* keys, T* gathered) const {
    const auto k = pass_.key_rows(rows, tile, gathered);
    simd::transpose(tile.size(), k.dim, k.data, k.stride, keys, columns);
  }

  // Scores of one band, in pieces of the depth so that no chain of additions is long.
  void score_band(const T* q, Index q_stride, Index columns, const T* keys, T* scores) const {
    constexpr Index piece = 64;
    const Index dim = pass_.source.key_dim();
    simd::multiply_rows<band, simd::Onto::nothing>(columns, std::min(piece, dim), q, q_stride, keys, columns, scores,
                                                   columns);
    for (Index d = piece; d < dim; d += piece)
      simd::multiply_rows<band, simd::Onto::sum>(columns, std::min(piece, dim - d), q + d, q_stride, keys + d * columns,
                                                 columns, scores, columns);
  }

  const Pass<T, Source, Mask, Scores>& pass_;
  KeySlots* const slots_;
  const Choices<T, Source, Mask, Scores> choices_;
  Index queries_ = 1, rows_ = 1;  // of a tile
};

// Few queries, as in decoding: keys are read once, in order, where they lie. They are cut into splits of a fixed length
// that choose for themselves; the choice among the chosen is the choice among all.
template <class T, class Source, class Mask, class Scores>
class RowsOverSplits {
 public:
  RowsOverSplits(const Pass<T, Source, Mask, Scores>& pass, const select::TopK& choice, KeySlots* slots)
      : pass_(pass),
        slots_(slots),
        rows_(pass.problem.q.length * pass.problem.group),
        of_split_(pass, choice, std::min(split, pass.shape.keys)),
        of_all_(pass, choice, pass.shape.keys),
        selectors_(rows_ / of_all_.rows_of_one()) {}

  template <class Exec>
  void run(const Exec& executor) const {
    const auto& q = pass_.problem.q;
    const Splits splits(
        executor, q.batch, q.heads / pass_.problem.group, split, [&](Index) -> const auto& { return pass_; });
    Results results(splits.size(), selectors_, of_split_.most(), rows_);
    const Index depth = of_all_.depth(), state = normalizer::SoftmaxRows<T>::size(rows_);
    const double flops = 2.0 * double(rows_) * double(split) * double(depth);
    const Index size = whole_lines<T>(rows_ * depth) + whole_lines<T>(rows_ * step) + whole_lines<T>(state) +
                       of_split_.scratch_size(rows_);
    distribute<T>(executor, splits.size(), flops, size,
                  [&](Index item, T* memory) { choose(splits[item], item, memory, results); });
    distribute<T>(
        executor, splits.heads(), 1e5, whole_lines<T>(rows_ * depth) + of_all_.scratch_size(rows_),
        [&](Index head, T* memory) { finish(rows_of_head(pass_.problem, head), splits.of(head), memory, results); });
  }

 private:
  using Choices = engine::Choices<T, Source, Mask, Scores>;
  using Key = typename Choices::Key;

  static constexpr Index split = 4096;       // keys of a part
  static constexpr Index step = mask::word;  // keys of a tile
  static constexpr Index piece = 16;         // keys between two looks ahead

  // What the parts leave behind: for each selector its choice, for each row the sum of its softmax.
  struct Results {
    Index selectors, most, rows;
    std::vector<Index> counts;
    std::unique_ptr<T[], FreeScratch> scores, totals;
    std::unique_ptr<Key[], FreeScratch> keys;

    Results(Index parts, Index of_part, Index keys_of_one, Index rows_of_part)
        : selectors(of_part),
          most(keys_of_one),
          rows(rows_of_part),
          counts(std::size_t(parts * of_part)),
          scores(allocate_scratch<T>(parts * of_part * keys_of_one)),
          totals(allocate_scratch<T>(parts * rows_of_part * 2)),
          keys(allocate_scratch<Key>(parts * of_part * keys_of_one)) {}

    T* total(Index part, Index r) { return totals.get() + (part * rows + r) * 2; }  // and the reference behind it
    void put(Index part, Index selector, const select::Chosen<T>& chosen) {
      const Index at = part * selectors + selector;
      counts[std::size_t(at)] = chosen.count;
      std::copy(chosen.scores, chosen.scores + chosen.count, scores.get() + at * most);
      std::copy(chosen.keys, chosen.keys + chosen.count, keys.get() + at * most);
    }
    select::Chosen<T> get(Index part, Index selector) const {
      const Index at = part * selectors + selector;
      return {keys.get() + at * most, scores.get() + at * most, counts[std::size_t(at)]};
    }
  };

  void choose(const Split& part, Index number, T* memory, Results& results) const {
    const TileRows rows = rows_of_head(pass_.problem, part.head);
    const Index depth = of_split_.depth();
    Carve<T> carve(memory);
    T* const q = carve(rows_ * depth);
    T* const scores = carve(rows_ * step);
    normalizer::SoftmaxRows<T> whole(pass_.power_unit(), carve(normalizer::SoftmaxRows<T>::size(rows_)), rows_);
    const auto choices = of_split_.begin(carve, rows_);
    pass_.load_queries(rows, q, depth);
    whole.begin(rows_);
    each_tile(pass_.mask, rows.region(0, rows_, part.keys), step, [&](const KeyTile& tile, const KeyTile*) {
      const Index columns = simd::whole<T>(tile.size());
      tile.each_run([&](Index column, Span keys) {
        const auto k = pass_.source.keys(rows.batch, rows.kv_head, keys);
        for (Index j = 0; j < keys.size(); j += piece) {
          const Index soon = std::min(keys.first + j + step, pass_.shape.keys);
          pass_.prefetch_keys(rows, {soon, std::min(soon + piece, pass_.shape.keys)});
          simd::dot_rows(rows_, q, depth, std::min(piece, keys.size() - j), k[j], k.stride, pass_.source.key_dim(),
                         scores + column + j, columns);
        }
      });
      if (pass_.modified || !tile.full() || columns != tile.size()) {
        pass_.finish_scores(rows, 0, rows_, tile, 0, tile.size(), tile.full(), nullptr, scores, columns);
      }
      of_split_.take(0, rows_, tile, scores, columns, choices);
      if (of_split_.keeps_mass()) whole.absorb(0, rows_, scores, columns, columns);
    });
    for (Index i = 0; i < selectors_; ++i) results.put(number, i, choices.selectors[i].finish());
    for (Index r = 0; r < rows_; ++r) {
      results.total(number, r)[0] = whole.total(r);
      results.total(number, r)[1] = whole.reference[r];
    }
  }

  void finish(const TileRows& rows, Span parts, T* memory, Results& results) const {
    Carve<T> carve(memory);
    T* const q = carve(rows_ * of_all_.depth());
    const auto choices = of_all_.begin(carve, rows_);
    if (of_all_.rows_of_one() > 1) pass_.load_queries(rows, q, of_all_.depth());
    for (Index i = 0; i < selectors_; ++i) {
      for (Index part = parts.first; part < parts.last; ++part) choices.selectors[i].take(results.get(part, i));
    }
    of_all_.finish(rows, q, choices, slots_, [&](Index r) {
      T reference = -simd::infinity<T>, total = T(0);
      for (Index part = parts.first; part < parts.last; ++part) {
        const T* const sum = results.total(part, r);
        if (sum[0] != T(0) && !(sum[1] <= reference)) reference = sum[1];
      }
      for (Index part = parts.first; part < parts.last; ++part) {
        const T* const sum = results.total(part, r);
        if (sum[0] != T(0)) total += sum[0] * std::exp(pass_.natural_unit() * (sum[1] - reference));
      }
      return std::pair(total, total == T(0) ? T(0) : reference);
    });
  }

  const Pass<T, Source, Mask, Scores>& pass_;
  KeySlots* const slots_;
  const Index rows_;
  const Choices of_split_, of_all_;
  const Index selectors_;
};

// Attends (unless problem.out has no memory) to the keys that `choice` takes from those that the recipe shows, and puts
// the choice into `lists` (unless null).
template <class T, class Mask, class Scores, exec::Executor Exec = exec::Serial>
void attend_rows(const Problem<T>& problem, const Recipe<Mask, Scores>& recipe, const select::TopK& choice,
                 select::KeyLists* lists = nullptr, const Exec& executor = {}) {
  const Shape shape = problem.shape();
  recipe.normalizer.check_for(problem.where, shape);
  choice.check_for(problem.where, shape);
  const auto mask = recipe.visible.bind(problem.where, shape);
  const auto scores = recipe.scores.template bind<T>(problem.where, shape);
  std::optional<KeySlots> slots;
  if (lists != nullptr) slots.emplace(shape, choice.lists(shape), std::min(choice.k, shape.keys));
  if (shape.batch != 0 && shape.heads != 0 && shape.queries != 0) {
    using Source = kv::Contiguous<T>;
    using Bound = std::remove_const_t<decltype(mask)>;
    using BoundScores = std::remove_const_t<decltype(scores)>;
    const Source source{problem.k, problem.v};
    const Pass<T, Source, Bound, BoundScores> pass(problem, shape, source, recipe.normalizer, mask, scores,
                                                   !Scores::empty);
    KeySlots* const to = slots ? &*slots : nullptr;
    if (few_queries(shape.queries, problem.group)) {
      RowsOverSplits(pass, choice, to).run(executor);
    } else {
      RowsOverTiles(pass, choice, to, exec::concurrency(executor)).run(executor);
    }
  }
  if (lists != nullptr) *lists = std::move(*slots).close();
}

}  // namespace fovea::inline FOVEA_ISA::engine

namespace fovea::inline FOVEA_ISA {

// Attention by recipe to the keys that every query chooses; arrays as for attend.
//
//   attend_rows(q, k, v, out, softmax().mask(mask::causal() & mask::window(4096)), select::TopK{.k = 64}, executor);
//
// Throws ArgumentError before any work when shapes, parts or the choice do not fit.
template <class Q, class K, class V, class Out, class Mask, class Scores, exec::Executor Exec = exec::Serial>
void attend_rows(const Q& q, const K& k, const V& v, Out&& out, const Recipe<Mask, Scores>& recipe,
                 const select::TopK& choice, const Exec& executor = {}) {
  engine::attend_rows(make_problem("fovea::attend_rows", q, k, v, out), recipe, choice, nullptr, executor);
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/engine/linear_pass.hpp

// What the recurrent and the chunked engine share: a linear recipe bound to one call, and the state it runs on.

namespace fovea::inline FOVEA_ISA::engine {

template <class T, class Feature, class Decay, class Write>
struct LinearPass {
  Problem<T> problem;
  Feature features;  // bound, as are the other two
  Decay decay;
  Write write;
  normalizer::FeatureSum division;
  T scale;
  View<T> state;  // of the caller; data is null where a call starts from zeros and leaves nothing behind
  Index key_dim, value_dim;

  Index columns() const { return value_dim + division.divides(); }  // of the state
  Index heads() const { return problem.k.batch * problem.k.heads; }
  Index batch_of(Index head) const { return head / problem.k.heads; }
  Index kv_head_of(Index head) const { return head % problem.k.heads; }

  // Value columns in `parts` pieces of whole `grain`s, the last one ragged.
  Span part(Index p, Index parts, Index grain) const {
    const Index all = (value_dim + grain - 1) / grain;
    return {all * p / parts * grain, std::min(all * (p + 1) / parts * grain, value_dim)};
  }
  Index parts(Index workers, Index grain) const {
    const Index most = (value_dim + grain - 1) / grain;
    return std::clamp<Index>(workers / std::max<Index>(heads(), 1), 1, std::max<Index>(most, 1));
  }

  // One output row from its sums.
  void finish(const T* sums, Index count, T divisor_sum, T* out) const {
    if (!division.divides()) return simd::copy(out, sums, count);
    const T divisor = division.divisor(divisor_sum), inverse = T(1) / divisor;
    if (divisor == T(0)) {  // no weight at all
      for (Index c = 0; c < count; ++c) out[c] = T(0);
    } else if (std::isinf(inverse)) {
      simd::copy_divided(out, sums, count, divisor);
    } else {
      simd::copy_scaled(out, sums, count, inverse);
    }
  }
};

// Binds a recipe to a call: every check is here, and a state of no shape yet gets its shape after the last of them.
template <class T, class F, class D, class W>
auto bind_linear(const Problem<T>& problem, MatrixState<T>* state, const LinearRecipe<F, D, W>& recipe) {
  const char* where = problem.where;
  const Shape shape = problem.shape();
  check(shape.queries == shape.keys, where, "k must have the length of q, wanted ", shape.queries, ", got ",
        shape.keys);
  check(problem.log_sum.data == nullptr, where, "without a softmax there are no log-sums to give");
  check(!recipe.factor || std::isfinite(*recipe.factor), where, "scale must be finite");
  recipe.division.check_for(where);
  const auto features = recipe.features.template bind<T>(where, shape, problem.q.dim);
  const Index width = features.width();
  const auto decay = recipe.forgetting.template bind<T>(where, shape, width);
  const auto write = recipe.writing.template bind<T>(where, shape);
  const bool sums = recipe.division.divides();
  View<T> memory;
  if (state != nullptr) {
    const Extents wanted{shape.batch, shape.kv_heads, width, problem.v.dim};
    state::check_shape(where, *state, wanted, sums);
    if (state->empty()) *state = MatrixState<T>(wanted.batch, wanted.heads, wanted.length, wanted.dim, sums);
    memory = state->view();
  }
  const double scale = recipe.factor.value_or(sums ? 1 : 1 / std::sqrt(double(problem.q.dim)));
  return LinearPass<T, std::remove_const_t<decltype(features)>, std::remove_const_t<decltype(decay)>,
                    std::remove_const_t<decltype(write)>>{problem,  features, decay, write,        recipe.division,
                                                          T(scale), memory,   width, problem.v.dim};
}

}  // namespace fovea::inline FOVEA_ISA::engine

// fovea/simd/small_matrix.hpp

// Products and solves of small row-major matrices, all rows of them, on the register kernel. Columns are whole vectors.

namespace fovea::inline FOVEA_ISA::simd {

// f(first, count) for bands of rows that together cover [0, rows); count is an integral constant.
template <class F>
[[gnu::always_inline]] inline void each_band(Index rows, F&& f) {
  Index i = 0;
  for (; i + tile_rows <= rows; i += tile_rows) f(i, std::integral_constant<int, tile_rows>{});
  for (; i + 4 <= rows; i += 4) f(i, std::integral_constant<int, 4>{});
  for (; i + 2 <= rows; i += 2) f(i, std::integral_constant<int, 2>{});
  if (i < rows) f(i, std::integral_constant<int, 1>{});
}

// C = A B, or shrink C + A B with a number for each row.
template <Onto onto, class T>
inline void multiply(Index rows, Index columns, Index depth, const T* a, Index lda, const T* b, Index ldb, T* c,
                     Index ldc, const T* shrink = nullptr) {
  each_band(rows, [&](Index i, auto count) {
    multiply_rows<decltype(count)::value, onto>(columns, depth, a + i * lda, lda, b, ldb, c + i * ldc, ldc,
                                                onto == Onto::nothing ? nullptr : shrink + i);
  });
}

// The part of C = A B on the diagonal and below it; a few elements above are written as well, those at or past column
// whole<T>(i + 6) of row i never.
template <class T>
inline void multiply_to_lower(Index rows, Index depth, const T* a, Index lda, const T* b, Index ldb, T* c, Index ldc) {
  each_band(rows, [&](Index i, auto count) {
    multiply_rows<decltype(count)::value, Onto::nothing>(whole<T>(i + count), depth, a + i * lda, lda, b, ldb,
                                                         c + i * ldc, ldc);
  });
}

// C = shrink C + A B for a lower triangular A, zero above its diagonal. When not every element of B is finite, `strict`
// keeps row i from meeting the rows of B behind row i at all.
template <class T>
inline void multiply_lower(Index rows, Index columns, const T* a, Index lda, const T* b, Index ldb, T* c, Index ldc,
                           const T* shrink, bool strict) {
  if (strict) {
    for (Index i = 0; i < rows; ++i)
      multiply_rows<1, Onto::shrunk_sum>(columns, i + 1, a + i * lda, lda, b, ldb, c + i * ldc, ldc, shrink + i);
    return;
  }
  each_band(rows, [&](Index i, auto count) {
    multiply_rows<decltype(count)::value, Onto::shrunk_sum>(columns, i + count, a + i * lda, lda, b, ldb, c + i * ldc,
                                                            ldc, shrink + i);
  });
}

// X = (I - A)^-1 X for a strictly lower triangular A, by forward substitution; nothing on or above its diagonal is
// read. ones: `rows` numbers 1.
template <class T>
inline void solve_unit_lower(Index rows, Index columns, const T* a, Index lda, T* x, Index ldx, const T* ones) {
  each_band(rows, [&](Index i, auto count) {
    if (i > 0)
      multiply_rows<decltype(count)::value, Onto::shrunk_sum>(columns, i, a + i * lda, lda, x, ldx, x + i * ldx, ldx,
                                                              ones);
    for (Index c = 0; c < columns; c += lanes<T>) {
      Pack<T> row[tile_rows];
#pragma GCC unroll 8
      for (int r = 0; r < tile_rows; ++r) {
        if (r >= count) continue;
        row[r] = load(x + (i + r) * ldx + c);
#pragma GCC unroll 8
        for (int s = 0; s < tile_rows; ++s) {
          if (s < r) row[r] = fma(Pack<T>(a[(i + r) * lda + i + s]), row[s], row[r]);
        }
        store(x + (i + r) * ldx + c, row[r]);
      }
    }
  });
}

// x[j] *= factor weight[j] for the first `seen` elements, zero behind them up to `end`, a whole number of vectors; no
// weights when null. What was behind `seen` does not matter, NaN included.
template <class T>
inline void weigh_row(T* x, Index seen, Index end, T factor, const T* weight) {
  const Pack<T> all(factor);
  const auto weighed = [&](Index j) {
    const Pack<T> v = load(x + j) * all;
    return weight == nullptr ? v : v * load(weight + j);
  };
  Index j = 0;
  for (; j + lanes<T> <= seen; j += lanes<T>) store(x + j, weighed(j));
  if (j < end) {
    store(x + j, keep_bits((std::uint64_t{1} << (seen - j)) - 1, weighed(j), Pack<T>(T(0))));
    for (j += lanes<T>; j < end; j += lanes<T>) store(x + j, Pack<T>(T(0)));
  }
}

namespace detail {

// sums += x . w_j over some vectors of columns, in vectors, for the rows w_j; those before the last one are moved
// first.
template <int count, int vectors, bool moves, class T>
inline void dot_moved(Index rows, Index column, T* w, Index stride, const T* fade, const T* const* x, bool begin,
                      T* sums, Index sums_stride) {
  Pack<T> left[count][vectors], factor[vectors];
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) {
    if constexpr (moves) factor[v] = load(fade + column + v * lanes<T>);
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) left[i][v] = load(x[i] + column + v * lanes<T>);
  }
  const auto dot = [&](Index j, bool move) __attribute__((always_inline)) {
    Pack<T> sum[count];
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) sum[i] = begin ? Pack<T>(T(0)) : load(sums + i * sums_stride + j * lanes<T>);
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      T* const at = w + j * stride + column + v * lanes<T>;
      Pack<T> right = load(at);
      if (move) {
        right = right * factor[v];
        store(at, right);
      }
#pragma GCC unroll 8
      for (int i = 0; i < count; ++i) sum[i] = fma(left[i][v], right, sum[i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) store(sums + i * sums_stride + j * lanes<T>, sum[i]);
  };
  for (Index j = 0; j + 1 < rows; ++j) dot(j, moves);
  dot(rows - 1, false);
}

}  // namespace detail

// scores[i][j] = x_i . w_j for `count` rows x and the rows w_j of width `width`, whole vectors, zero behind the last
// element; zero behind the scores of a row up to a whole vector. If it `moves`, the rows of w before the last one are
// multiplied by fade first. sums: a vector for every score, in whole vectors of scores.
template <int count, bool moves, class T>
inline void moved_scores(Index rows, Index width, T* w, Index stride, const T* fade, const T* const* x,
                         T* const* scores, T* sums) {
  constexpr int most = registers >= 32 ? 4 : 2, n = int(lanes<T>);
  const Index sums_stride = whole<T>(rows) * n;
  Index d = 0;
  for (; d + most * n <= width; d += most * n)
    detail::dot_moved<count, most, moves>(rows, d, w, stride, fade, x, d == 0, sums, sums_stride);
  for (; d < width; d += n) detail::dot_moved<count, 1, moves>(rows, d, w, stride, fade, x, d == 0, sums, sums_stride);
  for (int i = 0; i < count; ++i) {
    for (Index base = 0; base < rows; base += n) {
      Native<T, n> part[std::size_t(n)];
#pragma GCC unroll 16
      for (int j = 0; j < n; ++j)
        part[j] = base + j < rows ? native_load<T, n>(sums + i * sums_stride + (base + j) * n) : Native<T, n>{};
      const auto row = sum_each<T, n>(part);
      std::memcpy(scores[i] + base, &row, sizeof row);
    }
  }
}

}  // namespace fovea::inline FOVEA_ISA::simd

// fovea/engine/chunk.hpp

// Runs a linear recipe chunk by chunk: inside a chunk of tokens the recurrence is a few products of small matrices, and
// the state is read and written once for each chunk. With b_i the sum of the log decays of a chunk up to token i, k and
// q standing for their features, and S the state before the chunk:
//
//   P_ij = sum_d q_id k_jd e^(b_id - b_jd)            j <= i
//   U    = V, or for the delta rule the solution of  (I + A) U = beta (V - (k e^b) S)
//          with  A_ij = beta_i sum_d k_id k_jd e^(b_id - b_jd), j < i
//   O    = scale ((q e^b) S + P U)
//   S   <- e^(b_L) S + sum_j (k_j e^(b_L - b_j)) u_j^T
//
// Only decays from one token to a later one are formed, never e^(-b). Chunks of one decay for all channels weigh the
// scores; those of a decay for each channel work in blocks of a few tokens, with the scores between blocks as products
// of keys decayed up to the block and queries decayed from there on. Results do not depend on the number of workers.
//
// Retention: Sun et al. 2023, arXiv:2307.08621; gated: Yang et al. 2023, arXiv:2312.06635; delta: Yang et al. 2024,
// arXiv:2406.06484.

namespace fovea::inline FOVEA_ISA::engine {

// Tokens of a chunk where nobody says otherwise: for widths of 64 and 128 the fastest or within a few percent of it,
// whatever the decay and the write. Longer chunks are larger products, but more of them.
inline constexpr Index default_chunk = 32;

template <class T, class Feature, class Decay, class Write>
class Chunks {
 public:
  Chunks(const LinearPass<T, Feature, Decay, Write>& pass, Index chunk, Index workers)
      : pass_(pass),
        length_(std::clamp<Index>(pass.problem.q.length, 1, chunk)),
        depth_(pass.key_dim),
        keys_(simd::whole<T>(length_)),
        row_(simd::whole<T>(depth_)),
        parts_(pass.parts(workers, grain)),
        divides_(pass.division.divides()) {
    for (Index p = 0; p < parts_; ++p) width_ = std::max(width_, simd::whole<T>(pass.part(p, parts_, grain).size()));
  }

  template <class Exec>
  void run(const Exec& executor) const {
    const double tokens = double(pass_.problem.q.length), group = double(pass_.problem.group);
    const double flops = tokens * (double(length_ * (depth_ + width_)) + 4 * double(depth_ * width_)) * (1 + group) / 2;
    distribute<T>(executor, pass_.heads() * parts_, flops, scratch_size(), [&](Index item, T* memory) {
      const Index head = item / parts_;
      Head(*this, pass_.batch_of(head), pass_.kv_head_of(head), pass_.part(item % parts_, parts_, grain), memory).run();
    });
  }

 private:
  static constexpr Index grain = 2 * simd::lanes<T>;  // value columns that make a piece worth its while
  static constexpr Index block = 16;                  // tokens whose decays of each channel are multiplied one by one
  static constexpr auto kind = Decay::kind;
  static constexpr bool by_channel = kind == decay::Kind::per_channel;
  static constexpr bool by_token = kind == decay::Kind::per_head || kind == decay::Kind::per_token;
  static constexpr bool identity = std::is_same_v<Feature, feature::BoundIdentity<T>>;

  // Keys are read where they lie when they are their own features; by channel, if they are whole vectors too.
  bool copies_keys() const { return !identity || (by_channel && depth_ != row_); }

  // Scratch of a worker.
  struct Memory {
    T* state;                    // [depth x width]
    T* sums;                     // of the features, when outputs are divided; zero behind the last [row]
    T* divisors;                 // of the rows of a chunk [keys]
    T* columns;                  // keys as columns, in the end decayed to the end of the chunk [depth x keys]
    T* keys;                     // features of the keys [length x row]
    T* queries;                  // those of the queries, scaled, of every head of the group [length x row]
    T* scores;                   // P of every head of the group [length x keys]
    T* corrections;              // -A [length x keys]
    T* values;                   // V or U [length x width]
    T* out;                      // [length x width]
    T* ones;                     // as many as rows of anything
    T* shrink;                   // e^(b_L) for every row of the state
    T* weights;                  // one decay for all: e^(b_i - b_j) [length x keys]
    T* from_start;               // e^(b_i) [keys]
    T* factors;                  // decays by channel: e^g [length x row]
    T* decayed_keys;             // k e^b [length x row]
    T *prefix, *decayed;         // of a block [block x row]
    T *log_sums, *start, *step;  // b up to a block, e^b, the decay over a block [row]
    T* moved;                    // keys of a block, decayed [block x row]
    T* dots;                     // two rows of scores of a block, in vectors
  };

  Memory carve(T* memory, Index* size = nullptr) const {
    const Index group = pass_.problem.group;
    Index used = 0;
    const auto piece = [&](bool wanted, Index n) -> T* {
      if (!wanted) return nullptr;
      T* const at = memory == nullptr ? nullptr : memory + used;
      used += whole_lines<T>(n);
      return at;
    };
    Memory m;
    m.state = piece(true, depth_ * width_);
    m.sums = piece(divides_, row_);
    m.divisors = piece(divides_, keys_);
    m.columns = piece(true, depth_ * keys_);
    m.keys = piece(copies_keys(), length_ * row_);
    m.queries = piece(true, group * length_ * row_);
    m.scores = piece(true, group * length_ * keys_);
    m.corrections = piece(Write::corrects, length_ * keys_);
    m.values = piece(true, length_ * width_);
    m.out = piece(true, length_ * width_);
    m.ones = piece(true, std::max(length_, depth_));
    m.shrink = piece(true, row_);
    m.weights = piece(by_token, length_ * keys_);
    m.from_start = piece(by_token, keys_);
    m.factors = piece(by_channel, length_ * row_);
    m.decayed_keys = piece(by_channel && Write::corrects, length_ * row_);
    m.prefix = piece(by_channel, block * row_);
    m.decayed = piece(by_channel, block * row_);
    m.log_sums = piece(by_channel, row_);
    m.start = piece(by_channel, row_);
    m.step = piece(by_channel, row_);
    m.moved = piece(by_channel, block * row_);
    m.dots = piece(by_channel, 2 * block * simd::lanes<T>);
    if (size != nullptr) *size = used;
    return m;
  }

  Index scratch_size() const {
    Index size = 0;
    carve(nullptr, &size);
    return size;
  }

  // The tokens of one (batch, kv head) and some value columns.
  class Head {
   public:
    Head(const Chunks& chunks, Index batch, Index kv_head, Span values, T* memory)
        : c_(chunks),
          pass_(chunks.pass_),
          p_(chunks.pass_.problem),
          m_(chunks.carve(memory)),
          batch_(batch),
          kv_head_(kv_head),
          part_(values),
          width_(simd::whole<T>(values.size())),
          direct_(values.size() == width_) {}

    void run() {
      std::fill_n(m_.ones, std::max(c_.length_, c_.depth_), T(1));
      std::fill_n(m_.shrink, c_.row_, T(1));
      read_state();
      if constexpr (kind == decay::Kind::per_head) power_weights();
      for (Index first = 0; first < p_.q.length; first += c_.length_)
        chunk({first, std::min(first + c_.length_, p_.q.length)});
      write_state();
    }

   private:
    void chunk(Span tokens) {
      const Index n = tokens.size();
      soon_ = {tokens.last, std::min(tokens.last + n, p_.q.length)};
      const T* k = p_.k.row(batch_, kv_head_, tokens.first);
      Index k_stride = p_.k.length_stride;
      if (c_.copies_keys()) {
        pass_.features.template operator()<feature::Side::key>(k, k_stride, n, m_.keys, c_.row_,
                                                               Row{batch_, kv_head_, tokens.first});
        if constexpr (by_channel) clear_ends(m_.keys, n);
        k = m_.keys;
        k_stride = c_.row_;
      }
      for (Index i = 0; i < p_.group; ++i) {
        const Index head = kv_head_ * p_.group + i;
        T* const q = queries(i);
        if constexpr (identity) {
          for (Index t = 0; t < n; ++t)
            simd::copy_scaled(q + t * c_.row_, p_.q.row(batch_, head, tokens.first + t), c_.depth_, pass_.scale);
          if constexpr (by_channel) clear_ends(q, n);
          continue;
        }
        pass_.features.template operator()<feature::Side::query>(
            p_.q.row(batch_, head, tokens.first), p_.q.length_stride, n, q, c_.row_, Row{batch_, head, tokens.first});
        for (Index t = 0; t < n; ++t) simd::scale(q + t * c_.row_, c_.depth_, pass_.scale);
        if constexpr (by_channel) clear_ends(q, n);
      }

      if constexpr (by_channel) {
        score_by_channel(tokens, k, k_stride);
      } else {
        if constexpr (kind == decay::Kind::per_token) sum_weights(tokens);
        score(n, k, k_stride);
      }

      const T* v = p_.v.row(batch_, kv_head_, tokens.first) + part_.first;
      Index v_stride = p_.v.length_stride;
      if constexpr (Write::corrects) {
        correct(tokens, by_channel ? m_.decayed_keys : k, by_channel ? c_.row_ : k_stride);
        v = m_.values;
        v_stride = width_;
      } else if (!direct_) {
        copy_values(v, v_stride, n);
        v = m_.values;
        v_stride = width_;
      }
      read(tokens, v, v_stride);
      remember(n, v, v_stride);
      if (c_.divides_) remember_sums(n, k, k_stride);
    }

    // Has some rows of the next chunk brought closer: a few at a time, since the core waits when too many are asked
    // for.
    void ask_for_more() {
      constexpr Index few = 2;
      const auto fetch = [](const T* row, Index n) {
        constexpr Index line = Index(scratch_alignment / sizeof(T));
        for (Index j = 0; j < n; j += line) __builtin_prefetch(row + j);
      };
      for (const Index last = std::min(soon_.first + few, soon_.last); soon_.first < last; ++soon_.first) {
        const Index t = soon_.first;
        fetch(p_.k.row(batch_, kv_head_, t), p_.k.dim);
        fetch(p_.v.row(batch_, kv_head_, t) + part_.first, part_.size());
        for (Index i = 0; i < p_.group; ++i) fetch(p_.q.row(batch_, kv_head_ * p_.group + i, t), p_.q.dim);
        if constexpr (by_channel) fetch(pass_.decay.log_gates(batch_, kv_head_, t), c_.depth_);
      }
    }

    T* queries(Index i) const { return m_.queries + i * c_.length_ * c_.row_; }
    T* scores(Index i) const { return m_.scores + i * c_.length_ * c_.keys_; }

    // Where a row of scores that the row i takes part in a product with may end.
    Index end(Index i) const { return std::min(simd::whole<T>(i + simd::tile_rows), c_.keys_); }

    // Zeros behind the features of every row.
    void clear_ends(T* rows, Index n) const {
      for (Index i = 0; c_.depth_ < c_.row_ && i < n; ++i)
        std::fill(rows + i * c_.row_ + c_.depth_, rows + (i + 1) * c_.row_, T(0));
    }

    // Weights e^((i - j) g) of the constant decay of a head, the powers in double.
    void power_weights() {
      const double g = pass_.decay.log_decay(kv_head_);
      for (Index i = 0; i < c_.length_; ++i) {
        T* const weights = m_.weights + i * c_.keys_;
        for (Index j = 0; j < i; ++j) weights[j] = m_.from_start[i - j - 1];
        weights[i] = T(1);
        m_.from_start[i] = T(std::exp(double(i + 1) * g));
      }
    }

    // Weights e^(b_i - b_j) from the log decays of a chunk: the sums over (j, i] are kept up, not subtracted.
    void sum_weights(Span tokens) {
      const Index n = tokens.size();
      T sum = 0;
      for (Index i = 0; i < n; ++i) {
        const T g = pass_.decay.log_gate(batch_, kv_head_, tokens.first + i);
        m_.from_start[i] = sum += g;
        T* const row = m_.weights + i * c_.keys_;
        for (Index j = 0; j < i; j += simd::lanes<T>)
          simd::store(row + j, simd::load(row - c_.keys_ + j) + simd::Pack<T>(g));
        std::fill(row + i, row + simd::whole<T>(i + 1), T(0));
      }
      std::fill(m_.from_start + n, m_.from_start + simd::whole<T>(n), T(0));
      const simd::PowerUnit<T> unit(simd::log2_e);
      for (Index i = 0; i <= n; ++i) {
        T* const row = i < n ? m_.weights + i * c_.keys_ : m_.from_start;
        for (Index j = 0; j <= std::min(i, n - 1); j += simd::lanes<T>)
          simd::store(row + j, simd::exp2_weight<T>(simd::load(row + j), unit));
      }
    }

    // P and A where every channel decays alike.
    void score(Index n, const T* k, Index k_stride) {
      simd::transpose(n, c_.depth_, k, k_stride, m_.columns, c_.keys_);
      const auto weigh = [&](T* s, Index i, Index seen, T factor) {
        simd::weigh_row(s + i * c_.keys_, seen, end(i), factor, by_token ? m_.weights + i * c_.keys_ : nullptr);
      };
      if constexpr (Write::corrects) {
        simd::multiply_to_lower(n, c_.depth_, k, k_stride, m_.columns, c_.keys_, m_.corrections, c_.keys_);
        for (Index i = 0; i < n; ++i) weigh(m_.corrections, i, i, T(-1));
      }
      for (Index h = 0; h < p_.group; ++h) {
        simd::multiply_to_lower(n, c_.depth_, queries(h), c_.row_, m_.columns, c_.keys_, scores(h), c_.keys_);
        for (Index i = 0; i < n; ++i) weigh(scores(h), i, i + 1, T(1));
      }
    }

    // P and A where every channel has its own decay; leaves decayed queries and keys behind.
    void score_by_channel(Span tokens, const T* k, Index k_stride) {
      const Index n = tokens.size(), row = c_.row_;
      const simd::PowerUnit<T> unit(simd::log2_e);
      std::fill_n(m_.log_sums, row, T(0));
      std::fill_n(m_.start, row, T(1));
      for (Index first = 0; first < n; first += block) {
        const Index count = std::min(block, n - first);
        // e^g, its products from the start of the block, and the sum of all of it.
        std::fill_n(m_.step, row, T(0));
        for (Index i = 0; i < count; ++i) {
          T* const factor = m_.factors + (first + i) * row;
          simd::copy(factor, pass_.decay.log_gates(batch_, kv_head_, tokens.first + first + i), c_.depth_);
          std::fill(factor + c_.depth_, factor + row, T(0));
          for (Index d = 0; d < row; d += simd::lanes<T>) {
            const auto g = simd::load(factor + d);
            simd::store(m_.step + d, simd::load(m_.step + d) + g);
            const auto power = simd::exp2_weight<T>(g, unit);
            simd::store(factor + d, power);
            simd::store(m_.prefix + i * row + d, i == 0 ? power : power * simd::load(m_.prefix + (i - 1) * row + d));
          }
        }

        score_inside(first, count, k, k_stride);
        if constexpr (Write::corrects) {
          score_before(first, count, k, k_stride, m_.decayed_keys, m_.corrections);
          for (Index i = first; i < first + count; ++i)
            simd::weigh_row<T>(m_.corrections + i * c_.keys_, i, simd::whole<T>(first + count), T(-1), nullptr);
        }
        for (Index h = 0; h < p_.group; ++h) score_before(first, count, queries(h), row, queries(h), scores(h));

        // The columns of earlier blocks decay over this one, its own to its end.
        for (Index d = 0; d < row; d += simd::lanes<T>) {
          const auto sum = simd::load(m_.log_sums + d) + simd::load(m_.step + d);
          simd::store(m_.log_sums + d, sum);
          simd::store(m_.start + d, simd::exp2_weight<T>(sum, unit));
          simd::store(m_.step + d, simd::exp2_weight<T>(simd::load(m_.step + d), unit));
        }
        for (Index d = 0; first > 0 && d < c_.depth_; ++d) simd::scale(m_.columns + d * c_.keys_, first, m_.step[d]);
        simd::transpose(count, c_.depth_, m_.moved, row, m_.columns + first, c_.keys_);
      }
      simd::copy(m_.shrink, m_.start, row);
    }

    // Scores of the queries, and of the keys if they correct, with the keys of their own block; leaves these keys
    // decayed to the end of the block.
    void score_inside(Index first, Index count, const T* k, Index k_stride) {
      constexpr Index before = Write::corrects ? 1 : 0;
      for (Index i = 0; i < count; ++i) {
        const T* const fade = m_.factors + (first + i) * c_.row_;
        simd::copy(m_.moved + i * c_.row_, k + (first + i) * k_stride, c_.row_);
        const auto row_of = [&](Index n) {
          return n < before ? k + (first + i) * k_stride : queries(n - before) + (first + i) * c_.row_;
        };
        const auto scores_of = [&](Index n) {
          return (n < before ? m_.corrections : scores(n - before)) + (first + i) * c_.keys_ + first;
        };
        const auto take = [&](Index n, auto rows, auto moves) {
          const T* const x[2] = {row_of(n), row_of(n + rows - 1)};
          T* const s[2] = {scores_of(n), scores_of(n + rows - 1)};
          simd::moved_scores<decltype(rows)::value, decltype(moves)::value>(i + 1, c_.row_, m_.moved, c_.row_, fade, x,
                                                                            s, m_.dots);
        };
        using One = std::integral_constant<int, 1>;
        using Two = std::integral_constant<int, 2>;
        const Index all = p_.group + before;
        Index n = std::min<Index>(all, 2);
        if (n == 2) {
          take(0, Two{}, std::true_type{});
        } else {
          take(0, One{}, std::true_type{});
        }
        for (; n + 2 <= all; n += 2) take(n, Two{}, std::false_type{});
        if (n < all) take(n, One{}, std::false_type{});
        for (n = before; n < all; ++n)
          std::fill(scores_of(n) + simd::whole<T>(i + 1), scores_of(n) + (end(first + i) - first), T(0));
      }
    }

    // Scores of the rows x of a block with the keys of earlier blocks; to = x e^b.
    void score_before(Index first, Index count, const T* x, Index x_stride, T* to, T* s) {
      const Index row = c_.row_;
      for (Index i = 0; i < count; ++i) {
        const T* const from = x + (first + i) * x_stride;
        for (Index d = 0; d < row; d += simd::lanes<T>) {
          const auto from_block = simd::load(from + d) * simd::load(m_.prefix + i * row + d);
          simd::store(m_.decayed + i * row + d, from_block);
          simd::store(to + (first + i) * row + d, from_block * simd::load(m_.start + d));
        }
      }
      if (first > 0)
        simd::multiply<simd::Onto::nothing>(count, first, c_.depth_, m_.decayed, row, m_.columns, c_.keys_,
                                            s + first * c_.keys_, c_.keys_);
    }

    void copy_values(const T* v, Index stride, Index n) {
      for (Index t = 0; t < n; ++t) {
        T* const to = m_.values + t * width_;
        simd::copy(to, v + t * stride, part_.size());
        std::fill(to + part_.size(), to + width_, T(0));
      }
    }

    // U in place of the values.
    void correct(Span tokens, const T* k, Index k_stride) {
      const Index n = tokens.size();
      T* const u = m_.values;
      simd::multiply<simd::Onto::nothing>(n, width_, c_.depth_, k, k_stride, m_.state, width_, u, width_);
      for (Index i = 0; i < n; ++i) {
        const T beta = pass_.write.beta(batch_, kv_head_, tokens.first + i);
        const simd::Pack<T> strength(beta), fade(by_token ? m_.from_start[i] : T(1));
        const T* const v = p_.v.row(batch_, kv_head_, tokens.first + i) + part_.first;
        T* const to = u + i * width_;
        const auto wanted = [&](Index c) {
          return c + simd::lanes<T> <= part_.size() ? simd::load(v + c) : simd::load_some(v + c, part_.size() - c);
        };
        for (Index c = 0; c < width_; c += simd::lanes<T>)
          simd::store(to + c, strength * (wanted(c) - fade * simd::load(to + c)));
        for (Index j = 0; j < i; ++j) m_.corrections[i * c_.keys_ + j] *= beta;
      }
      simd::solve_unit_lower(n, width_, m_.corrections, c_.keys_, u, width_, m_.ones);
    }

    // Outputs of a chunk.
    void read(Span tokens, const T* v, Index v_stride) {
      const Index n = tokens.size();
      const T* const shrink = by_token ? m_.from_start : m_.ones;
      for (Index h = 0; h < p_.group; ++h) {
        const Index head = kv_head_ * p_.group + h;
        T* const out = direct_ ? p_.out.row(batch_, head, tokens.first) + part_.first : m_.out;
        const Index stride = direct_ ? p_.out.length_stride : width_;
        const auto read_rows = [&](bool strict) {
          simd::each_band(n, [&](Index i, auto count) {
            ask_for_more();
            simd::multiply_rows<decltype(count)::value, simd::Onto::nothing>(
                width_, c_.depth_, queries(h) + i * c_.row_, c_.row_, m_.state, width_, out + i * stride, stride);
          });
          simd::multiply_lower(n, width_, scores(h), c_.keys_, v, v_stride, out, stride, shrink, strict);
        };
        read_rows(false);
        // The last row meets every value of the chunk. Unless it is finite, one of them may not be, and the rows before
        // that one must not meet it, not even with a weight of zero.
        if (!simd::all_finite(out + (n - 1) * stride, width_)) read_rows(true);
        if (c_.divides_) sum_weights_of(h, n);
        for (Index t = 0; (c_.divides_ || !direct_) && t < n; ++t) {
          pass_.finish(out + t * stride, part_.size(), c_.divides_ ? m_.divisors[t] : T(1),
                       p_.out.row(batch_, head, tokens.first + t) + part_.first);
        }
      }
    }

    // What the outputs of a head are divided by: shrink q . (sum of the features before) + the sum of a row of P.
    void sum_weights_of(Index h, Index n) {
      simd::dot_rows(1, m_.sums, c_.row_, n, queries(h), c_.row_, c_.depth_, m_.divisors, c_.keys_);
      for (Index i = 0; i < n; ++i) {
        const T* const row = scores(h) + i * c_.keys_;  // zero behind i
        m_.divisors[i] =
            (by_token ? m_.from_start[i] : T(1)) * m_.divisors[i] + simd::total(row, simd::whole<T>(i + 1));
      }
    }

    // The sums of the features after a chunk.
    void remember_sums(Index n, const T* k, Index k_stride) {
      if constexpr (by_channel || by_token) {
        for (Index d = 0; d < c_.depth_; ++d)  // the columns have decayed to the end of the chunk
          m_.sums[d] = m_.sums[d] * m_.shrink[d] + simd::total(m_.columns + d * c_.keys_, n);
      } else {
        simd::add_rows(n, c_.depth_, k, k_stride, m_.sums);
      }
    }

    // The state after a chunk.
    void remember(Index n, const T* v, Index v_stride) {
      if constexpr (by_token) {
        const T* const to_end = m_.weights + (n - 1) * c_.keys_;
        for (Index d = 0; d < c_.depth_; ++d) {
          T* const column = m_.columns + d * c_.keys_;
          for (Index j = 0; j < n; j += simd::lanes<T>)
            simd::store(column + j, simd::load(column + j) * simd::load(to_end + j));
        }
        std::fill_n(m_.shrink, c_.depth_, m_.from_start[n - 1]);
      }
      simd::each_band(c_.depth_, [&](Index d, auto count) {
        ask_for_more();
        simd::multiply_rows<decltype(count)::value, simd::Onto::shrunk_sum>(
            width_, n, m_.columns + d * c_.keys_, c_.keys_, v, v_stride, m_.state + d * width_, width_, m_.shrink + d);
      });
    }

    void read_state() {
      std::fill_n(m_.state, c_.depth_ * width_, T(0));
      if (c_.divides_) std::fill_n(m_.sums, c_.row_, T(0));
      if (pass_.state.data == nullptr) return;
      for (Index d = 0; d < c_.depth_; ++d) {
        const T* const from = pass_.state.row(batch_, kv_head_, d);
        simd::copy(m_.state + d * width_, from + part_.first, part_.size());
        if (c_.divides_) m_.sums[d] = from[pass_.value_dim];
      }
    }

    void write_state() {
      if (pass_.state.data == nullptr) return;
      for (Index d = 0; d < c_.depth_; ++d) {
        T* const to = pass_.state.row(batch_, kv_head_, d);
        simd::copy(to + part_.first, m_.state + d * width_, part_.size());
        if (c_.divides_ && part_.last == pass_.value_dim) to[pass_.value_dim] = m_.sums[d];
      }
    }

    const Chunks& c_;
    const LinearPass<T, Feature, Decay, Write>& pass_;
    const Problem<T>& p_;
    Memory m_;
    Index batch_, kv_head_;
    Span part_;    // value columns
    Index width_;  // of a row of values, in whole vectors
    bool direct_;  // values are read and outputs written where they lie
    Span soon_;    // tokens of the next chunk that are not asked for yet
  };

  const LinearPass<T, Feature, Decay, Write>& pass_;
  Index length_;  // tokens of a chunk
  Index depth_;   // rows of the state
  Index keys_;    // a row of scores
  Index row_;     // a row of features
  Index parts_;   // pieces of the value columns
  bool divides_;
  Index width_ = 0;  // the widest row of values
};

// q, k, v, out of the problem with N = M; the state may be null; chunk is 1 at least.
template <class T, class F, class D, class W, exec::Executor Exec = exec::Serial>
void chunk(const Problem<T>& problem, std::type_identity_t<MatrixState<T>>* state, const LinearRecipe<F, D, W>& recipe,
           Index chunk = default_chunk, const Exec& executor = {}) {
  check(chunk > 0, problem.where, "chunk must be positive, got ", chunk);
  const auto pass = bind_linear(problem, state, recipe);
  Chunks(pass, chunk, exec::concurrency(executor)).run(executor);
}

}  // namespace fovea::inline FOVEA_ISA::engine

// fovea/simd/recurrence.hpp

// One token of a linear recurrence on a state S [depth x columns] in memory: fade, write, read.
//
//   S = fade S + k u^T    o = S^T q    u = v, or beta (v - (fade S)^T k)
//
// A column of the state takes part in nothing but its own sums, so a result does not depend on how columns are cut.

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

// fovea/engine/recur.hpp

// Runs a linear recipe token by token, as in decoding: the state is read and written once for each token.

namespace fovea::inline FOVEA_ISA::engine {

template <class T, class Feature, class Decay, class Write>
class Recurrence {
 public:
  explicit Recurrence(const LinearPass<T, Feature, Decay, Write>& pass)
      : pass_(pass), depth_(simd::whole<T>(pass.key_dim)), width_(whole_lines<T>(pass.columns())) {}

  template <class Exec>
  void run(const Exec& executor) const {
    const auto& p = pass_.problem;
    // Where outputs are divided, every part would need the last column.
    const Index parts = pass_.division.divides() ? 1 : pass_.parts(exec::concurrency(executor), grain);
    const double flops = double(p.q.length) * double(pass_.key_dim * width_) * double(4 + 2 * p.group) / double(parts);
    distribute<T>(executor, pass_.heads() * parts, flops, scratch_size(), [&](Index item, T* memory) {
      const Index head = item / parts;
      run_head(pass_.batch_of(head), pass_.kv_head_of(head), pass_.part(item % parts, parts, grain), memory);
    });
  }

 private:
  static constexpr Index grain = Index(scratch_alignment / sizeof(T));  // columns that begin on a cache line
  static constexpr auto kind = Decay::kind;
  static constexpr simd::Fade fade = kind == decay::Kind::none          ? simd::Fade::none
                                     : kind == decay::Kind::per_channel ? simd::Fade::rows
                                                                        : simd::Fade::one;

  Index scratch_size() const {
    const Index state = pass_.state.data == nullptr ? whole_lines<T>(pass_.key_dim * width_) : 0;
    return state + 2 * whole_lines<T>(depth_) + whole_lines<T>(pass_.problem.group * depth_) + whole_lines<T>(width_) +
           whole_lines<T>(pass_.problem.group * width_);
  }

  void run_head(Index batch, Index kv_head, Span values, T* memory) const {
    const auto& p = pass_.problem;
    Carve<T> carve(memory);
    T* const state =
        pass_.state.data == nullptr ? carve(pass_.key_dim * width_) : pass_.state.row(batch, kv_head, 0) + values.first;
    T* const factors = carve(depth_);
    T* const k = carve(depth_);
    T* const q = carve(p.group * depth_);
    T* const v = carve(width_);
    T* const out = carve(p.group * width_);
    if (pass_.state.data == nullptr) std::fill_n(state, pass_.key_dim * width_, T(0));
    std::fill_n(v, width_, T(0));
    if (pass_.division.divides()) v[values.size()] = T(1);

    const Index columns = simd::whole<T>(values.size() + pass_.division.divides());
    for (Index t = 0; t < p.q.length; ++t) {
      pass_.features.template operator()<feature::Side::key>(p.k.row(batch, kv_head, t), p.k.length_stride, 1, k,
                                                             depth_, Row{batch, kv_head, t});
      for (Index i = 0; i < p.group; ++i) {
        const Index head = kv_head * p.group + i;
        pass_.features.template operator()<feature::Side::query>(p.q.row(batch, head, t), p.q.length_stride, 1,
                                                                 q + i * depth_, depth_, Row{batch, head, t});
        simd::scale(q + i * depth_, pass_.key_dim, pass_.scale);
      }
      simd::copy(v, p.v.row(batch, kv_head, t) + values.first, values.size());
      forget(batch, kv_head, t, factors);
      T beta = 0;
      if constexpr (Write::corrects) beta = pass_.write.beta(batch, kv_head, t);
      simd::recur<fade, Write::corrects>(pass_.key_dim, columns, state, width_,
                                         simd::Token<T>{factors, k, v, beta, q, depth_, p.group, out, width_});
      for (Index i = 0; i < p.group; ++i) {
        const T* sums = out + i * width_;
        pass_.finish(sums, values.size(), pass_.division.divides() ? sums[values.size()] : T(1),
                     p.out.row(batch, kv_head * p.group + i, t) + values.first);
      }
    }
  }

  // e^g of a token.
  void forget(Index batch, Index kv_head, Index token, T* factors) const {
    if constexpr (kind == decay::Kind::per_head) {
      if (token == 0) factors[0] = T(std::exp(pass_.decay.log_decay(kv_head)));
    } else if constexpr (kind == decay::Kind::per_token) {
      factors[0] = std::exp(pass_.decay.log_gate(batch, kv_head, token));
    } else if constexpr (kind == decay::Kind::per_channel) {
      const simd::PowerUnit<T> unit(simd::log2_e);
      simd::copy(factors, pass_.decay.log_gates(batch, kv_head, token), pass_.key_dim);
      simd::transform(factors, pass_.key_dim, [&](simd::Pack<T> g, Index) { return simd::exp2_weight<T>(g, unit); });
    }
  }

  const LinearPass<T, Feature, Decay, Write>& pass_;
  Index depth_;  // of a row of features in scratch
  Index width_;  // of a row of the state
};

// q, k, v, out of the problem with N = M; the state may be null.
template <class T, class F, class D, class W, exec::Executor Exec = exec::Serial>
void recur(const Problem<T>& problem, std::type_identity_t<MatrixState<T>>* state, const LinearRecipe<F, D, W>& recipe,
           const Exec& executor = {}) {
  const auto pass = bind_linear(problem, state, recipe);
  Recurrence(pass).run(executor);
}

}  // namespace fovea::inline FOVEA_ISA::engine

// fovea/parts/decay/per_token.hpp

// One log decay for each token and kv head: S_t = e^g_t S_{t-1} + ...

namespace fovea::inline FOVEA_ISA::decay {

template <class T>
struct BoundPerToken {
  static constexpr Kind kind = Kind::per_token;

  View<const T> gates;

  T log_gate(Index batch, Index kv_head, Index token) const { return *gates.row(batch, kv_head, token); }
};

template <class U>
struct PerToken {
  View<const U> gates;

  template <class T>
  BoundPerToken<T> bind(const char* where, const Shape& shape, Index /*width*/) const {
    static_assert(std::is_same_v<T, U>, "fovea: log gates must have the scalar type of q");
    detail::check_gates(where, gates, shape, 1);
    return {gates};
  }
};

// log_gate [B,G,N], or a vector [N] beside matrices: the user's memory.
template <class X>
auto per_token(const X& log_gate) {
  const auto gates = row_values(log_gate);
  return PerToken<std::remove_const_t<std::remove_pointer_t<decltype(gates.data)>>>{gates};
}

}  // namespace fovea::inline FOVEA_ISA::decay

// fovea/parts/feature/exponential.hpp

// Maps that are exponentials of something, kept within the range of numbers by shifts of the exponents:
//
//   phi(q_i) = factor (e^(y(q_i) - a_i) + added)     a_i the largest exponent of the token
//   phi(k_j) = factor (e^(y(k_j) - b_j) + added)     b_j from outside; zero when there is none
//
// The shift of a query cancels in a quotient of sums, up to what is added. That of a key weighs the key: it must be the
// same for all keys, or whoever sums must shrink what was summed with another shift. engine/kernelised.hpp does both.

namespace fovea::inline FOVEA_ISA::feature {

// Whether keys of the map want a shift: the map is an exponential.
template <class F>
constexpr bool wants_shift() {
  if constexpr (requires { F::exponential; }) {
    return F::exponential;
  } else {
    return false;
  }
}

// Exponents is a bound map to y; or to rows p with y = unit() p - offset(x), unit() not negative.
template <class T, class Exponents>
struct BoundExponential {
  static constexpr bool affine = requires(const Exponents& e, const T* x) { e.unit(), e.offset(x); };

  Exponents exponents;
  T factor = T(1);
  T added = T(0);
  View<const T> shift = {};  // b [B,G,M,1]

  Index width() const { return exponents.width(); }

  template <Side side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row first) const {
    constexpr bool as_they_are = std::is_same_v<Exponents, BoundIdentity<T>>;
    if constexpr (!as_they_are) exponents.template operator()<side>(x, stride, count, to, to_stride, first);
    const Index n = width();
    const simd::Pack<T> f(factor), constant(factor * added), times(unit());
    for (Index i = 0; i < count; ++i) {
      T* const row = to + i * to_stride;
      const T* const from = as_they_are ? x + i * stride : row;
      T taken = T(0);  // from unit p; the offset of a query is part of its shift
      if constexpr (side == Side::query) {
        taken = simd::largest(from, n) * unit();
      } else {
        if (shift.data != nullptr) taken = *shift.row(first.batch, first.head, first.query + i);
        if (taken == -simd::infinity<T>) taken = T(0);
        taken += offset(x + i * stride);
      }
      if (taken == -simd::infinity<T>) taken = T(0);
      const simd::Pack<T> least(-taken);
      simd::map_row(from, n, row, [=](simd::Pack<T> p) {
        return fma(simd::exp<T>(affine ? fma(p, times, least) : p + least), f, constant);
      });
    }
  }

  // most[i] = the largest exponent of key i; scratch has count rows, scratch_stride apart, for the exponents.
  void largest_exponents(const T* x, Index stride, Index count, T* scratch, Index scratch_stride, Row first,
                         T* most) const {
    constexpr bool as_they_are = std::is_same_v<Exponents, BoundIdentity<T>>;
    if constexpr (!as_they_are)
      exponents.template operator()<Side::key>(x, stride, count, scratch, scratch_stride, first);
    for (Index i = 0; i < count; ++i) {
      const T* const row = as_they_are ? x + i * stride : scratch + i * scratch_stride;
      most[i] = simd::largest(row, width()) * unit() - offset(x + i * stride);
    }
  }

 private:
  T unit() const {
    if constexpr (affine) {
      return exponents.unit();
    } else {
      return T(1);
    }
  }
  T offset(const T* x) const {
    if constexpr (affine) {
      return exponents.offset(x);
    } else {
      return T(0);
    }
  }
};

// An exponential with shifts b [B,G,M,1] of its keys.
template <class Phi, class T>
struct Shifted {
  Phi inner;
  View<const T> shift;

  template <class Scalar>
  auto bind(const char* where, const Shape& shape, Index dim) const {
    auto bound = inner.template bind<Scalar>(where, shape, dim);
    bound.shift = shift;
    return bound;
  }
};

template <class Phi, class T>
Shifted<Phi, T> shifted(const Phi& phi, View<const T> shift) {
  static_assert(wants_shift<Phi>(), "fovea: only exponential feature maps take a shift");
  return {phi, shift};
}

}  // namespace fovea::inline FOVEA_ISA::feature

// fovea/parts/state/shifted_state.hpp

// The memory of a kernelised method whose features are exponentials: the matrix of MatrixState, divided by e^b, and the
// shift b of each batch and kv head, the largest exponent of the keys so far. The caller's own; it goes on where the
// last call ended.

namespace fovea::inline FOVEA_ISA {

template <class T>
struct ShiftedState {
  MatrixState<T> matrix = {};
  std::vector<T> shift = {};  // [B x G], -infinity where there were no keys yet; empty while the matrix is

  bool empty() const { return matrix.empty() && shift.empty(); }
};

template <class Out, class T>
struct WithShiftedState {
  Out& out;
  ShiftedState<T>& state;
};

// An output together with the state that a call starts from and leaves behind.
template <class Out, class T>
WithShiftedState<std::remove_reference_t<Out>, T> with_state(Out&& out, ShiftedState<T>& state) {
  return {out, state};
}

namespace state {

namespace detail {
template <class X>
inline constexpr bool has_shifted_state = false;
template <class Out, class T>
inline constexpr bool has_shifted_state<WithShiftedState<Out, T>> = true;
}  // namespace detail

// The output alone, with a state of either kind or without.
template <class Out>
auto& plain_output(Out& out) {
  if constexpr (detail::has_shifted_state<std::remove_cv_t<Out>>) {
    return out.out;
  } else {
    return output(out);
  }
}

// The state that came with the output, or null: a ShiftedState when `shifted`, else a MatrixState.
template <class T, bool shifted, class Out>
auto kernelised(Out& out) {
  constexpr bool has_shifted = detail::has_shifted_state<std::remove_cv_t<Out>>;
  static_assert(shifted || !has_shifted, "fovea: this feature map takes a MatrixState");
  static_assert(!shifted || !detail::has_state<std::remove_cv_t<Out>>,
                "fovea: an exponential feature map takes a ShiftedState");
  if constexpr (has_shifted) {
    static_assert(std::is_same_v<decltype(&out.state), ShiftedState<T>*>,
                  "fovea: a state must have the scalar type of q");
    return &out.state;
  } else if constexpr (shifted) {
    return static_cast<ShiftedState<T>*>(nullptr);
  } else {
    return of<T>(out);
  }
}

// Refuses a state that a call of this shape has not left behind; one of no shape yet is let pass.
template <class T>
void check_shape(const char* where, const ShiftedState<T>& state, const Extents& wanted, bool sums) {
  if (state.empty()) return;
  check_shape(where, state.matrix, wanted, sums);
  check(Index(state.shift.size()) == wanted.batch * wanted.heads, where,
        "the state must have one shift for each batch and head of k, wanted ", wanted.batch * wanted.heads, ", got ",
        Index(state.shift.size()));
}

}  // namespace state

}  // namespace fovea::inline FOVEA_ISA

// fovea/engine/kernelised.hpp

// Kernelised attention with any feature map, all keys at once or causal:
//
//   kernelised           every query sees every key
//   causal_kernelised    query i sees the keys j <= i + M - N, with the engine of the caller's choice
//
// What the engines themselves leave open is settled here: the keys before the first query, the queries before the first
// key, and the shifts of exponential maps. A shift b_j is the largest exponent of the keys that may be known: of all
// keys, or of those up to j. What was summed under an older shift shrinks by e^(b_{j-1} - b_j): a decay for each token.

namespace fovea::inline FOVEA_ISA::engine {

// Shifts of the keys of a call [B,G,M] and the decays that go with them.
template <class T>
class KeyShift {
 public:
  // The largest exponent of every key by itself.
  template <class Bound, class Exec>
  KeyShift(const Bound& phi, const View<const T>& k, const Exec& executor)
      : extents_{k.batch, k.heads, k.length, 1},
        shifts_(allocate_scratch<T>(std::max<Index>(k.batch * k.heads * k.length, 1))) {
    const Index stride = simd::whole<T>(phi.width()), blocks = (k.length + step - 1) / step;
    distribute<T>(executor, k.batch * k.heads * blocks, 2.0 * double(step * k.dim * phi.width()), step * stride,
                  [&](Index item, T* memory) {
                    const Index head = item / blocks, first = item % blocks * step;
                    const Row row{head / k.heads, head % k.heads, first};
                    phi.largest_exponents(k.row(row.batch, row.head, first), k.length_stride,
                                          std::min(step, k.length - first), memory, stride, row, at(head, first));
                  });
  }

  // The largest exponent of keys [0, last), as the shift of all of them, in a head that begins with `start`.
  T common(Index head, Index last, T start) {
    T most = start;
    for (Index j = 0; j < last; ++j) most = *at(head, j) > most ? *at(head, j) : most;
    std::fill_n(at(head, 0), last, most);
    return most;
  }

  // The largest exponent so far for keys [first, M) behind `start`, and the decays.
  T running(Index head, Index first, T start) {
    if (gates_ == nullptr)
      gates_ = allocate_scratch<T>(std::max<Index>(extents_.batch * extents_.heads * extents_.length, 1));
    T most = start;
    for (Index j = first; j < extents_.length; ++j) {
      T* const shift = at(head, j);
      const T before = most;
      if (*shift > most) most = *shift;
      *shift = most;
      // Before the first key there is nothing to shrink.
      gates_[head * extents_.length + j] = before == most || before == -simd::infinity<T> ? T(0) : before - most;
    }
    return most;
  }

  // Tokens [first, last).
  View<const T> shifts(Index first, Index last) const { return tokens(shifts_.get(), first, last); }
  View<const T> gates(Index first, Index last) const { return tokens(gates_.get(), first, last); }

 private:
  static constexpr Index step = 96;

  T* at(Index head, Index token) const { return shifts_.get() + head * extents_.length + token; }
  View<const T> tokens(const T* data, Index first, Index last) const {
    View<const T> result = view(data, extents_);
    result.data += first;
    result.length = last - first;
    return result;
  }

  Extents extents_;
  std::unique_ptr<T[], FreeScratch> shifts_, gates_;
};

namespace detail {

// What is checked before any of the engines runs, so that a refusal leaves all as it was. Gives the bound map.
template <class T, class F, class State>
auto bind_kernelised(const Problem<T>& problem, const State* state, const LinearRecipe<F>& recipe) {
  const bool sums = recipe.division.divides();
  check(!recipe.factor || std::isfinite(*recipe.factor), problem.where, "scale must be finite");
  check(!sums || !feature::has_signed_features<F>(), problem.where,
        "features that may be negative have no sum to divide by: the normalizer must be none");
  check(sums || !feature::wants_shift<F>(), problem.where,
        "exponential features are known up to a factor only: the normalizer must be sum_eps or clamp");
  recipe.division.check_for(problem.where);
  const auto phi = recipe.features.template bind<T>(problem.where, problem.shape(), problem.q.dim);
  if (state != nullptr)
    state::check_shape(problem.where, *state, {problem.k.batch, problem.k.heads, phi.width(), problem.v.dim}, sums);
  return phi;
}

// A state of no shape yet gets that of the call.
template <class T>
void shape_state(ShiftedState<T>& state, const Problem<T>& problem, Index width) {
  if (!state.empty()) return;
  state.matrix = MatrixState<T>(problem.k.batch, problem.k.heads, width, problem.v.dim, true);
  state.shift.assign(std::size_t(problem.k.batch * problem.k.heads), -simd::infinity<T>);
}

// The state of a head under a larger shift.
template <class T>
void shift_state(ShiftedState<T>& state, Index head, T shift) {
  const T before = std::exchange(state.shift[std::size_t(head)], shift);
  if (before == shift || before == -simd::infinity<T>) return;
  const T factor = std::exp(before - shift);
  const View<T> matrix = state.matrix.view();
  for (Index f = 0; f < matrix.length; ++f)
    simd::scale(matrix.row(head / matrix.heads, head % matrix.heads, f), matrix.dim, factor);
}

template <class X>
View<X> tokens(View<X> x, Index first, Index last) {
  x.data += first * x.length_stride;
  x.length = last - first;
  return x;
}

// Queries [q.first, q.last) with keys [k.first, k.last).
template <class T>
Problem<T> part(Problem<T> problem, Span q, Span k) {
  problem.q = tokens(problem.q, q.first, q.last);
  problem.out = tokens(problem.out, q.first, q.last);
  problem.k = tokens(problem.k, k.first, k.last);
  problem.v = tokens(problem.v, k.first, k.last);
  return problem;
}

}  // namespace detail

// The state is a MatrixState, a ShiftedState where phi is an exponential, or null: S_0 on entry, S on return.
template <class T, class State, class F, exec::Executor Exec>
void kernelised(const Problem<T>& problem, State* state, const LinearRecipe<F>& recipe, const Exec& executor) {
  const auto phi = detail::bind_kernelised(problem, state, recipe);
  if constexpr (!feature::wants_shift<F>()) {
    accumulate(problem, state, recipe, executor);
  } else {
    const Index heads = problem.k.batch * problem.k.heads, keys = problem.k.length;
    if (state != nullptr) detail::shape_state(*state, problem, phi.width());
    KeyShift<T> shift(phi, problem.k, executor);
    for (Index head = 0; head < heads; ++head) {
      const T most = shift.common(head, keys, state == nullptr ? -simd::infinity<T> : state->shift[std::size_t(head)]);
      if (state != nullptr) detail::shift_state(*state, head, most);
    }
    accumulate(problem, state == nullptr ? nullptr : &state->matrix,
               recipe.feature(feature::shifted(recipe.features, shift.shifts(0, keys))), executor);
  }
}

// The engines that causal_kernelised may run.
inline auto by_token() {
  return [](const auto& problem, auto* state, const auto& recipe, const auto& executor) {
    recur(problem, state, recipe, executor);
  };
}
inline auto by_chunk(Index length) {
  return [length](const auto& problem, auto* state, const auto& recipe, const auto& executor) {
    chunk(problem, state, recipe, length, executor);
  };
}

// run(problem, MatrixState*, recipe, executor) is by_token() or by_chunk(length).
template <class T, class State, class F, exec::Executor Exec, class Run>
void causal_kernelised(const Problem<T>& problem, State* state, const LinearRecipe<F>& recipe, const Exec& executor,
                       const Run& run) {
  const Index queries = problem.q.length, keys = problem.k.length;
  const Span early{0, std::max<Index>(queries - keys, 0)};   // queries before the first key
  const Span before{0, std::max<Index>(keys - queries, 0)};  // keys before the first query
  const auto late = detail::part(problem, {early.last, queries}, {before.last, keys});
  const auto phi = detail::bind_kernelised(problem, state, recipe);
  std::conditional_t<feature::wants_shift<F>(), ShiftedState<T>, MatrixState<T>> own;
  if (state == nullptr && !before.empty()) state = &own;
  if constexpr (!feature::wants_shift<F>()) {
    if (!early.empty()) accumulate(detail::part(problem, early, {0, 0}), state, recipe, executor);
    if (!before.empty()) accumulate(detail::part(problem, {0, 0}, before), state, recipe, executor);
    run(late, state, recipe, executor);
  } else {
    check(phi.added == T(0), problem.where, "causal exponential features take no epsilon, got ", double(phi.added));
    MatrixState<T>* matrix = nullptr;
    if (state != nullptr) {
      detail::shape_state(*state, problem, phi.width());
      matrix = &state->matrix;
    }
    if (!early.empty()) accumulate(detail::part(problem, early, {0, 0}), matrix, recipe, executor);
    KeyShift<T> shift(phi, problem.k, executor);
    for (Index head = 0; head < problem.k.batch * problem.k.heads; ++head) {
      T most = state == nullptr ? -simd::infinity<T> : state->shift[std::size_t(head)];
      most = shift.common(head, before.last, most);
      if (state != nullptr) detail::shift_state(*state, head, most);
      most = shift.running(head, before.last, most);
      if (state != nullptr) state->shift[std::size_t(head)] = most;
    }
    if (!before.empty()) {
      accumulate(detail::part(problem, {0, 0}, before), matrix,
                 recipe.feature(feature::shifted(recipe.features, shift.shifts(0, before.last))), executor);
    }
    run(late, matrix,
        recipe.feature(feature::shifted(recipe.features, shift.shifts(before.last, keys)))
            .decay(decay::per_token(shift.gates(before.last, keys))),
        executor);
  }
}

}  // namespace fovea::inline FOVEA_ISA::engine

// fovea/parts/mask/band.hpp

// A query sees the keys up to a distance from its position, on both sides.

namespace fovea::inline FOVEA_ISA::mask {

struct BoundBand : MonotoneInterval<BoundBand> {
  Index distance;
  Index offset;  // position of query 0

  BoundBand(Index farthest, Index first) : distance(farthest), offset(first) {}
  Span interval(Index query) const { return {query + offset - distance, query + offset + distance + 1}; }
};

struct Band {
  Index distance = 0;
  Alignment alignment = Alignment::bottom_right;

  BoundBand bind(const char* where, const Shape& shape) const {
    check(distance >= 0, where, "the distance must not be negative, got ", distance);
    return {std::min(distance, shape.queries + shape.keys), shape.offset(alignment)};  // no longer than any distance
  }
};

// Key j is seen by the query at position p when |p - j| <= distance. The own key does not count: 2 distance + 1 keys
// are seen, fewer at the ends. (A window counts it: causal() & window(w) is the lower half of band(w - 1).)
constexpr Band band(Index distance, Alignment alignment = Alignment::bottom_right) { return {distance, alignment}; }

}  // namespace fovea::inline FOVEA_ISA::mask

// fovea/parts/mask/document.hpp

// Packed sequences of different lengths: a query sees keys of its own sequence alone.

namespace fovea::inline FOVEA_ISA::mask {

// Where the sequences of a packed axis begin, and its length: cu_seqlens, [sequences + 1], from 0, never decreasing.
using Boundaries = std::vector<Index>;

template <BoundMask Inner>
class BoundDocument {
 public:
  BoundDocument(Boundaries queries, Boundaries keys, std::vector<Inner> inner)
      : all_(std::make_shared<const Content>(Content{std::move(queries), std::move(keys), std::move(inner)})) {}

  std::uint64_t seen(Row row, Span keys) const {
    const std::size_t d = document_of(row.query);
    const Index begin = all_->keys[d];
    const Span mine = intersect({begin, all_->keys[d + 1]}, keys);
    if (mine.empty()) return 0;
    const Row local{row.batch, row.head, row.query - all_->queries[d]};
    return all_->inner[d].seen(local, {mine.first - begin, mine.last - begin}) << (mine.first - keys.first);
  }

  Cover cover(const Region& region) const {
    if (region.queries.empty() || region.keys.empty()) return Cover::none;
    const std::size_t first = document_of(region.queries.first), last = document_of(region.queries.last - 1);
    const Span mine{all_->keys[first], all_->keys[last + 1]};
    if (intersect(mine, region.keys).empty()) return Cover::none;
    if (first != last) return Cover::part;
    const Span seen = intersect(mine, region.keys);
    const Index query = all_->queries[first], key = mine.first;
    const Cover inner = all_->inner[first].cover({region.batch,
                                                  region.heads,
                                                  {region.queries.first - query, region.queries.last - query},
                                                  {seen.first - key, seen.last - key}});
    return inner == Cover::full && !mine.contains(region.keys) ? Cover::part : inner;
  }

 private:
  struct Content {
    Boundaries queries, keys;
    std::vector<Inner> inner;  // one a document, bound to its own lengths
  };

  std::size_t document_of(Index query) const {
    const auto& begin = all_->queries;
    return std::size_t(std::upper_bound(begin.begin(), begin.end(), query) - begin.begin()) - 1;
  }

  std::shared_ptr<const Content> all_;
};

template <Mask Inner>
struct Document {
  Boundaries queries;
  Boundaries keys;
  Inner inner;

  auto bind(const char* where, const Shape& shape) const {
    check_boundaries(where, "queries", queries, shape.queries);
    check_boundaries(where, "keys", keys, shape.keys);
    check(queries.size() == keys.size(), where,
          "a document mask needs as many sequences of queries as of keys, wanted ", queries.size() - 1, ", got ",
          keys.size() - 1);
    using Bound = decltype(inner.bind(where, shape));
    std::vector<Bound> bound;
    bound.reserve(queries.size() - 1);
    for (std::size_t d = 0; d + 1 < queries.size(); ++d) {
      Shape local = shape;
      local.queries = queries[d + 1] - queries[d];
      local.keys = keys[d + 1] - keys[d];
      bound.push_back(inner.bind(where, local));
    }
    return BoundDocument<Bound>(queries, keys, std::move(bound));
  }

 private:
  static void check_boundaries(const char* where, const char* axis, const Boundaries& x, Index length) {
    check(!x.empty() && x.front() == 0, where, "the boundaries of the ", axis, " of a document mask must begin with 0");
    check(std::is_sorted(x.begin(), x.end()), where, "the boundaries of the ", axis,
          " of a document mask must not decrease");
    check(x.back() == length, where, "the boundaries of the ", axis, " of a document mask must end with their number, ",
          "wanted ", length, ", got ", x.back());
  }
};

// Query i sees key j when both lie in the same sequence and `inner` says so, with indices, lengths and alignment local
// to the sequence: document(cu_q, cu_k, causal()) is causal attention of packed sequences.
template <Mask Inner = Everything>
Document<Inner> document(Boundaries queries, Boundaries keys, Inner inner = {}) {
  return {std::move(queries), std::move(keys), std::move(inner)};
}

// The same for self-attention: one packed axis.
inline Document<Everything> document(const Boundaries& boundaries) { return {boundaries, boundaries, {}}; }

template <Mask Inner>
Document<Inner> document(const Boundaries& boundaries, Inner inner) {
  return {boundaries, boundaries, std::move(inner)};
}

}  // namespace fovea::inline FOVEA_ISA::mask

// fovea/parts/permute/token_tree.hpp

// A tree over tokens, such as words in paragraphs in pages, and the order in which siblings lie side by side.

namespace fovea::inline FOVEA_ISA::permute {

// A plain object: make it once, keep it, copy it. Nodes 0, ..., tokens - 1 are the tokens, in the order of the
// sequence; the nodes behind them are groups, in any order. A group may hold tokens and groups, any of them and any
// number but none.
struct TokenTree {
  Index tokens = 0;
  std::vector<Index> parent{};  // [nodes] the group that a node lies in, -1 for the root

  // levels[0][i] is the group of token i, counted from 0; levels[1][g] the group of the next level that group g lies
  // in; and so on. The root holds the groups of the last level.
  static TokenTree from_levels(Index tokens, const std::vector<std::vector<Index>>& levels) {
    constexpr auto where = "fovea::permute::TokenTree::from_levels";
    check(tokens >= 0, where, "the number of tokens must not be negative, got ", tokens);
    TokenTree tree{tokens, {}};
    if (tokens == 0) return tree;
    Index first = tokens, below = tokens;  // of this level's groups; number of the nodes one level down
    for (const auto& level : levels) {
      check(Index(level.size()) == below, where, "a level must name a group for each node below it, wanted ", below,
            ", got ", level.size());
      Index groups = 0;
      for (const Index g : level) {
        check(g >= 0 && g < below, where, "a group must be one of at most ", below, ", got ", g);
        tree.parent.push_back(first + g);
        groups = std::max(groups, g + 1);
      }
      first += groups;
      below = groups;
    }
    tree.parent.insert(tree.parent.end(), std::size_t(below), first);
    tree.parent.push_back(-1);
    return tree;
  }

  // Windows of sizes[0] tokens, windows of sizes[1] of these, and so on; the last of each may be smaller.
  static TokenTree from_windows(Index tokens, const std::vector<Index>& sizes) {
    constexpr auto where = "fovea::permute::TokenTree::from_windows";
    std::vector<std::vector<Index>> levels;
    Index below = tokens;
    for (const Index size : sizes) {
      check(size > 0, where, "a window must hold at least one node, got ", size);
      levels.emplace_back();
      for (Index n = 0; n < below; ++n) levels.back().push_back(n / size);
      below = (below + size - 1) / size;
    }
    return from_levels(tokens, levels);
  }
};

// A tree laid out for work on whole families. The tokens of a group that holds nothing else are a leaf of it, and so is
// each other token.
struct TokenFamilies {
  struct Node {
    Index id;      // in the tree
    Index parent;  // in `nodes`, -1 for the root
    Index leaf;    // which leaf it is, -1 for an inner node
    Index size;    // tokens below it
  };

  std::vector<Index> order{};   // [tokens] the tokens, leaf by leaf
  std::vector<Index> leaves{};  // [leaves + 1] where each begins in `order`
  std::vector<Node> nodes{};    // breadth first: the root, its children, theirs, ...
  std::vector<Index> begin{};   // where the families begin in nodes[1], nodes[2], ..., and their end

  bool in_place() const { return std::is_sorted(order.begin(), order.end()); }

  // The layout of a tree over `tokens` tokens, or an ArgumentError in the name of `where`.
  TokenFamilies(const char* where, const TokenTree& tree, Index tokens) {
    const Index count = Index(tree.parent.size());
    const auto parent = [&](Index x) { return tree.parent[std::size_t(x)]; };
    check(tree.tokens == tokens, where, "the tree must have a leaf for each token, wanted ", tokens, ", got ",
          tree.tokens);
    check(count >= tokens, where, "the tree must name a parent for each token, wanted ", tokens, " at least, got ",
          count);
    leaves = begin = {0};
    if (count == 0) return;
    Index root = -1;
    std::vector<Index> children(std::size_t(count) + 1, 0);
    std::vector<bool> of_tokens(std::size_t(count), true);  // groups without a group in them
    for (Index x = 0; x < count; ++x) {
      if (parent(x) == -1) {
        check(root == -1, where, "the tree must have one root, got nodes ", root, " and ", x);
        root = x;
        continue;
      }
      check(parent(x) >= tokens && parent(x) < count, where, "a parent must be a group, wanted ", tokens, " to ",
            count - 1, ", got ", parent(x), " for node ", x);
      ++children[std::size_t(parent(x))];
      if (x >= tokens) of_tokens[std::size_t(parent(x))] = false;
    }
    check(root != -1, where, "the tree must have a root, a node with parent -1");
    for (Index x = tokens; x < count; ++x)
      check(children[std::size_t(x)] > 0, where, "a group must hold something, got none for node ", x);

    const auto leaf_of = [&](Index i) { return i != root && of_tokens[std::size_t(parent(i))] ? parent(i) : i; };
    std::vector<Index> leaf(std::size_t(count), -1);
    for (Index i = 0; i < tokens; ++i) {
      Index& mine = leaf[std::size_t(leaf_of(i))];
      if (mine < 0) {
        mine = Index(leaves.size()) - 1;
        leaves.push_back(0);
      }
      ++leaves[std::size_t(mine) + 1];
    }
    std::partial_sum(leaves.begin(), leaves.end(), leaves.begin());
    order.resize(std::size_t(tokens));
    auto next = leaves;
    for (Index i = 0; i < tokens; ++i) order[std::size_t(next[std::size_t(leaf[std::size_t(leaf_of(i))])]++)] = i;

    // Children of the inner nodes, node by node.
    const auto counts = [&](Index x) { return x != root && (x >= tokens || leaf[std::size_t(x)] >= 0); };
    std::vector<Index> first(std::size_t(count) + 1, 0);
    for (Index x = 0; x < count; ++x) {
      if (counts(x)) ++first[std::size_t(parent(x)) + 1];
    }
    std::partial_sum(first.begin(), first.end(), first.begin());
    std::vector<Index> child(std::size_t(first.back()));
    next = first;
    for (Index x = 0; x < count; ++x) {
      if (counts(x)) child[std::size_t(next[std::size_t(parent(x))]++)] = x;
    }

    nodes.push_back({root, -1, leaf[std::size_t(root)], 0});
    for (Index n = 0; n < Index(nodes.size()); ++n) {
      const Index id = nodes[std::size_t(n)].id;
      if (nodes[std::size_t(n)].leaf >= 0) continue;
      for (Index c = first[std::size_t(id)]; c < first[std::size_t(id) + 1]; ++c) {
        const Index x = child[std::size_t(c)];
        nodes.push_back({x, n, leaf[std::size_t(x)], 0});
      }
      begin.push_back(Index(nodes.size()) - 1);
    }
    check(nodes.size() == child.size() + 1, where, "every node must lie below the root, got ",
          child.size() + 1 - nodes.size(), " that do not");
    for (std::size_t n = nodes.size(); n-- > 0;) {
      Node& node = nodes[n];
      if (node.leaf >= 0) node.size = leaves[std::size_t(node.leaf) + 1] - leaves[std::size_t(node.leaf)];
      if (n > 0) nodes[std::size_t(node.parent)].size += node.size;
    }
  }
};

}  // namespace fovea::inline FOVEA_ISA::permute

// fovea/engine/tree_attention.hpp

// Attention over a tree of tokens: the tokens of a group attend to each other one by one, and to what lies outside the
// group as the other members of the families above do, by means over whole groups.
//
// Of the row-stochastic weights that are equal on every pair of sibling groups, those closest to softmax are found from
// the leaves up and given out from the root down. With mean queries and keys, s_BC = scale q_B . k_C of siblings,
//
//   F(leaf) = -mean of its tokens' log-sums       ln D_B = ln( exp(-F(B)) + sum_C |C| exp(s_BC) )
//   F(A)    = -sum_B |B| / |A| ln D_B
//   m(root) = 1, u(root) = 0                      m(B) = m(A) exp(-F(B)) / D_B
//   u(B)    = u(A) + m(A) / D_B sum_C exp(s_BC) (sum of the values of C)
//   o_i     = u(leaf of i) + m(leaf of i) (attention of i within its leaf)
//
// B and C run over the children of A, C not B. The two sums are attention with mean values, a bias ln |C| and the
// diagonal hidden; so both levels run on attend().

namespace fovea::inline FOVEA_ISA::engine {

// What joins the scores of siblings.
struct TreeScores {
  std::optional<double> scale = {};                       // 1 / sqrt(D) when empty
  bool gaussian = false;                                  // scores are -scale / 2 times squared distances
  std::function<double(Index from, Index to)> bias = {};  // added for siblings of the tree, a token and itself too
};

namespace detail {

// A number for each key, and the bias of two nodes of one family.
template <class U>
struct FamilyScores {
  View<const U> key_bias;  // [B or 1, H or 1, 1, M], or null
  const std::function<double(Index, Index)>* bias;
  const permute::TokenTree* tree;
  const Index* ids;  // [M] in the tree

  template <class T>
  auto bind(const char*, const Shape&) const {
    static_assert(std::is_same_v<T, U>);
    return [self = *this](T* scores, Row row, Span keys) {
      if (self.key_bias.data != nullptr) {
        const Index b = self.key_bias.batch == 1 ? 0 : row.batch, h = self.key_bias.heads == 1 ? 0 : row.head;
        simd::add(scores, self.key_bias.row(b, h, 0) + keys.first, keys.size());
      }
      if (!*self.bias) return;
      const Index from = self.ids[row.query], family = self.tree->parent[std::size_t(from)];
      for (Index j = keys.first; j < keys.last; ++j) {
        const Index to = self.ids[j];
        if (self.tree->parent[std::size_t(to)] == family) scores[j - keys.first] += T((*self.bias)(from, to));
      }
    };
  }
};

}  // namespace detail

template <class T>
class TreeAttention {
 public:
  // Self-attention: as many queries as keys, and as tokens in the tree.
  TreeAttention(const Problem<T>& problem, const permute::TokenTree& tree, const TreeScores& scores)
      : problem_(problem),
        tree_(tree),
        scores_(scores),
        families_(problem.where, tree, problem.q.length),
        scale_(scores.scale.value_or(1 / std::sqrt(double(problem.q.dim)))) {}

  template <class Exec>
  void run(const Exec& executor) const {
    const auto& q = problem_.q;
    if (q.batch == 0 || q.heads == 0 || q.length == 0) return;
    if (families_.nodes.size() == 1 && !modified()) return attend_leaves(problem_, executor);

    Leaves leaves(problem_, families_.in_place());
    if (!families_.in_place()) gather(leaves, executor);
    attend_leaves(leaves.problem, executor);
    Groups groups(problem_, Index(families_.nodes.size()) - 1);
    if (groups.count > 0) {
      pool(leaves.problem, groups, executor);
      attend_groups(groups, executor);
      sweep(leaves.problem, groups, executor);
    }
    finish(leaves.problem, groups, executor);
  }

 private:
  using Node = permute::TokenFamilies::Node;

  // Tokens leaf by leaf: the arrays of the call where they lie so, else copies.
  struct Leaves {
    std::vector<T> q, k, v, out, log_sum;
    Problem<T> problem;

    Leaves(const Problem<T>& of, bool in_place) : problem(of) {
      log_sum.resize(std::size_t(of.q.batch * of.q.heads * of.q.length));
      problem.log_sum = view(log_sum.data(), {of.q.batch, of.q.heads, of.q.length, 1});
      if (in_place) return;
      const auto copy = [](std::vector<T>& to, const auto& x) {
        to.resize(std::size_t(x.batch * x.heads * x.length * x.dim));
        return view(to.data(), x.extents());
      };
      problem.q = copy(q, of.q);
      problem.k = copy(k, of.k);
      problem.v = copy(v, of.v);
      problem.out = copy(out, of.out);
    }
  };

  // The nodes below the root, in their order: means, and what they see of their siblings.
  struct Groups {
    Index count;
    std::vector<T> q, k, v, out, log_sum;  // [B,H,count,D], [B,G,count,D], [B,G,count,E], [B,H,count,E], [B,H,count]
    std::vector<double> log_mass;          // [B,H,count] ln m
    Problem<T> problem;

    Groups(const Problem<T>& of, Index nodes) : count(nodes), problem(of) {
      const auto make = [&](std::vector<T>& to, const auto& x, Index dim) {
        to.resize(std::size_t(x.batch * x.heads * count * dim));
        return view(to.data(), {x.batch, x.heads, count, dim});
      };
      problem.q = make(q, of.q, of.q.dim);
      problem.k = make(k, of.k, of.k.dim);
      problem.v = make(v, of.v, of.v.dim);
      problem.out = make(out, of.q, of.v.dim);
      problem.log_sum = make(log_sum, of.q, 1);
      log_mass.resize(log_sum.size());
    }
  };

  bool modified() const { return scores_.gaussian || scores_.bias; }
  Index leaf_count() const { return Index(families_.leaves.size()) - 1; }
  Span leaf(Index n) const { return {families_.leaves[std::size_t(n)], families_.leaves[std::size_t(n) + 1]}; }
  const Node& node(Index n) const { return families_.nodes[std::size_t(n)]; }

  // Calls f(batch, head, first, last) for pieces [first, last) of `count` things of each head.
  template <class Exec, class F>
  static void each_piece(const Exec& executor, Index batch, Index heads, Index count, double flops, F&& f) {
    const Index pieces = std::min<Index>(count, 16);
    distribute<T>(executor, batch * heads * pieces, flops / double(pieces), 0, [&](Index item, T*) {
      const Index piece = item % pieces, head = item / pieces % heads;
      f(item / pieces / heads, head, count * piece / pieces, count * (piece + 1) / pieces);
    });
  }

  template <class Exec>
  void gather(Leaves& leaves, const Exec& executor) const {
    const auto take = [&](const View<const T>& from, T* to) {
      each_piece(executor, from.batch, from.heads, from.length, double(from.length * from.dim),
                 [&](Index b, Index h, Index first, Index last) {
                   T* const rows = to + (b * from.heads + h) * from.length * from.dim;
                   for (Index i = first; i < last; ++i)
                     simd::copy(rows + i * from.dim, from.row(b, h, families_.order[std::size_t(i)]), from.dim);
                 });
    };
    take(problem_.q, leaves.q.data());
    take(problem_.k, leaves.k.data());
    take(problem_.v, leaves.v.data());
  }

  template <class Exec>
  void attend_leaves(const Problem<T>& problem, const Exec& executor) const {
    const auto recipe = softmax(scale_).mask(mask::document(families_.leaves));
    if (!modified()) {
      const Index alike = leaves_alike();
      if (alike < leaf_count() - 1 || leaf_count() == 1) return attend(problem, recipe, executor);
      for (Index b = 0; b < problem.q.batch; ++b) {
        attend(as_batch(problem, b, 0, alike), softmax(scale_), executor);
        if (alike < leaf_count()) attend(as_batch(problem, b, alike, 1), softmax(scale_), executor);
      }
      return;
    }
    std::vector<T> squares;
    detail::FamilyScores<T> scores{{}, &scores_.bias, &tree_, families_.order.data()};
    if (scores_.gaussian) {
      squares.resize(std::size_t(problem.q.batch * problem.q.heads * problem.q.length));
      const auto table = view(squares.data(), {problem.q.batch, problem.q.heads, 1, problem.q.length});
      each_head(problem, [&](Index b, Index h, Index g) {
        for (Index j = 0; j < problem.k.length; ++j) table.row(b, h, 0)[j] = T(square_bias(problem.k.row(b, g, j)));
      });
      scores.key_bias = table;
    }
    attend(problem, recipe.score(scores), executor);
  }

  // How many leaves, from the first on, have its size.
  Index leaves_alike() const {
    Index n = 1;
    while (n < leaf_count() && leaf(n).size() == leaf(0).size()) ++n;
    return n;
  }

  // `count` leaves of equal size as a batch of short sequences: quicker than as documents when they are short.
  Problem<T> as_batch(const Problem<T>& problem, Index batch, Index first, Index count) const {
    Problem<T> part = problem;
    const Span tokens = leaf(first);
    const auto cut = [&](auto& x) {
      x.data = x.row(batch, 0, tokens.first);
      x.batch = count;
      x.length = tokens.size();
      x.batch_stride = tokens.size() * x.length_stride;
    };
    cut(part.q);
    cut(part.k);
    cut(part.v);
    cut(part.out);
    cut(part.log_sum);
    return part;
  }

  template <class F>
  void each_head(const Problem<T>& problem, F&& f) const {
    for (Index b = 0; b < problem.q.batch; ++b) {
      for (Index h = 0; h < problem.q.heads; ++h) f(b, h, h / problem.group);
    }
  }

  double square_bias(const T* k) const {
    double sum = 0;
    for (Index d = 0; d < problem_.k.dim; ++d) sum += double(k[d]) * double(k[d]);
    return -scale_ / 2 * sum;
  }

  // Means over all tokens below each node.
  template <class Exec>
  void pool(const Problem<T>& leaves, Groups& groups, const Exec& executor) const {
    const auto pool_one = [&](const View<const T>& x, T* means) {
      const auto row = [&](Index b, Index h, Index n) {
        return means + ((b * x.heads + h) * groups.count + n - 1) * x.dim;
      };
      std::fill(means, means + x.batch * x.heads * groups.count * x.dim, T(0));
      each_piece(executor, x.batch, x.heads, groups.count, double(x.length * x.dim),
                 [&](Index b, Index h, Index first, Index last) {
                   for (Index n = first + 1; n <= last; ++n) {
                     if (node(n).leaf < 0) continue;
                     const Span tokens = leaf(node(n).leaf);
                     for (Index i = tokens.first; i < tokens.last; ++i) simd::add(row(b, h, n), x.row(b, h, i), x.dim);
                   }
                 });
      distribute<T>(executor, x.batch * x.heads, double(groups.count * x.dim), 0, [&](Index item, T*) {
        const Index b = item / x.heads, h = item % x.heads;
        for (Index n = groups.count; n > 0; --n) {
          if (node(n).parent > 0) simd::add(row(b, h, node(n).parent), row(b, h, n), x.dim);
          simd::scale(row(b, h, n), x.dim, T(1) / T(node(n).size));
        }
      });
    };
    pool_one(leaves.q, groups.q.data());
    pool_one(leaves.k, groups.k.data());
    pool_one(leaves.v, groups.v.data());
  }

  template <class Exec>
  void attend_groups(const Groups& groups, const Exec& executor) const {
    std::vector<Index> ids;
    for (Index n = 1; n <= groups.count; ++n) ids.push_back(node(n).id);
    const Index batch = scores_.gaussian ? problem_.q.batch : 1, heads = scores_.gaussian ? problem_.q.heads : 1;
    std::vector<T> bias(std::size_t(batch * heads * groups.count));
    const auto table = view(bias.data(), {batch, heads, 1, groups.count});
    for (Index b = 0; b < batch; ++b) {
      for (Index h = 0; h < heads; ++h) {
        for (Index n = 0; n < groups.count; ++n) table.row(b, h, 0)[n] = T(std::log(double(node(n + 1).size)));
        if (scores_.gaussian) add_mean_squares(b, h, groups.count, table.row(b, h, 0));
      }
    }
    const auto recipe = softmax(scale_).mask(mask::document(families_.begin) & !mask::band(0));
    attend(groups.problem, recipe.score(detail::FamilyScores<T>{table, &scores_.bias, &tree_, ids.data()}), executor);
  }

  void add_mean_squares(Index b, Index h, Index count, T* bias) const {
    std::vector<double> sums(std::size_t(count) + 1, 0.0);
    for (Index n = count; n > 0; --n) {
      double& sum = sums[std::size_t(n)];
      if (node(n).leaf >= 0) {
        const Span tokens = leaf(node(n).leaf);
        for (Index i = tokens.first; i < tokens.last; ++i)
          sum += square_bias(problem_.k.row(b, h / problem_.group, families_.order[std::size_t(i)]));
      }
      sums[std::size_t(node(n).parent)] += sum;
      bias[n - 1] += T(sum / double(node(n).size));
    }
  }

  // From the leaves up, then from the root down: the log-mass of each node, and u in place of what it sees.
  template <class Exec>
  void sweep(const Problem<T>& leaves, Groups& groups, const Exec& executor) const {
    const Index heads = problem_.q.heads, count = groups.count, dim = problem_.v.dim;
    std::vector<double> work(std::size_t(problem_.q.batch * heads * 2 * (count + 1)));
    distribute<T>(executor, problem_.q.batch * heads, double(count * dim + problem_.q.length), 0, [&](Index item, T*) {
      const T* const log_sums = leaves.log_sum.row(item / heads, item % heads, 0);
      const T* const seen = groups.log_sum.data() + item * count - 1;  // of node n at n
      double* const log_mass = groups.log_mass.data() + item * count - 1;
      double* const energy = work.data() + item * 2 * (count + 1);
      double* const log_total = energy + count + 1;
      std::fill(energy, energy + count + 1, 0.0);
      for (Index n = count; n >= 0; --n) {
        if (node(n).leaf >= 0) {
          const Span tokens = leaf(node(n).leaf);
          for (Index i = tokens.first; i < tokens.last; ++i) energy[n] -= double(log_sums[i]);
        }
        energy[n] /= double(node(n).size);
        if (n == 0) break;
        const double own = -energy[n], others = double(seen[n]);
        const double more = std::max(own, others), less = std::min(own, others);
        log_total[n] = more + std::log1p(std::exp(less - more));
        energy[node(n).parent] -= double(node(n).size) * log_total[n];
      }
      T* const out = groups.out.data() + (item * count - 1) * dim;
      for (Index n = 1; n <= count; ++n) {
        const Index parent = node(n).parent;
        const double above = parent == 0 ? 0.0 : log_mass[parent];
        log_mass[n] = above - energy[n] - log_total[n];
        simd::scale(out + n * dim, dim, T(std::exp(above + double(seen[n]) - log_total[n])));
        if (parent > 0) simd::add(out + n * dim, out + parent * dim, dim);
      }
    });
  }

  // Writes the rows of the tokens, each where it belongs.
  template <class Exec>
  void finish(const Problem<T>& leaves, const Groups& groups, const Exec& executor) const {
    const auto& q = problem_.q;
    const Index dim = problem_.v.dim, count = groups.count;
    each_piece(executor, q.batch, q.heads, std::max<Index>(count, 1), double(2 * q.length * dim),
               [&](Index b, Index h, Index first, Index last) {
                 for (Index n = first + (count > 0 ? 1 : 0); n < last + (count > 0 ? 1 : 0); ++n) {
                   if (node(n).leaf < 0) continue;
                   const Index at = (b * q.heads + h) * count + n - 1;
                   const T* const seen = count > 0 ? groups.out.data() + at * dim : nullptr;
                   const double log_mass = count > 0 ? groups.log_mass[std::size_t(at)] : 0.0;
                   const T mass = T(std::exp(log_mass));
                   const Span tokens = leaf(node(n).leaf);
                   for (Index i = tokens.first; i < tokens.last; ++i) {
                     const Index token = families_.order[std::size_t(i)];
                     T* const out = problem_.out.row(b, h, token);
                     simd::copy_scaled(out, leaves.out.row(b, h, i), dim, mass);
                     if (seen != nullptr) simd::add(out, seen, dim);
                     if (problem_.log_sum.data != nullptr)
                       *problem_.log_sum.row(b, h, token) = T(double(*leaves.log_sum.row(b, h, i)) - log_mass);
                   }
                 }
               });
  }

  const Problem<T>& problem_;
  const permute::TokenTree& tree_;
  const TreeScores& scores_;
  const permute::TokenFamilies families_;
  const double scale_;
};

}  // namespace fovea::inline FOVEA_ISA::engine

// fovea/exec/eigen_device.hpp

#if defined(EIGEN_USE_THREADS)

// An Eigen::ThreadPoolDevice, or anything else with parallelFor, as an executor.
//
//   #define EIGEN_USE_THREADS
//   #include <unsupported/Eigen/CXX11/Tensor>
//   Eigen::ThreadPool pool(4);
//   Eigen::ThreadPoolDevice device(&pool, 4);
//   fovea::scaled_dot_product(q, k, v, out, {}, fovea::exec::on(device));

#include <functional>
#include <unsupported/Eigen/CXX11/Tensor>

namespace fovea::inline FOVEA_ISA::exec {

template <class Device>
class OnDevice {
 public:
  explicit OnDevice(const Device& device) : device_(&device) {}

  Index concurrency() const requires requires(const Device& device) { device.numThreads(); }
  { return Index(device_->numThreads()); }

  template <class F>
  void parallel_for(Index count, double flops, F&& f) const {
    using Range = std::function<void(Eigen::Index, Eigen::Index)>;
    const Range range = [&f](Eigen::Index begin, Eigen::Index end) { f(Index(begin), Index(end)); };
    if constexpr (requires { device_->parallelFor(Eigen::Index{}, Eigen::TensorOpCost(0, 0, flops), range); }) {
      device_->parallelFor(Eigen::Index(count), Eigen::TensorOpCost(0, 0, flops), range);
    } else {
      static_assert(
          requires { device_->parallelFor(Eigen::Index{}, range); },
          "fovea: exec::on takes a device with parallelFor(count, cost, f) or parallelFor(count, f)");
      device_->parallelFor(Eigen::Index(count), range);
    }
  }

 private:
  const Device* device_;  // not owned
};

// The device must outlive the executor.
template <class Device>
OnDevice<Device> on(const Device& device) {
  return OnDevice<Device>(device);
}

}  // namespace fovea::inline FOVEA_ISA::exec

#endif  // EIGEN_USE_THREADS

// fovea/exec/pool.hpp

// A pool of threads for programs that have none: Eigen's own non-blocking thread pool behind the Executor concept.
//
//   const fovea::exec::Pool pool(4);
//   fovea::scaled_dot_product(q, k, v, out, {}, pool);
//
// Make it once and keep it. One call at a time uses it; a call from inside one of its own threads is not allowed.

#if __has_include(<Eigen/ThreadPool>)
#include <Eigen/ThreadPool>
#else
#include <unsupported/Eigen/CXX11/ThreadPool>
#endif

namespace fovea::inline FOVEA_ISA::exec {

class Pool {
 public:
  // `threads` workers in all, the calling thread included.
  explicit Pool(Index threads) : threads_(threads) {
    check(threads > 0 && threads <= 4096, "fovea::exec::Pool", "threads must be between 1 and 4096, got ", threads);
    if (threads > 1) helpers_ = std::make_unique<Eigen::ThreadPool>(int(threads - 1));
  }

  Index concurrency() const { return threads_; }

  template <class F>
  void parallel_for(Index count, double /*flops*/, F&& f) const {
    const Index ranges = std::min(count, threads_);
    if (ranges <= 1) {
      if (count > 0) f(Index{0}, count);
      return;
    }
    Eigen::Barrier done(static_cast<unsigned>(ranges - 1));
    const auto edge = [&](Index r) { return count / ranges * r + std::min(r, count % ranges); };
    for (Index r = 1; r < ranges; ++r) {
      helpers_->Schedule([&f, &done, begin = edge(r), end = edge(r + 1)] {
        f(begin, end);
        done.Notify();
      });
    }
    f(Index{0}, edge(1));
    done.Wait();
  }

 private:
  Index threads_;
  std::unique_ptr<Eigen::ThreadPool> helpers_;
};

}  // namespace fovea::inline FOVEA_ISA::exec

// fovea/parts/mask/spans.hpp

// Visibility by spans: for each block of queries the spans of keys it sees, of any length.

namespace fovea::inline FOVEA_ISA::mask {

// A table of spans of keys for each query block, shared by batches and heads or one for each. A plain object: make it
// once, keep it, copy it, use it in several layers or steps.
struct SpanTable {
  Index query_block = 0;       // queries of a block; the last block may be shorter
  Index batch = 1;             // 1 (shared) or B
  Index heads = 1;             // 1 (shared), the kv heads or the query heads
  Index query_blocks = 0;      // ceil(N / query_block)
  std::vector<Index> begin{};  // [batch x heads x query_blocks + 1] where the list of a query block begins
  std::vector<Span> spans{};   // the lists: spans that ascend, do not overlap and are not empty

  // The list of a query block.
  Span list(Index b, Index h, Index query) const {
    const std::size_t at = std::size_t((b * heads + h) * query_blocks + query);
    return {begin[at], begin[at + 1]};
  }

  Index entries() const { return Index(spans.size()); }
  Index key_grain() const { return 1; }
  Span keys(Index entry) const { return spans[std::size_t(entry)]; }

  // lists[(b * heads + h) * query_blocks + i] are the spans of query block i, in any order; what they share counts
  // once.
  static SpanTable from_lists(Index query_block, Index query_blocks, std::vector<std::vector<Span>> lists,
                              Index batch = 1, Index heads = 1) {
    constexpr auto where = "fovea::mask::SpanTable::from_lists";
    check(query_blocks >= 0 && batch > 0 && heads > 0, where, "there must be at least one batch and head, got ", batch,
          " and ", heads);
    check(Index(lists.size()) == batch * heads * query_blocks, where,
          "there must be a list for each query block, wanted ", batch * heads * query_blocks, ", got ", lists.size());
    SpanTable table{query_block, batch, heads, query_blocks, {0}, {}};
    for (auto& list : lists) {
      std::sort(list.begin(), list.end(), [](Span a, Span b) { return a.first < b.first; });
      for (const Span span : list) {
        if (span.empty()) continue;
        if (Index(table.spans.size()) > table.begin.back() && span.first <= table.spans.back().last) {
          table.spans.back().last = std::max(table.spans.back().last, span.last);
        } else {
          table.spans.push_back(span);
        }
      }
      table.begin.push_back(Index(table.spans.size()));
    }
    return table;
  }
};

struct Spans {
  std::shared_ptr<const SpanTable> table;

  BoundLists<SpanTable> bind(const char* where, const Shape& shape) const {
    const SpanTable& t = *table;
    check(t.query_block > 0, where, "blocks must have a positive size, got ", t.query_block);
    check_lists(t, where, shape);
    for (std::size_t list = 0; list + 1 < t.begin.size(); ++list) {
      Index last = 0;
      for (Index n = t.begin[list]; n < t.begin[list + 1]; ++n) {
        const Span span = t.keys(n);
        check(span.first >= last && span.last > span.first, where,
              "the spans of a list must ascend, not overlap and not be empty, got [", span.first, ", ", span.last,
              ") after a key of ", last);
        check(span.last <= shape.keys, where, "a span must lie among the ", shape.keys, " keys, got [", span.first,
              ", ", span.last, ")");
        last = span.last;
      }
    }
    return {table, shape};
  }
};

// Query i sees key j when a span that the table lists for the block of i holds j. Join it with other masks for spans
// that are seen in part. The table is copied.
inline Spans spans(SpanTable table) { return {std::make_shared<const SpanTable>(std::move(table))}; }

}  // namespace fovea::inline FOVEA_ISA::mask

// fovea/parts/permute/grid.hpp

// Attention on the tokens of a grid in another order, so that what is near on the grid is near in memory: some heads at
// a time are copied in that order, attended to, and the result is copied back.

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

// fovea/parts/permute/regions.hpp

// Equal rectangles of an image as blocks of tokens, one behind the other.

namespace fovea::inline FOVEA_ISA::permute {

// An image of height x width tokens in per_axis x per_axis regions of rows() x columns() places. Where they do not
// divide it, regions at the lower and right edges reach beyond it; some may have no token.
struct Regions {
  Index height = 1, width = 1, per_axis = 1;

  Index rows() const { return (height + per_axis - 1) / per_axis; }
  Index columns() const { return (width + per_axis - 1) / per_axis; }
  Index count() const { return per_axis * per_axis; }
  Index places() const { return rows() * columns(); }

  // The rows, and columns, of the image that a region holds.
  Span rows_of(Index region) const {
    const Index first = region / per_axis * rows();
    return intersect({first, first + rows()}, {0, height});
  }
  Span columns_of(Index region) const {
    const Index first = region % per_axis * columns();
    return intersect({first, first + columns()}, {0, width});
  }
  Index tokens_of(Index region) const { return rows_of(region).size() * columns_of(region).size(); }

  // Region by region; in each the tokens come first, then the places without one.
  Order order() const {
    Order order(std::size_t(count() * places()), -1);
    for (Index region = 0; region < count(); ++region) {
      Index next = region * places();
      for (Index y = rows_of(region).first; y < rows_of(region).last; ++y) {
        for (Index x = columns_of(region).first; x < columns_of(region).last; ++x)
          order[std::size_t(next++)] = y * width + x;
      }
    }
    return order;
  }
};

// A problem in the order of regions, with as many heads of q as of k, turned so that the regions are its batch and what
// was its batch are its heads, of one head each. A region still finds the keys and values of all.
template <class T>
Problem<T> regions_apart(const Problem<T>& problem, const Regions& regions) {
  const auto turned = [&](const auto& x, bool queries) {
    auto y = x;
    y.batch = regions.count();
    y.heads = x.batch;
    y.batch_stride = queries ? regions.places() * x.length_stride : 0;
    y.head_stride = x.batch_stride;
    if (queries) y.length = regions.places();
    return y;
  };
  Problem<T> result = problem;
  result.q = turned(problem.q, true);
  result.k = turned(problem.k, false);
  result.v = turned(problem.v, false);
  result.out = turned(problem.out, true);
  if (problem.log_sum.data != nullptr) result.log_sum = turned(problem.log_sum, true);
  return result;
}

}  // namespace fovea::inline FOVEA_ISA::permute

// fovea/parts/permute/weighted_blocks.hpp

// Blocks of keys and values multiplied by a weight for each pair of blocks: every query block becomes a sequence with
// copies of its own.

namespace fovea::inline FOVEA_ISA::permute {

// A block of keys and the factor of its keys and values.
struct WeightedBlock {
  Index block = 0;
  double weight = 1;
};

// Calls f(part, batch) on problems whose batch elements are the query blocks of one head of `problem`, each with its
// blocks of keys behind one another. list(batch, n) are the WeightedBlocks of query block n; what stands behind those
// of a short list is zero. Blocks of `block` tokens, of which q and k have a whole number; as many heads of q as of k.
template <class T, class List, exec::Executor Exec, class F>
void each_weighted(const Problem<T>& problem, Index block, Index most_listed, const List& list, const Exec& executor,
                   F&& f) {
  const Index blocks = problem.q.length / block, keys = most_listed * block;
  const Index dim = problem.k.dim, value_dim = problem.v.dim;
  std::vector<T> k(std::size_t(blocks * keys * dim)), v(std::size_t(blocks * keys * value_dim));
  for (Index b = 0; b < problem.q.batch; ++b) {
    for (Index h = 0; h < problem.q.heads; ++h) {
      executor.parallel_for(blocks, double(keys * (dim + value_dim)), [&](Index begin, Index end) {
        for (Index n = begin; n < end; ++n) {
          T* k_to = k.data() + n * keys * dim;
          T* v_to = v.data() + n * keys * value_dim;
          for (const WeightedBlock& from : list(b, n)) {
            for (Index j = from.block * block; j < (from.block + 1) * block; ++j, k_to += dim, v_to += value_dim) {
              simd::copy_scaled(k_to, problem.k.row(b, h, j), dim, T(from.weight));
              simd::copy_scaled(v_to, problem.v.row(b, h, j), value_dim, T(from.weight));
            }
          }
          std::fill(k_to, k.data() + (n + 1) * keys * dim, T(0));
          std::fill(v_to, v.data() + (n + 1) * keys * value_dim, T(0));
        }
      });
      const auto apart = [&](const auto& x) {
        auto one = x;
        one.data = x.row(b, h, 0);
        one.batch = blocks;
        one.heads = 1;
        one.length = block;
        one.batch_stride = block * x.length_stride;
        return one;
      };
      Problem<T> part = problem;
      part.q = apart(problem.q);
      part.out = apart(problem.out);
      if (problem.log_sum.data != nullptr) part.log_sum = apart(problem.log_sum);
      part.k = view<const T>(k.data(), {blocks, 1, keys, dim});
      part.v = view<const T>(v.data(), {blocks, 1, keys, value_dim});
      part.group = 1;
      f(std::as_const(part), b);
    }
  }
}

}  // namespace fovea::inline FOVEA_ISA::permute

// fovea/parts/select/pool.hpp

// Blocks of tokens pooled into one row each: what stands for a block when blocks are ranked.

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

// fovea/parts/select/pool_regions.hpp

// Regions of an image pooled into one row each.

namespace fovea::inline FOVEA_ISA::select {

// The mean of each region over its tokens, for all heads of x [B,H,T,D] in one: a row of H D numbers for each region;
// NaN, which is never chosen, for a region without a token.
template <class T, exec::Executor Exec>
Pooled<T> pool_regions(const View<const T>& x, const permute::Regions& regions, const Exec& executor) {
  const Index channels = x.heads * x.dim, count = regions.count();
  Pooled<T> means{x.batch, x.heads > 0 ? Index{1} : Index{0}, count, channels, {}};
  means.rows.assign(std::size_t(x.batch * count * channels), std::numeric_limits<T>::quiet_NaN());
  executor.parallel_for(x.batch * count, double(regions.places() * channels), [&](Index begin, Index end) {
    std::vector<T> of_rows(std::size_t(regions.rows() * x.dim));
    for (Index item = begin; item < end; ++item) {
      const Span rows = regions.rows_of(item % count), columns = regions.columns_of(item % count);
      if (rows.empty() || columns.empty()) continue;
      for (Index h = 0; h < x.heads; ++h) {
        for (Index y = rows.first; y < rows.last; ++y)
          pool_block<T>(Pooling::mean, columns.size(), x.dim, x.row(item / count, h, y * regions.width + columns.first),
                        x.length_stride, of_rows.data() + (y - rows.first) * x.dim);
        pool_block<T>(Pooling::mean, rows.size(), x.dim, of_rows.data(), x.dim,
                      means.rows.data() + item * channels + h * x.dim);
      }
    }
  });
  return means;
}

}  // namespace fovea::inline FOVEA_ISA::select

// fovea/parts/select/ranking.hpp

// The choice of indices by score: the k largest, the largest that hold a share of the mass, those above a threshold.
//
// One order holds everywhere: larger scores first, equal scores by the lower index (-0 equals +0), NaN counts as
// -infinity, and -infinity is never chosen. A choice is therefore unique and may be smaller than asked for.

namespace fovea::inline FOVEA_ISA::select {

// How many of the weights, in descending order and with c_r the share of the first r, hold a share p of the mass. The
// published rules differ by the weight that crosses p.
//   inclusive  the weights before which the share is below p: #{r : c_(r-1) < p} (XAttention)
//   one_more   one more than fit: #{r : c_r <= p} + 1 (FlexPrefill, Rectified SpaAttn)
//   fitting    those that fit, but at least one: max(1, #{r : c_r <= p}) (SpargeAttention)
enum class TopP { inclusive, one_more, fitting };

// Owns its scratch: one for each worker. The indices returned ascend and stay valid until the next call.
template <class T>
class Ranking {
 public:
  // The min(k, scores above -infinity) largest of `count` scores.
  std::span<const Index> top_k(const T* scores, Index count, Index k) {
    chosen_.clear();
    if (k <= 0) return chosen_;
    if (k >= count) return at_least(scores, count, lowest);
    const bool few = count <= counted || k > count / 4;
    return few || count > farthest ? by_threshold(scores, count, k) : by_collecting(scores, count, k);
  }

  // The largest of `count` weights (not negative; they need not sum up to one) that hold the share p of their sum.
  // Sums are taken in double.
  std::span<const Index> top_p(const T* weights, Index count, double p, TopP rule = TopP::inclusive) {
    chosen_.clear();
    ranked_.clear();
    for (Index i = 0; i < count; ++i) {
      if (weights[i] > lowest) ranked_.push_back({weights[i], i});
    }
    std::sort(ranked_.begin(), ranked_.end(), [](const Ranked& a, const Ranked& b) {
      return a.score > b.score || (a.score == b.score && a.index < b.index);
    });
    double mass = 0;
    for (const Ranked& next : ranked_) mass += double(next.score);
    const double limit = p * mass;
    Index fitting = 0, before = 0;  // #{c_r <= p}, #{c_(r-1) < p}
    double sum = 0;
    for (const Ranked& next : ranked_) {
      before += Index(sum < limit);
      sum += double(next.score);
      fitting += Index(sum <= limit);
    }
    const Index wanted = rule == TopP::inclusive  ? before
                         : rule == TopP::one_more ? fitting + 1
                                                  : std::max<Index>(fitting, 1);
    ranked_.resize(std::size_t(std::min(wanted, Index(ranked_.size()))));
    for (const Ranked& next : ranked_) chosen_.push_back(next.index);
    std::sort(chosen_.begin(), chosen_.end());
    return chosen_;
  }

  // All of `count` scores that reach the threshold.
  std::span<const Index> at_least(const T* scores, Index count, T threshold) {
    chosen_.clear();
    each_bits(scores, count, [&](simd::Pack<T> x, Index first) {
      append(first, simd::bits_reaching(x, simd::Pack<T>(threshold)) & simd::bits_above(x, simd::Pack<T>(lowest)));
    });
    return chosen_;
  }

 private:
  static constexpr T lowest = -simd::infinity<T>;
  static constexpr Index counted = 1024;             // so many are gone over several times rather than collected
  static constexpr Index farthest = Index(1) << 31;  // keys of a StreamingTopK

  struct Ranked {
    T score;
    Index index;
  };

  // f(vector, index of its first lane); behind the last score stands -infinity.
  template <class F>
  static void each_bits(const T* scores, Index count, F&& f) {
    constexpr Index step = simd::lanes<T>;
    Index i = 0;
    for (; i + step <= count; i += step) f(simd::load(scores + i), i);
    if (i < count) f(simd::load_some(scores + i, count - i, lowest), i);
  }

  void append(Index first, std::uint64_t bits) {
    for (; bits != 0; bits &= bits - 1) chosen_.push_back(first + Index(std::countr_zero(bits)));
  }

  std::span<const Index> by_threshold(const T* scores, Index count, Index k) {
    if (detail::count_above(scores, count, lowest) <= k) return at_least(scores, count, lowest);
    const Threshold<T> threshold = threshold_of(scores, count, k);
    const simd::Pack<T> least(threshold.least);
    Index ties = threshold.ties;
    each_bits(scores, count, [&](simd::Pack<T> x, Index first) {
      std::uint64_t bits = simd::bits_reaching(x, least);
      if (bits == 0) return;
      std::uint64_t equal = bits & ~simd::bits_above(x, least);
      for (; equal != 0; equal &= equal - 1) {
        if (ties-- <= 0) bits &= ~(equal & -equal);
      }
      append(first, bits);
    });
    return chosen_;
  }

  std::span<const Index> by_collecting(const T* scores, Index count, Index k) {
    const std::size_t room = std::size_t(StreamingTopK<T>::room(k, count));
    values_.resize(room);
    keys_.resize(room);
    StreamingTopK<T> collected(k, count, values_.data(), keys_.data());
    collected.begin();
    collected.take(scores, count, 0);
    const Chosen<T> best = collected.finish();
    chosen_.assign(best.keys, best.keys + best.count);
    return chosen_;
  }

  std::vector<T> values_;
  std::vector<typename StreamingTopK<T>::Key> keys_;
  std::vector<Ranked> ranked_;
  std::vector<Index> chosen_;
};

}  // namespace fovea::inline FOVEA_ISA::select

// fovea/parts/select/rank_blocks.hpp

// Blocks of keys ranked for blocks of queries: pooled rows against pooled rows, and a rule that chooses.

namespace fovea::inline FOVEA_ISA::select {

// Who chooses: each query head for itself, or the heads of a kv head together, by the largest or by the sum of their
// scores.
enum class Sharing { none, max, sum };

// Which blocks a query block takes; exactly one of top_k, top_p and threshold.
struct BlockRule {
  Index top_k = 0;                       // the largest scores
  std::optional<double> top_p = {};      // the largest weights softmax(scale score) that hold this share, in (0, 1]
  TopP top_p_rule = TopP::inclusive;     // what becomes of the weight that crosses top_p
  std::optional<double> threshold = {};  // the blocks whose scale score reaches it
  double scale = 1;                      // for top_p and threshold; positive
  Index first_blocks = 0;                // leading blocks that are always taken
  bool own_blocks = true;                // the blocks in which the positions of the query block lie are always taken
  bool extra = false;                    // they come on top of top_k instead of counting towards it
  Sharing sharing = Sharing::none;

  void check_for(std::string_view where) const {
    check(top_k >= 0, where, "top_k must be positive, got ", top_k);
    check(int(top_k > 0) + int(top_p.has_value()) + int(threshold.has_value()) == 1, where,
          "exactly one of top_k, top_p and threshold must be given, got top_k ", top_k, top_p ? ", top_p" : "",
          threshold ? ", threshold" : "");
    check(!top_p || (*top_p > 0 && *top_p <= 1), where, "top_p must lie in (0, 1], got ", top_p.value_or(0));
    check(!threshold || *threshold == *threshold, where, "the threshold must be a number, got ", threshold.value_or(0));
    check(scale > 0 && scale < HUGE_VAL, where, "the scale must be positive and finite, got ", scale);
    check(first_blocks >= 0, where, "first_blocks must not be negative, got ", first_blocks);
  }
};

// The blocks of a call, in tokens.
struct BlockGrid {
  Index query_block = 0;
  Index key_block = 0;
  Index queries = 0;
  Index keys = 0;
  Index offset = 0;     // position of query 0 on the axis of the keys
  bool causal = false;  // blocks that begin behind the last query of a query block are no choice

  Index query_blocks() const { return (queries + query_block - 1) / query_block; }
  Index key_blocks() const { return (keys + key_block - 1) / key_block; }

  // The key blocks where the positions of query block a lie.
  Span own(Index a) const {
    const Index first = offset + a * query_block, last = offset + std::min((a + 1) * query_block, queries);
    if (last <= 0) return {};
    return intersect({std::max<Index>(first, 0) / key_block, (last - 1) / key_block + 1}, {0, key_blocks()});
  }
  // How many key blocks, from the first, query block a may choose from.
  Index choices(Index a) const {
    if (!causal) return key_blocks();
    const Index last = offset + std::min((a + 1) * query_block, queries);
    return last <= 0 ? 0 : std::min((last - 1) / key_block + 1, key_blocks());
  }
};

namespace detail {

template <class T>
class RankBlocks {
 public:
  RankBlocks(const View<const T>& queries, const View<const T>& keys, const BlockGrid& grid, const BlockRule& rule)
      : queries_(queries),
        keys_(keys),
        grid_(grid),
        rule_(rule),
        group_(keys.heads == 0 ? 1 : queries.heads / keys.heads),
        depth_(simd::whole<T>(keys.dim)),
        columns_(simd::whole<T>(keys.length)),
        power_((long double)(rule.scale) * simd::log2_e) {
    // As many query blocks at once as their scores fit the second-level cache; but enough to lay keys out for.
    constexpr Index most = 96, least = 2 * simd::tile_rows, budget = 256 * 1024;
    const Index fit = std::clamp<Index>(budget / Index(sizeof(T)) / std::max<Index>(columns_, 1), least, most);
    step_ = std::clamp<Index>(fit / group_, 1, std::max<Index>(queries.length, 1));
    rows_ = simd::whole_rows(step_ * group_);
  }

  template <class Exec>
  mask::BlockTable run(const Exec& executor) {
    const Index heads = rule_.sharing == Sharing::none ? queries_.heads : keys_.heads;
    mask::BlockTable table{grid_.query_block,
                           grid_.key_block,
                           std::max<Index>(queries_.batch, 1),
                           std::max<Index>(heads, 1),
                           queries_.length,
                           {},
                           {}};
    const Index lists = table.batch * table.heads * table.query_blocks;
    words_ = (keys_.length + mask::word - 1) / mask::word;
    taken_.assign(std::size_t(lists * words_), 0);
    const Index chunks = (queries_.length + step_ - 1) / step_;
    const Index items = queries_.batch * keys_.heads * chunks;
    if (queries_.heads > 0 && words_ > 0 && items > 0) {
      const double flops = 2.0 * double(rows_) * double(columns_) * double(depth_ + 16);
      const double share = std::min(flops * double(items) / worthwhile_flops, double(items));
      const Index workers = std::clamp<Index>(Index(share), 1, std::max<Index>(exec::concurrency(executor), 1));
      std::vector<Worker> scratch(static_cast<std::size_t>(workers), Worker(*this));
      executor.parallel_for(workers, flops * double(items) / double(workers), [&](Index begin, Index end) {
        for (Index worker = begin; worker < end; ++worker) {
          // The last query blocks first: when causal they have most to do.
          for (Index item = worker; item < items; item += workers)
            chunk(item / chunks, chunks - 1 - item % chunks, scratch[std::size_t(worker)]);
        }
      });
    }
    gather(table, lists);
    return table;
  }

 private:
  static constexpr Index tile = 256;               // key blocks laid out at a time
  static constexpr double worthwhile_flops = 1e6;  // what a further worker must find to do

  struct Worker {
    std::vector<T> q, panel, scores;
    Ranking<T> ranking;

    explicit Worker(const RankBlocks& r)
        : q(std::size_t(r.rows_ * r.depth_)),
          panel(std::size_t(r.depth_ * std::min(r.columns_, tile))),
          scores(std::size_t(r.rows_ * r.columns_)) {}
  };

  // The choices of one chunk of the query blocks of all heads of a kv head; row h step + i is query block i of head h.
  void chunk(Index head, Index at, Worker& worker) {
    const Index batch = head / keys_.heads, kv_head = head % keys_.heads;
    const Span blocks{at * step_, std::min((at + 1) * step_, queries_.length)};
    const Index count = blocks.size(), choices = grid_.choices(blocks.last - 1);
    for (Index h = 0; h < group_; ++h) {
      for (Index i = 0; i < count; ++i)
        load_query(queries_.row(batch, kv_head * group_ + h, blocks.first + i), row(worker.q, h * count + i, depth_));
    }
    score(group_ * count, choices, keys_.row(batch, kv_head, 0), worker);
    if (rule_.sharing == Sharing::none) {
      for (Index h = 0; h < group_; ++h) {
        for (Index i = 0; i < count; ++i)
          choose(batch * queries_.heads + kv_head * group_ + h, blocks.first + i,
                 row(worker.scores, h * count + i, columns_), worker.ranking);
      }
    } else {
      for (Index i = 0; i < count; ++i) {
        T* const shared = row(worker.scores, i, columns_);
        for (Index h = 1; h < group_; ++h) join(shared, row(worker.scores, h * count + i, columns_), choices);
        choose(batch * keys_.heads + kv_head, blocks.first + i, shared, worker.ranking);
      }
    }
  }

  static T* row(std::vector<T>& x, Index r, Index stride) { return x.data() + r * stride; }

  void load_query(const T* from, T* to) const {
    if (keys_.dim == queries_.dim) {
      simd::copy(to, from, keys_.dim);
    } else {
      bound_query(from, queries_.dim, to);
    }
    std::fill(to + keys_.dim, to + depth_, T(0));
  }

  // scores = the products of the rows of q with the first `choices` key rows.
  void score(Index rows, Index choices, const T* keys, Worker& worker) const {
    const Index stride = keys_.length_stride;
    if (rows < simd::tile_rows) {
      simd::dot_rows(rows, worker.q.data(), depth_, choices, keys, stride, keys_.dim, worker.scores.data(), columns_);
      return;
    }
    const Index padded = simd::whole_rows(rows);
    std::fill(row(worker.q, rows, depth_), row(worker.q, padded, depth_), T(0));
    for (Index first = 0; first < choices; first += tile) {
      const Index width = std::min(tile, choices - first), columns = simd::whole<T>(width);
      simd::transpose(width, keys_.dim, keys + first * stride, stride, worker.panel.data(), columns);
      for (Index r = 0; r < padded; r += simd::tile_rows)
        simd::multiply_rows<simd::tile_rows, simd::Onto::nothing>(columns, keys_.dim, row(worker.q, r, depth_), depth_,
                                                                  worker.panel.data(), columns,
                                                                  row(worker.scores, r, columns_) + first, columns_);
    }
  }

  void join(T* scores, const T* others, Index count) const {
    if (rule_.sharing == Sharing::sum) {
      simd::add(scores, others, count);
    } else {
      simd::combine(scores, others, count, larger<T>);
    }
  }

  void choose(Index head, Index a, T* scores, Ranking<T>& ranking) {
    std::uint64_t* const taken = taken_.data() + (head * queries_.length + a) * words_;
    const auto take = [taken](Index b) { taken[b / mask::word] |= std::uint64_t{1} << (b % mask::word); };
    const Index count = grid_.choices(a);
    const Span first{0, std::min(rule_.first_blocks, count)};
    const Span own = rule_.own_blocks ? intersect(grid_.own(a), {0, count}) : Span{};
    const auto forced = [&](auto&& f) {
      for (Index b = first.first; b < first.last; ++b) f(b);
      for (Index b = std::max(own.first, first.last); b < own.last; ++b) f(b);
    };
    forced(take);
    std::span<const Index> chosen;
    if (rule_.top_k >= count) {
      for (Index b = 0; b < count; ++b) take(b);
    } else if (rule_.top_k > 0) {
      Index places = rule_.top_k;
      if (!rule_.extra) {
        // Forced blocks take places; what is left of them goes to the others.
        forced([&](Index b) {
          scores[b] = -simd::infinity<T>;
          --places;
        });
      }
      chosen = ranking.top_k(scores, count, std::max<Index>(places, 0));
    } else if (rule_.threshold) {
      simd::scale(scores, count, T(rule_.scale));
      chosen = ranking.at_least(scores, count, T(*rule_.threshold));
    } else if (*rule_.top_p == 1) {
      chosen = ranking.at_least(scores, count, std::numeric_limits<T>::lowest());
    } else {
      weigh(scores, count);
      chosen = ranking.top_p(scores, count, *rule_.top_p, rule_.top_p_rule);
    }
    for (const Index b : chosen) take(b);
  }

  // Scores into weights, exp(scale (score - largest)); those that are no choice stay so.
  void weigh(T* scores, Index count) const {
    using simd::Pack;
    T most = -simd::infinity<T>;
    for (Index b = 0; b < count; ++b) most = scores[b] > most ? scores[b] : most;
    const Pack<T> none(-simd::infinity<T>), top(most);
    simd::transform(scores, count, [&](Pack<T> s, Index) {
      return xsimd::select(s > none, simd::exp2_weight(s - top, power_), none);
    });
  }

  // The bits of all lists into the table.
  void gather(mask::BlockTable& table, Index lists) const {
    table.begin.resize(std::size_t(lists) + 1);
    Index total = 0;
    for (Index list = 0; list < lists; ++list) {
      table.begin[std::size_t(list)] = total;
      for (Index w = 0; w < words_; ++w) total += std::popcount(taken_[std::size_t(list * words_ + w)]);
    }
    table.begin[std::size_t(lists)] = total;
    table.blocks.resize(std::size_t(total));
    Index* next = table.blocks.data();
    for (Index list = 0; list < lists; ++list) {
      for (Index w = 0; w < words_; ++w) {
        for (std::uint64_t bits = taken_[std::size_t(list * words_ + w)]; bits != 0; bits &= bits - 1)
          *next++ = w * mask::word + Index(std::countr_zero(bits));
      }
    }
  }

  const View<const T> queries_, keys_;
  const BlockGrid grid_;
  const BlockRule rule_;
  const Index group_, depth_, columns_;
  const simd::PowerUnit<T> power_;
  Index step_, rows_;
  Index words_ = 0;
  std::vector<std::uint64_t> taken_{};  // [lists x words]
};

}  // namespace detail

// The table of the blocks that each query block takes. queries [B,H,query blocks,D] and keys [B,G,key blocks,D] hold a
// row for each block; keys of twice the width of the queries are bounds. Larger scores first, equal ones by the lower
// block; a block whose score is NaN or -infinity is taken only when it is forced, or top_k leaves no choice.
template <class T, exec::Executor Exec = exec::Serial>
mask::BlockTable rank_blocks(const View<const T>& queries, const View<const T>& keys, const BlockGrid& grid,
                             const BlockRule& rule, const Exec& executor = {}) {
  constexpr auto where = "fovea::select::rank_blocks";
  check(grid.query_block > 0 && grid.key_block > 0, where, "blocks must have a positive size, got ", grid.query_block,
        " and ", grid.key_block);
  rule.check_for(where);
  check(queries.length == grid.query_blocks() && keys.length == grid.key_blocks(), where,
        "there must be a row for each block, wanted ", grid.query_blocks(), " and ", grid.key_blocks(), ", got ",
        queries.length, " and ", keys.length);
  check(queries.batch == keys.batch && (keys.dim == queries.dim || keys.dim == 2 * queries.dim), where,
        "pooled keys must have the batch and the width of pooled queries (bounds twice the width), wanted ",
        queries.batch, " and ", queries.dim, ", got ", keys.batch, " and ", keys.dim);
  check(keys.heads > 0 ? queries.heads % keys.heads == 0 : queries.heads == 0, where,
        "the heads of the queries must be a multiple of those of the keys, wanted a multiple of ", keys.heads, ", got ",
        queries.heads);
  return detail::RankBlocks<T>(queries, keys, grid, rule).run(executor);
}

}  // namespace fovea::inline FOVEA_ISA::select

// fovea/hierarchical/bilevel_routing.hpp

// Bi-level routing attention: regions of an image choose the regions they read, by their means; tokens attend to the
// tokens of those.
// Zhu et al., "BiFormer: Vision Transformer with Bi-Level Routing Attention", CVPR 2023, arXiv:2303.08810.
//
//   A_ab = mean(Q_a) . mean(K_b)   over the channels of all heads;   I_a = the top_k regions b with the largest A_ab
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j   over   { j : region(j) in I_region(i) },   plus LCE(v)_i
//
// Regions are S x S rectangles of the grid, as many rows and columns of tokens in each; one choice serves all heads. As
// in the released models scale is 1 / sqrt(H D), of the channels of all heads and not of one. LCE, "local context
// enhancement", is a depthwise convolution of the values. A region is not bound to choose itself. soft_routing
// multiplies the keys and values of region b by w_ab = softmax_b(scale A_ab) over the chosen ones; the models do not
// use it.
//
// A grid that the regions do not divide is filled up at its lower and right edges. What fills is in no mean; masked, no
// query sees it; zeros, queries see keys and values of zero there, as the later of the published kernels has it. (The
// earlier one fills the image before q, k and v are projected: do so, and call with the larger grid.)
//
// Approximate; exact on the chosen regions, and dense attention when they are all or when there is one. Cost
// O(T (D + E) + S^4 D) and O(T top_k T / S^2 (D + E)) for each head, and a copy of queries, keys, values and results of
// a few heads at a time.

namespace fovea::inline FOVEA_ISA {

enum class RegionPadding { masked, zeros };

struct BilevelRoutingOptions {
  Index height = 0;   // rows of tokens; required
  Index width = 0;    // tokens of a row; required, height width = T
  Index regions = 7;  // S, along each axis
  Index top_k = 0;    // regions that a region reads, at most S^2; required
  RegionPadding padding = RegionPadding::masked;
  bool soft_routing = false;
  combine::DepthwiseKernel local_enhancement = {};  // of v, [H E, size, size]; none when empty
  std::optional<double> scale = {};                 // 1 / sqrt(H D) when empty
};

// What was chosen: for each region, row by row, the regions it reads. Blocks of the table are regions in that order, of
// ceil(height / S) ceil(width / S) places each. A plain object: keep it, copy it, pass it again.
struct RegionRoutes {
  mask::BlockTable table{};
  std::vector<double> weights{};  // w_ab for each entry of the table; empty without soft_routing
};

namespace detail {

// The regions of a call, checked.
inline permute::Regions regions_for(const char* where, const BilevelRoutingOptions& o, const Extents& q,
                                    const Extents& k) {
  const permute::Regions regions{o.height, o.width, o.regions};
  check(k.length == q.length, where, "k must have the length of q, wanted ", q.length, ", got ", k.length);
  check(k.heads == q.heads, where, "k must have the heads of q, wanted ", q.heads, ", got ", k.heads);
  check(o.height > 0 && o.width > 0, where, "height and width must be positive, got ", o.height, " and ", o.width);
  check(q.length % o.width == 0 && q.length / o.width == o.height, where, "the grid must hold the tokens, wanted ",
        q.length, ", got ", o.height, " times ", o.width);
  check(o.regions > 0 && o.regions <= std::min(o.height, o.width), where,
        "regions must be between 1 and the shorter side, ", std::min(o.height, o.width), ", got ", o.regions);
  check(o.top_k > 0 && o.top_k <= regions.count(), where, "top_k must be between 1 and the number of regions, ",
        regions.count(), ", got ", o.top_k);
  return regions;
}

// softmax_b(scale A_ab) over the entries of a list.
template <class T>
void append_weights(const T* mean, const T* key_means, Index channels, double scale, std::span<const Index> regions,
                    std::vector<double>& weights) {
  std::vector<double> scores;
  double most = -HUGE_VAL, total = 0;
  for (const Index region : regions) {
    double sum = 0;
    for (Index c = 0; c < channels; ++c) sum += double(mean[c]) * double(key_means[region * channels + c]);
    scores.push_back(sum == sum ? scale * sum : -HUGE_VAL);
    most = std::max(most, scores.back());
  }
  for (double& score : scores) {
    score = score == -HUGE_VAL ? 0 : std::exp(score - most);
    total += score;
  }
  for (const double score : scores) weights.push_back(total > 0 ? score / total : 0);
}

// The softmax of a call: its scale is that of the channels of all heads.
inline Recipe<> region_softmax(const char* where, const BilevelRoutingOptions& options, const Extents& q) {
  const auto recipe = softmax(options.scale.value_or(1 / std::sqrt(double(q.heads * q.dim))));
  recipe.normalizer.check_for(where, {q.batch, q.heads, q.heads, q.length, q.length});
  return recipe;
}

template <class T, exec::Executor Exec>
RegionRoutes choose_regions(const View<const T>& q, const View<const T>& k, const permute::Regions& regions,
                            const BilevelRoutingOptions& options, double scale, const Exec& executor) {
  const Index count = regions.count(), channels = q.heads * q.dim, places = count * regions.places();
  const auto queries = select::pool_regions(q, regions, executor), keys = select::pool_regions(k, regions, executor);
  select::BlockRule rule;
  rule.top_k = options.top_k;
  rule.own_blocks = false;
  RegionRoutes routes;
  routes.table = select::rank_blocks<T>(queries.view(), keys.view(),
                                        {regions.places(), regions.places(), places, places, 0, false}, rule, executor);
  for (Index list = 0; options.soft_routing && list < q.batch * count; ++list) {
    const auto at = std::size_t(list);
    const Span entries{routes.table.begin[at], routes.table.begin[at + 1]};
    append_weights(queries.rows.data() + list * channels, keys.rows.data() + list / count * count * channels, channels,
                   scale, {routes.table.blocks.data() + entries.first, std::size_t(entries.size())}, routes.weights);
  }
  return routes;
}

// Attention of regions in order to the regions that they are routed to.
template <class T, exec::Executor Exec>
class AttendRegions {
 public:
  AttendRegions(const permute::Regions& regions, const RegionRoutes& routes, bool masked, const Recipe<>& recipe,
                const Exec& executor)
      : regions_(regions), routes_(routes), masked_(masked), recipe_(recipe), executor_(executor) {}

  // The batch of a part counts heads too, `heads` for each element of the batch; `first` is the first of them.
  void plain(const Problem<T>& part, Index first, Index heads) const {
    // A smaller region would share its tile of queries with others, which read other regions.
    constexpr Index enough = 48;
    const Index count = regions_.count(), places = regions_.places(), items = part.q.batch;
    const bool apart = places < enough;
    mask::SpanTable seen{places, apart ? count : items, apart ? items : 1, apart ? 1 : count, {0}, {}};
    const auto list = [&](Index n, Index region) {
      for (const Index block : blocks((first + n) / heads, region)) add(seen, block, block * places);
      seen.begin.push_back(seen.entries());
    };
    if (apart) {
      for (Index region = 0; region < count; ++region) {
        for (Index n = 0; n < items; ++n) list(n, region);
      }
    } else {
      for (Index n = 0; n < items; ++n) {
        for (Index region = 0; region < count; ++region) list(n, region);
      }
    }
    engine::attend(apart ? permute::regions_apart(part, regions_) : part, recipe_.mask(mask::spans(std::move(seen))),
                   executor_);
  }

  // With keys and values multiplied by the weights of their regions.
  void soft(const Problem<T>& part, Index first, Index heads) const {
    const Index count = regions_.count(), places = regions_.places();
    Index most = 0;
    const auto list = [&](Index n, Index region) {
      std::vector<permute::WeightedBlock> result;
      const auto chosen = blocks((first + n) / heads, region);
      const Index entry = chosen.data() - routes_.table.blocks.data();
      for (std::size_t e = 0; e < chosen.size(); ++e)
        result.push_back({chosen[e], routes_.weights[std::size_t(entry) + e]});
      return result;
    };
    for (Index n = 0; n < part.q.batch; ++n) {
      for (Index region = 0; region < count; ++region)
        most = std::max(most, Index(blocks((first + n) / heads, region).size()));
    }
    permute::each_weighted(part, places, most, list, executor_, [&](const Problem<T>& apart, Index n) {
      mask::SpanTable seen{places, count, 1, 1, {0}, {}};
      for (Index region = 0; region < count; ++region) {
        Index begin = 0;
        for (const Index block : blocks((first + n) / heads, region)) {
          add(seen, block, begin);
          begin += places;
        }
        seen.begin.push_back(seen.entries());
      }
      engine::attend(apart, recipe_.mask(mask::spans(std::move(seen))), executor_);
    });
  }

 private:
  std::span<const Index> blocks(Index batch, Index region) const {
    const auto& table = routes_.table;
    const Span entries = table.list(table.batch == 1 ? 0 : batch, 0, region);
    return {table.blocks.data() + entries.first, std::size_t(entries.size())};
  }

  // The keys of a region that begin at `begin`.
  void add(mask::SpanTable& seen, Index region, Index begin) const {
    const Index keys = masked_ ? regions_.tokens_of(region) : regions_.places();
    if (keys > 0) seen.spans.push_back({begin, begin + keys});
  }

  const permute::Regions& regions_;
  const RegionRoutes& routes_;
  const bool masked_;
  const Recipe<>& recipe_;
  const Exec& executor_;
};

template <class T, exec::Executor Exec>
void attend_regions(const Problem<T>& problem, const permute::Regions& regions, const RegionRoutes& routes,
                    const BilevelRoutingOptions& options, const Recipe<>& recipe, const Exec& executor) {
  const bool masked =
      options.padding == RegionPadding::masked || regions.count() * regions.places() == problem.q.length;
  const auto& table = routes.table;
  if (masked && !options.soft_routing && table.entries() == table.batch * regions.count() * regions.count()) {
    engine::attend(problem, recipe, executor);  // every region reads all
  } else {
    const Index heads = problem.k.heads, begin = 0;
    const permute::Order order = regions.order();
    const AttendRegions<T, Exec> attend(regions, routes, masked, recipe, executor);
    permute::in_order(problem, order, order, std::span<const Index>(&begin, 1), problem.q.batch * heads, executor,
                      [&](const Problem<T>& part, Index first) {
                        options.soft_routing ? attend.soft(part, first, heads) : attend.plain(part, first, heads);
                      });
  }
  combine::add_depthwise(problem.v, problem.out, options.height, options.width, options.local_enhancement, executor);
}

}  // namespace detail

// The choice that bilevel_routing makes, q and k [B,H,T,D].
template <class Q, class K, exec::Executor Exec = exec::Serial>
RegionRoutes bilevel_routes(const Q& q, const K& k, const BilevelRoutingOptions& options, const Exec& executor = {}) {
  constexpr auto where = "fovea::bilevel_routes";
  const auto queries = view(q);
  const auto keys = view(k);
  using T = std::remove_const_t<std::remove_pointer_t<decltype(queries.data)>>;
  check(keys.batch == queries.batch && keys.dim == queries.dim, where,
        "k must have the batch and the width of q, wanted ", queries.batch, " and ", queries.dim, ", got ", keys.batch,
        " and ", keys.dim);
  const auto regions = detail::regions_for(where, options, queries.extents(), keys.extents());
  const double scale = *detail::region_softmax(where, options, queries.extents()).normalizer.scale;
  return detail::choose_regions<T>(queries, keys, regions, options, scale, executor);
}

// q, k [B,H,T,D], v, out [B,H,T,E]; or matrices [T,D], [T,D], [T,E], [T,E] for one head. Tokens lie row by row of the
// grid. Log-sums are those of the attention, without the local enhancement.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void bilevel_routing(const Q& q, const K& k, const V& v, Out&& out, const BilevelRoutingOptions& options,
                     const Exec& executor = {}) {
  constexpr auto where = "fovea::bilevel_routing";
  const auto problem = make_problem(where, q, k, v, out);
  const auto regions = detail::regions_for(where, options, problem.q.extents(), problem.k.extents());
  const auto recipe = detail::region_softmax(where, options, problem.q.extents());
  options.local_enhancement.check_for(where, problem.q.heads * problem.v.dim);

  const auto routes =
      detail::choose_regions(problem.q, problem.k, regions, options, *recipe.normalizer.scale, executor);
  detail::attend_regions(problem, regions, routes, options, recipe, executor);
}

// The same with routes that are there: those of bilevel_routes, from another layer or step, or the caller's own, for
// regions of the same places, shared by the batch or for each element.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void bilevel_routing(const Q& q, const K& k, const V& v, Out&& out, const RegionRoutes& routes,
                     const BilevelRoutingOptions& options, const Exec& executor = {}) {
  constexpr auto where = "fovea::bilevel_routing";
  const auto problem = make_problem(where, q, k, v, out);
  const auto regions = detail::regions_for(where, options, problem.q.extents(), problem.k.extents());
  const auto recipe = detail::region_softmax(where, options, problem.q.extents());
  options.local_enhancement.check_for(where, problem.q.heads * problem.v.dim);
  const Index places = regions.places(), all = regions.count() * places;
  check(routes.table.query_block == places && routes.table.key_block == places, where,
        "the regions of routes must have the places of these, wanted ", places, ", got ", routes.table.query_block,
        " and ", routes.table.key_block);
  check(routes.table.heads == 1, where, "routes are shared by the heads, got tables for ", routes.table.heads);
  mask::blocks(routes.table).bind(where, {problem.q.batch, 1, 1, all, all});
  check(!options.soft_routing || Index(routes.weights.size()) == routes.table.entries(), where,
        "soft routing needs a weight for each entry of the routes, wanted ", routes.table.entries(), ", got ",
        routes.weights.size());

  detail::attend_regions(problem, regions, routes, options, recipe, executor);
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/hierarchical/hierarchical_self_attention.hpp

// Hierarchical self-attention (HSA): attention over tokens that are the leaves of a tree (words in paragraphs in
// pages), where a group gives one weight to all tokens of a sibling group. Amizadeh et al., "Hierarchical
// Self-Attention: Generalizing Neural Attention Mechanics to Multi-Scale Problems", NeurIPS 2025, arXiv:2509.15448.
//
//   o_i = sum_j theta_ij v_j,   theta = argmin sum_i KL(theta_i || softmax_i)
//
// over row-stochastic theta that are equal on every pair of sibling groups; found by dynamic programming
// (engine/tree_attention.hpp). No code was released with the paper; the recursion follows from this minimum, and the
// weight of a token to itself stands as its own leaf.
//
// Exact for its minimum; equals softmax attention when the root holds all tokens, or when the tokens of every group
// have the same query and key. Not causal. Cost O((N a + sum_A a_A^2) (D + E)) for leaves of a tokens and groups of a_A
// groups: about N a (D + E) for a balanced tree.

namespace fovea::inline FOVEA_ISA {

using permute::TokenTree;

struct HierarchicalSelfAttentionOptions {
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
  bool gaussian = false;  // scores by distance, -scale / 2 |q - k|^2; what q adds cancels, what k adds does not
  // Added to the score of sibling B for sibling C, nodes of the tree, and to that of a token for itself (B = C). It is
  // called from several threads.
  std::function<double(Index from, Index to)> bias = {};
};

// q [B,H,T,D], k [B,G,T,D], v [B,G,T,E], out [B,H,T,E], H a multiple of G; or matrices [T,D], [T,D], [T,E], [T,E].
// A log-sum that is asked for is L_i with theta_ii = exp(s_ii - L_i): that of softmax for a tree of one level, and
// sum_i KL_i = sum_i (softmax's log-sum - L_i) for any.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void hierarchical_self_attention(const Q& q, const K& k, const V& v, Out&& out, const TokenTree& tree,
                                 const HierarchicalSelfAttentionOptions& options = {}, const Exec& executor = {}) {
  constexpr auto where = "fovea::hierarchical_self_attention";
  const auto problem = make_problem(where, q, k, v, out);
  check(problem.k.length == problem.q.length, where, "k must have the length of q, wanted ", problem.q.length, ", got ",
        problem.k.length);
  const engine::TreeScores scores{options.scale, options.gaussian, options.bias};
  engine::TreeAttention(problem, tree, scores).run(executor);
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/parts/select/tree.hpp

// Tree search for the key blocks of a few queries: every key block of a coarse grid stands for its neighbours, the best
// are kept, and the grid is refined around them.
//
// Lee et al., "HiP Attention: Sparse Sub-Quadratic Attention with Hierarchical Attention Pruning", 2024,
// arXiv:2406.09827. Approximate: a high key behind a low representative is missed. Exact when all keys are asked for,
// and, for halve(), when inside each of the first groups the scores never rise.

namespace fovea::inline FOVEA_ISA::select {

// The largest product of some rows of queries with the keys of a block, for blocks anywhere in the cache. Products that
// are NaN do not count. Owns its scratch; one for each worker.
template <class T>
class BlockScores {
 public:
  // Rows of queries, `stride` apart; row r may see the keys before first_limit + r limit_step.
  struct Queries {
    const T* rows = nullptr;
    Index stride = 0;
    Index count = 0;
    Index first_limit = std::numeric_limits<Index>::max() / 2;
    Index limit_step = 0;
  };

  // Key j at rows + j stride, `count` of them; block b is the keys from b block on, as many as there are.
  struct Keys {
    const T* rows = nullptr;
    Index stride = 0;
    Index count = 0;
    Index block = 1;
  };

  // For at most `most_rows` rows of queries and blocks of `block` keys.
  BlockScores(Index dim, Index most_rows, Index block)
      : dim_(dim),
        depth_(simd::whole<T>(dim)),
        step_(std::max<Index>(4 * tile / block, 1)),
        padded_((step_ * block + tile - 1) / tile * tile),
        queries_(std::size_t(std::max(simd::whole<T>(most_rows), few) * depth_)),
        gathered_(std::size_t(padded_ * depth_)),
        products_(std::size_t(padded_ * std::max(simd::whole<T>(most_rows), few))),
        keys_(std::size_t(padded_)) {}

  // Takes over the queries of the calls that follow.
  void begin(const Queries& q) {
    q_ = q;
    if (q.count <= few) {
      for (Index r = 0; r < q.count; ++r) {
        T* const row = queries_.data() + r * depth_;
        simd::copy(row, q.rows + r * q.stride, dim_);
        std::fill(row + dim_, row + depth_, T(0));
      }
    } else {  // as columns; the columns behind the last row repeat it
      columns_ = simd::whole<T>(q.count);
      simd::transpose(q.count, dim_, q.rows, q.stride, queries_.data(), columns_);
      for (Index d = 0; d < dim_; ++d) {
        T* const row = queries_.data() + d * columns_;
        std::fill(row + q.count, row + columns_, row[q.count - 1]);
      }
    }
  }

  // scores[i] = the score of blocks[i], -infinity for a block that no row may see.
  void operator()(const Keys& k, std::span<const Index> blocks, T* scores) {
    const Index count = Index(blocks.size());
    for (Index i = 0; i < count; i += step_) {
      const Index some = std::min(step_, count - i);
      gather(k, blocks.subspan(std::size_t(i), std::size_t(some)));
      multiply(some * k.block);
      for (Index n = 0; n < some; ++n) {
        const Index block = blocks[std::size_t(i + n)];
        if ((block + 1) * k.block > q_.first_limit) hide(k, block, n * k.block);
        scores[i + n] = largest(n * k.block, k.block);
      }
    }
  }

 private:
  static constexpr Index few = 4;                     // rows that are better not made columns
  static constexpr Index tile = 2 * simd::tile_rows;  // keys of a register tile of one vector
  static constexpr T lowest = -std::numeric_limits<T>::infinity();

  bool as_rows() const { return q_.count <= few; }

  // The keys of some blocks, where they lie or, for few rows, side by side; a block that the end cuts repeats its last.
  void gather(const Keys& k, std::span<const Index> blocks) {
    Index n = 0;
    for (const Index b : blocks) {
      for (Index j = b * k.block; j < (b + 1) * k.block; ++j, ++n) {
        const T* const key = k.rows + std::min(j, k.count - 1) * k.stride;
        if (as_rows()) {
          simd::copy(gathered_.data() + n * depth_, key, dim_);
        } else {
          keys_[std::size_t(n)] = key;
        }
      }
    }
    if (!as_rows()) std::fill(keys_.begin() + n, keys_.end(), keys_.front());
  }

  // Products of all rows with `count` gathered keys: [keys x columns], or [rows x padded keys] for few rows.
  void multiply(Index count) {
    if (as_rows()) {
      simd::dot_rows(q_.count, queries_.data(), depth_, count, gathered_.data(), depth_, depth_, products_.data(),
                     padded_);
      return;
    }
    for (Index c = 0; c < columns_; c += 2 * simd::lanes<T>) {
      if (c + simd::lanes<T> < columns_) {
        for (Index j = 0; j < count; j += simd::tile_rows) product_tile<simd::tile_rows, 2>(j, c);
      } else {
        for (Index j = 0; j < count; j += 2 * simd::tile_rows) product_tile<2 * simd::tile_rows, 1>(j, c);
      }
    }
  }

  // A register tile: the keys from `first` on, read where they lie, with the columns from `column` on.
  template <int keys, int vectors>
  void product_tile(Index first, Index column) {
    const T* key[keys];
    simd::Pack<T> sum[keys][vectors];
#pragma GCC unroll 16
    for (int i = 0; i < keys; ++i) {
      key[i] = keys_[std::size_t(first + i)];
#pragma GCC unroll 2
      for (int j = 0; j < vectors; ++j) sum[i][j] = simd::Pack<T>(T(0));
    }
#pragma GCC unroll 4
    for (Index d = 0; d < dim_; ++d) {
      const T* const q = queries_.data() + d * columns_ + column;
      simd::Pack<T> row[vectors];
#pragma GCC unroll 2
      for (int j = 0; j < vectors; ++j) row[j] = simd::load(q + j * simd::lanes<T>);
#pragma GCC unroll 16
      for (int i = 0; i < keys; ++i) {
        const simd::Pack<T> x(key[i][d]);
#pragma GCC unroll 2
        for (int j = 0; j < vectors; ++j) sum[i][j] = simd::fma(x, row[j], sum[i][j]);
      }
    }
    T* const to = products_.data() + first * columns_ + column;
#pragma GCC unroll 16
    for (int i = 0; i < keys; ++i) {
#pragma GCC unroll 2
      for (int j = 0; j < vectors; ++j) simd::store(to + i * columns_ + j * simd::lanes<T>, sum[i][j]);
    }
  }

  // Takes out the products of rows that may not see a key.
  void hide(const Keys& k, Index block, Index first) {
    for (Index j = 0; j < k.block; ++j) {
      const Index key = std::min(block * k.block + j, k.count - 1);
      Index hidden = 0;
      while (hidden < q_.count && q_.first_limit + hidden * q_.limit_step <= key) ++hidden;
      if (as_rows()) {
        for (Index r = 0; r < hidden; ++r) products_[std::size_t(r * padded_ + first + j)] = lowest;
      } else {
        T* const row = products_.data() + (first + j) * columns_;
        std::fill(row, row + (hidden == q_.count ? columns_ : hidden), lowest);
      }
    }
  }

  // The largest product of the gathered keys [first, first + count).
  T largest(Index first, Index count) const {
    T most = lowest;
    if (as_rows()) {
      for (Index r = 0; r < q_.count; ++r) {
        for (Index j = first; j < first + count; ++j) most = std::max(most, products_[std::size_t(r * padded_ + j)]);
      }
      return most;
    }
    const T* const p = products_.data() + first * columns_;
    simd::Pack<T> sum(lowest);
    for (Index n = 0; n < count * columns_; n += simd::lanes<T>) sum = simd::at_least(simd::load(p + n), sum);
    return simd::max_of_lanes<T>(sum);
  }

  Index dim_, depth_, step_, padded_, columns_ = 0;
  Queries q_;
  std::vector<T> queries_, gathered_, products_;
  std::vector<const T*> keys_;
};

// The search itself. Owns its scratch, O(most); one for each worker. The blocks returned ascend and stay valid until
// the next call.
template <class T>
class TreeSearch {
 public:
  using Queries = typename BlockScores<T>::Queries;
  using Keys = typename BlockScores<T>::Keys;

  TreeSearch(Index dim, Index most_rows, Index block) : score_(dim, most_rows, block) {}

  // At most `most` of the blocks [0, blocks). They are cut into `most` groups of as equal size as can be; until every
  // group is one block, each is halved, a half scores as its first block does, and the best halves stay: equal ones by
  // position. A left half begins where its group did, so that only right halves are new products.
  std::span<const Index> halve(const Queries& q, const Keys& k, Index blocks, Index most) {
    chosen_.clear();
    if (blocks <= most) return all_of(blocks);
    score_.begin(q);
    groups_.clear();
    places_.clear();
    for (Index g = 0; g < most; ++g) {
      const Index start = blocks * g / most;
      groups_.push_back({start, blocks * (g + 1) / most - start, T(0)});
      places_.push_back(start);
    }
    scores_.resize(std::size_t(2 * most));
    fresh_.resize(std::size_t(most));
    score_(k, places_, fresh_.data());
    for (std::size_t g = 0; g < groups_.size(); ++g) groups_[g].score = fresh_[g];

    for (Index finer = most; finer < blocks; finer *= 2) {
      places_.clear();
      for (const Group& group : groups_) {
        if (group.size > 1) places_.push_back(group.start + group.size / 2);
      }
      score_(k, places_, fresh_.data());
      const T* right = fresh_.data();
      for (std::size_t g = 0; g < groups_.size(); ++g) {
        const bool halved = groups_[g].size > 1;
        scores_[2 * g] = halved ? groups_[g].score : lowest;
        scores_[2 * g + 1] = halved ? *right++ : groups_[g].score;
      }
      halves_.clear();
      for (const Index half : ranking_.top_k(scores_.data(), Index(2 * groups_.size()), most)) {
        const Group& group = groups_[std::size_t(half / 2)];
        const Index left = group.size / 2;
        if (half % 2 == 0) {
          halves_.push_back({group.start, left, scores_[std::size_t(half)]});
        } else {
          halves_.push_back({group.start + left, group.size - left, scores_[std::size_t(half)]});
        }
      }
      groups_.swap(halves_);
    }
    for (const Group& group : groups_) chosen_.push_back(group.start);
    return chosen_;
  }

  // How widen() refines: the first grid has `first` places, each next one `factor` times as many (rounded, halves away
  // from zero), of which `most` keys' worth are kept, in an early grid less, but never fewer than `least`.
  struct Widening {
    Index first = 0;
    double factor = 2;
    Index most = 0;
    Index least = 0;
  };

  // The form of the code that was released with the paper: places are fractions of the length and grids are widened
  // until they have a place for each key. In the end places of `tokens` are rounded down, those of blocks up and pushed
  // apart. All divisions are those of that code, in its order.
  std::span<const Index> widen(const Queries& q, const Keys& k, const Widening& grid, bool tokens) {
    const auto blocks_of = [&](Index keys) { return (keys + k.block - 1) / k.block; };
    const Index length = k.count, blocks = blocks_of(length);
    chosen_.clear();
    if (length <= 0) return chosen_;
    Index width = std::min(length, grid.first);
    places_at_.clear();
    for (Index i = 0; i < blocks_of(width); ++i) places_at_.push_back(double(i) / double(blocks_of(width)));
    if (width < length) score_.begin(q);
    while (width < length) {
      const Index next = std::min(Index(std::round(double(width) * grid.factor)), length);
      const double old_places = double(blocks_of(width)), new_places = double(blocks_of(next));
      finer_at_.clear();
      for (const double at : places_at_) {
        const double place = std::floor(at * old_places);
        const double first = std::floor(place / old_places * new_places);
        const double last = std::floor((place + 1) / old_places * new_places);
        for (double x = first; x < last; ++x) finer_at_.push_back(x / new_places);
      }
      const double share = std::min(double(blocks_of(grid.most)) / double(blocks), 1.0);
      const Index kept = std::min(blocks, std::max(blocks_of(grid.least), Index(std::floor(share * new_places))));
      if (kept < Index(finer_at_.size())) {
        places_.clear();
        for (const double at : finer_at_) places_.push_back(Index(std::floor(at * double(length))) / k.block);
        scores_.resize(places_.size());
        score_(k, places_, scores_.data());
        places_at_.clear();
        for (const Index n : ranking_.top_k(scores_.data(), Index(places_.size()), kept))
          places_at_.push_back(finer_at_[std::size_t(n)]);
      } else {
        places_at_.swap(finer_at_);
      }
      width = next;
    }
    Index last = -1;
    for (const double at : places_at_) {
      const double place = at * double(width);
      last = tokens ? Index(std::floor(place)) : std::max(last + 1, Index(std::ceil(place / double(k.block))));
      if (last < blocks) chosen_.push_back(last);
    }
    if (tokens) chosen_.erase(std::unique(chosen_.begin(), chosen_.end()), chosen_.end());
    return chosen_;
  }

 private:
  static constexpr T lowest = -std::numeric_limits<T>::infinity();

  struct Group {
    Index start, size;
    T score;  // of the block `start`
  };

  std::span<const Index> all_of(Index blocks) {
    for (Index b = 0; b < blocks; ++b) chosen_.push_back(b);
    return chosen_;
  }

  BlockScores<T> score_;
  Ranking<T> ranking_;
  std::vector<Group> groups_, halves_;
  std::vector<double> places_at_, finer_at_;
  std::vector<Index> places_, chosen_;
  std::vector<T> scores_, fresh_;
};

}  // namespace fovea::inline FOVEA_ISA::select

// fovea/hierarchical/hip.hpp

// Hierarchically pruned attention (HiP): a tree search finds the keys of each block of queries; sink tokens and the
// last keys are always kept. Training-free, prefill and decoding alike. Lee et al., "HiP Attention: Sparse
// Sub-Quadratic Attention with Hierarchical Attention Pruning", 2024, arXiv:2406.09827.
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j   over   { j <= i + M - N : j in S(block(i)) }
//   S   = the top_k keys the tree search finds | the last `window` keys the block sees | the first sink_tokens keys
//
// Approximate: the search takes one block of keys for its neighbours, and may miss one. The attention over S is exact.
// Dense causal attention where a block sees at most top_k + window keys. Cost for each head
// O(N top_k D log(M / top_k)) for the search and O(N (top_k + window + sink_tokens) (D + E)) for the attention.

namespace fovea::inline FOVEA_ISA {

// How the tree is searched:
//   integer_tree   groups of blocks are halved, as the paper has it; the keys of the window are not searched
//   compat_v1      the code released with the paper: a grid of fractions is widened. With query_block and key_block one
//                  its plain form, else its form of blocks, without the optional approximations of scores
enum class HipSearch { integer_tree, compat_v1 };

struct HipOptions {
  Index top_k = 512;       // keys that the search keeps for a block of queries
  Index query_block = 32;  // queries that share a selection, all when there are fewer; every second one searches
  Index key_block = 2;     // keys that are kept or left together
  Index window = 128;      // last keys that the last query of a block sees, its own included: always kept
  Index sink_tokens = 32;  // leading keys that are always kept
  bool causal = true;      // queries are the last tokens of the keys
  HipSearch search = HipSearch::integer_tree;
  double scale_up = 2;                // compat_v1: from one grid to the next
  std::optional<Index> grid = {};     // compat_v1: w_start, ceil(top_k scale_up) when empty
  std::optional<Index> patches = {};  // compat_v1: keys that every grid keeps, ceil(top_k / scale_up) when empty
  std::optional<double> scale = {};   // of the attention, 1 / sqrt(D) when empty; the search ranks q . k
};

namespace detail {

// Makes the lists of one call.
template <class T>
class HipSelection {
 public:
  HipSelection(const char* where, View<const T> q, View<const T> k, const HipOptions& options)
      : q_(q), k_(k), options_(options) {
    const auto positive = [&](Index x, const char* name) { check(x > 0, where, name, " must be positive, got ", x); };
    positive(options.top_k, "top_k");
    positive(options.query_block, "query_block");
    positive(options.key_block, "key_block");
    check(options.window >= 0, where, "window must not be negative, got ", options.window);
    check(options.sink_tokens >= 0, where, "sink_tokens must not be negative, got ", options.sink_tokens);
    // No block is longer than what there is.
    const Index keys = std::max<Index>(k.length, 1);
    options_.top_k = std::min(options.top_k, keys);
    options_.key_block = std::min(options.key_block, keys);
    options_.query_block = std::min(options.query_block, std::max<Index>(q.length, 1));
    if (options.search == HipSearch::integer_tree) return;

    const double scale_up = options.scale_up, most = double(options_.top_k);
    check(scale_up > 1 && scale_up <= 1024, where, "scale_up must be above 1 and at most 1024, got ", scale_up);
    const Index grid = options.grid.value_or(Index(std::ceil(most * scale_up)));
    const Index patches = options.patches.value_or(Index(std::ceil(most / scale_up)));
    positive(grid, "grid");
    positive(patches, "patches");
    const double first = std::min(std::round(double(grid) / scale_up), double(keys));
    check(std::round(first * scale_up) > first, where, "scale_up must widen the first grid of ", first, " places, got ",
          scale_up);
    widening_ = {Index(first), scale_up, options_.top_k, std::min(patches, keys)};
  }

  template <class Exec>
  mask::SpanTable run(const Exec& executor) const {
    const Index blocks = count_of(q_.length, options_.query_block), items = q_.batch * q_.heads * blocks;
    mask::SpanTable table{
        options_.query_block, std::max<Index>(q_.batch, 1), std::max<Index>(q_.heads, 1), blocks, {0}, {}};
    const double levels = std::log2(2 + double(k_.length) / double(options_.top_k));
    const double flops = levels * double(options_.query_block) * double(options_.top_k) * double(k_.dim);
    const Index workers =
        std::clamp<Index>(Index(flops * double(items) / 1e6), 1, std::max<Index>(exec::concurrency(executor), 1));
    std::vector<select::TreeSearch<T>> searches(std::size_t(workers),
                                                {k_.dim, options_.query_block, options_.key_block});
    std::vector<Spans> lists(std::size_t(std::min(items, at_once)));
    for (Index first = 0; first < items; first += at_once) {
      const Index count = std::min(at_once, items - first);
      std::atomic<Index> next{0};
      executor.parallel_for(workers, flops * double(count) / double(workers), [&](Index begin, Index end) {
        for (Index worker = begin; worker < end; ++worker) {
          for (Index n; (n = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
            const Index head = (first + n) / blocks;
            select_block(searches[std::size_t(worker)], head / q_.heads, head % q_.heads, (first + n) % blocks,
                         lists[std::size_t(n)]);
          }
        }
      });
      for (Index n = 0; n < count; ++n) {
        const Spans& list = lists[std::size_t(n)];
        table.spans.insert(table.spans.end(), list.begin(), list.end());
        table.begin.push_back(Index(table.spans.size()));
      }
    }
    table.begin.resize(std::size_t(table.batch * table.heads * blocks + 1), Index(table.spans.size()));
    return table;
  }

 private:
  using Search = select::TreeSearch<T>;
  using Spans = std::vector<Span>;

  static constexpr Index at_once = 1024;  // lists that are made before they are put into the table

  static Index count_of(Index n, Index block) { return (n + block - 1) / block; }

  // Spans come in ascending order of their beginnings.
  static void add(Spans& list, Span keys) {
    if (keys.empty()) return;
    if (!list.empty() && keys.first <= list.back().last) {
      list.back().last = std::max(list.back().last, keys.last);
    } else {
      list.push_back(keys);
    }
  }

  void select_block(Search& search, Index batch, Index head, Index block, Spans& list) const {
    const Span queries{block * options_.query_block, std::min((block + 1) * options_.query_block, q_.length)};
    const Index offset = k_.length - q_.length;
    const Index seen = options_.causal ? std::max<Index>(queries.last + offset, 0) : k_.length;
    const Index recent = std::max<Index>(seen - options_.window, 0);  // the first key of the window
    list.clear();
    add(list, {0, std::min(options_.sink_tokens, seen)});
    if (options_.search == HipSearch::integer_tree && recent <= options_.top_k) {
      add(list, {0, recent});
    } else {
      const T* const keys = k_.row(batch, head / (q_.heads / k_.heads), 0);
      const auto found = options_.search == HipSearch::integer_tree
                             ? halve(search, queries, q_.row(batch, head, queries.first), keys, seen, recent)
                             : widen(search, queries, q_.row(batch, head, queries.first), keys, offset);
      for (const Index b : found) {
        if (b * options_.key_block < recent)
          add(list, {b * options_.key_block, std::min((b + 1) * options_.key_block, seen)});
      }
    }
    add(list, {recent, seen});
  }

  // Every second query ranks, from the second on; a single one too.
  std::span<const Index> halve(Search& search, Span queries, const T* q, const T* keys, Index seen,
                               Index region) const {
    const Index stride = q_.length_stride, block = options_.key_block;
    const bool one = queries.size() == 1;
    return search.halve({one ? q : q + stride, 2 * stride, one ? 1 : queries.size() / 2},
                        {keys, k_.length_stride, seen, block}, count_of(region, block),
                        count_of(options_.top_k, block));
  }

  // Every second query ranks, from the first on, and of the keys only those that are `reach` behind it. The grid spans
  // the keys that the last query of a whole block sees.
  std::span<const Index> widen(Search& search, Span queries, const T* q, const T* keys, Index offset) const {
    const Index block = options_.key_block;
    const bool tokens = options_.query_block == 1 && block == 1;
    const Index reach = tokens ? 0 : std::max<Index>(options_.window - options_.query_block - block, 0);
    const Index length = offset + queries.first + std::max(options_.query_block, block);
    typename Search::Queries rows{q, 2 * q_.length_stride, count_of(queries.size(), 2)};
    if (options_.causal) {
      rows.first_limit = offset + queries.first - reach + 1;
      rows.limit_step = 2;
    }
    return search.widen(
        rows, {keys, k_.length_stride, options_.causal ? std::clamp<Index>(length, 0, k_.length) : k_.length, block},
        widening_, tokens);
  }

  const View<const T> q_, k_;
  HipOptions options_;
  typename Search::Widening widening_;
};

}  // namespace detail

// The keys of each block of queries: q [B,H,N,D], k [B,G,M,D], H a multiple of G, or matrices [N,D], [M,D]. One list
// for each query head. A plain object: keep it and use it again, in another layer or call of as many queries:
//
//   attend(q, k, v, out, softmax().mask(mask::spans(selection) & mask::causal()), executor);
template <class Q, class K, exec::Executor Exec = exec::Serial>
mask::SpanTable hip_selection(const Q& q, const K& k, const HipOptions& options = {}, const Exec& executor = {}) {
  constexpr auto where = "fovea::hip_selection";
  const auto queries = view(q);
  const auto keys = view(k);
  using T = std::remove_const_t<std::remove_pointer_t<decltype(queries.data)>>;
  static_assert(std::is_same_v<T, std::remove_const_t<std::remove_pointer_t<decltype(keys.data)>>>,
                "fovea: q and k must have the same scalar type");
  check(keys.batch == queries.batch, where, "k must have the batch of q, wanted ", queries.batch, ", got ", keys.batch);
  check(queries.dim > 0 && keys.dim == queries.dim, where, "k must have the width of q, wanted ", queries.dim, ", got ",
        keys.dim);
  check(queries.heads == 0 || (keys.heads > 0 && queries.heads % keys.heads == 0), where,
        "the heads of q must be a multiple of the heads of k, wanted a multiple of ", keys.heads, ", got ",
        queries.heads);
  return detail::HipSelection<T>(where, queries, keys, options).run(executor);
}

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; or matrices [N,D], [M,D], [M,E], [N,E].
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void hip(const Q& q, const K& k, const V& v, Out&& out, const HipOptions& options = {}, const Exec& executor = {}) {
  constexpr auto where = "fovea::hip";
  const auto problem = make_problem(where, q, k, v, out);
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  const detail::HipSelection<T> selection(where, problem.q, problem.k, options);
  const auto kept = softmax(options.scale).mask(mask::spans(selection.run(executor)));
  engine::attend(problem, kept.mask(mask::causal_if(options.causal)), executor);
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/parts/write/delta.hpp

// The delta rule: the value that the state predicts for a key is moved towards the new one.
//
//   S_t = S + k_t (beta_t (v_t - S^T k_t))^T
//
// The part of S along k_t is multiplied by 1 - beta_t |k_t|^2: with keys of length one, beta in [0, 2] never lets it
// grow.

namespace fovea::inline FOVEA_ISA::write {

template <class T>
struct BoundDelta {
  static constexpr bool corrects = true;

  View<const T> strengths;

  T beta(Index batch, Index kv_head, Index token) const { return *strengths.row(batch, kv_head, token); }
};

template <class U>
struct Delta {
  View<const U> strengths;

  template <class T>
  BoundDelta<T> bind(const char* where, const Shape& shape) const {
    static_assert(std::is_same_v<T, U>, "fovea: beta must have the scalar type of q");
    const auto& x = strengths;
    check(x.batch == shape.batch && x.heads == shape.kv_heads && x.length == shape.keys && x.dim == 1, where,
          "beta must be one number for each token and head of k, wanted [", shape.batch, ", ", shape.kv_heads, ", ",
          shape.keys, "], got [", x.batch, ", ", x.heads, ", ", x.length, "]");
    for (Index b = 0; b < x.batch; ++b) {
      for (Index h = 0; h < x.heads; ++h) {
        for (Index t = 0; t < x.length; ++t) {
          const T beta = *x.row(b, h, t);
          check(!(beta < T(0) || beta > T(2)), where, "beta must lie in [0, 2], got ", double(beta));
        }
      }
    }
    return {strengths};
  }
};

// beta [B,G,N], or a vector [N] beside matrices, each in [0, 2]: the user's memory.
template <class X>
auto delta(const X& beta) {
  const auto strengths = row_values(beta);
  return Delta<std::remove_const_t<std::remove_pointer_t<decltype(strengths.data)>>>{strengths};
}

}  // namespace fovea::inline FOVEA_ISA::write

// fovea/linear/delta.hpp

// The delta rule: a token replaces what the state holds under its key instead of adding to it.
// Yang et al., "Parallelizing Linear Transformers with the Delta Rule over Sequence Length", NeurIPS 2024,
// arXiv:2406.06484; Schlag et al., "Linear Transformers Are Secretly Fast Weight Programmers", ICML 2021,
// arXiv:2102.11174.
//
//   u_t = beta_t (v_t - S_{t-1}^T k_t)     S_t = S_{t-1} + k_t u_t^T     o_t = scale S_t^T q_t
//
// beta in [0, 2]. Keys are taken as they come: the part of the state along k_t is multiplied by 1 - beta_t |k_t|^2, so
// keys longer than one may make it grow; normalise them before. Self-attention over N = M tokens.
//
// Exact, recurrent and chunked alike; with orthonormal keys and beta one it returns the value stored under a key. Cost
// O(N D E) for each head, chunked O(N (chunk (D + E) + D E)) at the speed of matrix products; memory D E.

namespace fovea::inline FOVEA_ISA {

struct RecurrentDeltaOptions {
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

struct ChunkDeltaOptions {
  std::optional<double> scale = {};     // 1 / sqrt(D) when empty
  Index chunk = engine::default_chunk;  // tokens of a chunk; any number gives the same result
};

// q [B,H,N,D], k [B,G,N,D], v [B,G,N,E], beta [B,G,N], out [B,H,N,E], H a multiple of G; or matrices [N,D], [N,D],
// [N,E] and [N,E] with beta a vector [N]. Refuses a beta outside [0, 2]. with_state(out, state) goes on from a state
// [B,G,D,E] and leaves it behind; it is all zeros without.
template <class Q, class K, class V, class Beta, class Out, exec::Executor Exec = exec::Serial>
void recurrent_delta(const Q& q, const K& k, const V& v, const Beta& beta, Out&& out,
                     const RecurrentDeltaOptions& options = {}, const Exec& executor = {}) {
  const auto problem = make_problem("fovea::recurrent_delta", q, k, v, state::output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  engine::recur(problem, state::of<T>(out), linear(options.scale).write(write::delta(beta)), executor);
}

// Arrays as for recurrent_delta.
template <class Q, class K, class V, class Beta, class Out, exec::Executor Exec = exec::Serial>
void chunk_delta(const Q& q, const K& k, const V& v, const Beta& beta, Out&& out, const ChunkDeltaOptions& options = {},
                 const Exec& executor = {}) {
  const auto problem = make_problem("fovea::chunk_delta", q, k, v, state::output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  engine::chunk(problem, state::of<T>(out), linear(options.scale).write(write::delta(beta)), options.chunk, executor);
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/parts/decay/per_channel.hpp

// One log decay for each token and row of the state: S_t = Diag(e^g_t) S_{t-1} + ...

namespace fovea::inline FOVEA_ISA::decay {

template <class T>
struct BoundPerChannel {
  static constexpr Kind kind = Kind::per_channel;

  View<const T> gates;

  const T* log_gates(Index batch, Index kv_head, Index token) const { return gates.row(batch, kv_head, token); }
};

template <class U>
struct PerChannel {
  View<const U> gates;

  template <class T>
  BoundPerChannel<T> bind(const char* where, const Shape& shape, Index width) const {
    static_assert(std::is_same_v<T, U>, "fovea: log gates must have the scalar type of q");
    detail::check_gates(where, gates, shape, width);
    return {gates};
  }
};

// log_gate [B,G,N,D] (the width of the features where keys become features), or a matrix [N,D]: the user's memory.
template <class X>
auto per_channel(const X& log_gate) {
  const auto gates = view(log_gate);
  return PerChannel<std::remove_const_t<std::remove_pointer_t<decltype(gates.data)>>>{gates};
}

}  // namespace fovea::inline FOVEA_ISA::decay

// fovea/parts/decay/gate.hpp

// The decay that an array of log gates asks for by its axes: those of q give one for each channel, those of q without
// the last one for each token.

namespace fovea::inline FOVEA_ISA::decay {

namespace detail {

template <class X>
inline constexpr bool is_decay = false;
template <class U>
inline constexpr bool is_decay<PerToken<U>> = true;
template <class U>
inline constexpr bool is_decay<PerChannel<U>> = true;

// Axes of an array; a vector in the place of a matrix has two.
template <class X>
constexpr int axes(bool matrix) {
  if constexpr (fovea::detail::is_view<X>) {
    return 4;
  } else if constexpr (fovea::detail::TensorLike<X>) {
    return int(X::NumIndices);
  } else {
    return !matrix && bool(X::IsVectorAtCompileTime) ? 1 : 2;
  }
}

}  // namespace detail

// Beside a tensor q [B,H,N,D]: log_gate [B,G,N] or [B,G,N,D]; beside a matrix q [N,D]: a vector [N] or a matrix [N,D].
// Views have four axes; one number for each token is then said as decay::per_token(view).
template <class Q, class Gate>
auto gate(const Gate& log_gate) {
  if constexpr (detail::is_decay<Gate>) {
    return log_gate;
  } else {
    constexpr int wanted = detail::axes<Q>(true), got = detail::axes<Gate>(false);
    static_assert(got == wanted || got + 1 == wanted,
                  "fovea: log gates must have the axes of q, or those but the last");
    if constexpr (got == wanted) {
      return per_channel(log_gate);
    } else {
      return per_token(log_gate);
    }
  }
}

}  // namespace fovea::inline FOVEA_ISA::decay

// fovea/linear/gated_delta.hpp

// The gated delta rule: the state decays, then a token replaces what is left under its key.
// Yang et al., "Gated Delta Networks: Improving Mamba2 with Delta Rule", ICLR 2025, arXiv:2412.06464; a gate for each
// channel: Kimi Team, "Kimi Linear", 2025, arXiv:2510.26692.
//
//   S' = Diag(e^g_t) S_{t-1}     u_t = beta_t (v_t - S'^T k_t)     S_t = S' + k_t u_t^T     o_t = scale S_t^T q_t
//
// log_gate g <= 0: [B,G,N], one number for a token and kv head, or [B,G,N,D], one for each channel of the keys (Kimi
// Delta Attention); -infinity is legal and starts the state anew. beta in [0, 2]. Keys are taken as they come: longer
// than one they may make the state grow; normalise them before. Self-attention over N = M tokens.
//
// Exact, recurrent and chunked alike; equals delta when all gates are zero. Cost O(N D E) for each head, chunked
// O(N (chunk (D + E) + D E)) at the speed of matrix products; memory D E.

namespace fovea::inline FOVEA_ISA {

struct RecurrentGatedDeltaOptions {
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

struct ChunkGatedDeltaOptions {
  std::optional<double> scale = {};     // 1 / sqrt(D) when empty
  Index chunk = engine::default_chunk;  // tokens of a chunk; any number gives the same result
};

// q [B,H,N,D], k [B,G,N,D], v [B,G,N,E], log_gate [B,G,N] or [B,G,N,D], beta [B,G,N], out [B,H,N,E], H a multiple of G;
// or matrices [N,D], [N,D], [N,E] and [N,E] with log_gate a vector [N] or a matrix [N,D] and beta a vector [N]. A
// decay::per_token(view) or decay::per_channel(view) is taken for log_gate as well. Refuses a gate above zero and a
// beta outside [0, 2]. with_state(out, state) goes on from a state [B,G,D,E] and leaves it behind; it is all zeros
// without.
template <class Q, class K, class V, class Gate, class Beta, class Out, exec::Executor Exec = exec::Serial>
void recurrent_gated_delta(const Q& q, const K& k, const V& v, const Gate& log_gate, const Beta& beta, Out&& out,
                           const RecurrentGatedDeltaOptions& options = {}, const Exec& executor = {}) {
  const auto problem = make_problem("fovea::recurrent_gated_delta", q, k, v, state::output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  const auto recipe = linear(options.scale).decay(decay::gate<Q>(log_gate)).write(write::delta(beta));
  engine::recur(problem, state::of<T>(out), recipe, executor);
}

// Arrays as for recurrent_gated_delta.
template <class Q, class K, class V, class Gate, class Beta, class Out, exec::Executor Exec = exec::Serial>
void chunk_gated_delta(const Q& q, const K& k, const V& v, const Gate& log_gate, const Beta& beta, Out&& out,
                       const ChunkGatedDeltaOptions& options = {}, const Exec& executor = {}) {
  const auto problem = make_problem("fovea::chunk_gated_delta", q, k, v, state::output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  const auto recipe = linear(options.scale).decay(decay::gate<Q>(log_gate)).write(write::delta(beta));
  engine::chunk(problem, state::of<T>(out), recipe, options.chunk, executor);
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/linear/gated_linear.hpp

// Gated linear attention: the state decays by gates that come with the tokens.
// Yang et al., "Gated Linear Attention Transformers with Hardware-Efficient Training", ICML 2024, arXiv:2312.06635.
// One gate for a token and head: Dao and Gu, "Transformers are SSMs", ICML 2024, arXiv:2405.21060.
//
//   S_t = Diag(e^g_t) S_{t-1} + k_t v_t^T     o_t = scale S_t^T q_t
//
// log_gate g <= 0: [B,G,N], one number for a token and kv head, or [B,G,N,D], one for each channel of the keys. A token
// decays what came before it, not itself. -infinity is legal and starts the state anew. Self-attention over N = M
// tokens.
//
// Exact, recurrent and chunked alike; equals retention when all gates of a head are equal. Cost O(N D E) for each head,
// chunked O(N (chunk (D + E) + D E)) at the speed of matrix products; memory D E.

namespace fovea::inline FOVEA_ISA {

struct RecurrentGatedLinearOptions {
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

struct ChunkGatedLinearOptions {
  std::optional<double> scale = {};     // 1 / sqrt(D) when empty
  Index chunk = engine::default_chunk;  // tokens of a chunk; any number gives the same result
};

// q [B,H,N,D], k [B,G,N,D], v [B,G,N,E], log_gate [B,G,N] or [B,G,N,D], out [B,H,N,E], H a multiple of G; or matrices
// [N,D], [N,D], [N,E] and [N,E] with log_gate a vector [N] or a matrix [N,D]. A decay::per_token(view) or
// decay::per_channel(view) is taken as well. Refuses a gate above zero. with_state(out, state) goes on from a state
// [B,G,D,E] and leaves it behind; it is all zeros without.
template <class Q, class K, class V, class Gate, class Out, exec::Executor Exec = exec::Serial>
void recurrent_gated_linear(const Q& q, const K& k, const V& v, const Gate& log_gate, Out&& out,
                            const RecurrentGatedLinearOptions& options = {}, const Exec& executor = {}) {
  const auto problem = make_problem("fovea::recurrent_gated_linear", q, k, v, state::output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  engine::recur(problem, state::of<T>(out), linear(options.scale).decay(decay::gate<Q>(log_gate)), executor);
}

// Arrays as for recurrent_gated_linear.
template <class Q, class K, class V, class Gate, class Out, exec::Executor Exec = exec::Serial>
void chunk_gated_linear(const Q& q, const K& k, const V& v, const Gate& log_gate, Out&& out,
                        const ChunkGatedLinearOptions& options = {}, const Exec& executor = {}) {
  const auto problem = make_problem("fovea::chunk_gated_linear", q, k, v, state::output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  engine::chunk(problem, state::of<T>(out), linear(options.scale).decay(decay::gate<Q>(log_gate)), options.chunk,
                executor);
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/parts/feature/projection.hpp

// Learned or drawn matrices that tokens are multiplied by: y = W x + b, one matrix for all heads or one for each.

namespace fovea::inline FOVEA_ISA::feature {

// The matrices of a call, transposed: [heads, in, whole vectors of out], and the b [heads, whole vectors of out].
template <class T>
struct BoundProjection {
  const T* weights = nullptr;
  const T* bias = nullptr;  // null when there is none
  Index in = 0, out = 0;
  Index sharing = 1;  // heads of the call that use one matrix

  Index width() const { return out; }

  // to = W x + b; to_stride is whole<T>(out) at least.
  template <Side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row first) const {
    const Index columns = simd::whole<T>(out);
    const Index head = first.head / sharing;
    const T* const w = weights + head * in * columns;
    Index i = 0;
    const auto run = [&](auto some) {
      constexpr int rows = decltype(some)::value;
      simd::multiply_rows<rows, simd::Onto::nothing>(columns, in, x + i * stride, stride, w, columns,
                                                     to + i * to_stride, to_stride);
      i += rows;
    };
    while (count - i >= simd::tile_rows) run(std::integral_constant<int, simd::tile_rows>{});
    if (count - i >= 4) run(std::integral_constant<int, 4>{});
    while (count - i >= 1) run(std::integral_constant<int, 1>{});
    if (bias == nullptr) return;
    const T* const b = bias + head * columns;
    for (i = 0; i < count; ++i) {
      for (Index j = 0; j < columns; j += simd::lanes<T>)
        simd::store(to + i * to_stride + j, simd::load(to + i * to_stride + j) + simd::load(b + j));
    }
  }
};

class Projection {
 public:
  Projection() = default;

  // weights [heads, out, in] (batch 1), bias [heads, out, 1] or nothing; both are copied.
  template <class T>
  explicit Projection(View<const T> weights, View<const T> bias = {})
      : heads_(checked(weights, bias).heads),
        out_(weights.length),
        in_(weights.dim),
        single_(lay_out<float>(weights, bias)),
        double_(lay_out<double>(weights, bias)) {}

  Index heads() const { return heads_; }
  Index out() const { return out_; }
  Index in() const { return in_; }

  // For tokens of dim numbers in `heads` heads, of which every heads / heads() in turn use one matrix.
  template <class T>
  BoundProjection<T> bind(const char* where, Index heads, Index dim) const {
    check(in_ == dim, where, "the weights of the feature map must have the width of q, wanted ", dim, ", got ", in_);
    check(heads_ > 0 && heads % heads_ == 0, where, "the matrices of the feature map must divide the heads, wanted ",
          "a divisor of ", heads, ", got ", heads_);
    BoundProjection<T> bound;
    if constexpr (std::is_same_v<T, float>) {
      bound.weights = single_.numbers.get();
      bound.bias = single_.bias;
    } else {
      bound.weights = double_.numbers.get();
      bound.bias = double_.bias;
    }
    bound.in = in_;
    bound.out = out_;
    bound.sharing = heads > 0 ? heads / heads_ : 1;
    return bound;
  }

 private:
  template <class T>
  static const View<const T>& checked(const View<const T>& weights, const View<const T>& bias) {
    constexpr auto where = "fovea::feature::Projection";
    check(weights.batch == 1, where, "weights are [heads, out, in], got a batch of ", weights.batch);
    check(weights.heads > 0 && weights.length > 0 && weights.dim > 0, where, "weights must not be empty, got [",
          weights.heads, ", ", weights.length, ", ", weights.dim, "]");
    check(bias.data == nullptr ||
              (bias.batch == 1 && bias.heads == weights.heads && bias.length == weights.length && bias.dim == 1),
          where, "bias must have one number for each row of the weights, wanted [", weights.heads, ", ", weights.length,
          "], got [", bias.heads, ", ", bias.length, "]");
    return weights;
  }

  template <class T>
  struct Laid {
    std::shared_ptr<const T[]> numbers = {};
    const T* bias = nullptr;
  };

  template <class T, class From>
  static Laid<T> lay_out(const View<const From>& weights, const View<const From>& bias) {
    constexpr auto alignment = std::align_val_t(64);
    const Index in = weights.dim, out = weights.length, columns = simd::whole<T>(out), heads = weights.heads;
    const Index count = heads * (in + 1) * columns;
    T* const numbers = static_cast<T*>(::operator new(std::size_t(count) * sizeof(T) + 64, alignment));
    Laid<T> result{
        std::shared_ptr<const T[]>(numbers, [](const T* p) { ::operator delete(const_cast<T*>(p), alignment); }),
        bias.data == nullptr ? nullptr : numbers + heads * in * columns};
    for (Index n = 0; n < count; ++n) numbers[n] = T(0);
    for (Index h = 0; h < heads; ++h) {
      for (Index o = 0; o < out; ++o) {
        for (Index i = 0; i < in; ++i) numbers[(h * in + i) * columns + o] = T(weights.row(0, h, o)[i]);
        if (bias.data != nullptr) numbers[(heads * in + h) * columns + o] = T(*bias.row(0, h, o));
      }
    }
    return result;
  }

  Index heads_ = 0, out_ = 0, in_ = 0;
  Laid<float> single_ = {};
  Laid<double> double_ = {};
};

}  // namespace fovea::inline FOVEA_ISA::feature

// fovea/parts/feature/softmax.hpp

// phi(x) = softmax over the D numbers of x: positive features whose sum is one.

namespace fovea::inline FOVEA_ISA::feature {

namespace detail {

// to = the softmax of n numbers; to may be x. NaN or nothing but -infinity gives NaN.
template <class T>
void softmax_row(const T* x, Index n, T* to) {
  const simd::Pack<T> most(simd::largest(x, n));
  simd::Pack<T> sums(T(0));
  Index j = 0;
  for (; j + simd::lanes<T> <= n; j += simd::lanes<T>) {
    const simd::Pack<T> weight = simd::exp_in_range<T>(simd::load(x + j) - most);
    sums = sums + weight;
    simd::store(to + j, weight);
  }
  if (j < n) {
    const simd::Pack<T> weight = simd::exp_in_range<T>(simd::load_some(x + j, n - j, -simd::infinity<T>) - most);
    sums = sums + weight;
    simd::store_some(to + j, weight, n - j);
  }
  simd::scale(to, n, T(1) / simd::sum_of_lanes<T>(sums));
}

}  // namespace detail

template <class T>
struct BoundSoftmax {
  Index dim;

  Index width() const { return dim; }

  template <Side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row) const {
    for (Index i = 0; i < count; ++i) detail::softmax_row(x + i * stride, dim, to + i * to_stride);
  }
};

struct Softmax {
  template <class T>
  BoundSoftmax<T> bind(const char*, const Shape&, Index dim) const {
    return {dim};
  }
};

inline Softmax softmax() { return {}; }

}  // namespace fovea::inline FOVEA_ISA::feature

// fovea/parts/feature/hedgehog.hpp

// Learned features that mimic softmax: y = W x + b in each head, and F = 2 D features of [y, -y].
// Zhang et al., "The Hedgehog & the Porcupine", ICLR 2024, arXiv:2402.04347.
//
//   hedgehog           phi = [softmax(y), softmax(-y)], no feature below 1e-12
//   hedgehog_joint     phi = softmax([2 y, -2 y])
//   hedgehog_exp       phi = [e^y, e^-y], with shifts that keep it in range (exponential.hpp); the form of the paper

namespace fovea::inline FOVEA_ISA::feature {

namespace detail {

// The projections of queries and keys of a call.
template <class T>
struct BoundSides {
  BoundProjection<T> query, key;

  template <Side side>
  const BoundProjection<T>& of() const {
    if constexpr (side == Side::query) {
      return query;
    } else {
      return key;
    }
  }
};

// Matrices for queries, one or as many as kv heads or query heads, and for keys, one or as many as kv heads.
struct Sides {
  Projection query, key;

  template <class T>
  BoundSides<T> bind(const char* where, const Shape& shape, Index dim) const {
    check(query.out() == key.out(), where, "queries and keys must get as many features, got ", query.out(), " and ",
          key.out());
    return {query.bind<T>(where, shape.heads, dim), key.bind<T>(where, shape.kv_heads, dim)};
  }
};

}  // namespace detail

// [softmax(y), softmax(-y)], or the softmax of [2 y, -2 y] when joint.
template <class T, bool joint>
struct BoundHedgehog {
  detail::BoundSides<T> sides;

  Index width() const { return 2 * sides.key.out; }

  template <Side side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row first) const {
    sides.template of<side>().template operator()<side>(x, stride, count, to, to_stride, first);
    const Index n = sides.key.out;
    for (Index i = 0; i < count; ++i) {
      T* const row = to + i * to_stride;
      simd::mirror(row, row + n, n, joint ? T(2) : T(1), T(0));
      if constexpr (joint) {
        detail::softmax_row(row, 2 * n, row);
      } else {
        detail::softmax_row(row, n, row);
        detail::softmax_row(row + n, n, row + n);
        simd::map_row(row, 2 * n, row, [](simd::Pack<T> v) { return simd::at_least(simd::Pack<T>(T(1e-12)), v); });
      }
    }
  }
};

template <bool joint>
struct Hedgehog {
  detail::Sides sides;

  template <class T>
  BoundHedgehog<T, joint> bind(const char* where, const Shape& shape, Index dim) const {
    return {sides.bind<T>(where, shape, dim)};
  }
};

// The exponents [y, -y].
template <class T>
struct BoundMirror {
  detail::BoundSides<T> sides;

  Index width() const { return 2 * sides.key.out; }

  template <Side side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row first) const {
    sides.template of<side>().template operator()<side>(x, stride, count, to, to_stride, first);
    const Index n = sides.key.out;
    for (Index i = 0; i < count; ++i) simd::mirror(to + i * to_stride, to + i * to_stride + n, n, T(1), T(0));
  }
};

struct HedgehogExp {
  static constexpr bool exponential = true;

  detail::Sides sides;

  template <class T>
  BoundExponential<T, BoundMirror<T>> bind(const char* where, const Shape& shape, Index dim) const {
    return {BoundMirror<T>{sides.bind<T>(where, shape, dim)}};
  }
};

// One projection for queries and keys, with one matrix or one for each kv head; or one for queries, which may have one
// for each query head, and one for keys.
inline Hedgehog<false> hedgehog(const Projection& both) { return {{both, both}}; }
inline Hedgehog<false> hedgehog(const Projection& query, const Projection& key) { return {{query, key}}; }
inline Hedgehog<true> hedgehog_joint(const Projection& both) { return {{both, both}}; }
inline Hedgehog<true> hedgehog_joint(const Projection& query, const Projection& key) { return {{query, key}}; }
inline HedgehogExp hedgehog_exp(const Projection& both) { return {{both, both}}; }
inline HedgehogExp hedgehog_exp(const Projection& query, const Projection& key) { return {{query, key}}; }

}  // namespace fovea::inline FOVEA_ISA::feature

// fovea/linear/hedgehog.hpp

// Hedgehog: linear attention with learned features that mimic softmax.
// Zhang et al., "The Hedgehog & the Porcupine: Expressive Linear Attentions with Softmax Mimicry", ICLR 2024,
// arXiv:2402.04347.
//
//   o_i = sum_j (phi(q_i) . phi(k_j)) v_j / (sum_j phi(q_i) . phi(k_j) + epsilon)
//
//   hedgehog                              over all keys
//   chunk_hedgehog, recurrent_hedgehog    over  { j <= i + M - N }; chunk by chunk, or token by token as in decoding
//
// phi is one of feature::hedgehog, hedgehog_joint and hedgehog_exp over y = W x + b (parts/feature/hedgehog.hpp); F = 2
// D. The exponential form is shifted: queries by their largest exponent, keys by the largest one of all keys, for
// causal calls of all keys so far; epsilon is added to what is shifted. There is no 1 / sqrt(D).
//
// The paper's equations are from memory, held against two implementations of other authors: verify before relying on a
// detail. Exact for this definition; an approximation of softmax attention as good as W. Cost O((N + M) D (D + E)),
// causal chunks O(N (chunk (D + E) + D (D + E))), for each head.

namespace fovea::inline FOVEA_ISA {

struct HedgehogOptions {
  std::optional<double> epsilon = {};  // 1e-12 when empty, 0 for the exponential form
};

struct ChunkHedgehogOptions {
  std::optional<double> epsilon = {};   // as in HedgehogOptions
  Index chunk = engine::default_chunk;  // tokens of a chunk
};

namespace detail {

template <class Phi>
concept HedgehogMap = std::same_as<Phi, feature::Hedgehog<false>> || std::same_as<Phi, feature::Hedgehog<true>> ||
    std::same_as<Phi, feature::HedgehogExp>;

template <HedgehogMap Phi>
auto hedgehog_recipe(const Phi& phi, const std::optional<double>& epsilon) {
  return linear(1.0).feature(phi).normalizer(
      normalizer::sum_eps(epsilon.value_or(feature::wants_shift<Phi>() ? 0 : 1e-12)));
}

}  // namespace detail

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; or matrices [N,D], [M,D], [M,E], [N,E].
// with_state(out, state) goes on from a state and leaves it behind: a MatrixState, for hedgehog_exp a ShiftedState.
// Keys of the state count as seen by every query.
template <class Q, class K, class V, class Out, detail::HedgehogMap Phi, exec::Executor Exec = exec::Serial>
void hedgehog(const Q& q, const K& k, const V& v, Out&& out, const Phi& phi, const HedgehogOptions& options = {},
              const Exec& executor = {}) {
  const auto problem = make_problem("fovea::hedgehog", q, k, v, state::plain_output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  auto* const memory = state::kernelised<T, feature::wants_shift<Phi>()>(out);
  engine::kernelised(problem, memory, detail::hedgehog_recipe(phi, options.epsilon), executor);
}

// Arrays and states as for hedgehog. Later tokens do not change earlier outputs.
template <class Q, class K, class V, class Out, detail::HedgehogMap Phi, exec::Executor Exec = exec::Serial>
void chunk_hedgehog(const Q& q, const K& k, const V& v, Out&& out, const Phi& phi,
                    const ChunkHedgehogOptions& options = {}, const Exec& executor = {}) {
  constexpr auto where = "fovea::chunk_hedgehog";
  const auto problem = make_problem(where, q, k, v, state::plain_output(out));
  check(options.chunk > 0, where, "chunk must be positive, got ", options.chunk);
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  auto* const memory = state::kernelised<T, feature::wants_shift<Phi>()>(out);
  engine::causal_kernelised(problem, memory, detail::hedgehog_recipe(phi, options.epsilon), executor,
                            engine::by_chunk(options.chunk));
}

// Arrays and states as for hedgehog; each token reads and writes the state once.
template <class Q, class K, class V, class Out, detail::HedgehogMap Phi, exec::Executor Exec = exec::Serial>
void recurrent_hedgehog(const Q& q, const K& k, const V& v, Out&& out, const Phi& phi,
                        const HedgehogOptions& options = {}, const Exec& executor = {}) {
  const auto problem = make_problem("fovea::recurrent_hedgehog", q, k, v, state::plain_output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  auto* const memory = state::kernelised<T, feature::wants_shift<Phi>()>(out);
  engine::causal_kernelised(problem, memory, detail::hedgehog_recipe(phi, options.epsilon), executor,
                            engine::by_token());
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/parts/feature/elementwise.hpp

// Maps that take every number of a row by itself: F = D.

namespace fovea::inline FOVEA_ISA::feature {

// f(Pack<T>) gives the features of a vector of numbers.
template <class T, class F>
struct BoundElementwise {
  Index dim;
  F f;

  Index width() const { return dim; }

  template <Side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row) const {
    for (Index i = 0; i < count; ++i) simd::map_row(x + i * stride, dim, to + i * to_stride, f);
  }
};

template <class T, class F>
BoundElementwise<T, F> elementwise(Index dim, F f) {
  return {dim, f};
}

}  // namespace fovea::inline FOVEA_ISA::feature

// fovea/parts/feature/elu_plus_one.hpp

// phi(x) = elu(x) + 1, which is x + 1 above zero and e^x below. Katharopoulos et al. 2020, arXiv:2006.16236.

namespace fovea::inline FOVEA_ISA::feature {

struct EluPlusOne {
  template <class T>
  auto bind(const char*, const Shape&, Index dim) const {
    return elementwise<T>(dim, [](simd::Pack<T> x) {
      const simd::Pack<T> zero(T(0));
      return simd::at_least(zero, x) + simd::exp_in_range<T>(simd::at_most(zero, x));
    });
  }
};

inline EluPlusOne elu_plus_one() { return {}; }

}  // namespace fovea::inline FOVEA_ISA::feature

// fovea/parts/feature/normalized.hpp

// Features divided by their own sum: phi(x) / (sum_f phi_f(x) + epsilon); zeros when that is zero.

namespace fovea::inline FOVEA_ISA::feature {

template <class T, class Bound>
struct BoundNormalized {
  Bound inner;
  bool divides;
  T epsilon;

  Index width() const { return inner.width(); }

  template <Side side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row first) const {
    inner.template operator()<side>(x, stride, count, to, to_stride, first);
    for (Index i = 0; divides && i < count; ++i) {
      const T sum = simd::total(to + i * to_stride, width()) + epsilon;
      simd::scale(to + i * to_stride, width(), sum == T(0) ? T(0) : T(1) / sum);
    }
  }
};

template <class Phi>
struct Normalized {
  Phi inner;
  std::optional<double> epsilon;

  template <class T>
  auto bind(const char* where, const Shape& shape, Index dim) const {
    const double added = epsilon.value_or(0);
    check(added >= 0 && std::isfinite(added), where, "the epsilon of feature::normalized must not be negative, got ",
          added);
    auto bound = inner.template bind<T>(where, shape, dim);
    return BoundNormalized<T, decltype(bound)>{std::move(bound), epsilon.has_value(), T(added)};
  }
};

// Without an epsilon the features stay as they are.
template <class Phi>
Normalized<Phi> normalized(const Phi& phi, std::optional<double> epsilon = 1e-4) {
  static_assert(!has_signed_features<Phi>(), "fovea: features that may be negative cannot be divided by their sum");
  return {phi, epsilon};
}

}  // namespace fovea::inline FOVEA_ISA::feature

// fovea/linear/linear.hpp

// Kernelised linear attention: softmax's e^(q . k) replaced by phi(q) . phi(k).
// Katharopoulos et al., "Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention", ICML 2020,
// arXiv:2006.16236.
//
//   S_i = sum_j phi(k_j) v_j^T,   z_i = sum_j phi(k_j),   o_i = scale phi(q_i)^T S_i / (scale phi(q_i) . z_i + epsilon)
//
//   linear                            over all keys
//   chunk_linear, recurrent_linear    over  { j <= i + M - N }; chunk by chunk, or token by token as in decoding
//
// phi is any map of parts/feature: elu_plus_one (the default), relu, squared_relu, exp, softmax, each(f), map(F, f),
// ... Normalizers other than sum_eps: clamp divides by max(scale phi(q_i) . z_i, epsilon); none does not divide; k_norm
// divides phi(q) and phi(k) by (their own sum + epsilon) instead. A divisor of exactly zero gives a row of zeros.
// Exponential maps (exp) are shifted: queries by their largest exponent, keys by the largest one of all keys, for
// causal calls of all keys so far; epsilon is added to what is shifted.
//
// Exact for this definition, whatever the chunk. Cost O((N + M) F E), causal chunks O(N (chunk (F + E) + F E)), for
// each head; memory F E for each piece of 512 keys or more, or the state.

namespace fovea::inline FOVEA_ISA {

enum class LinearNormalizer { sum_eps, clamp, none, k_norm };

struct LinearOptions {
  LinearNormalizer normalizer = LinearNormalizer::sum_eps;
  std::optional<double> epsilon = {};  // 1e-6 when empty, for k_norm 1e-4, for exponential maps 0
  std::optional<double> scale = {};    // when empty 1 for sum_eps and clamp, 1 / sqrt(D) for none and k_norm
};

struct ChunkLinearOptions {
  LinearNormalizer normalizer = LinearNormalizer::sum_eps;
  std::optional<double> epsilon = {};  // as in LinearOptions
  std::optional<double> scale = {};
  Index chunk = engine::default_chunk;  // tokens of a chunk
};

namespace detail {

// Calls run(problem, state or null, recipe) with the recipe of a call.
template <class Q, class K, class V, class Out, class Phi, class Run>
void with_linear_recipe(const char* where, const Q& q, const K& k, const V& v, Out& out, const Phi& phi,
                        const LinearOptions& options, const Run& run) {
  constexpr bool exponential = feature::wants_shift<Phi>();
  const auto problem = make_problem(where, q, k, v, state::plain_output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  auto* const memory = state::kernelised<T, exponential>(out);
  const auto rule = options.normalizer;
  const double epsilon = options.epsilon.value_or(exponential ? 0 : 1e-6);
  const auto division = rule == LinearNormalizer::sum_eps ? normalizer::sum_eps(epsilon)
                        : rule == LinearNormalizer::clamp ? normalizer::clamp(epsilon)
                                                          : normalizer::none();
  const auto recipe = linear(options.scale).normalizer(division);
  if constexpr (exponential || feature::has_signed_features<Phi>()) {
    check(rule != LinearNormalizer::k_norm, where,
          exponential ? "k_norm divides by sums that an exponential map knows up to a factor only; feature::softmax is "
                        "the map that it would make"
                      : "features that may be negative have no sum to divide by: the normalizer must be none");
    run(problem, memory, recipe.feature(phi));
  } else {
    std::optional<double> own;  // one map for all normalizers: the engines are compiled once
    if (rule == LinearNormalizer::k_norm) own = options.epsilon.value_or(1e-4);
    run(problem, memory, recipe.feature(feature::normalized(phi, own)));
  }
}

}  // namespace detail

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; or matrices [N,D], [M,D], [M,E], [N,E].
// with_state(out, state) goes on from a state and leaves it behind: a MatrixState, or a ShiftedState where phi is an
// exponential. Keys of the state count as seen by every query. Refuses maps with negative features unless the
// normalizer is none, and exponential maps with none or k_norm.
template <class Q, class K, class V, class Out, feature::Feature Phi = feature::EluPlusOne,
          exec::Executor Exec = exec::Serial>
void linear(const Q& q, const K& k, const V& v, Out&& out, const Phi& phi = {}, const LinearOptions& options = {},
            const Exec& executor = {}) {
  detail::with_linear_recipe("fovea::linear", q, k, v, out, phi, options,
                             [&](const auto& problem, auto* state, const auto& recipe) {
                               engine::kernelised(problem, state, recipe, executor);
                             });
}

// Arrays and states as for linear. Later tokens do not change earlier outputs.
template <class Q, class K, class V, class Out, feature::Feature Phi = feature::EluPlusOne,
          exec::Executor Exec = exec::Serial>
void chunk_linear(const Q& q, const K& k, const V& v, Out&& out, const Phi& phi = {},
                  const ChunkLinearOptions& options = {}, const Exec& executor = {}) {
  constexpr auto where = "fovea::chunk_linear";
  check(options.chunk > 0, where, "chunk must be positive, got ", options.chunk);
  detail::with_linear_recipe(
      where, q, k, v, out, phi, LinearOptions{options.normalizer, options.epsilon, options.scale},
      [&](const auto& problem, auto* state, const auto& recipe) {
        engine::causal_kernelised(problem, state, recipe, executor, engine::by_chunk(options.chunk));
      });
}

// Arrays and states as for linear; each token reads and writes the state once.
template <class Q, class K, class V, class Out, feature::Feature Phi = feature::EluPlusOne,
          exec::Executor Exec = exec::Serial>
void recurrent_linear(const Q& q, const K& k, const V& v, Out&& out, const Phi& phi = {},
                      const LinearOptions& options = {}, const Exec& executor = {}) {
  detail::with_linear_recipe("fovea::recurrent_linear", q, k, v, out, phi, options,
                             [&](const auto& problem, auto* state, const auto& recipe) {
                               engine::causal_kernelised(problem, state, recipe, executor, engine::by_token());
                             });
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/parts/decay/per_head.hpp

// One log decay for each kv head, the same for every token: S_t = gamma_h S_{t-1} + ..., gamma_h = e^g_h.

namespace fovea::inline FOVEA_ISA::decay {

template <class T>
struct BoundPerHead {
  static constexpr Kind kind = Kind::per_head;

  std::vector<double> log_decays;  // of every kv head, or of all

  double log_decay(Index kv_head) const { return log_decays[log_decays.size() == 1 ? 0 : std::size_t(kv_head)]; }
};

struct PerHead {
  std::vector<double> log_decays;

  template <class T>
  BoundPerHead<T> bind(const char* where, const Shape& shape, Index /*width*/) const {
    check(log_decays.size() == 1 || Index(log_decays.size()) == shape.kv_heads, where,
          "log decays must be one number for each kv head or one for all, wanted ", shape.kv_heads, ", got ",
          Index(log_decays.size()));
    for (const double g : log_decays) check(g <= 0, where, "log decays must not be positive, got ", g);
    return {log_decays};
  }
};

// log_decays [G], or one number for all heads.
inline PerHead per_head(std::vector<double> log_decays) { return {std::move(log_decays)}; }

// The decays of retention, gamma_h = 1 - 2^(-5 - h).
inline std::vector<double> retention(Index kv_heads) {
  std::vector<double> log_decays;
  for (Index h = 0; h < kv_heads; ++h) log_decays.push_back(std::log1p(-std::exp2(-5 - double(h))));
  return log_decays;
}

}  // namespace fovea::inline FOVEA_ISA::decay

// fovea/linear/retention.hpp

// Retention: linear attention with one fixed decay for each head.
// Sun et al., "Retentive Network: A Successor to Transformer for Large Language Models", 2023, arXiv:2307.08621.
//
//   S_t = e^g_h S_{t-1} + k_t v_t^T     o_t = scale S_t^T q_t     that is  o_i = scale sum_{j <= i} e^((i - j) g_h)
//   (q_i . k_j) v_j
//
// Positions, if any, are rotated into q and k before. Self-attention over N = M tokens.
//
// Exact, recurrent and chunked alike; equals linear attention without features and divisor when every log decay is
// zero. Cost O(N D E) for each head, chunked O(N (chunk (D + E) + D E)) at the speed of matrix products; memory D E.

namespace fovea::inline FOVEA_ISA {

struct RecurrentRetentionOptions {
  std::vector<double> log_decays = {};  // g_h <= 0 of every kv head, or one for all; ln(1 - 2^(-5 - h)) when empty
  std::optional<double> scale = {};     // 1 / sqrt(D) when empty
};

struct ChunkRetentionOptions {
  std::vector<double> log_decays = {};  // as above
  std::optional<double> scale = {};
  Index chunk = engine::default_chunk;  // tokens of a chunk; any number gives the same result
};

namespace detail {

inline decay::PerHead retention_decay(const std::vector<double>& log_decays, Index kv_heads) {
  return decay::per_head(log_decays.empty() && kv_heads > 0 ? decay::retention(kv_heads) : log_decays);
}

}  // namespace detail

// q [B,H,N,D], k [B,G,N,D], v [B,G,N,E], out [B,H,N,E], H a multiple of G; or matrices [N,D], [N,D], [N,E], [N,E].
// with_state(out, state) goes on from a state [B,G,D,E] and leaves it behind; it is all zeros without.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void recurrent_retention(const Q& q, const K& k, const V& v, Out&& out, const RecurrentRetentionOptions& options = {},
                         const Exec& executor = {}) {
  const auto problem = make_problem("fovea::recurrent_retention", q, k, v, state::output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  const auto decay = detail::retention_decay(options.log_decays, problem.k.heads);
  engine::recur(problem, state::of<T>(out), linear(options.scale).decay(decay), executor);
}

// Arrays as for recurrent_retention.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void chunk_retention(const Q& q, const K& k, const V& v, Out&& out, const ChunkRetentionOptions& options = {},
                     const Exec& executor = {}) {
  const auto problem = make_problem("fovea::chunk_retention", q, k, v, state::output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  const auto decay = detail::retention_decay(options.log_decays, problem.k.heads);
  engine::chunk(problem, state::of<T>(out), linear(options.scale).decay(decay), options.chunk, executor);
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/parts/combine/token_convolution.hpp

// A convolution of the values along the tokens, one kernel for each head and the same for all its channels, added to a
// finished result. The values are zero before the first token and behind the last.
//
//   o_i += sum_t w_h,t v_(i + t - r)   over 0 <= t < size,   r = (size - 1) / 2

namespace fovea::inline FOVEA_ISA::combine {

// The learned numbers, of any type: {.size = 35, .weights = {w.data(), w.data() + w.size()}}.
struct TokenKernel {
  Index size = 0;                 // odd; zero is no convolution at all
  std::vector<double> weights{};  // [heads, size]

  bool empty() const { return size == 0; }

  void check_for(const char* where, Index heads) const {
    check(size >= 0 && (size % 2 == 1 || size == 0), where, "the size of a token kernel must be odd, got ", size);
    check(Index(weights.size()) == heads * size, where, "a token kernel needs size weights for each head, wanted ",
          heads * size, ", got ", weights.size());
  }
};

namespace detail {

// One head. The kernel is a band of a matrix whose rows are the kernel, each a column further to the right: rows of a
// register tile that overlap in memory, tile_rows - 1 zeros on either side of them.
template <class T>
class TokenConvolution {
 public:
  explicit TokenConvolution(const double* weights, Index size)
      : size_(size), padded_(std::size_t(size + 2 * margin), T(0)) {
    for (Index t = 0; t < size; ++t) padded_[std::size_t(margin + t)] = T(weights[t]);
  }

  // Rows [first, last) of out; v and out are head 0 of the only batch.
  void add(const View<const T>& v, const View<T>& out, Index first, Index last) const {
    // An infinity or NaN must not meet the zeros beside the kernel.
    const bool all = finite(v, around(first, last, v.length));
    for (Index i = first; i < last; i += simd::tile_rows) {
      const Index end = std::min<Index>(i + simd::tile_rows, last);
      const Span seen = around(i, end, v.length);
      if (end == i + simd::tile_rows && (all || finite(v, seen))) {
        add_rows<simd::tile_rows>(v, out, i, seen);
      } else {
        for (Index r = i; r < end; ++r) add_rows<1>(v, out, r, around(r, r + 1, v.length));
      }
    }
  }

 private:
  static constexpr Index margin = simd::tile_rows - 1, lanes = simd::lanes<T>;

  Span around(Index first, Index last, Index tokens) const {
    return intersect({first - size_ / 2, last + size_ / 2}, {0, tokens});
  }

  static bool finite(const View<const T>& v, Span tokens) {
    if (v.length_stride == v.dim) return simd::all_finite(v.row(0, 0, tokens.first), tokens.size() * v.dim);
    bool all = true;
    for (Index j = tokens.first; all && j < tokens.last; ++j) all = simd::all_finite(v.row(0, 0, j), v.dim);
    return all;
  }

  template <int rows>
  void add_rows(const View<const T>& v, const View<T>& out, Index first, Span seen) const {
    const T* const kernel = padded_.data() + margin + (seen.first - (first - size_ / 2));
    const Index whole = v.dim / lanes * lanes, rest = v.dim - whole;
    const T* const from = v.row(0, 0, seen.first);
    T* const to = out.row(0, 0, first);
    simd::multiply_rows<rows, simd::Onto::sum>(whole, seen.size(), kernel, -1, from, v.length_stride, to,
                                               out.length_stride);
    if (rest == 0) return;
    if (v.dim >= lanes) {
      alignas(64) T last[std::size_t(rows * lanes)];
      simd::multiply_rows<rows, simd::Onto::nothing>(lanes, seen.size(), kernel, -1, from + v.dim - lanes,
                                                     v.length_stride, last, lanes);
      for (Index r = 0; r < rows; ++r) {
        for (Index e = 0; e < rest; ++e) to[r * out.length_stride + whole + e] += last[(r + 1) * lanes - rest + e];
      }
    } else {
      for (Index r = 0; r < rows; ++r) {
        for (Index e = 0; e < rest; ++e) {
          T sum = T(0);
          for (Index j = 0; j < seen.size(); ++j) sum += kernel[j - r] * from[j * v.length_stride + e];
          to[r * out.length_stride + e] += sum;
        }
      }
    }
  }

  Index size_;
  std::vector<T> padded_;
};

// A head of an array as an array.
template <class T>
View<T> head_of(const View<T>& x, Index batch, Index head) {
  return {x.row(batch, head, 0), 1, 1, x.length, x.dim, 0, 0, x.length_stride};
}

}  // namespace detail

// Adds the convolution of v [B,G,N,E] to out [B,H,N,E], H a multiple of G; head h reads v's head h / (H / G). The two
// must not overlap.
template <class V, class Out, exec::Executor Exec = exec::Serial>
void add_token_convolution(const V& values, Out&& result, const TokenKernel& kernel, const Exec& executor = {}) {
  constexpr auto where = "fovea::combine::add_token_convolution";
  const auto out = view(result);
  using T = std::remove_pointer_t<decltype(out.data)>;
  static_assert(!std::is_const_v<T>, "fovea: the output must not be const");
  const View<const T> v = view(values);
  check(v.batch == out.batch && v.length == out.length && v.dim == out.dim, where,
        "v must have the batch, tokens and width of out, wanted [", out.batch, ", ", out.length, ", ", out.dim,
        "], got [", v.batch, ", ", v.length, ", ", v.dim, "]");
  check(out.heads == 0 || (v.heads > 0 && out.heads % v.heads == 0), where,
        "the heads of out must be a multiple of those of v, wanted a multiple of ", v.heads, ", got ", out.heads);
  kernel.check_for(where, out.heads);
  if (kernel.empty() || out.batch * out.heads * out.length * out.dim == 0) return;

  std::vector<detail::TokenConvolution<T>> heads;
  for (Index h = 0; h < out.heads; ++h) heads.emplace_back(kernel.weights.data() + h * kernel.size, kernel.size);
  constexpr Index rows = 16 * simd::tile_rows;
  const Index pieces = (out.length + rows - 1) / rows, group = out.heads / v.heads;
  executor.parallel_for(
      out.batch * out.heads * pieces, double(2 * kernel.size * rows * out.dim), [&](Index begin, Index end) {
        for (Index item = begin; item < end; ++item) {
          const Index b = item / pieces / out.heads, h = item / pieces % out.heads, first = item % pieces * rows;
          heads[std::size_t(h)].add(detail::head_of(v, b, h / group), detail::head_of(out, b, h), first,
                                    std::min(first + rows, out.length));
        }
      });
}

}  // namespace fovea::inline FOVEA_ISA::combine

// fovea/parts/solve/pseudo_inverse.hpp

// The pseudo-inverse of a small matrix by a fixed number of iterations, which converge at third order once they do:
//
//   Z <- 1/4 Z (13 I - A Z (15 I - A Z (7 I - A Z)))   from   Z = start A^T
//
// Razavi et al., "A New Iterative Method for Finding Approximate Inverses of Complex Matrices", 2014, as Nystroemformer
// uses it: the number of iterations is part of the result.

namespace fovea::inline FOVEA_ISA::solve {

// A small row-major matrix in memory of the caller's: rows of whole vectors, whole register tiles of them, zero behind
// the numbers that there are.
template <class T>
struct SmallMatrix {
  T* data = nullptr;
  Index rows = 0;
  Index columns = 0;

  static constexpr Index size(Index rows, Index columns) { return simd::whole_rows(rows) * simd::whole<T>(columns); }

  // The matrix at `memory`, of size(rows, columns) numbers, all zero.
  static SmallMatrix zero(T* memory, Index rows, Index columns) {
    std::fill(memory, memory + size(rows, columns), T(0));
    return {memory, rows, columns};
  }

  Index stride() const { return simd::whole<T>(columns); }
  T* row(Index i) const { return data + i * stride(); }
};

// c = a b, in pieces of the depth so that no chain of additions is long. c is neither a nor b.
template <class T>
void multiply(const SmallMatrix<T>& a, const SmallMatrix<T>& b, const SmallMatrix<T>& c) {
  constexpr Index piece = 64;
  constexpr int rows = simd::tile_rows;
  for (Index i = 0; i < a.rows; i += rows) {
    for (Index k = 0; k < a.columns; k += piece) {
      const Index depth = std::min(piece, a.columns - k);
      const T* const left = a.row(i) + k;
      if (k == 0) {
        simd::multiply_rows<rows, simd::Onto::nothing>(c.stride(), depth, left, a.stride(), b.row(k), b.stride(),
                                                       c.row(i), c.stride());
      } else {
        simd::multiply_rows<rows, simd::Onto::sum>(c.stride(), depth, left, a.stride(), b.row(k), b.stride(), c.row(i),
                                                   c.stride());
      }
    }
  }
}

// The largest sum of the sizes of a column's numbers.
template <class T>
T largest_column_sum(const SmallMatrix<T>& a) {
  T most = T(0);
  for (Index j = 0; j < a.columns; ++j) {
    T sum = T(0);
    for (Index i = 0; i < a.rows; ++i) sum += std::abs(a.row(i)[j]);
    most = std::max(most, sum);
  }
  return most;
}

// z = what the iterations leave, of a square matrix; z, p, s and next are other matrices of
// its size, the last three for scratch.
template <class T>
void pseudo_inverse(const SmallMatrix<T>& a, T start, Index iterations, SmallMatrix<T> z, SmallMatrix<T> p,
                    SmallMatrix<T> s, SmallMatrix<T> next) {
  const Index n = a.rows;
  // x = value I - x
  const auto subtract_from = [n](T value, SmallMatrix<T> x) {
    simd::scale(x.data, SmallMatrix<T>::size(n, n), T(-1));
    for (Index i = 0; i < n; ++i) x.row(i)[i] += value;
  };
  T* const result = z.data;
  for (Index i = 0; i < n; ++i) {
    for (Index j = 0; j < n; ++j) z.row(j)[i] = start * a.row(i)[j];
  }
  for (Index iteration = 0; iteration < iterations; ++iteration) {
    multiply(a, z, p);
    std::copy_n(p.data, SmallMatrix<T>::size(n, n), next.data);
    subtract_from(T(7), next);
    multiply(p, next, s);
    subtract_from(T(15), s);
    multiply(p, s, next);
    subtract_from(T(13), next);
    multiply(z, next, s);
    simd::scale(s.data, SmallMatrix<T>::size(n, n), T(0.25));
    std::swap(z.data, s.data);
  }
  if (z.data != result) std::copy_n(z.data, SmallMatrix<T>::size(n, n), result);
}

}  // namespace fovea::inline FOVEA_ISA::solve

// fovea/low_rank/nystrom.hpp

// Nystroemformer: softmax attention through landmarks, the means of segments of the tokens.
// Xiong et al., "Nystroemformer: A Nystroem-Based Algorithm for Approximating Self-Attention", AAAI 2021,
// arXiv:2102.03902.
//
//   O = F (Z (B V)),   F = softmax(scale Q K~^T),  B = softmax(scale Q~ K^T),  Z ~ A^+,  A = softmax(scale Q~ K~^T)
//
// Q~, K~ [m x D] are the means of m segments; Z comes from a fixed number of iterations (solve/pseudo_inverse.hpp),
// which are part of the definition. A residual convolution of the values along the tokens may be added. Self-attention
// only, N = M, not causal.
//
// Approximates dense attention; exactly it when N <= m. Cost O(N m (D + E) + iterations m^3) for each head. The algebra
// of the small matrices is in double: small singular values of A enlarge its errors.

namespace fovea::inline FOVEA_ISA {

// Where the iterations begin: A^T over the largest column sum of A, or of the matrices of all batches and heads, as the
// published code has it (then a result depends on what else is in the batch).
enum class NystromStart { own, shared };

struct NystromOptions {
  Index landmarks = 64;  // m
  Index iterations = 6;  // of the pseudo-inverse
  NystromStart start = NystromStart::own;
  combine::TokenKernel residual{};   // [H, size]
  std::vector<Index> lengths{};      // [B] or empty: from lengths[b] on tokens are padding. It counts as zeros in the
                                     // means of the segments of all N tokens, no query sees it, and its rows of out
                                     // are left alone
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

namespace detail {

// Two small matrices for each (batch, head), A and then Z, and what turns B V into Z B V. All in double.
class NystromMiddle {
 public:
  using Matrix = solve::SmallMatrix<double>;

  NystromMiddle(Index count, Index landmarks)
      : count_(count),
        landmarks_(landmarks),
        size_(engine::whole_lines<double>(Matrix::size(landmarks, landmarks))),
        memory_(engine::allocate_scratch<double>(std::max<Index>(count * size_, 1))) {
    std::fill(memory_.get(), memory_.get() + count * size_, 0.0);
  }

  // A = softmax(scale q~ k~^T): attention of the landmarks over each other with the unit matrix as values.
  template <class T, exec::Executor Exec>
  void attend(const View<T>& q, const View<T>& k, Index group, const Recipe<>& recipe, const char* where,
              const Exec& executor) {
    const auto as_double = [](const View<T>& x, double* to) {
      for (Index b = 0; b < x.batch; ++b) {
        for (Index h = 0; h < x.heads; ++h) {
          for (Index i = 0; i < x.length; ++i) to = std::copy_n(x.row(b, h, i), x.dim, to);
        }
      }
    };
    const Index sizes[] = {q.batch * q.heads * landmarks_ * q.dim, k.batch * k.heads * landmarks_ * k.dim};
    const auto copies =
        engine::allocate_scratch<double>(std::max<Index>(sizes[0] + sizes[1] + landmarks_ * landmarks_, 1));
    double* const unit = copies.get() + sizes[0] + sizes[1];
    as_double(q, copies.get());
    as_double(k, copies.get() + sizes[0]);
    std::fill(unit, unit + landmarks_ * landmarks_, 0.0);
    for (Index i = 0; i < landmarks_; ++i) unit[i * landmarks_ + i] = 1;
    const View<double> values{unit, k.batch, k.heads, landmarks_, landmarks_, 0, 0, landmarks_};
    const Index stride = matrix(0).stride();
    const View<double> out{memory_.get(), q.batch, q.heads, landmarks_, landmarks_, q.heads * size_, size_, stride};
    const Problem<double> problem{
        view(copies.get(), q.extents()), view(copies.get() + sizes[0], k.extents()), values, out, {}, group, where};
    engine::attend(problem, recipe, executor);
  }

  // collected [B,H,m,E] <- Z collected, Z by the iterations.
  template <class T, exec::Executor Exec>
  void apply(const View<T>& collected, NystromStart start, Index iterations, const Exec& executor) {
    double shared = 0;
    for (Index n = 0; n < count_ && start == NystromStart::shared; ++n)
      shared = std::max(shared, solve::largest_column_sum(matrix(n)));
    const Index m = landmarks_, wide = engine::whole_lines<double>(Matrix::size(m, collected.dim));
    const double flops = 2.0 * double(m) * double(m) * double(4 * iterations * m + collected.dim);
    engine::distribute<double>(executor, count_, flops, 4 * size_ + 2 * wide, [&](Index n, double* memory) {
      const Matrix a = matrix(n);
      const auto scratch = [&](Index at) { return Matrix::zero(memory + at * size_, m, m); };
      const double sum = start == NystromStart::shared ? shared : solve::largest_column_sum(a);  // rows sum to one
      const Matrix z = scratch(0);
      solve::pseudo_inverse(a, 1 / sum, iterations, z, scratch(1), scratch(2), scratch(3));
      const Matrix values = Matrix::zero(memory + 4 * size_, m, collected.dim);
      const Matrix product = Matrix::zero(memory + 4 * size_ + wide, m, collected.dim);
      const Index b = n / collected.heads, h = n % collected.heads;
      for (Index i = 0; i < m; ++i) std::copy_n(collected.row(b, h, i), collected.dim, values.row(i));
      solve::multiply(z, values, product);
      for (Index i = 0; i < m; ++i) {
        T* const to = collected.row(b, h, i);
        for (Index e = 0; e < collected.dim; ++e) to[e] = T(product.row(i)[e]);
      }
    });
  }

 private:
  Matrix matrix(Index n) const { return {memory_.get() + n * size_, landmarks_, landmarks_}; }

  Index count_, landmarks_, size_;
  std::unique_ptr<double[], engine::FreeScratch> memory_;
};

// The first tokens of one sequence.
template <class T>
View<T> first_tokens(View<T> x, Index batch, Index tokens) {
  x.data = x.row(batch, 0, 0);
  x.batch = 1;
  x.length = tokens;
  return x;
}

}  // namespace detail

// q [B,H,N,D], k [B,G,N,D], v [B,G,N,E], out [B,H,N,E], H a multiple of G; or matrices.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void nystrom(const Q& q, const K& k, const V& v, Out&& out, const NystromOptions& options = {},
             const Exec& executor = {}) {
  constexpr auto where = "fovea::nystrom";
  const auto problem = make_problem(where, q, k, v, out);
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  const Index batch = problem.q.batch, heads = problem.q.heads, kv_heads = problem.k.heads;
  const Index tokens = problem.q.length, m = options.landmarks, dim = problem.q.dim, value_dim = problem.v.dim;
  check(problem.k.length == tokens, where, "k must have the length of q, wanted ", tokens, ", got ", problem.k.length);
  check(problem.log_sum.data == nullptr, where, "there is no log-sum of a product of three matrices");
  check(m > 0, where, "landmarks must be positive, got ", m);
  check(options.iterations > 0, where, "iterations must be positive, got ", options.iterations);
  options.residual.check_for(where, heads);
  resample::check_lengths(where, options.lengths, batch, tokens);
  const auto recipe = softmax(options.scale);
  recipe.normalizer.check_for(where, problem.shape());
  if (batch * heads * tokens == 0) return;

  // Calls f(part, first sequence) for all sequences at once, or for one after the other without its padding.
  const auto each = [&](auto&& f) {
    if (options.lengths.empty()) return f(problem, Index{0});
    for (Index b = 0; b < batch; ++b) {
      auto part = problem;
      const Index length = options.lengths[std::size_t(b)];
      part.q = detail::first_tokens(problem.q, b, length);
      part.k = detail::first_tokens(problem.k, b, length);
      part.v = detail::first_tokens(problem.v, b, length);
      part.out = detail::first_tokens(problem.out, b, length);
      f(part, b);
    }
  };
  if (tokens <= m) {
    each([&](const Problem<T>& part, Index) { engine::attend(part, recipe, executor); });
  } else {
    const Index room[] = {batch * heads * m * dim, batch * kv_heads * m * dim, batch * heads * m * value_dim};
    const auto memory = engine::allocate_scratch<T>(2 * room[0] + room[1] + room[2]);
    const View<T> queries = view(memory.get(), {batch, heads, m, dim});
    const View<T> keys = view(memory.get() + room[0], {batch, kv_heads, m, dim});
    const View<T> every_key = view(memory.get() + room[0] + room[1], {batch, heads, m, dim});  // for each query head
    const View<T> collected = view(memory.get() + 2 * room[0] + room[1], {batch, heads, m, value_dim});
    resample::segment_means(problem.q, queries, options.lengths, executor);
    resample::segment_means(problem.k, keys, options.lengths, executor);
    for (Index n = 0; n < batch * heads; ++n)
      std::copy_n(keys.data + n / problem.group * m * dim, m * dim, every_key.data + n * m * dim);
    // The landmarks of the sequences of a part.
    const auto of = [](const View<T>& x, const Problem<T>& part, Index first) {
      View<T> some = x;
      some.data = x.row(first, 0, 0);
      some.batch = part.q.batch;
      return some;
    };

    detail::NystromMiddle middle(batch * heads, m);
    middle.attend(queries, keys, problem.group, recipe, where, executor);
    each([&](const Problem<T>& part, Index first) {
      engine::attend(
          Problem<T>{of(queries, part, first), part.k, part.v, of(collected, part, first), {}, part.group, where},
          recipe, executor);
    });
    middle.apply(collected, options.start, options.iterations, executor);
    each([&](const Problem<T>& part, Index first) {
      engine::attend(Problem<T>{part.q, of(every_key, part, first), of(collected, part, first), part.out, {}, 1, where},
                     recipe, executor);
    });
  }
  if (options.residual.empty()) return;
  each([&](const Problem<T>& part, Index) {
    combine::add_token_convolution(part.v, part.out, options.residual, executor);
  });
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/parts/feature/orthogonal.hpp

// Random directions that are orthogonal in blocks of D, from a seed.
//
// Every block of D rows is an orthonormal basis of a uniformly random orientation: Gaussian rows made orthonormal one
// after the other. Each row is then given a length of its own. The numbers are the same on every platform up to
// rounding: 64 random bits of the Mersenne twister, turned into normal numbers here.

namespace fovea::inline FOVEA_ISA::feature {

// Lengths of the rows: those of fresh Gaussian rows, or sqrt(D) for all.
enum class RowLength { chi, sqrt_dim };

// A matrix [rows, dim] of its own.
struct Directions {
  Index rows = 0, dim = 0;
  std::vector<double> numbers = {};

  View<const double> view() const { return fovea::view(numbers.data(), {1, 1, rows, dim}); }
};

namespace detail {

// Normal numbers by the method of Box and Muller 1958.
class Normal {
 public:
  explicit Normal(std::uint64_t seed) : bits_(seed) {}

  double operator()() {
    if (kept_) {
      kept_ = false;
      return next_;
    }
    const double radius = std::sqrt(-2 * std::log(uniform())), angle = 2 * 3.14159265358979323846 * uniform();
    next_ = radius * std::sin(angle);
    kept_ = true;
    return radius * std::cos(angle);
  }

 private:
  double uniform() { return (double(bits_() >> 11) + 0.5) * 0x1p-53; }  // inside (0, 1)

  std::mt19937_64 bits_;
  double next_ = 0;
  bool kept_ = false;
};

}  // namespace detail

// ceil(rows / dim) blocks, the last one cut; O(rows dim^2).
inline Directions orthogonal_directions(Index rows, Index dim, std::uint64_t seed, RowLength length = RowLength::chi) {
  constexpr auto where = "fovea::feature::orthogonal_directions";
  check(rows > 0, where, "there must be at least one row, got ", rows);
  check(dim > 0, where, "the width must be positive, got ", dim);
  detail::Normal normal(seed);
  Directions result{rows, dim, std::vector<double>(std::size_t(rows * dim))};
  const auto row = [&](Index r) { return result.numbers.data() + r * dim; };
  const auto dot = [dim](const double* a, const double* b) {
    double sum = 0;
    for (Index d = 0; d < dim; ++d) sum += a[d] * b[d];
    return sum;
  };
  for (Index r = 0; r < rows; ++r) {
    double* const x = row(r);
    for (double size = 0; size < 1e-6;) {  // once, but for a row that lies among its predecessors by bad luck
      for (Index d = 0; d < dim; ++d) x[d] = normal();
      for (int pass = 0; pass < 2; ++pass) {  // the second pass takes away what rounding left in the first
        for (Index s = r / dim * dim; s < r; ++s) {
          const double share = dot(row(s), x);
          for (Index d = 0; d < dim; ++d) x[d] -= share * row(s)[d];
        }
        size = std::sqrt(dot(x, x));
        for (Index d = 0; d < dim; ++d) x[d] /= size;
      }
    }
  }
  for (Index r = 0; r < rows; ++r) {
    double square = double(dim);
    if (length == RowLength::chi) {
      square = 0;
      for (Index d = 0; d < dim; ++d) {
        const double x = normal();
        square += x * x;
      }
    }
    for (Index d = 0; d < dim; ++d) row(r)[d] *= std::sqrt(square);
  }
  return result;
}

}  // namespace fovea::inline FOVEA_ISA::feature

// fovea/parts/feature/random.hpp

// Random features of the softmax kernel: phi(x) . phi(y) is e^(scale x . y) on average.
// Choromanski et al., "Rethinking Attention with Performers", ICLR 2021, arXiv:2009.14794.
//
//   positive_random     phi_r = m^-1/2 (e^(w_r . z - |z|^2 / 2) + epsilon),             z = sqrt(scale) x,  F = m
//   hyperbolic_random   phi   = (2 m)^-1/2 e^(-|z|^2 / 2) ([e^(w_r . z), e^(-w_r . z)] + epsilon),          F = 2 m
//   relu_random         phi_r = max(w_r . z, 0) + epsilon,                                                  F = m
//
// w_r are the m rows of a matrix, drawn by orthogonal_directions or given. The exponentials have shifts that keep them
// in range (exponential.hpp); epsilon is added to what is shifted.

namespace fovea::inline FOVEA_ISA::feature {

struct RandomOptions {
  std::optional<double> scale = {};    // of the softmax that is imitated; 1 / sqrt(D) when empty
  std::optional<double> epsilon = {};  // 0 when empty, for relu_random 1e-3
};

namespace detail {

inline double root_of_scale(const char* where, const RandomOptions& options, Index dim) {
  const double scale = options.scale ? *options.scale : 1 / std::sqrt(double(dim));
  check(scale >= 0 && std::isfinite(scale), where, "the scale of random features must not be negative, got ", scale);
  return std::sqrt(scale);
}

inline double checked_epsilon(const char* where, const RandomOptions& options, double otherwise) {
  const double epsilon = options.epsilon ? *options.epsilon : otherwise;
  check(epsilon >= 0 && std::isfinite(epsilon), where, "the epsilon of random features must not be negative, got ",
        epsilon);
  return epsilon;
}

}  // namespace detail

// Exponents w_r . z - |z|^2 / 2, as w_r . x; with mirrored ones, of -w_r . x, behind them.
template <class T, bool mirrored>
struct BoundRandomExponents {
  BoundProjection<T> directions;
  T root = T(1);  // of the scale

  Index width() const { return (mirrored ? 2 : 1) * directions.out; }

  template <Side side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row first) const {
    directions.template operator()<side>(x, stride, count, to, to_stride, first);
    const Index n = directions.out;
    for (Index i = 0; mirrored && i < count; ++i)
      simd::mirror(to + i * to_stride, to + i * to_stride + n, n, T(1), T(0));
  }
  T unit() const { return root; }
  T offset(const T* x) const { return simd::square_norm(x, directions.in) * root * root / T(2); }
};

template <bool mirrored>
struct ExponentialRandom {
  static constexpr bool exponential = true;

  Projection directions;  // [m, D]
  RandomOptions options = {};

  template <class T>
  BoundExponential<T, BoundRandomExponents<T, mirrored>> bind(const char* where, const Shape& shape, Index dim) const {
    check(directions.heads() == 1, where, "random features have one matrix for all heads, got ", directions.heads());
    BoundExponential<T, BoundRandomExponents<T, mirrored>> bound;
    bound.exponents.directions = directions.bind<T>(where, shape.heads, dim);
    bound.exponents.root = T(detail::root_of_scale(where, options, dim));
    bound.factor = T(1 / std::sqrt(double(bound.width())));
    bound.added = T(detail::checked_epsilon(where, options, 0));
    return bound;
  }
};

template <class T>
struct BoundReluRandom {
  BoundProjection<T> directions;
  T root = T(1), epsilon = T(0);

  Index width() const { return directions.out; }

  template <Side side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row first) const {
    directions.template operator()<side>(x, stride, count, to, to_stride, first);
    const simd::Pack<T> zero(T(0)), times(root), plus(epsilon);
    for (Index i = 0; i < count; ++i) {
      T* const row = to + i * to_stride;
      simd::map_row(row, width(), row, [=](simd::Pack<T> y) { return fma(simd::at_least(zero, y), times, plus); });
    }
  }
};

struct ReluRandom {
  Projection directions;  // [m, D]
  RandomOptions options = {};

  template <class T>
  BoundReluRandom<T> bind(const char* where, const Shape& shape, Index dim) const {
    check(directions.heads() == 1, where, "random features have one matrix for all heads, got ", directions.heads());
    return {directions.bind<T>(where, shape.heads, dim), T(detail::root_of_scale(where, options, dim)),
            T(detail::checked_epsilon(where, options, 1e-3))};
  }
};

// w: a view [1, 1, m, D], or directions that were drawn; copied.
template <class T>
ExponentialRandom<false> positive_random(View<const T> w, const RandomOptions& options = {}) {
  return {Projection(w), options};
}
inline ExponentialRandom<false> positive_random(const Directions& w, const RandomOptions& options = {}) {
  return {Projection(w.view()), options};
}

template <class T>
ExponentialRandom<true> hyperbolic_random(View<const T> w, const RandomOptions& options = {}) {
  return {Projection(w), options};
}
inline ExponentialRandom<true> hyperbolic_random(const Directions& w, const RandomOptions& options = {}) {
  return {Projection(w.view()), options};
}

template <class T>
ReluRandom relu_random(View<const T> w, const RandomOptions& options = {}) {
  return {Projection(w), options};
}
inline ReluRandom relu_random(const Directions& w, const RandomOptions& options = {}) {
  return {Projection(w.view()), options};
}

}  // namespace fovea::inline FOVEA_ISA::feature

// fovea/low_rank/performer.hpp

// Performer: softmax attention by random features, FAVOR+.
// Choromanski et al., "Rethinking Attention with Performers", ICLR 2021, arXiv:2009.14794.
//
//   o_i = sum_j (phi(q_i) . phi(k_j)) v_j / (sum_j phi(q_i) . phi(k_j) + epsilon),
//   phi_r(x) = m^-1/2 (e^(w_r . z - |z|^2 / 2 - shift) + feature epsilon),   z = sqrt(scale) x,   r = 1..m
//
//   performer                               over all keys
//   chunk_performer, recurrent_performer    over  { j <= i + M - N }; chunk by chunk, or token by token as in decoding
//
// w_r are orthogonal in blocks of D rows, with the lengths of Gaussian rows, or sqrt(D). Kinds besides positive_random:
// hyperbolic_random and relu_random (parts/feature/random.hpp). Queries are shifted by their largest exponent, keys by
// the largest one of all keys; for causal calls by that of all keys so far, and then there is no feature epsilon. The
// epsilon of the divisor is added to what is shifted.
//
// The paper is from memory, held against implementations of other authors: verify before relying on a detail. Exact for
// these features; approaches softmax attention as m grows. Cost O((N + M) m (D + E)), causal chunks
// O(N (chunk (m + E) + m (D + E))), for each head.

namespace fovea::inline FOVEA_ISA {

struct PerformerFeatures {
  Index features = 0;  // m; D ln D rounded down when zero
  std::uint64_t seed = 0;
  feature::RowLength length = feature::RowLength::chi;
  feature::RandomOptions options = {};  // epsilon: 1e-4 when empty, 0 in causal calls, 1e-3 for relu_random
};

// The positive features of a model with heads of dim numbers. Made once and kept: O(m dim^2).
inline feature::ExponentialRandom<false> performer_features(Index dim, const PerformerFeatures& f = {}) {
  constexpr auto where = "fovea::performer_features";
  check(dim > 0, where, "the width must be positive, got ", dim);
  check(f.features >= 0, where, "the number of features must not be negative, got ", f.features);
  const Index usual = std::max<Index>(Index(double(dim) * std::log(double(dim))), 1);
  return feature::positive_random(
      feature::orthogonal_directions(f.features > 0 ? f.features : usual, dim, f.seed, f.length), f.options);
}

struct PerformerOptions {
  double epsilon = 1e-6;  // added to the divisor
};

struct ChunkPerformerOptions {
  double epsilon = 1e-6;                // added to the divisor
  Index chunk = engine::default_chunk;  // tokens of a chunk
};

namespace detail {

template <class Phi>
concept RandomMap = std::same_as<Phi, feature::ExponentialRandom<false>> ||
    std::same_as<Phi, feature::ExponentialRandom<true>> || std::same_as<Phi, feature::ReluRandom>;

template <RandomMap Phi>
auto performer_recipe(Phi phi, double epsilon, bool causal) {
  if (feature::wants_shift<Phi>() && !phi.options.epsilon) phi.options.epsilon = causal ? 0 : 1e-4;
  return linear(1.0).feature(phi).normalizer(normalizer::sum_eps(epsilon));
}

}  // namespace detail

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; or matrices [N,D], [M,D], [M,E], [N,E]. phi
// is performer_features(D) or another of the kinds above. with_state(out, state) goes on from a state and leaves it
// behind: a ShiftedState, for relu_random a MatrixState. Keys of the state count as seen by every query.
template <class Q, class K, class V, class Out, detail::RandomMap Phi, exec::Executor Exec = exec::Serial>
void performer(const Q& q, const K& k, const V& v, Out&& out, const Phi& phi, const PerformerOptions& options = {},
               const Exec& executor = {}) {
  const auto problem = make_problem("fovea::performer", q, k, v, state::plain_output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  auto* const memory = state::kernelised<T, feature::wants_shift<Phi>()>(out);
  engine::kernelised(problem, memory, detail::performer_recipe(phi, options.epsilon, false), executor);
}

// Arrays and states as for performer. Later tokens do not change earlier outputs.
template <class Q, class K, class V, class Out, detail::RandomMap Phi, exec::Executor Exec = exec::Serial>
void chunk_performer(const Q& q, const K& k, const V& v, Out&& out, const Phi& phi,
                     const ChunkPerformerOptions& options = {}, const Exec& executor = {}) {
  constexpr auto where = "fovea::chunk_performer";
  const auto problem = make_problem(where, q, k, v, state::plain_output(out));
  check(options.chunk > 0, where, "chunk must be positive, got ", options.chunk);
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  auto* const memory = state::kernelised<T, feature::wants_shift<Phi>()>(out);
  engine::causal_kernelised(problem, memory, detail::performer_recipe(phi, options.epsilon, true), executor,
                            engine::by_chunk(options.chunk));
}

// Arrays and states as for performer; each token reads and writes the state once.
template <class Q, class K, class V, class Out, detail::RandomMap Phi, exec::Executor Exec = exec::Serial>
void recurrent_performer(const Q& q, const K& k, const V& v, Out&& out, const Phi& phi,
                         const PerformerOptions& options = {}, const Exec& executor = {}) {
  const auto problem = make_problem("fovea::recurrent_performer", q, k, v, state::plain_output(out));
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  auto* const memory = state::kernelised<T, feature::wants_shift<Phi>()>(out);
  engine::causal_kernelised(problem, memory, detail::performer_recipe(phi, options.epsilon, true), executor,
                            engine::by_token());
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/parts/combine/merge.hpp

// Attention over two disjoint sets of keys from the results over each: merging by log-sum.
//
//   L = ln(e^La + e^Lb),   o = e^(La - L) a + e^(Lb - L) b
//
// Associative and commutative up to rounding; the empty result (0, -infinity) changes nothing, bit for bit.

namespace fovea::inline FOVEA_ISA::combine {

namespace detail {

template <class T>
void merge_row(const T* a, T log_sum_a, const T* b, T log_sum_b, T* out, T& log_sum, Index dim) {
  constexpr T none = -simd::infinity<T>;
  if (log_sum_b == none || log_sum_a == none) {
    const T* const only = log_sum_b == none ? a : b;
    log_sum = log_sum_b == none ? log_sum_a : log_sum_b;
    if (only != out && dim > 0) std::memmove(out, only, std::size_t(dim) * sizeof(T));
    return;
  }
  const T most = log_sum_a > log_sum_b ? log_sum_a : log_sum_b;
  const T weight_a = std::exp(log_sum_a - most), weight_b = std::exp(log_sum_b - most), total = weight_a + weight_b;
  log_sum = most + std::log(total);
  for (Index e = 0; e < dim; ++e) out[e] = (weight_a * a[e] + weight_b * b[e]) / total;
}

}  // namespace detail

// out, log_sum = the merge of (a, log_sum_a) and (b, log_sum_b); all [B,H,N,E] and [B,H,N] as in with_log_sum. The
// result may be one of the two.
template <class A, class LogA, class B, class LogB, class Out, class LogOut, exec::Executor Exec = exec::Serial>
void merge(const WithLogSum<A, LogA>& a, const WithLogSum<B, LogB>& b, const WithLogSum<Out, LogOut>& result,
           const Exec& executor = {}) {
  constexpr auto where = "fovea::combine::merge";
  const auto av = view(a.out);
  const auto bv = view(b.out);
  const auto al = row_values(a.log_sum);
  const auto bl = row_values(b.log_sum);
  const auto out = view(result.out);
  const auto log_sum = row_values(result.log_sum);
  using T = std::remove_pointer_t<decltype(out.data)>;
  static_assert(!std::is_const_v<T>, "fovea: the output must not be const");
  const auto same = [&](const auto& x, Index dim) {
    return x.batch == out.batch && x.heads == out.heads && x.length == out.length && x.dim == dim;
  };
  check(same(av, out.dim) && same(bv, out.dim), where, "both parts must have the shape of the result, wanted [",
        out.batch, ", ", out.heads, ", ", out.length, ", ", out.dim, "], got [", av.batch, ", ", av.heads, ", ",
        av.length, ", ", av.dim, "] and [", bv.batch, ", ", bv.heads, ", ", bv.length, ", ", bv.dim, "]");
  check(same(al, 1) && same(bl, 1) && same(log_sum, 1), where,
        "every log_sum must have one number for each query, wanted [", out.batch, ", ", out.heads, ", ", out.length,
        "], got lengths ", al.length, ", ", bl.length, " and ", log_sum.length);
  executor.parallel_for(out.batch * out.heads, 6.0 * double(out.length * out.dim), [&](Index begin, Index end) {
    for (Index item = begin; item < end; ++item) {
      const Index batch = item / out.heads, head = item % out.heads;
      for (Index i = 0; i < out.length; ++i) {
        detail::merge_row<T>(av.row(batch, head, i), *al.row(batch, head, i), bv.row(batch, head, i),
                             *bl.row(batch, head, i), out.row(batch, head, i), *log_sum.row(batch, head, i), out.dim);
      }
    }
  });
}

}  // namespace fovea::inline FOVEA_ISA::combine

// fovea/parts/combine/extra_key.hpp

// One more key and value for each head, seen by every query, merged into a finished result.
//
//   s_i = scale q_i . k*_h,   w_i = sigmoid(L_i - s_i),   o'_i = w_i o_i + (1 - w_i) v*_h,   L'_i = ln(e^L_i + e^s_i)
//
// A row that saw no key becomes v*_h.

namespace fovea::inline FOVEA_ISA::combine {

// The keys and values, checked: all that can be refused is refused here. Values are not copied.
template <class T>
class ExtraKey {
 public:
  // key [H,D] and value [H,E]; [1,D] and [1,E] are shared by all heads.
  ExtraKey(const char* where, View<const T> key, View<const T> value, const Extents& q, Index value_dim, double scale)
      : heads_(q.heads),
        dim_(q.dim),
        width_(simd::whole<T>(q.dim)),
        value_(value),
        value_stride_(value.length == 1 ? 0 : value.length_stride) {
    check_rows(where, "key", key, q.dim);
    check_rows(where, "value", value, value_dim);
    check(std::isfinite(scale), where, "the scale must be finite, got ", scale);
    keys_.assign(std::size_t(heads_ * width_), T(0));
    for (Index h = 0; h < heads_; ++h)
      std::copy_n(key.row(0, 0, key.length == 1 ? 0 : h), dim_, keys_.data() + h * width_);
    scale_ = T(scale);
  }

  // q [B,H,N,D] are the queries of the result out [B,H,N,E], log_sum [B,H,N,1].
  template <exec::Executor Exec>
  void merge_into(View<const T> q, View<T> out, View<T> log_sum, const Exec& executor) const {
    executor.parallel_for(out.batch * out.heads, double(out.length * (2 * dim_ + 6 * out.dim)),
                          [&](Index begin, Index end) {
                            for (Index item = begin; item < end; ++item) {
                              const Index batch = item / out.heads, head = item % out.heads;
                              const T* const value = value_.data + head * value_stride_;
                              constexpr Index most = 64;
                              T scores[most];
                              for (Index first = 0; first < out.length; first += most) {
                                const Index count = std::min(most, out.length - first);
                                simd::dot_rows(1, keys_.data() + head * width_, width_, count,
                                               q.row(batch, head, first), q.length_stride, dim_, scores, most);
                                for (Index i = 0; i < count; ++i) {
                                  T* const row = out.row(batch, head, first + i);
                                  T& sum = *log_sum.row(batch, head, first + i);
                                  detail::merge_row<T>(row, sum, value, scale_ * scores[i], row, sum, out.dim);
                                }
                              }
                            }
                          });
  }

 private:
  void check_rows(const char* where, const char* name, const View<const T>& x, Index dim) const {
    check(x.batch == 1 && x.heads == 1 && (x.length == heads_ || x.length == 1) && x.dim == dim, where, "the extra ",
          name, " must have a row for each query head or one for all, wanted [", heads_, ", ", dim, "], got [",
          x.length, ", ", x.dim, "]");
  }

  Index heads_, dim_, width_;
  View<const T> value_;
  Index value_stride_;
  std::vector<T> keys_;  // [H x width], zero behind dim
  T scale_ = T(0);
};

}  // namespace fovea::inline FOVEA_ISA::combine

// fovea/parts/combine/sink.hpp

// Learned sink logits applied to a finished result: what a softmax with the logit c in its denominator would have
// given.
//
//   o'_i = sigmoid(L_i - c_h) o_i,   L_i the log-sum of row i without the sink
//
// Parts are merged first; the sink is added once, at the end.

namespace fovea::inline FOVEA_ISA::combine {

// Changes out [B,H,N,E] in place by one logit for each head, [H]; -infinity is no sink. The log-sums stay as they are:
// they do not count the sink.
template <class Out, class LogSum, exec::Executor Exec = exec::Serial>
void add_sink(const WithLogSum<Out, LogSum>& result, const std::vector<double>& logits, const Exec& executor = {}) {
  constexpr auto where = "fovea::combine::add_sink";
  const auto out = view(result.out);
  const auto log_sum = row_values(result.log_sum);
  using T = std::remove_pointer_t<decltype(out.data)>;
  static_assert(!std::is_const_v<T>, "fovea: the output must not be const");
  check(log_sum.batch == out.batch && log_sum.heads == out.heads && log_sum.length == out.length && log_sum.dim == 1,
        where, "log_sum must have one number for each query, wanted [", out.batch, ", ", out.heads, ", ", out.length,
        "], got [", log_sum.batch, ", ", log_sum.heads, ", ", log_sum.length, "]");
  check(Index(logits.size()) == out.heads, where, "sink logits need one number for each head, wanted ", out.heads,
        ", got ", logits.size());
  normalizer::Softmax{{}, logits}.check_for(where, {out.batch, out.heads, out.heads, out.length, 0});

  executor.parallel_for(out.batch * out.heads, 2.0 * double(out.length * out.dim), [&](Index begin, Index end) {
    for (Index item = begin; item < end; ++item) {
      const Index batch = item / out.heads, head = item % out.heads;
      const double logit = logits[std::size_t(head)];
      if (logit == -HUGE_VAL) continue;
      for (Index i = 0; i < out.length; ++i) {
        const double keys = 1 / (1 + std::exp(logit - double(*log_sum.row(batch, head, i))));
        simd::scale(out.row(batch, head, i), out.dim, T(keys));
      }
    }
  });
}

}  // namespace fovea::inline FOVEA_ISA::combine

// fovea/parts/feature/each.hpp

// Any map of the user's: a function of a number, or of a row.

namespace fovea::inline FOVEA_ISA::feature {

template <class T, class F>
struct BoundEach {
  Index dim;
  F f;

  Index width() const { return dim; }

  template <Side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row) const {
    for (Index i = 0; i < count; ++i) {
      for (Index j = 0; j < dim; ++j) to[i * to_stride + j] = f(x[i * stride + j]);
    }
  }
};

template <class F>
struct Each {
  F f;

  template <class T>
  BoundEach<T, F> bind(const char*, const Shape&, Index dim) const {
    static_assert(std::is_invocable_r_v<T, const F&, T>, "fovea: feature::each takes a function callable as T(T)");
    return {dim, f};
  }
};

// f(x) gives the feature of a number; F = D. It is called from several threads. Features should not be negative where
// their sum is divided by.
template <class F>
Each<F> each(F f) {
  return {std::move(f)};
}

template <class T, class F>
struct BoundMap {
  Index dim, features;
  F f;

  Index width() const { return features; }

  template <Side side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row first) const {
    for (Index i = 0; i < count; ++i) {
      const std::span<const T> from(x + i * stride, std::size_t(dim));
      const std::span<T> result(to + i * to_stride, std::size_t(features));
      if constexpr (std::is_invocable_v<const F&, std::span<const T>, std::span<T>, Side, Row>) {
        f(from, result, side, Row{first.batch, first.head, first.query + i});
      } else {
        f(from, result);
      }
    }
  }
};

template <class F>
struct Map {
  Index features;
  F f;

  template <class T>
  BoundMap<T, F> bind(const char* where, const Shape&, Index dim) const {
    static_assert(std::is_invocable_v<const F&, std::span<const T>, std::span<T>> ||
                      std::is_invocable_v<const F&, std::span<const T>, std::span<T>, Side, Row>,
                  "fovea: feature::map takes a function callable as f(std::span<const T> x, std::span<T> features) or "
                  "f(x, features, fovea::feature::Side, fovea::Row)");
    check(features > 0, where, "feature::map must give at least one feature, got ", features);
    return {dim, features, f};
  }
};

// f(x, features) writes the `features` features of the D numbers of a token; f(x, features, side, at) is told which
// token of which head, a kv head for keys. It is called from several threads. Features should not be negative where
// their sum is divided by.
template <class F>
Map<F> map(Index features, F f) {
  return {features, std::move(f)};
}

}  // namespace fovea::inline FOVEA_ISA::feature

// fovea/parts/feature/exp.hpp

// phi(x) = e^x, number by number, with shifts that keep it in range (exponential.hpp).

namespace fovea::inline FOVEA_ISA::feature {

struct Exp {
  static constexpr bool exponential = true;

  template <class T>
  BoundExponential<T, BoundIdentity<T>> bind(const char*, const Shape&, Index dim) const {
    return {BoundIdentity<T>{dim}};
  }
};

inline Exp exp() { return {}; }

}  // namespace fovea::inline FOVEA_ISA::feature

// fovea/parts/feature/relu.hpp

// phi(x) = max(x, 0) + epsilon. Without an epsilon the features of a token may all be zero: then it weighs nothing, and
// a query like that sees nothing.

namespace fovea::inline FOVEA_ISA::feature {

struct Relu {
  double epsilon = 0;

  template <class T>
  auto bind(const char* where, const Shape&, Index dim) const {
    check(epsilon >= 0 && std::isfinite(epsilon), where, "the epsilon of feature::relu must not be negative, got ",
          epsilon);
    return elementwise<T>(dim, [added = T(epsilon)](simd::Pack<T> x) {
      return simd::at_least(simd::Pack<T>(T(0)), x) + simd::Pack<T>(added);
    });
  }
};

inline Relu relu(double epsilon = 0) { return {epsilon}; }

}  // namespace fovea::inline FOVEA_ISA::feature

// fovea/parts/feature/squared_relu.hpp

// phi(x) = max(x, 0)^2. The features of a token may all be zero: then it weighs nothing.

namespace fovea::inline FOVEA_ISA::feature {

struct SquaredRelu {
  template <class T>
  auto bind(const char*, const Shape&, Index dim) const {
    return elementwise<T>(dim, [](simd::Pack<T> x) {
      const simd::Pack<T> positive = simd::at_least(simd::Pack<T>(T(0)), x);
      return positive * positive;
    });
  }
};

inline SquaredRelu squared_relu() { return {}; }

}  // namespace fovea::inline FOVEA_ISA::feature

// fovea/parts/kv/gathered.hpp

// The keys and values that a list names, out of those of any source: what a selection or an eviction left.

namespace fovea::inline FOVEA_ISA::kv {

// A run (rows.hpp) of rows that lie apart: row j begins at data + list[j] * stride. They are brought together a piece
// at a time and give the bits of neighbours.
template <class S, class I>
struct ListedRows {
  const S* data = nullptr;
  Index stride = 0;
  Index dim = 0;
  const I* list = nullptr;
  Index more = 0;  // entries of the list behind the run

  static constexpr Index piece = Rows<S>::piece;
  static constexpr bool long_run = true;

  const S* operator[](Index j) const { return data + Index(list[j]) * stride; }

  template <class T>
  static constexpr Index scratch_size(Index /*rows*/, Index dim) {
    return (piece * dim * Index(sizeof(S)) + Index(sizeof(T)) - 1) / Index(sizeof(T));
  }
  template <class T>
  void score(Index queries, const T* q, Index q_stride, Index first, Index count, T* scores, Index scores_stride,
             T* scratch) const {
    together(first, count, scratch).score(queries, q, q_stride, 0, count, scores, scores_stride, scratch);
  }
  bool whole(Index width) const { return width == dim; }
  template <class T>
  void add(Index rows, Index first, Index count, const T* weights, Index weights_stride, T* out, Index width,
           const T* shrink, T* scratch) const {
    together(first, count, scratch).add(rows, 0, count, weights, weights_stride, out, width, shrink, scratch);
  }
  template <class T>
  void read(Index first, Index count, T* to, Index to_stride) const {
    for (Index j = 0; j < count; ++j) simd::copy_as(to + j * to_stride, (*this)[first + j], dim);
  }
  bool finite(Index first, Index count) const {
    for (Index j = 0; j < count; ++j) {
      if (!simd::all_finite((*this)[first + j], dim)) return false;
    }
    return true;
  }
  [[gnu::always_inline]] void prefetch(Index first, Index count) const {
    for (Index j = 0; j < count; ++j) Rows<S>{(*this)[first + j], stride, dim}.prefetch(0, 1);
  }

 private:
  // The rows [first, first + count), at most a piece, side by side; those that come later are asked for meanwhile.
  template <class T>
  Rows<S> together(Index first, Index count, T* scratch) const {
    constexpr Index later = 2 * piece;
    S* const rows = reinterpret_cast<S*>(scratch);
    for (Index j = first; j < first + count; ++j) {
      if (j + later < first + count + more) prefetch(j + later, 1);
      if (dim > 0) std::memcpy(static_cast<void*>(rows + (j - first) * dim), (*this)[j], std::size_t(dim) * sizeof(S));
    }
    return {rows, dim, dim};
  }
};

namespace detail {
template <class From>
inline constexpr bool plain_rows = false;
template <class K, class V>
inline constexpr bool plain_rows<Contiguous<K, V>> = true;
}  // namespace detail

// A source (contiguous.hpp). Token j is token list[j] of `source`; tokens that are neighbours there are one run.
template <class From, class I, class Length = Index>
struct Gathered {
  From from;
  View<const I> lists;              // [B or 1, G or 1, 1, n], an axis of one repeats
  const Length* lengths = nullptr;  // [B]; n when null
  bool ascending = false;           // whether every list ascends

  Index length(Index batch) const { return lengths == nullptr ? lists.dim : Index(lengths[batch]); }
  Index longest() const {
    if (lengths == nullptr) return lists.dim;
    Index most = 0;
    for (Index b = 0; b < batch(); ++b) most = std::max(most, length(b));
    return most;
  }
  Index batch() const { return from.batch(); }
  Index kv_heads() const { return from.kv_heads(); }
  Index key_dim() const { return from.key_dim(); }
  Index value_dim() const { return from.value_dim(); }

  template <class F>
  [[gnu::always_inline]] void each_keys(Index batch, Index kv_head, Span tokens, F&& f) const {
    if constexpr (plain) {
      if (strewn(batch, kv_head, tokens)) return f(tokens, listed_rows(from.k, batch, kv_head, tokens));
    }
    each_stretch(
        batch, kv_head, tokens, [&](Span there, Index shift) __attribute__((always_inline)) {
          from.each_keys(
              batch, kv_head, there, [&](Span part, const auto& run) __attribute__((always_inline)) {
                f(Span{part.first - shift, part.last - shift}, in_list(run, part.size()));
              });
        });
  }
  template <class F>
  [[gnu::always_inline]] void each_values(Index batch, Index kv_head, Span tokens, F&& f) const {
    if constexpr (plain) {
      if (strewn(batch, kv_head, tokens)) return f(tokens, listed_rows(from.v, batch, kv_head, tokens));
    }
    each_stretch(
        batch, kv_head, tokens, [&](Span there, Index shift) __attribute__((always_inline)) {
          from.each_values(
              batch, kv_head, there, [&](Span part, const auto& run) __attribute__((always_inline)) {
                f(Span{part.first - shift, part.last - shift}, in_list(run, part.size()));
              });
        });
  }
  template <class T>
  Index scratch_size(Index rows) const {
    Index most = from.template scratch_size<T>(rows);
    if constexpr (plain) {
      const auto of = [&](const auto& x) {
        using S = std::remove_cvref_t<decltype(*x.data)>;
        return ListedRows<S, I>::template scratch_size<T>(rows, x.dim);
      };
      most = std::max({most, of(from.k), of(from.v)});
    }
    return most;
  }

 private:
  // Whether the tokens of `from` are rows of one array.
  static constexpr bool plain = detail::plain_rows<From>;

  // Whether it is known at once that all of some tokens are neighbours.
  bool neighbours(const I* list, Span tokens) const {
    return ascending && Index(list[tokens.last - 1]) - Index(list[tokens.first]) == tokens.size() - 1;
  }
  // Whether so few of the tokens are neighbours that it is better to bring them together.
  bool strewn(Index batch, Index kv_head, Span tokens) const {
    const I* const list = lists.row(batch, kv_head, 0);
    if (tokens.empty() || neighbours(list, tokens)) return false;
    Index stretches = 1;
    for (Index j = tokens.first + 1; j < tokens.last; ++j) stretches += list[j] != list[j - 1] + 1 ? 1 : 0;
    return stretches * Rows<float>::piece > tokens.size() && stretches > 1;
  }
  template <class S>
  ListedRows<S, I> listed_rows(const View<const S>& x, Index batch, Index kv_head, Span tokens) const {
    return {x.row(batch, kv_head, 0), x.length_stride, x.dim, lists.row(batch, kv_head, 0) + tokens.first,
            length(batch) - tokens.last};
  }

  // What follows a short run in memory is hardly what the list names next, and is not asked for.
  template <class Run>
  [[gnu::always_inline]] static Run in_list(Run run, Index size) {
    if constexpr (requires { run.long_run = false; }) run.long_run = run.long_run && size >= 2 * Run::piece;
    return run;
  }

  // f(there, shift) for tokens that are neighbours in `from`, where they stand `shift` further on.
  template <class F>
  [[gnu::always_inline]] void each_stretch(Index batch, Index kv_head, Span tokens, F&& f) const {
    const I* const list = lists.row(batch, kv_head, 0);
    for (Index first = tokens.first; first < tokens.last;) {
      Index end = neighbours(list, {first, tokens.last}) ? tokens.last : first + 1;
      while (end < tokens.last && list[end] == list[end - 1] + 1) ++end;
      const Index begin = Index(list[first]);
      f(Span{begin, begin + (end - first)}, begin - first);
      first = end;
    }
  }
};

namespace detail {

// count: how many lengths there are, negative where the lists count whole.
template <class From, class Lists, class Length>
auto checked_gathered(const From& from, const Lists& lists, const Length* lengths, Index count) {
  constexpr auto where = "fovea::kv::gathered";
  const auto rows = integers(lists);
  Gathered<From, IntegerOf<Lists>, Length> source{from, rows, lengths, true};
  const Index batch = from.batch(), heads = from.kv_heads();
  check(rows.batch == 1 || rows.batch == batch, where, "there must be lists for all sequences or for each, wanted ",
        batch, ", got ", rows.batch);
  check(rows.heads == 1 || rows.heads == heads, where, "there must be lists for all kv heads or for each, wanted ",
        heads, ", got ", rows.heads);
  check(count < 0 || count == batch, where, "there must be one length for each sequence, wanted ", batch, ", got ",
        count);
  for (Index b = 0; b < batch; ++b) {
    const Index length = source.length(b), tokens = from.length(b);
    check(length >= 0 && length <= rows.dim, where, "lengths must be between 0 and ", rows.dim, ", got ", length);
    for (Index h = 0; h < rows.heads; ++h) {
      const auto* const list = rows.row(b, h, 0);
      for (Index j = 0; j < length; ++j) {
        const auto token = list[j];
        source.ascending = source.ascending && (j == 0 || token > list[j - 1]);
        check(token >= 0 && Index(token) < tokens, where, "tokens must be among the ", tokens, " of sequence ", b,
              ", got ", token);
      }
    }
  }
  return source;
}

template <class From>
auto source_of(const From& from) {
  if constexpr (Source<From>) {
    return from;
  } else {
    return from.source();
  }
}

}  // namespace detail

// The source of the tokens that `lists` name of `from`, a source or an object that has one. A list may name tokens in
// any order and twice; masks see the places in the list. lists are integers: a RowMajor tensor [B,G,n], one list for
// each kv head; a RowMajor matrix or tensor [B x n], one for all heads of a sequence; a vector or range [n], one for
// all sequences. lengths, where they are given, [B], say how many entries of a sequence's lists count. Integers are not
// copied.
//
//   fovea::attend(q, kv::gathered(cache, kept), out, softmax(), executor);
//
// Throws ArgumentError when lists and source do not fit or a token is not there.
template <class From, class Lists>
auto gathered(const From& from, const Lists& lists) {
  return detail::checked_gathered<decltype(detail::source_of(from)), Lists, Index>(detail::source_of(from), lists,
                                                                                   nullptr, -1);
}
template <class From, class Lists, class Lengths>
auto gathered(const From& from, const Lists& lists, const Lengths& lengths) {
  const auto counts = integers(lengths);
  return detail::checked_gathered(detail::source_of(from), lists, counts.data, counts.dim);
}

}  // namespace fovea::inline FOVEA_ISA::kv

// fovea/parts/kv/paged.hpp

// Keys and values in pages of a common pool, found by a table for each sequence.
// Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", SOSP 2023,
// arXiv:2309.06180.
//
// Token t of sequence b is token t % page of page table[b][t / page]. Pages may stand in any order and serve several
// sequences; results have the bits of the same tokens in one array.

namespace fovea::inline FOVEA_ISA::kv {

// The source (contiguous.hpp) of pools k [pages,G,page,D] and v [pages,G,page,E].
template <class K, class V, class Page, class Length>
struct Paged {
  View<const K> k;
  View<const V> v;
  const Page* table = nullptr;  // row b begins at b * table_stride
  Index table_stride = 0;
  const Length* lengths = nullptr;
  Index sequences = 0;

  Index page() const { return k.length; }  // tokens of one
  Index length(Index batch) const { return Index(lengths[batch]); }
  Index longest() const {
    Index most = 0;
    for (Index b = 0; b < sequences; ++b) most = std::max(most, length(b));
    return most;
  }
  Index batch() const { return sequences; }
  Index kv_heads() const { return k.heads; }
  Index key_dim() const { return k.dim; }
  Index value_dim() const { return v.dim; }

  template <class F>
  [[gnu::always_inline]] void each_keys(Index batch, Index kv_head, Span tokens, F&& f) const {
    each_run(k, batch, kv_head, tokens, f);
  }
  template <class F>
  [[gnu::always_inline]] void each_values(Index batch, Index kv_head, Span tokens, F&& f) const {
    each_run(v, batch, kv_head, tokens, f);
  }
  template <class T>
  Index scratch_size(Index) const {
    return 0;
  }

 private:
  // Pages that follow one another in memory are one run, as long as what is read later lies equally far.
  template <class S, class F>
  [[gnu::always_inline]] void each_run(const View<const S>& pool, Index batch, Index kv_head, Span tokens,
                                       F&& f) const {
    if (tokens.empty()) return;
    const bool seamless = pool.batch_stride == pool.length * pool.length_stride;
    const Index all = length(batch), page_size = std::max<Index>(page() * pool.length_stride, 1);
    const bool much = all * pool.dim >= Rows<S>::much;
    const Index pages_later = (Rows<S>::far + page_size - 1) / page_size;
    // What is read later lies where the table says, at the same place of its page: how far, none when it is 0.
    const auto later = [&](const Page* at, Index token) {
      const bool is_there = much && token + pages_later * page() < all;
      return is_there ? (Index(at[pages_later]) - Index(*at)) * pool.batch_stride : 0;
    };
    const Page* next = table + batch * table_stride + tokens.first / page();
    Index first = tokens.first, in_page = tokens.first % page();
    while (true) {
      Rows<S> run{pool.row(Index(*next), kv_head, in_page), pool.length_stride, pool.dim};
      run.later = later(next, first - in_page);
      run.long_run = run.later != 0;
      Index end = std::min(tokens.last, first + (page() - in_page));
      while (seamless && end < tokens.last && next[1] == next[0] + 1 && later(next + 1, end) == run.later) {
        end = std::min(tokens.last, end + page());
        ++next;
      }
      f(Span{first, end}, run);
      if (end == tokens.last) return;
      first = end;
      in_page = 0;
      ++next;
    }
  }
};

// The source of pools k [pages,G,page,D] and v [pages,G,page,E] (bthd(k) for [pages,page,G,D]), whose scalar types may
// differ: float, double, Eigen::bfloat16, Eigen::half. table holds the pages of each sequence, integers [B x most
// pages]: a RowMajor matrix or tensor, or a range of B rows one behind the other; lengths, [B], the tokens of each
// sequence. Entries behind those that a length needs may hold anything. Nothing is copied.
//
//   fovea::attend(q, kv::paged(k_pool, v_pool, table, lengths), out, softmax().mask(mask::causal()), executor);
//
// Throws ArgumentError when pools do not fit each other, a length is negative, the table is shorter than a length needs
// or a page that is needed is not in the pool.
template <class K, class V, class Table, class Lengths>
auto paged(const K& k, const V& v, const Table& table, const Lengths& lengths) {
  constexpr auto where = "fovea::kv::paged";
  const auto keys = view(k);
  const auto values = view(v);
  const auto rows = integers(table);
  const auto tokens = integers(lengths);
  using Key = std::remove_const_t<std::remove_pointer_t<decltype(keys.data)>>;
  using Value = std::remove_const_t<std::remove_pointer_t<decltype(values.data)>>;
  check(values.batch == keys.batch, where, "v must have the pages of k, wanted ", keys.batch, ", got ", values.batch);
  check(values.heads == keys.heads, where, "v must have the heads of k, wanted ", keys.heads, ", got ", values.heads);
  check(values.length == keys.length, where, "pages of v must be as long as those of k, wanted ", keys.length, ", got ",
        values.length);
  check(keys.length > 0, where, "pages must have a positive length, got ", keys.length);
  check(tokens.batch == 1 && tokens.heads == 1, where, "lengths must be one row");
  const Index sequences = tokens.dim;
  constexpr bool flat = !fovea::detail::TensorLike<Table> && !fovea::detail::DenseLike<Table>;
  check(rows.heads == 1 && (flat ? sequences == 0 || rows.dim % sequences == 0 : rows.batch == sequences), where,
        "the table must have a row for each sequence, wanted ", sequences, " rows, got ", flat ? rows.dim : rows.batch,
        flat ? " entries" : "");
  const Index most = flat && sequences > 0 ? rows.dim / sequences : rows.dim;
  const Paged<Key, Value, IntegerOf<Table>, IntegerOf<Lengths>> source{
      keys, values, rows.data, flat ? most : rows.batch_stride, tokens.data, sequences};
  for (Index b = 0; b < sequences; ++b) {
    const Index length = source.length(b);
    check(length >= 0, where, "lengths must not be negative, got ", length);
    const Index needed = length / keys.length + (length % keys.length != 0 ? 1 : 0);
    check(needed <= most, where, "the table must hold every page that a length needs, wanted ", needed, " of ", length,
          " tokens, got ", most);
    for (Index p = 0; p < needed; ++p) {
      const auto page = source.table[b * source.table_stride + p];
      check(page >= 0 && Index(page) < keys.batch, where, "pages must be among the ", keys.batch, " of the pool, got ",
            page, " in row ", b);
    }
  }
  return source;
}

}  // namespace fovea::inline FOVEA_ISA::kv

// fovea/simd/codes.hpp

// Numbers stored as codes of 8 or 4 bits in groups, x = low + scale code with one scale and one low (halfs) for each
// group: how the keys and values of one head lie in memory (parts/kv/quantized.hpp says which numbers make a group).
//
// Codes lie in panels of 16 lanes by a depth over which products are summed, a whole number of steps. A step is 64
// bytes: one 32-bit word for each lane, with the codes of 4 (8 bits) or 8 (4 bits) consecutive depths. Code k of a step
// is byte k, or in words of 4 bits the low half of byte k for k < 4 and the high half of byte k - 4 for the others.
// Keys have tokens in the lanes and channels in the depth, values the other way round.

namespace fovea::inline FOVEA_ISA::simd {

inline constexpr Index panel_lanes = 16;
inline constexpr Index coded_tokens = 32;  // depth of a panel of values

template <int bits>
struct Codes {
  static_assert(bits == 4 || bits == 8);
  static constexpr int levels = (1 << bits) - 1;  // the largest code
  static constexpr int center = 1 << (bits - 1);  // about the middle one
  static constexpr int in_step = 32 / bits;       // depths of a step
  static constexpr Index step_bytes = 4 * panel_lanes;

  static constexpr Index panel_bytes(Index depth) { return depth / in_step * step_bytes; }
  // Where code k of a word begins, in bits.
  static constexpr int place(int k) { return k < 4 ? 8 * k : 8 * (k - 4) + 4; }
  static constexpr Index byte(Index lane, Index depth) { return depth / in_step * step_bytes + 4 * lane + depth % 4; }

  static int get(const std::uint8_t* panel, Index lane, Index depth) {
    const int stored = panel[byte(lane, depth)];
    return bits == 8 ? stored : depth % in_step < 4 ? stored & 15 : stored >> 4;
  }
  static void set(std::uint8_t* panel, Index lane, Index depth, int code) {
    std::uint8_t& stored = panel[byte(lane, depth)];
    if constexpr (bits == 8) {
      stored = std::uint8_t(code);
    } else if (depth % in_step < 4) {
      stored = std::uint8_t((stored & 0xf0) | code);
    } else {
      stored = std::uint8_t((stored & 15) | code << 4);
    }
  }
};

// Keys: blocks of `group` tokens. Of a block: group / 16 panels of 16 tokens by `depth` channels, the width of a token
// rounded up to a multiple of 16; scale[depth]; low[depth].
template <int bits>
struct KeyBlocks {
  const std::uint8_t* data = nullptr;
  Index group = 0, depth = 0;

  Index panel_bytes() const { return Codes<bits>::panel_bytes(depth); }
  Index codes_bytes() const { return group / panel_lanes * panel_bytes(); }
  Index bytes() const { return codes_bytes() + 4 * depth; }

  const std::uint8_t* codes(Index block) const { return data + block * bytes(); }
  const Eigen::half* scale(Index block) const {
    return reinterpret_cast<const Eigen::half*>(codes(block) + codes_bytes());
  }
  const Eigen::half* low(Index block) const { return scale(block) + depth; }
};

// Values: blocks of coded_tokens tokens. Of a block: `panels` panels of 16 channels by coded_tokens tokens; then
// scale[groups][coded_tokens] and low[groups][coded_tokens], for groups of `group` channels.
template <int bits>
struct ValueBlocks {
  static constexpr Index panel_bytes = Codes<bits>::panel_bytes(coded_tokens);

  const std::uint8_t* data = nullptr;
  Index group = 0, panels = 0, groups = 0;

  Index codes_bytes() const { return panels * panel_bytes; }
  Index bytes() const { return codes_bytes() + 4 * groups * coded_tokens; }

  const std::uint8_t* codes(Index block) const { return data + block * bytes(); }
  const Eigen::half* scale(Index block) const {
    return reinterpret_cast<const Eigen::half*>(codes(block) + codes_bytes());
  }
  const Eigen::half* low(Index block) const { return scale(block) + groups * coded_tokens; }
};

}  // namespace fovea::inline FOVEA_ISA::simd

// fovea/simd/encode.hpp

// Numbers become codes (codes.hpp): the range of a group, its scale and minimum as halfs, and what lies where.
//
// The minimum is rounded down, and the scale up until the range is covered; codes are taken against what is stored, in
// double, and round to even. A group of one number that is a half has scale zero.

// As in simd/ops.hpp: g++ 12 takes undefined operands inside its own intrinsics for a mistake (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace fovea::inline FOVEA_ISA::simd {

namespace detail {

inline Eigen::half half_of_bits(std::uint16_t bits) { return Eigen::numext::bit_cast<Eigen::half>(bits); }
inline std::uint16_t bits_of_half(Eigen::half x) { return Eigen::numext::bit_cast<std::uint16_t>(x); }
inline double double_of_half(Eigen::half x) { return static_cast<double>(static_cast<float>(x)); }

// The largest half that is not above x, and the smallest that is not below it; |x| is at most the largest half.
inline Eigen::half half_below(double x) {
  const auto nearest = Eigen::half(static_cast<float>(x));
  if (double_of_half(nearest) <= x) return nearest;
  const std::uint16_t bits = bits_of_half(nearest);
  return half_of_bits((bits & 0x7fff) == 0 ? std::uint16_t(0x8001)
                                           : std::uint16_t((bits & 0x8000) != 0 ? bits + 1 : bits - 1));
}
inline Eigen::half half_above(double x) { return -half_below(-x); }

}  // namespace detail

// What is stored of a group of numbers from `least` to `most`.
template <int bits>
struct Grid {
  static constexpr int levels = Codes<bits>::levels;
  Eigen::half scale, low;

  Grid(double least, double most) : low(detail::half_below(least)) {
    scale = detail::half_above((most - detail::double_of_half(low)) / levels);
    // The quotient was rounded.
    if (detail::double_of_half(low) + levels * detail::double_of_half(scale) < most)
      scale = detail::half_of_bits(std::uint16_t(detail::bits_of_half(scale) + 1));
  }

  double minimum() const { return detail::double_of_half(low); }
  // What to divide by: codes are zero where the scale is.
  double step() const { return static_cast<float>(scale) == 0 ? 1.0 : detail::double_of_half(scale); }
};

namespace detail {

// code[i] = round((x[i] - low[i]) / step[i]) for 16 numbers of grids that cover them.
template <class T>
[[gnu::always_inline]] inline void encode_lanes(const T* x, const double* low, const double* step, std::uint8_t* code) {
  constexpr int some = int(lanes<double>);
  for (int i = 0; i < 16; i += some) {
    const auto wide = __builtin_convertvector(native_load<T, some>(x + i), Native<double, some>);
    const auto quotient = (wide - native_load<double, some>(low + i)) / native_load<double, some>(step + i);
    // Next to 2^52 a double has steps of one. Half as wide at a time: g++ 12 takes the lanes apart otherwise.
    const auto round = (quotient + 0x1.8p52) - 0x1.8p52;
    const auto half_wide = __builtin_convertvector(__builtin_convertvector(round, Native<std::int32_t, some>),
                                                   Native<std::uint16_t, some>);
    const auto narrow = __builtin_convertvector(half_wide, Native<std::uint8_t, some>);
    std::memcpy(code + i, &narrow, sizeof narrow);
  }
}

// 16 numbers of a row from d on: where they lie, or a copy with `fill` behind the row.
template <class T>
[[gnu::always_inline]] inline const T* sixteen(const T* row, Index d, Index dim, T fill, T* copy) {
  if (d + 16 <= dim) return row + d;
  std::fill_n(std::copy(row + d, row + dim, copy), d + 16 - dim, fill);
  return copy;
}

template <int bits>
[[gnu::always_inline]] inline void put_codes_of_lane(std::uint8_t* panel, Index lane, Index depth,
                                                     const std::uint8_t* code) {
  using Layout = Codes<bits>;
  std::uint8_t* const to = panel + depth / Layout::in_step * Layout::step_bytes + 4 * lane;
  std::uint32_t word[4];
  std::memcpy(word, code, sizeof word);
  if constexpr (bits == 8) {
    for (int i = 0; i < 4; ++i) std::memcpy(to + i * Layout::step_bytes, word + i, 4);
  } else {
    for (int i = 0; i < 2; ++i) {
      const std::uint32_t both = word[2 * i] | word[2 * i + 1] << 4;
      std::memcpy(to + i * Layout::step_bytes, &both, 4);
    }
  }
}

}  // namespace detail

// One block of keys from `group` rows of dim numbers.
template <int bits, class T>
void write_coded_keys(std::uint8_t* block, Index group, Index depth, Index dim, const T* rows, Index stride) {
  using Layout = Codes<bits>;
  const Index panel_bytes = Layout::panel_bytes(depth);
  auto* const scales = reinterpret_cast<Eigen::half*>(block + group / panel_lanes * panel_bytes);
  alignas(64) T copy[16], least[16], most[16];
  alignas(64) double low[16], step[16];
  std::uint8_t code[16];
  for (Index d = 0; d < dim; d += 16) {
    constexpr int vectors = 16 / int(lanes<T>);
    Pack<T> smallest[vectors], largest[vectors];
    for (Index j = 0; j < group; ++j) {
      const T* const x = detail::sixteen(rows + j * stride, d, dim, T(0), copy);
      for (int i = 0; i < vectors; ++i) {
        const Pack<T> some = load(x + i * lanes<T>);
        smallest[i] = j == 0 ? some : xsimd::min(smallest[i], some);
        largest[i] = j == 0 ? some : xsimd::max(largest[i], some);
      }
    }
    for (int i = 0; i < vectors; ++i) {
      store(least + i * lanes<T>, smallest[i]);
      store(most + i * lanes<T>, largest[i]);
    }
    for (int i = 0; i < 16; ++i) {
      const Grid<bits> grid(static_cast<double>(least[i]), static_cast<double>(most[i]));
      low[i] = grid.minimum();
      step[i] = grid.step();
      scales[d + i] = grid.scale;
      scales[depth + d + i] = grid.low;
    }
    for (Index j = 0; j < group; ++j) {
      detail::encode_lanes(detail::sixteen(rows + j * stride, d, dim, T(0), copy), low, step, code);
      detail::put_codes_of_lane<bits>(block + j / panel_lanes * panel_bytes, j % panel_lanes, d, code);
    }
  }
}

// Token `token` of a block of values from dim numbers, grouped by `group` channels.
template <int bits, class T>
void write_coded_value(std::uint8_t* block, Index token, Index group, Index dim, const T* x) {
  using Layout = Codes<bits>;
  constexpr Index panel_bytes = Layout::panel_bytes(coded_tokens);
  const Index panels = (dim + panel_lanes - 1) / panel_lanes, groups = (dim + group - 1) / group;
  auto* const scales = reinterpret_cast<Eigen::half*>(block + panels * panel_bytes);
  alignas(64) T copy[16];
  alignas(64) double low[16], step[16];
  std::uint8_t code[16];
  for (Index g = 0; g < groups; ++g) {
    const Index end = std::min((g + 1) * group, dim);
    Pack<T> smallest(x[g * group]), largest(x[g * group]);
    for (Index d = g * group; d < end; d += 16) {
      const T* const some = detail::sixteen(x, d, end, x[d], copy);
      for (int i = 0; i < 16; i += int(lanes<T>)) {
        smallest = xsimd::min(smallest, load(some + i));
        largest = xsimd::max(largest, load(some + i));
      }
    }
    const T least = fold<T, int(lanes<T>)>(detail::native(smallest), [](auto a, auto b) { return a < b ? a : b; });
    const T most = max_of_lanes(largest);
    const Grid<bits> grid(static_cast<double>(least), static_cast<double>(most));
    scales[g * coded_tokens + token] = grid.scale;
    scales[(groups + g) * coded_tokens + token] = grid.low;
    std::fill_n(low, 16, grid.minimum());
    std::fill_n(step, 16, grid.step());
    for (Index d = g * group; d < end; d += 16) {
      detail::encode_lanes(detail::sixteen(x, d, end, T(0), copy), low, step, code);
      std::uint8_t* const panel = block + d / panel_lanes * panel_bytes;
      const Index some = std::min<Index>(16, end - d);
      for (Index i = 0; i < some; ++i) Layout::set(panel, i, token, code[i]);
    }
  }
}

}  // namespace fovea::inline FOVEA_ISA::simd

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

// fovea/simd/coded_digits.hpp

// Products with codes where the instruction set multiplies bytes and adds them up in integers (AVX-512 VNNI).
//
// The weights x of a group, queries times scale or weights times scale, become integers n of 24 bits,
//
//   x = unit n,  |n| <= coded_limit,  n = d0 + 2^8 d1 + 2^16 d2 with digits of -128 to 127,
//
// and the sums of codes times digits are exact: rounding x costs 2^-24 of the largest x of the group at most, nothing
// is lost behind it, and no sum depends on what is summed beside it. A sum is below 2^31 for depths up to 2^16.

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define FOVEA_CODED_DIGITS 1
#else
#define FOVEA_CODED_DIGITS 0
#endif

#if FOVEA_CODED_DIGITS

// As in simd/ops.hpp: g++ 12 takes undefined operands inside its own intrinsics for a mistake (GCC bug 105593).
#if !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace fovea::inline FOVEA_ISA::simd::detail {

inline constexpr float coded_limit = 8355584;  // 2^23 - 2^15 - 2^8: with the 2^15 + 2^7 of the lower digits below 2^23

// For four vectors: op over the lanes of vector i, in lane i of each quarter of the result.
template <class Op>
[[gnu::always_inline]] inline __m512 fold_four(const __m512* x, Op op) {
  const __m512 ab = op(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
  const __m512 cd = op(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
  const __m512 quarters = op(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m512 halves = op(quarters, _mm512_shuffle_f32x4(quarters, quarters, 0x4e));
  return op(halves, _mm512_shuffle_f32x4(halves, halves, 0xb1));
}

// The larger magnitude of each lane.
[[gnu::always_inline]] inline __m512 larger(__m512 a, __m512 b) { return _mm512_range_ps(a, b, 0xb); }

// Lane i of each quarter in all lanes of it.
[[gnu::always_inline]] inline __m512 lane_of_quarters(__m512 x, int i) {
  return i == 0   ? _mm512_permute_ps(x, 0x00)
         : i == 1 ? _mm512_permute_ps(x, 0x55)
         : i == 2 ? _mm512_permute_ps(x, 0xaa)
                  : _mm512_permute_ps(x, 0xff);
}

// What four groups are multiplied with to be integers, their units and the sums that go beside the products. most: the
// largest magnitudes of each; sums: lane by lane.
struct FourUnits {
  __m512 factor;
  __m128 unit, sum;

  [[gnu::always_inline]] FourUnits(const __m512* most, const __m512* sums) {
    // Magnitudes are in the order of their bits, and integers are compared in one cycle.
    const __m512 largest = fold_four(most, [](__m512 a, __m512 b) {
      return _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
    });
    // Numbers so small that the quotient were infinite are as good as zero.
    const __m128 times =
        _mm_min_ps(_mm_div_ps(_mm_set1_ps(coded_limit), _mm512_castps512_ps128(largest)), _mm_set1_ps(0x1p126f));
    factor = _mm512_broadcast_f32x4(times);
    unit = _mm_div_ps(_mm_set1_ps(1), times);
    sum = _mm512_castps512_ps128(fold_four(sums, [](__m512 a, __m512 b) { return _mm512_add_ps(a, b); }));
  }
};

// The digits of 16 numbers: in each quarter of 16 bytes those of four numbers, first the four d0, then d1, then d2.
[[gnu::always_inline]] inline __m512i digits_of(__m512 x, __m512 factor) {
  const __m512i order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  const __m512i n = _mm512_cvtps_epi32(_mm512_fmadd_ps(x, factor, _mm512_set1_ps(0x8080)));
  return _mm512_shuffle_epi8(_mm512_xor_si512(n, _mm512_set1_epi32(0x8080)), order);
}

// Asks for memory `ahead` bytes behind p.
[[gnu::always_inline]] inline void ask_for(const void* p, Index ahead) {
  __builtin_prefetch(static_cast<const char*>(p) + ahead, 0, 2);
}

// sum + code . digit, four bytes to a lane.
[[gnu::always_inline]] inline __m512i multiply_bytes(__m512i sum, __m512i code, __m512i digit) {
#if defined(__clang__)
  return _mm512_dpbusd_epi32(sum, code, digit);
#else
  // g++ copies the sum to and fro around its own intrinsic.
  asm("vpdpbusd\t{%2, %1, %0|%0, %1, %2}" : "+v"(sum) : "v"(code), "v"(digit));
  return sum;
#endif
}

// The sums of the digits of a row, times -center: what sums of codes begin with.
struct Starts {
  alignas(16) std::int32_t of_place[4];

  // `sum` has products of digits with the center, as digits_of arranges them.
  [[gnu::always_inline]] void set(__m512i sum) {
    const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
    const __m128i quarter = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    _mm_store_si128(reinterpret_cast<__m128i*>(of_place), _mm_sub_epi32(_mm_setzero_si128(), quarter));
  }
};

// Sums of codes times the digits of one place, for some rows and panels.
template <int rows, int panels>
struct DigitSums {
  __m512i sum[rows * panels];

  [[gnu::always_inline]] void clear() {
#pragma GCC unroll 8
    for (int i = 0; i < rows * panels; ++i) sum[i] = _mm512_setzero_si512();
  }
  [[gnu::always_inline]] void begin(const Starts* starts, int place) {
#pragma GCC unroll 8
    for (int i = 0; i < rows * panels; ++i) sum[i] = _mm512_set1_epi32(starts[i / panels].of_place[place]);
  }
  [[gnu::always_inline]] void add(const __m512i* code, const char* digits, Index digits_stride) {
#pragma GCC unroll 4
    for (int r = 0; r < rows; ++r) {
      std::int32_t four;
      std::memcpy(&four, digits + r * digits_stride, sizeof four);
      const __m512i digit = _mm512_set1_epi32(four);
#pragma GCC unroll 2
      for (int p = 0; p < panels; ++p) sum[r * panels + p] = multiply_bytes(sum[r * panels + p], code[p], digit);
    }
  }
};

// sum[r * panels + p] = sum_d n[r][d] (code[p][d] - center) over a depth, for panels `panel_bytes` apart and digits
// `digits_stride` bytes apart; memory `ahead` bytes behind what is read is asked for.
template <int bits, int rows, int panels>
[[gnu::always_inline]] inline void digit_products(const std::uint8_t* codes, Index panel_bytes, Index depth,
                                                  const char* digits, Index digits_stride, const Starts* starts,
                                                  Index ahead, __m512* sum) {
  using Layout = Codes<bits>;
  // Two sums of each kind where there are few that do not wait for each other.
  constexpr bool two = rows * panels <= 2;
  DigitSums<rows, panels> low, middle, high, more_low, more_middle, more_high;
  low.begin(starts, 0);
  middle.begin(starts, 1);
  high.begin(starts, 2);
  if constexpr (two) {
    more_low.clear();
    more_middle.clear();
    more_high.clear();
  }
  const auto add = [&](auto second, const __m512i* code, const char* at) __attribute__((always_inline)) {
    if constexpr (two && decltype(second)::value) {
      more_low.add(code, at, digits_stride);
      more_middle.add(code, at + 4, digits_stride);
      more_high.add(code, at + 8, digits_stride);
    } else {
      low.add(code, at, digits_stride);
      middle.add(code, at + 4, digits_stride);
      high.add(code, at + 8, digits_stride);
    }
  };
    // Digits are read back from memory, not taken out of the vectors that they were written from.
#pragma GCC unroll 1
  for (Index d = 0; d < depth; d += 8) {
    __m512i first[panels], second[panels];
#pragma GCC unroll 2
    for (int p = 0; p < panels; ++p) {
      const std::uint8_t* const at = codes + p * panel_bytes;
      ask_for(at, ahead);
      if constexpr (bits == 8) {
        ask_for(at + Layout::step_bytes, ahead);
        first[p] = _mm512_loadu_si512(at);
        second[p] = _mm512_loadu_si512(at + Layout::step_bytes);
      } else {
        const __m512i word = _mm512_loadu_si512(at);
        first[p] = _mm512_and_si512(word, _mm512_set1_epi8(15));
        second[p] = _mm512_and_si512(_mm512_srli_epi16(word, 4), _mm512_set1_epi8(15));
      }
    }
    add(std::false_type{}, first, digits);
    add(std::true_type{}, second, digits + 16);
    codes += 8 / Layout::in_step * Layout::step_bytes;
    digits += 32;
  }
  const __m512 second_place = _mm512_set1_ps(256), third_place = _mm512_set1_ps(65536);
#pragma GCC unroll 8
  for (int i = 0; i < rows * panels; ++i) {
    if constexpr (two) {
      low.sum[i] = _mm512_add_epi32(low.sum[i], more_low.sum[i]);
      middle.sum[i] = _mm512_add_epi32(middle.sum[i], more_middle.sum[i]);
      high.sum[i] = _mm512_add_epi32(high.sum[i], more_high.sum[i]);
    }
    const __m512 rest =
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(middle.sum[i]), second_place, _mm512_cvtepi32_ps(low.sum[i]));
    sum[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high.sum[i]), third_place, rest);
  }
}

// dot_coded (quantized.hpp) for 1, 2 or 4 queries. A unit is a query in a block; digits of eight units lie in scratch.
template <int bits, int queries>
void dot_digits(const float* q, Index q_stride, const KeyBlocks<bits>& keys, Index first, Index count, float* scores,
                Index scores_stride, float* scratch, Index ahead) {
  constexpr int units = 8, blocks = units / queries;
  const Index depth = keys.depth, panel_bytes = keys.panel_bytes(), last = first + count;
  alignas(64) float unit[units], base[units];
  Starts starts[units];
  const __m512 center = _mm512_set1_ps(Codes<bits>::center);
  const __m512i centers = _mm512_set1_epi8(char(Codes<bits>::center));
  for (Index begin = first / keys.group; begin * keys.group < last; begin += blocks) {
    const Index some = std::min<Index>(blocks, (last + keys.group - 1) / keys.group - begin);
    for (int u = 0; u < some * queries; u += 4) {
      __m512 most[4], sum[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) most[i] = sum[i] = _mm512_setzero_ps();
      constexpr int in_four = 4 / queries;
#pragma GCC unroll 4
      for (int b = 0; b < in_four; ++b) {
        const Index block = u / queries + b;
        if (block >= some) break;
        const Eigen::half *const scale = keys.scale(begin + block), *const low = keys.low(begin + block);
        for (Index d = 0; d < depth; d += 16) {
          if (d % 32 == 0) {
            ask_for(scale + d, ahead);
            ask_for(low + d, ahead);
          }
          const __m512 factor = load_as<float>(scale + d);
          const __m512 middle = _mm512_fmadd_ps(factor, center, load_as<float>(low + d));
#pragma GCC unroll 4
          for (int i = 0; i < queries; ++i) {
            const int own = b * queries + i;
            const __m512 x = _mm512_loadu_ps(q + i * q_stride + d), scaled = _mm512_mul_ps(x, factor);
            _mm512_storeu_ps(scratch + (u + own) * depth + d, scaled);
            most[own] = larger(most[own], scaled);
            sum[own] = _mm512_fmadd_ps(x, middle, sum[own]);
          }
        }
      }
      const FourUnits four(most, sum);
      _mm_store_ps(unit + u, four.unit);
      _mm_store_ps(base + u, four.sum);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        if (u + i >= some * queries) break;
        const __m512 factor = lane_of_quarters(four.factor, i);
        float* const at = scratch + (u + i) * depth;
        __m512i digit_sum = _mm512_setzero_si512();
        for (Index d = 0; d < depth; d += 16) {
          const __m512i digits = digits_of(_mm512_loadu_ps(at + d), factor);
          digit_sum = multiply_bytes(digit_sum, centers, digits);
          _mm512_storeu_si512(at + d, digits);
        }
        starts[u + i].set(digit_sum);
      }
    }
    for (Index b = 0; b < some; ++b) {
      // Tokens are counted from the beginning of the block.
      const Index from = std::max<Index>(first - (begin + b) * keys.group, 0);
      const Index to = std::min(last - (begin + b) * keys.group, keys.group);
      const std::uint8_t* const codes = keys.codes(begin + b);
      float* const block_scores = scores + ((begin + b) * keys.group + from - first);
      const auto run = [&](auto number, Index token) __attribute__((always_inline)) {
        constexpr int panels = decltype(number)::value;
        __m512 sum[queries * panels];
        digit_products<bits, queries, panels>(codes + token / panel_lanes * panel_bytes, panel_bytes, depth,
                                              reinterpret_cast<const char*>(scratch + b * queries * depth), 4 * depth,
                                              starts + b * queries, ahead, sum);
#pragma GCC unroll 4
        for (int i = 0; i < queries; ++i) {
          const __m512 own_unit = _mm512_set1_ps(unit[b * queries + i]), rest = _mm512_set1_ps(base[b * queries + i]);
#pragma GCC unroll 2
          for (int p = 0; p < panels; ++p) {
            const __m512 score = _mm512_fmadd_ps(sum[i * panels + p], own_unit, rest);
            const Index left = std::max(token + p * panel_lanes, from);
            const Index right = std::min(token + (p + 1) * panel_lanes, to);
            float* const at = block_scores + i * scores_stride + (left - from);
            if (right - left == panel_lanes) {
              _mm512_storeu_ps(at, score);
            } else if (right > left) {
              alignas(64) float lane[std::size_t(panel_lanes)];
              _mm512_store_ps(lane, score);
              std::copy_n(lane + left % panel_lanes, right - left, at);
            }
          }
        }
      };
      Index token = from / panel_lanes * panel_lanes;
      if constexpr (queries <= 4) {
        for (; token + panel_lanes < to; token += 2 * panel_lanes) run(std::integral_constant<int, 2>{}, token);
      }
      for (; token < to; token += panel_lanes) run(std::integral_constant<int, 1>{}, token);
    }
  }
}

// Floats that add_digits wants as scratch.
constexpr Index add_digits_scratch(Index panels) { return 4 * (panels + 3) * (coded_tokens + 2 + 4) + 4; }

// add_coded (quantized.hpp) for 1, 2 or 4 rows. A unit is a row in a group of channels.
template <int bits, int rows>
void add_digits(const float* weights, Index weights_stride, const ValueBlocks<bits>& values, Index first, Index count,
                float* out, Index width, const float* shrink, float* scratch, Index ahead) {
  static_assert(coded_tokens == 32);
  constexpr int together = 4 / rows;
  constexpr Index panel_bytes = ValueBlocks<bits>::panel_bytes;
  const Index groups = values.groups, group = values.group, room = 4 * (groups + 3);
  // Aligned to what Starts asks for.
  auto* const starts = reinterpret_cast<Starts*>((reinterpret_cast<std::uintptr_t>(scratch) + 15) / 16 * 16);
  float* const unit = reinterpret_cast<float*>(starts + room);
  float *const base = unit + room, *const digits = base + room;
  const __m512 center = _mm512_set1_ps(Codes<bits>::center);
  const __m512i centers = _mm512_set1_epi8(char(Codes<bits>::center));
  for (Index at = 0; at < count;) {
    const Index block = (first + at) / coded_tokens, begin = (first + at) % coded_tokens;
    const Index n = std::min(count - at, coded_tokens - begin);
    const float* own = weights + at;
    Index own_stride = weights_stride;
    alignas(64) float padded[rows * coded_tokens];
    if (n != coded_tokens) {
      for (int r = 0; r < rows; ++r) {
        std::fill_n(padded + r * coded_tokens, coded_tokens, 0.0f);
        std::copy_n(own + r * own_stride, n, padded + r * coded_tokens + begin);
      }
      own = padded;
      own_stride = coded_tokens;
    }
    const Eigen::half *const scale = values.scale(block), *const low = values.low(block);
    for (Index g = 0; g < groups; g += together) {
      __m512 scaled[4][2], most[4], sum[4];
#pragma GCC unroll 4
      for (int j = 0; j < together; ++j) {
        const Index from = std::min(g + j, groups - 1) * coded_tokens;  // behind the last group it is taken again
        ask_for(scale + from, ahead);
        ask_for(low + from, ahead);
        const __m512 factor[2] = {load_as<float>(scale + from), load_as<float>(scale + from + 16)};
        const __m512 middle[2] = {_mm512_fmadd_ps(factor[0], center, load_as<float>(low + from)),
                                  _mm512_fmadd_ps(factor[1], center, load_as<float>(low + from + 16))};
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
          const int i = j * rows + r;
          const __m512 x[2] = {_mm512_loadu_ps(own + r * own_stride), _mm512_loadu_ps(own + r * own_stride + 16)};
          scaled[i][0] = _mm512_mul_ps(x[0], factor[0]);
          scaled[i][1] = _mm512_mul_ps(x[1], factor[1]);
          most[i] = larger(scaled[i][0], scaled[i][1]);
          sum[i] = _mm512_fmadd_ps(x[0], middle[0], _mm512_mul_ps(x[1], middle[1]));
        }
      }
      const FourUnits four(most, sum);
      _mm_storeu_ps(unit + g * rows, four.unit);
      _mm_storeu_ps(base + g * rows, four.sum);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const __m512 factor = lane_of_quarters(four.factor, i);
        float* const to = digits + (g * rows + i) * coded_tokens;
        const __m512i first_half = digits_of(scaled[i][0], factor), second_half = digits_of(scaled[i][1], factor);
        _mm512_storeu_si512(to, first_half);
        _mm512_storeu_si512(to + 16, second_half);
        const __m512i digit_sum = multiply_bytes(_mm512_setzero_si512(), centers, first_half);
        starts[g * rows + i].set(multiply_bytes(digit_sum, centers, second_half));
      }
    }
    const std::uint8_t* codes = values.codes(block);
    Index e = 0;
    for (Index g = 0; g < groups; ++g) {
      const Index end = std::min((g + 1) * group, width);
      const auto run = [&](auto number) __attribute__((always_inline)) {
        constexpr int panels = decltype(number)::value;
        __m512 sum[rows * panels];
        digit_products<bits, rows, panels>(codes, panel_bytes, coded_tokens,
                                           reinterpret_cast<const char*>(digits + g * rows * coded_tokens),
                                           4 * coded_tokens, starts + g * rows, ahead, sum);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
          const __m512 own_unit = _mm512_set1_ps(unit[g * rows + r]), rest = _mm512_set1_ps(base[g * rows + r]);
#pragma GCC unroll 2
          for (int p = 0; p < panels; ++p) {
            float* const to = out + r * width + e + p * panel_lanes;
            const __m512 more = _mm512_fmadd_ps(sum[r * panels + p], own_unit, rest), old = _mm512_loadu_ps(to);
            _mm512_storeu_ps(to, shrink != nullptr ? _mm512_fmadd_ps(old, _mm512_set1_ps(shrink[r]), more)
                                                   : _mm512_add_ps(old, more));
          }
        }
        codes += panels * panel_bytes;
        e += panels * panel_lanes;
      };
      if constexpr (rows <= 4) {
        while (e + panel_lanes < end) run(std::integral_constant<int, 2>{});
      }
      while (e < end) run(std::integral_constant<int, 1>{});
    }
    shrink = nullptr;
    at += n;
  }
}

}  // namespace fovea::inline FOVEA_ISA::simd::detail

#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#else

namespace fovea::inline FOVEA_ISA::simd::detail {

// Not there.
template <int bits, int queries>
void dot_digits(const float* q, Index q_stride, const KeyBlocks<bits>& keys, Index first, Index count, float* scores,
                Index scores_stride, float* scratch, Index ahead);
constexpr Index add_digits_scratch(Index) { return 0; }
template <int bits, int rows>
void add_digits(const float* weights, Index weights_stride, const ValueBlocks<bits>& values, Index first, Index count,
                float* out, Index width, const float* shrink, float* scratch, Index ahead);

}  // namespace fovea::inline FOVEA_ISA::simd::detail

#endif

// fovea/simd/quantized.hpp

// Products of queries with coded keys, and weighted sums of coded values (codes.hpp): groups' scales and minima meet
// the queries or the weights first, so that the inner loops multiply small integers as they are.
//
//   q . k_j  = sum_d (q_d scale_d) code_jd + sum_d q_d low_d
//   o_e     += sum_j (p_j scale_j) code_je + sum_j p_j low_j

namespace fovea::inline FOVEA_ISA::simd {

namespace detail {

// The codes k of a vector of words, less the center, times 2^(32 - bits): at the top of their lanes as signed numbers.
template <int bits, int count>
struct TopCodes {
  using Words = Native<std::uint32_t, count>;
  Words bytes[bits == 8 ? 1 : 2];

  [[gnu::always_inline]] explicit TopCodes(Words word) {
    if constexpr (bits == 8) {
      bytes[0] = word ^ 0x80808080;
    } else {
      bytes[0] = ((word ^ 0x88888888) << 4) & 0xf0f0f0f0;
      bytes[1] = (word ^ 0x88888888) & 0xf0f0f0f0;
    }
  }
  [[gnu::always_inline]] Native<std::int32_t, count> operator[](int k) const {
    const Words& from = bytes[k / 4];
    const int left = 24 - 8 * (k % 4);
    const Words top = left == 0 ? from & 0xff000000 : left == 24 ? from << 24 : (from << left) & 0xff000000;
    return same_bits<Native<std::int32_t, count>>(top);
  }
};

// Vectors of lanes that are worked on at a time: enough sums that do not wait for each other.
template <class T, int rows>
inline constexpr int coded_vectors = std::min<int>(int(panel_lanes / lanes<T>), 4 / rows);

// sum[r * vectors + v] = sum_d weights[r][d] (code_d - center) for some vectors of lanes; `codes` is the first of their
// words. Two chains for each sum, however many rows and vectors there are.
template <class T, int bits, int rows, int vectors>
[[gnu::always_inline]] inline void coded_products(const std::uint8_t* codes, Index depth, const T* weights,
                                                  Index weights_stride, Pack<T>* sum) {
  using Layout = Codes<bits>;
  constexpr int count = int(lanes<T>);
  Pack<T> even[rows * vectors], odd[rows * vectors];
#pragma GCC unroll 4
  for (int i = 0; i < rows * vectors; ++i) even[i] = odd[i] = Pack<T>(T(0));
  for (Index d = 0; d < depth; d += Layout::in_step, codes += Layout::step_bytes) {
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
      Native<std::uint32_t, count> word;
      std::memcpy(&word, codes + 4 * count * v, sizeof word);
      const TopCodes<bits, count> code(word);
      const auto step = [&](int k, Pack<T>* chain) __attribute__((always_inline)) {
        const auto x = same_bits<Pack<T>>(__builtin_convertvector(code[k], Native<T, count>));
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
          Pack<T>& own = chain[r * vectors + v];
          own = fma(Pack<T>(weights[r * weights_stride + d + k]), x, own);
        }
      };
#pragma GCC unroll 4
      for (int k = 0; k < Layout::in_step; k += 2) {
        step(k, even);
        step(k + 1, odd);
      }
    }
  }
  const Pack<T> unit(T(1) / T(std::int64_t{1} << (32 - bits)));
#pragma GCC unroll 4
  for (int i = 0; i < rows * vectors; ++i) sum[i] = (even[i] + odd[i]) * unit;
}

// scaled = x scale; the sum of x times what the middle code stands for.
template <class T, int bits>
[[gnu::always_inline]] inline T scaled_weights(const T* x, const Eigen::half* scale, const Eigen::half* low, Index n,
                                               T* scaled) {
  Pack<T> sum(T(0));
  for (Index d = 0; d < n; d += lanes<T>) {
    const Pack<T> some = load(x + d), factor = load_as<T>(scale + d);
    store(scaled + d, some * factor);
    sum = fma(some, fma(factor, Pack<T>(T(Codes<bits>::center)), load_as<T>(low + d)), sum);
  }
  return sum_of_lanes<T>(sum);
}

template <class T, int bits, int queries>
void dot_codes(const T* q, Index q_stride, Index dim, const KeyBlocks<bits>& keys, Index first, Index count, T* scores,
               Index scores_stride, T* scratch) {
  const Index depth = keys.depth, whole_dim = whole<T>(dim), last = first + count;
  for (Index block = first / keys.group; block * keys.group < last; ++block) {
    T base[queries];
    for (int i = 0; i < queries; ++i) {
      T* const scaled = scratch + i * depth;
      base[i] = scaled_weights<T, bits>(q + i * q_stride, keys.scale(block), keys.low(block), whole_dim, scaled);
      std::fill(scaled + whole_dim, scaled + depth, T(0));
    }
    const Index begin = std::max(first, block * keys.group), end = std::min(last, (block + 1) * keys.group);
    constexpr int vectors = coded_vectors<T, queries>;
    constexpr Index step = vectors * lanes<T>;
    for (Index token = begin / step * step; token < end; token += step) {
      const Index place = token - block * keys.group;
      Pack<T> sum[queries * vectors];
      coded_products<T, bits, queries, vectors>(
          keys.codes(block) + place / panel_lanes * keys.panel_bytes() + 4 * (place % panel_lanes), depth, scratch,
          depth, sum);
      const Index from = std::max(token, begin), to = std::min(token + step, end);
      for (int i = 0; i < queries; ++i) {
        alignas(64) T score[std::size_t(step)];
        for (int v = 0; v < vectors; ++v) store(score + v * lanes<T>, sum[i * vectors + v] + Pack<T>(base[i]));
        std::copy(score + (from - token), score + (to - token), scores + i * scores_stride + (from - first));
      }
    }
  }
}

template <class T, int bits, int rows>
void add_codes(const T* weights, Index weights_stride, const ValueBlocks<bits>& values, Index first, Index count,
               T* out, Index width, const T* shrink) {
  alignas(64) T own[rows * coded_tokens], scaled[rows * coded_tokens];
  for (Index at = 0; at < count;) {
    const Index block = (first + at) / coded_tokens, begin = (first + at) % coded_tokens;
    const Index n = std::min(count - at, coded_tokens - begin);
    for (int r = 0; r < rows; ++r) {
      std::fill_n(own + r * coded_tokens, coded_tokens, T(0));
      std::copy_n(weights + r * weights_stride + at, n, own + r * coded_tokens + begin);
    }
    const std::uint8_t* const codes = values.codes(block);
    for (Index g = 0; g < values.groups; ++g) {
      T base[rows];
      for (int r = 0; r < rows; ++r)
        base[r] =
            scaled_weights<T, bits>(own + r * coded_tokens, values.scale(block) + g * coded_tokens,
                                    values.low(block) + g * coded_tokens, coded_tokens, scaled + r * coded_tokens);
      const auto run = [&](auto some, Index e) __attribute__((always_inline)) {
        constexpr int vectors = decltype(some)::value;
        Pack<T> sum[rows * vectors];
        coded_products<T, bits, rows, vectors>(codes + e / panel_lanes * values.panel_bytes + 4 * (e % panel_lanes),
                                               coded_tokens, scaled, coded_tokens, sum);
        for (int r = 0; r < rows; ++r) {
          for (int v = 0; v < vectors; ++v) {
            T* const to = out + r * width + e + v * lanes<T>;
            const Pack<T> more = sum[r * vectors + v] + Pack<T>(base[r]);
            store(to, shrink != nullptr ? fma(load(to), Pack<T>(shrink[r]), more) : load(to) + more);
          }
        }
      };
      constexpr int vectors = coded_vectors<T, rows>;
      const Index end = std::min((g + 1) * values.group, width);
      Index e = g * values.group;
      if constexpr (vectors > 1) {
        for (; e + vectors * lanes<T> <= end; e += vectors * lanes<T>) run(std::integral_constant<int, vectors>{}, e);
      }
      for (; e < end; e += lanes<T>) run(std::integral_constant<int, 1>{}, e);
    }
    shrink = nullptr;
    at += n;
  }
}

// 16 codes of one lane from `depth` (a multiple of 16) on, as bytes.
template <int bits>
[[gnu::always_inline]] inline Native<std::uint8_t, 16> codes_of_lane(const std::uint8_t* panel, Index lane,
                                                                     Index depth) {
  using Layout = Codes<bits>;
  const std::uint8_t* const at = panel + depth / Layout::in_step * Layout::step_bytes + 4 * lane;
  const auto word = [&](int i) __attribute__((always_inline)) {
    std::uint32_t four;
    std::memcpy(&four, at + i * Layout::step_bytes, 4);
    return four;
  };
  // Put together in registers: a vector would wait for words that were stored one by one.
  Native<std::uint32_t, 4> codes;
  if constexpr (bits == 8) {
    codes = Native<std::uint32_t, 4>{word(0), word(1), word(2), word(3)};
  } else {
    codes = Native<std::uint32_t, 4>{word(0), word(0) >> 4, word(1), word(1) >> 4} & 0x0f0f0f0f;
  }
  return same_bits<Native<std::uint8_t, 16>>(codes);
}

// A vector of codes that lie side by side.
template <class T>
[[gnu::always_inline]] inline Pack<T> numbers_of(const std::uint8_t* code) {
  constexpr int count = int(lanes<T>);
#if defined(__aarch64__)
  if constexpr (std::is_same_v<T, float> && count == 4) {
    std::uint32_t four;
    std::memcpy(&four, code, sizeof four);
    return Pack<T>(vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four))))));
  }
#endif
  // Twice as wide at a time: g++ 12 takes the lanes apart otherwise.
  const auto half_wide = __builtin_convertvector(native_load<std::uint8_t, count>(code), Native<std::uint16_t, count>);
  const auto wide = __builtin_convertvector(half_wide, Native<std::int32_t, count>);
  return same_bits<Pack<T>>(__builtin_convertvector(wide, Native<T, count>));
}

// The first n (at most a vector) lanes of x.
template <class T>
[[gnu::always_inline]] inline void store_up_to(T* to, Pack<T> x, Index n) {
  if (n >= lanes<T>) {
    store(to, x);
  } else {
    store_some(to, x, n);
  }
}

// Calls f(some, i) with some = 4, 2 or 1 (as a type) for blocks of rows i to i + some - 1.
template <class F>
[[gnu::always_inline]] inline void each_block_of_rows(Index rows, F&& f) {
  Index i = 0;
  for (; rows - i >= 4; i += 4) f(std::integral_constant<int, 4>{}, i);
  if (rows - i >= 2) {
    f(std::integral_constant<int, 2>{}, i);
    i += 2;
  }
  if (i < rows) f(std::integral_constant<int, 1>{}, i);
}

template <class T>
inline constexpr bool by_digits = FOVEA_CODED_DIGITS != 0 && std::is_same_v<T, float>;

}  // namespace detail

// Elements of T that dot_coded wants as scratch.
template <class T>
constexpr Index dot_coded_scratch(Index depth) {
  return 8 * depth;
}

// scores[i][j] = q_i . k_{first + j}. Queries are whole vectors, zero behind dim. Memory `ahead` bytes behind what is
// read is asked for where that is free.
template <class T, int bits>
void dot_coded(Index queries, const T* q, Index q_stride, Index dim, const KeyBlocks<bits>& keys, Index first,
               Index count, T* scores, Index scores_stride, T* scratch, [[maybe_unused]] Index ahead = 0) {
  detail::each_block_of_rows(
      queries, [&](auto some, Index i) __attribute__((always_inline)) {
        constexpr int block = decltype(some)::value;
        if constexpr (detail::by_digits<T>) {
          detail::dot_digits<bits, block>(q + i * q_stride, q_stride, keys, first, count, scores + i * scores_stride,
                                          scores_stride, scratch, ahead);
        } else {
          detail::dot_codes<T, bits, block>(q + i * q_stride, q_stride, dim, keys, first, count,
                                            scores + i * scores_stride, scores_stride, scratch);
        }
      });
}

// Elements of T that add_coded wants as scratch.
template <class T>
constexpr Index add_coded_scratch(Index panels) {
  return detail::by_digits<T> ? detail::add_digits_scratch(panels) : 0;
}

// out [rows x width] = shrink out + weights v for the values from `first` on, shrink being one where it is null. Width
// is whole vectors and at most whole panels.
template <class T, int bits>
void add_coded(Index rows, const T* weights, Index weights_stride, const ValueBlocks<bits>& values, Index first,
               Index count, T* out, Index width, const T* shrink, [[maybe_unused]] T* scratch,
               [[maybe_unused]] Index ahead = 0) {
  detail::each_block_of_rows(
      rows, [&](auto some, Index i) __attribute__((always_inline)) {
        constexpr int block = decltype(some)::value;
        const T* const own_shrink = shrink != nullptr ? shrink + i : nullptr;
        if constexpr (detail::by_digits<T>) {
          detail::add_digits<bits, block>(weights + i * weights_stride, weights_stride, values, first, count,
                                          out + i * width, width, own_shrink, scratch, ahead);
        } else {
          detail::add_codes<T, bits, block>(weights + i * weights_stride, weights_stride, values, first, count,
                                            out + i * width, width, own_shrink);
        }
      });
}

// Keys as rows of T, `to_stride` apart, dim numbers of each.
template <class T, int bits>
void read_coded(const KeyBlocks<bits>& keys, Index first, Index count, Index dim, T* to, Index to_stride) {
  const Index last = first + count, panel_bytes = keys.panel_bytes();
  for (Index block = first / keys.group; block * keys.group < last; ++block) {
    const Index begin = std::max<Index>(first - block * keys.group, 0);
    const Index end = std::min(last - block * keys.group, keys.group);
    const std::uint8_t* const block_codes = keys.codes(block);
    T* const rows = to + (block * keys.group - first) * to_stride;
    for (Index d = 0; d < dim; d += panel_lanes) {
      constexpr int vectors = int(panel_lanes / lanes<T>);
      Pack<T> scale[vectors], low[vectors];
      for (int i = 0; i < vectors; ++i) {
        scale[i] = load_as<T>(keys.scale(block) + d + i * lanes<T>);
        low[i] = load_as<T>(keys.low(block) + d + i * lanes<T>);
      }
      for (Index j = begin; j < end; ++j) {
        const std::uint8_t* const panel = block_codes + j / panel_lanes * panel_bytes;
        const auto codes = detail::codes_of_lane<bits>(panel, j % panel_lanes, d);
        std::uint8_t code[16];
        std::memcpy(code, &codes, sizeof code);
        for (Index i = 0; i < vectors && d + i * lanes<T> < dim; ++i) {
          constexpr int some = int(lanes<T>);
          const auto x = detail::numbers_of<T>(code + i * some);
          detail::store_up_to(rows + j * to_stride + d + i * some, fma(x, scale[i], low[i]), dim - (d + i * some));
        }
      }
    }
  }
}

// Values as rows of T, `to_stride` apart, dim numbers of each.
template <class T, int bits>
void read_coded(const ValueBlocks<bits>& values, Index first, Index count, Index dim, T* to, Index to_stride) {
  using Layout = Codes<bits>;
  constexpr int some = int(lanes<T>);
  const Index last = first + count;
  for (Index block = first / coded_tokens; block * coded_tokens < last; ++block) {
    const Index begin = std::max<Index>(first - block * coded_tokens, 0);
    const Index end = std::min(last - block * coded_tokens, coded_tokens);
    T* const rows = to + (block * coded_tokens - first) * to_stride;
    T scale[std::size_t(coded_tokens)], low[std::size_t(coded_tokens)];
    for (Index d = 0; d < dim; d += lanes<T>) {
      if (d % values.group == 0) {
        const Index own = d / values.group * coded_tokens;
        for (Index j = 0; j < coded_tokens; j += lanes<T>) {
          store(scale + j, load_as<T>(values.scale(block) + own + j));
          store(low + j, load_as<T>(values.low(block) + own + j));
        }
      }
      const std::uint8_t* const panel = values.codes(block) + d / panel_lanes * values.panel_bytes;
      for (Index j = begin / Layout::in_step * Layout::in_step; j < end; j += Layout::in_step) {
        Native<std::int32_t, some> word;
        std::memcpy(&word, panel + j / Layout::in_step * Layout::step_bytes + 4 * (d % panel_lanes), sizeof word);
        for (int k = 0; k < Layout::in_step; ++k) {
          if (j + k < begin || j + k >= end) continue;
          const Native<std::int32_t, some> code = (word >> Layout::place(k)) & Layout::levels;
          const auto x = detail::same_bits<Pack<T>>(__builtin_convertvector(code, Native<T, some>));
          detail::store_up_to(rows + (j + k) * to_stride + d, fma(x, Pack<T>(scale[j + k]), Pack<T>(low[j + k])),
                              dim - d);
        }
      }
    }
  }
}

}  // namespace fovea::inline FOVEA_ISA::simd

// fovea/parts/kv/quantized.hpp

// Quantised keys and values: codes of 8 or 4 bits, keys grouped by channel, values by token, the last tokens waiting in
// full precision. Liu et al., "KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache", ICML 2024,
// arXiv:2402.02750.
//
//   scale = (max x - min x) / (2^bits - 1),  code = round((x - min x) / scale),  x^ = min x + scale code     per group
//
// A group is `group` consecutive tokens of one channel of keys, or `group` consecutive channels of one token of values
// (the last one of a token may be shorter). Codes round to even. The minimum is stored as a half, rounded down, and the
// scale as a half, rounded up until the range is covered, and codes are taken against what is stored: |x - x^| is at
// most half the stored scale, and x^ = x where x lies on the grid. A group of one value that is a half has scale 0 and
// codes 0.
//
// What lies in memory (panels and steps: simd/codes.hpp; halfs and words little-endian; widths rounded up to a
// multiple of 16, P; codes and metadata behind the width are zero, or what was there before):
//
//   keys      blocks of `group` tokens: group / 16 panels of 16 tokens by P channels, then scale[P], then low[P].
//             group P bits / 8 + 4 P bytes
//   values    blocks of 32 tokens: P / 16 panels of 16 channels by 32 tokens, then scale[G][32], then low[G][32],
//             G = P / group rounded up. 4 P bits + 128 G bytes

namespace fovea::inline FOVEA_ISA::kv {

// Tags of caches: codes of 8 and of 4 bits.
struct Int8 {};
struct Int4 {};

namespace detail {

constexpr Index far_ahead = 8192;  // bytes: what some hundred nanoseconds bring in

constexpr Index up_to(Index step, Index n) { return (n + step - 1) / step * step; }

[[gnu::always_inline]] inline void prefetch(const std::uint8_t* first, const std::uint8_t* last) {
  for (const std::uint8_t* p = first; p < last; p += 64) __builtin_prefetch(p, 0, 2);
}

// Whether all can be stored: finite and not beyond the largest half.
template <class T>
bool storable(const T* rows, Index count, Index stride, Index dim, float largest) {
  if (stride == dim) {
    dim *= count;
    count = std::min<Index>(count, 1);
  }
  for (Index j = 0; j < count; ++j) {
    const T* const row = rows + j * stride;
    if (!simd::all_finite(row, dim) || !simd::within(row, dim, T(-largest), T(largest))) return false;
  }
  return true;
}

}  // namespace detail

// Tokens of keys: a run (rows.hpp).
template <int bits>
struct CodedKeys {
  using Codes = simd::Codes<bits>;
  static constexpr Index piece = 64;

  simd::KeyBlocks<bits> blocks;
  Index token = 0;  // of the blocks, the first one
  Index dim = 0;
  bool long_run = false;  // whether much memory goes on like this behind the run, so that it is asked for early
  Index later = far;      // elements from what is read to what is asked for

  static constexpr Index far = detail::far_ahead * 8 / bits;  // elements

  template <class T>
  static constexpr Index scratch_size(Index /*rows*/, Index dim) {
    return simd::dot_coded_scratch<T>(detail::up_to(simd::panel_lanes, dim));
  }

  template <class T>
  void score(Index queries, const T* q, Index q_stride, Index first, Index count, T* scores, Index scores_stride,
             T* scratch) const {
    simd::dot_coded(queries, q, q_stride, dim, blocks, token + first, count, scores, scores_stride, scratch,
                    long_run ? later * bits / 8 : 0);
  }

  template <class T>
  void read(Index first, Index count, T* to, Index to_stride) const {
    simd::read_coded(blocks, token + first, count, dim, to, to_stride);
  }

  bool finite(Index, Index) const { return true; }

  [[gnu::always_inline]] void prefetch(Index first, Index count) const {
    const Index last = token + first + count;
    for (Index block = (token + first) / blocks.group; block * blocks.group < last; ++block) {
      const Index begin = std::max<Index>(token + first - block * blocks.group, 0) / simd::panel_lanes;
      const Index end = detail::up_to(simd::panel_lanes, std::min(last - block * blocks.group, blocks.group));
      const std::uint8_t* const codes = blocks.codes(block);
      detail::prefetch(codes + begin * blocks.panel_bytes(), codes + end / simd::panel_lanes * blocks.panel_bytes());
      if (begin == 0) detail::prefetch(codes + blocks.codes_bytes(), codes + blocks.bytes());
    }
  }
};

// Tokens of values: a run (rows.hpp).
template <int bits>
struct CodedValues {
  using Codes = simd::Codes<bits>;
  static constexpr Index piece = simd::coded_tokens;  // of a block: sums do not go across

  simd::ValueBlocks<bits> blocks;
  Index token = 0;  // of the blocks, the first one
  Index dim = 0;
  bool long_run = false;  // as of keys
  Index later = far;

  static constexpr Index far = detail::far_ahead * 8 / bits;

  template <class T>
  static constexpr Index scratch_size(Index /*rows*/, Index dim) {
    return simd::add_coded_scratch<T>(detail::up_to(simd::panel_lanes, dim) / simd::panel_lanes);
  }

  bool whole(Index width) const { return width <= blocks.panels * simd::panel_lanes; }

  template <class T>
  void add(Index rows, Index first, Index count, const T* weights, Index weights_stride, T* out, Index width,
           const T* shrink, T* scratch) const {
    simd::add_coded(rows, weights, weights_stride, blocks, token + first, count, out, width, shrink, scratch,
                    long_run ? later * bits / 8 : 0);
  }

  template <class T>
  void read(Index first, Index count, T* to, Index to_stride) const {
    simd::read_coded(blocks, token + first, count, dim, to, to_stride);
  }

  bool finite(Index, Index) const { return true; }

  [[gnu::always_inline]] void prefetch(Index first, Index count) const {
    const Index last = token + first + count;
    for (Index block = (token + first) / simd::coded_tokens; block * simd::coded_tokens < last; ++block) {
      const Index begin = std::max<Index>(token + first - block * simd::coded_tokens, 0);
      const Index end = std::min(last - block * simd::coded_tokens, simd::coded_tokens);
      const std::uint8_t* const codes = blocks.codes(block);
      if (begin == 0 && end == simd::coded_tokens) {
        detail::prefetch(codes, codes + blocks.bytes());
      } else {
        for (Index i = 0; i < blocks.panels; ++i)
          detail::prefetch(codes + i * blocks.panel_bytes + begin / Codes::in_step * Codes::step_bytes,
                           codes + i * blocks.panel_bytes + Codes::panel_bytes(detail::up_to(Codes::in_step, end)));
        if (begin == 0) detail::prefetch(codes + blocks.codes_bytes(), codes + blocks.bytes());
      }
    }
  }
};

// Formats of keys and of values (format.hpp).
template <int bits>
struct QuantizedKeys {
  using Run = CodedKeys<bits>;
  static constexpr bool late = true;
  static constexpr int number_bits = bits;
  static constexpr float largest = 65504;  // magnitudes up to it can be stored

  Index dim = 0;
  Index group = 32;  // tokens, a multiple of 16
  Index residual_tokens = 32;

  simd::KeyBlocks<bits> blocks(const std::byte* stretch) const {
    return {reinterpret_cast<const std::uint8_t*>(stretch), group, detail::up_to(simd::panel_lanes, dim)};
  }

  Index granule() const { return group; }
  Index block() const { return group; }
  Index packed(Index tokens) const { return tokens / group * blocks(nullptr).bytes(); }
  Index bytes(Index tokens) const { return packed(detail::up_to(group, tokens)); }
  Run run(const std::byte* stretch, Index token) const { return {blocks(stretch), token, dim}; }

  // Of `length` tokens the whole residuals are stored.
  Index settled(Index length) const { return length / residual_tokens * residual_tokens; }
  Index residual() const { return residual_tokens; }

  template <class T>
  bool storable(const T* rows, Index count, Index stride) const {
    return detail::storable(rows, count, stride, dim, largest);
  }

  // Whole groups; all of it storable.
  template <class T>
  void write(std::byte* stretch, Index token, Index count, const T* rows, Index stride) const {
    const Index depth = blocks(stretch).depth, block_bytes = blocks(stretch).bytes();
    auto* to = reinterpret_cast<std::uint8_t*>(stretch) + token / group * block_bytes;
    for (Index first = 0; first < count; first += group, to += block_bytes)
      simd::write_coded_keys<bits>(to, group, depth, dim, rows + first * stride, stride);
  }
};

template <int bits>
struct QuantizedValues {
  using Run = CodedValues<bits>;
  static constexpr bool late = true;
  static constexpr int number_bits = bits;
  static constexpr float largest = 65504;

  Index dim = 0;
  Index group = 32;  // channels, a multiple of 16
  Index residual_tokens = 32;

  simd::ValueBlocks<bits> blocks(const std::byte* stretch) const {
    return {reinterpret_cast<const std::uint8_t*>(stretch), group,
            detail::up_to(simd::panel_lanes, dim) / simd::panel_lanes, (dim + group - 1) / group};
  }

  Index granule() const { return 1; }
  Index block() const { return simd::coded_tokens; }
  Index packed(Index tokens) const { return tokens / simd::coded_tokens * blocks(nullptr).bytes(); }
  Index bytes(Index tokens) const { return packed(detail::up_to(simd::coded_tokens, tokens)); }
  Run run(const std::byte* stretch, Index token) const { return {blocks(stretch), token, dim}; }

  // Of `length` tokens all but the last ones are stored.
  Index settled(Index length) const { return std::max<Index>(length - residual_tokens, 0); }
  Index residual() const { return residual_tokens; }

  template <class T>
  bool storable(const T* rows, Index count, Index stride) const {
    return detail::storable(rows, count, stride, dim, largest);
  }

  // All of it storable.
  template <class T>
  void write(std::byte* stretch, Index token, Index count, const T* rows, Index stride) const {
    const Index block_bytes = blocks(stretch).bytes();
    auto* const to = reinterpret_cast<std::uint8_t*>(stretch);
    for (Index j = 0; j < count; ++j)
      simd::write_coded_value<bits>(to + (token + j) / simd::coded_tokens * block_bytes,
                                    (token + j) % simd::coded_tokens, group, dim, rows + j * stride);
  }
};

namespace detail {

inline void check_grouping(const char* where, Index dim, const Grouping& grouping) {
  check(dim >= 0 && dim <= 65536, where, "quantised tokens have at most 65536 numbers, got ", dim);
  check(grouping.group > 0 && grouping.group % simd::panel_lanes == 0, where,
        "group must be a positive multiple of 16, got ", grouping.group);
  check(grouping.residual > 0 && grouping.residual % grouping.group == 0, where,
        "residual must be a positive multiple of the group, ", grouping.group, ", got ", grouping.residual);
}

template <int bits, std::uint32_t number>
struct QuantizedFormats {
  using Keys = QuantizedKeys<bits>;
  using Values = QuantizedValues<bits>;
  static Keys keys(const char* where, Index dim, const Grouping& grouping) {
    check_grouping(where, dim, grouping);
    return {dim, grouping.group, grouping.residual};
  }
  static Values values(const char* where, Index dim, const Grouping& grouping) {
    check_grouping(where, dim, grouping);
    return {dim, grouping.group, grouping.residual};
  }
  static constexpr std::uint32_t code = number;
};

}  // namespace detail

template <>
struct Formats<Int8> : detail::QuantizedFormats<8, 5> {};
template <>
struct Formats<Int4> : detail::QuantizedFormats<4, 6> {};

}  // namespace fovea::inline FOVEA_ISA::kv

// fovea/parts/mask/by_head.hpp

// One mask for some heads and another for the rest.

namespace fovea::inline FOVEA_ISA::mask {

template <BoundMask A, BoundMask B>
struct BoundByHead {
  std::vector<bool> chosen;
  A a;
  B b;

  std::uint64_t seen(Row row, Span keys) const {
    return chosen[std::size_t(row.head)] ? a.seen(row, keys) : b.seen(row, keys);
  }

  Cover cover(const Region& region) const {
    Index with_a = 0;
    for (Index h = region.heads.first; h < region.heads.last; ++h) with_a += chosen[std::size_t(h)] ? 1 : 0;
    if (with_a == region.heads.size()) return a.cover(region);
    const Cover rest = b.cover(region);
    if (with_a == 0 || rest == Cover::part) return rest;
    return a.cover(region) == rest ? rest : Cover::part;
  }
};

template <Mask A, Mask B>
struct ByHead {
  std::vector<bool> chosen;
  A a;
  B b;

  auto bind(const char* where, const Shape& shape) const {
    check(Index(chosen.size()) == shape.heads, where, "a mask by head needs one flag for each head, wanted ",
          shape.heads, ", got ", chosen.size());
    using Bound = BoundByHead<decltype(a.bind(where, shape)), decltype(b.bind(where, shape))>;
    return Bound{chosen, a.bind(where, shape), b.bind(where, shape)};
  }
};

// Query heads h with chosen[h] see what a says, the others what b says; [H]. Query heads of one key head share its
// tiles: where they differ, a tile is visited when one of them sees it.
template <Mask A, Mask B>
ByHead<A, B> by_head(std::vector<bool> chosen, A a, B b) {
  return {std::move(chosen), std::move(a), std::move(b)};
}

}  // namespace fovea::inline FOVEA_ISA::mask

// fovea/parts/mask/neighborhood.hpp

// A query sees a window of keys around it that is pushed inward at the ends and may move in steps. One axis.
// Hassani et al., "Generalized Neighborhood Attention", 2025, arXiv:2504.16922.

namespace fovea::inline FOVEA_ISA::mask {

struct BoundNeighborhood : MonotoneInterval<BoundNeighborhood> {
  Index window, stride;
  bool causal;
  Index length;

  BoundNeighborhood(Index keys, Index step, bool is_causal, Index tokens)
      : window(keys), stride(step), causal(is_causal), length(tokens) {}

  Span interval(Index query) const {
    // The queries of a stride group share the window of their leader.
    const Index group = query / stride * stride;
    if (causal) {
      const Index leader = std::min(group + stride - 1, length - 1);
      return {std::max<Index>(leader - window + 1, 0), query + 1};
    }
    const Index leader = std::min(group + stride / 2, length - 1);
    const Index first = std::clamp<Index>(leader - window / 2, 0, length - window);
    return {first, first + window};
  }
};

struct Neighborhood {
  Index window = 0;
  Index stride = 1;
  bool causal = false;

  BoundNeighborhood bind(const char* where, const Shape& shape) const {
    check(window > 0, where, "the window must be positive, got ", window);
    check(stride > 0 && stride <= window, where, "the stride must be between 1 and the window, ", window, ", got ",
          stride);
    check(shape.queries == shape.keys, where, "a neighborhood needs as many keys as queries, wanted ", shape.queries,
          ", got ", shape.keys);
    check(window <= shape.keys || shape.keys == 0, where, "the window must not be longer than the keys, ", shape.keys,
          ", got ", window);
    return {window, stride, causal, shape.keys};
  }
};

// Of `length` tokens; queries come in groups of `stride`, the last one may be shorter.
//   not causal   exactly `window` keys, window / 2 (rounded down) of them before the leader, the token stride / 2
//                (rounded down) of the group; moved inward where it would reach past an end
//   causal       the keys from the first of the `window` that end with the last query of the group, to the query; so
//                only that last one sees all `window`
constexpr Neighborhood neighborhood(Index window, Index stride = 1, bool causal = false) {
  return {window, stride, causal};
}

}  // namespace fovea::inline FOVEA_ISA::mask

// fovea/parts/mask/grid_neighborhood.hpp

// A query on a grid of up to three axes sees a box of keys around it: the neighborhood of each axis. Queries and keys
// stand in the order of a TiledGrid each.
// Hassani et al., "Generalized Neighborhood Attention", 2025, arXiv:2504.16922.

namespace fovea::inline FOVEA_ISA::mask {

// The neighborhood of each axis; an axis of extent one has the window one.
using Neighborhoods = std::array<Neighborhood, 3>;

// The rule for one order of queries and one of keys.
class NeighborhoodOnGrid {
 public:
  // A tile of keys has at most a word of places, in one patch or none, and begins at a multiple of a power of two.
  NeighborhoodOnGrid(const char* where, const Neighborhoods& axes, TiledGrid query_order, TiledGrid key_order)
      : queries_(std::move(query_order)), keys_(std::move(key_order)) {
    const Place& grid = keys_.grid();
    for (std::size_t a = 0; a < 3; ++a) {
      const auto bound = axes[a].bind(where, {1, 1, 1, grid[a], grid[a]});
      for (Index i = 0; i < grid[a]; ++i) windows_[a].push_back(bound.interval(i));
    }
    seen_by_.resize(std::size_t(queries_.positions()));
    queries_.each_token([&](Index position, const Place& at) {
      for (std::size_t a = 0; a < 3; ++a) {
        const Span window = windows_[a][std::size_t(at[a])];
        seen_by_[std::size_t(position)][a] = {std::int32_t(window.first), std::int32_t(window.last)};
      }
    });
    const Place& tile = keys_.tile();
    for (Index r = 0; r < tile[1]; ++r) rows_ |= std::uint64_t{1} << r * tile[2];
    for (Index p = 0; p < tile[0]; ++p) planes_ |= std::uint64_t{1} << p * tile[1] * tile[2];
    pitch_bits_ = std::countr_zero(std::uint64_t(keys_.pitch()));
  }

  Index queries() const { return queries_.positions(); }
  Index keys() const { return keys_.positions(); }
  Grain grain() const { return {queries_.pitch(), keys_.pitch()}; }

  std::uint64_t seen(Index query, Span keys) const {
    const Windows& windows = seen_by_[std::size_t(query)];
    std::uint64_t bits = 0;
    for (Index tile = keys.first >> pitch_bits_; tile << pitch_bits_ < keys.last; ++tile) {
      const Index begin = tile << pitch_bits_;
      const std::uint64_t of_tile = seen_in_tile(windows, keys_.origin(tile));
      bits |= begin < keys.first ? of_tile >> (keys.first - begin) : of_tile << (begin - keys.first);
    }
    return bits & low_bits(keys.size());
  }

  // Exact for boxes; some keys in any other order may be called seen in part.
  Cover cover(Span queries, Span keys) const {
    const Box from = queries_.box(queries), to = keys_.box(keys);
    if (from.empty() || to.empty()) return Cover::none;
    bool full = queries_.gapless(queries) && keys_.gapless(keys);
    for (std::size_t a = 0; a < 3; ++a) {
      const Index length = Index(windows_[a].size());
      const Span on_grid = intersect(from.axes[a], {0, length});
      if (on_grid.empty()) return Cover::none;
      const Span first = windows_[a][std::size_t(on_grid.first)], last = windows_[a][std::size_t(on_grid.last - 1)];
      if (intersect({first.first, last.last}, to.axes[a]).empty()) return Cover::none;
      full = full && on_grid == from.axes[a] && Span{last.first, first.last}.contains(to.axes[a]);
    }
    return full ? Cover::full : Cover::part;
  }

 private:
  struct Window {
    std::int32_t first = 0, last = 0;
  };
  using Windows = std::array<Window, 3>;

  // Bits of the keys of a tile, row by row: an outer product of intervals, one an axis.
  std::uint64_t seen_in_tile(const Windows& windows, const Place& origin) const {
    const Place& tile = keys_.tile();
    const auto inside = [&](std::size_t a) {
      return intersect({windows[a].first - origin[a], windows[a].last - origin[a]}, {0, tile[a]});
    };
    const Span plane = inside(0), row = inside(1), column = inside(2);
    if (plane.empty() || row.empty() || column.empty()) return 0;
    const auto between = [](Span x, Index step) { return low_bits(x.last * step) & ~low_bits(x.first * step); };
    return between(column, 1) * (rows_ & between(row, tile[2])) * (planes_ & between(plane, tile[1] * tile[2]));
  }

  TiledGrid queries_, keys_;
  std::array<std::vector<Span>, 3> windows_;  // for each coordinate of a query, the coordinates it sees
  std::vector<Windows> seen_by_;              // the same for each position; empty where there is no token
  std::uint64_t rows_ = 0, planes_ = 0;       // where the rows, and planes, of a tile of keys begin
  int pitch_bits_ = 0;                        // a tile of keys has 2^pitch_bits positions
};

struct BoundGridNeighborhood {
  std::shared_ptr<const NeighborhoodOnGrid> rule;

  std::uint64_t seen(Row row, Span keys) const { return rule->seen(row.query, keys); }
  Cover cover(const Region& region) const { return rule->cover(region.queries, region.keys); }
  Grain grain() const { return rule->grain(); }
};

struct GridNeighborhood {
  std::shared_ptr<const NeighborhoodOnGrid> rule;

  BoundGridNeighborhood bind(const char* where, const Shape& shape) const {
    check(shape.queries == rule->queries() && shape.keys == rule->keys(), where,
          "a grid's neighborhood needs its positions as queries and keys, wanted ", rule->queries(), " and ",
          rule->keys(), ", got ", shape.queries, " and ", shape.keys);
    return {rule};
  }
};

// Query i, a place in one order of a grid, sees key j, a place in the other, when every axis' neighborhood does.
// Positions without a token see nothing and are not seen. Tiles of keys have at most 64 places and no patches, and
// their pitch is a power of two.
inline GridNeighborhood grid_neighborhood(const Neighborhoods& axes, TiledGrid queries, TiledGrid keys) {
  constexpr auto where = "fovea::mask::grid_neighborhood";
  check(queries.grid() == keys.grid(), where, "queries and keys must be orders of one grid");
  check(volume(keys.tile()) <= word && std::has_single_bit(std::uint64_t(keys.pitch())), where,
        "a tile of keys must have at most 64 places and a power of two as its pitch, got ", volume(keys.tile()),
        " and ", keys.pitch());
  return {std::make_shared<const NeighborhoodOnGrid>(where, axes, std::move(queries), std::move(keys))};
}

}  // namespace fovea::inline FOVEA_ISA::mask

// fovea/parts/mask/tree.hpp

// The last keys are a tree of speculative tokens: a query sees what came before the tree, its ancestors and itself.
// Miao et al., "SpecInfer", ASPLOS 2024, arXiv:2305.09781.

namespace fovea::inline FOVEA_ISA::mask {

namespace detail {

// Some trees of n nodes each. Row i of a tree has the bits of node i and of its ancestors, in words.
struct Ancestors {
  Index trees = 0, nodes = 0, words = 0;
  std::vector<Index> parents{};       // [trees x nodes]
  std::vector<std::uint64_t> bits{};  // [trees x nodes x words], and a word behind the last

  const std::uint64_t* row(Index tree, Index node) const { return &bits[std::size_t((tree * nodes + node) * words)]; }
};

}  // namespace detail

// The keys from `begin` on are the nodes; there may be fewer keys than nodes, then begin is negative.
class BoundTree {
 public:
  BoundTree(std::shared_ptr<const detail::Ancestors> trees, Index begin) : trees_(std::move(trees)), begin_(begin) {}

  std::uint64_t seen(Row row, Span keys) const {
    const std::uint64_t before = bits_of({0, begin_}, keys);
    const Span nodes = nodes_of(keys);
    if (nodes.empty()) return before;
    return before | nodes_seen(row.batch, row.query, nodes) << (nodes.first + begin_ - keys.first);
  }

  Cover cover(const Region& region) const {
    if (region.heads.empty() || region.queries.empty() || region.keys.empty()) return Cover::none;
    const Span nodes = nodes_of(region.keys);
    bool some = region.keys.first < begin_, all = region.keys.last <= begin_ + nodes.last;
    if (nodes.empty()) return some && all ? Cover::full : some ? Cover::part : Cover::none;
    // Nodes behind the last query are seen by none, and its own by none before it.
    all = all && nodes.last <= region.queries.first + 1;
    const Index last = std::min(nodes.last, region.queries.last);
    for (Index i = region.queries.first; i < region.queries.last && (all || !some); ++i) {
      for (Index first = nodes.first; first < last && (all || !some); first += word) {
        const Span part{first, std::min(first + word, last)};
        const std::uint64_t bits = nodes_seen(region.batch, i, part);
        some = some || bits != 0;
        all = all && bits == low_bits(part.size());
      }
    }
    return !some ? Cover::none : all ? Cover::full : Cover::part;
  }

 private:
  Span nodes_of(Span keys) const { return intersect({0, trees_->nodes}, {keys.first - begin_, keys.last - begin_}); }

  // The bits of at most a word of nodes.
  std::uint64_t nodes_seen(Index batch, Index query, Span nodes) const {
    const std::uint64_t* const at = trees_->row(trees_->trees == 1 ? 0 : batch, query) + nodes.first / word;
    const Index shift = nodes.first % word;
    const std::uint64_t bits = shift == 0 ? at[0] : at[0] >> shift | at[1] << (word - shift);
    return bits & low_bits(nodes.size());
  }

  std::shared_ptr<const detail::Ancestors> trees_;
  Index begin_;
};

// Trees of speculative tokens; made once, kept and copied.
class Tree {
 public:
  // parents[t * nodes + i] < i is the parent of node i of tree t; -1: a child of the last token before the tree.
  Tree(Index trees, Index nodes, std::vector<Index> parents) {
    constexpr auto where = "fovea::mask::tree";
    check(trees >= 0 && nodes >= 0 && Index(parents.size()) == trees * nodes, where,
          "there must be a parent for each node, wanted ", trees * nodes, ", got ", parents.size());
    const Index words = (nodes + word - 1) / word;
    detail::Ancestors made{trees, nodes, words, std::move(parents), {}};
    made.bits.assign(std::size_t(trees * nodes * words + 1), 0);
    for (Index n = 0; n < trees * nodes; ++n) {
      const Index node = n % nodes, parent = made.parents[std::size_t(n)];
      check(parent >= -1 && parent < node, where, "the parent of node ", node, " must be a node before it, or -1, got ",
            parent);
      std::uint64_t* const row = &made.bits[std::size_t(n * words)];
      if (parent >= 0) std::copy_n(made.row(n / nodes, parent), words, row);
      row[node / word] |= std::uint64_t{1} << node % word;
    }
    trees_ = std::make_shared<const detail::Ancestors>(std::move(made));
  }

  Index trees() const { return trees_->trees; }
  Index nodes() const { return trees_->nodes; }  // of each

  // How many ancestors each node has, tree by tree: node i stands at position M - N + depths()[i].
  std::vector<Index> depths() const {
    std::vector<Index> depths(trees_->parents.size(), 0);
    for (Index n = 0; n < Index(depths.size()); ++n) {
      const Index node = n % nodes(), parent = trees_->parents[std::size_t(n)];
      if (parent >= 0) depths[std::size_t(n)] = depths[std::size_t(n - node + parent)] + 1;
    }
    return depths;
  }

  // The ancestors of a node and the node itself, from the top: the tokens that stay when it is accepted.
  std::vector<Index> path(Index node, Index tree = 0) const {
    constexpr auto where = "fovea::mask::Tree::path";
    check(tree >= 0 && tree < trees(), where, "the tree must be one of ", trees(), ", got ", tree);
    check(node >= 0 && node < nodes(), where, "the node must be one of ", nodes(), ", got ", node);
    std::vector<Index> path;
    for (Index i = node; i >= 0; i = trees_->parents[std::size_t(tree * nodes() + i)]) path.push_back(i);
    std::reverse(path.begin(), path.end());
    return path;
  }

  BoundTree bind(const char* where, const Shape& shape) const {
    check(nodes() == shape.queries, where, "a tree must have a node for each query, wanted ", shape.queries, ", got ",
          nodes());
    check(trees() == 1 || trees() == shape.batch, where, "there must be one tree, or one for each sequence, wanted ",
          shape.batch, ", got ", trees());
    return {trees_, shape.keys - shape.queries};
  }

 private:
  std::shared_ptr<const detail::Ancestors> trees_;
};

// The N queries of a call, which are the last N of its keys, are the nodes of a tree. Query i sees every key before
// them, its ancestors and itself. parents holds the parent of each node, which stands before it, or -1 for children of
// the last key before the tree: [N], one tree for all sequences, or a matrix [B x N] with one for each. Copied.
template <class Parents>
Tree tree(const Parents& parents) {
  if constexpr (requires { parents.rows(); }) {
    const bool vector = int(Parents::ColsAtCompileTime) == 1;
    const Index trees = vector ? 1 : Index(parents.rows()), nodes = vector ? Index(parents.rows()) : parents.cols();
    std::vector<Index> copy;
    copy.reserve(std::size_t(trees * nodes));
    for (Index t = 0; t < Index(parents.rows()); ++t) {
      for (Index i = 0; i < Index(parents.cols()); ++i) copy.push_back(Index(parents(t, i)));
    }
    return {trees, nodes, std::move(copy)};
  } else {
    return {1, Index(parents.size()), std::vector<Index>(parents.begin(), parents.end())};
  }
}

}  // namespace fovea::inline FOVEA_ISA::mask

// fovea/parts/mask/where.hpp

// Any rule of the user's: a predicate on (batch, head, query, key).

namespace fovea::inline FOVEA_ISA::mask {

template <class Predicate>
struct Where {
  Predicate predicate;

  Where bind(const char*, const Shape&) const { return *this; }

  std::uint64_t seen(Row row, Span keys) const {
    std::uint64_t bits = 0;
    for (Index j = 0; j < keys.size(); ++j) {
      const bool sees = predicate(Site{row.batch, row.head, row.query, keys.first + j});
      bits |= std::uint64_t{sees} << j;
    }
    return bits;
  }
  Cover cover(const Region&) const { return Cover::part; }
};

// predicate(Site{batch, head, query, key}) says whether the key is seen. It is asked for every pair that the masks
// joined with it do not settle, possibly more than once and from several threads.
template <class Predicate>
Where<Predicate> where(Predicate predicate) {
  static_assert(std::is_invocable_r_v<bool, const Predicate&, Site>,
                "fovea: mask::where takes a predicate callable as bool(fovea::Site)");
  return {std::move(predicate)};
}

}  // namespace fovea::inline FOVEA_ISA::mask

// fovea/parts/permute/residue_classes.hpp

// The residue classes of a dilation as sequences of their own: token n of class r is token r + n dilation, so a class
// of T tokens has ceil((T - r) / dilation). What is dilated in the whole is contiguous in the class.

namespace fovea::inline FOVEA_ISA::permute {

// Classes [first, last), which must be equally long, of sequence `batch` as a batch. Nothing is moved.
template <class T>
View<T> residue_classes(const View<T>& x, Index batch, Span classes, Index dilation) {
  const Index length = (x.length - classes.first + dilation - 1) / dilation;
  return {x.row(batch, 0, classes.first), classes.size(), x.heads, length, x.dim, x.length_stride, x.head_stride,
          dilation * x.length_stride};
}

// Calls f(Problem) on problems that hold every class of every sequence once: two a sequence at most, since classes
// differ by one token at most and equally long ones are a batch. Of self-attention, N = M, with dilation > 0. A problem
// without tokens or batch is passed on as it is.
template <class T, class F>
void each_residue_class(const Problem<T>& problem, Index dilation, F&& f) {
  const Index length = problem.q.length;
  if (problem.q.batch == 0 || length == 0) return f(problem);
  const Index step = std::min(dilation, length);  // more classes would be empty
  const Index longer = length % step;             // the classes that have a token more than the others
  for (Index b = 0; b < problem.q.batch; ++b) {
    for (const Span classes : {Span{0, longer}, Span{longer, step}}) {
      if (classes.empty()) continue;
      Problem<T> part = problem;
      part.q = residue_classes(problem.q, b, classes, step);
      part.k = residue_classes(problem.k, b, classes, step);
      part.v = residue_classes(problem.v, b, classes, step);
      part.out = residue_classes(problem.out, b, classes, step);
      if (problem.log_sum.data != nullptr) part.log_sum = residue_classes(problem.log_sum, b, classes, step);
      f(part);
    }
  }
}

}  // namespace fovea::inline FOVEA_ISA::permute

// fovea/parts/permute/window_tiles.hpp

// Orders of a grid in tiles for windows that move over it: the queries of a tile see few keys together, and those lie
// in few tiles of keys.

namespace fovea::inline FOVEA_ISA::permute {

// Windows of `window` places on each axis, those of `stride` neighbours the same.
struct WindowShape {
  Place window{1, 1, 1};
  Place stride{1, 1, 1};
};

// Extents of a tile of at most `most` places, grown from `least` on the axis where it is shortest for its window. An
// extent below its unit divides it, one above is a multiple.
inline Place tile_extents(const Place& grid, const Place& window, const Place& least, const Place& unit, Index most) {
  Place tile = least;
  const auto grown = [&](std::size_t a) {
    if (tile[a] >= unit[a]) return 2 * tile[a];
    Index next = tile[a] + 1;
    while (unit[a] % next != 0) ++next;
    return next;
  };
  for (;;) {
    std::size_t best = 3;
    for (std::size_t a : {2, 1, 0}) {
      if (tile[a] >= grid[a] || volume(tile) / tile[a] * grown(a) > most) continue;
      if (best == 3 || window[a] * tile[best] > window[best] * tile[a]) best = a;
    }
    if (best == 3) return tile;
    tile[best] = grown(best);
  }
}

// Queries: the rows that the engine works on together, a band of `group` heads each, are a patch; tiles are whole
// groups of queries with one window where those have room.
inline TiledGrid query_tiles(const Place& grid, const WindowShape& shape, Index group) {
  constexpr Index some_rows = 16 * simd::tile_rows;
  constexpr Index most_rows = 64 * simd::tile_rows;  // of queries with the same window: more of them see no more keys
  Place patch{1, 1, 1}, unit = shape.stride;
  Index left = simd::tile_rows % group == 0 ? simd::tile_rows / group : 1;
  for (const Index factor : {3, 2}) {
    if (left % factor != 0) continue;
    std::size_t best = 3;
    for (std::size_t a : {2, 1, 0}) {
      if (shape.stride[a] > 1 || grid[a] < factor * patch[a]) continue;
      if (best == 3 || shape.window[a] * patch[best] > shape.window[best] * patch[a]) best = a;
    }
    if (best < 3) patch[best] *= factor;
  }
  for (std::size_t a = 0; a < 3; ++a) unit[a] = std::max(unit[a], patch[a]);
  Place alike;
  for (std::size_t a = 0; a < 3; ++a) alike[a] = std::min(grid[a], unit[a]);
  Place tile = tile_extents(alike, shape.window, patch, unit, std::max<Index>(most_rows / group, 1));
  tile = tile_extents(grid, shape.window, tile, unit, std::max<Index>(some_rows / group, 1));
  for (std::size_t a = 0; a < 3; ++a) {  // as many tiles, of equal extents
    const Index tiles = (grid[a] + tile[a] - 1) / tile[a], most = (grid[a] + tiles - 1) / tiles;
    if (tile[a] > unit[a]) tile[a] = (most + unit[a] - 1) / unit[a] * unit[a];
  }
  return {grid, tile, patch};
}

// Keys: at most a word of them in a tile, which is cut along the windows where those do not overlap by less than a
// stride.
inline TiledGrid key_tiles(const Place& grid, const WindowShape& shape) {
  constexpr Index most = 64;
  Place unit{1, 1, 1};
  for (std::size_t a = 0; a < 3; ++a) {
    const Index window = shape.window[a], stride = shape.stride[a];
    if (stride > 1) unit[a] = std::gcd(std::gcd(stride, window), std::abs(stride / 2 - window / 2));
  }
  const Place tile = tile_extents(grid, shape.window, {1, 1, 1}, unit, most);
  Index pitch = 1;
  while (pitch < volume(tile)) pitch *= 2;
  return {grid, tile, {1, 1, 1}, pitch};
}

}  // namespace fovea::inline FOVEA_ISA::permute

// fovea/parts/position/angles.hpp

// The angles of rotary positions: cosines and sines of p t_k for any integer position p, without a table of positions.
//
// A frequency is kept in quarter turns, cut into parts of 26 bits, so that its products with a position are exact and
// whole turns can be taken off before anything is rounded: the angles of positions up to 2^27 are those of the kept
// frequency to one and a half epsilons of double, beyond that to |p| 2^-27 epsilons.

namespace fovea::inline FOVEA_ISA::position {

// Which channels make a pair: half_split (x_k, x_{k + R/2}) as in Llama and NeoX, interleaved (x_2k, x_2k+1) as in
// GPT-J.
enum class RotaryLayout { half_split, interleaved };

struct RotaryOptions {
  RotaryLayout layout = RotaryLayout::half_split;
  double base = 10000;
  Index rotated = 0;  // channels that are rotated, even; 0 for all

  bool operator==(const RotaryOptions&) const = default;
};

// count positions from `first` on.
struct Consecutive {
  Index first = 0;
  Index count = 0;

  Index size() const { return count; }
  Index operator[](std::size_t i) const { return first + Index(i); }
};

namespace detail {

inline constexpr int angle_lanes = int(simd::lanes<double>);
using AngleLanes = simd::Native<double, angle_lanes>;
using AngleBits = simd::Native<std::int64_t, angle_lanes>;

template <class To, class From>
[[gnu::always_inline]] inline To as(const From& x) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &x, sizeof to);
  return to;
}

// Adding it rounds to an integer and leaves that in the low bits.
inline constexpr double round_to_integer = 0x1.8p52;

// Cosine and sine of n + r quarter turns, |r| <= 1/2, n an integer of at most 50 bits. Taylor series of which what is
// left out is below 2^-54.
[[gnu::always_inline]] inline void turn(const AngleLanes& n, const AngleLanes& r, AngleLanes& cosine,
                                        AngleLanes& sine) {
  const AngleLanes x = r * 0x1.921fb54442d18p0, x2 = x * x;  // pi / 2
  AngleLanes s = x2 * (-1 / 1307674368000.0);                // 15!
  for (const double part : {1 / 6227020800.0, -1 / 39916800.0, 1 / 362880.0, -1 / 5040.0, 1 / 120.0, -1 / 6.0})
    s = (s + part) * x2;
  s = x + x * s;
  AngleLanes c = x2 * (1 / 20922789888000.0);  // 16!
  for (const double part : {-1 / 87178291200.0, 1 / 479001600.0, -1 / 3628800.0, 1 / 40320.0, -1 / 720.0, 1 / 24.0})
    c = (c + part) * x2;
  c = 1.0 - (0.5 * x2 - x2 * c);
  // Quarter turns: (c, s), (-s, c), (-c, -s), (s, -c).
  const AngleBits quarter = as<AngleBits>(n + round_to_integer);
  const AngleBits odd = -(quarter & 1), minus_s = (quarter & 2) << 62, minus_c = ((quarter + 1) & 2) << 62;
  const AngleBits cosines = as<AngleBits>(c), sines = as<AngleBits>(s);
  cosine = as<AngleLanes>(((cosines & ~odd) | (sines & odd)) ^ minus_c);
  sine = as<AngleLanes>(((sines & ~odd) | (cosines & odd)) ^ minus_s);
}

}  // namespace detail

// The frequencies t_k of a rotation of rows of `dim` channels; made once and used for every call.
class Angles {
 public:
  // Throws ArgumentError, in the name of `where`, for options that are not legal.
  explicit Angles(Index dim, const RotaryOptions& options = {}, const char* where = "fovea::position::Angles")
      : dim_(dim), rotated_(options.rotated == 0 ? dim : options.rotated), layout_(options.layout) {
    check(dim >= 0 && rotated_ >= 0 && rotated_ % 2 == 0 && rotated_ <= dim, where,
          "the rotated channels must be even and at most the width ", dim, ", got ", rotated_);
    check(std::isfinite(options.base) && options.base > 0, where, "the base must be positive and finite, got ",
          options.base);
    const Index blocks = (pairs() + detail::angle_lanes - 1) / detail::angle_lanes;
    parts_.resize(std::size_t(3 * blocks * detail::angle_lanes), 0.0);
    for (Index k = 0; k < pairs(); ++k) {
      constexpr long double quarters = 0.636619772367581343075535053490057448L;  // of a unit, 2 / pi
      long double rest = quarters * std::pow((long double)options.base, -2.0L * (long double)k / (long double)rotated_);
      double* const part = &parts_[std::size_t(k / detail::angle_lanes * 3 * detail::angle_lanes)];
      for (Index p = 0; p < 3; ++p) {
        const double next = p == 2 ? double(rest) : leading_bits(double(rest));
        part[p * detail::angle_lanes + k % detail::angle_lanes] = next;
        rest -= (long double)next;
      }
    }
  }

  Index dim() const { return dim_; }
  Index rotated() const { return rotated_; }
  Index pairs() const { return rotated_ / 2; }
  RotaryLayout layout() const { return layout_; }

  // Pairs of which one call of of() gives the angles at most.
  static constexpr Index block = 64;

  // Cosines and sines of the pairs [first, first + n), n <= block, first a multiple of block. Room is for `block`.
  template <class T>
  void of(Index position, Index first, Index n, T* cosine, T* sine) const {
    using Lanes = detail::AngleLanes;
    constexpr int lanes = detail::angle_lanes;
    const double p = double(position);
    for (Index k = 0; k < n; k += lanes) {
      const double* const part = &parts_[std::size_t((first + k) * 3)];
      const Lanes large = p * simd::native_load<double, lanes>(part);
      const Lanes middle = p * simd::native_load<double, lanes>(part + lanes);
      const Lanes small = p * simd::native_load<double, lanes>(part + 2 * lanes);
      const Lanes of_large = rounded(large), of_middle = rounded(middle);
      const Lanes rest = (large - of_large) + ((middle - of_middle) + small);
      const Lanes of_rest = rounded(rest);
      Lanes c, s;
      detail::turn(of_large + of_middle + of_rest, rest - of_rest, c, s);
      for (int i = 0; i < lanes; ++i) {
        cosine[k + i] = T(c[i]);
        sine[k + i] = T(s[i]);
      }
    }
  }

 private:
  [[gnu::always_inline]] static detail::AngleLanes rounded(detail::AngleLanes x) {
    return x + detail::round_to_integer - detail::round_to_integer;
  }
  // The first 26 bits of x.
  static double leading_bits(double x) {
    return detail::as<double>(detail::as<std::uint64_t>(x) & ~((std::uint64_t{1} << 27) - 1));
  }

  Index dim_, rotated_;
  RotaryLayout layout_;
  std::vector<double> parts_{};  // vector by vector: the three parts of its frequencies
};

}  // namespace fovea::inline FOVEA_ISA::position

// fovea/parts/position/rotary.hpp

// Rotary position embedding: pairs of channels turned by an angle that grows with the position.
// Su et al., "RoFormer", 2021, arXiv:2104.09864.
//
//   (a, b) -> (a cos p t_k - b sin p t_k, a sin p t_k + b cos p t_k),   t_k = base^(-2 k / R),  k = 0 .. R/2 - 1
//
// R channels are rotated (all, unless `rotated` says fewer: the leading ones); the rest is copied.

namespace fovea::inline FOVEA_ISA::position {

namespace detail {

// n pairs: (a[k], b[k]), or (a[2 k], a[2 k + 1]) when interleaved, as are those of the result; it may be the same row.
template <class T>
void rotate_pairs(const T* a, const T* b, const T* cosine, const T* sine, Index n, RotaryLayout layout, T* first,
                  T* second) {
  if (layout == RotaryLayout::interleaved) {
    for (Index k = 0; k < n; ++k) {
      const T x = a[2 * k], y = a[2 * k + 1];
      first[2 * k] = x * cosine[k] - y * sine[k];
      first[2 * k + 1] = x * sine[k] + y * cosine[k];
    }
    return;
  }
  Index k = 0;
  for (; k + simd::lanes<T> <= n; k += simd::lanes<T>) {
    const auto x = simd::load(a + k), y = simd::load(b + k);
    const auto c = simd::load(cosine + k), s = simd::load(sine + k);
    simd::store(first + k, x * c - y * s);
    simd::store(second + k, x * s + y * c);
  }
  for (; k < n; ++k) {
    const T x = a[k], y = b[k];
    first[k] = x * cosine[k] - y * sine[k];
    second[k] = x * sine[k] + y * cosine[k];
  }
}

}  // namespace detail

// out = x rotated, both [B,H,T,D]; they may be the same array. positions holds an integer for each token, [T], or [B x
// T] when sequences differ: anything with size() and []. Angles are made once for all calls; nothing is allocated.
template <class X, class Positions, class Out, exec::Executor Exec = exec::Serial>
void rotary(const X& x, const Positions& positions, Out&& out, const Angles& angles, const Exec& executor = {}) {
  constexpr auto where = "fovea::position::rotary";
  const auto from = view(x);
  const auto to = view(out);
  using T = std::remove_pointer_t<decltype(to.data)>;
  static_assert(!std::is_const_v<T>, "fovea: the output must not be const");
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "fovea: rotary takes float or double");
  const Index count = Index(positions.size());
  check(from.extents() == to.extents(), where, "out must have the shape of x, wanted [", from.batch, ", ", from.heads,
        ", ", from.length, ", ", from.dim, "], got [", to.batch, ", ", to.heads, ", ", to.length, ", ", to.dim, "]");
  check(angles.dim() == from.dim, where, "the angles must be for the width of x, wanted ", from.dim, ", got ",
        angles.dim());
  check(count == from.length || count == from.batch * from.length, where,
        "positions must have one integer for each token, ", "wanted ", from.length, " or ", from.batch * from.length,
        ", got ", count);

  const Index pairs = angles.pairs(), rotated = angles.rotated(), batch_step = count == from.length ? 0 : from.length;
  const bool split = angles.layout() == RotaryLayout::half_split;
  const double flops = 3.0 * double(from.heads * from.dim) + 40.0 * double(pairs);
  executor.parallel_for(from.batch * from.length, flops, [&](Index begin, Index end) {
    alignas(64) T cosine[std::size_t(Angles::block)], sine[std::size_t(Angles::block)];
    for (Index item = begin; item < end; ++item) {
      const Index batch = item / from.length, t = item % from.length;
      const Index position = Index(positions[std::size_t(batch * batch_step + t)]);
      for (Index first = 0; first < pairs; first += Angles::block) {
        const Index n = std::min(Angles::block, pairs - first), at = split ? first : 2 * first;
        angles.of(position, first, n, cosine, sine);
        for (Index head = 0; head < from.heads; ++head) {
          const T* const row = from.row(batch, head, t);
          T* const turned = to.row(batch, head, t);
          detail::rotate_pairs<T>(row + at, row + pairs + first, cosine, sine, n, angles.layout(), turned + at,
                                  turned + pairs + first);
        }
      }
      for (Index head = 0; head < from.heads; ++head) {
        const T* const row = from.row(batch, head, t);
        T* const turned = to.row(batch, head, t);
        if (row != turned && rotated < from.dim)
          std::memcpy(turned + rotated, row + rotated, std::size_t(from.dim - rotated) * sizeof(T));
      }
    }
  });
}

// The same with angles of its own.
template <class X, class Positions, class Out, exec::Executor Exec = exec::Serial>
void rotary(const X& x, const Positions& positions, Out&& out, const RotaryOptions& options = {},
            const Exec& executor = {}) {
  const Angles angles(view(x).dim, options, "fovea::position::rotary");
  rotary(x, positions, std::forward<Out>(out), angles, executor);
}

}  // namespace fovea::inline FOVEA_ISA::position

// fovea/parts/resample/agent_bias.hpp

// The biases of agent attention in its vision form, from their learned factors: a small table for each agent, resized
// to the grid, plus one number for each row and one for each column. Han et al., ECCV 2024, arXiv:2312.08874.

namespace fovea::inline FOVEA_ISA {

namespace detail {

template <class T>
void check_factor(const char* where, const char* name, const View<const T>& x, Index heads, Index second, Index third,
                  Index fourth) {
  check(x.batch == heads && x.heads == second && x.length == third && x.dim == fourth, where, name, " must be [", heads,
        ", ", second, ", ", third, ", ", fourth, "], got [", x.batch, ", ", x.heads, ", ", x.length, ", ", x.dim, "]");
}

// A learned square table [H, n, s, s] on the grid, [H, n, height width].
template <class T>
std::vector<T> agent_bias_on_grid(const char* where, const View<const T>& table, Index heads, Index number,
                                  Index height, Index width) {
  check_factor(where, "the table of the grid", table, heads, number, table.length, table.dim);
  check(table.length > 0 && table.dim > 0 && table.length_stride == table.dim, where,
        "the table of the grid must be contiguous and not empty, got ", table.length, " times ", table.dim);
  View<const T> places = table;
  places.length = table.length * table.dim;
  places.length_stride = places.dim = 1;
  std::vector<T> result(std::size_t(heads * number * height * width));
  resample::bilinear(places, table.length, table.dim, view(result.data(), {heads, number, height * width, 1}), height,
                     width);
  return result;
}

}  // namespace detail

// B1 from its learned factors, to be made once and kept: for agent a and the key at (y, x)
//   B1_a,(y,x) = grid table a, bilinear, at (y, x) + rows_a,y + columns_a,x,   and class_a for the class token
// grid [H,n,s,s], rows [H,n,height,1], columns [H,n,1,width], class_token [H,n,1] or an empty View when there is none,
// bias [H,n,M].
template <class G, class R, class C, class Class, class Out>
void agent_collect_bias(const G& grid, const R& rows, const C& columns, const Class& class_token, Out&& bias) {
  constexpr auto where = "fovea::agent_collect_bias";
  const auto out = view(bias);
  using T = std::remove_pointer_t<decltype(out.data)>;
  const View<const T> down = view(rows), across = view(columns), token = view(class_token);
  const Index heads = out.heads, number = out.length, height = down.length, width = across.dim;
  const Index before = token.data != nullptr ? 1 : 0;
  detail::check_factor(where, "rows", down, heads, number, height, 1);
  detail::check_factor(where, "columns", across, heads, number, 1, width);
  if (before == 1) detail::check_factor(where, "class_token", token, 1, heads, number, 1);
  check(out.batch == 1 && out.dim == height * width + before, where, "bias must hold the grid, wanted [", heads, ", ",
        number, ", ", height * width + before, "], got [", heads, ", ", number, ", ", out.dim, "]");
  const std::vector<T> places = detail::agent_bias_on_grid<T>(where, view(grid), heads, number, height, width);
  for (Index h = 0; h < heads; ++h) {
    for (Index a = 0; a < number; ++a) {
      T* const to = out.row(0, h, a);
      const T* const from = places.data() + (h * number + a) * height * width;
      if (before == 1) to[0] = *token.row(0, h, a);
      for (Index y = 0; y < height; ++y) {
        for (Index x = 0; x < width; ++x)
          to[before + y * width + x] = from[y * width + x] + *down.row(h, a, y) + across.row(h, a, 0)[x];
      }
    }
  }
}

// B2 from its learned factors: for the query at (y, x) and agent a
//   B2_(y,x),a = grid table a, bilinear, at (y, x) + rows_y,a + columns_x,a,   and class_a for the class token
// grid [H,n,s,s], rows [H,height,1,n], columns [H,1,width,n], class_token [H,1,n] or an empty View when there is none,
// bias [H,N,n].
template <class G, class R, class C, class Class, class Out>
void agent_ask_bias(const G& grid, const R& rows, const C& columns, const Class& class_token, Out&& bias) {
  constexpr auto where = "fovea::agent_ask_bias";
  const auto out = view(bias);
  using T = std::remove_pointer_t<decltype(out.data)>;
  const View<const T> down = view(rows), across = view(columns), token = view(class_token);
  const Index heads = out.heads, number = out.dim, height = down.heads, width = across.length;
  const Index before = token.data != nullptr ? 1 : 0;
  detail::check_factor(where, "rows", down, heads, height, 1, number);
  detail::check_factor(where, "columns", across, heads, 1, width, number);
  if (before == 1) detail::check_factor(where, "class_token", token, 1, heads, 1, number);
  check(out.batch == 1 && out.length == height * width + before, where, "bias must hold the grid, wanted [", heads,
        ", ", height * width + before, ", ", number, "], got [", heads, ", ", out.length, ", ", number, "]");
  const std::vector<T> places = detail::agent_bias_on_grid<T>(where, view(grid), heads, number, height, width);
  for (Index h = 0; h < heads; ++h) {
    for (Index a = 0; a < number; ++a) {
      const T* const from = places.data() + (h * number + a) * height * width;
      if (before == 1) out.row(0, h, 0)[a] = token.row(0, h, 0)[a];
      for (Index y = 0; y < height; ++y) {
        for (Index x = 0; x < width; ++x)
          out.row(0, h, before + y * width + x)[a] =
              from[y * width + x] + down.row(h, y, 0)[a] + across.row(h, 0, x)[a];
      }
    }
  }
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/parts/score/alibi.hpp

// ALiBi: a penalty that grows with the distance. Press et al., ICLR 2022, arXiv:2108.12409.
//
//   s_ij - slope_h |p_i - j|,   p_i the position of query i

namespace fovea::inline FOVEA_ISA::score {

struct Alibi {
  std::vector<double> slopes;  // [H]
  Alignment alignment = Alignment::bottom_right;

  template <class T>
  auto bind(const char* where, const Shape& shape) const {
    check(Index(slopes.size()) == shape.heads, where, "alibi needs one slope for each head, wanted ", shape.heads,
          ", got ", slopes.size());
    return [slopes = std::vector<T>(slopes.begin(), slopes.end()), offset = shape.offset(alignment)](T* scores, Row row,
                                                                                                     Span keys) {
      simd::add_distance(scores, keys.size(), -slopes[std::size_t(row.head)], T(row.query + offset - keys.first));
    };
  }
};

inline Alibi alibi(std::vector<double> slopes, Alignment alignment = Alignment::bottom_right) {
  return {std::move(slopes), alignment};
}

// The slopes of the paper: 2^(-8 (h + 1) / H) for H a power of two; otherwise those of the next smaller power of two,
// followed by every second slope of the next larger one.
inline std::vector<double> alibi_slopes(Index heads) {
  check(heads >= 0, "fovea::score::alibi_slopes", "heads must not be negative, got ", heads);
  Index power = 1;
  while (2 * power <= heads) power *= 2;
  const auto slope = [](Index h, Index of) { return std::exp2(-8.0 * double(h + 1) / double(of)); };
  std::vector<double> slopes;
  for (Index h = 0; h < std::min(power, heads); ++h) slopes.push_back(slope(h, power));
  for (Index h = 0; Index(slopes.size()) < heads; h += 2) slopes.push_back(slope(h, 2 * power));
  return slopes;
}

}  // namespace fovea::inline FOVEA_ISA::score

// fovea/parts/score/each.hpp

// Any rule of the user's: a function of a score and where it stands.

namespace fovea::inline FOVEA_ISA::score {

template <class F>
struct Each {
  F f;

  template <class T>
  auto bind(const char*, const Shape&) const {
    static_assert(std::is_invocable_r_v<T, const F&, T, Site>,
                  "fovea: score::each takes a function callable as T(T score, fovea::Site)");
    return [f = f](T* scores, Row row, Span keys) {
      for (Index j = 0; j < keys.size(); ++j)
        scores[j] = f(scores[j], Site{row.batch, row.head, row.query, keys.first + j});
    };
  }
};

// f(score, Site{batch, head, query, key}) gives the new score. It is called from several threads.
template <class F>
Each<F> each(F f) {
  return {std::move(f)};
}

}  // namespace fovea::inline FOVEA_ISA::score

// fovea/parts/score/soft_cap.hpp

// Soft-capped scores: cap tanh(s / cap), as in Gemma 2 (cap 50). Saturates, never overflows.

namespace fovea::inline FOVEA_ISA::score {

struct SoftCap {
  double cap = 0;

  template <class T>
  auto bind(const char* where, const Shape&) const {
    check(std::isfinite(T(cap)) && cap > 0 && std::isfinite(T(1) / T(cap)), where,
          "the soft cap and its inverse must be positive and finite in the scalar type of q, got ", cap);
    return [cap = T(cap)](T* scores, Row, Span keys) { simd::soft_cap(scores, keys.size(), cap); };
  }
};

constexpr SoftCap soft_cap(double cap) { return {cap}; }

}  // namespace fovea::inline FOVEA_ISA::score

// fovea/parts/select/page_bounds.hpp

// Bounds of the keys of a growing cache, page by page.

namespace fovea::inline FOVEA_ISA::select {

// The largest and the smallest key of each page, element by element, for each batch and kv head; pages are counted from
// the first key and the last one may be shorter. A plain object of the caller's: append the keys that the cache gets,
// as they lie in it (behind rotary positions), and copy, keep or save it like the cache.
//
//   PageBounds<float> bounds{.batch = 1, .kv_heads = 8, .dim = 128};
//   bounds.append(k);   // the prompt [1,8,M,128], then the key of each step [1,8,1,128]
template <class T>
struct PageBounds {
  Index page = 16;  // keys of a page
  Index batch = 1;
  Index kv_heads = 1;
  Index dim = 0;
  Index length = 0;       // keys so far
  Index capacity = 0;     // pages that there is room for
  std::vector<T> rows{};  // [batch x kv_heads x capacity x 2 dim]: a page's largest elements, then its smallest

  Index pages() const { return (length + page - 1) / page; }

  // [batch, kv_heads, pages, 2 dim]
  View<const T> view() const {
    View<const T> all = fovea::view(rows.data(), {batch, kv_heads, capacity, 2 * dim});
    all.length = pages();
    return all;
  }

  // Throws ArgumentError unless these are the bounds of keys [batch, kv_heads, length, dim].
  void check_for(const char* where, const View<const T>& keys) const {
    check(page > 0, where, "the page of the bounds must be positive, got ", page);
    check(batch == keys.batch && kv_heads == keys.heads && dim == keys.dim, where,
          "page bounds must have the batch, heads and width of k, wanted [", keys.batch, ", ", keys.heads, ", ",
          keys.dim, "], got [", batch, ", ", kv_heads, ", ", dim, "]");
    check(length == keys.length, where, "page bounds must hold the keys of k, wanted ", keys.length, ", got ", length);
    check_rows(where);
  }

  // The next keys of the cache, [batch, kv_heads, n, dim].
  template <class K, exec::Executor Exec = exec::Serial>
  void append(const K& k, const Exec& executor = {}) {
    constexpr auto where = "fovea::select::PageBounds::append";
    const auto keys = fovea::view(k);
    check(page > 0 && length >= 0, where, "the page must be positive, got ", page);
    check(keys.batch == batch && keys.heads == kv_heads && keys.dim == dim, where,
          "the keys must have the batch, heads and width of the bounds, wanted [", batch, ", ", kv_heads, ", ", dim,
          "], got [", keys.batch, ", ", keys.heads, ", ", keys.dim, "]");
    check_rows(where);
    reserve((length + keys.length + page - 1) / page);
    executor.parallel_for(batch * kv_heads, double(2 * keys.length * dim), [&](Index begin, Index end) {
      for (Index head = begin; head < end; ++head) extend(head, keys);
    });
    length += keys.length;
  }

 private:
  void check_rows(const char* where) const {
    check(capacity >= pages() && Index(rows.size()) == batch * kv_heads * capacity * 2 * dim, where,
          "page bounds must have room for their pages, wanted ", batch * kv_heads * capacity * 2 * dim,
          " numbers and at least ", pages(), " pages, got ", rows.size(), " and ", capacity);
  }

  // Room for so many pages, at least doubled so that appending costs the same on the whole.
  void reserve(Index wanted) {
    if (wanted <= capacity) return;
    const Index next = std::max(wanted, 2 * capacity), size = 2 * dim;
    std::vector<T> larger(static_cast<std::size_t>(batch * kv_heads * next * size));
    for (Index head = 0; head < batch * kv_heads; ++head)
      std::copy_n(rows.data() + head * capacity * size, pages() * size, larger.data() + head * next * size);
    rows.swap(larger);
    capacity = next;
  }

  template <class Keys>
  void extend(Index head, const Keys& keys) {
    T* const bounds = rows.data() + head * capacity * 2 * dim;
    for (Index i = 0; i < keys.length;) {
      const Index at = length + i, within = at % page, count = std::min(page - within, keys.length - i);
      T* const high = bounds + at / page * 2 * dim;
      const T* const key = keys.row(head / kv_heads, head % kv_heads, i);
      if (within == 0) {
        pool_block<T>(Pooling::bounds, count, dim, key, keys.length_stride, high);
      } else {
        for (Index n = 0; n < count; ++n) {
          simd::combine(high, key + n * keys.length_stride, dim, detail::larger<T>);
          simd::combine(high + dim, key + n * keys.length_stride, dim, detail::smaller<T>);
        }
      }
      i += count;
    }
  }
};

}  // namespace fovea::inline FOVEA_ISA::select

// fovea/sink/head_split.hpp

// Attention split by heads: retrieval heads see every key before them, streaming heads the sink tokens and a window.
// Xiao et al., "DuoAttention: Efficient Long-Context LLM Inference with Retrieval and Streaming Heads", ICLR 2025,
// arXiv:2410.10819.
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j,   p = i + M - N,
//   over { j <= p } for retrieval heads, over { j <= p : p - j < window or j < sink_tokens } for streaming heads
//
// Exact for this mask, which is the one of training; equals causal attention when every head retrieves or
// window + sink_tokens >= M. Cost O(N M (D + E)) for each retrieval head, O(N (window + sink_tokens) (D + E)) for each
// streaming head; query heads of one key head that differ in kind all cost as much as retrieval heads.

namespace fovea::inline FOVEA_ISA {

struct HeadSplitOptions {
  std::vector<bool> retrieval = {};  // [H], of each query head: retrieval or streaming; required
  Index window = 0;                  // last keys that a streaming head sees, the query's own included; required
  Index sink_tokens = 0;             // leading keys that a streaming head sees
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; or matrices [N,D], [M,D], [M,E], [N,E].
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void head_split(const Q& q, const K& k, const V& v, Out&& out, const HeadSplitOptions& options,
                const Exec& executor = {}) {
  constexpr auto where = "fovea::head_split";
  const auto problem = make_problem(where, q, k, v, out);
  check(Index(options.retrieval.size()) == problem.q.heads, where,
        "retrieval needs one flag for each query head, wanted ", problem.q.heads, ", got ", options.retrieval.size());
  check(options.window > 0, where, "window must be positive, got ", options.window);
  check(options.sink_tokens >= 0, where, "sink_tokens must not be negative, got ", options.sink_tokens);

  const auto streaming = mask::window(options.window) | mask::prefix(options.sink_tokens);
  const auto seen = mask::causal() & mask::by_head(options.retrieval, mask::Everything{}, streaming);
  engine::attend(problem, softmax(options.scale).mask(seen), executor);
}

// Flags from learned scores in [0, 1] (clamped to it) of the key heads of all layers, layer by layer: the
// round(sparsity x number) lowest stream, the earlier ones among equals; the others are retrieval heads. Repeat each
// flag H / G times for the query heads of a call.
inline std::vector<bool> retrieval_heads(const std::vector<double>& scores, double sparsity) {
  constexpr auto where = "fovea::retrieval_heads";
  check(sparsity >= 0 && sparsity <= 1, where, "sparsity must be between 0 and 1, got ", sparsity);
  for (const double score : scores) check(!std::isnan(score), where, "scores must be numbers, got ", score);

  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::clamp(scores[a], 0.0, 1.0) < std::clamp(scores[b], 0.0, 1.0);
  });
  std::vector<bool> retrieval(scores.size(), true);
  const auto streaming = std::size_t(std::lround(sparsity * double(scores.size())));
  for (std::size_t n = 0; n < streaming; ++n) retrieval[order[n]] = false;
  return retrieval;
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/sink/sink_logits.hpp

// Attention sinks as parameters: learned sink logits, softmax-off-by-one, and a learned extra key and value.
// Sink logits: OpenAI, "gpt-oss-120b & gpt-oss-20b Model Card", 2025, arXiv:2508.10925; softmax-off-by-one: Miller,
// "Attention Is Off By One", 2023; extra key and value: Gu et al., "When Attention Sink Emerges in Language Models",
// 2024, arXiv:2410.10781.
//
//   sink_logits      o_i = sum_j exp(s_ij) v_j / (exp(c_h) + sum_j exp(s_ij)),   s_ij = scale q_i . k_j
//   sink_key_value   o_i = (exp(s_i*) v*_h + sum_j exp(s_ij) v_j) / (exp(s_i*) + sum_j exp(s_ij)),
//                    s_i* = scale q_i . k*_h
//
// over all keys j, over j <= p when causal, or over p - window < j <= p, with p = i + M - N. c_h is neither scaled nor
// masked; the extra key is seen by every query.
//
// Exact; c_h = -infinity is plain attention, and the extra key and value 0 are the logit 0. Cost that of attention and
// an exponential for each query, for sink_key_value O(N (D + E)) and, unless log-sums are asked for, a number for each
// query.

namespace fovea::inline FOVEA_ISA {

struct SinkLogitsOptions {
  std::vector<double> sink_logits = {};           // [H], of each query head; finite, or -infinity for no sink
  bool off_by_one = false;                        // every logit is 0; sink_logits stay empty
  Alignment alignment = Alignment::bottom_right;  // where the queries stand when causal and N != M
  bool causal = false;                            // a query sees its own position and those before it
  std::optional<Index> window = {};               // of which so many, its own included; all when empty
  std::optional<double> scale = {};               // 1 / sqrt(D) when empty
};

struct SinkKeyValueOptions {
  Alignment alignment = Alignment::bottom_right;  // where the queries stand when causal and N != M
  bool causal = false;                            // a query sees its own position and those before it
  std::optional<Index> window = {};               // of which so many, its own included; all when empty
  std::optional<double> scale = {};               // 1 / sqrt(D) when empty
};

namespace detail {

// Softmax over the keys that the options let a query see.
template <class T, class Options, exec::Executor Exec>
void attend_with_sinks(const Problem<T>& problem, const Options& options, const Recipe<>& softmax,
                       const Exec& executor) {
  check(!options.window || options.causal, problem.where, "a window needs causal attention");
  if (options.window) {
    const auto seen = mask::causal(options.alignment) & mask::window(*options.window, options.alignment);
    engine::attend(problem, softmax.mask(seen), executor);
  } else {
    engine::attend(problem, softmax.mask(mask::causal_if(options.causal, options.alignment)), executor);
  }
}

}  // namespace detail

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; or matrices [N,D], [M,D], [M,E], [N,E].
// Log-sums do not count the sink; combine::add_sink does the same to a result that is there.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void sink_logits(const Q& q, const K& k, const V& v, Out&& out, const SinkLogitsOptions& options,
                 const Exec& executor = {}) {
  constexpr auto where = "fovea::sink_logits";
  const auto problem = make_problem(where, q, k, v, out);
  check(options.off_by_one || Index(options.sink_logits.size()) == problem.q.heads, where,
        "sink logits need one number for each head, wanted ", problem.q.heads, ", got ", options.sink_logits.size());
  check(!options.off_by_one || options.sink_logits.empty(), where, "off_by_one has no sink logits, got ",
        options.sink_logits.size());

  const auto logits = options.off_by_one ? std::vector<double>(std::size_t(problem.q.heads), 0.0) : options.sink_logits;
  detail::attend_with_sinks(problem, options, softmax(options.scale).sink_logits(logits), executor);
}

// As above, with sink_key [H,D] and sink_value [H,E], or [1,D] and [1,E] for all heads, of the type of q: a row for
// each query head. They carry no position: a rotation of q and k leaves sink_key alone. A sink_value of zeros is a key
// bias. Log-sums count the extra key.
template <class Q, class K, class V, class SinkKey, class SinkValue, class Out, exec::Executor Exec = exec::Serial>
void sink_key_value(const Q& q, const K& k, const V& v, const SinkKey& sink_key, const SinkValue& sink_value, Out&& out,
                    const SinkKeyValueOptions& options = {}, const Exec& executor = {}) {
  constexpr auto where = "fovea::sink_key_value";
  auto problem = make_problem(where, q, k, v, out);
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  const auto recipe = softmax(options.scale);
  const combine::ExtraKey<T> extra(where, view(sink_key), view(sink_value), problem.q.extents(), problem.v.dim,
                                   recipe.normalizer.scale_for(problem.q.dim));
  std::vector<T> log_sums;
  if (problem.log_sum.data == nullptr) {
    log_sums.resize(std::size_t(problem.q.batch * problem.q.heads * problem.q.length));
    problem.log_sum = view(log_sums.data(), {problem.q.batch, problem.q.heads, problem.q.length, 1});
  }

  detail::attend_with_sinks(problem, options, recipe, executor);
  extra.merge_into(problem.q, problem.out, problem.log_sum, executor);
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/sink/streaming.hpp

// StreamingLLM: sink tokens and a rolling window, with rotary positions counted inside the cache.
// Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024, arXiv:2309.17453.
//
//   o_i = sum_j softmax_j(scale R(a_ij) q_i . R(j) k_j) v_j   over   { j <= p : p - j < window or j < sink_tokens }
//   a_ij = p for keys of the window, min(p, sink_tokens + window - 1) for sink tokens,   p = i + M - N
//
// R(a) is the rotation by position a. A query thus stands right behind the window and the window right behind the sink
// tokens, as in a cache that keeps these keys alone and counts positions by its slots. q and k come without positions.
//
// window counts the query's own key: it is the recent size of a cache that evicts before it appends, and one more when
// it appends first. Decoding a token from such a cache (keys as they came, in order, the own one last) is the same call
// with N = 1; from a StreamingCache, which turns keys once, it is the call below it.
//
// Exact for this definition; equals causal attention of rotated q and k while M <= window + sink_tokens. Cost
// O(N (window + sink_tokens) (D + E)) for each head. Memory: q and the keys that are seen, rotated, and an
// output and log-sums for the sink tokens.

namespace fovea::inline FOVEA_ISA {

struct StreamingOptions {
  Index window = 0;                     // last keys that a query sees, its own included; required
  Index sink_tokens = 0;                // leading keys that every query sees
  position::RotaryOptions rotary = {};  // of the positions
  std::optional<double> scale = {};     // 1 / sqrt(D) when empty

  bool operator==(const StreamingOptions&) const = default;
};

namespace detail {

// A contiguous array of its own.
template <class T>
struct OwnedArray {
  Extents extents;
  std::unique_ptr<T[], engine::FreeScratch> memory;

  template <class Exec>
  OwnedArray(const Exec& executor, const Extents& e)
      : extents(e), memory(engine::allocate_scratch<T>(executor, std::max<Index>(size_of(e), 1))) {}
  static Index size_of(const Extents& e) { return e.batch * e.heads * e.length * e.dim; }
  View<T> all() const { return view(memory.get(), extents); }
};

}  // namespace detail

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; or matrices [N,D], [M,D], [M,E], [N,E].
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void streaming(const Q& q, const K& k, const V& v, Out&& out, const StreamingOptions& options,
               const Exec& executor = {}) {
  constexpr auto where = "fovea::streaming";
  const auto problem = make_problem(where, q, k, v, out);
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  check(options.window > 0, where, "window must be positive, got ", options.window);
  check(options.sink_tokens >= 0, where, "sink_tokens must not be negative, got ", options.sink_tokens);
  const auto recipe = softmax(options.scale);
  recipe.normalizer.check_for(where, problem.shape());
  const position::Angles angles(problem.q.dim, options.rotary, where);

  const Index queries = problem.q.length, keys = problem.k.length;
  const Index window = std::min(options.window, keys + queries), sinks = std::min(options.sink_tokens, keys);
  const Index unseen = std::max<Index>(0, keys - (sinks + window - 1 + queries));  // keys that no query sees
  const Index kept = keys - unseen;
  const auto rotate = [&](View<const T> x, View<T> to, Index first) {  // to first, first + 1, ...
    position::rotary(x, position::Consecutive{first, x.length}, to, angles, executor);
  };
  const auto tokens = [](auto x, Index first, Index last) {
    if (x.data != nullptr) x.data = x.row(0, 0, first);
    x.length = last - first;
    return x;
  };
  const auto rows = [&](Index first, Index last) {
    auto part = problem;
    part.q = tokens(part.q, first, last);
    part.out = tokens(part.out, first, last);
    part.log_sum = tokens(part.log_sum, first, last);
    return part;
  };

  const detail::OwnedArray<T> turned_q(executor, problem.q.extents());
  const detail::OwnedArray<T> turned_k(executor, {problem.k.batch, problem.k.heads, kept, problem.k.dim});
  const View<T> turned_sinks = tokens(turned_k.all(), 0, sinks), turned_rest = tokens(turned_k.all(), sinks, kept);
  rotate(problem.q, turned_q.all(), kept - queries);
  rotate(tokens(problem.k, 0, sinks), turned_sinks, 0);
  rotate(tokens(problem.k, sinks + unseen, keys), turned_rest, sinks);

  // Early queries see every key up to their own.
  const Index early = sinks == 0 ? 0 : std::clamp<Index>(sinks + window - (keys - queries), 0, queries);
  if (early > 0) {
    auto part = rows(0, early);
    part.q = tokens(turned_q.all(), 0, early);
    part.k = tokens(turned_k.all(), 0, early + keys - queries);
    part.v = tokens(problem.v, 0, early + keys - queries);
    engine::attend(part, recipe.mask(mask::causal()), executor);
    if (early == queries) return;
  }

  auto recent = rows(early, queries);
  recent.q = tokens(turned_q.all(), early, queries);
  recent.k = turned_rest;
  recent.v = tokens(problem.v, sinks + unseen, keys);
  const auto windowed = recipe.mask(mask::causal() & mask::window(window));
  if (sinks == 0) return engine::attend(recent, windowed, executor);

  // The others stand at sinks + window - 1 for the sink tokens: these are turned back as far, and q is left as it is.
  const Extents sums{problem.q.batch, problem.q.heads, queries - early, 1};
  const detail::OwnedArray<T> recent_log_sum(executor, sums), sink_log_sum(executor, sums);
  const detail::OwnedArray<T> sink_out(executor, recent.out.extents());
  rotate(tokens(problem.k, 0, sinks), turned_sinks, 1 - sinks - window);
  auto sink = rows(early, queries);
  sink.k = turned_sinks;
  sink.v = tokens(problem.v, 0, sinks);
  sink.out = sink_out.all();
  sink.log_sum = sink_log_sum.all();
  if (recent.log_sum.data == nullptr) recent.log_sum = recent_log_sum.all();
  engine::attend(recent, windowed, executor);
  engine::attend(sink, recipe, executor);
  const auto result = with_log_sum(recent.out, recent.log_sum);
  combine::merge(result, with_log_sum(sink.out, sink.log_sum), result, executor);
}

// What a sequence keeps for streaming: its sink tokens, as they came, and the window, whose keys are turned to their
// own positions when they come. A query turned to its own position then finds its window where it should be, and only
// the sink tokens have to follow it.
template <class K = float, class V = K>
class StreamingCache {
 public:
  // K and V: float, double, Eigen::bfloat16 or Eigen::half. Up to `spare` tokens can be taken back once tokens have
  // left the window. Throws ArgumentError for extents and options that are not legal.
  StreamingCache(Index kv_heads, Index key_dim, Index value_dim, const StreamingOptions& options, Index spare = 0)
      : options_(options),
        angles_(key_dim, options.rotary, "fovea::StreamingCache"),
        tokens_({kv_heads, key_dim, value_dim, options.window, options.sink_tokens, spare}) {}

  const StreamingOptions& options() const { return options_; }
  const position::Angles& angles() const { return angles_; }
  const cache::Rolling<K, V>& tokens() const { return tokens_; }
  Index seen() const { return tokens_.seen(); }      // tokens that came
  Index length() const { return tokens_.length(); }  // tokens that are left

  // Tokens that follow: k [G,n,D], without positions, and v [G,n,E], or matrices [n,D] and [n,E] when there is one
  // head; float or double. Throws ArgumentError, and leaves the cache as it was, when they do not fit it.
  template <class Tk, class Tv>
  void append(const Tk& k, const Tv& v) {
    constexpr auto where = "fovea::StreamingCache::append";
    const auto keys = cache::appended(k);
    const auto values = cache::appended(v);
    using T = std::remove_const_t<std::remove_pointer_t<decltype(keys.data)>>;
    const auto& size = tokens_.options();
    check(size.kv_heads > 0, where, "the cache was moved from");
    cache::check_appended(where, keys.extents(), values.extents(), size.kv_heads, size.key_dim, size.value_dim);
    const auto part = [](auto x, Index first, Index last) {
      x.data = x.row(0, 0, first);
      x.length = last - first;
      return x;
    };
    // Sink tokens stay as they are, and so may those that the ring will not hold.
    const Index n = keys.length, begin = seen(), ring = size.window + size.spare;
    const Index as_they_are = std::clamp<Index>(std::max(size.sink_tokens - begin, n - ring), 0, n);
    const Index most = std::min<Index>(n - as_they_are, 64);
    reserve(size.kv_heads * most * size.key_dim * Index(sizeof(T)));
    if (as_they_are > 0) tokens_.append(part(keys, 0, as_they_are), part(values, 0, as_they_are));
    for (Index first = as_they_are; first < n; first += most) {
      const Index last = std::min(first + most, n);
      const auto turned =
          view(reinterpret_cast<T*>(turned_.data()), Extents{1, size.kv_heads, last - first, size.key_dim});
      position::rotary(part(keys, first, last), position::Consecutive{begin + first, last - first}, turned, angles_);
      tokens_.append(turned, part(values, first, last));
    }
  }

  // As cache::Rolling has them.
  void truncate(Index tokens) { tokens_.truncate(tokens); }
  void clear() { tokens_.clear(); }
  StreamingCache fork() const { return StreamingCache(*this); }

  StreamingCache(StreamingCache&&) noexcept = default;
  StreamingCache& operator=(StreamingCache&& other) noexcept {
    std::swap(options_, other.options_);
    std::swap(angles_, other.angles_);
    std::swap(tokens_, other.tokens_);
    std::swap(turned_, other.turned_);
    std::swap(room_, other.room_);
    return *this;
  }

 private:
  StreamingCache(const StreamingCache& other)
      : options_(other.options_), angles_(other.angles_), tokens_(other.tokens_.fork()) {}

  void reserve(Index bytes) {
    if (bytes <= room_) return;
    turned_ = cache::Memory(bytes);
    room_ = bytes;
  }

  StreamingOptions options_;
  position::Angles angles_;
  cache::Rolling<K, V> tokens_;
  cache::Memory turned_{};  // keys on their way in
  Index room_ = 0;
};

namespace detail {

// The source of some caches: their sink tokens, turned to where the query wants them, and their windows.
template <class T, class Iterator>
struct Streamed {
  Iterator caches;  // leads to pointers
  Index size = 0;
  const T* sinks = nullptr;  // [B, G, sink_tokens, D]

  const auto& of(Index batch) const { return (*caches[std::iter_difference_t<Iterator>(batch)]).tokens(); }
  Index pinned(Index batch) const { return std::min(of(batch).seen(), of(batch).options().sink_tokens); }

  Index length(Index batch) const { return of(batch).length(); }
  Index longest() const {
    Index most = 0;
    for (Index b = 0; b < size; ++b) most = std::max(most, length(b));
    return most;
  }
  Index batch() const { return size; }
  Index kv_heads() const { return of(0).options().kv_heads; }
  Index key_dim() const { return of(0).options().key_dim; }
  Index value_dim() const { return of(0).options().value_dim; }

  template <class F>
  [[gnu::always_inline]] void each_keys(Index batch, Index kv_head, Span tokens, F&& f) const {
    const Span first = intersect(tokens, {0, pinned(batch)}), rest{std::max(tokens.first, first.last), tokens.last};
    if (!first.empty()) {
      const Index dim = key_dim(), row = (batch * kv_heads() + kv_head) * of(0).options().sink_tokens + first.first;
      f(first, kv::Rows<T>{sinks + row * dim, dim, dim});
    }
    of(batch).source().each_keys(0, kv_head, rest, f);
  }
  template <class F>
  [[gnu::always_inline]] void each_values(Index batch, Index kv_head, Span tokens, F&& f) const {
    of(batch).source().each_values(0, kv_head, tokens, f);
  }
  template <class S>
  Index scratch_size(Index) const {
    return 0;
  }
};

// The positions of the last tokens of some caches.
template <class Iterator>
struct LastPositions {
  Iterator caches;
  Index count;

  Index size() const { return count; }
  Index operator[](std::size_t b) const {
    return std::max<Index>((*caches[std::iter_difference_t<Iterator>(b)]).seen() - 1, 0);
  }
};

template <class Q, class Iterator, class Out, class Exec>
void streaming_from(const Q& q, Iterator caches, Index size, Out&& out, const Exec& executor) {
  constexpr auto where = "fovea::streaming";
  const auto queries = view(q);
  using T = std::remove_const_t<std::remove_pointer_t<decltype(queries.data)>>;
  check(queries.batch == size, where, "there must be a cache for each sequence, wanted ", queries.batch, ", got ",
        size);
  if (size == 0) return;
  const StreamingOptions& options = (*caches[0]).options();
  const auto& layout = (*caches[0]).tokens().options();
  for (Index b = 1; b < size; ++b) {
    const auto& other = *caches[std::iter_difference_t<Iterator>(b)];
    const auto& its = other.tokens().options();
    check(its.kv_heads == layout.kv_heads && its.key_dim == layout.key_dim && its.value_dim == layout.value_dim &&
              other.options() == options,
          where, "caches must have the same heads, widths and options, number ", b, " differs from the first");
  }
  Streamed<T, Iterator> source{caches, size};
  auto problem = engine::make_problem(where, q, source, out);
  check(problem.q.length == 1, where, "there must be one query, got ", problem.q.length);
  const auto recipe = softmax(options.scale);
  recipe.normalizer.check_for(where, problem.shape());

  // The query stands at its own position p, and sink token j as far in front of it as it would inside the cache.
  const position::Angles& angles = (*caches[0]).angles();
  const OwnedArray<T> turned_q(executor, problem.q.extents());
  position::rotary(problem.q, LastPositions<Iterator>{caches, size}, turned_q.all(), angles, executor);
  problem.q = turned_q.all();
  const OwnedArray<T> sinks(executor, {size, layout.kv_heads, options.sink_tokens, layout.key_dim});
  for (Index b = 0; b < size; ++b) {
    const auto& tokens = source.of(b);
    View<T> own = sinks.all();
    own.data = own.row(b, 0, 0);
    own.batch = 1;
    own.length = source.pinned(b);
    for (Index h = 0; h < own.heads && own.length > 0; ++h)
      tokens.source().each_keys(0, h, {0, own.length}, [&](Span part, const auto& run) {
        run.read(0, part.size(), own.row(0, h, part.first), own.length_stride);
      });
    position::rotary(own, position::Consecutive{tokens.seen() - tokens.length(), own.length}, own, angles, executor);
  }
  source.sinks = sinks.memory.get();
  engine::attend(problem, source, recipe, executor);
}

}  // namespace detail

// Decoding: q [1,H,1,D], without position, is the query of the token that the cache took last; out [1,H,1,E]. Cost
// O((window + sink_tokens) (D + E)) for each head.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void streaming(const Q& q, const StreamingCache<K, V>& cache, Out&& out, const Exec& executor = {}) {
  const std::array<const StreamingCache<K, V>*, 1> one{&cache};
  detail::streaming_from(q, one.data(), 1, out, executor);
}

// The same for B sequences at once: q [B,H,1,D], out [B,H,1,E]. caches is a range of pointers to StreamingCache, with
// the same options, each of its own length.
template <class Q, std::ranges::random_access_range Caches, class Out, exec::Executor Exec = exec::Serial>
requires requires(const Caches& caches) { (*std::ranges::begin(caches))->angles(); }
void streaming(const Q& q, const Caches& caches, Out&& out, const Exec& executor = {}) {
  Index n = 0;
  for (const auto& cache : caches) {
    check(cache != nullptr, "fovea::streaming", "cache ", n, " is a null pointer");
    ++n;
  }
  detail::streaming_from(q, std::ranges::begin(caches), n, out, executor);
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/top_k/gathered.hpp

// Attention over given lists of keys: those of a selection that was made before, by this layer or another.
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j   over   { j in list(i), and j <= i + M - N when causal }
//
// Exact for its lists; equals dense attention when every visible key is listed. Cost O(listed pairs (D + E)); other
// keys and values are not read. A query with an empty list: output zero, log-sum -infinity.

namespace fovea::inline FOVEA_ISA {

struct GatheredOptions {
  bool causal = false;                            // of its list a query sees the keys up to its own position
  Alignment alignment = Alignment::bottom_right;  // where the queries stand when causal and N != M
  std::optional<double> scale = {};               // 1 / sqrt(D) when empty
};

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; lists [B, H, G or 1, N].
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void gathered(const Q& q, const K& k, const V& v, Out&& out, const select::KeyLists& lists,
              const GatheredOptions& options = {}, const Exec& executor = {}) {
  const auto problem = make_problem("fovea::gathered", q, k, v, out);
  const auto seen = mask::causal_if(options.causal, options.alignment);
  engine::attend_lists(problem, softmax(options.scale).mask(seen), lists, executor);
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/top_k/quest.hpp

// Quest: one query reads the pages of the cache that may hold its largest scores.
// Tang et al., "Quest: Query-Aware Sparsity for Efficient Long-Context LLM Inference", 2024, arXiv:2406.10774.
//
//   high_p, low_p = the largest and smallest key of page p, element by element
//   u_p = sum_d max(q_d high_pd, q_d low_pd)   >=   q . k_j for every key j of the page
//   S = the last page, and the top_k - 1 others with the largest u_p
//   o = sum_j softmax_j(scale q . k_j) v_j   over   { j : page(j) in S }
//
// The last page is always read, as in the published kernels; the published evaluation code lets it compete. A prompt is
// attended densely there, and so are the first two layers.
//
// Approximate; exact on its pages, equal to dense attention when top_k covers them all, and to exact top-k with pages
// of one key. Cost O(2 M D / page) to choose and O(top_k page (D + E)).

namespace fovea::inline FOVEA_ISA {

using mask::BlockTable;
using select::PageBounds;
using select::Sharing;

struct QuestOptions {
  Index top_k = 0;                   // pages that a query reads, the last one among them; required
  Sharing sharing = Sharing::none;   // the paper's: each query head has its pages. max or sum of u_p over the query
                                     // heads of a kv head is our extension: one choice for all of them
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

namespace detail {

template <class T, exec::Executor Exec>
BlockTable choose_pages(const char* where, const View<const T>& q, const View<const T>& k, const PageBounds<T>& bounds,
                        const QuestOptions& options, const Exec& executor) {
  check(q.length <= 1, where, "there must be one query, got ", q.length);
  check(options.top_k > 0, where, "top_k must be positive, got ", options.top_k);
  bounds.check_for(where, k);
  const select::BlockGrid grid{1, bounds.page, q.length, k.length, k.length - q.length, true};
  select::BlockRule rule;
  rule.top_k = options.top_k;
  rule.sharing = options.sharing;
  return select::rank_blocks<T>(q, bounds.view(), grid, rule, executor);
}

}  // namespace detail

// The pages that quest would read, as key blocks: keep them, pass them to block_sparse for another layer or step. q
// [B,H,1,D]; the bounds are those of the keys [B,G,M,D].
template <class Q, class T, exec::Executor Exec = exec::Serial>
BlockTable quest_selection(const Q& q, const PageBounds<T>& bounds, const QuestOptions& options,
                           const Exec& executor = {}) {
  constexpr auto where = "fovea::quest_selection";
  const auto queries = view(q);
  static_assert(std::is_same_v<std::remove_const_t<std::remove_pointer_t<decltype(queries.data)>>, T>,
                "fovea: page bounds must have the scalar type of q");
  const View<const T> keys{nullptr, bounds.batch, bounds.kv_heads, bounds.length, bounds.dim, 0, 0, 0};
  const View<T> no_result{nullptr, queries.batch, queries.heads, queries.length, bounds.dim, 0, 0, 0};
  make_problem(where, queries, keys, keys, no_result);  // the checks of an attention call
  return detail::choose_pages<T>(where, queries, keys, bounds, options, executor);
}

// q [B,H,1,D], k [B,G,M,D], v [B,G,M,E], out [B,H,1,E]; bounds hold all M keys, the current one included.
template <class Q, class K, class V, class Out, class T, exec::Executor Exec = exec::Serial>
void quest(const Q& q, const K& k, const V& v, Out&& out, const PageBounds<T>& bounds, const QuestOptions& options,
           const Exec& executor = {}) {
  const auto problem = make_problem("fovea::quest", q, k, v, out);
  static_assert(std::is_same_v<std::remove_cv_t<decltype(problem)>, Problem<T>>,
                "fovea: page bounds must have the scalar type of q");
  const BlockTable table = detail::choose_pages<T>(problem.where, problem.q, problem.k, bounds, options, executor);
  engine::attend_blocks(problem, options.scale, table, false, Alignment::bottom_right, executor);
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/top_k/top_k.hpp

// Exact top-k attention: each query attends to the k keys with the largest scores.
// Gupta et al., "Memory-efficient Transformers via Top-k Attention", 2021, arXiv:2106.06899.
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j   over   I_i, the k best of the keys that query i sees
//
// The softmax is that over I_i, or, with keep_mass, the one over all visible keys, of which the other weights are left
// out. Of equal scores the lower key is taken; a NaN score loses (with keep_mass it spoils its row), a score of
// -infinity is never taken. Equals dense attention once k reaches the number of visible keys.
//
// Every score is computed, so that only the value product gets cheaper: O(N M D + N k E). Decoding reads all keys but
// the chosen values alone. What is chosen can be had as a plain object and attended to again: top_k/gathered.hpp.

namespace fovea::inline FOVEA_ISA {

struct TopKOptions {
  Index top_k = 0;                                // keys of a query; required
  bool causal = false;                            // a query sees the keys up to its own position
  Alignment alignment = Alignment::bottom_right;  // where the queries stand when causal and N != M
  select::Heads heads = select::Heads::each;      // whose scores choose
  bool keep_mass = false;            // weights of the softmax over all visible keys, not made to sum to one
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

namespace detail {

template <class T, class Exec>
void top_k(const Problem<T>& problem, const TopKOptions& options, select::KeyLists* lists, const Exec& executor) {
  const select::TopK choice{options.top_k, options.heads, options.keep_mass};
  const auto seen = mask::causal_if(options.causal, options.alignment);
  engine::attend_rows(problem, softmax(options.scale).mask(seen), choice, lists, executor);
}

}  // namespace detail

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E] (with_log_sum(out, log_sum) for the log-sums of the softmax
// whose weights are used), H a multiple of G.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void top_k(const Q& q, const K& k, const V& v, Out&& out, const TopKOptions& options, const Exec& executor = {}) {
  detail::top_k(make_problem("fovea::top_k", q, k, v, out), options, nullptr, executor);
}

// The same, and what was chosen: lists for each query head, or for each kv head when the heads choose together.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void top_k(const Q& q, const K& k, const V& v, Out&& out, select::KeyLists& chosen, const TopKOptions& options,
           const Exec& executor = {}) {
  detail::top_k(make_problem("fovea::top_k", q, k, v, out), options, &chosen, executor);
}

// The choice alone.
template <class Q, class K, exec::Executor Exec = exec::Serial>
select::KeyLists top_k_selection(const Q& q, const K& k, const TopKOptions& options, const Exec& executor = {}) {
  const auto queries = view(q);
  using T = std::remove_const_t<std::remove_pointer_t<decltype(queries.data)>>;
  const View<T> nowhere{nullptr, queries.batch, queries.heads, queries.length, view(k).dim, 0, 0, 0};
  select::KeyLists chosen;
  detail::top_k(make_problem("fovea::top_k_selection", q, k, k, nowhere), options, &chosen, executor);
  return chosen;
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/top_k/top_k_block.hpp

// Attention to the best key blocks: blocks of keys are ranked for blocks of queries by pooled queries and keys, and
// softmax runs over the tokens of the chosen ones.
//
//   u_ab = pooled(Q_a) . pooled(K_b);   S_a = the blocks that the rule chooses from u_a, and the forced ones
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j   over   { j : block(j) in S_block(i), and j <= i + M - N when causal }
//
// The common primitive of block selectors. With query_block = 1 and means of the keys it is MoBA (see moba): Lu et al.,
// "MoBA: Mixture of Block Attention for Long-Context LLMs", 2025, arXiv:2502.13189. With bounds of the keys, the score
// of Quest (Tang et al. 2024, arXiv:2406.10774) for blocks of queries.
//
// Approximate; exact on the chosen blocks, and equal to dense attention when they are all blocks. With P_i the share of
// the full softmax that lies on S, ||o_i - dense_i|| <= 2 (1 - P_i) max_j ||v_j||. Cost O(N M D / (query_block
// key_block)) for the choice and O(chosen pairs (D + E)).

namespace fovea::inline FOVEA_ISA {

using mask::BlockTable;
using select::Pooling;
using select::Sharing;
using select::TopP;

struct TopKBlockOptions {
  Index query_block = 64;  // queries that share a choice; 1 when every query chooses for itself
  Index key_block = 64;

  // The rule; exactly one of the three.
  Index top_k = 0;                       // this many blocks, the largest u
  std::optional<double> top_p = {};      // in (0, 1]: the largest weights softmax_b(scale u_ab) that hold this share
  std::optional<double> threshold = {};  // the blocks with scale u_ab >= threshold

  Pooling query_pooling = Pooling::mean;  // mean or max
  Pooling key_pooling = Pooling::mean;    // mean, max, or bounds: u_ab >= pooled(Q_a) . k_j for every key of the block
  TopP top_p_rule = TopP::inclusive;      // what becomes of the weight that crosses top_p
  Index first_blocks = 0;                 // leading blocks that are always taken
  bool own_blocks = true;                 // the blocks where the positions i + M - N lie are always taken
  bool forced_extra = false;              // forced blocks come on top of top_k; they always do of top_p and threshold
  Sharing sharing = Sharing::none;        // a choice for each query head, or for each kv head by the max or sum of u
  Alignment alignment = Alignment::bottom_right;  // where the queries stand when N != M
  bool causal = false;  // only blocks that do not lie behind the queries; of them, keys up to the own position
  std::optional<double> scale = {};  // positive; 1 / sqrt(D) when empty
};

// MoBA: every query takes its own block and the top_k - 1 past ones whose mean key it meets best.
inline TopKBlockOptions moba(Index key_block, Index top_k) {
  TopKBlockOptions options;
  options.query_block = 1;
  options.key_block = key_block;
  options.top_k = top_k;
  options.causal = true;
  return options;
}

namespace detail {

template <class T, exec::Executor Exec>
BlockTable choose_top_blocks(const char* where, const View<const T>& q, const View<const T>& k,
                             const TopKBlockOptions& o, const Exec& executor) {
  const Shape shape{q.batch, q.heads, k.heads, q.length, k.length};
  const select::BlockGrid grid{o.query_block, o.key_block, q.length, k.length, shape.offset(o.alignment), o.causal};
  const select::BlockRule rule{
      o.top_k,        o.top_p,      o.top_p_rule,   o.threshold, o.scale.value_or(1 / std::sqrt(double(q.dim))),
      o.first_blocks, o.own_blocks, o.forced_extra, o.sharing};
  check(o.query_block > 0 && o.key_block > 0, where, "query_block and key_block must be positive, got ", o.query_block,
        " and ", o.key_block);
  check(o.query_pooling != Pooling::bounds, where, "query_pooling must be mean or max, got bounds");
  rule.check_for(where);
  const auto keys = select::pool(k, o.key_block, o.key_pooling, executor);
  if (o.query_block == 1) return select::rank_blocks<T>(q, keys.view(), grid, rule, executor);
  const auto queries = select::pool(q, o.query_block, o.query_pooling, executor);
  return select::rank_blocks<T>(queries.view(), keys.view(), grid, rule, executor);
}

}  // namespace detail

// The blocks that top_k_block would read, q [B,H,N,D], k [B,G,M,D]: keep them, pass them to block_sparse for another
// layer or step.
template <class Q, class K, exec::Executor Exec = exec::Serial>
BlockTable top_k_block_selection(const Q& q, const K& k, const TopKBlockOptions& options, const Exec& executor = {}) {
  constexpr auto where = "fovea::top_k_block_selection";
  const auto queries = view(q);
  const auto keys = view(k);
  using T = std::remove_const_t<std::remove_pointer_t<decltype(queries.data)>>;
  const View<const T> nothing{nullptr, keys.batch, keys.heads, keys.length, 0, 0, 0, 0};
  const View<T> no_result{nullptr, queries.batch, queries.heads, queries.length, 0, 0, 0, 0};
  make_problem(where, queries, keys, nothing, no_result);  // the checks of an attention call
  return detail::choose_top_blocks<T>(where, queries, keys, options, executor);
}

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E].
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void top_k_block(const Q& q, const K& k, const V& v, Out&& out, const TopKBlockOptions& options,
                 const Exec& executor = {}) {
  constexpr auto where = "fovea::top_k_block";
  const auto problem = make_problem(where, q, k, v, out);
  const BlockTable table = detail::choose_top_blocks(where, problem.q, problem.k, options, executor);
  engine::attend_blocks(problem, options.scale, table, options.causal, options.alignment, executor);
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/version.hpp

// The version of fovea. CMake reads it from here, and with it whatever is installed; a test compares the rest.

#define FOVEA_VERSION_MAJOR 0
#define FOVEA_VERSION_MINOR 1
#define FOVEA_VERSION_PATCH 0
#define FOVEA_VERSION "0.1.0"

// fovea/window/dilated.hpp

// Dilated sliding windows: every dilation-th key of a longer stretch, causal or on both sides.
// Beltagy et al., "Longformer: The Long-Document Transformer", 2020, arXiv:2004.05150.
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j
//
//   dilated_window                  over  { j : i - j = n dilation, 0 <= n < window }
//   bidirectional_dilated_window    over  { j : |i - j| = n dilation, 0 <= n <= distance }
//
// window counts keys, the own one included; distance counts the keys on either side. Self-attention only, N = M = T.
// Tokens of different residue modulo the dilation never meet: each residue class is a sequence of its own with an
// ordinary window, read where it lies.
//
// Exact; equals sliding_window and bidirectional_window when the dilation is one, and dense attention inside each
// residue class once the window covers it. Cost O(T window (D + E)) or O(T distance (D + E)) for each head.

namespace fovea::inline FOVEA_ISA {

struct DilatedWindowOptions {
  Index window = 0;                  // keys a query sees, its own included; required
  Index dilation = 0;                // from one of them to the next; required
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

// q [B,H,T,D], k [B,G,T,D], v [B,G,T,E], out [B,H,T,E], H a multiple of G; or matrices [T,D], [T,D], [T,E], [T,E].
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void dilated_window(const Q& q, const K& k, const V& v, Out&& out, const DilatedWindowOptions& options,
                    const Exec& executor = {}) {
  constexpr auto where = "fovea::dilated_window";
  const auto problem = make_problem(where, q, k, v, out);
  check(options.window > 0, where, "window must be positive, got ", options.window);
  check(options.dilation > 0, where, "dilation must be positive, got ", options.dilation);
  check(problem.k.length == problem.q.length, where, "k must have the length of q, wanted ", problem.q.length, ", got ",
        problem.k.length);

  const auto recipe = softmax(options.scale).mask(mask::causal() & mask::window(options.window));
  permute::each_residue_class(problem, options.dilation,
                              [&](const auto& part) { engine::attend(part, recipe, executor); });
}

struct BidirectionalDilatedWindowOptions {
  Index distance = -1;               // keys a query sees on either side, its own not counted; required
  Index dilation = 0;                // from one of them to the next; required
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

// Arrays as for dilated_window.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void bidirectional_dilated_window(const Q& q, const K& k, const V& v, Out&& out,
                                  const BidirectionalDilatedWindowOptions& options, const Exec& executor = {}) {
  constexpr auto where = "fovea::bidirectional_dilated_window";
  const auto problem = make_problem(where, q, k, v, out);
  check(options.distance >= 0, where, "distance must be given and not be negative, got ", options.distance);
  check(options.dilation > 0, where, "dilation must be positive, got ", options.dilation);
  check(problem.k.length == problem.q.length, where, "k must have the length of q, wanted ", problem.q.length, ", got ",
        problem.k.length);

  const auto recipe = softmax(options.scale).mask(mask::band(options.distance));
  permute::each_residue_class(problem, options.dilation,
                              [&](const auto& part) { engine::attend(part, recipe, executor); });
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/window/neighborhood.hpp

// Neighborhood attention on a sequence, an image or a video: a window around each query, with stride, dilation and
// causality for each axis.
// Hassani et al., "Generalized Neighborhood Attention", 2025, arXiv:2504.16922; "Neighborhood Attention Transformer",
// CVPR 2023, arXiv:2204.07143.
//
//   o_x = sum_y softmax_y(scale q_x . k_y) v_y   over the places y of the grid that x sees on every axis
//
// On one axis, with coordinates x and y: those with y = x mod dilation and lo <= floor(y / dilation) < hi. [lo, hi)
// counts inside the residue class of x. With n = floor(x / dilation), L places in the class and its queries in groups
// of `stride`, all indices rounded down:
//
//   not causal   lo = clamp(c - window / 2, 0, L - window), hi = lo + window,
//                c = min(n / stride * stride + stride / 2, L - 1)
//   causal       lo = max(c - window + 1, 0), hi = n + 1,  c = min(n / stride * stride + stride - 1, L - 1)
//
// Not causal, every query sees exactly `window` places of the axis: at the ends the window is moved inward and not cut,
// other than that of bidirectional_window. An even window has its extra place before the query. Self-attention only,
// N = M = T; keys besides those of the grid are attended to by themselves and merged (combine::merge).
//
// Exact; windows of whole axes, not causal, are dense attention; one causal axis with a stride of one is sliding_window
// or dilated_window. Cost O(T window (D + E)) for each head, `window` the product over axes, and on more than one axis
// a copy of queries, keys, values and results of a few heads at a time.

namespace fovea::inline FOVEA_ISA {

struct NeighborhoodOptions {
  std::vector<Index> grid = {};      // extents of one to three axes, the slowest first; one axis of T when empty
  PerAxis<Index> window = 0;         // places a query sees; required, window dilation <= extent
  PerAxis<Index> stride = 1;         // queries that share a window, at most `window`; window of them make blocks
  PerAxis<Index> dilation = 1;       // from one place to the next
  PerAxis<bool> causal = false;      // only places up to the query's
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

namespace detail {

// The options by axis, in three axes of which the first may be of extent one.
struct NeighborhoodAxes {
  Place extents{1, 1, 1}, dilation{1, 1, 1};
  mask::Neighborhoods windows{mask::neighborhood(1), mask::neighborhood(1), mask::neighborhood(1)};

  NeighborhoodAxes(const char* where, const NeighborhoodOptions& options, Index tokens) {
    const std::vector<Index> grid = options.grid.empty() ? std::vector<Index>{tokens} : options.grid;
    const Index axes = Index(grid.size());
    check(axes <= 3, where, "a grid has up to three axes, got ", axes);
    const auto count = [&](const char* name, Index got) {
      check(got == 1 || got == axes, where, name, " must be given once or for each axis, wanted 1 or ", axes, ", got ",
            got);
    };
    count("window", options.window.count());
    count("stride", options.stride.count());
    count("dilation", options.dilation.count());
    count("causal", options.causal.count());
    Index room = tokens;  // what the tokens leave for the axes to come, -1 when they do not fit
    for (Index a = 0; a < axes; ++a) {
      const Index extent = grid[std::size_t(a)], window = options.window[a], stride = options.stride[a];
      check(extent >= 0, where, "the extents of a grid must not be negative, got ", extent);
      check(window > 0, where, "window must be positive, got ", window);
      check(stride > 0 && stride <= window, where, "stride must be between 1 and the window, ", window, ", got ",
            stride);
      check(options.dilation[a] > 0, where, "dilation must be positive, got ", options.dilation[a]);
      check(window <= extent / options.dilation[a] || tokens == 0, where,
            "window dilation must not exceed the length, ", extent, ", got ", window, " times ", options.dilation[a]);
      room = extent > 0 && room % extent == 0 ? room / extent : extent == 0 && tokens == 0 ? 0 : -1;
      const auto axis = std::size_t(3 - axes + a);
      extents[axis] = extent;
      dilation[axis] = options.dilation[a];
      windows[axis] = mask::neighborhood(window, stride, options.causal[a]);
    }
    const bool none = extents[0] == 0 || extents[1] == 0 || extents[2] == 0;
    check(tokens == 0 ? none : room == 1, where, "the grid must hold the tokens, wanted ", tokens, ", got the extents ",
          extents[0], " x ", extents[1], " x ", extents[2]);
  }

  // The only axis with more than one place, or -1.
  int only() const {
    const auto others = [&](int a) { return extents[std::size_t((a + 1) % 3)] * extents[std::size_t((a + 2) % 3)]; };
    for (const int a : {2, 1, 0}) {
      if (others(a) == 1) return a;
    }
    return -1;
  }
};

}  // namespace detail

// q [B,H,T,D], k [B,G,T,D], v [B,G,T,E], out [B,H,T,E], H a multiple of G; or matrices [T,D], [T,D], [T,E], [T,E].
// Tokens lie row by row of the grid: neighborhood(q, k, v, out, {.grid = {16, 32, 32}, .window = {4, 8, 8}}).
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void neighborhood(const Q& q, const K& k, const V& v, Out&& out, const NeighborhoodOptions& options,
                  const Exec& executor = {}) {
  constexpr auto where = "fovea::neighborhood";
  const auto problem = make_problem(where, q, k, v, out);
  const Index length = problem.q.length;
  check(problem.k.length == length, where, "k must have the length of q, wanted ", length, ", got ", problem.k.length);
  const detail::NeighborhoodAxes axes(where, options, length);
  const auto recipe = softmax(options.scale);
  recipe.normalizer.check_for(where, problem.shape());
  if (length == 0) return;

  const int only = axes.only();
  if (only >= 0) {
    const auto axis = std::size_t(only);
    permute::each_residue_class(problem, axes.dilation[axis], [&](const auto& part) {
      engine::attend(part, recipe.mask(axes.windows[axis]), executor);
    });
    return;
  }
  permute::WindowShape shape;
  for (std::size_t a = 0; a < 3; ++a) {
    shape.window[a] = axes.windows[a].window;
    shape.stride[a] = axes.windows[a].stride;
  }
  permute::each_grid_class(
      axes.extents, axes.dilation, [&](const Place& extents, const Place& step, const auto& begins) {
        const TiledGrid queries = permute::query_tiles(extents, shape, problem.group);
        const TiledGrid keys = permute::key_tiles(extents, shape);
        const auto seen = mask::grid_neighborhood(axes.windows, queries, keys);
        permute::in_order(problem, permute::tokens_of(queries, step), permute::tokens_of(keys, step), begins,
                          problem.q.batch * problem.k.heads * Index(begins.size()), executor,
                          [&](const auto& part, Index) { engine::attend(part, recipe.mask(seen), executor); });
      });
}

}  // namespace fovea::inline FOVEA_ISA

// fovea/window/sliding_window.hpp

// Sliding windows: causal, with leading sink tokens when wanted, and bidirectional.
// Beltagy et al., "Longformer: The Long-Document Transformer", 2020, arXiv:2004.05150; sink tokens: Xiao et al.,
// "Efficient Streaming Language Models with Attention Sinks", ICLR 2024, arXiv:2309.17453.
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j,  p = i + M - N
//
//   sliding_window          over  { j <= p : p - j < window or j < sink_tokens }
//   bidirectional_window    over  { j : |p - j| <= distance }
//
// window counts the own key, distance does not: a query in the middle sees `window` keys of the one (besides the sink
// tokens) and 2 distance + 1 of the other. Both shrink at the ends. Sink tokens keep their positions.
//
// Exact; sliding_window equals causal attention once window >= M, bidirectional_window all of it once distance covers
// every pair. Cost O(N (window + sink_tokens) (D + E)) or O(N distance (D + E)) for each head.

namespace fovea::inline FOVEA_ISA {

struct SlidingWindowOptions {
  Index window = 0;                  // keys a query sees, its own included; required
  Index sink_tokens = 0;             // leading keys that every query sees as soon as they are not ahead of it
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; or matrices [N,D], [M,D], [M,E], [N,E].
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void sliding_window(const Q& q, const K& k, const V& v, Out&& out, const SlidingWindowOptions& options,
                    const Exec& executor = {}) {
  constexpr auto where = "fovea::sliding_window";
  const auto problem = make_problem(where, q, k, v, out);
  check(options.window > 0, where, "window must be positive, got ", options.window);
  check(options.sink_tokens >= 0, where, "sink_tokens must not be negative, got ", options.sink_tokens);

  const auto seen = mask::causal() & (mask::window(options.window) | mask::prefix(options.sink_tokens));
  engine::attend(problem, softmax(options.scale).mask(seen), executor);
}

struct BidirectionalWindowOptions {
  Index distance = -1;               // keys a query sees on either side, its own not counted; required
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

// Arrays as for sliding_window.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void bidirectional_window(const Q& q, const K& k, const V& v, Out&& out, const BidirectionalWindowOptions& options,
                          const Exec& executor = {}) {
  constexpr auto where = "fovea::bidirectional_window";
  const auto problem = make_problem(where, q, k, v, out);
  check(options.distance >= 0, where, "distance must be given and not be negative, got ", options.distance);

  engine::attend(problem, softmax(options.scale).mask(mask::band(options.distance)), executor);
}

}  // namespace fovea::inline FOVEA_ISA
