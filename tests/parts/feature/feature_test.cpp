#include "support/catch.hpp"

#include <cmath>
#include <fovea/parts/feature/each.hpp>
#include <fovea/parts/feature/elu_plus_one.hpp>
#include <fovea/parts/feature/exp.hpp>
#include <fovea/parts/feature/identity.hpp>
#include <fovea/parts/feature/normalized.hpp>
#include <fovea/parts/feature/relu.hpp>
#include <fovea/parts/feature/softmax.hpp>
#include <fovea/parts/feature/squared_relu.hpp>
#include <functional>

#include "support/parts.hpp"

using fovea::Index;
using fovea::Row;
using fovea::Shape;
namespace feature = fovea::feature;
using feature::Side;

static_assert(feature::Feature<feature::Identity, float> && feature::Feature<feature::EluPlusOne, double>);
static_assert(feature::has_signed_features<feature::Identity>() && !feature::has_signed_features<feature::Relu>());
static_assert(feature::wants_shift<feature::Exp>() && !feature::wants_shift<feature::Softmax>());

namespace {

template <class T>
using Model = std::function<std::vector<double>(const std::vector<double>&)>;

// Largest distance in ulps (of the largest feature of the row) between a map and a model, for rows of every length that
// end at forbidden memory.
template <class T, class Phi>
double distance(const Phi& phi, const Model<T>& model, double low, double high) {
  const Index lanes = fovea::simd::lanes<T>;
  support::Guarded<T> memory(4 * (4 * lanes + 3) + 8);
  double most = 0;
  for (Index dim = 1; dim <= 2 * lanes + 3; ++dim) {
    const Index count = 3, stride = dim + 1;
    T* const x = memory.at_end((count - 1) * stride + dim);
    const auto numbers = support::uniform<T>(unsigned(dim), (count - 1) * stride + dim, low, high);
    std::copy(numbers.begin(), numbers.end(), x);
    const auto bound = phi.template bind<T>("test", Shape{1, 1, 1, count, count}, dim);
    const Index to_stride = fovea::simd::whole<T>(bound.width()) + lanes;
    std::vector<T> to(std::size_t(count * to_stride), support::nan<T>);
    bound.template operator()<Side::key>(x, stride, count, to.data(), to_stride, Row{});
    for (Index i = 0; i < count; ++i) {
      const auto wanted = model(std::vector<double>(x + i * stride, x + i * stride + dim));
      if (Index(wanted.size()) != bound.width()) return HUGE_VAL;
      for (Index f = 0; f < bound.width(); ++f)
        most = std::max(most, support::ulps(to[std::size_t(i * to_stride + f)], wanted[std::size_t(f)]));
      for (Index f = fovea::simd::whole<T>(bound.width()); f < to_stride; ++f) {
        if (!std::isnan(to[std::size_t(i * to_stride + f)])) return HUGE_VAL;
      }
    }
  }
  return most;
}

template <class T>
Model<T> each(double (*f)(double)) {
  return [f](std::vector<double> x) {
    for (double& t : x) t = f(t);
    return x;
  };
}

}  // namespace

TEMPLATE_TEST_CASE("maps of single numbers, of every length, up to whole vectors and no further", "[parts][feature]",
                   float, double) {
  using T = TestType;
  CHECK(distance<T>(feature::identity(), each<T>([](double t) { return t; }), -3, 3) == 0);
  CHECK(distance<T>(feature::relu(), each<T>([](double t) { return t > 0 ? t : 0; }), -3, 3) == 0);
  CHECK(distance<T>(feature::relu(0.5), each<T>([](double t) { return (t > 0 ? t : 0) + 0.5; }), -3, 3) < 1);
  CHECK(distance<T>(feature::squared_relu(), each<T>([](double t) { return t > 0 ? t * t : 0; }), -3, 3) < 1);
  CHECK(distance<T>(feature::each([](T t) { return t * t; }), each<T>([](double t) { return t * t; }), -3, 3) < 1);
  // Against exp in double: in double both err by an ulp.
  CHECK(distance<T>(feature::elu_plus_one(), each<T>([](double t) { return t > 0 ? t + 1 : std::exp(t); }), -20, 3) <
        3);
}

TEMPLATE_TEST_CASE("softmax features sum to one", "[parts][feature]", float, double) {
  using T = TestType;
  const Model<T> model = [](std::vector<double> x) {
    const double most = *std::max_element(x.begin(), x.end());
    double sum = 0;
    for (double& t : x) sum += t = std::exp(t - most);
    for (double& t : x) t /= sum;
    return x;
  };
  // The weight, its sum and the quotient: a few roundings each.
  CHECK(distance<T>(feature::softmax(), model, -5, 5) < 12);
  CHECK(distance<T>(feature::softmax(), model, 995, 1000) < 12);
}

TEMPLATE_TEST_CASE("normalized features are divided by their sum and a little", "[parts][feature]", float, double) {
  using T = TestType;
  const Model<T> model = [](std::vector<double> x) {
    double sum = 0.25;
    for (double& t : x) sum += t = t * t;
    for (double& t : x) t /= sum;
    return x;
  };
  CHECK(distance<T>(feature::normalized(feature::each([](T t) { return t * t; }), 0.25), model, -2, 2) < 12);
  CHECK(distance<T>(feature::normalized(feature::relu(), std::nullopt), each<T>([](double t) { return t > 0 ? t : 0; }),
                    -2, 2) == 0);
}

TEST_CASE("features that are all zero have no sum to be divided by and stay zero", "[parts][feature]") {
  const float x[3] = {-1, -2, -3};
  float to[16] = {};
  feature::normalized(feature::relu(), 0.0)
      .bind<float>("test", Shape{1, 1, 1, 1, 1}, 3)
      .
      operator()<Side::query>(x, 3, 1, to, 16, Row{});
  CHECK((to[0] == 0 && to[1] == 0 && to[2] == 0));
}

TEMPLATE_TEST_CASE("exp: queries are shifted by their largest number, keys by what is given", "[parts][feature]", float,
                   double) {
  using T = TestType;
  const auto x = support::uniform<T>(3, 20, 190, 200);
  std::vector<T> to(64), shift = {T(195), T(210)};
  const auto phi = feature::shifted(feature::exp(), fovea::view(std::as_const(shift).data(), {1, 1, 2, 1}));
  const auto bound = phi.template bind<T>("test", Shape{1, 1, 1, 2, 2}, 10);
  bound.template operator()<Side::query>(x.data(), 10, 2, to.data(), 32, Row{});
  for (Index i = 0; i < 2; ++i) {
    const T most = *std::max_element(x.data() + 10 * i, x.data() + 10 * i + 10);
    for (Index d = 0; d < 10; ++d)
      CHECK(support::ulps(to[std::size_t(32 * i + d)], std::exp(double(x[std::size_t(10 * i + d)] - most))) < 3);
  }
  // The second token alone takes the second shift.
  bound.template operator()<Side::key>(x.data(), 10, 2, to.data(), 32, Row{});
  for (Index d = 0; d < 20; ++d) {
    const T taken = d < 10 ? T(195) : T(210);
    CHECK(support::ulps(to[std::size_t(d / 10 * 32 + d % 10)], std::exp(double(x[std::size_t(d)] - taken))) < 3);
  }
  std::vector<T> second(32);
  bound.template operator()<Side::key>(x.data() + 10, 10, 1, second.data(), 32, Row{0, 0, 1});
  CHECK(support::same_bits(second.data(), to.data() + 32, 10));

  T most[2];
  bound.largest_exponents(x.data(), 10, 2, to.data(), 32, Row{}, most);
  for (Index i = 0; i < 2; ++i) CHECK(most[i] == *std::max_element(x.data() + 10 * i, x.data() + 10 * i + 10));
}

TEMPLATE_TEST_CASE("exponents out of range, NaN and minus infinity", "[parts][feature]", float, double) {
  using T = TestType;
  const T inf = fovea::simd::infinity<T>;
  const auto bound = feature::exp().bind<T>("test", Shape{1, 1, 1, 1, 1}, 4);
  T to[32];
  const T x[4] = {0, -inf, T(-1e6), support::nan<T>};
  bound.template operator()<Side::key>(x, 4, 1, to, 32, Row{});
  CHECK((to[0] == 1 && to[1] == 0 && to[2] == 0 && std::isnan(to[3])));
  const T large[4] = {T(1e6), inf, T(-1), 0};
  bound.template operator()<Side::key>(large, 4, 1, to, 32, Row{});
  CHECK((to[0] == inf && to[1] == inf && to[3] == 1));
  const T nothing[4] = {-inf, -inf, -inf, -inf};
  bound.template operator()<Side::query>(nothing, 4, 1, to, 32, Row{});
  CHECK((to[0] == 0 && to[3] == 0));
}

TEST_CASE("map is told the token, the head and the side", "[parts][feature]") {
  std::vector<Row> seen;
  const auto phi = feature::map(2, [&](std::span<const float> x, std::span<float> to, Side side, Row at) {
    to[0] = x[0] + x[2];
    to[1] = side == Side::query ? 1.f : 2.f;
    seen.push_back(at);
  });
  const auto bound = phi.bind<float>("test", Shape{1, 4, 2, 9, 9}, 3);
  CHECK(bound.width() == 2);
  const float x[8] = {1, 2, 3, 99, 4, 5, 6, 99};
  float to[32];
  bound.operator()<Side::key>(x, 4, 2, to, 16, Row{1, 3, 5});
  CHECK((to[0] == 4 && to[1] == 2 && to[16] == 10));
  bound.operator()<Side::query>(x, 4, 1, to, 16, Row{});
  CHECK(to[1] == 1);
  REQUIRE(seen.size() == 3);
  CHECK((seen[1].batch == 1 && seen[1].head == 3 && seen[1].query == 6));
}

TEST_CASE("what the maps refuse", "[parts][feature]") {
  const auto refusal = [](const auto& phi) {
    return support::refusal([&] { phi.template bind<float>("test", Shape{1, 1, 1, 1, 1}, 4); });
  };
  CHECK(refusal(feature::relu(-1)) == "test: the epsilon of feature::relu must not be negative, got -1");
  CHECK(refusal(feature::normalized(feature::relu(), -1)) ==
        "test: the epsilon of feature::normalized must not be negative, got -1");
  CHECK(refusal(feature::map(0, [](std::span<const float>, std::span<float>) {})) ==
        "test: feature::map must give at least one feature, got 0");
  CHECK(refusal(feature::relu(1)) == "accepted");
}
