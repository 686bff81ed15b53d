#include <fovea/exec/pool.hpp>
#include <fovea/exec/serial.hpp>
#include <fovea/parts/permute/grid.hpp>

#include "support/attention.hpp"
#include "support/catch.hpp"

using fovea::Index;
using fovea::Problem;
using fovea::TiledGrid;
using namespace fovea::test;
namespace permute = fovea::permute;

namespace {

// out = q, or v of the token at the same place, by way of a part; log_sum the first number of q.
template <class T, class Exec>
Index copy_through(Inputs<T>& x, Result<T>& got, bool sums, const permute::Order& order,
                   const std::vector<Index>& begins, Index together, const Exec& executor) {
  Problem<T> problem = sums ? fovea::make_problem("test", x.q, x.k, x.v, got.both())
                            : fovea::make_problem("test", x.q, x.k, x.v, got.out);
  Index parts = 0, next = 0;
  permute::in_order(problem, order, order, begins, together, executor, [&](const Problem<T>& part, Index first) {
    ++parts;
    CHECK(first == next);
    next = first + part.q.batch;
    CHECK(first / together == (next - 1) / together);
    CHECK(part.k.extents() == fovea::Extents{part.q.batch, 1, Index(order.size()), x.k.dimension(3)});
    CHECK(part.q.heads == problem.group);
    CHECK((part.log_sum.data != nullptr) == sums);
    for (Index b = 0; b < part.q.batch; ++b) {
      for (Index h = 0; h < part.q.heads; ++h) {
        for (Index i = 0; i < part.q.length; ++i) {
          for (Index e = 0; e < part.v.dim; ++e)
            part.out.row(b, h, i)[e] = part.v.row(b, 0, i)[e] + part.q.row(b, h, i)[0] + part.k.row(b, 0, i)[1];
          if (sums) *part.log_sum.row(b, h, i) = part.q.row(b, h, i)[0];
          if (order[std::size_t(i)] < 0)
            CHECK((part.q.row(b, h, i)[0] == 0 && part.k.row(b, 0, i)[1] == 0 && part.v.row(b, 0, i)[0] == 0));
        }
      }
    }
  });
  CHECK(next == x.q.dimension(0) * x.k.dimension(1) * Index(begins.size()));
  return parts;
}

}  // namespace

TEST_CASE("what goes through another order comes back to its token", "[parts][permute]") {
  const TiledGrid grid({1, 7, 9}, {1, 4, 6}, {1, 2, 3});
  const auto order = permute::tokens_of(grid, {63, 9, 1});
  for (const bool sums : {false, true}) {
    for (const Index together : {1, 2, 6}) {
      auto x = gaussian<float>({3, 4, 2, 63, 63, 5, 7});
      auto got = blank<float>(x.sizes());
      copy_through(x, got, sums, order, {0}, together, fovea::exec::Serial{});
      for (Index b = 0; b < 3; ++b) {
        for (Index h = 0; h < 4; ++h) {
          for (Index i = 0; i < 63; ++i) {
            const float more = row(x.q, b, h, i)[0], key = row(x.k, b, h / 2, i)[1];
            for (Index e = 0; e < 7; ++e) REQUIRE(row(got.out, b, h, i)[e] == row(x.v, b, h / 2, i)[e] + more + key);
            if (sums) REQUIRE(got.log_sum(b, h, i) == more);
          }
        }
      }
      if (!sums) CHECK(all_nan(got.log_sum.data(), got.log_sum.size()));
    }
  }
}

TEST_CASE("the residue classes of a grid hold every token once, at its place", "[parts][permute]") {
  for (const fovea::Place& grid : {fovea::Place{1, 1, 7}, {1, 6, 8}, {3, 5, 7}}) {
    for (const fovea::Place& dilation : {fovea::Place{1, 1, 1}, {1, 1, 3}, {1, 2, 3}, {2, 3, 5}}) {
      if (dilation[0] > grid[0] || dilation[1] > grid[1] || dilation[2] > grid[2]) continue;
      std::vector<int> seen(std::size_t(fovea::volume(grid)), 0);
      Index calls = 0;
      permute::each_grid_class(
          grid, dilation, [&](const fovea::Place& extents, const fovea::Place& step, const std::vector<Index>& begins) {
            ++calls;
            for (const Index begin : begins) {
              const fovea::Place corner = fovea::place_in(grid, begin);
              for (Index i = 0; i < fovea::volume(extents); ++i) {
                const fovea::Place at = fovea::place_in(extents, i);
                fovea::Place wanted;
                for (std::size_t a = 0; a < 3; ++a) wanted[a] = corner[a] + at[a] * dilation[a];
                const Index token = begin + at[0] * step[0] + at[1] * step[1] + at[2] * step[2];
                CHECK(fovea::place_in(grid, token) == wanted);
                ++seen[std::size_t(token)];
              }
            }
          });
      CHECK(calls <= 8);
      CHECK(std::all_of(seen.begin(), seen.end(), [](int n) { return n == 1; }));
    }
  }
}

TEST_CASE("several sequences in a batch element", "[parts][permute]") {
  // The even and the odd tokens of 40.
  const TiledGrid grid({1, 4, 5}, {1, 2, 4});
  const auto order = permute::tokens_of(grid, {40, 10, 2});
  auto x = gaussian<double>({2, 1, 1, 40, 40, 3, 3});
  auto got = blank<double>(x.sizes());
  copy_through(x, got, true, order, {0, 1}, 4, fovea::exec::Serial{});
  for (Index b = 0; b < 2; ++b) {
    for (Index i = 0; i < 40; ++i)
      CHECK(row(got.out, b, 0, i)[2] == row(x.v, b, 0, i)[2] + row(x.q, b, 0, i)[0] + row(x.k, b, 0, i)[1]);
  }
}

TEST_CASE("long sequences go in parts, on a pool as on one thread", "[parts][permute]") {
  const TiledGrid grid({1, 64, 64}, {1, 8, 8});
  const auto order = permute::tokens_of(grid, {4096, 64, 1});
  auto x = gaussian<float>({1, 6, 6, 4096, 4096, 16, 16});
  auto got = blank<float>(x.sizes()), pooled = got;
  CHECK(copy_through(x, got, true, order, {0}, 6, fovea::exec::Serial{}) > 1);
  copy_through(x, pooled, true, order, {0}, 6, fovea::exec::Pool(3));
  CHECK(same_bits(got, pooled));
  CHECK(!std::isnan(got.out(0, 5, 4095, 15)));
}

TEST_CASE("nothing to copy calls nothing", "[parts][permute]") {
  auto x = gaussian<float>({0, 1, 1, 4, 4, 2, 2});
  auto got = blank<float>(x.sizes());
  CHECK(copy_through(x, got, true, {0, 1, 2, 3}, {0}, 1, fovea::exec::Serial{}) == 0);
}
