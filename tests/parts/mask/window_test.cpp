#include "support/catch.hpp"

#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/combine.hpp>
#include <fovea/parts/mask/window.hpp>
#include <limits>

#include "support/parts.hpp"

using fovea::Alignment;
using fovea::Index;
using fovea::Shape;
using fovea::Site;
namespace mask = fovea::mask;

TEST_CASE("window bottom right sees keys less than w behind", "[parts][mask][window]") {
  for (const Index w : {1, 2, 5, 12, 25, 100}) {
    const auto rule = [w](Shape shape) {
      return [=](Site s) { return s.query + shape.keys - shape.queries - s.key < w; };
    };
    CAPTURE(w);
    CHECK(support::mask_difference_everywhere(12, mask::window(w), rule, true) == "");
  }
}

TEST_CASE("window top left sees keys less than w behind", "[parts][mask][window]") {
  for (const Index w : {1, 2, 5, 12, 25}) {
    const auto rule = [w](Shape) { return [=](Site s) { return s.query - s.key < w; }; };
    CAPTURE(w);
    CHECK(support::mask_difference_everywhere(12, mask::window(w, Alignment::top_left), rule, true) == "");
  }
}

TEST_CASE("causal and window together keep w keys, the query's own included", "[parts][mask][window]") {
  const auto bound = (mask::causal() & mask::window(3)).bind("test", {1, 1, 1, 10, 10});
  CHECK(bound.seen({0, 0, 6}, {0, 10}) == 0b0001110000);
  CHECK(bound.seen({0, 0, 1}, {0, 10}) == 0b0000000011);
}

TEST_CASE("window on spans of every offset and every size up to a word", "[parts][mask][window]") {
  const Shape shape{1, 1, 1, 9, 150};
  CHECK(support::long_mask_difference(mask::window(40), shape, [](Site s) { return s.query + 141 - s.key < 40; }) ==
        "");
}

TEST_CASE("a window of any length, the longest included, is legal", "[parts][mask][window]") {
  const auto rule = [](Shape) { return [](Site) { return true; }; };
  CHECK(support::mask_difference_everywhere(5, mask::window(std::numeric_limits<Index>::max()), rule, true) == "");
}

TEST_CASE("a window of no or of negative length is refused", "[parts][mask][window]") {
  CHECK(support::refusal([] {
          mask::window(0).bind("fovea::f", {1, 1, 1, 4, 4});
        }) == "fovea::f: the window must be positive, got 0");
  CHECK(support::refusal([] {
          mask::window(-3).bind("fovea::f", {1, 1, 1, 4, 4});
        }) == "fovea::f: the window must be positive, got -3");
}
