#include <fovea/parts/mask/band.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/combine.hpp>
#include <fovea/parts/mask/window.hpp>
#include <limits>

#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Alignment;
using fovea::Index;
using fovea::Shape;
using fovea::Site;
namespace mask = fovea::mask;

TEST_CASE("band bottom right sees keys up to a distance on both sides", "[parts][mask][band]") {
  for (const Index w : {0, 1, 2, 5, 12, 25, 100}) {
    const auto rule = [w](Shape shape) {
      return [=](Site s) { return std::abs(s.query + shape.keys - shape.queries - s.key) <= w; };
    };
    CAPTURE(w);
    CHECK(support::mask_difference_everywhere(12, mask::band(w), rule, true) == "");
  }
}

TEST_CASE("band top left sees keys up to a distance on both sides", "[parts][mask][band]") {
  for (const Index w : {0, 1, 2, 5, 12, 25}) {
    const auto rule = [w](Shape) { return [=](Site s) { return std::abs(s.query - s.key) <= w; }; };
    CAPTURE(w);
    CHECK(support::mask_difference_everywhere(12, mask::band(w, Alignment::top_left), rule, true) == "");
  }
}

TEST_CASE("the lower half of a band is a window one longer", "[parts][mask][band]") {
  const Shape shape{1, 1, 1, 10, 12};
  const auto half = (mask::causal() & mask::band(3)).bind("test", shape);
  const auto window = (mask::causal() & mask::window(4)).bind("test", shape);
  for (Index i = 0; i < shape.queries; ++i) CHECK(half.seen({0, 0, i}, {0, 12}) == window.seen({0, 0, i}, {0, 12}));
}

TEST_CASE("band on spans of every offset and every size up to a word", "[parts][mask][band]") {
  const Shape shape{1, 1, 1, 9, 150};
  CHECK(support::long_mask_difference(mask::band(40), shape,
                                      [](Site s) { return std::abs(s.query + 141 - s.key) <= 40; }) == "");
}

TEST_CASE("any distance, the longest included, is legal", "[parts][mask][band]") {
  const auto rule = [](Shape) { return [](Site) { return true; }; };
  CHECK(support::mask_difference_everywhere(5, mask::band(std::numeric_limits<Index>::max()), rule, true) == "");
}

TEST_CASE("a negative distance is refused", "[parts][mask][band]") {
  CHECK(support::refusal([] {
          mask::band(-1).bind("fovea::f", {1, 1, 1, 4, 4});
        }) == "fovea::f: the distance must not be negative, got -1");
}
