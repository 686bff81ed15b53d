#include "support/catch.hpp"

#include <fovea/parts/mask/prefix.hpp>
#include <limits>

#include "support/parts.hpp"

using fovea::Index;
using fovea::Shape;
using fovea::Site;
namespace mask = fovea::mask;

TEST_CASE("prefix sees the leading keys", "[parts][mask][prefix]") {
  for (const Index n : {0, 1, 5, 12, 100}) {
    const auto rule = [n](Shape) { return [n](Site s) { return s.key < n; }; };
    CAPTURE(n);
    CHECK(support::mask_difference_everywhere(12, mask::prefix(n), rule, true) == "");
  }
}

TEST_CASE("prefix on spans of every offset and every size up to a word", "[parts][mask][prefix]") {
  CHECK(support::long_mask_difference(mask::prefix(77), {1, 1, 1, 2, 150}, [](Site s) { return s.key < 77; }) == "");
}

TEST_CASE("the longest prefix is legal", "[parts][mask][prefix]") {
  const auto rule = [](Shape) { return [](Site) { return true; }; };
  CHECK(support::mask_difference_everywhere(5, mask::prefix(std::numeric_limits<Index>::max()), rule, true) == "");
}

TEST_CASE("a negative prefix is refused", "[parts][mask][prefix]") {
  CHECK(support::refusal([] {
          mask::prefix(-1).bind("fovea::f", {1, 1, 1, 4, 4});
        }) == "fovea::f: the prefix must not be negative, got -1");
}
