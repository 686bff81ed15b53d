#include "support/catch.hpp"

#include <fovea/parts/mask/causal.hpp>

#include "support/parts.hpp"

using fovea::Alignment;
using fovea::Index;
using fovea::Shape;
using fovea::Site;

TEST_CASE("causal bottom right sees j <= i + M - N", "[parts][mask][causal]") {
  const auto rule = [](Shape shape) { return [=](Site s) { return s.key <= s.query + shape.keys - shape.queries; }; };
  CHECK(support::mask_difference_everywhere(12, fovea::mask::causal(), rule, true) == "");
}

TEST_CASE("causal top left sees j <= i", "[parts][mask][causal]") {
  const auto rule = [](Shape) { return [](Site s) { return s.key <= s.query; }; };
  CHECK(support::mask_difference_everywhere(12, fovea::mask::causal(Alignment::top_left), rule, true) == "");
}

TEST_CASE("causal on spans of every offset and every size up to a word", "[parts][mask][causal]") {
  const Shape shape{1, 1, 1, 9, 150};
  CHECK(support::long_mask_difference(fovea::mask::causal(), shape, [](Site s) { return s.key <= s.query + 141; }) ==
        "");
  const Shape tall{1, 1, 1, 160, 150};
  CHECK(support::long_mask_difference(fovea::mask::causal(), tall, [](Site s) { return s.key <= s.query - 10; }) == "");
}

TEST_CASE("causal by default is bottom right: the last query sees every key", "[parts][mask][causal]") {
  const auto bound = fovea::mask::causal().bind("test", {1, 1, 1, 3, 9});
  CHECK(fovea::mask::sees(bound, {0, 0, 2, 8}));
  CHECK_FALSE(fovea::mask::sees(bound, {0, 0, 1, 8}));
}

TEST_CASE("causal holds for positions past 2^31", "[parts][mask][causal]") {
  const Index keys = Index{3} << 32;
  const auto bound = fovea::mask::causal().bind("test", {1, 1, 1, 4, keys});
  CHECK(bound.seen({0, 0, 1}, {keys - 8, keys}) == 0b00111111);
  CHECK(bound.cover({0, {0, 1}, {0, 4}, {0, keys - 3}}) == fovea::mask::Cover::full);
  CHECK(bound.cover({0, {0, 1}, {0, 4}, {0, keys}}) == fovea::mask::Cover::part);
  CHECK(bound.cover({0, {0, 1}, {0, 3}, {keys - 1, keys}}) == fovea::mask::Cover::none);
}
