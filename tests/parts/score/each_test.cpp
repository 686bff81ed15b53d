#include "support/catch.hpp"

#include <cmath>
#include <fovea/parts/score/each.hpp>

#include "support/parts.hpp"

using fovea::Shape;
using fovea::Site;
namespace score = fovea::score;

TEMPLATE_TEST_CASE("each calls the function with the score and its site", "[parts][score][each]", float, double) {
  const auto place = [](Site at) { return double(at.batch + 2 * at.head + 4 * at.query - at.key); };
  const auto s = score::each([&](TestType x, Site at) { return TestType(2) * x + TestType(place(at)); });
  // Twice a number is exact; one rounding of the sum.
  CHECK(support::score_difference<TestType>(
            s, Shape{2, 3, 1, 4, 41}, [&](double x, Site at) { return 2 * x + place(at); },
            [&](double x, Site at) {
              return 0.5 * support::epsilon<TestType> * (2 * std::fabs(x) + std::fabs(place(at)));
            }) == "");
}

TEST_CASE("each may remove a score by minus infinity", "[parts][score][each]") {
  const auto bound = score::each([](float x, Site at) {
                       return at.key == 7 ? -fovea::simd::infinity<float> : x;
                     }).bind<float>("test", Shape{1, 1, 1, 1, 9});
  float x[3] = {1, 2, 3};
  bound(x, fovea::Row{}, fovea::Span{6, 9});
  CHECK(x[0] == 1);
  CHECK(x[1] == -fovea::simd::infinity<float>);
  CHECK(x[2] == 3);
}
