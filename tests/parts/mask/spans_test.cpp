#include <fovea/parts/mask/spans.hpp>

#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/combine.hpp>
#include <random>
#include <vector>

#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Index;
using fovea::Shape;
using fovea::Site;
using fovea::Span;
namespace mask = fovea::mask;
using Lists = std::vector<std::vector<Span>>;

namespace {

// Spans of random length, in any order, some of which overlap or touch.
Lists random_lists(unsigned seed, Index count, Index keys) {
  std::mt19937 random(seed);
  Lists lists(static_cast<std::size_t>(count));
  for (auto& list : lists) {
    for (Index n = Index(random() % 4); n > 0; --n) {
      const Index first = Index(random() % std::uint32_t(keys));
      list.push_back({first, std::min(first + Index(random() % 5), keys)});
    }
  }
  return lists;
}

bool listed(const std::vector<Span>& list, Index key) {
  return std::any_of(list.begin(), list.end(), [&](Span s) { return s.first <= key && key < s.last; });
}

}  // namespace

TEST_CASE("spans sees the keys of its spans, whatever their order and overlap", "[parts][mask][spans]") {
  for (const Index query_block : {1, 2, 5, 20}) {
    for (unsigned seed = 0; seed < 6; ++seed) {
      const Index queries = 7, keys = 13, rows = (queries + query_block - 1) / query_block;
      const Lists lists = random_lists(seed, rows, keys);
      const auto table = mask::SpanTable::from_lists(query_block, rows, lists);
      const auto rule = [&](Site s) { return listed(lists[std::size_t(s.query / query_block)], s.key); };
      const Shape shape{1, 1, 1, queries, keys};
      CAPTURE(query_block, seed);
      CHECK(support::mask_difference(mask::spans(table), shape, rule, true) == "");
      const auto both = [&](Site s) { return rule(s) && s.key <= s.query + keys - queries; };
      CHECK(support::mask_difference(mask::spans(table) & mask::causal(), shape, both, false) == "");
      CHECK(support::mask_difference(mask::causal() & mask::spans(table), shape, both, false) == "");
    }
  }
}

TEST_CASE("span tables for each batch and for the heads of q or of k", "[parts][mask][spans]") {
  const Shape shape{2, 6, 3, 3, 6};
  for (const Index heads : {6, 3, 1}) {
    for (const Index batch : {1, 2}) {
      const Lists lists = random_lists(9, batch * heads * 2, 6);
      const auto table = mask::SpanTable::from_lists(2, 2, lists, batch, heads);
      const auto rule = [&](Site s) {
        const Index b = batch == 1 ? 0 : s.batch, h = s.head / (6 / heads);
        return listed(lists[std::size_t((b * heads + h) * 2 + s.query / 2)], s.key);
      };
      CAPTURE(heads, batch);
      CHECK(support::mask_difference(mask::spans(table), shape, rule, true) == "");
      CHECK(mask::spans(table).bind("f", shape).grain() == mask::Grain{2, 1, heads == 6});
    }
  }
}

TEST_CASE("more lists in a region than are merged still show what they hold", "[parts][mask][spans]") {
  const Index queries = 100, keys = 200;
  const Lists lists = random_lists(3, queries, keys);
  const auto bound = mask::spans(mask::SpanTable::from_lists(1, queries, lists)).bind("f", {1, 1, 1, queries, keys});
  std::vector<bool> shown(std::size_t(keys), false);
  Index end = 0;
  bound.each_span({0, {0, 1}, {0, queries}, {0, keys}}, [&](Span span, bool full) {
    CHECK(span.first >= end);
    CHECK(!full);
    end = span.last;
    for (Index j = span.first; j < span.last; ++j) shown[std::size_t(j)] = true;
  });
  for (const auto& list : lists) {
    for (const Span span : list) {
      for (Index j = span.first; j < span.last; ++j) CHECK(shown[std::size_t(j)]);
    }
  }
}

TEST_CASE("span tables that do not fit are refused", "[parts][mask][spans]") {
  const Shape shape{1, 4, 2, 8, 8};
  const auto refusal = [&](const mask::SpanTable& table) {
    return support::refusal([&] { mask::spans(table).bind("f", shape); });
  };
  mask::SpanTable good = mask::SpanTable::from_lists(4, 2, {{{0, 3}, {5, 8}}, {}});
  CHECK(refusal(good) == "accepted");
  CHECK(refusal(mask::SpanTable::from_lists(8, 2, Lists(2))) ==
        "f: a table must have a list for each query block, wanted 1, got 2");
  CHECK(refusal(mask::SpanTable::from_lists(4, 2, {{{0, 9}}, {}})) ==
        "f: a span must lie among the 8 keys, got [0, 9)");
  auto table = good;
  table.spans[1] = {2, 4};
  CHECK(refusal(table) ==
        "f: the spans of a list must ascend, not overlap and not be empty, got [2, 4) after a key of 3");
  table.spans[1] = {4, 4};
  CHECK(refusal(table) ==
        "f: the spans of a list must ascend, not overlap and not be empty, got [4, 4) after a key of 3");
  table = good;
  table.query_block = 0;
  CHECK(refusal(table) == "f: blocks must have a positive size, got 0");
  table = good;
  table.begin.back() = 7;
  CHECK(refusal(table) == "f: the lists of a table must cover its entries in order, 2 lists of 2 entries in all");
  CHECK(support::refusal([] { mask::SpanTable::from_lists(4, 2, Lists(3)); }) ==
        "fovea::mask::SpanTable::from_lists: there must be a list for each query block, wanted 2, got 3");
}
