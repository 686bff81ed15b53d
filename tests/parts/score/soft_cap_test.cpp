#include "support/catch.hpp"

#include <cmath>
#include <fovea/parts/score/soft_cap.hpp>
#include <limits>

#include "support/parts.hpp"

using fovea::Row;
using fovea::Shape;
using fovea::Site;
using fovea::Span;
namespace score = fovea::score;

namespace {

template <class T>
T capped(double cap, T x) {
  score::soft_cap(cap).bind<T>("test", Shape{1, 1, 1, 1, 1})(&x, Row{}, Span{0, 1});
  return x;
}

}  // namespace

TEMPLATE_TEST_CASE("soft_cap is cap tanh(s / cap)", "[parts][score][soft_cap]", float, double) {
  // Half an epsilon each from 1 / cap, from s / cap and from the product, 4 epsilon from tanh; see simd/row.
  for (const double cap : {1.0, 2.0, 30.0, 50.0}) {
    const auto wanted = [=](double s, Site) { return cap * std::tanh(s / cap); };
    CAPTURE(cap);
    CHECK(support::score_difference<TestType>(
              score::soft_cap(cap), Shape{1, 1, 1, 1, 60}, wanted,
              [&](double s, Site at) { return 6 * support::epsilon<TestType> * std::fabs(wanted(s, at)); }) == "");
  }
}

TEMPLATE_TEST_CASE("soft_cap saturates at the cap", "[parts][score][soft_cap]", float, double) {
  using T = TestType;
  for (const T x : {T(1e4), T(1e30), std::numeric_limits<T>::max(), fovea::simd::infinity<T>}) {
    CAPTURE(x);
    CHECK(capped<T>(50, x) == T(50));
    CHECK(capped<T>(50, -x) == T(-50));
  }
}

TEMPLATE_TEST_CASE("soft_cap keeps zero and NaN", "[parts][score][soft_cap]", float, double) {
  CHECK(capped<TestType>(50, 0) == TestType(0));
  CHECK(std::isnan(capped<TestType>(50, support::nan<TestType>)));
}

TEMPLATE_TEST_CASE("soft_cap with a huge cap is the identity", "[parts][score][soft_cap]", float, double) {
  for (const TestType x : {TestType(3), TestType(-0.125), TestType(1e5)}) {
    CAPTURE(x);
    CHECK(std::fabs(double(capped<TestType>(1e20, x) - x)) <= 6 * support::epsilon<TestType> * std::fabs(double(x)));
  }
}

TEST_CASE("a soft cap that is not positive and finite is refused", "[parts][score][soft_cap]") {
  const Shape shape{1, 1, 1, 1, 1};
  CHECK(support::refusal([&] { score::soft_cap(0).bind<float>("f", shape); }) ==
        "f: the soft cap and its inverse must be positive and finite in the scalar type of q, got 0");
  CHECK(support::refusal([&] { score::soft_cap(-2.5).bind<float>("f", shape); }) ==
        "f: the soft cap and its inverse must be positive and finite in the scalar type of q, got -2.5");
  CHECK(support::refusal([&] { score::soft_cap(1.0 / 0.0).bind<float>("f", shape); }) ==
        "f: the soft cap and its inverse must be positive and finite in the scalar type of q, got inf");
  CHECK(support::refusal([&] { score::soft_cap(std::nan("")).bind<float>("f", shape); }) != "accepted");
}

TEST_CASE("a soft cap that is none in float is refused there and taken in double", "[parts][score][soft_cap]") {
  const Shape shape{1, 1, 1, 1, 1};
  for (const double cap : {1e39, 1e-40, 1e-60}) {
    CAPTURE(cap);
    CHECK(support::refusal([&] { score::soft_cap(cap).bind<float>("f", shape); }) != "accepted");
    CHECK(support::refusal([&] { score::soft_cap(cap).bind<double>("f", shape); }) == "accepted");
  }
}
