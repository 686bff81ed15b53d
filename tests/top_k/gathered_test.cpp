// Attention over given lists: against the reference, in its limits, with lists that several heads share, and what it
// refuses.
#include <fovea/exec/pool.hpp>
#include <fovea/parts/mask/window.hpp>
#include <fovea/parts/score/each.hpp>
#include <fovea/top_k/gathered.hpp>
#include <random>

#include "support/attention.hpp"
#include "support/parts.hpp"
#include "top_k/gathered.hpp"

using namespace fovea::test;
using fovea::Alignment;
using fovea::Index;
using fovea::Site;
using fovea::select::KeyLists;
using Lists = std::vector<std::vector<Index>>;

namespace {

// For each list some of the keys, of some lists none and of some all.
Lists random_lists(unsigned seed, Index count, Index keys) {
  std::mt19937 random(seed);
  Lists lists(static_cast<std::size_t>(count));
  for (auto& list : lists) {
    const unsigned one_in = 1 + unsigned(random() % 9);
    for (Index j = 0; j < keys; ++j)
      if (one_in < 9 && random() % one_in == 0) list.push_back(j);
  }
  return lists;
}

template <class T, class Exec = fovea::exec::Serial>
Result<T> attention(const Inputs<T>& x, const KeyLists& lists, const fovea::GatheredOptions& options = {},
                    const Exec& executor = {}) {
  auto got = blank<T>(x.sizes());
  fovea::gathered(x.q, x.k, x.v, got.both(), lists, options, executor);
  return got;
}

}  // namespace

TEMPLATE_TEST_CASE("gathered attention is its reference, lists for query heads, kv heads or all", "", float, double) {
  using T = TestType;
  for (const Sizes& s : {Sizes{1, 1, 1, 1, 1, 1, 1}, Sizes{2, 4, 2, 37, 133, 33, 15}, Sizes{1, 4, 1, 1, 500, 64, 64},
                         Sizes{1, 6, 2, 20, 20, 16, 130}}) {
    for (const Index heads : {s.heads, s.kv_heads, Index{1}}) {
      for (const bool causal : {false, true}) {
        INFO(s << " lists for " << heads << " heads, causal " << causal);
        const auto x = gaussian<T>(s, 3);
        const Lists lists = random_lists(5, s.batch * heads * s.queries, s.keys);
        const auto got = attention(x, KeyLists::from_lists(s.batch, heads, s.queries, lists), {.causal = causal});
        CHECK(is_exact(got, x, {.visible = [&](Site at) {
                         const Index h = at.head * heads / s.heads;
                         const auto& list = lists[std::size_t((at.batch * heads + h) * s.queries + at.query)];
                         return std::binary_search(list.begin(), list.end(), at.key) &&
                                (!causal || at.key <= at.query + s.keys - s.queries);
                       }}));
      }
    }
  }
}

TEST_CASE("the reference reads the same lists") {
  const Sizes s{1, 1, 1, 40, 90, 16, 16};
  const auto x = gaussian<double>(s);
  const Lists lists = random_lists(1, 40, 90);
  const auto got = attention(x, KeyLists::from_lists(1, 1, 40, lists));
  const auto wanted =
      fovea::reference::gathered<double>(head(x.q, 0, 0), head(x.k, 0, 0), head(x.v, 0, 0), 0.25, lists);
  CHECK(relative_rms(got.out, wanted.out) < 8 * epsilon<double>);
  CHECK(log_sum_distance(got.log_sum, wanted.log_sum) < 8 * epsilon<double>);
}

TEST_CASE("one key gives its value, no key zeros and -infinity") {
  const auto x = gaussian<float>({1, 1, 1, 3, 10, 8, 8});
  const auto got = attention(x, KeyLists::from_lists(1, 1, 3, {{7}, {}, {0}}));
  CHECK(std::equal(row(got.out, 0, 0, 0), row(got.out, 0, 0, 1), row(x.v, 0, 0, 7)));
  CHECK(all_zero(row(got.out, 0, 0, 1), 8));
  CHECK(got.log_sum(0, 0, 1) == -infinity<float>);
  CHECK(std::equal(row(got.out, 0, 0, 2), row(got.out, 0, 0, 2) + 8, row(x.v, 0, 0, 0)));
}

TEST_CASE("keys that are not listed are as good as not there") {
  const Sizes s{1, 2, 1, 20, 60, 16, 16};
  auto x = gaussian<float>(s);
  Lists lists(20, {1, 2, 3, 30, 59});
  const auto before = attention(x, KeyLists::from_lists(1, 1, 20, lists));
  for (Index j = 0; j < 60; ++j) {
    if (std::binary_search(lists[0].begin(), lists[0].end(), j)) continue;
    std::fill_n(row(x.k, 0, 0, j), 16, not_a_number<float>);
    std::fill_n(row(x.v, 0, 0, j), 16, not_a_number<float>);
  }
  CHECK(same_bits(attention(x, KeyLists::from_lists(1, 1, 20, lists)), before));
}

TEST_CASE("score modifiers and masks of a recipe apply to listed keys, sinks to their sum") {
  namespace mask = fovea::mask;
  const Sizes s{1, 4, 2, 30, 200, 16, 16};
  const auto x = gaussian<float>(s);
  const Lists lists = random_lists(9, 2 * 30, 200);
  const std::vector<double> sinks{0.5, 1, -1, 2};
  auto got = blank<float>(s);
  const auto recipe = fovea::softmax()
                          .score(fovea::score::each([](float score, Site at) { return score - 0.01f * float(at.key); }))
                          .mask(mask::window(150))
                          .sink_logits(sinks);
  fovea::attend_lists(x.q, x.k, x.v, got.both(), recipe, KeyLists::from_lists(1, 2, 30, lists));
  CHECK(is_exact(got, x,
                 {.visible =
                      [&](Site at) {
                        const auto& list = lists[std::size_t(at.head / 2 * 30 + at.query)];
                        return std::binary_search(list.begin(), list.end(), at.key) && at.query + 170 - at.key < 150;
                      },
                  .score = [](double score, Site at) { return score - 0.01f * double(at.key); },
                  .sink_logits = sinks}));
}

TEST_CASE("gathered attention is the same on any number of threads") {
  const auto x = gaussian<float>({2, 4, 2, 90, 90, 32, 32});
  const auto lists = KeyLists::from_lists(2, 2, 90, random_lists(3, 360, 90));
  const auto serial = attention(x, lists, {.causal = true});
  for (const Index threads : {2, 3})
    CHECK(same_bits(attention(x, lists, {.causal = true}, fovea::exec::Pool(threads)), serial));
}

TEST_CASE("gathered refuses lists that do not fit, the output untouched") {
  const auto x = gaussian<float>({1, 4, 2, 2, 8, 4, 4});
  const auto refused = [&](const KeyLists& lists) {
    auto out = x.q;
    out.setConstant(7);
    const auto message = support::refusal([&] { fovea::gathered(x.q, x.k, x.v, out, lists); });
    CHECK(std::all_of(out.data(), out.data() + out.size(), [](float value) { return value == 7; }));
    return message;
  };
  CHECK(refused(KeyLists::from_lists(1, 1, 2, {{0, 8}, {1}})) ==
        "fovea::gathered: a key must lie among the 8 keys, got 8");
  CHECK(refused(KeyLists::from_lists(1, 1, 2, {{0}, {1, 1}})) ==
        "fovea::gathered: the keys of a list must ascend and none stand twice, got 1 after 1");
  CHECK(refused(KeyLists::from_lists(1, 1, 2, {{-1}, {1}})) ==
        "fovea::gathered: a key must lie among the 8 keys, got -1");
  CHECK(refused(KeyLists::from_lists(1, 3, 2, Lists(6))) ==
        "fovea::gathered: the lists must have the heads of q, those of k, or one, wanted 4, 2 or 1, got 3");
  CHECK(refused(KeyLists::from_lists(1, 1, 3, Lists(3))) ==
        "fovea::gathered: the lists must have the batch and the queries of q, wanted 1 and 2, got 1 and 3");
  auto broken = KeyLists::from_lists(1, 1, 2, {{0}, {1}});
  broken.begin[1] = 3;
  CHECK(refused(broken) == "fovea::gathered: the lists must cover their keys in order, 2 lists of 2 keys in all");
  CHECK(support::refusal([] { KeyLists::from_lists(1, 2, 3, Lists(5)); }) ==
        "fovea::select::KeyLists::from_lists: there must be a list for each query, wanted 6, got 5");
}
