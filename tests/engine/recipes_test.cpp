// Several masks and scores composed, against the reference.
#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/document.hpp>
#include <fovea/parts/mask/prefix.hpp>
#include <fovea/parts/mask/where.hpp>
#include <fovea/parts/mask/window.hpp>
#include <fovea/parts/score/alibi.hpp>
#include <fovea/parts/score/bias.hpp>
#include <fovea/parts/score/each.hpp>
#include <fovea/parts/score/soft_cap.hpp>

#include "support/attend.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::Site;
namespace mask = fovea::mask;
namespace score = fovea::score;

namespace {

const std::vector<Sizes> shapes = {{2, 4, 2, 75, 75, 17, 15},  {1, 6, 2, 20, 150, 33, 33}, {1, 3, 3, 90, 40, 16, 16},
                                   {2, 8, 2, 1, 1100, 64, 64}, {1, 6, 1, 3, 300, 15, 33},  {1, 2, 1, 5, 7, 1, 1}};

bool hashed(Site at) { return ((at.query * 7 + at.key * 13 + at.head * 5 + at.batch * 3) % 11) % 3 != 0; }

}  // namespace

TEMPLATE_TEST_CASE("streaming window: causal & (window | prefix), ALiBi and sinks", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const Index offset = s.keys - s.queries;
    const auto slopes = score::alibi_slopes(s.heads);
    const std::vector<double> sinks(std::size_t(s.heads), -0.5);
    Model<TestType> model{.sink_logits = sinks};
    model.visible = [=](Site at) {
      const Index p = at.query + offset;
      return at.key <= p && (p - at.key < 12 || at.key < 4);
    };
    model.score = [=](Exact<TestType> v, Site at) {
      return v - Exact<TestType>(slopes[std::size_t(at.head)]) * Exact<TestType>(std::abs(at.query + offset - at.key));
    };
    const auto recipe = fovea::softmax()
                            .mask(mask::causal() & (mask::window(12) | mask::prefix(4)))
                            .score(score::alibi(slopes))
                            .sink_logits(sinks);
    CHECK(is_exact(attention(x, recipe), x, model));
  }
}

TEMPLATE_TEST_CASE("prefix language model with top-left alignment and a soft cap", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s, 2, 3);
    Model<TestType> model{.scale = 0.3};
    model.visible = [](Site at) { return at.key <= at.query || at.key < 9; };
    model.score = [](Exact<TestType> v, Site) { return 5 * std::tanh(v / 5); };
    const auto recipe =
        fovea::softmax(0.3).mask(mask::causal(fovea::Alignment::top_left) | mask::prefix(9)).score(score::soft_cap(5));
    CHECK(is_exact(attention(x, recipe), x, model));
  }
}

TEMPLATE_TEST_CASE("a dense bias for each head, over a user's predicate", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    Tensor4<TestType> table(1, s.heads, s.queries, s.keys);
    fill_gaussian(table, 11);
    Model<TestType> model;
    model.visible = hashed;
    model.score = [&](Exact<TestType> v, Site at) { return v + Exact<TestType>(table(0, at.head, at.query, at.key)); };
    CHECK(is_exact(attention(x, fovea::softmax().mask(mask::where(hashed)).score(score::bias(table))), x, model));
  }
}

TEMPLATE_TEST_CASE("a bias for every pair broadcasts over batch and heads", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    Matrix<TestType> table(s.queries, s.keys);
    fill_gaussian(table, 12);
    Model<TestType> model;
    model.score = [&](Exact<TestType> v, Site at) { return v + Exact<TestType>(table(at.query, at.key)); };
    CHECK(is_exact(attention(x, fovea::softmax().score(score::bias(table))), x, model));
  }
}

TEMPLATE_TEST_CASE("relative positions and a bias for each key of each batch, causal", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const Index offset = s.keys - s.queries, reach = 20;
    Matrix<TestType> relative(s.heads, 2 * reach + 1), keys(s.batch, s.keys);
    fill_gaussian(relative, 13);
    fill_gaussian(keys, 14);
    Model<TestType> model;
    model.visible = [=](Site at) { return at.key <= at.query + offset; };
    model.score = [&](Exact<TestType> v, Site at) {
      const Index entry = std::clamp<Index>(at.query + offset - at.key + reach, 0, 2 * reach);
      return v + Exact<TestType>(relative(at.head, entry)) + Exact<TestType>(keys(at.batch, at.key));
    };
    const auto recipe =
        fovea::softmax().mask(mask::causal()).score(score::relative_bias(relative)).score(score::key_bias(keys));
    CHECK(is_exact(attention(x, recipe), x, model));
  }
}

TEMPLATE_TEST_CASE("everything but the neighbourhood: !(window & causal), with a rule of the user's", "", float,
                   double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const Index offset = s.keys - s.queries;
    Model<TestType> model;
    model.visible = [=](Site at) {
      const Index p = at.query + offset;
      return !(at.key <= p && p - at.key < 6);
    };
    model.score = [](Exact<TestType> v, Site at) { return v / Exact<TestType>(1 + (at.key + at.head) % 4); };
    const auto rule = score::each([](TestType v, Site at) { return v / TestType(1 + (at.key + at.head) % 4); });
    CHECK(is_exact(attention(x, fovea::softmax().mask(!(mask::window(6) & mask::causal())).score(rule)), x, model));
  }
}

TEMPLATE_TEST_CASE("packed documents, causal inside, with some keys of all documents hidden by a predicate", "", float,
                   double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const std::vector<Index> queries = {0, s.queries / 2, s.queries}, keys = {0, s.keys / 2, s.keys};
    Model<TestType> model;
    model.visible = [=](Site at) {
      const std::size_t d = at.query < queries[1] ? 0 : 1;
      const Index i = at.query - queries[d], j = at.key - keys[d];
      const Index offset = (keys[d + 1] - keys[d]) - (queries[d + 1] - queries[d]);
      return j >= 0 && at.key < keys[d + 1] && j <= i + offset && hashed(at);
    };
    const auto recipe = fovea::softmax().mask(mask::document(queries, keys, mask::causal()) & mask::where(hashed));
    CHECK(is_exact(attention(x, recipe), x, model));
  }
}

TEMPLATE_TEST_CASE("masks that differ from head to head and batch to batch", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const auto visible = [](Site at) { return (at.key / 3 + at.head + 2 * at.batch) % 4 == 0; };
    CHECK(is_exact(attention(x, fovea::softmax().mask(mask::where(visible))), x, {.visible = visible}));
  }
}

TEMPLATE_TEST_CASE("a window as long as the keys is causal attention, bit for bit", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const auto causal = attention(x, fovea::softmax().mask(mask::causal()));
    for (const Index window : {s.keys, 2 * s.keys, std::numeric_limits<Index>::max()})
      CHECK(same_bits(attention(x, fovea::softmax().mask(mask::causal() & mask::window(window))), causal));
  }
}

TEMPLATE_TEST_CASE("the same mask said in another way gives the same bits", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const Index offset = s.keys - s.queries;
    const auto by_interval = attention(x, fovea::softmax().mask(mask::causal() & mask::window(12)));
    const auto by_predicate = attention(x, fovea::softmax().mask(mask::where([=](Site at) {
      const Index p = at.query + offset;
      return at.key <= p && p - at.key < 12;
    })));
    const auto by_complement = attention(x, fovea::softmax().mask(!(!mask::causal() | !mask::window(12))));
    CHECK(same_bits(by_predicate, by_interval));
    CHECK(same_bits(by_complement, by_interval));
  }
}
