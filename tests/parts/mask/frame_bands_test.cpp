#include <fovea/parts/mask/frame_bands.hpp>

#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Index;
using fovea::Shape;
using fovea::Site;
namespace mask = fovea::mask;

namespace {

auto rule(const mask::FrameBandsOptions& o, Index tokens) {
  return [=](Site s) {
    const Index end = tokens - o.others;
    if (s.query >= end || s.key >= end) return true;
    const Index a = s.query / o.frame, c = s.key / o.frame;
    if (o.first_frame && c == 0) return true;
    return std::abs(s.query % o.frame - s.key % o.frame) <= o.reach[std::size_t(std::abs(a - c))];
  };
}

}  // namespace

TEST_CASE("frame bands see the keys near the place of the query", "[parts][mask][frame_bands]") {
  for (const bool first : {false, true}) {
    for (const auto& o : {mask::FrameBandsOptions{1, {0, -1, 0, 5, -1, 0}, first, 0},
                          {4, {9, 1, -1, 0, 2, -1}, first, 3},
                          {3, {2, 2, 1, -1, -1, 0}, first, 1},
                          {7, {-1, 6, 0}, first, 0},
                          {5, {}, first, 17}}) {
      const Index tokens = o.reach.empty() ? o.others : Index(o.reach.size()) * o.frame + o.others;
      CAPTURE(o.frame, o.others, first);
      CHECK(support::mask_difference(mask::frame_bands(o), {1, 1, 1, tokens, tokens}, rule(o, tokens), true) == "");
    }
  }
}

TEST_CASE("frame bands over more keys than a word", "[parts][mask][frame_bands]") {
  const mask::FrameBandsOptions wide{50, {50, 20, 3, -1, 0}, true, 9},
      narrow{
          3, {2, 1, -1, 0, 1, 0, 0, -1, 2, 0, 0, 1, 2, 0, -1, 1, 1, 1, 0, 0, 1, 2, 2, 0, 1, -1, 0, 0, 1, 0}, false, 5};
  for (const auto& o : {wide, narrow}) {
    const Index tokens = Index(o.reach.size()) * o.frame + o.others;
    CHECK(support::long_mask_difference(mask::frame_bands(o), {1, 1, 1, tokens, tokens}, rule(o, tokens)) == "");
  }
}

TEST_CASE("frame bands refuse what does not fit", "[parts][mask][frame_bands]") {
  const auto refusal = [](const mask::FrameBandsOptions& o, Shape shape) {
    return support::refusal([&] { (void)mask::frame_bands(o).bind("test", shape); });
  };
  CHECK(refusal({0, {1}, false, 0}, {1, 1, 1, 4, 4}) == "test: a frame must have tokens, got 0");
  CHECK(refusal({2, {1, 1}, false, 0}, {1, 1, 1, 2, 4}) == "test: frames need as many queries as keys, got 2 and 4");
  CHECK(refusal({2, {1, 1}, false, 5}, {1, 1, 1, 4, 4}) ==
        "test: the tokens behind the frames must be at most 4, got 5");
  CHECK(refusal({3, {1, 1}, false, 0}, {1, 1, 1, 4, 4}) ==
        "test: frames must be whole, wanted a multiple of 3 tokens, got 4");
  CHECK(refusal({2, {1}, false, 0}, {1, 1, 1, 4, 4}) ==
        "test: there must be a reach for each distance of frames, wanted 2, got 1");
  CHECK(refusal({2, {1, 1}, false, 0}, {1, 1, 1, 4, 4}) == "accepted");
}
