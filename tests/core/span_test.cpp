#include "support/catch.hpp"

#include <fovea/core/span.hpp>

using fovea::Index;
using fovea::Span;

namespace {

// The definition of a span: the indices it holds.
unsigned members(Span s) {
  unsigned set = 0;
  for (Index i = s.first; i < s.last; ++i) set |= 1u << i;
  return set;
}

template <class F>
void for_all_pairs(F&& f) {
  for (Index a = 0; a <= 5; ++a)
    for (Index b = 0; b <= 5; ++b)
      for (Index c = 0; c <= 5; ++c)
        for (Index d = 0; d <= 5; ++d) f(Span{a, b}, Span{c, d});
}

}  // namespace

TEST_CASE("size and empty agree with the members", "[core][span]") {
  CHECK(Span{2, 5}.size() == 3);
  CHECK_FALSE(Span{2, 3}.empty());
  CHECK(Span{2, 2}.empty());
  CHECK(Span{3, 2}.empty());
  CHECK(Span{}.empty());
}

TEST_CASE("intersect holds the common members and never has a negative size", "[core][span]") {
  int wrong = 0;
  for_all_pairs([&](Span a, Span b) {
    const Span both = fovea::intersect(a, b);
    wrong += both.size() < 0 || members(both) != (members(a) & members(b));
  });
  CHECK(wrong == 0);
}

TEST_CASE("hull is the smallest span around both and ignores an empty one", "[core][span]") {
  int wrong = 0;
  for_all_pairs([&](Span a, Span b) {
    const unsigned set = members(a) | members(b);
    unsigned wanted = 0;
    for (Index i = 0; i < 6; ++i) {
      const bool before = (set & ((2u << i) - 1)) != 0, behind = (set >> i) != 0;
      if (before && behind) wanted |= 1u << i;
    }
    wrong += members(fovea::hull(a, b)) != wanted;
  });
  CHECK(wrong == 0);
}

TEST_CASE("contains is true for a span inside", "[core][span]") {
  CHECK(Span{2, 5}.contains({2, 5}));
  CHECK(Span{2, 5}.contains({3, 4}));
  CHECK_FALSE(Span{2, 5}.contains({1, 4}));
  CHECK_FALSE(Span{2, 5}.contains({3, 6}));
}
