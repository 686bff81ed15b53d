#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/combine.hpp>
#include <fovea/parts/mask/neighborhood.hpp>
#include <fovea/parts/mask/window.hpp>
#include <vector>

#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Index;
using fovea::Shape;
using fovea::Site;
using fovea::Span;
namespace mask = fovea::mask;

namespace {

std::vector<Span> intervals(const mask::Neighborhood& neighborhood, Index length) {
  const auto bound = neighborhood.bind("test", {1, 1, 1, length, length});
  std::vector<Span> result;
  for (Index i = 0; i < length; ++i) result.push_back(bound.interval(i));
  return result;
}

Index pairs(const mask::Neighborhood& neighborhood, Index length) {
  Index count = 0;
  for (const Span keys : intervals(neighborhood, length)) count += keys.size();
  return count;
}

// The definition: the centre is kept as far from the ends as the extents of the window ask for.
auto rule(Index window, Index stride, bool causal, Index length) {
  return [=](Site s) {
    const Index left = window / 2, right = window / 2 + window % 2 - 1, group = s.query / stride;
    if (causal) {
      const Index leader = std::min(group * stride + stride - 1, length - 1);
      return s.key <= s.query && s.key > leader - window;
    }
    Index centre = std::min(group * stride + stride / 2, length - 1);
    centre = std::max(centre, left);
    centre = std::min(centre, length - 1 - right);
    return s.key >= centre - left && s.key <= centre + right;
  };
}

}  // namespace

TEST_CASE("neighborhood: intervals of small cases by hand", "[parts][mask][neighborhood]") {
  using Spans = std::vector<Span>;
  CHECK(intervals(mask::neighborhood(4), 8) == Spans{{0, 4}, {0, 4}, {0, 4}, {1, 5}, {2, 6}, {3, 7}, {4, 8}, {4, 8}});
  CHECK(intervals(mask::neighborhood(5), 8) == Spans{{0, 5}, {0, 5}, {0, 5}, {1, 6}, {2, 7}, {3, 8}, {3, 8}, {3, 8}});
  CHECK(intervals(mask::neighborhood(4, 2), 9) ==
        Spans{{0, 4}, {0, 4}, {1, 5}, {1, 5}, {3, 7}, {3, 7}, {5, 9}, {5, 9}, {5, 9}});
  CHECK(intervals(mask::neighborhood(6, 3), 10) ==
        Spans{{0, 6}, {0, 6}, {0, 6}, {1, 7}, {1, 7}, {1, 7}, {4, 10}, {4, 10}, {4, 10}, {4, 10}});
  CHECK(intervals(mask::neighborhood(3, 3), 7) == Spans{{0, 3}, {0, 3}, {0, 3}, {3, 6}, {3, 6}, {3, 6}, {4, 7}});
  CHECK(intervals(mask::neighborhood(4, 2, true), 8) ==
        Spans{{0, 1}, {0, 2}, {0, 3}, {0, 4}, {2, 5}, {2, 6}, {4, 7}, {4, 8}});
}

TEST_CASE("neighborhood: numbers of pairs by hand", "[parts][mask][neighborhood]") {
  CHECK(pairs(mask::neighborhood(4, 2, true), 8) == 24);
  CHECK(pairs(mask::neighborhood(4, 1, true), 8) == 26);
  CHECK(pairs(mask::neighborhood(4, 4, true), 8) == 20);
  CHECK(pairs(mask::neighborhood(5, 3, true), 9) == 30);
}

TEST_CASE("neighborhood sees what its definition says", "[parts][mask][neighborhood]") {
  for (const bool causal : {false, true}) {
    for (Index length = 1; length <= 14; ++length) {
      for (Index window = 1; window <= length; ++window) {
        for (Index stride = 1; stride <= window; ++stride) {
          CAPTURE(causal, length, window, stride);
          CHECK(support::mask_difference(mask::neighborhood(window, stride, causal), {1, 1, 1, length, length},
                                         rule(window, stride, causal, length), true) == "");
        }
      }
    }
  }
}

TEST_CASE("neighborhood on spans of every offset and every size up to a word", "[parts][mask][neighborhood]") {
  const Shape shape{1, 1, 1, 150, 150};
  CHECK(support::long_mask_difference(mask::neighborhood(40, 3), shape, rule(40, 3, false, 150)) == "");
  CHECK(support::long_mask_difference(mask::neighborhood(40, 3, true), shape, rule(40, 3, true, 150)) == "");
}

TEST_CASE("a causal neighborhood of stride one is causal and window", "[parts][mask][neighborhood]") {
  const Shape shape{1, 1, 1, 20, 20};
  const auto neighborhood = mask::neighborhood(6, 1, true).bind("test", shape);
  const auto window = (mask::causal() & mask::window(6)).bind("test", shape);
  for (Index i = 0; i < 20; ++i) CHECK(neighborhood.seen({0, 0, i}, {0, 20}) == window.seen({0, 0, i}, {0, 20}));
}

TEST_CASE("neighborhoods that do not fit are refused", "[parts][mask][neighborhood]") {
  const auto refusal = [](const mask::Neighborhood& neighborhood, Index queries, Index keys) {
    return support::refusal([&] { neighborhood.bind("fovea::f", {1, 1, 1, queries, keys}); });
  };
  CHECK(refusal(mask::neighborhood(0), 5, 5) == "fovea::f: the window must be positive, got 0");
  CHECK(refusal(mask::neighborhood(3, 0), 5, 5) == "fovea::f: the stride must be between 1 and the window, 3, got 0");
  CHECK(refusal(mask::neighborhood(3, 4), 5, 5) == "fovea::f: the stride must be between 1 and the window, 3, got 4");
  CHECK(refusal(mask::neighborhood(3), 4, 5) ==
        "fovea::f: a neighborhood needs as many keys as queries, wanted 4, got 5");
  CHECK(refusal(mask::neighborhood(6), 5, 5) == "fovea::f: the window must not be longer than the keys, 5, got 6");
  CHECK(refusal(mask::neighborhood(6), 0, 0) == "accepted");
}
