// Problem<T>: the arrays of one attention call, their shapes checked once.
#pragma once

#include <type_traits>

#include <fovea/core/check.hpp>
#include <fovea/core/eigen.hpp>

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
