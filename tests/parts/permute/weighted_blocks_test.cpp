#include <fovea/exec/serial.hpp>
#include <fovea/parts/permute/weighted_blocks.hpp>

#include "support/attention.hpp"
#include "support/catch.hpp"

using fovea::Index;
using fovea::Problem;
using namespace fovea::test;
using Lists = std::vector<std::vector<fovea::permute::WeightedBlock>>;

TEST_CASE("each query block has its key blocks, multiplied", "[parts][permute]") {
  const Lists lists = {{{2, 0.5}, {0, 2}}, {}, {{1, -1}}};
  auto x = gaussian<float>({2, 3, 3, 12, 12, 5, 7});
  auto got = blank<float>(x.sizes());
  const auto problem = fovea::make_problem("test", x.q, x.k, x.v, got.both());
  Index parts = 0;
  fovea::permute::each_weighted(
      problem, 4, 2, [&](Index, Index n) { return lists[std::size_t(n)]; }, fovea::exec::Serial{},
      [&](const Problem<float>& part, Index batch) {
        const Index head = parts++ % 3;
        CHECK(batch == (parts - 1) / 3);
        CHECK(part.q.extents() == fovea::Extents{3, 1, 4, 5});
        CHECK(part.k.extents() == fovea::Extents{3, 1, 8, 5});
        CHECK(part.v.extents() == fovea::Extents{3, 1, 8, 7});
        for (Index n = 0; n < 3; ++n) {
          for (Index i = 0; i < 4; ++i) {
            REQUIRE(part.q.row(n, 0, i) == row(x.q, batch, head, 4 * n + i));
            REQUIRE(part.out.row(n, 0, i) == row(got.out, batch, head, 4 * n + i));
            REQUIRE(part.log_sum.row(n, 0, i) == &got.log_sum(batch, head, 4 * n + i));
          }
          for (Index j = 0; j < 8; ++j) {
            const auto& list = lists[std::size_t(n)];
            const bool listed = j / 4 < Index(list.size());
            const Index from = listed ? list[std::size_t(j / 4)].block * 4 + j % 4 : 0;
            const float weight = listed ? float(list[std::size_t(j / 4)].weight) : 0;
            for (Index d = 0; d < 5; ++d) REQUIRE(part.k.row(n, 0, j)[d] == weight * row(x.k, batch, head, from)[d]);
            for (Index e = 0; e < 7; ++e) REQUIRE(part.v.row(n, 0, j)[e] == weight * row(x.v, batch, head, from)[e]);
          }
        }
      });
  CHECK(parts == 6);
}
