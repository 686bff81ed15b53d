#include "support/catch.hpp"

#include <fovea/parts/score/alibi.hpp>
#include <fovea/parts/score/each.hpp>
#include <fovea/parts/score/score.hpp>
#include <fovea/parts/score/soft_cap.hpp>

#include "support/parts.hpp"

using fovea::Shape;
using fovea::Site;
namespace score = fovea::score;

TEST_CASE("a chain applies its parts left to right", "[parts][score]") {
  const auto twice = score::each([](float x, Site) { return 2 * x; });
  const auto plus_one = score::each([](float x, Site) { return x + 1; });
  const auto run = [](const auto& chain) {
    float x[2] = {3, 5};
    chain.template bind<float>("test", Shape{1, 1, 1, 1, 2})(x, fovea::Row{}, fovea::Span{0, 2});
    return x[0] * 100 + x[1];
  };
  CHECK(run(score::Chain<>{}.then(twice).then(plus_one)) == 711);
  CHECK(run(score::Chain<>{}.then(plus_one).then(twice)) == 812);
}

TEST_CASE("an empty chain changes nothing and says that it is empty", "[parts][score]") {
  float x[2] = {3, 5};
  score::Chain<>{}.bind<float>("test", Shape{1, 1, 1, 1, 2})(x, fovea::Row{}, fovea::Span{0, 2});
  CHECK(x[0] == 3);
  CHECK(x[1] == 5);
  CHECK(score::Chain<>::empty);
  CHECK_FALSE(decltype(score::Chain<>{}.then(score::soft_cap(2)))::empty);
}

TEST_CASE("every part of a chain is checked", "[parts][score]") {
  const auto chain = score::Chain<>{}.then(score::soft_cap(2)).then(score::alibi({1, 2}));
  CHECK(support::refusal([&] {
          chain.bind<float>("f", Shape{1, 3, 1, 1, 2});
        }) == "f: alibi needs one slope for each head, wanted 3, got 2");
}
