#include "support/catch.hpp"

#include <fovea/parts/mask/by_head.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/combine.hpp>
#include <fovea/parts/mask/prefix.hpp>
#include <fovea/parts/mask/window.hpp>

#include "support/parts.hpp"

using fovea::Index;
using fovea::Shape;
using fovea::Site;
namespace mask = fovea::mask;
using mask::Cover;

namespace {

const std::vector<bool> chosen = {true, false, false, true};

}  // namespace

TEST_CASE("chosen heads follow the first mask and the others the second", "[parts][mask][by_head]") {
  for (const Index queries : {1, 5, 8}) {
    const Shape shape{2, 4, 2, queries, 8};
    const Index offset = 8 - queries;
    const auto rule = [&](Site s) {
      const Index p = s.query + offset;
      return s.head == 0 || s.head == 3 ? s.key <= p : p - s.key < 3;
    };
    CHECK(support::mask_difference(mask::by_head(chosen, mask::causal(), mask::window(3)), shape, rule, true) == "");
  }
}

TEST_CASE("a mask by head joined with others", "[parts][mask][by_head]") {
  const auto joined = mask::causal() & mask::by_head(chosen, mask::Everything{}, mask::window(2) | mask::prefix(1));
  const auto rule = [](Site s) {
    return s.key <= s.query && (s.head == 0 || s.head == 3 || s.query - s.key < 2 || s.key < 1);
  };
  CHECK(support::mask_difference(joined, {1, 4, 4, 9, 9}, rule, false) == "");
}

TEST_CASE("heads that differ cover a region in part", "[parts][mask][by_head]") {
  const auto bound = mask::by_head(chosen, mask::Everything{}, mask::window(4)).bind("test", {1, 4, 2, 100, 100});
  const auto cover = [&](fovea::Span heads) { return bound.cover({0, heads, {80, 100}, {0, 40}}); };
  CHECK(cover({0, 1}) == Cover::full);
  CHECK(cover({1, 3}) == Cover::none);
  CHECK(cover({0, 2}) == Cover::part);
  CHECK(cover({0, 4}) == Cover::part);
}

TEST_CASE("heads that differ but agree on a region cover it alike", "[parts][mask][by_head]") {
  const auto bound = mask::by_head(chosen, mask::causal(), mask::prefix(50)).bind("test", {1, 4, 2, 100, 100});
  CHECK(bound.cover({0, {0, 4}, {60, 70}, {0, 50}}) == Cover::full);
  CHECK(bound.cover({0, {0, 4}, {60, 70}, {80, 100}}) == Cover::none);
}

TEST_CASE("one flag for each query head is wanted", "[parts][mask][by_head]") {
  const auto said = [](std::vector<bool> flags) {
    return support::refusal([&] {
      mask::by_head(flags, mask::causal(), mask::window(3)).bind("fovea::f", {1, 4, 2, 5, 5});
    });
  };
  CHECK(said({true, false}) == "fovea::f: a mask by head needs one flag for each head, wanted 4, got 2");
  CHECK(said({}) == "fovea::f: a mask by head needs one flag for each head, wanted 4, got 0");
  CHECK(said({true, false, true, false}) == "accepted");
}

TEST_CASE("what the two masks refuse is refused", "[parts][mask][by_head]") {
  CHECK(support::refusal([] {
          mask::by_head({true}, mask::causal(), mask::window(0)).bind("fovea::f", {1, 1, 1, 5, 5});
        }) == "fovea::f: the window must be positive, got 0");
}
