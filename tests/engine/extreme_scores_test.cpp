// Scores at the ends of the number line: no finite stand-in for -infinity may show.
#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/window.hpp>
#include <fovea/parts/score/each.hpp>
#include <fovea/parts/score/soft_cap.hpp>

#include "support/attend.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::Site;
namespace mask = fovea::mask;
namespace score = fovea::score;

namespace {

const std::vector<Sizes> shapes = {{1, 2, 2, 75, 75, 1, 15}, {1, 6, 2, 20, 300, 1, 33}, {1, 4, 2, 1, 1500, 1, 16}};

// Queries and keys chosen by f, so that the scores at scale 1 are f(key); rounded, unless the query is 1.
template <class T, class F>
Inputs<T> with_scores(const Sizes& s, F f, double query = 1) {
  auto x = gaussian<T>(s);
  x.q.setConstant(T(query));
  for (Index b = 0; b < s.batch; ++b) {
    for (Index g = 0; g < s.kv_heads; ++g) {
      for (Index j = 0; j < s.keys; ++j) row(x.k, b, g, j)[0] = T(f(j) / query);
    }
  }
  return x;
}

constexpr auto at_one = [] { return fovea::softmax(1.0); };

}  // namespace

TEMPLATE_TEST_CASE("scores that are all -1e30 or +1e30 give the mean", "", float, double) {
  for (const Sizes& s : shapes) {
    for (const double level : {-1e30, 1e30, -1e38, 1e38}) {
      INFO(s << " at " << level);
      const auto x = with_scores<TestType>(s, [&](Index) { return level; });
      CHECK(is_exact(attention(x, at_one()), x, {.scale = 1.0}));
      const auto causal = attention(x, at_one().mask(mask::causal()));
      const auto visible = [&](Site at) { return at.key <= at.query + s.keys - s.queries; };
      CHECK(is_exact(causal, x, {.scale = 1.0, .visible = visible}));
      const auto narrow = attention(x, at_one().mask(mask::causal() & mask::window(3)));
      const auto near = [&](Site at) { return visible(at) && at.query + s.keys - s.queries - at.key < 3; };
      CHECK(is_exact(narrow, x, {.scale = 1.0, .visible = near}));
    }
  }
}

TEMPLATE_TEST_CASE("a bias of -1e30 on every score gives the mean of the values", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const auto low = score::each([](TestType value, Site) { return value - TestType(1e30); });
    const auto got = attention(x, fovea::softmax().score(low));
    auto flat = x;
    flat.q.setZero();
    CHECK(relative_rms(got.out, expected(flat).out) < budget(flat, {}, expected(flat)) * epsilon<TestType>);
    for (Index r = 0; r < got.log_sum.size(); ++r)
      CHECK(std::abs(got.log_sum.data()[r] / TestType(-1e30) - 1) < 4 * epsilon<TestType>);
  }
}

TEMPLATE_TEST_CASE("scores of +1e30 beat those of -1e30 wherever they stand", "", float, double) {
  for (const Sizes& s : shapes) {
    for (const Index period : {2, 17, 64, 70}) {
      for (const bool late : {false, true}) {
        INFO(s << ", every " << period << (late ? ", late" : ", early"));
        const auto high = [&](Index j) { return late ? j % period == period - 1 : j % period == 0; };
        const auto x = with_scores<TestType>(s, [&](Index j) { return high(j) ? 1e30 : -1e30; });
        CHECK(is_exact(attention(x, at_one()), x, {.scale = 1.0}));
        const auto got = attention(x, at_one().mask(mask::causal()));
        CHECK(is_exact(got, x,
                       {.scale = 1.0, .visible = [&](Site at) { return at.key <= at.query + s.keys - s.queries; }}));
      }
    }
  }
}

TEMPLATE_TEST_CASE("one score of zero among those of -1e30 takes all the weight, bit for bit", "", float, double) {
  for (const Sizes& s : shapes) {
    for (const Index at : {Index{0}, s.keys / 2, s.keys - 1}) {
      INFO(s << ", key " << at);
      const auto x = with_scores<TestType>(s, [&](Index j) { return j == at ? 0.0 : -1e30; });
      const auto got = attention(x, at_one());
      for (Index h = 0; h < s.heads; ++h) {
        for (Index i = 0; i < s.queries; ++i) {
          const TestType* value = row(x.v, 0, h * s.kv_heads / s.heads, at);
          REQUIRE(std::equal(value, value + s.value_dim, row(got.out, 0, h, i)));
          REQUIRE(got.log_sum(0, h, i) == 0);
        }
      }
    }
  }
}

TEMPLATE_TEST_CASE("rows of one tile that live at different heights", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const auto height = [](Index i) { return (i % 3 == 0 ? -1e30 : i % 3 == 1 ? 1e30 : 0.0); };
    const auto lift = score::each([=](TestType v, Site at) { return TestType(v + TestType(height(at.query))); });
    Model<TestType> model;
    model.score = [=](Exact<TestType> v, Site at) {
      return Exact<TestType>(TestType(TestType(v) + TestType(height(at.query))));
    };
    const auto wanted = expected(x, model);
    const auto got = attention(x, fovea::softmax().score(lift));
    CHECK(relative_rms(got.out, wanted.out) < budget(x, model, wanted) * epsilon<TestType>);
  }
}

TEMPLATE_TEST_CASE("scores that climb from tile to tile", "", float, double) {
  for (const Sizes& s : shapes) {
    for (const double slope : {0.05, -0.05, 1.0, -1.0, 30.0, -30.0}) {
      INFO(s << ", slope " << slope);
      const auto x = with_scores<TestType>(
          s, [&](Index j) { return slope * double(j); }, 0.7);
      // A score is rounded twice, as a product and on the way to base 2, to half an epsilon of itself each time.
      const double known_to = 8 + std::abs(slope) * double(s.keys);
      CHECK(distance_in_epsilons(attention(x, at_one()), expected(x, {.scale = 1.0})) < known_to);
    }
  }
}

TEMPLATE_TEST_CASE("products that overflow to -infinity are not seen", "", float, double) {
  const double root = std::is_same_v<TestType, float> ? 1e25 : 1e200;
  for (const Sizes& s : shapes) {
    INFO(s);
    auto x = with_scores<TestType>(s, [&](Index j) { return j % 3 == 1 ? -root : 0.0; });
    x.q.setConstant(TestType(root));
    CHECK(is_exact(attention(x, at_one()), x, {.scale = 1.0, .visible = [](Site at) { return at.key % 3 != 1; }}));

    x = with_scores<TestType>(s, [&](Index) { return -root; });
    x.q.setConstant(TestType(root));
    const auto none = attention(x, at_one());
    CHECK(all_zero(none.out.data(), none.out.size()));
    CHECK(std::all_of(none.log_sum.data(), none.log_sum.data() + none.log_sum.size(),
                      [](TestType l) { return l == -infinity<TestType>; }));
  }
}

TEMPLATE_TEST_CASE("a soft cap saturates", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = with_scores<TestType>(s, [](Index j) {
      return j % 4 == 0 ? 1e30 : j % 4 == 1 ? -1e30 : 0.1 * double(j % 50);
    });
    Model<TestType> model{.scale = 1.0};
    model.score = [](Exact<TestType> v, Site) { return 20 * std::tanh(v / 20); };
    CHECK(is_exact(attention(x, at_one().score(score::soft_cap(20))), x, model));
  }
}

TEMPLATE_TEST_CASE("a soft cap takes a product that overflows to the cap", "", float, double) {
  const double root = std::is_same_v<TestType, float> ? 1e25 : 1e200;
  const Sizes s{1, 1, 1, 9, 40, 1, 15};
  auto x = with_scores<TestType>(s, [&](Index j) { return j == 7 ? root : 0.0; });
  x.q.setConstant(TestType(root));
  auto capped = with_scores<TestType>(s, [&](Index j) { return j == 7 ? 3.0 : 0.0; });
  capped.q.setConstant(TestType(1));
  const auto got = attention(x, at_one().score(score::soft_cap(3)));
  CHECK(distance_in_epsilons(got, expected(capped, {.scale = 1.0})) < 8);
}

TEMPLATE_TEST_CASE("a sink beside extreme scores", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const std::vector<double> sinks(std::size_t(s.heads), 3.0);
    const auto low = with_scores<TestType>(s, [](Index) { return -1e30; });
    const auto nothing = attention(low, at_one().sink_logits(sinks));
    CHECK(all_zero(nothing.out.data(), nothing.out.size()));
    CHECK(std::abs(nothing.log_sum(0, 0, 0) / TestType(-1e30) - 1) < 4 * epsilon<TestType>);

    const auto high = with_scores<TestType>(s, [](Index) { return 1e30; });
    CHECK(is_exact(attention(high, at_one().sink_logits(sinks)), high, {.scale = 1.0}));

    // Scores of this height are known to 40 / 2 epsilons, and so is the sum relative to the sink.
    const auto far = with_scores<TestType>(
        s, [](Index j) { return j % 2 == 0 ? -40.0 : -60.0; }, 0.7);
    const auto wanted = expected(far, {.scale = 1.0, .sink_logits = sinks});
    CHECK(distance_in_epsilons(attention(far, at_one().sink_logits(sinks)), wanted) < 40);
  }
}

TEMPLATE_TEST_CASE("denormal values come out denormal", "", float, double) {
  const TestType tiny = std::numeric_limits<TestType>::denorm_min() * 1000;
  for (const Sizes& s : shapes) {
    INFO(s);
    auto x = gaussian<TestType>(s);
    x.v.setConstant(tiny);
    const auto got = attention(x, fovea::softmax());
    // Every product of a weight and a value rounds to half the smallest number; the mean of those roundings stays.
    for (Index n = 0; n < got.out.size(); ++n)
      REQUIRE(std::abs(got.out.data()[n] - tiny) <= 100 * std::numeric_limits<TestType>::denorm_min());
  }
}

TEMPLATE_TEST_CASE("denormal queries and keys count as what they are", "", float, double) {
  const TestType tiny = std::numeric_limits<TestType>::denorm_min() * 1000;
  for (const Sizes& s : shapes) {
    INFO(s);
    auto x = gaussian<TestType>(s);
    x.q.setConstant(tiny);
    CHECK(is_exact(attention(x, fovea::softmax()), x));
    x = gaussian<TestType>(s);
    x.k.setConstant(tiny);
    CHECK(is_exact(attention(x, fovea::softmax()), x));
    // Denormal queries whose scores are of the order of one.
    x = gaussian<TestType>(s);
    x.q.setConstant(std::numeric_limits<TestType>::min() / 4);
    for (Index n = 0; n < x.k.size(); ++n) x.k.data()[n] /= std::numeric_limits<TestType>::min();
    CHECK(is_exact(attention(x, at_one()), x, {.scale = 1.0}));
  }
}
