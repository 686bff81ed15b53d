// Sliding windows, causal and bidirectional, against their references, by their counts, at their limits, and refused.
#include "window/sliding_window.hpp"

#include <fovea/dense/scaled_dot_product.hpp>
#include <fovea/exec/eigen_device.hpp>
#include <fovea/exec/pool.hpp>
#include <fovea/window/sliding_window.hpp>

#include "support/attention.hpp"
#include "support/catch.hpp"
#include "window/kept.hpp"

using namespace fovea::test;
using fovea::Index;

namespace {

auto sliding(fovea::SlidingWindowOptions options) {
  return [options](const auto& x, auto&& out) { fovea::sliding_window(x.q, x.k, x.v, out, options); };
}
auto bidirectional(fovea::BidirectionalWindowOptions options) {
  return [options](const auto& x, auto&& out) { fovea::bidirectional_window(x.q, x.k, x.v, out, options); };
}

// Kept pairs of N = M = length, as the closed forms have them.
Index triangle(Index n) { return n * (n + 1) / 2; }
Index causal_pairs(Index length, Index window) {
  return length <= window ? triangle(length) : triangle(window) + (length - window) * window;
}
Index sink_pairs(Index length, Index window, Index sinks) {
  const Index t = std::max<Index>(0, length - window);
  return t <= sinks ? triangle(t) : triangle(sinks) + (t - sinks) * sinks;
}
Index bidirectional_pairs(Index length, Index distance) {
  return distance < length ? length * (2 * distance + 1) - distance * (distance + 1) : length * length;
}

const std::vector<Sizes> shapes = {
    {1, 1, 1, 1, 1, 1, 1},       {1, 1, 1, 5, 5, 3, 2},      {2, 4, 2, 70, 70, 33, 15},
    {1, 2, 1, 300, 300, 64, 64}, {1, 3, 3, 40, 130, 16, 17}, {2, 6, 2, 1, 200, 32, 32},
    {1, 4, 1, 2, 700, 64, 64},   {1, 1, 1, 130, 40, 8, 8},   {1, 2, 2, 257, 1025, 24, 40},
};

}  // namespace

TEST_CASE("sliding_window keeps the pairs of its definition and as many as the formula says") {
  for (const Index length : {1, 2, 5, 17, 40}) {
    for (const Index window : {1, 2, 6, 16, 17, 18, 64}) {
      for (const Index sinks : {0, 1, 4, 50}) {
        CAPTURE(length, window, sinks);
        const auto kept = kept_pairs(length, length, sliding({.window = window, .sink_tokens = sinks}));
        CHECK(kept ==
              pairs_of(length, length, [&](Index i, Index j) { return j <= i && (i - j < window || j < sinks); }));
        CHECK(count(kept) == causal_pairs(length, window) + sink_pairs(length, window, sinks));
      }
    }
  }
}

TEST_CASE("sliding_window: pairs of 17 tokens with a window of 6, without sinks and with 4") {
  CHECK(count(kept_pairs(17, 17, sliding({.window = 6}))) == 87);
  CHECK(count(kept_pairs(17, 17, sliding({.window = 6, .sink_tokens = 4}))) == 125);
}

TEST_CASE("bidirectional_window keeps the pairs of its definition and as many as the formula says") {
  for (const Index length : {1, 2, 5, 17, 40}) {
    for (const Index distance : {0, 1, 6, 16, 17, 64}) {
      CAPTURE(length, distance);
      const auto kept = kept_pairs(length, length, bidirectional({.distance = distance}));
      CHECK(kept == pairs_of(length, length, [&](Index i, Index j) { return std::abs(i - j) <= distance; }));
      CHECK(count(kept) == bidirectional_pairs(length, distance));
    }
  }
}

TEST_CASE("with fewer or more queries than keys, the queries are the last tokens") {
  for (const Index queries : {1, 3, 9, 20}) {
    for (const Index keys : {1, 2, 12, 20}) {
      const Index offset = keys - queries;
      CAPTURE(queries, keys);
      CHECK(kept_pairs(queries, keys, sliding({.window = 4, .sink_tokens = 2})) ==
            pairs_of(queries, keys, [&](Index i, Index j) {
              const Index p = i + offset;
              return j <= p && (p - j < 4 || j < 2);
            }));
      CHECK(kept_pairs(queries, keys, bidirectional({.distance = 3})) ==
            pairs_of(queries, keys, [&](Index i, Index j) { return std::abs(i + offset - j) <= 3; }));
    }
  }
}

TEMPLATE_TEST_CASE("sliding_window equals its reference", "", float, double) {
  for (const Sizes& s : shapes) {
    const auto x = gaussian<TestType>(s);
    for (const Index window : {1, 7, 64, 100}) {
      for (const Index sinks : {0, 3, 70}) {
        const auto got = run(x, sliding({.window = window, .sink_tokens = sinks}));
        const auto wanted = over_heads(x, [&](const auto& q, const auto& k, const auto& v, auto scale) {
          return fovea::reference::sliding_window(q, k, v, scale, window, sinks);
        });
        INFO(s << " window " << window << " sinks " << sinks);
        CHECK(distance_in_epsilons(got, wanted) < 8);
      }
    }
  }
}

TEMPLATE_TEST_CASE("bidirectional_window equals its reference", "", float, double) {
  for (const Sizes& s : shapes) {
    const auto x = gaussian<TestType>(s);
    for (const Index distance : {0, 3, 64, 100}) {
      const auto got = run(x, bidirectional({.distance = distance}));
      const auto wanted = over_heads(x, [&](const auto& q, const auto& k, const auto& v, auto scale) {
        return fovea::reference::bidirectional_window(q, k, v, scale, distance);
      });
      INFO(s << " distance " << distance);
      CHECK(distance_in_epsilons(got, wanted) < 8);
    }
  }
}

TEMPLATE_TEST_CASE("the scale is that of the options", "", float, double) {
  const auto x = gaussian<TestType>({1, 2, 1, 50, 60, 16, 16});
  const auto causal = over_heads(
      x,
      [](const auto& q, const auto& k, const auto& v, auto scale) {
        return fovea::reference::sliding_window(q, k, v, scale, 9, 2);
      },
      0.1);
  const auto both_sides = over_heads(
      x,
      [](const auto& q, const auto& k, const auto& v, auto scale) {
        return fovea::reference::bidirectional_window(q, k, v, scale, 9);
      },
      0.1);
  CHECK(distance_in_epsilons(run(x, sliding({.window = 9, .sink_tokens = 2, .scale = 0.1})), causal) < 8);
  CHECK(distance_in_epsilons(run(x, bidirectional({.distance = 9, .scale = 0.1})), both_sides) < 8);
}

TEMPLATE_TEST_CASE("a window of one, and a distance of zero, give the own value", "", float, double) {
  const auto x = gaussian<TestType>({2, 2, 2, 150, 150, 16, 24});
  CHECK(same_bits(run(x, sliding({.window = 1})).out, x.v));
  CHECK(same_bits(run(x, bidirectional({.distance = 0})).out, x.v));
}

TEMPLATE_TEST_CASE("windows that hide nothing are dense attention, bit for bit", "", float, double) {
  constexpr Index most = std::numeric_limits<Index>::max();
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const auto dense = [&](bool causal) {
      return run(
          x, [&](const auto& in, auto&& out) { fovea::scaled_dot_product(in.q, in.k, in.v, out, {.causal = causal}); });
    };
    CHECK(same_bits(run(x, sliding({.window = s.keys})), dense(true)));
    CHECK(same_bits(run(x, sliding({.window = most, .sink_tokens = most})), dense(true)));
    CHECK(same_bits(run(x, sliding({.window = 1, .sink_tokens = s.keys})), dense(true)));
    CHECK(same_bits(run(x, bidirectional({.distance = std::max(s.queries, s.keys)})), dense(false)));
    CHECK(same_bits(run(x, bidirectional({.distance = most})), dense(false)));
  }
}

TEMPLATE_TEST_CASE("later tokens do not change a bit of earlier rows", "", float, double) {
  const auto x = gaussian<TestType>({1, 4, 2, 333, 333, 32, 32});
  const auto all = run(x, sliding({.window = 50, .sink_tokens = 3}));
  for (const Index n : {60, 64, 100, 300}) {
    INFO(n);
    CHECK(are_rows_from(run(prefix(x, n), sliding({.window = 50, .sink_tokens = 3})), all, 0));
  }
}

TEMPLATE_TEST_CASE("token by token against a cache equals all tokens at once, to rounding", "", float, double) {
  const auto x = gaussian<TestType>({1, 4, 2, 90, 90, 32, 32});
  auto got = blank<TestType>(x.sizes());
  for (Index i = 0; i < 90; ++i) {
    auto step = prefix(x, i + 1);
    step.q = tokens(x.q, i, i + 1);
    const auto one = run(step, sliding({.window = 20, .sink_tokens = 3}));
    for (Index h = 0; h < 4; ++h) {
      std::copy_n(row(one.out, 0, h, 0), 32, row(got.out, 0, h, i));
      got.log_sum(0, h, i) = one.log_sum(0, h, 0);
    }
  }
  const auto wanted = over_heads(x, [](const auto& q, const auto& k, const auto& v, auto scale) {
    return fovea::reference::sliding_window(q, k, v, scale, 20, 3);
  });
  CHECK(distance_in_epsilons(got, wanted) < 8);
}

TEMPLATE_TEST_CASE("arrays with other strides give the same bits", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    CHECK(same_bits(run(x, sliding({.window = 30, .sink_tokens = 2})),
                    run_bthd(x, [](const auto& q, const auto& k, const auto& v, auto&& out) {
                      fovea::sliding_window(q, k, v, out, {.window = 30, .sink_tokens = 2});
                    })));
    CHECK(same_bits(run(x, bidirectional({.distance = 30})),
                    run_bthd(x, [](const auto& q, const auto& k, const auto& v, auto&& out) {
                      fovea::bidirectional_window(q, k, v, out, {.distance = 30});
                    })));
  }
}

TEMPLATE_TEST_CASE("every executor gives the bits of one thread", "", float, double) {
  Eigen::ThreadPool threads(3);
  const Eigen::ThreadPoolDevice device(&threads, 3);
  for (const Sizes& s : shapes) {
    const auto x = gaussian<TestType>(s);
    const auto check = [&](const auto& executor) {
      INFO(s);
      CHECK(same_bits(run(x, sliding({.window = 30, .sink_tokens = 2})), run(x, [&](const auto& in, auto&& out) {
                        fovea::sliding_window(in.q, in.k, in.v, out, {.window = 30, .sink_tokens = 2}, executor);
                      })));
      CHECK(same_bits(run(x, bidirectional({.distance = 30})), run(x, [&](const auto& in, auto&& out) {
                        fovea::bidirectional_window(in.q, in.k, in.v, out, {.distance = 30}, executor);
                      })));
    };
    check(fovea::exec::Pool(2));
    check(fovea::exec::Pool(5));
    check(fovea::exec::on(device));
  }
}

TEST_CASE("query heads of a key head equal the same keys repeated, bit for bit") {
  const auto x = gaussian<float>({2, 6, 2, 100, 100, 16, 16});
  Inputs<float> repeated{x.q, Tensor4<float>(2, 6, 100, 16), Tensor4<float>(2, 6, 100, 16)};
  for (Index b = 0; b < 2; ++b) {
    for (Index h = 0; h < 6; ++h) {
      std::copy_n(row(x.k, b, h / 3, 0), 1600, row(repeated.k, b, h, 0));
      std::copy_n(row(x.v, b, h / 3, 0), 1600, row(repeated.v, b, h, 0));
    }
  }
  CHECK(same_bits(run(x, sliding({.window = 30, .sink_tokens = 2})),
                  run(repeated, sliding({.window = 30, .sink_tokens = 2}))));
  CHECK(same_bits(run(x, bidirectional({.distance = 30})), run(repeated, bidirectional({.distance = 30}))));
}

TEST_CASE("matrices, and outputs without a log-sum") {
  const Matrix<float> q = Matrix<float>::Random(50, 16), k = Matrix<float>::Random(60, 16),
                      v = Matrix<float>::Random(60, 8);
  Matrix<float> out(50, 8);
  out.setConstant(not_a_number<float>);
  fovea::sliding_window(q, k, v, out, {.window = 9});
  const auto wanted =
      fovea::reference::sliding_window<double>(q.cast<double>(), k.cast<double>(), v.cast<double>(), 0.25, 9, 0);
  CHECK(relative_rms(out, wanted.out) < 8 * epsilon<float>);
}

TEST_CASE("nothing to do is no error") {
  for (const Sizes& s : {Sizes{0, 2, 1, 5, 5, 4, 4}, Sizes{1, 2, 1, 0, 5, 4, 4}}) {
    const auto x = gaussian<float>(s);
    CHECK_NOTHROW(run(x, sliding({.window = 2})));
    CHECK_NOTHROW(run(x, bidirectional({.distance = 2})));
  }
  const auto no_keys = gaussian<float>({1, 2, 1, 5, 0, 4, 4});
  const auto got = run(no_keys, sliding({.window = 2, .sink_tokens = 1}));
  CHECK(all_zero(got.out.data(), got.out.size()));
}

TEST_CASE("what is refused, and that nothing is touched") {
  const auto x = gaussian<float>({1, 2, 1, 5, 5, 8, 8});
  CHECK(refusal_of(x, sliding({})) == "fovea::sliding_window: window must be positive, got 0");
  CHECK(refusal_of(x, sliding({.window = -2})) == "fovea::sliding_window: window must be positive, got -2");
  CHECK(refusal_of(x, sliding({.window = 4, .sink_tokens = -1})) ==
        "fovea::sliding_window: sink_tokens must not be negative, got -1");
  CHECK(refusal_of(x, bidirectional({})) ==
        "fovea::bidirectional_window: distance must be given and not be negative, got -1");
  CHECK(refusal_of(x, sliding({.window = 4, .scale = infinity<double>})).rfind("fovea::sliding_window: ", 0) == 0);
  CHECK(refusal_of(x, bidirectional({.distance = 4, .scale = infinity<double>}))
            .rfind("fovea::bidirectional_window: ", 0) == 0);
}
