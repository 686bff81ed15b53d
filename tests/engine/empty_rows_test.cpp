// Rows that see nothing and calls that have nothing to do.
#include <fovea/engine/attend.hpp>
#include <fovea/exec/pool.hpp>
#include <fovea/parts/combine/merge.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/prefix.hpp>
#include <fovea/parts/mask/where.hpp>
#include <fovea/parts/score/each.hpp>
#include <fovea/parts/score/soft_cap.hpp>

#include "support/attend.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::Site;
namespace mask = fovea::mask;
namespace score = fovea::score;

namespace {

const std::vector<Sizes> shapes = {{2, 4, 2, 70, 90, 17, 15}, {1, 4, 2, 1, 700, 16, 16}, {1, 3, 1, 2, 5, 16, 33}};

template <class T>
bool is_empty(const Result<T>& r) {
  return all_zero(r.out.data(), r.out.size()) &&
         std::all_of(r.log_sum.data(), r.log_sum.data() + r.log_sum.size(), [](T x) { return x == -infinity<T>; });
}

}  // namespace

TEMPLATE_TEST_CASE("a mask that hides everything gives zero and -infinity", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    CHECK(is_empty(attention(x, fovea::softmax().mask(mask::prefix(0)))));
    CHECK(is_empty(attention(x, fovea::softmax().mask(mask::where([](Site) { return false; })))));
    CHECK(is_empty(attention(x, fovea::softmax().mask(!mask::prefix(s.keys)))));
    CHECK(is_empty(attention(x, fovea::softmax().mask(mask::prefix(0)).score(score::soft_cap(3)))));
  }
}

TEMPLATE_TEST_CASE("a sink does not change what a row that sees nothing gives", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const std::vector<double> sinks(std::size_t(s.heads), 0.5);
    CHECK(is_empty(attention(x, fovea::softmax().mask(mask::prefix(0)).sink_logits(sinks))));
    CHECK(is_empty(attention(x, fovea::softmax().mask(mask::where([](Site) { return false; })).sink_logits(sinks))));
  }
}

TEMPLATE_TEST_CASE("scores that are all -infinity give zero and -infinity", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const auto low = score::each([](TestType, Site) { return -infinity<TestType>; });
    CHECK(is_empty(attention(x, fovea::softmax().score(low))));
    CHECK(is_empty(attention(x, fovea::softmax().mask(mask::causal()).score(low))));
  }
}

TEMPLATE_TEST_CASE("some rows see nothing and their neighbours are as the reference says", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const auto visible = [](Site at) { return (at.query + at.head) % 3 != 0 && at.key % 2 == 0; };
    const auto got = attention(x, fovea::softmax().mask(mask::where(visible)));
    CHECK(is_exact(got, x, {.visible = visible}));
  }
}

TEMPLATE_TEST_CASE("causal queries before the first key see nothing", "", float, double) {
  const auto x = gaussian<TestType>({1, 2, 1, 40, 25, 17, 15});
  const auto got = attention(x, fovea::softmax().mask(mask::causal()));
  for (Index h = 0; h < 2; ++h) {
    for (Index i = 0; i < 40; ++i) {
      INFO("query " << i);
      CHECK(all_zero(row(got.out, 0, h, i), 15) == (i < 15));
      CHECK((got.log_sum(0, h, i) == -infinity<TestType>) == (i < 15));
    }
  }
}

TEMPLATE_TEST_CASE("no keys: every row sees nothing", "", float, double) {
  for (const Sizes& s : {Sizes{2, 4, 2, 70, 0, 17, 15}, Sizes{1, 4, 2, 1, 0, 16, 16}}) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    CHECK(is_empty(attention(x, fovea::softmax())));
    CHECK(is_empty(attention(x, fovea::softmax().mask(mask::causal()))));
    CHECK(is_empty(attention(x, fovea::softmax().score(score::soft_cap(2)).sink_logits({1, 2, 3, 4}))));
  }
}

TEMPLATE_TEST_CASE("no batch, no heads or no queries: nothing is done", "", float, double) {
  const fovea::exec::Pool pool(2);
  for (const Sizes& s : {Sizes{0, 4, 2, 7, 9, 17, 15}, Sizes{2, 0, 2, 7, 9, 17, 15}, Sizes{2, 0, 0, 7, 9, 17, 15},
                         Sizes{2, 4, 2, 0, 9, 17, 15}, Sizes{2, 4, 2, 0, 0, 17, 15}, Sizes{0, 0, 0, 0, 0, 17, 15}}) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    auto got = blank<TestType>(s);
    CHECK_NOTHROW(fovea::attend(x.q, x.k, x.v, got.both(), fovea::softmax()));
    CHECK_NOTHROW(fovea::attend(x.q, x.k, x.v, got.both(), fovea::softmax().mask(mask::causal()), pool));
    CHECK(all_nan(got.out.data(), got.out.size()));
  }
}

TEMPLATE_TEST_CASE("values of no width: the log-sums are as ever", "", float, double) {
  const Sizes s{1, 2, 1, 20, 30, 16, 0};
  const auto x = gaussian<TestType>(s);
  const auto got = attention(x, fovea::softmax());
  CHECK(log_sum_distance(got.log_sum, expected(x).log_sum) < 8 * epsilon<TestType>);
}

TEMPLATE_TEST_CASE("values of no width and rows that see nothing", "", float, double) {
  const Sizes s{1, 2, 1, 5, 9, 4, 0};
  const auto x = gaussian<TestType>(s);
  for (const auto& got : {attention(x, fovea::softmax().mask(mask::prefix(0))),
                          attention(x, fovea::softmax().mask(mask::prefix(0)).as_prefill())})
    CHECK(is_empty(got));
}

TEMPLATE_TEST_CASE("merging two empty results gives the empty result", "", float, double) {
  const Sizes s{1, 2, 2, 5, 0, 8, 15};
  auto a = attention(gaussian<TestType>(s), fovea::softmax()), b = a, merged = blank<TestType>(s);
  fovea::combine::merge(a.both(), b.both(), merged.both());
  CHECK(is_empty(merged));
}

TEMPLATE_TEST_CASE("merging with an empty result changes no bit", "", float, double) {
  const Sizes s{1, 2, 2, 5, 33, 8, 15};
  auto full = attention(gaussian<TestType>(s), fovea::softmax()), merged = blank<TestType>(s);
  auto none = attention(gaussian<TestType>(s), fovea::softmax().mask(mask::prefix(0)));
  fovea::combine::merge(full.both(), none.both(), merged.both());
  CHECK(same_bits(merged, full));
  fovea::combine::merge(none.both(), full.both(), merged.both());
  CHECK(same_bits(merged, full));
}
