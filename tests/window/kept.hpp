// What the tests of windows share: the set of pairs a method keeps, read off its result; its own reference over batch
// and heads; refusals.
#pragma once

#include <fovea/core/check.hpp>
#include <string>
#include <vector>

#include "support/attention.hpp"

namespace fovea::test {

// For each query, which keys it sees.
using Pairs = std::vector<std::vector<bool>>;

// The pairs of a predicate on (query, key).
template <class Predicate>
Pairs pairs_of(Index queries, Index keys, const Predicate& sees) {
  Pairs pairs;
  for (Index i = 0; i < queries; ++i) {
    pairs.emplace_back();
    for (Index j = 0; j < keys; ++j) pairs.back().push_back(sees(i, j));
  }
  return pairs;
}

// The pairs that a [queries x keys] call keeps. With scores of zero and the unit matrix as values, row i of the result
// holds 1 / (number of its keys) at its keys and 0 elsewhere, and its log-sum is the logarithm of the number. Empty
// when the result is not of that form.
template <class Call>
Pairs kept_pairs(Index queries, Index keys, const Call& call) {
  Inputs<double> x{Tensor4<double>(1, 1, queries, 1), Tensor4<double>(1, 1, keys, 1),
                   Tensor4<double>(1, 1, keys, keys)};
  x.q.setZero();
  x.k.setZero();
  x.v.setZero();
  for (Index j = 0; j < keys; ++j) row(x.v, 0, 0, j)[j] = 1;
  auto got = blank<double>(x.sizes());
  call(x, got.both());

  for (Index i = 0; i < queries; ++i) {
    const double* const weights = row(got.out, 0, 0, i);
    const auto number = double(std::count_if(weights, weights + keys, [](double w) { return w != 0; }));
    const double log_sum = got.log_sum(0, 0, i);
    if (number == 0 ? log_sum != -infinity<double> : !(std::abs(log_sum - std::log(number)) < 1e-14)) return {};
    for (Index j = 0; j < keys; ++j) {
      if (weights[j] != 0 && !(std::abs(weights[j] * number - 1) < 1e-14)) return {};
    }
  }
  return pairs_of(queries, keys, [&](Index i, Index j) { return row(got.out, 0, 0, i)[j] != 0; });
}

inline Index count(const Pairs& pairs) {
  Index number = 0;
  for (const auto& keys : pairs) number += std::count(keys.begin(), keys.end(), true);
  return number;
}

// A reference of one head, reference(q, k, v, scale), over batch and heads.
template <class T, class Reference>
Result<Exact<T>> over_heads(const Inputs<T>& x, const Reference& reference, std::optional<double> scale = {}) {
  using Real = Exact<T>;
  const Sizes s = x.sizes();
  auto result = blank<Real>(s);
  for (Index b = 0; b < s.batch; ++b) {
    for (Index h = 0; h < s.heads; ++h) {
      const Index g = h * s.kv_heads / s.heads;
      const auto one = reference(
          Matrix<Real>(head(x.q, b, h).template cast<Real>()), Matrix<Real>(head(x.k, b, g).template cast<Real>()),
          Matrix<Real>(head(x.v, b, g).template cast<Real>()), scale ? Real(*scale) : 1 / std::sqrt(Real(s.dim)));
      std::copy_n(one.out.data(), one.out.size(), row(result.out, b, h, 0));
      std::copy_n(one.log_sum.data(), one.log_sum.size(), result.log_sum.data() + (b * s.heads + h) * s.queries);
    }
  }
  return result;
}

// The result of a call on outputs that start as NaN.
template <class T, class Call>
Result<T> run(const Inputs<T>& x, const Call& call) {
  auto got = blank<T>(x.sizes());
  call(x, got.both());
  return got;
}

// Tokens [first, last) of an array [B,H,T,D].
template <class T>
Tensor4<T> tokens(const Tensor4<T>& x, Index first, Index last) {
  Tensor4<T> part(x.dimension(0), x.dimension(1), last - first, x.dimension(3));
  for (Index b = 0; b < x.dimension(0); ++b) {
    for (Index h = 0; h < x.dimension(1); ++h)
      std::copy_n(row(x, b, h, first), (last - first) * x.dimension(3), row(part, b, h, 0));
  }
  return part;
}

// The first n tokens.
template <class T>
Inputs<T> prefix(const Inputs<T>& x, Index n) {
  return {tokens(x.q, 0, n), tokens(x.k, 0, n), tokens(x.v, 0, n)};
}

// Whether the rows of `a` are, bit for bit, those of `b` that begin with its row `first`.
template <class T>
bool are_rows_from(const Result<T>& a, const Result<T>& b, Index first) {
  const Index batch = a.out.dimension(0), heads = a.out.dimension(1), queries = a.out.dimension(2);
  const std::size_t bytes = std::size_t(queries * a.out.dimension(3)) * sizeof(T);
  for (Index n = 0; n < batch; ++n) {
    for (Index h = 0; h < heads; ++h) {
      if (std::memcmp(row(a.out, n, h, 0), row(b.out, n, h, first), bytes) != 0) return false;
      for (Index i = 0; i < queries; ++i) {
        if (a.log_sum(n, h, i) != b.log_sum(n, h, first + i)) return false;
      }
    }
  }
  return true;
}

// [B,H,T,D] as [B,T,H,D], and back.
template <class T>
Tensor4<T> swap_axes(const Tensor4<T>& x) {
  Tensor4<T> swapped(x.dimension(0), x.dimension(2), x.dimension(1), x.dimension(3));
  for (Index b = 0; b < x.dimension(0); ++b) {
    for (Index h = 0; h < x.dimension(1); ++h) {
      for (Index i = 0; i < x.dimension(2); ++i) std::copy_n(row(x, b, h, i), x.dimension(3), row(swapped, b, i, h));
    }
  }
  return swapped;
}

// A call on arrays [B,T,H,D]: the same numbers, other strides. `call(q, k, v, out)` gets views.
template <class T, class Call>
Result<T> run_bthd(const Inputs<T>& x, const Call& call) {
  const auto q = swap_axes(x.q), k = swap_axes(x.k), v = swap_axes(x.v);
  auto got = blank<T>(x.sizes());
  auto out = swap_axes(got.out);
  auto out_view = bthd(out);
  call(bthd(q), bthd(k), bthd(v), with_log_sum(out_view, got.log_sum));
  got.out = swap_axes(out);
  return got;
}

// The message with which a call is refused, or "accepted"; "touched" when it has written to an output first.
template <class T, class Call>
std::string refusal_of(const Inputs<T>& x, const Call& call) {
  auto got = blank<T>(x.sizes());
  try {
    call(x, got.both());
  } catch (const ArgumentError& error) {
    const bool untouched = all_nan(got.out.data(), got.out.size()) && all_nan(got.log_sum.data(), got.log_sum.size());
    return untouched ? error.what() : "touched";
  }
  return "accepted";
}

}  // namespace fovea::test
