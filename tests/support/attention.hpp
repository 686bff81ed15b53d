// What the attention tests share: inputs with fixed seeds, outputs that start as NaN, the reference over batch and
// heads, and distances.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fovea/core/eigen.hpp>
#include <fovea/core/problem.hpp>
#include <fovea/parts/mask/mask.hpp>
#include <functional>
#include <limits>
#include <ostream>
#include <random>
#include <type_traits>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

#include "dense/scaled_dot_product.hpp"
#include "support/catch.hpp"

namespace fovea::test {

template <class T>
using Tensor3 = Eigen::Tensor<T, 3, Eigen::RowMajor>;
template <class T>
using Tensor4 = Eigen::Tensor<T, 4, Eigen::RowMajor>;
template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

template <class T>
inline constexpr T epsilon = std::numeric_limits<T>::epsilon();
template <class T>
inline constexpr T infinity = std::numeric_limits<T>::infinity();
template <class T>
inline constexpr T not_a_number = std::numeric_limits<T>::quiet_NaN();

// The type in which results of T are checked.
template <class T>
using Exact = std::conditional_t<std::is_same_v<T, float>, double, long double>;

struct Sizes {
  Index batch = 1, heads = 1, kv_heads = 1, queries = 1, keys = 1, dim = 1, value_dim = 1;
};

inline std::ostream& operator<<(std::ostream& text, const Sizes& s) {
  return text << "B:" << s.batch << " H:" << s.heads << " G:" << s.kv_heads << " N:" << s.queries << " M:" << s.keys
              << " D:" << s.dim << " E:" << s.value_dim;
}

template <class T>
struct Inputs {
  Tensor4<T> q, k, v;

  Sizes sizes() const {
    return {q.dimension(0), q.dimension(1), k.dimension(1), q.dimension(2),
            k.dimension(2), q.dimension(3), v.dimension(3)};
  }
};

template <class T>
struct Result {
  Tensor4<T> out;
  Tensor3<T> log_sum;

  auto both() { return with_log_sum(out, log_sum); }
};

template <class X>
void fill_gaussian(X& x, unsigned seed, double deviation = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal(0, deviation);
  std::generate(x.data(), x.data() + x.size(), [&] { return typename X::Scalar(normal(random)); });
}

// Gaussian q, k, v; with sharpness 1 the scores at scale 1 / sqrt(D) have deviation 1.
template <class T>
Inputs<T> gaussian(const Sizes& s, unsigned seed = 1, double sharpness = 1) {
  Inputs<T> x{Tensor4<T>(s.batch, s.heads, s.queries, s.dim), Tensor4<T>(s.batch, s.kv_heads, s.keys, s.dim),
              Tensor4<T>(s.batch, s.kv_heads, s.keys, s.value_dim)};
  fill_gaussian(x.q, 3 * seed, sharpness);
  fill_gaussian(x.k, 3 * seed + 1);
  fill_gaussian(x.v, 3 * seed + 2);
  return x;
}

// Places for the result of a call, all NaN.
template <class T>
Result<T> blank(const Sizes& s) {
  Result<T> r{Tensor4<T>(s.batch, s.heads, s.queries, s.value_dim), Tensor3<T>(s.batch, s.heads, s.queries)};
  r.out.setConstant(not_a_number<T>);
  r.log_sum.setConstant(not_a_number<T>);
  return r;
}

// Row i of head h of batch b of a tensor [B,H,N,D] or [B,H,N].
template <class T>
T* row(Tensor4<T>& x, Index b, Index h, Index i) {
  return x.data() + ((b * x.dimension(1) + h) * x.dimension(2) + i) * x.dimension(3);
}
template <class T>
const T* row(const Tensor4<T>& x, Index b, Index h, Index i) {
  return row(const_cast<Tensor4<T>&>(x), b, h, i);
}

// The rows of one head as a matrix.
template <class T>
Eigen::Map<const Matrix<T>> head(const Tensor4<T>& x, Index b, Index h) {
  return {row(x, b, h, 0), x.dimension(2), x.dimension(3)};
}

// What a call is to compute, for the reference.
template <class T>
struct Model {
  std::optional<double> scale = {};
  std::function<bool(Site)> visible = {};
  std::function<Exact<T>(Exact<T>, Site)> score = {};
  std::vector<double> sink_logits = {};
};

// The reference over batch and heads.
template <class T>
Result<Exact<T>> expected(const Inputs<T>& x, const Model<T>& model = {}) {
  using Real = Exact<T>;
  const Sizes s = x.sizes();
  const Real scale = model.scale ? Real(*model.scale) : 1 / std::sqrt(Real(s.dim));
  auto result = blank<Real>(s);
  for (Index b = 0; b < s.batch; ++b) {
    for (Index h = 0; h < s.heads; ++h) {
      const Index g = h * s.kv_heads / s.heads;
      reference::AttentionOptions<Real> options;
      if (model.visible) options.visible = [&](Index i, Index j) { return model.visible({b, h, i, j}); };
      if (model.score) options.score = [&](Real score, Index i, Index j) { return model.score(score, {b, h, i, j}); };
      if (!model.sink_logits.empty()) options.sink_logit = Real(model.sink_logits[std::size_t(h)]);
      const auto one = reference::scaled_dot_product<Real>(head(x.q, b, h).template cast<Real>(),
                                                           head(x.k, b, g).template cast<Real>(),
                                                           head(x.v, b, g).template cast<Real>(), scale, options);
      std::copy_n(one.out.data(), one.out.size(), row(result.out, b, h, 0));
      std::copy_n(one.log_sum.data(), one.log_sum.size(), result.log_sum.data() + (b * s.heads + h) * s.queries);
    }
  }
  return result;
}

// sqrt(sum (got - wanted)^2 / sum wanted^2) of arrays that have data() and size(); zero when both sums are.
template <class X, class Y>
double relative_rms(const X& got, const Y& wanted) {
  if (got.size() != wanted.size()) return infinity<double>;
  long double error = 0, all = 0;
  for (Index n = 0; n < Index(got.size()); ++n) {
    const long double g = got.data()[n], w = wanted.data()[n];
    error += (g - w) * (g - w);
    all += w * w;
  }
  return error == 0 ? 0.0 : double(std::sqrt(error / all));
}

// The same for log-sums, which may lie about zero: relative to one at least. Rows that are infinite must be equal.
template <class X, class Y>
double log_sum_distance(const X& got, const Y& wanted) {
  if (got.size() != wanted.size()) return infinity<double>;
  long double error = 0, all = 0;
  for (Index n = 0; n < Index(got.size()); ++n) {
    const long double g = got.data()[n], w = wanted.data()[n];
    if (g == w) continue;
    if (std::isinf(w)) return infinity<double>;
    error += (g - w) * (g - w);
    all += std::max(1.0L, w * w);
  }
  return error == 0 ? 0.0 : double(std::sqrt(error / all));
}

// The distance of a result from the reference in units of the type's epsilon: the larger of the two arrays'.
template <class T>
double distance_in_epsilons(const Result<T>& got, const Result<Exact<T>>& wanted) {
  const double out = relative_rms(got.out, wanted.out) / double(epsilon<T>);
  const double log_sum = log_sum_distance(got.log_sum, wanted.log_sum) / double(epsilon<T>);
  return std::isnan(out) || std::isnan(log_sum) ? not_a_number<double> : std::max(out, log_sum);
}

template <class X, class Y>
bool same_bits(const X& a, const Y& b) {
  static_assert(std::is_same_v<typename X::Scalar, typename Y::Scalar>);
  return a.size() == b.size() &&
         std::memcmp(a.data(), b.data(), std::size_t(a.size()) * sizeof(typename X::Scalar)) == 0;
}

template <class T>
bool same_bits(const Result<T>& a, const Result<T>& b) {
  return same_bits(a.out, b.out) && same_bits(a.log_sum, b.log_sum);
}

template <class T>
bool same_row(const Result<T>& a, const Result<T>& b, Index batch, Index h, Index i) {
  return std::memcmp(row(a.out, batch, h, i), row(b.out, batch, h, i), std::size_t(a.out.dimension(3)) * sizeof(T)) ==
             0 &&
         a.log_sum(batch, h, i) == b.log_sum(batch, h, i);
}

template <class T>
bool all_nan(const T* x, Index n) {
  return std::all_of(x, x + n, [](T value) { return std::isnan(value); });
}
template <class T>
bool all_zero(const T* x, Index n) {
  return std::all_of(x, x + n, [](T value) { return value == T(0); });
}

// Attention as one writes it first: loops in the type itself, one sum after the other.
template <class T>
Result<T> naive(const Inputs<T>& x, const Model<T>& model = {}) {
  const Sizes s = x.sizes();
  const T scale = T(model.scale ? *model.scale : 1 / std::sqrt(double(s.dim)));
  auto result = blank<T>(s);
  std::vector<T> p(std::size_t(s.keys));
  for (Index b = 0; b < s.batch; ++b) {
    for (Index h = 0; h < s.heads; ++h) {
      const Index g = h * s.kv_heads / s.heads;
      for (Index i = 0; i < s.queries; ++i) {
        T most = -infinity<T>;
        for (Index j = 0; j < s.keys; ++j) {
          T& score = p[std::size_t(j)];
          score = -infinity<T>;
          if (model.visible && !model.visible({b, h, i, j})) continue;
          T dot = 0;
          for (Index d = 0; d < s.dim; ++d) dot += row(x.q, b, h, i)[d] * row(x.k, b, g, j)[d];
          score = dot * scale;
          if (model.score) score = T(model.score(score, {b, h, i, j}));
          most = std::max(most, score);
        }
        T* const o = row(result.out, b, h, i);
        std::fill_n(o, s.value_dim, T(0));
        T sum = 0;
        for (Index j = 0; j < s.keys && most > -infinity<T>; ++j) {
          const T weight = std::exp(p[std::size_t(j)] - most);
          if (weight == 0) continue;
          sum += weight;
          for (Index e = 0; e < s.value_dim; ++e) o[e] += weight * row(x.v, b, g, j)[e];
        }
        result.log_sum(b, h, i) = most + std::log(sum);
        if (!model.sink_logits.empty()) sum += std::exp(T(model.sink_logits[std::size_t(h)]) - most);
        for (Index e = 0; e < s.value_dim && sum > 0; ++e) o[e] /= sum;
      }
    }
  }
  return result;
}

// What an exact method must stay below, in epsilons: 8, or twice the error of the naive loop where many keys or sharp
// scores make that larger.
template <class T>
double budget(const Inputs<T>& x, const Model<T>& model, const Result<Exact<T>>& wanted) {
  return std::max(8.0, 2 * distance_in_epsilons(naive(x, model), wanted));
}

// Whether a result lies within the budget of an exact method.
template <class T>
bool is_exact(const Result<T>& got, const Inputs<T>& x, const Model<T>& model = {}) {
  const auto wanted = expected(x, model);
  const double distance = distance_in_epsilons(got, wanted), most = budget(x, model, wanted);
  if (distance < most) return true;
  UNSCOPED_INFO("distance " << distance << " epsilons, budget " << most);
  return false;
}

}  // namespace fovea::test
