// Heads that retrieve and heads that stream: against the reference, at the limits, and refused.
#include <fovea/dense/scaled_dot_product.hpp>
#include <fovea/exec/pool.hpp>
#include <fovea/sink/head_split.hpp>

#include "sink/head_split.hpp"
#include "support/attention.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;

namespace {

const std::vector<Sizes> shapes = {{1, 1, 1, 1, 1, 1, 1},
                                   {2, 4, 4, 70, 70, 33, 15},
                                   {1, 4, 2, 20, 150, 16, 33},
                                   {1, 4, 1, 1, 600, 64, 64},
                                   {1, 4, 2, 300, 300, 16, 16}};

// Mixed within a group of two, and within one of four.
std::vector<bool> mixed(Index heads) {
  const std::vector<bool> some = {true, false, false, false};
  return {some.begin(), some.begin() + heads};
}

std::vector<bool> all(Index heads, bool retrieval) { return std::vector<bool>(std::size_t(heads), retrieval); }

template <class T, class Exec = fovea::exec::Serial>
Result<T> split(const Inputs<T>& x, const fovea::HeadSplitOptions& options, const Exec& executor = {}) {
  auto got = blank<T>(x.sizes());
  fovea::head_split(x.q, x.k, x.v, got.both(), options, executor);
  return got;
}

template <class T>
Result<T> with_mask(const Inputs<T>& x, const auto& mask) {
  auto got = blank<T>(x.sizes());
  fovea::attend(x.q, x.k, x.v, got.both(), fovea::softmax().mask(mask));
  return got;
}

}  // namespace

TEMPLATE_TEST_CASE("retrieval and streaming heads equal the reference", "[sink]", float, double) {
  using Real = Exact<TestType>;
  for (const Sizes& s : shapes) {
    for (const Index window : {1, 7, 100}) {
      for (const Index sink_tokens : {0, 4, 65}) {
        const auto x = gaussian<TestType>(s);
        const auto flags = mixed(s.heads);
        const auto got = split(x, {.retrieval = flags, .window = window, .sink_tokens = sink_tokens});
        Tensor4<Real> wanted(got.out.dimensions());
        for (Index b = 0; b < s.batch; ++b) {
          for (Index h = 0; h < s.heads; ++h) {
            const Index g = h * s.kv_heads / s.heads;
            const auto one = fovea::reference::head_split<Real>(
                head(x.q, b, h).template cast<Real>(), head(x.k, b, g).template cast<Real>(),
                head(x.v, b, g).template cast<Real>(), flags[std::size_t(h)], window, sink_tokens);
            std::copy_n(one.data(), one.size(), row(wanted, b, h, 0));
          }
        }
        INFO(s << " window " << window << " sink_tokens " << sink_tokens);
        CHECK(relative_rms(got.out, wanted) < 8 * double(epsilon<TestType>));
      }
    }
  }
}

TEST_CASE("a streaming head sees sink tokens and the window: 125 pairs of 17 tokens, window 6, 4 sink tokens",
          "[sink]") {
  const Sizes s{1, 2, 2, 17, 17, 8, 17};
  auto x = gaussian<double>(s);
  x.v.setZero();
  for (Index h = 0; h < 2; ++h) {
    for (Index j = 0; j < 17; ++j) row(x.v, 0, h, j)[j] = 1;  // outputs are weights
  }
  const auto got = split(x, {.retrieval = {true, false}, .window = 6, .sink_tokens = 4});
  Index pairs[2] = {0, 0};
  for (Index h = 0; h < 2; ++h) {
    for (Index i = 0; i < 17; ++i) {
      for (Index j = 0; j < 17; ++j) pairs[h] += row(got.out, 0, h, i)[j] > 0 ? 1 : 0;
    }
  }
  CHECK(pairs[0] == 17 * 18 / 2);
  CHECK(pairs[1] == 125);
}

TEMPLATE_TEST_CASE("all heads that retrieve are causal attention, bit for bit", "[sink]", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    auto wanted = blank<TestType>(s);
    fovea::scaled_dot_product(x.q, x.k, x.v, wanted.both(), {.causal = true});
    CHECK(same_bits(split(x, {.retrieval = all(s.heads, true), .window = 3}), wanted));
  }
}

TEMPLATE_TEST_CASE("all heads that stream are a window with sink tokens, bit for bit", "[sink]", float, double) {
  namespace mask = fovea::mask;
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    CHECK(same_bits(split(x, {.retrieval = all(s.heads, false), .window = 9, .sink_tokens = 4}),
                    with_mask(x, mask::causal() & (mask::window(9) | mask::prefix(4)))));
  }
}

TEMPLATE_TEST_CASE("window and sink tokens that reach all keys are causal attention", "[sink]", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    auto wanted = blank<TestType>(s);
    fovea::scaled_dot_product(x.q, x.k, x.v, wanted.both(), {.causal = true});
    const Index window = (s.keys + 1) / 2;
    CHECK(same_bits(split(x, {.retrieval = mixed(s.heads), .window = s.keys}), wanted));
    CHECK(relative_rms(split(x, {.retrieval = mixed(s.heads), .window = window, .sink_tokens = s.keys - window}).out,
                       wanted.out) < 8 * double(epsilon<TestType>));
  }
}

TEMPLATE_TEST_CASE("a head does not depend on the kind of the others", "[sink]", float, double) {
  for (const Sizes& s : {Sizes{1, 4, 4, 150, 150, 16, 16}, Sizes{1, 4, 2, 150, 150, 16, 16}}) {
    const auto x = gaussian<TestType>(s);
    const auto both = split(x, {.retrieval = {true, false, false, true}, .window = 20, .sink_tokens = 2});
    const auto full = split(x, {.retrieval = all(4, true), .window = 20, .sink_tokens = 2});
    const auto stream = split(x, {.retrieval = all(4, false), .window = 20, .sink_tokens = 2});
    auto wanted = both.out;
    for (Index h = 0; h < 4; ++h) {
      const auto& from = h == 0 || h == 3 ? full : stream;
      std::copy_n(row(from.out, 0, h, 0), s.queries * s.value_dim, row(wanted, 0, h, 0));
    }
    CHECK(relative_rms(both.out, wanted) < 4 * double(epsilon<TestType>));
    if (s.kv_heads == s.heads) CHECK(same_bits(both.out, wanted));
  }
}

TEMPLATE_TEST_CASE("permuted heads permute with their kinds, bit for bit", "[sink]", float, double) {
  const Sizes s{1, 4, 4, 90, 90, 16, 8};
  const auto x = gaussian<TestType>(s);
  const std::vector<Index> order = {2, 0, 3, 1};
  auto y = x;
  const auto flags = mixed(4);
  auto moved = flags;
  for (Index h = 0; h < 4; ++h) {
    const Index from = order[std::size_t(h)];
    std::copy_n(row(x.q, 0, from, 0), s.queries * s.dim, row(y.q, 0, h, 0));
    std::copy_n(row(x.k, 0, from, 0), s.keys * s.dim, row(y.k, 0, h, 0));
    std::copy_n(row(x.v, 0, from, 0), s.keys * s.value_dim, row(y.v, 0, h, 0));
    moved[std::size_t(h)] = flags[std::size_t(from)];
  }
  const auto a = split(x, {.retrieval = flags, .window = 9, .sink_tokens = 2});
  const auto b = split(y, {.retrieval = moved, .window = 9, .sink_tokens = 2});
  const Index size = s.queries * s.value_dim;
  for (Index h = 0; h < 4; ++h)
    CHECK(std::equal(row(b.out, 0, h, 0), row(b.out, 0, h, 0) + size, row(a.out, 0, order[std::size_t(h)], 0)));
}

TEMPLATE_TEST_CASE("a split on a pool is the same, bit for bit", "[sink]", float, double) {
  const fovea::exec::Pool pool(3);
  for (const Sizes& s : {Sizes{2, 4, 2, 170, 170, 33, 15}, Sizes{1, 4, 4, 1, 1500, 16, 16}}) {
    const auto x = gaussian<TestType>(s);
    const fovea::HeadSplitOptions options = {.retrieval = mixed(4), .window = 20, .sink_tokens = 4};
    CHECK(same_bits(split(x, options), split(x, options, pool)));
  }
}

TEMPLATE_TEST_CASE("strided arrays split as copies do, bit for bit", "[sink]", float, double) {
  const Sizes s{2, 4, 2, 50, 60, 16, 8};
  const auto x = gaussian<TestType>(s);
  const auto swapped = [](const Tensor4<TestType>& from) {
    Tensor4<TestType> to(from.dimension(0), from.dimension(2), from.dimension(1), from.dimension(3));
    for (Index b = 0; b < from.dimension(0); ++b) {
      for (Index m = 0; m < from.dimension(1); ++m) {
        for (Index n = 0; n < from.dimension(2); ++n)
          std::copy_n(row(from, b, m, n), from.dimension(3), row(to, b, n, m));
      }
    }
    return to;
  };
  const auto q = swapped(x.q), k = swapped(x.k), v = swapped(x.v);
  Tensor4<TestType> out(s.batch, s.queries, s.heads, s.value_dim);
  const fovea::HeadSplitOptions options = {.retrieval = mixed(4), .window = 9, .sink_tokens = 3};
  fovea::head_split(fovea::bthd(q), fovea::bthd(k), fovea::bthd(v), fovea::bthd(out), options);
  CHECK(same_bits(swapped(out), split(x, options).out));
}

TEMPLATE_TEST_CASE("constant values stay constant in heads of both kinds", "[sink]", float, double) {
  auto x = gaussian<TestType>({1, 4, 2, 80, 90, 16, 8});
  x.v.setConstant(TestType(3));
  const auto got = split(x, {.retrieval = mixed(4), .window = 9, .sink_tokens = 3});
  for (Index n = 0; n < got.out.size(); ++n)
    REQUIRE(std::abs(double(got.out.data()[n]) - 3) < 64 * double(epsilon<TestType>));
}

TEMPLATE_TEST_CASE("a query alone gives the last row of all queries", "[sink]", float, double) {
  const Sizes s{1, 4, 2, 130, 130, 16, 16};
  const auto x = gaussian<TestType>(s);
  auto last = x;
  last.q = Tensor4<TestType>(1, 4, 1, 16);
  for (Index h = 0; h < 4; ++h) std::copy_n(row(x.q, 0, h, 129), 16, row(last.q, 0, h, 0));
  const fovea::HeadSplitOptions options = {.retrieval = mixed(4), .window = 20, .sink_tokens = 4};
  const auto whole = split(x, options), one = split(last, options);
  auto wanted = one.out;
  for (Index h = 0; h < 4; ++h) std::copy_n(row(whole.out, 0, h, 129), 16, row(wanted, 0, h, 0));
  CHECK(relative_rms(one.out, wanted) < 8 * double(epsilon<TestType>));
}

TEST_CASE("queries before the first key get zero", "[sink]") {
  const auto x = gaussian<float>({1, 2, 2, 70, 5, 8, 6});
  const auto got = split(x, {.retrieval = {true, false}, .window = 2, .sink_tokens = 1});
  for (Index h = 0; h < 2; ++h) {
    CHECK(all_zero(row(got.out, 0, h, 0), 65 * 6));
    CHECK(got.log_sum(0, h, 64) == -infinity<float>);
    CHECK(got.log_sum(0, h, 65) > -infinity<float>);
  }
}

TEST_CASE("NaN in a key spoils the heads and queries that see it and no other", "[sink]") {
  auto x = gaussian<float>({1, 2, 1, 100, 100, 8, 6});
  row(x.k, 0, 0, 50)[3] = not_a_number<float>;
  row(x.v, 0, 0, 50)[3] = not_a_number<float>;
  const auto got = split(x, {.retrieval = {true, false}, .window = 10, .sink_tokens = 3});
  for (Index i = 0; i < 100; ++i) {
    REQUIRE(std::isnan(row(got.out, 0, 0, i)[0]) == (i >= 50));
    REQUIRE(std::isnan(row(got.out, 0, 1, i)[0]) == (i >= 50 && i < 60));
  }
}

TEST_CASE("what head_split refuses leaves the output untouched", "[sink]") {
  const auto x = gaussian<float>({1, 4, 2, 5, 7, 8, 6});
  auto got = blank<float>(x.sizes());
  const auto said = [&](const fovea::HeadSplitOptions& o) {
    return support::refusal([&] { fovea::head_split(x.q, x.k, x.v, got.both(), o); });
  };
  const auto flags = mixed(4);
  CHECK(said({.window = 3}) == "fovea::head_split: retrieval needs one flag for each query head, wanted 4, got 0");
  CHECK(said({.retrieval = {true, false}, .window = 3}) ==
        "fovea::head_split: retrieval needs one flag for each query head, wanted 4, got 2");
  CHECK(said({.retrieval = flags}) == "fovea::head_split: window must be positive, got 0");
  CHECK(said({.retrieval = flags, .window = -1}) == "fovea::head_split: window must be positive, got -1");
  CHECK(said({.retrieval = flags, .window = 3, .sink_tokens = -2}) ==
        "fovea::head_split: sink_tokens must not be negative, got -2");
  CHECK(said({.retrieval = flags, .window = 3, .scale = infinity<double>}) ==
        "fovea::head_split: the scale must be finite, got inf");
  CHECK(all_nan(got.out.data(), got.out.size()));
  CHECK(all_nan(got.log_sum.data(), got.log_sum.size()));
}

TEST_CASE("the heads with the lowest scores stream", "[sink]") {
  using Flags = std::vector<bool>;
  const std::vector<double> scores = {0.9, 0.1, 0.4, 0.2, 0.8};
  CHECK(fovea::retrieval_heads(scores, 0.4) == Flags{true, false, true, false, true});
  CHECK(fovea::retrieval_heads(scores, 0) == Flags(5, true));
  CHECK(fovea::retrieval_heads(scores, 1) == Flags(5, false));
  CHECK(fovea::retrieval_heads({}, 0.5).empty());
}

TEST_CASE("among heads of equal score, clamped to [0, 1], the earlier ones stream", "[sink]") {
  using Flags = std::vector<bool>;
  CHECK(fovea::retrieval_heads({0.5, 0.5, 0.5, 0.5}, 0.5) == Flags{false, false, true, true});
  CHECK(fovea::retrieval_heads({1.3, 1.2, 0.0, -0.5}, 0.75) == Flags{false, true, false, false});
}

TEST_CASE("scores that are NaN and a sparsity outside [0, 1] are refused", "[sink]") {
  const auto said = [](const std::vector<double>& scores, double sparsity) {
    return support::refusal([&] { fovea::retrieval_heads(scores, sparsity); });
  };
  CHECK(said({0.5, not_a_number<double>}, 0.5) == "fovea::retrieval_heads: scores must be numbers, got nan");
  CHECK(said({0.5}, 1.5) == "fovea::retrieval_heads: sparsity must be between 0 and 1, got 1.5");
  CHECK(said({0.5}, not_a_number<double>) == "fovea::retrieval_heads: sparsity must be between 0 and 1, got nan");
}
