// Radial Attention against its reference, by its counts, its blocks, at its limits, and refused.
#include "block_sparse/radial.hpp"

#include <fovea/block_sparse/block_sparse.hpp>
#include <fovea/block_sparse/radial.hpp>
#include <fovea/dense/scaled_dot_product.hpp>
#include <fovea/exec/pool.hpp>

#include "support/attention.hpp"
#include "window/kept.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::RadialOptions;
using Rule = fovea::reference::RadialRule;

namespace {

auto radial(RadialOptions options) {
  return [options](const auto& x, auto&& out) { fovea::radial(x.q, x.k, x.v, out, options); };
}

RadialOptions options_of(const Rule& rule) {
  return {.frame = rule.frame,
          .text = rule.text,
          .rule = rule.released ? fovea::RadialRule::released : fovea::RadialRule::published,
          .first_frame = rule.first_frame,
          .decay = rule.decay,
          .least = rule.least};
}

Index pairs_kept(Index frames, const Rule& rule) {
  const Index tokens = frames * rule.frame + rule.text;
  return count(kept_pairs(tokens, tokens, radial(options_of(rule))));
}

// Pairs of the published rule without the first frame, by the closed form.
Index published_pairs(Index frames, Index frame) {
  Index pairs = 0;
  for (Index d = 0; d < frames; ++d) {
    const Index number = d == 0 ? frames : 2 * (frames - d);
    Index p = 1;
    while (2 * p <= d) p *= 2;
    if (p <= frame) {
      const Index far = frame / p - 1;
      pairs += number * (frame * (2 * far + 1) - far * (far + 1));
    } else if (d % ((p + frame - 1) / frame) == 0) {
      pairs += number * frame;
    }
  }
  return pairs;
}

const std::vector<Rule> rules = {
    {.frame = 1},
    {.frame = 3},
    {.frame = 5, .text = 7},
    {.frame = 4, .first_frame = false},
    {.frame = 16, .text = 1, .first_frame = false},
    {.frame = 16, .first_frame = false, .released = true, .least = 4},
    {.frame = 11, .text = 3, .released = true, .decay = 0.5, .least = 2},
    {.frame = 9, .released = true, .decay = 0.2, .least = 64},
};

}  // namespace

TEST_CASE("radial keeps the pairs of its rules") {
  for (const Rule& rule : rules) {
    for (const Index frames : {1, 2, 5, 12}) {
      const Index tokens = frames * rule.frame + rule.text;
      CAPTURE(rule.frame, rule.text, rule.released, frames);
      CHECK(kept_pairs(tokens, tokens, radial(options_of(rule))) == pairs_of(tokens, tokens, [&](Index i, Index j) {
              return fovea::reference::radial_sees(rule, tokens, i, j);
            }));
    }
  }
}

TEST_CASE("as many pairs as the closed form says") {
  CHECK(pairs_kept(8, {.frame = 4, .first_frame = false}) == 652);
  CHECK(pairs_kept(12, {.frame = 4, .first_frame = false}) == 1180);
  CHECK(pairs_kept(8, {.frame = 16, .first_frame = false}) == 11680);
  for (const Index frames : {1, 2, 5, 8, 21}) {
    for (const Index frame : {1, 2, 3, 8}) {
      CAPTURE(frames, frame);
      CHECK(pairs_kept(frames, {.frame = frame, .first_frame = false}) == published_pairs(frames, frame));
    }
  }
  CHECK(pairs_kept(8, {.frame = 16, .first_frame = false, .released = true, .least = 4}) == 12512);
  CHECK(pairs_kept(8, {.frame = 16, .released = true, .least = 4}) == 13152);
  CHECK(pairs_kept(8, {.frame = 16, .first_frame = false, .released = true, .decay = 0.5, .least = 4}) == 10840);
}

TEST_CASE("without the first frame the rules are symmetric") {
  for (Rule rule : rules) {
    rule.first_frame = false;
    const Index tokens = 7 * rule.frame + rule.text;
    const auto kept = kept_pairs(tokens, tokens, radial(options_of(rule)));
    bool symmetric = true;
    for (std::size_t i = 0; i < kept.size(); ++i) {
      for (std::size_t j = 0; j < i; ++j) symmetric = symmetric && kept[i][j] == kept[j][i];
    }
    CHECK(symmetric);
  }
}

TEMPLATE_TEST_CASE("radial equals its reference", "", float, double) {
  for (Rule rule : rules) {
    rule.frame *= 4;
    for (const auto& [frames, heads, kv_heads, dim] : {std::array<Index, 4>{9, 1, 1, 16}, {2, 4, 2, 33}}) {
      const Index tokens = frames * rule.frame + rule.text;
      const auto x = gaussian<TestType>({1, heads, kv_heads, tokens, tokens, dim, dim - 1});
      const auto got = run(x, radial(options_of(rule)));
      const auto wanted = over_heads(x, [&](const auto& q, const auto& k, const auto& v, auto scale) {
        return fovea::reference::radial(q, k, v, scale, rule);
      });
      INFO(x.sizes() << " frame " << rule.frame << " released " << rule.released);
      CHECK(distance_in_epsilons(got, wanted) < 8);
    }
  }
}

TEMPLATE_TEST_CASE("one or two frames are dense attention, bit for bit", "", float, double) {
  const auto x = gaussian<TestType>({1, 2, 1, 200, 200, 32, 32});
  const auto dense = run(x, [](const auto& in, auto&& out) { fovea::scaled_dot_product(in.q, in.k, in.v, out); });
  CHECK(same_bits(run(x, radial({.frame = 100})), dense));
  CHECK(same_bits(run(x, radial({.frame = 200})), dense));
  CHECK(same_bits(run(x, radial({.frame = 90, .text = 20})), dense));
  CHECK(same_bits(run(x, radial({.frame = 100, .rule = fovea::RadialRule::released, .least = 64})), dense));
}

TEST_CASE("blocks are those of the picture") {
  for (const Rule& rule : rules) {
    for (const Index frames : {1, 2, 6}) {
      for (const Index block : {1, 7, 16}) {
        for (const bool tail : {false, true}) {
          CAPTURE(rule.frame, rule.text, rule.released, frames, block, tail);
          const auto table = fovea::radial_blocks(frames, options_of(rule), {.block = block, .released_tail = tail});
          const auto wanted =
              fovea::BlockTable::from_matrix(block, block, fovea::reference::radial_blocks(rule, frames, block, tail));
          CHECK(table.blocks == wanted.blocks);
          CHECK(table.begin == wanted.begin);
        }
      }
    }
  }
}

TEST_CASE("a schedule of blocks of one token is the rule itself where a column has a row") {
  const Rule rule{.frame = 8};
  const auto table = fovea::radial_blocks(6, options_of(rule), {.block = 1});
  CHECK(Index(table.blocks.size()) == pairs_kept(6, rule));
  const auto x = gaussian<float>({1, 1, 1, 48, 48, 16, 16});
  const auto wanted = over_heads(x, [&](const auto& q, const auto& k, const auto& v, auto scale) {
    return fovea::reference::radial(q, k, v, scale, rule);
  });
  const auto got = run(x, [&](const auto& in, auto&& out) { fovea::block_sparse(in.q, in.k, in.v, out, table); });
  CHECK(distance_in_epsilons(got, wanted) < 8);
}

TEST_CASE("strides, threads and what is not seen do not change a bit") {
  const RadialOptions options{.frame = 40, .text = 13, .first_frame = false};
  const auto x = gaussian<float>({2, 4, 2, 493, 493, 32, 24});
  const auto serial = run(x, radial(options));
  CHECK(same_bits(serial, run_bthd(x, [&](const auto& q, const auto& k, const auto& v, auto&& out) {
                    fovea::radial(q, k, v, out, options);
                  })));
  for (const Index threads : {2, 5}) {
    CHECK(same_bits(serial, run(x, [&](const auto& in, auto&& out) {
                      fovea::radial(in.q, in.k, in.v, out, options, fovea::exec::Pool(threads));
                    })));
  }
  auto spoiled = x;  // a key at place 5 of frame 3
  std::fill_n(row(spoiled.k, 0, 0, 125), 32, not_a_number<float>);
  std::fill_n(row(spoiled.v, 0, 0, 125), 24, infinity<float>);
  const auto got = run(spoiled, radial(options));
  for (Index i = 0; i < 493; ++i) {
    if (fovea::reference::radial_sees({.frame = 40, .text = 13, .first_frame = false}, 493, i, 125)) {
      CHECK(all_nan(row(got.out, 0, 0, i), 24));
    } else {
      CHECK(same_row(got, serial, 0, 0, i));
    }
  }
}

TEST_CASE("nothing to do is no error") {
  CHECK_NOTHROW(run(gaussian<float>({0, 2, 1, 6, 6, 4, 4}), radial({.frame = 2})));
  CHECK_NOTHROW(run(gaussian<float>({1, 2, 1, 0, 0, 4, 4}), radial({.frame = 2})));
  CHECK_NOTHROW(run(gaussian<float>({1, 2, 1, 3, 3, 4, 4}), radial({.frame = 2, .text = 3})));
  CHECK(fovea::radial_blocks(0, {.frame = 4}).query_blocks == 0);
}

TEST_CASE("what is refused, and that nothing is touched") {
  const auto x = gaussian<float>({1, 2, 1, 8, 8, 8, 8});
  const std::string where = "fovea::radial: ";
  CHECK(refusal_of(x, radial({})) == where + "frame must be positive, got 0");
  CHECK(refusal_of(x, radial({.frame = 2, .text = -1})) == where + "text must not be negative, got -1");
  CHECK(refusal_of(x, radial({.frame = 2, .decay = 0})) == where + "decay must be positive and finite, got 0");
  CHECK(refusal_of(x, radial({.frame = 2, .least = 0})) == where + "least must be positive, got 0");
  CHECK(refusal_of(x, radial({.frame = 3})) == where + "the tokens must be whole frames of 3 and text of 0, got 8");
  CHECK(refusal_of(x, radial({.frame = 4, .text = 9})) ==
        where + "the tokens must be whole frames of 4 and text of 9, got 8");
  CHECK(refusal_of(x, radial({.frame = 2, .scale = infinity<double>})).rfind(where, 0) == 0);
  CHECK(refusal_of(gaussian<float>({1, 2, 1, 8, 6, 8, 8}), radial({.frame = 2})).rfind(where, 0) == 0);
  CHECK_THROWS_AS(fovea::radial_blocks(3, {.frame = 2}, {.block = 0}), fovea::ArgumentError);
  CHECK_THROWS_AS(fovea::radial_blocks(-1, {.frame = 2}), fovea::ArgumentError);
}
