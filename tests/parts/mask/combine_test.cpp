#include "support/catch.hpp"

#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/combine.hpp>
#include <fovea/parts/mask/document.hpp>
#include <fovea/parts/mask/prefix.hpp>
#include <fovea/parts/mask/where.hpp>
#include <fovea/parts/mask/window.hpp>

#include "support/parts.hpp"

using fovea::Alignment;
using fovea::Index;
using fovea::Shape;
using fovea::Site;
namespace mask = fovea::mask;

namespace {

// The defining predicates.
auto causal(Shape shape) {
  return [=](Site s) { return s.key <= s.query + shape.keys - shape.queries; };
}
auto window(Shape shape, Index w) {
  return [=](Site s) { return s.query + shape.keys - shape.queries - s.key < w; };
}
auto prefix(Index n) {
  return [=](Site s) { return s.key < n; };
}
bool odd(Site s) { return (s.query + s.key) % 3 != 0; }

}  // namespace

TEST_CASE("& sees what both see", "[parts][mask][combine]") {
  const auto rule = [](Shape shape) {
    return [a = causal(shape), b = window(shape, 4)](Site s) { return a(s) && b(s); };
  };
  CHECK(support::mask_difference_everywhere(12, mask::causal() & mask::window(4), rule, false) == "");
}

TEST_CASE("| sees what either sees", "[parts][mask][combine]") {
  const auto rule = [](Shape shape) { return [a = causal(shape)](Site s) { return a(s) || s.key < 5; }; };
  CHECK(support::mask_difference_everywhere(12, mask::causal() | mask::prefix(5), rule, false) == "");
}

TEST_CASE("! sees what the mask does not, exactly where the mask is exact", "[parts][mask][combine]") {
  const auto rule = [](Shape shape) { return [a = causal(shape)](Site s) { return !a(s); }; };
  CHECK(support::mask_difference_everywhere(12, !mask::causal(), rule, true) == "");
}

TEST_CASE("! sets no bit behind the span", "[parts][mask][combine]") {
  const auto bound = (!mask::prefix(0)).bind("test", {1, 1, 1, 1, 100});
  CHECK(bound.seen({0, 0, 0}, {10, 13}) == 0b111);
  CHECK(bound.seen({0, 0, 0}, {10, 10}) == 0);
  CHECK(bound.seen({0, 0, 0}, {10, 74}) == ~std::uint64_t{0});
}

TEST_CASE("a sliding window with sink tokens", "[parts][mask][combine]") {
  const auto rule = [](Shape shape) {
    return [a = causal(shape), b = window(shape, 3)](Site s) { return a(s) && (b(s) || s.key < 2); };
  };
  CHECK(support::mask_difference_everywhere(12, mask::causal() & (mask::window(3) | mask::prefix(2)), rule, false) ==
        "");
}

TEST_CASE("every combination of two masks and their complements", "[parts][mask][combine]") {
  const auto compare = [](const auto& m, auto&& rule) {
    return support::mask_difference_everywhere(7, m, rule, false);
  };
  const auto a = mask::causal();
  const auto b = mask::prefix(3);
  CHECK(compare(a & !b, [](Shape n) { return [x = causal(n), y = prefix(3)](Site s) { return x(s) && !y(s); }; }) ==
        "");
  CHECK(compare((!a) & b, [](Shape n) { return [x = causal(n), y = prefix(3)](Site s) { return !x(s) && y(s); }; }) ==
        "");
  CHECK(compare((!a) & !b, [](Shape n) { return [x = causal(n), y = prefix(3)](Site s) { return !x(s) && !y(s); }; }) ==
        "");
  CHECK(compare(a | !b, [](Shape n) { return [x = causal(n), y = prefix(3)](Site s) { return x(s) || !y(s); }; }) ==
        "");
  CHECK(compare((!a) | b, [](Shape n) { return [x = causal(n), y = prefix(3)](Site s) { return !x(s) || y(s); }; }) ==
        "");
  CHECK(compare(!(a & b), [](Shape n) { return [x = causal(n), y = prefix(3)](Site s) { return !(x(s) && y(s)); }; }) ==
        "");
  CHECK(compare(!(a | b), [](Shape n) { return [x = causal(n), y = prefix(3)](Site s) { return !(x(s) || y(s)); }; }) ==
        "");
}

TEST_CASE("a mask whose cover is unknown joins others", "[parts][mask][combine]") {
  const auto m = mask::where(odd);
  CHECK(support::mask_difference_everywhere(
            9, mask::causal() & m, [](Shape n) { return [x = causal(n)](Site s) { return x(s) && odd(s); }; }, false) ==
        "");
  CHECK(support::mask_difference_everywhere(
            9, m | !mask::prefix(4), [](Shape) { return [](Site s) { return odd(s) || s.key >= 4; }; }, false) == "");
  CHECK(support::mask_difference_everywhere(
            9, !m, [](Shape) { return [](Site s) { return !odd(s); }; }, false) == "");
}

TEST_CASE("both sides of & and | are checked", "[parts][mask][combine]") {
  const Shape shape{1, 1, 1, 4, 4};
  const std::string wanted = "fovea::f: the window must be positive, got 0";
  CHECK(support::refusal([&] { (mask::causal() & mask::window(0)).bind("fovea::f", shape); }) == wanted);
  CHECK(support::refusal([&] { (mask::window(0) | mask::causal()).bind("fovea::f", shape); }) == wanted);
  CHECK(support::refusal([&] { (!mask::window(0)).bind("fovea::f", shape); }) == wanted);
}

TEST_CASE("& is none where one side is none and | is full where one side is full", "[parts][mask][combine]") {
  const Shape shape{1, 1, 1, 100, 100};
  const mask::Region late{0, {0, 1}, {0, 10}, {50, 60}}, early{0, {0, 1}, {50, 60}, {0, 10}};
  const auto m = mask::where(odd);
  CHECK((mask::causal() & m).bind("test", shape).cover(late) == mask::Cover::none);
  CHECK((m & mask::causal()).bind("test", shape).cover(late) == mask::Cover::none);
  CHECK((mask::causal() | m).bind("test", shape).cover(early) == mask::Cover::full);
  CHECK((m | mask::causal()).bind("test", shape).cover(early) == mask::Cover::full);
}
