// Which share of the pairs a method keeps, and which share lies in tiles that it has to visit.
#include "../../bench/support/shares.hpp"

#include <cmath>

#include "support/catch.hpp"

using namespace bench;

namespace {

Shape square(Index tokens, std::function<bool(Index, Index)> sees = {}) {
  Shape shape;
  shape.batch = 1, shape.heads = 2, shape.kv_heads = 1;
  shape.queries = shape.keys = tokens;
  shape.key_dim = shape.value_dim = 8;
  if (sees) shape.pattern.sees = sees;
  return shape;
}

}  // namespace

TEST_CASE("a tile is visited when one of its pairs is seen") {
  CHECK(tile_share(square(256), {}) == 1);
  // Of 4 x 4 tiles those on the diagonal and below.
  CHECK(tile_share(square(256, [](Index i, Index j) { return j <= i; }), {}) == 10.0 / 16);
  CHECK(tile_share(square(256, [](Index i, Index j) { return i == 70 && j == 255; }), {}) == 1.0 / 16);
  CHECK(tile_share(square(256, [](Index, Index) { return false; }), {}) == 0);
  // The last tiles are small: 64 and 6 tokens.
  CHECK(tile_share(square(70, [](Index i, Index j) { return i / 64 == j / 64; }), {}) ==
        (64.0 * 64 + 6 * 6) / (70 * 70));
}

TEST_CASE("what a method leaves out of a pattern leaves tiles out too") {
  const Shape causal = square(256, [](Index i, Index j) { return j <= i; });
  const Kept near([](const Row& row, Index key) { return row.query / 64 == key / 64; });
  CHECK(tile_share(causal, near) == 4.0 / 16);
  CHECK(kept_share(causal, near) == 4 * (64.0 * 65 / 2) / (256.0 * 257 / 2));
  CHECK(kept_share(causal, Kept([](const Row&, Index) { return true; })) == 1);
}

TEST_CASE("shares of problems too large to count are those of some rows") {
  const Shape large = square(16384, [](Index i, Index j) { return j <= i && j > i - 64; });
  CHECK(std::abs(tile_share(large, {}) - 2.0 / 256) < 0.02 * 2 / 256);
}
