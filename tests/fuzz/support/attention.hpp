// Compares attention with its definition, row by row, by the rules and the bound of docs/numerics.md.
#pragma once

#include <Eigen/Core>
#include <bit>
#include <fovea/core/problem.hpp>
#include <fovea/core/site.hpp>
#include <fovea/simd/ops.hpp>
#include <functional>
#include <optional>
#include <type_traits>
#include <vector>

#include "dense/scaled_dot_product.hpp"
#include "fuzz/support/input.hpp"

namespace fovea::fuzz {

template <class T>
using Exact = std::conditional_t<std::is_same_v<T, float>, double, long double>;

// Keys and values of one sequence as numbers, [kv heads, tokens, dim].
struct Tokens {
  Index kv_heads = 0, length = 0, key_dim = 0, value_dim = 0;
  std::vector<double> k{}, v{};

  const double* key(Index g, Index j) const { return k.data() + (g * length + j) * key_dim; }
  const double* value(Index g, Index j) const { return v.data() + (g * length + j) * value_dim; }
};

// Sequence b of two arrays.
template <class K, class V>
Tokens tokens_of(const View<K>& k, const View<V>& v, Index b, Index length) {
  Tokens x{k.heads, length, k.dim, v.dim};
  for (Index h = 0; h < k.heads; ++h) {
    for (Index j = 0; j < length; ++j) {
      for (Index d = 0; d < k.dim; ++d) x.k.push_back(double(k.row(b, h, j)[d]));
      for (Index e = 0; e < v.dim; ++e) x.v.push_back(double(v.row(b, h, j)[e]));
    }
  }
  return x;
}

// What a source hands out; runs must make up the tokens.
template <class Source>
Tokens tokens_of(const Source& source, Index b) {
  Tokens x{source.kv_heads(), source.length(b), source.key_dim(), source.value_dim()};
  for (const bool values : {false, true}) {
    const Index dim = values ? x.value_dim : x.key_dim;
    for (Index h = 0; h < x.kv_heads; ++h) {
      Index at = 0;
      const auto add = [&](Span part, const auto& run) {
        require(part.first == at && !part.empty() && part.last <= x.length, "runs that do not follow each other");
        at = part.last;
        std::vector<double> rows(std::size_t(part.size() * dim));
        run.read(0, part.size(), rows.data(), dim);
        auto& all = values ? x.v : x.k;
        all.insert(all.end(), rows.begin(), rows.end());
      };
      if (x.length == 0) continue;
      if (values) {
        source.each_values(b, h, {0, x.length}, add);
      } else {
        source.each_keys(b, h, {0, x.length}, add);
      }
      require(at == x.length, "runs that do not reach the end");
    }
  }
  return x;
}

// A score, and how large all is that went into it: what it was before and what was added.
template <class Real>
struct Changed {
  Real score;
  double size;
};

// A call that was made.
template <class T>
struct Asked {
  View<const T> q, out;
  View<const T> log_sum;  // data is null when it was not asked for
  double scale = 1;
  bool coded = false;  // whether keys or values were codes
  // What modifiers make of a score, of which none is steeper than 1.
  std::function<Changed<Exact<T>>(Changed<Exact<T>>, const Site&)> modify = {};
  std::vector<double> sink_logits = {};  // of each head, or none
};

// How far a row may be from what is exact, in docs/numerics.md, "A bound".
template <class T>
struct Bound {
  double largest;   // |scale| sum |q_d k_jd| of seen keys, S
  double range;     // of their scores, R
  double value;     // the largest |v_je|, V
  Index keys, dim;  // M, D
  double flushed;   // what products below the smallest number take from a score
  bool coded;
  double changed = 0;  // the largest size of what modifiers had to do with
  double sink = 0;     // |logit| of the sink

  static constexpr double u = std::numeric_limits<T>::epsilon() / 2;

  double weight() const {
    const Index lanes = simd::lanes<T>, log_lanes = std::bit_width(std::uint64_t(lanes)) - 1;
    // Of both paths the larger number, and one more where nothing is fused.
    const double a =
        double(std::max(std::min<Index>(dim, 64) + (dim + 63) / 64, (dim + lanes - 1) / lanes + log_lanes));
    // A soft cap takes a factor in, another one out, and tanh within eight u, which makes 11; an added number rounds
    // once; there are three modifiers at most, and the scale before them rounds twice. The weight of a sink is a power
    // of the distance of its logit to the reference.
    return u * ((a + 1) * largest + 6.6 * range + 17 + 35 * changed + 2 * sink) + flushed;
  }
  double sum() const {
    const Index lanes = simd::lanes<T>, log_lanes = std::bit_width(std::uint64_t(lanes)) - 1;
    return double((keys + lanes - 1) / lanes + log_lanes + keys / 512 + 1);
  }
  double output() const {
    const double b = double(73 + keys / 64) + (coded ? double(2 * keys) : 0);
    const double smallest =
        double(keys) * (double(std::numeric_limits<T>::min()) * value + double(std::numeric_limits<T>::denorm_min()));
    return 1.1 * (2 * weight() + (b + sum() + 1) * u) * value + 4 * smallest;
  }
  double log_sum(double exact) const {
    return 1.1 * (weight() + sum() * u + 4 * u * (largest + changed) + 3 * u * std::fabs(exact)) + 1e-30;
  }
};

// A row of a call; what is beyond the range of T on the way is not looked at.
template <class T>
void check_row(const Asked<T>& asked, const Tokens& x, const Row& row, const std::vector<Index>& visible) {
  using Real = Exact<T>;
  const Index dim = x.key_dim, width = x.value_dim;
  const Index g = row.head * x.kv_heads / asked.q.heads;
  const T* const q = asked.q.row(row.batch, row.head, row.query);
  const T* const out = asked.out.row(row.batch, row.head, row.query);
  const T* const log_sum = asked.log_sum.data == nullptr ? nullptr : asked.log_sum.row(row.batch, row.head, row.query);
  const auto where = [&] {
    return "batch " + std::to_string(row.batch) + " head " + std::to_string(row.head) + " query " +
           std::to_string(row.query) + " of " + std::to_string(asked.q.length) + ", keys " + std::to_string(x.length);
  };
  constexpr double huge = double(std::numeric_limits<T>::max()) / 64;

  // What counts as seen, and how large things are.
  std::vector<Index> seen;
  std::vector<Real> scores;
  bool spoilt = false, beyond = false;
  Bound<T> bound{0, 0, 0, x.length, dim, 0, asked.coded};
  Real most = -infinity<Real>, least = infinity<Real>;
  double largest_q = 0, largest_k = 0;
  for (const Index j : visible) {
    Real product = 0;
    double size = 0;
    for (Index d = 0; d < dim; ++d) {
      const Real term = Real(q[d]) * Real(x.key(g, j)[d]);
      product += term;
      if (std::isfinite(term)) size += double(std::fabs(term));
      largest_q = std::max(largest_q, std::fabs(double(q[d])));
      largest_k = std::max(largest_k, std::fabs(x.key(g, j)[d]));
    }
    if (asked.coded) size = double(dim) * largest_q * 3 * largest_k;
    Real score = Real(asked.scale) * product;
    if (asked.modify && std::isfinite(score)) {
      const auto changed = asked.modify({score, double(std::fabs(score))}, Site{row.batch, row.head, row.query, j});
      score = changed.score;
      if (std::isfinite(score)) bound.changed = std::max(bound.changed, changed.size);
    }
    if (std::isnan(product) || (std::isinf(product) && asked.scale == 0)) {
      spoilt = spoilt || std::isnan(product);
      beyond = beyond || !std::isnan(product);
    } else if (size * std::max(1.0, std::fabs(asked.scale)) > huge || score == infinity<Real>) {
      beyond = true;
    } else if (std::isfinite(score)) {
      seen.push_back(j);
      scores.push_back(score);
      most = std::max(most, score);
      least = std::min(least, score);
      bound.largest = std::max(bound.largest, std::fabs(asked.scale) * size);
    }
  }
  if (beyond || !(largest_q * (1 + std::fabs(asked.scale)) < huge || spoilt)) return;
  if (spoilt) {
    for (Index e = 0; e < width; ++e) require(std::isnan(out[e]), "a row that sees NaN is not NaN: ", where());
    if (log_sum != nullptr) require(std::isnan(*log_sum), "the log-sum of a row that sees NaN is not NaN: ", where());
    return;
  }
  if (seen.empty()) {
    for (Index e = 0; e < width; ++e) require(out[e] == 0, "a row that sees nothing is ", out[e], ": ", where());
    if (log_sum != nullptr)
      require(*log_sum == -infinity<T>, "the log-sum of a row that sees nothing is ", *log_sum, ": ", where());
    return;
  }

  reference::Matrix<Real> queries(1, dim), keys(Index(seen.size()), dim), values(Index(seen.size()), width);
  for (Index d = 0; d < dim; ++d) queries(0, d) = Real(q[d]);
  for (Index n = 0; n < Index(seen.size()); ++n) {
    for (Index d = 0; d < dim; ++d) keys(n, d) = Real(x.key(g, seen[std::size_t(n)])[d]);
    for (Index e = 0; e < width; ++e) values(n, e) = Real(x.value(g, seen[std::size_t(n)])[e]);
  }
  reference::AttentionOptions<Real> options;
  if (asked.modify) options.score = [&](Real, Index, Index n) { return scores[std::size_t(n)]; };
  if (!asked.sink_logits.empty()) {
    const double logit = asked.sink_logits[std::size_t(row.head)];
    options.sink_logit = Real(logit);
    if (std::isfinite(logit)) bound.sink = std::fabs(logit);
  }
  const auto wanted = reference::scaled_dot_product<Real>(queries, keys, values, Real(asked.scale), options);
  bound.range = double(most - least);
  bound.flushed = double(dim) * double(std::numeric_limits<T>::denorm_min()) * (2 + largest_q + largest_k) *
                  (1 + std::fabs(asked.scale)) * 4;
  const bool tight = bound.weight() < 0.05;

  for (Index e = 0; e < width; ++e) {
    // A sink is a value of zero.
    double low = options.sink_logit ? 0 : infinity<double>, high = options.sink_logit ? 0 : -infinity<double>;
    bool is_nan = false;
    for (Index n = 0; n < Index(seen.size()); ++n) {
      is_nan = is_nan || std::isnan(values(n, e));
      low = std::min(low, double(values(n, e)));
      high = std::max(high, double(values(n, e)));
    }
    if (is_nan) {
      require(std::isnan(out[e]), "a channel with a NaN that is seen is not NaN: ", where(), " channel ", e);
      continue;
    }
    bound.value = std::max(std::fabs(low), std::fabs(high));
    // Weights are at most 2^8.
    if (!(bound.value < double(std::numeric_limits<T>::max()) / (512 * double(x.length + 1)))) continue;
    const double got = double(out[e]), exact = double(wanted.out(0, e));
    // An average of values, whatever the weights.
    Bound<T> of_average = bound;
    of_average.largest = of_average.range = of_average.flushed = of_average.changed = of_average.sink = 0;
    const double slack = of_average.output();
    require(got >= low - slack && got <= high + slack, "an output that is no average of the values: ", got, " not in [",
            low, ", ", high, "]: ", where(), " channel ", e);
    if (tight)
      require(std::fabs(got - exact) <= bound.output(), "an output is ", got, ", wanted ", exact, ", bound ",
              bound.output(), ": ", where(), " channel ", e);
  }
  if (log_sum != nullptr && tight) {
    const double exact = double(wanted.log_sum(0));
    require(std::fabs(double(*log_sum) - exact) <= bound.log_sum(exact), "a log-sum is ", *log_sum, ", wanted ", exact,
            ", bound ", bound.log_sum(exact), ": ", where());
  }
}

// All rows of a call. tokens(b) are those of sequence b; sees(site) is the mask.
template <class T, class TokensOf, class Sees>
void check_attention(const Asked<T>& asked, const TokensOf& tokens, const Sees& sees) {
  std::vector<Index> visible;
  for (Index b = 0; b < asked.q.batch; ++b) {
    const Tokens& x = tokens(b);
    for (Index h = 0; h < asked.q.heads; ++h) {
      for (Index i = 0; i < asked.q.length; ++i) {
        visible.clear();
        for (Index j = 0; j < x.length; ++j) {
          if (sees(Site{b, h, i, j})) visible.push_back(j);
        }
        check_row(asked, x, {b, h, i}, visible);
      }
    }
  }
}

inline double scale_of(const std::optional<double>& scale, Index dim) {
  return scale.value_or(1 / std::sqrt(double(dim)));
}

}  // namespace fovea::fuzz
