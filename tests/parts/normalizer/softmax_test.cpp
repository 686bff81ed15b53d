#include "support/catch.hpp"

#include <algorithm>
#include <cmath>
#include <fovea/parts/normalizer/softmax.hpp>
#include <limits>
#include <vector>

#include "support/parts.hpp"

using fovea::Index;
using fovea::Shape;
using fovea::simd::lanes;
namespace normalizer = fovea::normalizer;

namespace {

// Rows of scores (in powers of two) absorbed tile by tile, as an engine does it, with one value for each key.
template <class T>
struct Run {
  static constexpr Index rows = 6;
  Index columns = 2 * lanes<T>, tiles;
  std::vector<T> scores, values;  // [tiles x rows x columns], [tiles x columns]
  std::vector<T> memory;
  std::vector<double> sums;

  Run(Index n, std::vector<T> s)
      : tiles(n),
        scores(std::move(s)),
        values(support::uniform<T>(21, n * columns)),
        memory(std::size_t(normalizer::SoftmaxRows<T>::size(rows))),
        sums(std::size_t(rows), 0.0) {}

  T score(Index tile, Index row, Index column) const {
    return scores[std::size_t((tile * rows + row) * columns + column)];
  }

  normalizer::SoftmaxRows<T> run() {
    normalizer::SoftmaxRows<T> state(fovea::simd::PowerUnit<T>(1), memory.data(), rows);
    state.begin(rows);
    for (Index t = 0; t < tiles; ++t) {
      auto tile = std::vector<T>(scores.begin() + t * rows * columns, scores.begin() + (t + 1) * rows * columns);
      const bool moved = state.absorb(Index{0}, rows, tile.data(), columns, columns);
      for (Index i = 0; i < rows; ++i) {
        auto& sum = sums[std::size_t(i)];
        if (moved) sum *= double(state.shrink[i]);
        for (Index j = 0; j < columns; ++j)
          sum += double(tile[std::size_t(i * columns + j)]) * double(values[std::size_t(t * columns + j)]);
      }
    }
    return state;
  }

  // The definition: weights 2^(s - most) in double.
  void definition(Index row, double& mean, double& log_sum) const {
    double most = -HUGE_VAL, total = 0, sum = 0;
    for (Index t = 0; t < tiles; ++t)
      for (Index j = 0; j < columns; ++j) most = std::max(most, double(score(t, row, j)));
    for (Index t = 0; t < tiles && most > -HUGE_VAL; ++t) {
      for (Index j = 0; j < columns; ++j) {
        const double weight = std::exp2(double(score(t, row, j)) - most);
        total += weight;
        sum += weight * double(values[std::size_t(t * columns + j)]);
      }
    }
    mean = total > 0 ? sum / total : 0;
    log_sum = (most + std::log2(total)) * std::log(2.0);
  }

  // The largest error of means and log-sums in epsilons of the values (below one) and of 1 + |log_sum|. Weights are
  // within 2 ulp of a difference of scores, whose rounding moves them by |s| epsilon more; sums of n weights add n / 2.
  double error_in_budgets() {
    const auto state = run();
    double largest = 0, worst = 0;
    for (const T s : scores)
      if (std::isfinite(s)) largest = std::max(largest, std::fabs(double(s)));
    const double budget = (3 + largest + double(tiles * columns) / 2) * support::epsilon<T>;
    for (Index i = 0; i < rows; ++i) {
      double mean = 0, log_sum = 0;
      definition(i, mean, log_sum);
      const T total = state.total(i);
      worst = std::max(worst, std::fabs(sums[std::size_t(i)] / double(total) - mean) / budget);
      worst = std::max(
          worst,
          std::fabs(double(normalizer::log_sum(total, T(double(state.reference[i]) * std::log(2.0)))) - log_sum) /
              (budget * (1 + std::fabs(log_sum))));
    }
    return worst;
  }
};

template <class T>
std::vector<T> scores_of(Index tiles, double low, double high) {
  return support::uniform<T>(22, tiles * Run<T>::rows * 2 * lanes<T>, low, high);
}

}  // namespace

TEMPLATE_TEST_CASE("softmax over tiles is the softmax of its definition", "[parts][normalizer]", float, double) {
  for (const Index tiles : {1, 2, 7}) {
    CAPTURE(tiles);
    CHECK(Run<TestType>(tiles, scores_of<TestType>(tiles, -5, 5)).error_in_budgets() <= 1);
    CHECK(Run<TestType>(tiles, scores_of<TestType>(tiles, -60, 60)).error_in_budgets() <= 1);
  }
}

TEMPLATE_TEST_CASE("scores that rise from tile to tile move the reference and lose nothing", "[parts][normalizer]",
                   float, double) {
  // By 5: sometimes within the slack. By 200: far beyond what a weight can hold.
  using T = TestType;
  for (const int step : {5, 200}) {
    auto scores = scores_of<T>(7, -1, 1);
    const auto tile = std::size_t(Run<T>::rows * 2 * lanes<T>);
    for (std::size_t i = 0; i < scores.size(); ++i) scores[i] += T(step * int(i / tile));
    CAPTURE(step);
    CHECK(Run<T>(7, scores).error_in_budgets() <= 1);
  }
}

TEMPLATE_TEST_CASE("a first tile without any key is forgotten", "[parts][normalizer]", float, double) {
  using T = TestType;
  auto scores = scores_of<T>(3, -5, 5);
  std::fill(scores.begin(), scores.begin() + Run<T>::rows * 2 * lanes<T>, -fovea::simd::infinity<T>);
  CHECK(Run<T>(3, scores).error_in_budgets() <= 1);
}

TEMPLATE_TEST_CASE("rows that see no key have no weight and log-sum minus infinity", "[parts][normalizer]", float,
                   double) {
  using T = TestType;
  Run<T> run(2, std::vector<T>(std::size_t(2 * Run<T>::rows * 2 * lanes<T>), -fovea::simd::infinity<T>));
  const auto state = run.run();
  for (Index i = 0; i < Run<T>::rows; ++i) {
    CHECK(state.total(i) == T(0));
    CHECK(run.sums[std::size_t(i)] == 0);
    CHECK(normalizer::log_sum(state.total(i), state.reference[i]) == -fovea::simd::infinity<T>);
  }
}

TEMPLATE_TEST_CASE("scores of 1e30 and of -1e30 are scores like others", "[parts][normalizer]", float, double) {
  using T = TestType;
  for (const T size : {T(1e30), T(-1e30)}) {
    Run<T> run(2, std::vector<T>(std::size_t(2 * Run<T>::rows * 2 * lanes<T>), size));
    const auto state = run.run();
    const T count = T(2 * run.columns);
    CAPTURE(size);
    for (Index i = 0; i < Run<T>::rows; ++i) CHECK(state.total(i) == count);
    CHECK(std::isfinite(normalizer::log_sum(state.total(0), state.reference[0])));
  }
}

TEMPLATE_TEST_CASE("NaN in one row leaves the others alone", "[parts][normalizer]", float, double) {
  using T = TestType;
  auto scores = scores_of<T>(2, -5, 5);
  Run<T> clean(2, scores);
  const auto wanted = clean.run();
  scores[std::size_t(3 * clean.columns + 1)] = support::nan<T>;
  Run<T> spoiled(2, scores);
  const auto state = spoiled.run();
  for (Index i = 0; i < Run<T>::rows; ++i) {
    CAPTURE(i);
    CHECK(std::isnan(state.total(i)) == (i == 3));
    if (i != 3) CHECK(support::bits(state.total(i)) == support::bits(wanted.total(i)));
  }
}

TEST_CASE("the scale is 1 / sqrt(D) unless it is given", "[parts][normalizer]") {
  CHECK(normalizer::Softmax{}.scale_for(64) == 0.125);
  CHECK(normalizer::Softmax{0.3, {}}.scale_for(64) == 0.3);
}

TEMPLATE_TEST_CASE("a split scale is the scale, its power of two and sign exact", "[parts][normalizer]", float,
                   double) {
  for (const double scale : {0.125, 0.088388, -0.3, 1.0, 7.5, 0.0}) {
    CAPTURE(scale);
    const normalizer::SplitScale<TestType> split(scale);
    CHECK(double(split.query) * split.rest == scale);
    CHECK((split.rest == 1 || (split.rest >= 0.5 && split.rest < 1)));
  }
}

TEST_CASE("a sink weighs exp(logit) against exp(reference)", "[parts][normalizer]") {
  const normalizer::Softmax softmax{{}, {0.5, -1.5}};
  for (const double reference : {0.0, 3.0, -2.0}) {
    CAPTURE(reference);
    const double wanted = std::exp(-1.5) / std::exp(reference);
    CHECK(std::fabs(softmax.sink_weight(1, reference) - wanted) <= 4 * support::epsilon<double> * wanted);
  }
  CHECK(normalizer::Softmax{}.sink_weight(7, 1.0) == 0);
}

TEST_CASE("a scale that is not finite is refused", "[parts][normalizer]") {
  const Shape shape{1, 3, 1, 4, 4};
  CHECK(support::refusal([&] {
          normalizer::Softmax{HUGE_VAL, {}}.check_for("f", shape);
        }) == "f: the scale must be finite, got inf");
  CHECK(support::refusal([&] { normalizer::Softmax{std::nan(""), {}}.check_for("f", shape); }) != "accepted");
  CHECK(support::refusal([&] { normalizer::Softmax{0.0, {}}.check_for("f", shape); }) == "accepted");
}

TEST_CASE("sink logits of another number than the heads are refused", "[parts][normalizer]") {
  const Shape shape{1, 3, 1, 4, 4};
  CHECK(support::refusal([&] {
          normalizer::Softmax{{}, {1, 2}}.check_for("f", shape);
        }) == "f: sink logits need one number for each head, wanted 3, got 2");
  CHECK(support::refusal([&] { normalizer::Softmax{{}, {1, 2, 3}}.check_for("f", shape); }) == "accepted");
}

TEST_CASE("sink logits that are NaN or infinite are refused, minus infinity is no sink", "[parts][normalizer]") {
  const Shape shape{1, 2, 1, 4, 4};
  const auto refused = [&](double logit) {
    return support::refusal([&] { normalizer::Softmax{{}, {0, logit}}.check_for("f", shape); });
  };
  CHECK(refused(HUGE_VAL) == "f: sink logits must be finite or -infinity, got inf");
  CHECK(refused(std::nan("")) != "accepted");
  CHECK(refused(-HUGE_VAL) == "accepted");
}
