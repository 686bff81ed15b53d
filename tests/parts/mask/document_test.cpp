#include "support/catch.hpp"

#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/combine.hpp>
#include <fovea/parts/mask/document.hpp>
#include <fovea/parts/mask/where.hpp>
#include <fovea/parts/mask/window.hpp>
#include <vector>

#include "support/parts.hpp"

using fovea::Alignment;
using fovea::Index;
using fovea::Shape;
using fovea::Site;
namespace mask = fovea::mask;
using Boundaries = std::vector<Index>;

namespace {

// The sequence of a token, by counting.
Index document_of(const Boundaries& begin, Index token) {
  for (std::size_t d = 0; d + 1 < begin.size(); ++d)
    if (token >= begin[d] && token < begin[d + 1]) return Index(d);
  return -1;
}

// same sequence, and inner(local site, queries of the sequence, keys of the sequence)
template <class Inner>
auto rule_of(const Boundaries& queries, const Boundaries& keys, Inner inner) {
  return [=](Site s) {
    const Index d = document_of(queries, s.query);
    if (d != document_of(keys, s.key)) return false;
    const auto at = std::size_t(d);
    return inner(Site{s.batch, s.head, s.query - queries[at], s.key - keys[at]}, queries[at + 1] - queries[at],
                 keys[at + 1] - keys[at]);
  };
}

constexpr auto everything = [](Site, Index, Index) { return true; };
constexpr auto causal = [](Site s, Index queries, Index keys) { return s.key <= s.query + keys - queries; };

// Every way to cut `queries` and `keys` tokens into three sequences, empty ones included.
template <class F>
void for_all_cuts(Index queries, Index keys, F&& f) {
  for (Index a = 0; a <= queries; ++a)
    for (Index b = a; b <= queries; ++b)
      for (Index c = 0; c <= keys; ++c)
        for (Index d = c; d <= keys; ++d) f(Boundaries{0, a, b, queries}, Boundaries{0, c, d, keys});
}

}  // namespace

TEST_CASE("document sees the keys of its own sequence, however the axes are cut", "[parts][mask][document]") {
  std::string first;
  for_all_cuts(5, 7, [&](const Boundaries& q, const Boundaries& k) {
    if (first.empty())
      first = support::mask_difference(mask::document(q, k), {1, 1, 1, 5, 7}, rule_of(q, k, everything), false);
  });
  CHECK(first == "");
}

TEST_CASE("document with causal inside is bottom right within each sequence", "[parts][mask][document]") {
  std::string first;
  for_all_cuts(5, 7, [&](const Boundaries& q, const Boundaries& k) {
    if (first.empty())
      first =
          support::mask_difference(mask::document(q, k, mask::causal()), {1, 1, 1, 5, 7}, rule_of(q, k, causal), false);
  });
  CHECK(first == "");
}

TEST_CASE("document with a causal window inside counts within each sequence", "[parts][mask][document]") {
  const auto inner = [](Site s, Index queries, Index keys) {
    return causal(s, queries, keys) && s.query + keys - queries - s.key < 2;
  };
  std::string first;
  for_all_cuts(6, 6, [&](const Boundaries& q, const Boundaries& k) {
    if (first.empty())
      first = support::mask_difference(mask::document(q, k, mask::causal() & mask::window(2)), {1, 1, 1, 6, 6},
                                       rule_of(q, k, inner), false);
  });
  CHECK(first == "");
}

TEST_CASE("document with top left causal inside", "[parts][mask][document]") {
  const auto inner = [](Site s, Index, Index) { return s.key <= s.query; };
  const Boundaries q{0, 3, 3, 8}, k{0, 1, 5, 11};
  CHECK(support::mask_difference(mask::document(q, k, mask::causal(Alignment::top_left)), {1, 1, 1, 8, 11},
                                 rule_of(q, k, inner), false) == "");
}

TEST_CASE("document gives a predicate inside the batch, the head and local indices", "[parts][mask][document]") {
  const auto inner = [](Site s, Index, Index) { return (s.batch + s.head + 2 * s.query + s.key) % 3 == 0; };
  const Boundaries q{0, 3, 8}, k{0, 5, 11};
  const auto m = mask::document(q, k, mask::where([&](Site s) { return inner(s, 0, 0); }));
  CHECK(support::mask_difference(m, {2, 2, 1, 8, 11}, rule_of(q, k, inner), false) == "");
}

TEST_CASE("document of one axis is self-attention of packed sequences", "[parts][mask][document]") {
  const Boundaries cu{0, 4, 4, 5, 11};
  const Shape shape{1, 1, 1, 11, 11};
  CHECK(support::mask_difference(mask::document(cu), shape, rule_of(cu, cu, everything), false) == "");
  CHECK(support::mask_difference(mask::document(cu, mask::causal()), shape, rule_of(cu, cu, causal), false) == "");
}

TEST_CASE("document with one sequence is its inner mask", "[parts][mask][document]") {
  const Boundaries q{0, 5}, k{0, 9};
  CHECK(support::mask_difference(mask::document(q, k, mask::causal()), {1, 1, 1, 5, 9}, rule_of(q, k, causal), true) ==
        "");
}

TEST_CASE("document is full inside a sequence and none between two", "[parts][mask][document]") {
  const auto bound = mask::document(Boundaries{0, 100, 200}).bind("test", {1, 1, 1, 200, 200});
  CHECK(bound.cover({0, {0, 1}, {10, 20}, {30, 90}}) == mask::Cover::full);
  CHECK(bound.cover({0, {0, 1}, {10, 20}, {100, 190}}) == mask::Cover::none);
  CHECK(bound.cover({0, {0, 1}, {90, 110}, {0, 200}}) == mask::Cover::part);
}

TEST_CASE("document on spans of every offset and every size up to a word", "[parts][mask][document]") {
  const Boundaries q{0, 2, 5, 9}, k{0, 70, 75, 150};
  CHECK(support::long_mask_difference(mask::document(q, k), {1, 1, 1, 9, 150}, rule_of(q, k, everything)) == "");
}

TEST_CASE("document of no tokens is legal", "[parts][mask][document]") {
  CHECK(support::refusal([] { mask::document(Boundaries{0}).bind("f", {1, 1, 1, 0, 0}); }) == "accepted");
  CHECK(support::refusal([] { mask::document(Boundaries{0, 0, 0}).bind("f", {1, 1, 1, 0, 0}); }) == "accepted");
}

TEST_CASE("boundaries that do not begin with 0 are refused", "[parts][mask][document]") {
  const Shape shape{1, 1, 1, 4, 6};
  CHECK(support::refusal([&] {
          mask::document(Boundaries{1, 4}, Boundaries{0, 6}).bind("f", shape);
        }) == "f: the boundaries of the queries of a document mask must begin with 0");
  CHECK(support::refusal([&] {
          mask::document(Boundaries{0, 4}, Boundaries{}).bind("f", shape);
        }) == "f: the boundaries of the keys of a document mask must begin with 0");
}

TEST_CASE("boundaries that decrease are refused", "[parts][mask][document]") {
  CHECK(support::refusal([&] {
          mask::document(Boundaries{0, 3, 2, 4}, Boundaries{0, 1, 2, 6}).bind("f", {1, 1, 1, 4, 6});
        }) == "f: the boundaries of the queries of a document mask must not decrease");
}

TEST_CASE("boundaries that do not end with the number of tokens are refused", "[parts][mask][document]") {
  CHECK(support::refusal([&] {
          mask::document(Boundaries{0, 4}, Boundaries{0, 5}).bind("f", {1, 1, 1, 4, 6});
        }) == "f: the boundaries of the keys of a document mask must end with their number, wanted 6, got 5");
}

TEST_CASE("different numbers of sequences of queries and keys are refused", "[parts][mask][document]") {
  CHECK(support::refusal([&] {
          mask::document(Boundaries{0, 4}, Boundaries{0, 5, 6}).bind("f", {1, 1, 1, 4, 6});
        }) == "f: a document mask needs as many sequences of queries as of keys, wanted 1, got 2");
}

TEST_CASE("the mask inside a document is checked", "[parts][mask][document]") {
  CHECK(support::refusal([&] {
          mask::document(Boundaries{0, 4}, mask::window(0)).bind("f", {1, 1, 1, 4, 4});
        }) == "f: the window must be positive, got 0");
}
