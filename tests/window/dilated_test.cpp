// Dilated windows, causal and bidirectional, against their references, by their counts, at their limits, and refused.
#include "window/dilated.hpp"

#include <fovea/dense/scaled_dot_product.hpp>
#include <fovea/exec/eigen_device.hpp>
#include <fovea/exec/pool.hpp>
#include <fovea/window/dilated.hpp>
#include <fovea/window/sliding_window.hpp>

#include "support/attention.hpp"
#include "support/catch.hpp"
#include "window/kept.hpp"

using namespace fovea::test;
using fovea::Index;

namespace {

auto causal(fovea::DilatedWindowOptions options) {
  return [options](const auto& x, auto&& out) { fovea::dilated_window(x.q, x.k, x.v, out, options); };
}
auto bidirectional(fovea::BidirectionalDilatedWindowOptions options) {
  return [options](const auto& x, auto&& out) { fovea::bidirectional_dilated_window(x.q, x.k, x.v, out, options); };
}

// Kept pairs as the closed forms have them.
Index causal_pairs(Index length, Index window, Index dilation) {
  Index pairs = 0;
  for (Index n = 0; n < window; ++n) pairs += std::max<Index>(0, length - n * dilation);
  return pairs;
}
Index bidirectional_pairs(Index length, Index distance, Index dilation) {
  Index pairs = length;
  for (Index n = 1; n <= distance; ++n) pairs += 2 * std::max<Index>(0, length - n * dilation);
  return pairs;
}

// Tokens r, r + dilation, ... of an array.
template <class T>
Tensor4<T> residue_class(const Tensor4<T>& x, Index r, Index dilation) {
  const Index length = (x.dimension(2) - r + dilation - 1) / dilation;
  Tensor4<T> part(x.dimension(0), x.dimension(1), length, x.dimension(3));
  for (Index b = 0; b < x.dimension(0); ++b) {
    for (Index h = 0; h < x.dimension(1); ++h) {
      for (Index i = 0; i < length; ++i)
        std::copy_n(row(x, b, h, r + i * dilation), x.dimension(3), row(part, b, h, i));
    }
  }
  return part;
}

// Whether `one` is class r of `all`, bit for bit.
template <class T>
bool is_residue_class(const Result<T>& one, const Result<T>& all, Index r, Index dilation) {
  if (!same_bits(one.out, residue_class(all.out, r, dilation))) return false;
  for (Index b = 0; b < one.log_sum.dimension(0); ++b) {
    for (Index h = 0; h < one.log_sum.dimension(1); ++h) {
      for (Index i = 0; i < one.log_sum.dimension(2); ++i) {
        if (one.log_sum(b, h, i) != all.log_sum(b, h, r + i * dilation)) return false;
      }
    }
  }
  return true;
}

const std::vector<Sizes> shapes = {
    {1, 1, 1, 1, 1, 1, 1},       {1, 1, 1, 5, 5, 3, 2},       {3, 4, 2, 70, 70, 33, 15},
    {1, 2, 1, 300, 300, 64, 64}, {1, 3, 3, 257, 257, 24, 40}, {2, 6, 2, 131, 131, 32, 32},
};

}  // namespace

TEST_CASE("dilated_window keeps the pairs of its definition and as many as the formula says") {
  for (const Index length : {1, 2, 7, 17, 40}) {
    for (const Index window : {1, 2, 5, 40, 100}) {
      for (const Index dilation : {1, 2, 3, 7, 16, 17, 90}) {
        CAPTURE(length, window, dilation);
        const auto kept = kept_pairs(length, length, causal({.window = window, .dilation = dilation}));
        CHECK(kept == pairs_of(length, length, [&](Index i, Index j) {
                for (Index n = 0; n < window; ++n) {
                  if (i - j == n * dilation) return true;
                }
                return false;
              }));
        CHECK(count(kept) == causal_pairs(length, window, dilation));
      }
    }
  }
}

TEST_CASE("bidirectional_dilated_window keeps the pairs of its definition and as many as the formula says") {
  for (const Index length : {1, 2, 7, 17, 40}) {
    for (const Index distance : {0, 1, 4, 40, 100}) {
      for (const Index dilation : {1, 2, 3, 7, 16, 17, 90}) {
        CAPTURE(length, distance, dilation);
        const auto kept = kept_pairs(length, length, bidirectional({.distance = distance, .dilation = dilation}));
        CHECK(kept == pairs_of(length, length, [&](Index i, Index j) {
                return std::abs(i - j) <= distance * dilation && (i - j) % dilation == 0;
              }));
        CHECK(count(kept) == bidirectional_pairs(length, distance, dilation));
      }
    }
  }
}

TEMPLATE_TEST_CASE("dilated_window equals its reference", "", float, double) {
  for (const Sizes& s : shapes) {
    const auto x = gaussian<TestType>(s);
    for (const Index window : {1, 3, 20, 100}) {
      for (const Index dilation : {1, 2, 3, 4, 50, 400}) {
        const auto got = run(x, causal({.window = window, .dilation = dilation}));
        const auto wanted = over_heads(x, [&](const auto& q, const auto& k, const auto& v, auto scale) {
          return fovea::reference::dilated_window(q, k, v, scale, window, dilation);
        });
        INFO(s << " window " << window << " dilation " << dilation);
        CHECK(distance_in_epsilons(got, wanted) < 8);
      }
    }
  }
}

TEMPLATE_TEST_CASE("bidirectional_dilated_window equals its reference", "", float, double) {
  for (const Sizes& s : shapes) {
    const auto x = gaussian<TestType>(s);
    for (const Index distance : {0, 3, 20, 100}) {
      for (const Index dilation : {1, 2, 3, 4, 50, 400}) {
        const auto got = run(x, bidirectional({.distance = distance, .dilation = dilation}));
        const auto wanted = over_heads(x, [&](const auto& q, const auto& k, const auto& v, auto scale) {
          return fovea::reference::bidirectional_dilated_window(q, k, v, scale, distance, dilation);
        });
        INFO(s << " distance " << distance << " dilation " << dilation);
        CHECK(distance_in_epsilons(got, wanted) < 8);
      }
    }
  }
}

TEMPLATE_TEST_CASE("the scale is that of the options", "", float, double) {
  const auto x = gaussian<TestType>({1, 2, 1, 60, 60, 16, 16});
  const auto one_side = over_heads(
      x,
      [](const auto& q, const auto& k, const auto& v, auto scale) {
        return fovea::reference::dilated_window(q, k, v, scale, 9, 2);
      },
      0.1);
  const auto both_sides = over_heads(
      x,
      [](const auto& q, const auto& k, const auto& v, auto scale) {
        return fovea::reference::bidirectional_dilated_window(q, k, v, scale, 9, 2);
      },
      0.1);
  CHECK(distance_in_epsilons(run(x, causal({.window = 9, .dilation = 2, .scale = 0.1})), one_side) < 8);
  CHECK(distance_in_epsilons(run(x, bidirectional({.distance = 9, .dilation = 2, .scale = 0.1})), both_sides) < 8);
}

TEMPLATE_TEST_CASE("a dilation of one is the plain window, bit for bit", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    CHECK(same_bits(run(x, causal({.window = 30, .dilation = 1})), run(x, [](const auto& in, auto&& out) {
                      fovea::sliding_window(in.q, in.k, in.v, out, {.window = 30});
                    })));
    CHECK(same_bits(run(x, bidirectional({.distance = 30, .dilation = 1})), run(x, [](const auto& in, auto&& out) {
                      fovea::bidirectional_window(in.q, in.k, in.v, out, {.distance = 30});
                    })));
  }
}

TEMPLATE_TEST_CASE("windows that hide nothing are dense attention inside each residue class, bit for bit", "", float,
                   double) {
  constexpr Index most = std::numeric_limits<Index>::max();
  for (const Sizes& s : shapes) {
    const auto x = gaussian<TestType>(s);
    for (const Index dilation : {1, 2, 5, 64}) {
      const auto one_side = run(x, causal({.window = s.keys, .dilation = dilation}));
      const auto both_sides = run(x, bidirectional({.distance = most, .dilation = dilation}));
      for (Index r = 0; r < std::min(dilation, s.keys); ++r) {
        INFO(s << " dilation " << dilation << " class " << r);
        const Inputs<TestType> part{residue_class(x.q, r, dilation), residue_class(x.k, r, dilation),
                                    residue_class(x.v, r, dilation)};
        const auto dense = [&](bool is_causal) {
          return run(part, [&](const auto& in, auto&& out) {
            fovea::scaled_dot_product(in.q, in.k, in.v, out, {.causal = is_causal});
          });
        };
        CHECK(is_residue_class(dense(true), one_side, r, dilation));
        CHECK(is_residue_class(dense(false), both_sides, r, dilation));
      }
    }
  }
}

TEMPLATE_TEST_CASE("a window of one, a distance of zero, and a dilation past the end give the own value", "", float,
                   double) {
  const auto x = gaussian<TestType>({2, 2, 2, 150, 150, 16, 24});
  constexpr Index most = std::numeric_limits<Index>::max();
  CHECK(same_bits(run(x, causal({.window = 1, .dilation = 3})).out, x.v));
  CHECK(same_bits(run(x, bidirectional({.distance = 0, .dilation = 3})).out, x.v));
  for (const Index dilation : {Index{150}, most}) {
    CHECK(same_bits(run(x, causal({.window = most, .dilation = dilation})).out, x.v));
    CHECK(same_bits(run(x, bidirectional({.distance = most, .dilation = dilation})).out, x.v));
  }
}

TEMPLATE_TEST_CASE("later tokens do not change a bit of earlier rows", "", float, double) {
  const auto x = gaussian<TestType>({1, 4, 2, 333, 333, 32, 32});
  const auto all = run(x, causal({.window = 20, .dilation = 3}));
  for (const Index n : {60, 64, 100, 300}) {
    INFO(n);
    CHECK(are_rows_from(run(prefix(x, n), causal({.window = 20, .dilation = 3})), all, 0));
  }
}

TEMPLATE_TEST_CASE("tokens of another residue do not matter, whatever they hold", "", float, double) {
  const auto x = gaussian<TestType>({1, 2, 1, 200, 200, 16, 16});
  const auto clean = run(x, bidirectional({.distance = 100, .dilation = 3}));
  auto spoiled = x;
  for (Index i = 1; i < 200; i += 3) {
    std::fill_n(row(spoiled.k, 0, 0, i), 16, not_a_number<TestType>);
    std::fill_n(row(spoiled.v, 0, 0, i), 16, infinity<TestType>);
  }
  const auto got = run(spoiled, bidirectional({.distance = 100, .dilation = 3}));
  for (Index h = 0; h < 2; ++h) {
    for (Index i = 0; i < 200; ++i) {
      if (i % 3 == 1) {
        CHECK(all_nan(row(got.out, 0, h, i), 16));
      } else {
        CHECK(same_row(got, clean, 0, h, i));
      }
    }
  }
}

TEMPLATE_TEST_CASE("arrays with other strides give the same bits", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    CHECK(same_bits(run(x, causal({.window = 30, .dilation = 3})),
                    run_bthd(x, [](const auto& q, const auto& k, const auto& v, auto&& out) {
                      fovea::dilated_window(q, k, v, out, {.window = 30, .dilation = 3});
                    })));
    CHECK(same_bits(run(x, bidirectional({.distance = 30, .dilation = 3})),
                    run_bthd(x, [](const auto& q, const auto& k, const auto& v, auto&& out) {
                      fovea::bidirectional_dilated_window(q, k, v, out, {.distance = 30, .dilation = 3});
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
      CHECK(same_bits(run(x, causal({.window = 30, .dilation = 3})), run(x, [&](const auto& in, auto&& out) {
                        fovea::dilated_window(in.q, in.k, in.v, out, {.window = 30, .dilation = 3}, executor);
                      })));
      CHECK(same_bits(run(x, bidirectional({.distance = 30, .dilation = 3})), run(x, [&](const auto& in, auto&& out) {
                        fovea::bidirectional_dilated_window(in.q, in.k, in.v, out, {.distance = 30, .dilation = 3},
                                                            executor);
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
  CHECK(same_bits(run(x, causal({.window = 30, .dilation = 3})), run(repeated, causal({.window = 30, .dilation = 3}))));
  CHECK(same_bits(run(x, bidirectional({.distance = 30, .dilation = 3})),
                  run(repeated, bidirectional({.distance = 30, .dilation = 3}))));
}

TEST_CASE("matrices, and outputs without a log-sum") {
  const Matrix<float> q = Matrix<float>::Random(50, 16), k = Matrix<float>::Random(50, 16),
                      v = Matrix<float>::Random(50, 8);
  Matrix<float> out(50, 8);
  out.setConstant(not_a_number<float>);
  fovea::dilated_window(q, k, v, out, {.window = 9, .dilation = 4});
  const auto wanted =
      fovea::reference::dilated_window<double>(q.cast<double>(), k.cast<double>(), v.cast<double>(), 0.25, 9, 4);
  CHECK(relative_rms(out, wanted.out) < 8 * epsilon<float>);
}

TEST_CASE("nothing to do is no error") {
  for (const Sizes& s : {Sizes{0, 2, 1, 5, 5, 4, 4}, Sizes{1, 2, 1, 0, 0, 4, 4}}) {
    const auto x = gaussian<float>(s);
    CHECK_NOTHROW(run(x, causal({.window = 2, .dilation = 2})));
    CHECK_NOTHROW(run(x, bidirectional({.distance = 2, .dilation = 2})));
  }
}

TEST_CASE("what is refused, and that nothing is touched") {
  const auto x = gaussian<float>({1, 2, 1, 5, 5, 8, 8});
  const std::string one = "fovea::dilated_window: ", both = "fovea::bidirectional_dilated_window: ";
  CHECK(refusal_of(x, causal({.dilation = 2})) == one + "window must be positive, got 0");
  CHECK(refusal_of(x, causal({.window = 2})) == one + "dilation must be positive, got 0");
  CHECK(refusal_of(x, causal({.window = 2, .dilation = -1})) == one + "dilation must be positive, got -1");
  CHECK(refusal_of(x, bidirectional({.dilation = 2})) == both + "distance must be given and not be negative, got -1");
  CHECK(refusal_of(x, bidirectional({.distance = 2})) == both + "dilation must be positive, got 0");
  CHECK(refusal_of(x, causal({.window = 2, .dilation = 2, .scale = infinity<double>})).rfind(one, 0) == 0);
  CHECK(refusal_of(x, bidirectional({.distance = 2, .dilation = 2, .scale = infinity<double>})).rfind(both, 0) == 0);

  for (const auto& [queries, keys] : {std::pair<Index, Index>{5, 9}, {9, 5}, {0, 3}, {3, 0}}) {
    const auto cross = gaussian<float>({1, 2, 1, queries, keys, 8, 8});
    const std::string rest =
        "k must have the length of q, wanted " + std::to_string(queries) + ", got " + std::to_string(keys);
    CHECK(refusal_of(cross, causal({.window = 2, .dilation = 2})) == one + rest);
    CHECK(refusal_of(cross, bidirectional({.distance = 2, .dilation = 2})) == both + rest);
  }
}
