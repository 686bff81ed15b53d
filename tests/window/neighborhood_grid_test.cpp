// Neighborhood attention on two and three axes against its reference, by its counts, at its limits, and refused.
#include <fovea/exec/pool.hpp>
#include <fovea/window/neighborhood.hpp>

#include "support/attention.hpp"
#include "support/catch.hpp"
#include "window/kept.hpp"
#include "window/neighborhood.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::NeighborhoodOptions;
using Axes = std::vector<fovea::reference::NeighborhoodAxis>;

namespace {

auto neighborhood(const NeighborhoodOptions& options) {
  return [options](const auto& x, auto&& out) { fovea::neighborhood(x.q, x.k, x.v, out, options); };
}

Axes axes_of(const NeighborhoodOptions& o) {
  Axes axes;
  for (std::size_t a = 0; a < o.grid.size(); ++a) {
    const auto n = Index(a);
    axes.push_back({o.grid[a], o.window[n], o.stride[n], o.dilation[n], o.causal[n]});
  }
  return axes;
}

Index tokens_of(const NeighborhoodOptions& o) {
  Index tokens = 1;
  for (const Index extent : o.grid) tokens *= extent;
  return tokens;
}

template <class T>
Inputs<T> some(const NeighborhoodOptions& o, Index batch, Index heads, Index kv_heads, Index dim, Index value_dim) {
  return gaussian<T>({batch, heads, kv_heads, tokens_of(o), tokens_of(o), dim, value_dim});
}

template <class T>
double error(const Inputs<T>& x, const NeighborhoodOptions& options) {
  const auto wanted = over_heads(
      x,
      [&](const auto& q, const auto& k, const auto& v, auto scale) {
        return fovea::reference::neighborhood(q, k, v, scale, axes_of(options));
      },
      options.scale);
  return distance_in_epsilons(run(x, neighborhood(options)), wanted);
}

// The pairs of one axis, by counting.
Index pairs_of_axis(const fovea::reference::NeighborhoodAxis& axis) {
  Index pairs = 0;
  for (Index i = 0; i < axis.extent; ++i) {
    for (Index j = 0; j < axis.extent; ++j) pairs += axis.sees(i, j) ? 1 : 0;
  }
  return pairs;
}

const std::vector<NeighborhoodOptions> settings = {
    {.grid = {9, 11}, .window = 3},
    {.grid = {20, 21}, .window = {5, 7}},
    {.grid = {8, 24}, .window = 8, .stride = 8},
    {.grid = {14, 14}, .window = 7, .stride = 7},
    {.grid = {17, 9}, .window = {8, 4}, .stride = {3, 2}},
    {.grid = {16, 16}, .window = 4, .dilation = {4, 2}},
    {.grid = {15, 13}, .window = {3, 4}, .stride = {2, 1}, .dilation = {2, 3}, .causal = {false, true}},
    {.grid = {12, 10}, .window = {6, 5}, .stride = {1, 5}, .causal = true},
    {.grid = {3, 40}, .window = {1, 33}},
    {.grid = {5, 6, 7}, .window = {2, 3, 4}},
    {.grid = {4, 8, 8}, .window = {2, 4, 4}, .stride = {2, 4, 4}},
    {.grid = {5, 9, 8},
     .window = {2, 3, 3},
     .stride = {1, 2, 3},
     .dilation = {2, 3, 1},
     .causal = {true, false, false}},
    {.grid = {2, 10, 12}, .window = {1, 7, 5}},
    {.grid = {1, 6, 6}, .window = {1, 3, 3}},
    {.grid = {30, 1, 1}, .window = {9, 1, 1}, .dilation = {3, 1, 1}},
};

}  // namespace

TEST_CASE("neighborhood on a grid keeps the pairs of its definition") {
  for (std::size_t n = 0; n < settings.size(); ++n) {
    CAPTURE(n);
    const Index tokens = tokens_of(settings[n]);
    const Axes axes = axes_of(settings[n]);
    const auto kept = kept_pairs(tokens, tokens, neighborhood(settings[n]));
    CHECK(kept ==
          pairs_of(tokens, tokens, [&](Index i, Index j) { return fovea::reference::neighborhood_sees(axes, i, j); }));
    Index wanted = 1;
    bool causal = false;
    for (const auto& axis : axes) {
      wanted *= pairs_of_axis(axis);
      causal = causal || axis.causal;
    }
    CHECK(count(kept) == wanted);
    if (causal) continue;
    Index closed = tokens;
    for (const auto& axis : axes) closed *= axis.window;
    CHECK(count(kept) == closed);
  }
}

TEST_CASE("every small grid keeps the pairs of its definition") {
  for (const Index height : {1, 2, 5}) {
    for (const Index width : {1, 3, 4, 7}) {
      for (const bool causal : {false, true}) {
        for (Index dilation = 1; dilation <= 2; ++dilation) {
          for (Index w = 1; w * dilation <= width; ++w) {
            for (Index stride = 1; stride <= w; ++stride) {
              const NeighborhoodOptions options{.grid = {height, width},
                                                .window = {height, w},
                                                .stride = {(height + 1) / 2, stride},
                                                .dilation = {1, dilation},
                                                .causal = {causal, !causal}};
              CAPTURE(height, width, causal, dilation, w, stride);
              const Axes axes = axes_of(options);
              CHECK(kept_pairs(height * width, height * width, neighborhood(options)) ==
                    pairs_of(height * width, height * width,
                             [&](Index i, Index j) { return fovea::reference::neighborhood_sees(axes, i, j); }));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("numbers of pairs by hand, of a product of axes") {
  const auto pairs = [](const NeighborhoodOptions& options) {
    return count(kept_pairs(tokens_of(options), tokens_of(options), neighborhood(options)));
  };
  // One axis of eight with a window of four, causal: 24 pairs with a stride of two, 26 and 20 with one and four.
  CHECK(pairs({.grid = {8, 8}, .window = 4, .stride = {2, 1}, .causal = true}) == 24 * 26);
  CHECK(pairs({.grid = {8, 2, 8}, .window = {4, 1, 4}, .stride = {4, 1, 2}, .causal = {true, false, true}}) ==
        20 * 2 * 24);
  CHECK(pairs({.grid = {9, 8}, .window = {5, 4}, .stride = {3, 1}, .causal = {true, false}}) == 30 * 8 * 4);
}

TEMPLATE_TEST_CASE("neighborhood on a grid equals its reference", "", float, double) {
  using T = TestType;
  for (std::size_t n = 0; n < settings.size(); ++n) {
    CAPTURE(n);
    CHECK(error(some<T>(settings[n], 1, 1, 1, 16, 16), settings[n]) < 8);
  }
  CHECK(error(some<T>(settings[0], 2, 4, 2, 33, 15), settings[0]) < 8);
  CHECK(error(some<T>(settings[6], 2, 6, 1, 24, 40), settings[6]) < 8);
  CHECK(error(some<T>(settings[9], 1, 6, 2, 8, 64), settings[9]) < 8);
  const NeighborhoodOptions scaled{.grid = {9, 11}, .window = 3, .scale = 0.3};
  CHECK(error(some<T>(scaled, 1, 2, 2, 32, 32), scaled) < 8);
}

TEST_CASE("windows of whole axes are dense attention") {
  for (const auto& grid : {std::vector<Index>{11, 13}, {16, 16}, {3, 5, 9}}) {
    NeighborhoodOptions options{.grid = grid, .window = {grid[0], grid[1]}};
    if (grid.size() == 3) options.window = {grid[0], grid[1], grid[2]};
    const auto x = some<double>(options, 2, 2, 1, 16, 16);
    CHECK(is_exact(run(x, neighborhood(options)), x));
  }
}

TEST_CASE("windows of the grid's rows are attention inside each row") {
  const NeighborhoodOptions options{.grid = {6, 20}, .window = {1, 20}};
  const auto x = some<double>(options, 1, 2, 2, 16, 16);
  CHECK(is_exact(run(x, neighborhood(options)), x,
                 {.visible = [](fovea::Site at) { return at.query / 20 == at.key / 20; }}));
}

TEST_CASE("strides as long as the windows make blocks") {
  const NeighborhoodOptions options{.grid = {12, 20}, .window = {4, 5}, .stride = {4, 5}};
  const auto x = some<double>(options, 1, 1, 1, 16, 16);
  CHECK(is_exact(run(x, neighborhood(options)), x, {.visible = [](fovea::Site at) {
                   return at.query / 80 == at.key / 80 && at.query % 20 / 5 == at.key % 20 / 5;
                 }}));
}

TEST_CASE("a permutation of the axes permutes the result") {
  // Tokens of a grid [6, 10] and of its transpose.
  const NeighborhoodOptions options{.grid = {6, 10}, .window = {3, 5}, .stride = {1, 2}, .causal = {true, false}};
  const NeighborhoodOptions turned{.grid = {10, 6}, .window = {5, 3}, .stride = {2, 1}, .causal = {false, true}};
  const auto x = some<double>(options, 1, 1, 1, 8, 8);
  const auto turn = [](const Tensor4<double>& a) {
    Tensor4<double> b(a.dimensions());
    for (Index i = 0; i < 60; ++i) std::copy_n(row(a, 0, 0, i), 8, row(b, 0, 0, i % 10 * 6 + i / 10));
    return b;
  };
  const auto got = run(x, neighborhood(options));
  const auto other = run(Inputs<double>{turn(x.q), turn(x.k), turn(x.v)}, neighborhood(turned));
  CHECK(relative_rms(turn(got.out), other.out) < 8 * epsilon<double>);
}

TEST_CASE("a grid of one axis is the sequence, bit for bit") {
  const auto x = gaussian<float>({1, 2, 1, 60, 60, 16, 16});
  const auto plain = run(x, neighborhood({.window = 7, .stride = 2, .dilation = 3}));
  CHECK(same_bits(plain, run(x, neighborhood({.grid = {60}, .window = 7, .stride = 2, .dilation = 3}))));
  CHECK(same_bits(
      plain,
      run(x, neighborhood({.grid = {1, 60, 1}, .window = {1, 7, 1}, .stride = {1, 2, 1}, .dilation = {1, 3, 1}}))));
}

TEST_CASE("arrays with other strides, and two threads, give the same bits on a grid") {
  for (const std::size_t n : {1, 4, 6, 11}) {
    CAPTURE(n);
    const auto x = some<float>(settings[n], 2, 4, 2, 20, 12);
    const auto plain = run(x, neighborhood(settings[n]));
    CHECK(same_bits(plain, run_bthd(x, [&](const auto& q, const auto& k, const auto& v, auto&& out) {
                      fovea::neighborhood(q, k, v, out, settings[n]);
                    })));
    CHECK(same_bits(plain, run(x, [&](const auto& in, auto&& out) {
                      fovea::neighborhood(in.q, in.k, in.v, out, settings[n], fovea::exec::Pool(2));
                    })));
  }
}

TEST_CASE("more heads than are copied at a time, with and without log-sums") {
  const NeighborhoodOptions options{.grid = {30, 30}, .window = 7};
  const auto x = some<float>(options, 2, 3, 3, 64, 64);
  const auto all = run(x, neighborhood(options));
  Tensor4<float> out(all.out.dimensions());
  fovea::neighborhood(x.q, x.k, x.v, out, options);
  CHECK(same_bits(out, all.out));
  for (Index h = 0; h < 3; ++h) {
    Inputs<float> one{Tensor4<float>(1, 1, 900, 64), Tensor4<float>(1, 1, 900, 64), Tensor4<float>(1, 1, 900, 64)};
    std::copy_n(row(x.q, 1, h, 0), one.q.size(), one.q.data());
    std::copy_n(row(x.k, 1, h, 0), one.k.size(), one.k.data());
    std::copy_n(row(x.v, 1, h, 0), one.v.size(), one.v.data());
    const auto alone = run(one, neighborhood(options));
    CHECK(std::memcmp(alone.out.data(), row(all.out, 1, h, 0), std::size_t(alone.out.size()) * sizeof(float)) == 0);
  }
}

TEST_CASE("NaN and infinity on a grid spoil the queries that see them and no other") {
  const NeighborhoodOptions options{.grid = {11, 13}, .window = {3, 5}};
  const Axes axes = axes_of(options);
  auto x = some<float>(options, 1, 1, 1, 16, 16);
  const auto clean = run(x, neighborhood(options));
  row(x.k, 0, 0, 4 * 13 + 12)[3] = not_a_number<float>;
  row(x.v, 0, 0, 7 * 13 + 2)[5] = infinity<float>;
  const auto got = run(x, neighborhood(options));
  for (Index i = 0; i < 143; ++i) {
    CAPTURE(i);
    if (fovea::reference::neighborhood_sees(axes, i, 4 * 13 + 12)) {
      CHECK(std::isnan(row(got.out, 0, 0, i)[0]));
    } else if (fovea::reference::neighborhood_sees(axes, i, 7 * 13 + 2)) {
      CHECK(std::isinf(row(got.out, 0, 0, i)[5]));
    } else {
      CHECK(same_row(got, clean, 0, 0, i));
    }
  }
}

TEST_CASE("grids without tokens are no error") {
  CHECK_NOTHROW(run(gaussian<float>({0, 2, 1, 20, 20, 4, 4}), neighborhood({.grid = {4, 5}, .window = 2})));
  CHECK_NOTHROW(run(gaussian<float>({1, 2, 1, 0, 0, 4, 4}), neighborhood({.grid = {0, 5}, .window = 2})));
}

TEST_CASE("what is refused on a grid, and that nothing is touched") {
  const auto x = gaussian<float>({1, 2, 1, 24, 24, 8, 8});
  const auto refusal = [&](const NeighborhoodOptions& options) { return refusal_of(x, neighborhood(options)); };
  const std::string name = "fovea::neighborhood: ";
  CHECK(refusal({.grid = {4, 6}}) == name + "window must be positive, got 0");
  CHECK(refusal({.grid = {4, 6}, .window = {3, 0}}) == name + "window must be positive, got 0");
  CHECK(refusal({.grid = {4, 7}, .window = 3}) ==
        name + "the grid must hold the tokens, wanted 24, got the extents 1 x 4 x 7");
  CHECK(refusal({.grid = {4, 5}, .window = 3}) ==
        name + "the grid must hold the tokens, wanted 24, got the extents 1 x 4 x 5");
  CHECK(refusal({.grid = {0, 6}, .window = 1}) ==
        name + "window dilation must not exceed the length, 0, got 1 times 1");
  CHECK(refusal({.grid = {-4, -6}, .window = 1}) == name + "the extents of a grid must not be negative, got -4");
  CHECK(refusal({.grid = {1, 1, 4, 6}, .window = 1}) == name + "a grid has up to three axes, got 4");
  CHECK(refusal({.grid = {4, 6}, .window = {1, 2, 3}}) ==
        name + "window must be given once or for each axis, wanted 1 or 2, got 3");
  CHECK(refusal({.grid = {4, 6}, .window = 2, .causal = {true, false, true}}) ==
        name + "causal must be given once or for each axis, wanted 1 or 2, got 3");
  CHECK(refusal({.grid = {4, 6}, .window = 3, .stride = {1, 4}}) ==
        name + "stride must be between 1 and the window, 3, got 4");
  CHECK(refusal({.grid = {4, 6}, .window = 3, .dilation = {1, 0}}) == name + "dilation must be positive, got 0");
  CHECK(refusal({.grid = {4, 6}, .window = {5, 3}}) ==
        name + "window dilation must not exceed the length, 4, got 5 times 1");
  CHECK(refusal({.grid = {4, 6}, .window = 3, .dilation = {1, 3}}) ==
        name + "window dilation must not exceed the length, 6, got 3 times 3");
  CHECK(refusal({.grid = {4, 6}, .window = 3, .dilation = {1, 2}}) == "accepted");
  CHECK(refusal({.grid = {4, 6}, .window = 3, .scale = infinity<double>}).rfind(name, 0) == 0);
}
