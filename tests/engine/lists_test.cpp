// Masks that list their keys: scattered keys are gathered into tiles, on both paths of the engine.
#include <fovea/engine/attend.hpp>
#include <fovea/exec/pool.hpp>
#include <fovea/parts/mask/blocks.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/spans.hpp>
#include <fovea/parts/score/alibi.hpp>

#include "support/attend.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::Site;
using fovea::Span;
namespace mask = fovea::mask;
namespace score = fovea::score;

namespace {

const std::vector<Sizes> shapes = {{2, 4, 2, 75, 75, 17, 15},  {1, 6, 2, 70, 200, 33, 32}, {1, 3, 3, 90, 40, 16, 16},
                                   {1, 8, 2, 1, 1700, 64, 64}, {1, 6, 1, 3, 300, 15, 33},  {1, 2, 1, 5, 7, 1, 1}};

std::uint64_t hash(Index a, Index b, Index c) {
  return (std::uint64_t(a) * 0x9E3779B97F4A7C15u + std::uint64_t(b) * 0xC2B2AE3D27D4EB4Fu + std::uint64_t(c)) *
             0xD6E8FEB86659FD93u >>
         32;
}

// Short spans with gaps, other ones for each list; some lists are empty.
mask::SpanTable spans(const Sizes& s, Index query_block, Index batch, Index heads) {
  const Index rows = (s.queries + query_block - 1) / query_block;
  std::vector<std::vector<Span>> lists(std::size_t(batch * heads * rows));
  for (Index n = 0; n < Index(lists.size()); ++n) {
    if (hash(n, 1, 0) % 7 == 0) continue;
    for (Index first = Index(hash(n, 2, 0) % 9); first < s.keys;) {
      const Index last = std::min(s.keys, first + 1 + Index(hash(n, 3, first) % 6));
      lists[std::size_t(n)].push_back({first, last});
      first = last + 1 + Index(hash(n, 4, first) % 20);
    }
  }
  return mask::SpanTable::from_lists(query_block, rows, lists, batch, heads);
}

std::function<bool(Site)> visible(const mask::SpanTable& table, const Sizes& s) {
  return [table, s](Site at) {
    const Index b = table.batch == 1 ? 0 : at.batch, h = at.head * table.heads / s.heads;
    const Span list = table.list(b, h, at.query / table.query_block);
    for (Index n = list.first; n < list.last; ++n) {
      if (table.keys(n).first <= at.key && at.key < table.keys(n).last) return true;
    }
    return false;
  };
}

}  // namespace

TEMPLATE_TEST_CASE("scattered spans, shared, by kv head or by query head, causal and with a score modifier", "", float,
                   double) {
  for (const Sizes& s : shapes) {
    for (const Index heads : {Index{1}, s.kv_heads, s.heads}) {
      for (const Index query_block : {3, 32}) {
        INFO(s << " heads " << heads << " query block " << query_block);
        const auto x = gaussian<TestType>(s);
        const auto table = spans(s, query_block, heads == s.heads ? s.batch : 1, heads);
        const auto seen = visible(table, s);
        CHECK(is_exact(attention(x, fovea::softmax().mask(mask::spans(table))), x, Model<TestType>{.visible = seen}));

        const Index offset = s.keys - s.queries;
        const auto slopes = score::alibi_slopes(s.heads);
        Model<TestType> model;
        model.visible = [=](Site at) { return seen(at) && at.key <= at.query + offset; };
        model.score = [=](Exact<TestType> v, Site at) {
          return v -
                 Exact<TestType>(slopes[std::size_t(at.head)]) * Exact<TestType>(std::abs(at.query + offset - at.key));
        };
        const auto recipe = fovea::softmax().mask(mask::causal()).mask(mask::spans(table)).score(score::alibi(slopes));
        CHECK(is_exact(attention(x, recipe), x, model));
      }
    }
  }
}

TEST_CASE("lists give the same bits on any number of threads") {
  auto some = shapes;
  some.push_back({1, 2, 1, 700, 300, 16, 16});
  for (const Sizes& s : some) {
    for (const Index query_block : {1, 16, 100, 128, 521}) {
      INFO(s << " query block " << query_block);
      const auto x = gaussian<float>(s);
      const auto recipe = fovea::softmax().mask(mask::spans(spans(s, query_block, 1, s.heads)));
      CHECK(same_bits(attention(x, recipe), attention(x, recipe, fovea::exec::Pool(3))));
    }
  }
}

TEST_CASE("what no list names may be infinite or NaN, keys and values alike") {
  for (const Sizes& s : shapes) {
    INFO(s);
    auto x = gaussian<float>(s);
    const auto table = spans(s, 1000, 1, 1);
    const auto seen = visible(table, s);
    const auto recipe = fovea::softmax().mask(mask::spans(table));
    const auto clean = attention(x, recipe);
    for (Index b = 0; b < s.batch; ++b) {
      for (Index g = 0; g < s.kv_heads; ++g) {
        for (Index j = 0; j < s.keys; ++j) {
          if (seen({0, 0, 0, j})) continue;
          std::fill_n(row(x.k, b, g, j), s.dim, not_a_number<float>);
          std::fill_n(row(x.v, b, g, j), s.value_dim, infinity<float>);
        }
      }
    }
    CHECK(same_bits(attention(x, recipe), clean));
  }
}

TEST_CASE("an infinite value of a listed key spoils the rows that see it and no other") {
  const Sizes s{1, 1, 1, 90, 200, 32, 48};
  auto x = gaussian<float>(s);
  const auto table = spans(s, 5, 1, 1);
  const auto seen = visible(table, s);
  const auto recipe = fovea::softmax().mask(mask::spans(table));
  const auto clean = attention(x, recipe);
  const Index key = 77;
  row(x.v, 0, 0, key)[3] = infinity<float>;
  const auto got = attention(x, recipe);
  Index spoiled = 0;
  for (Index i = 0; i < s.queries; ++i) {
    const bool sees = seen({0, 0, i, key});
    spoiled += sees ? 1 : 0;
    CHECK(std::isinf(row(got.out, 0, 0, i)[3]) == sees);
    if (!sees) CHECK(same_row(got, clean, 0, 0, i));
  }
  CHECK(spoiled > 0);
}
