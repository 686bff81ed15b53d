#include <fovea/exec/pool.hpp>
#include <fovea/exec/serial.hpp>
#include <fovea/parts/select/pool_regions.hpp>

#include "support/attention.hpp"
#include "support/catch.hpp"

using fovea::Index;
using fovea::permute::Regions;
using namespace fovea::test;

TEMPLATE_TEST_CASE("regions are pooled to the mean of their tokens, all heads in one row", "[parts][select]", float,
                   double) {
  using T = TestType;
  for (const Regions& regions : {Regions{6, 9, 3}, Regions{10, 9, 3}, Regions{8, 9, 7}}) {
    const Index tokens = regions.height * regions.width;
    const auto x = gaussian<T>({2, 3, 3, tokens, tokens, 19, 1});
    const auto means = fovea::select::pool_regions<T>(fovea::view(x.q), regions, fovea::exec::Serial{});
    CHECK(means.view().extents() == fovea::Extents{2, 1, regions.count(), 57});
    for (Index b = 0; b < 2; ++b) {
      for (Index region = 0; region < regions.count(); ++region) {
        std::vector<Exact<T>> sums(57, 0);
        Index count = 0;
        for (Index t = 0; t < tokens; ++t) {
          const Index y = t / regions.width / regions.rows(), column = t % regions.width / regions.columns();
          if (y * regions.per_axis + column != region) continue;
          ++count;
          for (Index c = 0; c < 57; ++c) sums[std::size_t(c)] += row(x.q, b, c / 19, t)[c % 19];
        }
        for (Index c = 0; c < 57; ++c) {
          const T got = means.view().row(b, 0, region)[c];
          if (count == 0) {
            CHECK(std::isnan(got));
          } else {
            CHECK(std::abs(got - sums[std::size_t(c)] / Exact<T>(count)) < 8 * epsilon<T>);
          }
        }
      }
    }
    const auto pooled = fovea::select::pool_regions<T>(fovea::view(x.q), regions, fovea::exec::Pool(3));
    CHECK(std::memcmp(pooled.rows.data(), means.rows.data(), means.rows.size() * sizeof(T)) == 0);
  }
}
