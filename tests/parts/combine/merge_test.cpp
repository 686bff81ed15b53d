#include "support/catch.hpp"

#include <cmath>
#include <fovea/core/eigen.hpp>
#include <fovea/exec/pool.hpp>
#include <fovea/parts/combine/merge.hpp>
#include <limits>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

#include "support/parts.hpp"

using fovea::Index;
using fovea::with_log_sum;
using fovea::combine::merge;

namespace {

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using Vector = Eigen::Matrix<T, Eigen::Dynamic, 1>;

constexpr Index queries = 5, keys = 12, width = 7;

template <class T>
struct State {
  Matrix<T> out{queries, width};
  Vector<T> log_sum{queries};
};

// Attention over keys [first, last) with given scores and values, by the definition.
State<double> attention(const std::vector<double>& scores, const std::vector<double>& values, Index first, Index last) {
  State<double> state;
  for (Index i = 0; i < queries; ++i) {
    double total = 0;
    state.out.row(i).setZero();
    for (Index j = first; j < last; ++j) {
      const double weight = std::exp(scores[std::size_t(i * keys + j)]);
      total += weight;
      for (Index e = 0; e < width; ++e) state.out(i, e) += weight * values[std::size_t(j * width + e)];
    }
    if (total > 0) state.out.row(i) /= total;
    state.log_sum(i) = std::log(total);
  }
  return state;
}

template <class T>
State<T> rounded(const State<double>& x) {
  State<T> y;
  y.out = x.out.cast<T>();
  y.log_sum = x.log_sum.cast<T>();
  return y;
}

// NaN everywhere, as outputs begin.
template <class T>
State<T> unset() {
  State<T> state;
  state.out.setConstant(support::nan<T>);
  state.log_sum.setConstant(support::nan<T>);
  return state;
}

template <class T>
State<T> empty() {
  State<T> state;
  state.out.setZero();
  state.log_sum.setConstant(-std::numeric_limits<T>::infinity());
  return state;
}

template <class T>
State<T> merged(const State<T>& a, const State<T>& b) {
  auto result = unset<T>();
  merge(with_log_sum(a.out, a.log_sum), with_log_sum(b.out, b.log_sum), with_log_sum(result.out, result.log_sum));
  return result;
}

template <class T>
bool same_bits(const State<T>& a, const State<T>& b) {
  return support::same_bits(a.out.data(), b.out.data(), queries * width) &&
         support::same_bits(a.log_sum.data(), b.log_sum.data(), queries);
}

// The rounded parts are off by half an epsilon each: of their outputs (values are below one), and of their log-sums,
// which moves a weight by |log_sum| times that. Merging adds some ten roundings: 16 (1 + most |log_sum|) epsilon.
template <class T>
double distance_in_budgets(const State<T>& got, const State<double>& wanted) {
  const double budget = 16 * support::epsilon<T> * (1 + wanted.log_sum.cwiseAbs().maxCoeff());
  return std::max((got.out.template cast<double>() - wanted.out).cwiseAbs().maxCoeff(),
                  (got.log_sum.template cast<double>() - wanted.log_sum).cwiseAbs().maxCoeff()) /
         budget;
}

const auto scores = support::uniform<double>(1, queries* keys, -4, 4);
const auto values = support::uniform<double>(2, keys* width);

}  // namespace

TEMPLATE_TEST_CASE("two parts of the keys merge to the whole, wherever they are cut", "[parts][combine]", float,
                   double) {
  using T = TestType;
  const auto whole = attention(scores, values, 0, keys);
  for (Index cut = 1; cut < keys; ++cut) {
    const auto result =
        merged(rounded<T>(attention(scores, values, 0, cut)), rounded<T>(attention(scores, values, cut, keys)));
    CAPTURE(cut);
    CHECK(distance_in_budgets(result, whole) <= 1);
  }
}

TEMPLATE_TEST_CASE("three parts merge to the whole in any order", "[parts][combine]", float, double) {
  using T = TestType;
  const auto whole = attention(scores, values, 0, keys);
  const auto a = rounded<T>(attention(scores, values, 0, 3)), b = rounded<T>(attention(scores, values, 3, 4)),
             c = rounded<T>(attention(scores, values, 4, keys));
  CHECK(distance_in_budgets(merged(merged(a, b), c), whole) <= 1);
  CHECK(distance_in_budgets(merged(a, merged(b, c)), whole) <= 1);
  CHECK(distance_in_budgets(merged(merged(c, a), b), whole) <= 1);
}

TEMPLATE_TEST_CASE("an empty part changes nothing on either side, bit for bit", "[parts][combine]", float, double) {
  using T = TestType;
  const auto a = rounded<T>(attention(scores, values, 0, keys));
  CHECK(same_bits(merged(a, empty<T>()), a));
  CHECK(same_bits(merged(empty<T>(), a), a));
}

TEMPLATE_TEST_CASE("two empty parts are the empty part", "[parts][combine]", float, double) {
  CHECK(same_bits(merged(empty<TestType>(), empty<TestType>()), empty<TestType>()));
}

TEMPLATE_TEST_CASE("rows are merged or left alone one by one", "[parts][combine]", float, double) {
  using T = TestType;
  const auto left = rounded<T>(attention(scores, values, 0, 6));
  const auto right = rounded<T>(attention(scores, values, 6, keys));
  const auto both = merged(left, right);
  auto a = left;
  a.out.row(2).setZero();
  a.log_sum(2) = -std::numeric_limits<T>::infinity();
  const auto result = merged(a, right);
  for (Index i = 0; i < queries; ++i) {
    CAPTURE(i);
    CHECK(result.out.row(i) == (i == 2 ? right : both).out.row(i));
    CHECK(result.log_sum(i) == (i == 2 ? right : both).log_sum(i));
  }
}

TEMPLATE_TEST_CASE("the result may be either part", "[parts][combine]", float, double) {
  using T = TestType;
  const auto a = rounded<T>(attention(scores, values, 0, 4)), b = rounded<T>(attention(scores, values, 4, keys));
  const auto apart = merged(a, b);
  auto x = a;
  merge(with_log_sum(x.out, x.log_sum), with_log_sum(b.out, b.log_sum), with_log_sum(x.out, x.log_sum));
  CHECK(same_bits(x, apart));
  auto y = b;
  merge(with_log_sum(a.out, a.log_sum), with_log_sum(y.out, y.log_sum), with_log_sum(y.out, y.log_sum));
  CHECK(same_bits(y, apart));
  auto z = empty<T>();
  merge(with_log_sum(z.out, z.log_sum), with_log_sum(b.out, b.log_sum), with_log_sum(z.out, z.log_sum));
  CHECK(same_bits(z, b));
}

TEMPLATE_TEST_CASE("log-sums of any size merge without overflow", "[parts][combine]", float, double) {
  using T = TestType;
  auto a = rounded<T>(attention(scores, values, 0, 4)), b = rounded<T>(attention(scores, values, 4, keys));
  for (const T size : {T(1e30), T(-1e30), T(1000), T(-1000)}) {
    a.log_sum.setConstant(size);
    b.log_sum.setConstant(size);
    const auto result = merged(a, b);
    CAPTURE(size);
    // Equal weights: the mean, within the roundings of a sum and a quotient of numbers below one.
    CHECK((result.out - (a.out + b.out) / T(2)).cwiseAbs().maxCoeff() <= 2 * std::numeric_limits<T>::epsilon());
    CHECK((result.log_sum.array() - (size + std::log(T(2)))).abs().maxCoeff() <=
          std::fabs(size) * std::numeric_limits<T>::epsilon());
  }
  a.log_sum.setConstant(T(1e30));
  b.log_sum.setConstant(T(-1e30));
  CHECK(same_bits(merged(a, b), a));
  CHECK(same_bits(merged(b, a), a));
}

TEST_CASE("NaN in a row stays in its row", "[parts][combine]") {
  auto a = rounded<float>(attention(scores, values, 0, 4)), b = rounded<float>(attention(scores, values, 4, keys));
  a.out.row(3).setConstant(support::nan<float>);
  a.log_sum(3) = support::nan<float>;
  const auto result = merged(a, b);
  for (Index i = 0; i < queries; ++i) {
    CAPTURE(i);
    CHECK(result.out.row(i).array().isNaN().all() == (i == 3));
    CHECK(std::isnan(result.log_sum(i)) == (i == 3));
  }
}

TEST_CASE("tensors of several batches and heads merge like their rows, on a pool too", "[parts][combine]") {
  Eigen::Tensor<float, 4, Eigen::RowMajor> a(2, 3, queries, width), b(2, 3, queries, width), out(2, 3, queries, width),
      out_pool(2, 3, queries, width);
  Eigen::Tensor<float, 3, Eigen::RowMajor> la(2, 3, queries), lb(2, 3, queries), lo(2, 3, queries),
      lo_pool(2, 3, queries);
  const auto fill = [](auto& x, unsigned seed) {
    const auto y = support::uniform<float>(seed, x.size());
    std::copy(y.begin(), y.end(), x.data());
  };
  fill(a, 3), fill(b, 4), fill(la, 5), fill(lb, 6);
  out.setConstant(support::nan<float>), lo.setConstant(support::nan<float>);
  merge(with_log_sum(a, la), with_log_sum(b, lb), with_log_sum(out, lo));
  int wrong = 0;
  for (Index n = 0; n < 2 * 3 * queries; ++n) {
    // Three roundings of the weights, two of the sum and one of the quotient, of numbers below one.
    const double wa = std::exp(double(la.data()[n])), wb = std::exp(double(lb.data()[n]));
    for (Index e = 0; e < width; ++e) {
      const Index at = n * width + e;
      const double wanted = (wa * double(a.data()[at]) + wb * double(b.data()[at])) / (wa + wb);
      wrong += !(std::fabs(double(out.data()[at]) - wanted) <= 8 * support::epsilon<float>);
    }
    wrong += !(std::fabs(double(lo.data()[n]) - std::log(wa + wb)) <= 8 * support::epsilon<float>);
  }
  CHECK(wrong == 0);
  merge(with_log_sum(a, la), with_log_sum(b, lb), with_log_sum(out_pool, lo_pool), fovea::exec::Pool(3));
  CHECK(support::same_bits(out.data(), out_pool.data(), out.size()));
  CHECK(support::same_bits(lo.data(), lo_pool.data(), lo.size()));
}

TEST_CASE("parts or log-sums of the wrong shape are refused and nothing is touched", "[parts][combine]") {
  const auto a = rounded<float>(attention(scores, values, 0, keys));
  auto result = unset<float>();
  const Matrix<float> narrow(queries, width - 1), short_out(queries - 1, width);
  const Vector<float> short_sum(queries - 1);
  const auto said = [&](const auto& out, const auto& sum) {
    return support::refusal([&] {
      merge(with_log_sum(a.out, a.log_sum), with_log_sum(out, sum), with_log_sum(result.out, result.log_sum));
    });
  };
  CHECK(said(narrow, a.log_sum) ==
        "fovea::combine::merge: both parts must have the shape of the result, wanted [1, 1, 5, 7], got [1, 1, 5, 7] "
        "and [1, 1, 5, 6]");
  CHECK(said(short_out, a.log_sum) != "accepted");
  CHECK(said(a.out, short_sum) ==
        "fovea::combine::merge: every log_sum must have one number for each query, wanted [1, 1, 5], got lengths 5, 4 "
        "and 5");
  CHECK(support::refusal([&] {
          auto other = Matrix<float>(queries + 1, width);
          merge(with_log_sum(a.out, a.log_sum), with_log_sum(a.out, a.log_sum), with_log_sum(other, result.log_sum));
        }) != "accepted");
  CHECK(same_bits(result, unset<float>()));
}

TEST_CASE("merging no rows is legal", "[parts][combine]") {
  Matrix<float> out(0, width);
  Vector<float> log_sum(0);
  CHECK_NOTHROW(merge(with_log_sum(out, log_sum), with_log_sum(out, log_sum), with_log_sum(out, log_sum)));
}
