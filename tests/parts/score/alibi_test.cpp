#include "support/catch.hpp"

#include <cmath>
#include <fovea/parts/score/alibi.hpp>
#include <vector>

#include "support/parts.hpp"

using fovea::Alignment;
using fovea::Index;
using fovea::Shape;
using fovea::Site;
namespace score = fovea::score;

namespace {

const std::vector<double> slopes{0.5, 0.1, 0.7};

// Half an epsilon each of the slope, the product and the sum, so at most 1.5 of either part.
template <class T>
std::string difference(Alignment alignment, Shape shape) {
  const Index offset = alignment == Alignment::bottom_right ? shape.keys - shape.queries : 0;
  const auto penalty = [=](Site at) {
    return slopes[std::size_t(at.head)] * std::abs(double(at.query + offset - at.key));
  };
  return support::score_difference<T>(
      score::alibi(slopes, alignment), shape, [=](double s, Site at) { return s - penalty(at); },
      [=](double s, Site at) { return 1.5 * support::epsilon<T> * (std::fabs(s) + penalty(at)); });
}

}  // namespace

TEMPLATE_TEST_CASE("alibi bottom right is s - slope |i + M - N - j|", "[parts][score][alibi]", float, double) {
  CHECK(difference<TestType>(Alignment::bottom_right, {1, 3, 1, 5, 60}) == "");
  CHECK(difference<TestType>(Alignment::bottom_right, {1, 3, 1, 11, 4}) == "");
}

TEMPLATE_TEST_CASE("alibi top left is s - slope |i - j|", "[parts][score][alibi]", float, double) {
  CHECK(difference<TestType>(Alignment::top_left, {1, 3, 1, 5, 60}) == "");
  CHECK(difference<TestType>(Alignment::top_left, {1, 3, 1, 11, 4}) == "");
}

TEMPLATE_TEST_CASE("alibi of keys past 2^31 keeps the distance exact", "[parts][score][alibi]", float, double) {
  const Index keys = (Index{1} << 33) + 7;
  const auto bound = score::alibi({0.25}).template bind<TestType>("test", Shape{1, 1, 1, 2, keys});
  TestType scores[5] = {};
  bound(scores, fovea::Row{0, 0, 1}, fovea::Span{keys - 5, keys});
  for (int j = 0; j < 5; ++j) CHECK(scores[j] == TestType(-0.25 * (4 - j)));
}

TEST_CASE("alibi slopes of a power of two are a geometric series", "[parts][score][alibi]") {
  CHECK(score::alibi_slopes(8) ==
        std::vector<double>{1 / 2., 1 / 4., 1 / 8., 1 / 16., 1 / 32., 1 / 64., 1 / 128., 1 / 256.});
  CHECK(score::alibi_slopes(1) == std::vector<double>{1 / 256.});
}

TEST_CASE("alibi slopes of other numbers take every second of the next power of two", "[parts][score][alibi]") {
  CHECK(score::alibi_slopes(6) == std::vector<double>{1 / 4., 1 / 16., 1 / 64., 1 / 256., 1 / 2., 1 / 8.});
  CHECK(score::alibi_slopes(3) == std::vector<double>{1 / 16., 1 / 256., 1 / 4.});
  CHECK(score::alibi_slopes(0).empty());
}

TEST_CASE("alibi slopes of twelve heads", "[parts][score][alibi]") {
  auto wanted = score::alibi_slopes(8);
  for (const double power : {0.5, 1.5, 2.5, 3.5}) wanted.push_back(std::exp2(-power));
  CHECK(score::alibi_slopes(12) == wanted);
}

TEST_CASE("a negative number of heads has no slopes", "[parts][score][alibi]") {
  CHECK(support::refusal([] { score::alibi_slopes(-1); }) ==
        "fovea::score::alibi_slopes: heads must not be negative, got -1");
}

TEST_CASE("alibi with the wrong number of slopes is refused", "[parts][score][alibi]") {
  CHECK(support::refusal([] {
          score::alibi({0.5, 0.25}).bind<float>("f", Shape{1, 3, 1, 4, 4});
        }) == "f: alibi needs one slope for each head, wanted 3, got 2");
  CHECK(support::refusal([] {
          score::alibi({}).bind<float>("f", Shape{1, 1, 1, 4, 4});
        }) == "f: alibi needs one slope for each head, wanted 1, got 0");
}
