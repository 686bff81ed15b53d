// PowerAttention against its reference, by its counts, at its limits, and refused.
#include "block_sparse/power.hpp"

#include <fovea/block_sparse/power.hpp>
#include <fovea/dense/scaled_dot_product.hpp>
#include <fovea/exec/pool.hpp>
#include <numeric>

#include "support/attention.hpp"
#include "window/kept.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::PowerOptions;
using fovea::reference::power_sees;

namespace {

auto power(PowerOptions options) {
  return [options](const auto& x, auto&& out) { fovea::power(x.q, x.k, x.v, out, options); };
}

bool is_power_of_two(Index n) { return n > 0 && (n & (n - 1)) == 0; }

// Blocks of row P by the closed form.
Index blocks_of_row(Index row, Index sinks, Index window) {
  Index number = std::min(row + 1, window);
  for (Index distance = 1; distance <= row; distance *= 2) number += distance >= window;
  for (Index b = 0; b < std::min(sinks, row + 1); ++b) number += row - b >= window && !is_power_of_two(row - b);
  return number;
}

const std::vector<Sizes> shapes = {
    {1, 1, 1, 1, 1, 1, 1},       {1, 1, 1, 5, 5, 3, 2},       {2, 4, 2, 70, 133, 33, 15},
    {1, 2, 1, 300, 300, 64, 64}, {1, 3, 3, 101, 257, 24, 40}, {1, 2, 2, 1, 500, 32, 32},
};

}  // namespace

TEST_CASE("power keeps the pairs of its rule, prefill and continuation") {
  for (const auto& [queries, keys] : {std::pair<Index, Index>{1, 1}, {40, 40}, {7, 40}, {33, 40}, {1, 40}, {9, 5}}) {
    for (const Index block : {1, 2, 5, 16, 64}) {
      for (const auto& [sinks, window] : {std::pair<Index, Index>{0, 0}, {0, 1}, {1, 2}, {2, 3}, {9, 1}, {1, 99}}) {
        CAPTURE(queries, keys, block, sinks, window);
        const Index s = sinks, w = window, offset = keys - queries;
        CHECK(kept_pairs(queries, keys, power({.block = block, .sink_blocks = s, .window_blocks = w})) ==
              pairs_of(queries, keys, [&](Index i, Index j) { return power_sees(i + offset, j, block, s, w); }));
      }
    }
  }
}

TEST_CASE("as many blocks are listed as the closed form says") {
  const auto rows = [](Index count, Index sinks, Index window) {
    const auto table = fovea::power_blocks({0, count * 8}, {.block = 8, .sink_blocks = sinks, .window_blocks = window});
    CHECK(table.query_blocks == count);
    std::vector<Index> sizes;
    for (Index a = 0; a < count; ++a) {
      sizes.push_back(table.list(0, 0, a).size());
      CHECK(sizes.back() == blocks_of_row(a, sinks, std::max<Index>(window, 1)));
    }
    return sizes;
  };
  CHECK(rows(16, 1, 2) == std::vector<Index>{1, 2, 3, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6});
  CHECK(rows(16, 0, 1) == std::vector<Index>{1, 2, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5, 5});
  const auto paper = rows(128, 1, 5);
  CHECK(std::accumulate(paper.begin(), paper.end(), Index{0}) == 1141);
  rows(40, 7, 0);
  rows(40, 50, 3);
}

TEST_CASE("token pairs by the closed form, blocks full but the own one") {
  const Index blocks = 16, block = 4, length = blocks * block;
  const PowerOptions options{.block = block, .sink_blocks = 1, .window_blocks = 2};
  CHECK(count(kept_pairs(length, length, power(options))) ==
        block * block * (76 - blocks) + blocks * block * (block + 1) / 2);
  CHECK(count(kept_pairs(16, 16, power({.block = 1, .sink_blocks = 0, .window_blocks = 1}))) == 65);
}

TEST_CASE("after d layers every block at a distance below 2^d is reached") {
  const Index blocks = 64, layers = 6;
  const auto table = fovea::power_blocks({0, blocks}, {.block = 1, .sink_blocks = 0, .window_blocks = 1});
  std::vector<std::vector<bool>> reached(blocks, std::vector<bool>(blocks, false));
  for (Index i = 0; i < blocks; ++i) reached[std::size_t(i)][std::size_t(i)] = true;
  for (Index layer = 0; layer < layers; ++layer) {
    auto next = reached;
    for (Index i = 0; i < blocks; ++i) {
      const auto list = table.list(0, 0, i);
      for (Index n = list.first; n < list.last; ++n) {
        for (Index j = 0; j < blocks; ++j) {
          if (reached[std::size_t(table.blocks[std::size_t(n)])][std::size_t(j)])
            next[std::size_t(i)][std::size_t(j)] = true;
        }
      }
    }
    reached = next;
  }
  for (Index i = 0; i < blocks; ++i) {
    for (Index j = 0; j <= i; ++j) CHECK(reached[std::size_t(i)][std::size_t(j)]);
  }
}

TEMPLATE_TEST_CASE("power equals its reference", "", float, double) {
  for (const Sizes& s : shapes) {
    const auto x = gaussian<TestType>(s);
    for (const Index block : {1, 6, 16, 64}) {
      const auto got = run(x, power({.block = block, .sink_blocks = 1, .window_blocks = 2}));
      const auto wanted = over_heads(x, [&](const auto& q, const auto& k, const auto& v, auto scale) {
        return fovea::reference::power(q, k, v, scale, block, 1, 2);
      });
      INFO(s << " block " << block);
      CHECK(distance_in_epsilons(got, wanted) < 8);
    }
  }
}

TEMPLATE_TEST_CASE("a window over all blocks is dense causal attention, bit for bit", "", float, double) {
  const auto x = gaussian<TestType>({1, 4, 2, 200, 264, 32, 32});
  const auto dense =
      run(x, [](const auto& in, auto&& out) { fovea::scaled_dot_product(in.q, in.k, in.v, out, {.causal = true}); });
  CHECK(same_bits(run(x, power({.block = 64, .sink_blocks = 0, .window_blocks = 5})), dense));
  CHECK(same_bits(run(x, power({.block = 300})), dense));
}

TEST_CASE("the last query alone equals the last row of the whole") {
  const auto x = gaussian<double>({1, 2, 1, 333, 333, 16, 16});
  const PowerOptions options{.block = 16, .sink_blocks = 1, .window_blocks = 2, .scale = 0.1};
  const auto all = run(x, power(options));
  const Inputs<double> last{tokens(x.q, 332, 333), x.k, x.v};
  const auto got = run(last, power(options));
  for (Index h = 0; h < 2; ++h) {
    for (Index e = 0; e < 16; ++e) CHECK(std::abs(got.out(0, h, 0, e) - all.out(0, h, 332, e)) < 1e-14);
    CHECK(std::abs(got.log_sum(0, h, 0) - all.log_sum(0, h, 332)) < 1e-14);
  }
}

TEST_CASE("what stands in blocks that a query does not see does not matter") {
  auto x = gaussian<float>({1, 1, 1, 128, 128, 16, 16});
  const auto clean = run(x, power({.block = 8, .sink_blocks = 0, .window_blocks = 1}));
  for (Index j = 16; j < 24; ++j) {  // block 2
    std::fill_n(row(x.k, 0, 0, j), 16, not_a_number<float>);
    std::fill_n(row(x.v, 0, 0, j), 16, infinity<float>);
  }
  const auto got = run(x, power({.block = 8, .sink_blocks = 0, .window_blocks = 1}));
  for (Index i = 0; i < 128; ++i) {
    const Index distance = i / 8 - 2;
    if (distance < 0 || (distance & (distance - 1)) != 0) {
      CHECK(same_row(got, clean, 0, 0, i));
    } else if (i >= 23) {
      CHECK(all_nan(row(got.out, 0, 0, i), 16));
    }
  }
}

TEST_CASE("strides and threads do not change a bit") {
  const auto x = gaussian<float>({2, 4, 2, 301, 340, 32, 24});
  const PowerOptions options{.block = 32, .sink_blocks = 1, .window_blocks = 2};
  const auto serial = run(x, power(options));
  CHECK(same_bits(serial, run_bthd(x, [&](const auto& q, const auto& k, const auto& v, auto&& out) {
                    fovea::power(q, k, v, out, options);
                  })));
  for (const Index threads : {2, 5}) {
    CHECK(same_bits(serial, run(x, [&](const auto& in, auto&& out) {
                      fovea::power(in.q, in.k, in.v, out, options, fovea::exec::Pool(threads));
                    })));
  }
}

TEST_CASE("nothing to do is no error") {
  for (const Sizes& s : {Sizes{0, 2, 1, 5, 5, 4, 4}, Sizes{1, 2, 1, 0, 7, 4, 4}, Sizes{1, 2, 1, 3, 0, 4, 4}})
    CHECK_NOTHROW(run(gaussian<float>(s), power({.block = 2})));
}

TEST_CASE("what is refused, and that nothing is touched") {
  const auto x = gaussian<float>({1, 2, 1, 5, 8, 8, 8});
  const std::string where = "fovea::power: ";
  CHECK(refusal_of(x, power({.block = 0})) == where + "block must be positive, got 0");
  CHECK(refusal_of(x, power({.sink_blocks = -1})) == where + "sink_blocks must not be negative, got -1");
  CHECK(refusal_of(x, power({.window_blocks = -2})) == where + "window_blocks must not be negative, got -2");
  CHECK(refusal_of(x, power({.block = 2, .scale = infinity<double>})).rfind(where, 0) == 0);
  CHECK_THROWS_AS(fovea::power_blocks({3, 9}, {.block = 4}), fovea::ArgumentError);
  CHECK_THROWS_AS(fovea::power_blocks({8, 7}, {.block = 4}), fovea::ArgumentError);
  CHECK_NOTHROW(fovea::power_blocks({5, 8}, {.block = 4}));
}
