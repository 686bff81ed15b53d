// The biases of agent attention from their factors.
#include <fovea/parts/resample/agent_bias.hpp>

#include "agent/agent.hpp"
#include "support/attention.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;

namespace {

template <class T>
struct Factors {
  Index heads, agents, height, width;
  Tensor4<T> grid{heads, agents, 7, 7};
  Tensor4<T> rows{heads, agents, height, 1}, columns{heads, agents, 1, width};          // of B1
  Tensor4<T> ask_rows{heads, height, 1, agents}, ask_columns{heads, 1, width, agents};  // of B2
  Tensor3<T> class_key{heads, agents, 1}, class_query{heads, 1, agents};

  Factors(Index H, Index n, Index h, Index w) : heads(H), agents(n), height(h), width(w) {
    unsigned seed = 1;
    for (auto* x : {&grid, &rows, &columns, &ask_rows, &ask_columns}) fill_gaussian(*x, ++seed);
    fill_gaussian(class_key, 10);
    fill_gaussian(class_query, 11);
  }

  // The small table of an agent on the grid.
  Exact<T> on_grid(Index h, Index a, Index place) const {
    const Matrix<Exact<T>> table = Eigen::Map<const Matrix<T>>(row(grid, h, a, 0), 49, 1).template cast<Exact<T>>();
    return fovea::reference::resize<Exact<T>>(table, 7, 7, height, width)(place, 0);
  }
};

template <class T>
const fovea::View<const T> nothing{};

}  // namespace

TEMPLATE_TEST_CASE("biases are the sums of their factors", "", float, double) {
  using T = TestType;
  for (const auto& [height, width] : {std::pair<Index, Index>{4, 5}, {14, 9}, {1, 1}}) {
    for (const Index before : {0, 1}) {
      const Factors<T> f(2, 4, height, width);
      const Index tokens = height * width + before, across = width;
      Tensor3<T> collect(2, 4, tokens), ask(2, tokens, 4);
      collect.setConstant(not_a_number<T>);
      ask.setConstant(not_a_number<T>);
      if (before == 1) {
        fovea::agent_collect_bias(f.grid, f.rows, f.columns, f.class_key, collect);
        fovea::agent_ask_bias(f.grid, f.ask_rows, f.ask_columns, f.class_query, ask);
      } else {
        fovea::agent_collect_bias(f.grid, f.rows, f.columns, nothing<T>, collect);
        fovea::agent_ask_bias(f.grid, f.ask_rows, f.ask_columns, nothing<T>, ask);
      }
      double worst = 0;
      for (Index h = 0; h < 2; ++h) {
        for (Index a = 0; a < 4; ++a) {
          for (Index t = 0; t < tokens; ++t) {
            const bool patch = t >= before;
            const Index y = (t - before) / across, x = (t - before) % across;
            const auto grid = patch ? f.on_grid(h, a, t - before) : Exact<T>(0);
            const auto one = patch ? grid + f.rows(h, a, y, 0) + f.columns(h, a, 0, x) : Exact<T>(f.class_key(h, a, 0));
            const auto other =
                patch ? grid + f.ask_rows(h, y, 0, a) + f.ask_columns(h, 0, x, a) : Exact<T>(f.class_query(h, 0, a));
            worst = std::max({worst, std::abs(double(collect(h, a, t) - one)), std::abs(double(ask(h, t, a) - other))});
          }
        }
      }
      CHECK(worst < 8 * double(epsilon<T>));
    }
  }
}

TEST_CASE("factors that do not fit are refused") {
  const Factors<float> f(2, 4, 3, 5);
  Tensor3<float> collect(2, 4, 15), ask(2, 15, 4), one_more(2, 4, 16);
  using support::refusal;
  CHECK(refusal([&] { fovea::agent_collect_bias(f.grid, f.rows, f.columns, nothing<float>, collect); }) == "accepted");
  CHECK(refusal([&] { fovea::agent_collect_bias(f.grid, f.rows, f.columns, nothing<float>, one_more); }) ==
        "fovea::agent_collect_bias: bias must hold the grid, wanted [2, 4, 15], got [2, 4, 16]");
  CHECK(refusal([&] { fovea::agent_collect_bias(f.rows, f.columns, f.columns, nothing<float>, collect); }) ==
        "fovea::agent_collect_bias: rows must be [2, 4, 1, 1], got [2, 4, 1, 5]");
  CHECK(refusal([&] { fovea::agent_collect_bias(f.grid, f.rows, f.columns, f.class_query, one_more); }) ==
        "fovea::agent_collect_bias: class_token must be [1, 2, 4, 1], got [1, 2, 1, 4]");
  CHECK(refusal([&] { fovea::agent_ask_bias(f.grid, f.ask_rows, f.ask_columns, nothing<float>, ask); }) == "accepted");
  CHECK(refusal([&] {
          fovea::agent_ask_bias(f.ask_rows, f.ask_rows, f.ask_columns, nothing<float>, ask);
        }).rfind("fovea::agent_ask_bias: the table of the grid must be", 0) == 0);
}
