#include "support/catch.hpp"

#include <cmath>
#include <fovea/parts/feature/hedgehog.hpp>
#include <fovea/parts/feature/random.hpp>

#include "support/parts.hpp"

using fovea::Index;
using fovea::Row;
using fovea::Shape;
namespace feature = fovea::feature;
using feature::Side;

namespace {

double dot(const double* a, const double* b, Index n) {
  double sum = 0;
  for (Index d = 0; d < n; ++d) sum += a[d] * b[d];
  return sum;
}

template <class T, class Phi>
std::vector<T> features_of(const Phi& phi, const std::vector<T>& x, Index dim, Side side = Side::key, Index head = 0,
                           const Shape& shape = {1, 1, 1, 1, 1}) {
  const auto bound = phi.template bind<T>("test", shape, dim);
  const Index count = Index(x.size()) / dim, stride = fovea::simd::whole<T>(bound.width());
  std::vector<T> to(std::size_t(count * stride)), result;
  if (side == Side::query) {
    bound.template operator()<Side::query>(x.data(), dim, count, to.data(), stride, Row{0, head, 0});
  } else {
    bound.template operator()<Side::key>(x.data(), dim, count, to.data(), stride, Row{0, head, 0});
  }
  for (Index i = 0; i < count; ++i)
    result.insert(result.end(), to.begin() + i * stride, to.begin() + i * stride + bound.width());
  return result;
}

}  // namespace

TEST_CASE("directions are orthogonal inside blocks and have the lengths asked for", "[parts][feature]") {
  for (const auto& [rows, dim] : {std::pair<Index, Index>{1, 1}, {3, 8}, {8, 8}, {30, 8}, {100, 33}}) {
    INFO(rows << " x " << dim);
    const auto w = feature::orthogonal_directions(rows, dim, 7, feature::RowLength::sqrt_dim);
    for (Index r = 0; r < rows; ++r) {
      for (Index s = r / dim * dim; s <= r; ++s) {
        const double wanted = s == r ? double(dim) : 0;
        CHECK(std::abs(dot(w.numbers.data() + r * dim, w.numbers.data() + s * dim, dim) - wanted) <
              1e-12 * double(dim));
      }
    }
  }
}

TEST_CASE("rows have the lengths of Gaussian rows by default", "[parts][feature]") {
  const Index rows = 4000, dim = 6;
  const auto w = feature::orthogonal_directions(rows, dim, 11);
  double mean = 0, square = 0;
  for (Index r = 0; r < rows; ++r) {
    const double length = dot(w.numbers.data() + r * dim, w.numbers.data() + r * dim, dim);
    mean += length / double(rows);
    square += length * length / double(rows);
  }
  // Chi squared: mean D, variance 2 D; five standard errors.
  CHECK(std::abs(mean - 6) < 5 * std::sqrt(12.0 / double(rows)));
  CHECK(std::abs(square - mean * mean - 12) < 5 * std::sqrt(12.0 * 12 * 4 / double(rows)));
}

TEST_CASE("a seed gives the same directions everywhere", "[parts][feature]") {
  const auto a = feature::orthogonal_directions(5, 3, 42), b = feature::orthogonal_directions(5, 3, 42);
  CHECK(a.numbers == b.numbers);
  CHECK(a.numbers != feature::orthogonal_directions(5, 3, 43).numbers);
  // The first bits of the generator for its default seed stand in the C++ standard: its 10000th number.
  std::mt19937_64 bits;
  bits.discard(9999);
  CHECK(bits() == 9981545732273789042ULL);
  // Box and Muller of the first four numbers of seed 42, computed here another way.
  std::mt19937_64 raw(42);
  const auto uniform = [&] { return std::ldexp(double(raw() >> 11), -53) + std::ldexp(1.0, -54); };
  double x[4];
  for (int n = 0; n < 4; n += 2) {
    const double radius = std::sqrt(2 * std::log(1 / uniform())), turn = 2 * std::acos(-1.0) * uniform();
    x[n] = radius * std::cos(turn);
    x[n + 1] = radius * std::sin(turn);
  }
  const double length = std::sqrt(x[0] * x[0] + x[1] * x[1] + x[2] * x[2]);
  const double own = std::sqrt(dot(a.numbers.data(), a.numbers.data(), 3));
  for (int d = 0; d < 3; ++d) CHECK(std::abs(a.numbers[std::size_t(d)] / own - x[d] / length) < 1e-12);
}

TEST_CASE("positive and hyperbolic features estimate e^(x . y) without bias", "[parts][feature]") {
  const Index dim = 8;
  const auto x = support::uniform<double>(1, dim, -0.4, 0.4), y = support::uniform<double>(2, dim, -0.4, 0.4);
  const double truth = std::exp(dot(x.data(), y.data(), dim));
  double square = 0;
  for (Index d = 0; d < dim; ++d)
    square += (x[std::size_t(d)] + y[std::size_t(d)]) * (x[std::size_t(d)] + y[std::size_t(d)]);
  const Index features = 20000;
  // The standard error of independent directions; orthogonal ones do better at this angle.
  const double error = truth * std::sqrt((std::exp(square) - 1) / double(features));
  const auto w = feature::orthogonal_directions(features, dim, 3);
  const auto estimate = [&](const auto& phi) {
    const auto a = features_of<double>(phi, x, dim), b = features_of<double>(phi, y, dim);
    return dot(a.data(), b.data(), Index(a.size()));
  };
  CHECK(std::abs(estimate(feature::positive_random(w, {.scale = 1})) - truth) < 4 * error);
  CHECK(std::abs(estimate(feature::hyperbolic_random(w, {.scale = 1})) - truth) < 4 * error);
}

TEMPLATE_TEST_CASE("random features are what their formulas say", "[parts][feature]", float, double) {
  using T = TestType;
  for (const auto& [rows, dim] : {std::pair<Index, Index>{1, 1}, {3, 5}, {16, 8}, {37, 20}}) {
    INFO(rows << " x " << dim);
    const auto w = feature::orthogonal_directions(rows, dim, 5);
    const auto x = support::uniform<T>(9, 7 * dim);
    const auto positive = features_of<T>(feature::positive_random(w, {.scale = 0.5, .epsilon = 0.25}), x, dim);
    const auto query = features_of<T>(feature::positive_random(w, {.scale = 0.5}), x, dim, Side::query);
    const auto both = features_of<T>(feature::hyperbolic_random(w, {.scale = 0.5}), x, dim);
    const auto rectified = features_of<T>(feature::relu_random(w, {.scale = 0.5}), x, dim);
    double worst = 0;
    for (Index i = 0; i < 7; ++i) {
      std::vector<double> z(x.begin() + i * dim, x.begin() + (i + 1) * dim);
      for (double& t : z) t *= std::sqrt(0.5);
      const double half = dot(z.data(), z.data(), dim) / 2;
      double most = -HUGE_VAL;
      for (Index r = 0; r < rows; ++r) most = std::max(most, dot(w.numbers.data() + r * dim, z.data(), dim) - half);
      for (Index r = 0; r < rows; ++r) {
        const double along = dot(w.numbers.data() + r * dim, z.data(), dim), m = double(rows);
        const auto off = [&](T got, double wanted) {
          worst = std::max(worst, std::abs(got - wanted) / (wanted + 1e-3));
        };
        off(positive[std::size_t(i * rows + r)], (std::exp(along - half) + 0.25) / std::sqrt(m));
        off(query[std::size_t(i * rows + r)], std::exp(along - half - most) / std::sqrt(m));
        off(both[std::size_t(2 * i * rows + r)], std::exp(along - half) / std::sqrt(2 * m));
        off(both[std::size_t((2 * i + 1) * rows + r)], std::exp(-along - half) / std::sqrt(2 * m));
        off(rectified[std::size_t(i * rows + r)], std::max(along, 0.0) + 1e-3);
      }
    }
    // Exponents up to ten carry an absolute error of some epsilons each into the features.
    CHECK(worst < 64 * support::epsilon<T>);
  }
}

TEST_CASE("projections: one matrix for all heads, or one for every few, with a bias", "[parts][feature]") {
  const Index heads = 2, out = 5, in = 3;
  const auto w = support::uniform<double>(1, heads * out * in), b = support::uniform<double>(2, heads * out);
  const feature::Projection all(fovea::view(w.data(), {1, heads, out, in}), fovea::view(b.data(), {1, heads, out, 1}));
  const auto x = support::uniform<float>(3, 13 * in);
  const auto bound = all.bind<float>("test", 4, in);
  std::vector<float> to(13 * 16);
  for (Index head = 0; head < 4; ++head) {
    bound.operator()<Side::query>(x.data(), in, 13, to.data(), 16, Row{0, head, 0});
    for (Index i = 0; i < 13; ++i) {
      for (Index o = 0; o < out; ++o) {
        double wanted = b[std::size_t(head / 2 * out + o)];
        for (Index d = 0; d < in; ++d)
          wanted += w[std::size_t((head / 2 * out + o) * in + d)] * double(x[std::size_t(i * in + d)]);
        CHECK(std::abs(to[std::size_t(i * 16 + o)] - wanted) < 1e-6);
      }
    }
  }
  CHECK(support::refusal([&] { all.bind<float>("test", 4, 2); }) ==
        "test: the weights of the feature map must have the width of q, wanted 2, got 3");
  CHECK(support::refusal([&] { all.bind<float>("test", 3, in); }) ==
        "test: the matrices of the feature map must divide the heads, wanted a divisor of 3, got 2");
  CHECK(
      support::refusal([&] {
        feature::Projection(fovea::view(w.data(), {1, heads, out, in}), fovea::view(b.data(), {1, heads, out - 1, 1}));
      }) ==
      "fovea::feature::Projection: bias must have one number for each row of the weights, wanted [2, 5], got "
      "[2, 4]");
  CHECK(support::refusal([&] {
          feature::Projection(fovea::view(w.data(), {1, heads, 0, in}));
        }) == "fovea::feature::Projection: weights must not be empty, got [2, 0, 3]");
}

TEST_CASE("hedgehog features do not fall below their floor", "[parts][feature]") {
  const double w[4] = {1, 0, 0, 1};
  const feature::Projection p(fovea::view(w, {1, 1, 2, 2}));
  const auto phi = features_of<double>(feature::hedgehog(p), {100, -100}, 2);
  CHECK((phi[0] == 1 && phi[1] == 1e-12 && phi[2] == 1e-12 && phi[3] == 1));
  const auto joint = features_of<double>(feature::hedgehog_joint(p), {0, 0}, 2);
  for (const double f : joint) CHECK(f == 0.25);
}
