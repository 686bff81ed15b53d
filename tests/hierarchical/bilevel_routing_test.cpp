// Bi-level routing against its reference, its choice by brute force, its limits, and what it refuses.
#include "hierarchical/bilevel_routing.hpp"

#include <fovea/exec/pool.hpp>
#include <fovea/hierarchical/bilevel_routing.hpp>

#include "support/attention.hpp"
#include "support/catch.hpp"
#include "window/kept.hpp"

using namespace fovea::test;
using fovea::BilevelRoutingOptions;
using fovea::Index;
using fovea::RegionPadding;
using fovea::RegionRoutes;
using Reference = fovea::reference::BilevelRouting;

namespace {

auto routing(const BilevelRoutingOptions& options) {
  return [options](const auto& x, auto&& out) { fovea::bilevel_routing(x.q, x.k, x.v, out, options); };
}

Reference reference_of(const BilevelRoutingOptions& o, Index heads) {
  return {heads, o.height, o.width, o.regions, o.top_k, o.padding == RegionPadding::zeros, o.soft_routing};
}

template <class T>
Inputs<T> some(const BilevelRoutingOptions& o, Index batch, Index heads, Index dim, Index value_dim) {
  return gaussian<T>({batch, heads, heads, o.height * o.width, o.height * o.width, dim, value_dim}, 2);
}

// The heads of a batch element side by side, [T x H D].
template <class Real, class T>
Matrix<Real> side_by_side(const Tensor4<T>& x, Index b) {
  const Index heads = x.dimension(1), dim = x.dimension(3);
  Matrix<Real> m(x.dimension(2), heads * dim);
  for (Index h = 0; h < heads; ++h) {
    for (Index i = 0; i < m.rows(); ++i) {
      for (Index d = 0; d < dim; ++d) m(i, h * dim + d) = Real(row(x, b, h, i)[d]);
    }
  }
  return m;
}

template <class T>
Result<Exact<T>> wanted(const Inputs<T>& x, const BilevelRoutingOptions& options) {
  using Real = Exact<T>;
  const Sizes s = x.sizes();
  const Reference r = reference_of(options, s.heads);
  const Real scale = options.scale ? Real(*options.scale) : 1 / std::sqrt(Real(s.heads * s.dim));
  auto result = blank<Real>(s);
  for (Index b = 0; b < s.batch; ++b) {
    const auto q = side_by_side<Real>(x.q, b), k = side_by_side<Real>(x.k, b), v = side_by_side<Real>(x.v, b);
    const auto routes = fovea::reference::bilevel_routes<Real>(q, k, scale, r);
    auto one = fovea::reference::bilevel_routing<Real>(q, k, v, scale, routes, r);
    const auto& kernel = options.local_enhancement;
    if (!kernel.empty()) {
      Matrix<Real> weights(v.cols(), kernel.size * kernel.size);
      for (Index n = 0; n < weights.size(); ++n) weights.data()[n] = Real(kernel.weights[std::size_t(n)]);
      fovea::reference::add_local_enhancement<Real>(v, weights, kernel.size, r, one.out);
    }
    for (Index h = 0; h < s.heads; ++h) {
      for (Index i = 0; i < s.queries; ++i) {
        for (Index e = 0; e < s.value_dim; ++e) row(result.out, b, h, i)[e] = one.out(i, h * s.value_dim + e);
        result.log_sum(b, h, i) = one.log_sum(h * s.queries + i);
      }
    }
  }
  return result;
}

template <class T>
double error(const Inputs<T>& x, const BilevelRoutingOptions& options) {
  return distance_in_epsilons(run(x, routing(options)), wanted(x, options));
}

// Entries that are multiples of 1/8, so that the means of 2^n tokens and their products are exact.
template <class T>
void to_eighths(Tensor4<T>& x) {
  for (Index n = 0; n < x.size(); ++n) x.data()[n] = T(std::round(double(x.data()[n]) * 8) / 8);
}

const std::vector<BilevelRoutingOptions> settings = {
    {.height = 14, .width = 14, .regions = 7, .top_k = 4},
    {.height = 8, .width = 12, .regions = 4, .top_k = 1},
    {.height = 10, .width = 9, .regions = 3, .top_k = 5},  // ragged at two edges
    {.height = 8, .width = 9, .regions = 7, .top_k = 6},   // regions without a token
    {.height = 10, .width = 9, .regions = 3, .top_k = 5, .padding = RegionPadding::zeros},
    {.height = 8, .width = 12, .regions = 4, .top_k = 3, .soft_routing = true},
    {.height = 10, .width = 9, .regions = 3, .top_k = 2, .soft_routing = true},
    {.height = 10, .width = 9, .regions = 3, .top_k = 2, .padding = RegionPadding::zeros, .soft_routing = true},
    {.height = 16, .width = 20, .regions = 2, .top_k = 2},  // regions that fill tiles of their own
    {.height = 15, .width = 19, .regions = 2, .top_k = 3},
};

}  // namespace

TEMPLATE_TEST_CASE("bilevel_routing equals its reference", "", float, double) {
  using T = TestType;
  for (std::size_t n = 0; n < settings.size(); ++n) {
    CAPTURE(n);
    CHECK(error(some<T>(settings[n], 1, 1, 32, 32), settings[n]) < 8);
    CHECK(error(some<T>(settings[n], 2, 3, 10, 7), settings[n]) < 8);
  }
  BilevelRoutingOptions options = settings[0];
  options.scale = 0.3;
  CHECK(error(some<T>(options, 1, 2, 16, 16), options) < 8);
}

TEST_CASE("local enhancement adds a depthwise convolution of the values") {
  for (const Index size : {3, 5}) {
    BilevelRoutingOptions options = settings[2];
    const auto x = some<float>(options, 2, 2, 16, 12);
    options.local_enhancement.size = size;
    Tensor4<float> weights(1, 1, 24, size * size);
    fill_gaussian(weights, 9);
    options.local_enhancement.weights = {weights.data(), weights.data() + weights.size()};
    CHECK(error(x, options) < 8);
  }
}

TEST_CASE("the routes are those of a full sort, ties by the lower region") {
  for (const Index top_k : {1, 3, 8, 16}) {
    CAPTURE(top_k);
    const BilevelRoutingOptions options{.height = 8, .width = 8, .regions = 4, .top_k = top_k};
    auto x = some<float>(options, 3, 2, 8, 8);
    to_eighths(x.q);
    to_eighths(x.k);
    for (Index t = 0; t < 64; ++t) {  // regions 5 and 6 as region 2
      const Index y = t / 8, column = t % 8, region = y / 2 * 4 + column / 2;
      if (region != 5 && region != 6) continue;
      for (Index h = 0; h < 2; ++h) std::copy_n(row(x.k, 1, h, y % 2 * 8 + 4 + column % 2), 8, row(x.k, 1, h, t));
    }
    const RegionRoutes routes = fovea::bilevel_routes(x.q, x.k, options);
    CHECK(routes.weights.empty());
    for (Index b = 0; b < 3; ++b) {
      const auto sorted = fovea::reference::bilevel_routes<double>(
          side_by_side<double>(x.q, b), side_by_side<double>(x.k, b), 1.0, reference_of(options, 2));
      for (Index a = 0; a < 16; ++a) {
        const fovea::Span list = routes.table.list(b, 0, a);
        const std::vector<Index> got(routes.table.blocks.begin() + list.first, routes.table.blocks.begin() + list.last);
        CHECK(got == sorted.regions[std::size_t(a)]);
      }
    }
  }
}

TEST_CASE("the scale is that of all channels") {
  // 64 channels in two heads: 1/8.
  BilevelRoutingOptions options{.height = 6, .width = 6, .regions = 3, .top_k = 2};
  const auto x = some<double>(options, 1, 2, 32, 32);
  const auto plain = run(x, routing(options));
  options.scale = 0.125;
  CHECK(same_bits(run(x, routing(options)), plain));
}

TEST_CASE("all regions, or one, are dense attention") {
  for (const BilevelRoutingOptions& options :
       {BilevelRoutingOptions{.height = 9, .width = 12, .regions = 3, .top_k = 9, .scale = 0.25},
        BilevelRoutingOptions{.height = 10, .width = 11, .regions = 4, .top_k = 16, .scale = 0.25},
        BilevelRoutingOptions{.height = 9, .width = 12, .regions = 1, .top_k = 1, .scale = 0.25}}) {
    const auto x = some<double>(options, 2, 2, 16, 16);
    CHECK(is_exact(run(x, routing(options)), x, {.scale = 0.25}));
  }
}

TEST_CASE("regions that choose themselves are windows") {
  const BilevelRoutingOptions options{.height = 8, .width = 8, .regions = 4, .top_k = 1, .scale = 0.5};
  auto x = some<double>(options, 1, 1, 16, 16);
  for (Index t = 0; t < 64; ++t) {
    const Index region = t / 8 / 2 * 4 + t % 8 / 2;
    row(x.q, 0, 0, t)[region] += 20;
    row(x.k, 0, 0, t)[region] += 20;
  }
  CHECK(is_exact(run(x, routing(options)), x, {.scale = 0.5, .visible = [](fovea::Site at) {
                                                 return at.query / 16 == at.key / 16 &&
                                                        at.query % 8 / 2 == at.key % 8 / 2;
                                               }}));
}

TEST_CASE("routes that are kept give the same, and may come from another layer") {
  for (const std::size_t n : {0, 2, 5}) {
    CAPTURE(n);
    const auto x = some<float>(settings[n], 2, 2, 16, 16), other = gaussian<float>(x.sizes(), 8);
    const RegionRoutes routes = fovea::bilevel_routes(x.q, x.k, settings[n]), copy = routes;
    CHECK(same_bits(run(x, routing(settings[n])), run(x, [&](const auto& in, auto&& out) {
                      fovea::bilevel_routing(in.q, in.k, in.v, out, copy, settings[n]);
                    })));
    if (n != 0) continue;
    const Inputs<float> mixed{other.q, other.k, other.v};
    const auto got = run(
        mixed, [&](const auto& in, auto&& out) { fovea::bilevel_routing(in.q, in.k, in.v, out, routes, settings[n]); });
    CHECK(is_exact(got, mixed, {.scale = 1 / std::sqrt(32.0), .visible = [&](fovea::Site at) {
                                  const auto region = [](Index t) { return t / 14 / 2 * 7 + t % 14 / 2; };
                                  const fovea::Span list = routes.table.list(at.batch, 0, region(at.query));
                                  const auto begin = routes.table.blocks.begin();
                                  return std::find(begin + list.first, begin + list.last, region(at.key)) !=
                                         begin + list.last;
                                }}));
  }
}

TEST_CASE("a table of the caller's, shared by the batch; a region without routes sees nothing") {
  const BilevelRoutingOptions options{.height = 4, .width = 4, .regions = 2, .top_k = 1, .scale = 1.0};
  const auto x = some<double>(options, 2, 1, 8, 8);
  const RegionRoutes routes{fovea::mask::BlockTable::from_lists(4, 4, 4, {{3}, {0, 1}, {}, {2}}), {}};
  const auto got =
      run(x, [&](const auto& in, auto&& out) { fovea::bilevel_routing(in.q, in.k, in.v, out, routes, options); });
  CHECK(is_exact(got, x, {.scale = 1.0, .visible = [](fovea::Site at) {
                            const auto region = [](Index t) { return t / 4 / 2 * 2 + t % 4 / 2; };
                            const Index a = region(at.query), b = region(at.key);
                            return (a == 0 && b == 3) || (a == 1 && b <= 1) || (a == 3 && b == 2);
                          }}));
}

TEST_CASE("arrays with other strides, and two threads, give the same bits of routing") {
  for (const std::size_t n : {0, 2, 7, 9}) {
    CAPTURE(n);
    const auto x = some<float>(settings[n], 3, 2, 20, 12);
    const auto plain = run(x, routing(settings[n]));
    CHECK(same_bits(plain, run_bthd(x, [&](const auto& q, const auto& k, const auto& v, auto&& out) {
                      fovea::bilevel_routing(q, k, v, out, settings[n]);
                    })));
    CHECK(same_bits(plain, run(x, [&](const auto& in, auto&& out) {
                      fovea::bilevel_routing(in.q, in.k, in.v, out, settings[n], fovea::exec::Pool(2));
                    })));
  }
}

TEST_CASE("NaN in a region's values spoils the queries that read the region and no other") {
  const BilevelRoutingOptions options = settings[0];
  auto x = some<float>(options, 1, 1, 16, 16);
  const auto clean = run(x, routing(options));
  const RegionRoutes routes = fovea::bilevel_routes(x.q, x.k, options);
  row(x.v, 0, 0, 3 * 14 + 5)[2] = not_a_number<float>;  // region 9
  const auto got = run(x, routing(options));
  for (Index i = 0; i < 196; ++i) {
    const fovea::Span list = routes.table.list(0, 0, i / 14 / 2 * 7 + i % 14 / 2);
    const auto begin = routes.table.blocks.begin();
    const bool reads = std::find(begin + list.first, begin + list.last, 9) != begin + list.last;
    CHECK(std::isnan(row(got.out, 0, 0, i)[2]) == reads);
    if (!reads) CHECK(same_row(got, clean, 0, 0, i));
  }
}

TEST_CASE("no batch is no error") {
  CHECK_NOTHROW(
      run(gaussian<float>({0, 2, 2, 20, 20, 4, 4}), routing({.height = 4, .width = 5, .regions = 2, .top_k = 1})));
}

TEST_CASE("what bilevel_routing refuses, and that nothing is touched") {
  const auto x = gaussian<float>({1, 2, 2, 24, 24, 8, 8});
  const auto refusal = [&](const BilevelRoutingOptions& options) { return refusal_of(x, routing(options)); };
  const std::string name = "fovea::bilevel_routing: ";
  BilevelRoutingOptions good{.height = 4, .width = 6, .regions = 2, .top_k = 1};
  const auto with = [&](auto change) {
    BilevelRoutingOptions options = good;
    change(options);
    return refusal(options);
  };
  CHECK(refusal(good) == "accepted");
  CHECK(with([](auto& o) { o.height = 0; }) == name + "height and width must be positive, got 0 and 6");
  CHECK(with([](auto& o) { o.width = 5; }) == name + "the grid must hold the tokens, wanted 24, got 4 times 5");
  CHECK(with([](auto& o) { o.regions = 5; }) == name + "regions must be between 1 and the shorter side, 4, got 5");
  CHECK(with([](auto& o) { o.regions = 0; }) == name + "regions must be between 1 and the shorter side, 4, got 0");
  CHECK(with([](auto& o) { o.top_k = 0; }) == name + "top_k must be between 1 and the number of regions, 4, got 0");
  CHECK(with([](auto& o) { o.top_k = 5; }) == name + "top_k must be between 1 and the number of regions, 4, got 5");
  CHECK(with([](auto& o) { o.local_enhancement.size = 2; }) ==
        name + "the size of a depthwise kernel must be odd, got 2");
  CHECK(with([](auto& o) { o.local_enhancement.size = 3; }) ==
        name + "a depthwise kernel needs size x size weights for each channel, wanted 144, got 0");
  CHECK(with([](auto& o) { o.scale = infinity<double>; }).rfind(name, 0) == 0);
  CHECK(refusal_of(gaussian<float>({1, 2, 1, 24, 24, 8, 8}), routing(good)) ==
        name + "k must have the heads of q, wanted 2, got 1");
  CHECK(refusal_of(gaussian<float>({1, 2, 2, 24, 20, 8, 8}), routing(good)) ==
        name + "k must have the length of q, wanted 24, got 20");

  const auto routed = [&](const RegionRoutes& routes, bool soft = false) {
    return refusal_of(x, [&](const auto& in, auto&& out) {
      BilevelRoutingOptions options = good;
      options.soft_routing = soft;
      fovea::bilevel_routing(in.q, in.k, in.v, out, routes, options);
    });
  };
  using fovea::mask::BlockTable;
  CHECK(routed({BlockTable::from_lists(6, 6, 4, {{0}, {1}, {2}, {3}}), {}}) == "accepted");
  CHECK(routed({BlockTable::from_lists(4, 4, 4, {{0}, {1}, {2}, {3}}), {}}) ==
        name + "the regions of routes must have the places of these, wanted 6, got 4 and 4");
  CHECK(routed({BlockTable::from_lists(6, 6, 3, {{0}, {1}, {2}}), {}}).rfind(name, 0) == 0);
  CHECK(routed({BlockTable::from_lists(6, 6, 4, {{0}, {1}, {2}, {4}}), {}}).rfind(name, 0) == 0);
  CHECK(routed({BlockTable::from_lists(6, 6, 4, {{0}, {1, 1}, {2}, {3}}), {}}).rfind(name, 0) == 0);
  CHECK(routed({BlockTable::from_lists(6, 6, 4, {{0}, {1}, {2}, {3}}), {}}, true) ==
        name + "soft routing needs a weight for each entry of the routes, wanted 4, got 0");
}
