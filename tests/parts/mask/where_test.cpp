#include "support/catch.hpp"

#include <fovea/parts/mask/where.hpp>

#include "support/parts.hpp"

using fovea::Index;
using fovea::Shape;
using fovea::Site;

TEST_CASE("where sees what the predicate says, batch and head included", "[parts][mask][where]") {
  const auto rule = [](Site s) { return (s.batch + 2 * s.head + 3 * s.query + 5 * s.key) % 4 < 2; };
  for (const Index queries : {0, 1, 5})
    for (const Index keys : {0, 1, 13})
      CHECK(support::mask_difference(fovea::mask::where(rule), Shape{2, 3, 3, queries, keys}, rule, false) == "");
}

TEST_CASE("where on spans of every offset and every size up to a word", "[parts][mask][where]") {
  const auto rule = [](Site s) { return s.key % 7 == s.query; };
  CHECK(support::long_mask_difference(fovea::mask::where(rule), {1, 1, 1, 7, 150}, rule) == "");
}

TEST_CASE("where asks about the keys of the span alone", "[parts][mask][where]") {
  Index least = 1000, most = -1;
  const auto bound = fovea::mask::where([&](Site s) {
                       least = std::min(least, s.key);
                       most = std::max(most, s.key);
                       return true;
                     }).bind("test", {1, 1, 1, 1, 100});
  CHECK(bound.seen({0, 0, 0}, {17, 29}) == (1u << 12) - 1);
  CHECK(least == 17);
  CHECK(most == 28);
}
