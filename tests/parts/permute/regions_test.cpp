#include <fovea/parts/permute/regions.hpp>

#include "support/attention.hpp"
#include "support/catch.hpp"

using fovea::Index;
using fovea::permute::Regions;
using namespace fovea::test;

TEST_CASE("every token is in one region, tokens before places without one", "[parts][permute]") {
  for (const Regions& regions :
       {Regions{1, 1, 1}, Regions{6, 9, 3}, Regions{8, 9, 7}, Regions{10, 9, 3}, Regions{5, 4, 4}}) {
    CAPTURE(regions.height, regions.width, regions.per_axis);
    const auto order = regions.order();
    CHECK(Index(order.size()) == regions.count() * regions.places());
    std::vector<int> seen(std::size_t(regions.height * regions.width), 0);
    for (Index region = 0; region < regions.count(); ++region) {
      Index tokens = 0;
      for (Index i = 0; i < regions.places(); ++i) {
        const Index token = order[std::size_t(region * regions.places() + i)];
        if (token < 0) continue;
        CHECK(i == tokens);
        ++tokens;
        ++seen[std::size_t(token)];
        const Index y = token / regions.width / regions.rows(), x = token % regions.width / regions.columns();
        CHECK(y * regions.per_axis + x == region);
        CHECK((i == 0 || order[std::size_t(region * regions.places() + i - 1)] < token));
      }
      CHECK(tokens == regions.tokens_of(region));
    }
    CHECK(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
  }
}

TEST_CASE("regions apart are the same memory, turned", "[parts][permute]") {
  const Regions regions{4, 6, 2};
  auto x = gaussian<float>({3, 1, 1, 24, 24, 5, 7});
  auto got = blank<float>(x.sizes());
  const auto problem = fovea::make_problem("test", x.q, x.k, x.v, got.both());
  const auto apart = fovea::permute::regions_apart(problem, regions);
  CHECK(apart.q.extents() == fovea::Extents{4, 3, 6, 5});
  CHECK(apart.k.extents() == fovea::Extents{4, 3, 24, 5});
  CHECK(apart.v.extents() == fovea::Extents{4, 3, 24, 7});
  for (Index region = 0; region < 4; ++region) {
    for (Index n = 0; n < 3; ++n) {
      for (Index i = 0; i < 6; ++i) {
        CHECK(apart.q.row(region, n, i) == row(x.q, n, 0, 6 * region + i));
        CHECK(apart.out.row(region, n, i) == row(got.out, n, 0, 6 * region + i));
        CHECK(apart.log_sum.row(region, n, i) == &got.log_sum(n, 0, 6 * region + i));
      }
      CHECK(apart.k.row(region, n, 23) == row(x.k, n, 0, 23));
      CHECK(apart.v.row(region, n, 0) == row(x.v, n, 0, 0));
    }
  }
}
