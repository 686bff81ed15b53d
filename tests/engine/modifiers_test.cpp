// The order of things: scale, then score modifiers left to right, then the mask.
#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/prefix.hpp>
#include <fovea/parts/score/alibi.hpp>
#include <fovea/parts/score/each.hpp>
#include <fovea/parts/score/soft_cap.hpp>

#include "support/attend.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::Site;
namespace mask = fovea::mask;
namespace score = fovea::score;

namespace {

const std::vector<Sizes> shapes = {{1, 2, 2, 75, 75, 17, 15}, {2, 4, 2, 20, 150, 16, 33}, {1, 4, 2, 1, 900, 33, 16}};

}  // namespace

TEMPLATE_TEST_CASE("modifiers see scaled scores", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const auto cube = score::each([](TestType v, Site) { return v * v * v; });
    Model<TestType> model{.scale = 0.2};
    model.score = [](Exact<TestType> v, Site) { return v * v * v; };
    CHECK(is_exact(attention(x, fovea::softmax(0.2).score(cube)), x, model));
  }
}

TEMPLATE_TEST_CASE("modifiers apply left to right", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s, 1, 3);
    const std::vector<double> slopes(std::size_t(s.heads), 0.125);
    const auto distance = [&](Site at) {
      return Exact<TestType>(std::abs(at.query + s.keys - s.queries - at.key)) / Exact<TestType>(8);
    };
    Model<TestType> cap_first, cap_last;
    cap_first.score = [&](Exact<TestType> v, Site at) { return 4 * std::tanh(v / 4) - distance(at); };
    cap_last.score = [&](Exact<TestType> v, Site at) { return 4 * std::tanh((v - distance(at)) / 4); };
    const auto first = attention(x, fovea::softmax().score(score::soft_cap(4)).score(score::alibi(slopes)));
    const auto last = attention(x, fovea::softmax().score(score::alibi(slopes)).score(score::soft_cap(4)));
    CHECK(is_exact(first, x, cap_first));
    CHECK(is_exact(last, x, cap_last));
    CHECK(relative_rms(first.out, last.out) > 0.01);
  }
}

TEMPLATE_TEST_CASE("three modifiers apply left to right", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const auto add = score::each([](TestType v, Site) { return v + TestType(1); });
    const auto square = score::each([](TestType v, Site) { return v * v; });
    const auto halve = score::each([](TestType v, Site) { return v / TestType(2) - TestType(3); });
    Model<TestType> model;
    model.score = [](Exact<TestType> v, Site) { return (v + 1) * (v + 1) / 2 - 3; };
    CHECK(is_exact(attention(x, fovea::softmax().score(add).score(square).score(halve)), x, model));
  }
}

TEMPLATE_TEST_CASE("the mask comes last, wherever it stands in the recipe", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    // Lifts every score that the mask hides above all others, and makes some of them infinite or NaN.
    const Index offset = s.keys - s.queries;
    const auto lift = score::each([=](TestType v, Site at) {
      if (at.key <= at.query + offset) return v;
      return at.key % 3 == 0 ? TestType(1e30) : at.key % 3 == 1 ? infinity<TestType> : not_a_number<TestType>;
    });
    const auto plain = attention(x, fovea::softmax().mask(mask::causal()).score(score::soft_cap(4)));
    const auto after = attention(x, fovea::softmax().score(score::soft_cap(4)).score(lift).mask(mask::causal()));
    const auto before = attention(x, fovea::softmax().mask(mask::causal()).score(score::soft_cap(4)).score(lift));
    CHECK(same_bits(after, plain));
    CHECK(same_bits(before, plain));
  }
}

TEMPLATE_TEST_CASE("a soft cap never sees a masked score", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    // If hidden scores were capped they would be about -1 and take part.
    Model<TestType> model;
    model.visible = [&](Site at) { return at.key < 5; };
    model.score = [](Exact<TestType> v, Site) { return std::tanh(v); };
    CHECK(is_exact(attention(x, fovea::softmax().score(score::soft_cap(1)).mask(mask::prefix(5))), x, model));
  }
}

TEMPLATE_TEST_CASE("masks given one after the other hide more and more", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const auto twice = attention(x, fovea::softmax().mask(mask::causal()).mask(mask::prefix(s.keys - 3)));
    const auto once = attention(x, fovea::softmax().mask(mask::causal() & mask::prefix(s.keys - 3)));
    CHECK(same_bits(twice, once));
  }
}

TEMPLATE_TEST_CASE("modifiers know batch, head, query and key", "", float, double) {
  const Sizes s{2, 4, 2, 37, 70, 16, 15};
  const auto x = gaussian<TestType>(s);
  const auto rule = [](Site at) {
    return double(at.batch) * 0.5 - double(at.head) * 0.25 + double((at.query * 3 + at.key * 5) % 7) * 0.125;
  };
  Model<TestType> model;
  model.score = [&](Exact<TestType> v, Site at) {
    return v + Exact<TestType>(rule(at)) * Exact<TestType>(at.head + 1);
  };
  const auto each = score::each([=](TestType v, Site at) { return v + TestType(rule(at)) * TestType(at.head + 1); });
  CHECK(is_exact(attention(x, fovea::softmax().score(each)), x, model));
}
