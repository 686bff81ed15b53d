// Neighborhood attention on one axis against its reference, by its counts, at its limits, and refused.
#include "window/neighborhood.hpp"

#include <fovea/dense/scaled_dot_product.hpp>
#include <fovea/exec/pool.hpp>
#include <fovea/window/dilated.hpp>
#include <fovea/window/neighborhood.hpp>
#include <fovea/window/sliding_window.hpp>

#include "support/attention.hpp"
#include "support/catch.hpp"
#include "window/kept.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::NeighborhoodOptions;

namespace {

auto neighborhood(const NeighborhoodOptions& options) {
  return [options](const auto& x, auto&& out) { fovea::neighborhood(x.q, x.k, x.v, out, options); };
}

fovea::reference::NeighborhoodAxis axis_of(const NeighborhoodOptions& o, Index length) {
  return {length, o.window[0], o.stride[0], o.dilation[0], o.causal[0]};
}

template <class T>
double error(const Inputs<T>& x, const NeighborhoodOptions& options) {
  const auto wanted = over_heads(
      x,
      [&](const auto& q, const auto& k, const auto& v, auto scale) {
        return fovea::reference::neighborhood(q, k, v, scale, {axis_of(options, q.rows())});
      },
      options.scale);
  return distance_in_epsilons(run(x, neighborhood(options)), wanted);
}

const std::vector<Sizes> shapes = {
    {1, 1, 1, 60, 60, 3, 2},     {3, 4, 2, 70, 70, 33, 15},   {1, 2, 1, 300, 300, 64, 64},
    {1, 3, 3, 257, 257, 24, 40}, {2, 6, 2, 131, 131, 32, 32},
};
const std::vector<NeighborhoodOptions> settings = {
    {.window = 1},
    {.window = 7},
    {.window = 8, .stride = 3},
    {.window = 20, .stride = 20},
    {.window = 60},
    {.window = 9, .dilation = 4},
    {.window = 12, .stride = 5, .dilation = 5},
    {.window = 20, .causal = true},
    {.window = 20, .stride = 7, .causal = true},
    {.window = 10, .stride = 10, .dilation = 3, .causal = true},
};

}  // namespace

TEST_CASE("neighborhood keeps the pairs of its definition") {
  for (const bool causal : {false, true}) {
    for (const Index length : {1, 2, 7, 12, 23}) {
      for (const Index dilation : {1, 2, 3, 5}) {
        for (Index window = 1; window * dilation <= length; window += 2) {
          for (Index stride = 1; stride <= window; stride += 2) {
            CAPTURE(causal, length, dilation, window, stride);
            const NeighborhoodOptions options{
                .window = window, .stride = stride, .dilation = dilation, .causal = causal};
            const auto kept = kept_pairs(length, length, neighborhood(options));
            CHECK(kept ==
                  pairs_of(length, length, [&](Index i, Index j) { return axis_of(options, length).sees(i, j); }));
            if (!causal) CHECK(count(kept) == length * window);
          }
        }
      }
    }
  }
}

TEST_CASE("numbers of pairs by hand") {
  const auto pairs = [](Index length, const NeighborhoodOptions& options) {
    return count(kept_pairs(length, length, neighborhood(options)));
  };
  CHECK(pairs(8, {.window = 4, .stride = 2, .causal = true}) == 24);
  CHECK(pairs(8, {.window = 4, .causal = true}) == 26);
  CHECK(pairs(8, {.window = 4, .stride = 4, .causal = true}) == 20);
  CHECK(pairs(9, {.window = 5, .stride = 3, .causal = true}) == 30);
}

TEST_CASE("a radius that is moved inward at the ends is an odd window") {
  for (const Index length : {5, 9, 30}) {
    for (const Index radius : {0, 1, 2}) {
      CAPTURE(length, radius);
      const auto kept = kept_pairs(length, length, neighborhood({.window = 2 * radius + 1}));
      CHECK(kept == pairs_of(length, length, [&](Index i, Index j) {
              const Index before = std::max<Index>(0, radius + i - length + 1), after = std::max<Index>(0, radius - i);
              return j <= i + radius + after && j >= i - radius - before;
            }));
    }
  }
}

TEMPLATE_TEST_CASE("neighborhood equals its reference", "", float, double) {
  for (const Sizes& s : shapes) {
    const auto x = gaussian<TestType>(s);
    for (std::size_t n = 0; n < settings.size(); ++n) {
      INFO(s << " setting " << n);
      CHECK(error(x, settings[n]) < 8);
    }
  }
  CHECK(error(gaussian<TestType>(shapes[0]), {.window = 7, .scale = 0.3}) < 8);
}

TEST_CASE("a window of all tokens is dense attention, bit for bit") {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<double>(s);
    for (const Index stride : {Index{1}, Index{2}, s.keys}) {
      for (const bool causal : {false, true}) {
        CHECK(same_bits(run(x, neighborhood({.window = s.keys, .stride = stride, .causal = causal})),
                        run(x, [&](const auto& in, auto&& out) {
                          fovea::scaled_dot_product(in.q, in.k, in.v, out, {.causal = causal});
                        })));
      }
    }
  }
}

TEST_CASE("causal with a stride of one is a sliding or dilated window, bit for bit") {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<double>(s);
    CHECK(same_bits(run(x, neighborhood({.window = 30, .causal = true})), run(x, [](const auto& in, auto&& out) {
                      fovea::sliding_window(in.q, in.k, in.v, out, {.window = 30});
                    })));
    CHECK(same_bits(run(x, neighborhood({.window = 9, .dilation = 4, .causal = true})),
                    run(x, [](const auto& in, auto&& out) {
                      fovea::dilated_window(in.q, in.k, in.v, out, {.window = 9, .dilation = 4});
                    })));
  }
}

TEST_CASE("windows that fill each residue class are dense attention inside it, bit for bit") {
  const auto x = gaussian<double>({2, 2, 1, 120, 120, 16, 16});
  for (const Index dilation : {1, 2, 5, 12}) {
    INFO(dilation);
    CHECK(same_bits(
        run(x, neighborhood({.window = 120 / dilation, .dilation = dilation})), run(x, [&](const auto& in, auto&& out) {
          fovea::bidirectional_dilated_window(in.q, in.k, in.v, out, {.distance = 120, .dilation = dilation});
        })));
  }
}

TEST_CASE("a stride as long as the window makes blocks") {
  const auto x = gaussian<double>({1, 2, 2, 120, 120, 16, 16});
  const auto got = run(x, neighborhood({.window = 40, .stride = 40}));
  for (Index block = 0; block < 3; ++block) {
    const Inputs<double> part{tokens(x.q, 40 * block, 40 * block + 40), tokens(x.k, 40 * block, 40 * block + 40),
                              tokens(x.v, 40 * block, 40 * block + 40)};
    const auto wanted = over_heads(part, [](const auto& q, const auto& k, const auto& v, auto scale) {
      return fovea::reference::scaled_dot_product(q, k, v, scale);
    });
    CHECK(relative_rms(tokens(got.out, 40 * block, 40 * block + 40), wanted.out) < 8 * double(epsilon<double>));
  }
}

TEST_CASE("arrays with other strides give the same bits") {
  for (const Sizes& s : shapes) {
    const auto x = gaussian<float>(s);
    for (std::size_t n = 0; n < settings.size(); ++n) {
      INFO(s << " setting " << n);
      CHECK(same_bits(run(x, neighborhood(settings[n])),
                      run_bthd(x, [&](const auto& q, const auto& k, const auto& v, auto&& out) {
                        fovea::neighborhood(q, k, v, out, settings[n]);
                      })));
    }
  }
}

TEST_CASE("two threads give the bits of one") {
  for (const Sizes& s : shapes) {
    const auto x = gaussian<float>(s);
    for (std::size_t n = 0; n < settings.size(); ++n) {
      INFO(s << " setting " << n);
      CHECK(same_bits(run(x, neighborhood(settings[n])), run(x, [&](const auto& in, auto&& out) {
                        fovea::neighborhood(in.q, in.k, in.v, out, settings[n], fovea::exec::Pool(2));
                      })));
    }
  }
}

TEST_CASE("nothing to do is no error") {
  for (const Sizes& s : {Sizes{0, 2, 1, 5, 5, 4, 4}, Sizes{1, 2, 1, 0, 0, 4, 4}})
    CHECK_NOTHROW(run(gaussian<float>(s), neighborhood({.window = 2, .dilation = 2})));
}

TEST_CASE("what is refused, and that nothing is touched") {
  const auto x = gaussian<float>({1, 2, 1, 7, 7, 8, 8});
  const auto refusal = [&](const NeighborhoodOptions& options) { return refusal_of(x, neighborhood(options)); };
  const std::string name = "fovea::neighborhood: ";
  CHECK(refusal({}) == name + "window must be positive, got 0");
  CHECK(refusal({.window = 3, .stride = 0}) == name + "stride must be between 1 and the window, 3, got 0");
  CHECK(refusal({.window = 3, .stride = 4}) == name + "stride must be between 1 and the window, 3, got 4");
  CHECK(refusal({.window = 3, .dilation = 0}) == name + "dilation must be positive, got 0");
  CHECK(refusal({.window = 8}) == name + "window dilation must not exceed the length, 7, got 8 times 1");
  CHECK(refusal({.window = 4, .dilation = 2}) == name + "window dilation must not exceed the length, 7, got 4 times 2");
  CHECK(refusal({.window = 3, .dilation = 2}) == "accepted");
  CHECK(refusal({.window = 3, .scale = infinity<double>}).rfind(name, 0) == 0);
  CHECK(refusal_of(gaussian<float>({1, 2, 1, 5, 9, 8, 8}), neighborhood({.window = 2})) ==
        name + "k must have the length of q, wanted 5, got 9");
}
