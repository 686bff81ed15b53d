#include <fovea/parts/permute/window_tiles.hpp>

#include "support/catch.hpp"

using fovea::Index;
using fovea::Place;
using fovea::permute::key_tiles;
using fovea::permute::query_tiles;
using fovea::permute::tile_extents;
using fovea::permute::WindowShape;

namespace {

const Place ones{1, 1, 1};

}  // namespace

TEST_CASE("tiles grow where they are shortest for their window", "[parts][permute]") {
  CHECK(tile_extents({1, 64, 64}, {1, 7, 7}, ones, ones, 64) == Place{1, 8, 8});
  CHECK(tile_extents({16, 32, 32}, {4, 8, 8}, ones, ones, 64) == Place{2, 4, 8});
  CHECK(tile_extents({16, 32, 32}, {1, 8, 8}, ones, ones, 64) == Place{1, 8, 8});
  CHECK(tile_extents({1, 2, 300}, {1, 2, 9}, ones, ones, 64) == Place{1, 2, 32});
  CHECK(tile_extents({1, 5, 5}, {1, 3, 3}, ones, ones, 64) == Place{1, 8, 8});
  CHECK(tile_extents({1, 3, 3}, {1, 3, 3}, ones, ones, 64) == Place{1, 4, 4});
  CHECK(tile_extents({1, 56, 56}, {1, 7, 7}, ones, {1, 7, 7}, 64) == Place{1, 7, 7});
  CHECK(tile_extents({1, 56, 56}, {1, 14, 14}, ones, {1, 14, 14}, 64) == Place{1, 7, 7});
}

TEST_CASE("tiles of keys fit a word and lie along windows that are blocks", "[parts][permute]") {
  for (const Place& grid : {Place{1, 64, 64}, {1, 14, 14}, {16, 32, 32}, {3, 5, 9}, {1, 1, 7}, {2, 100, 3}}) {
    for (const Index window : {1, 2, 3, 7, 8, 13}) {
      for (const Index stride : {Index{1}, window}) {
        WindowShape shape;
        for (std::size_t a = 0; a < 3; ++a) {
          shape.window[a] = std::min(window, grid[a]);
          shape.stride[a] = std::min(stride, shape.window[a]);
        }
        const auto tiles = key_tiles(grid, shape);
        CHECK(fovea::volume(tiles.tile()) <= tiles.pitch());
        CHECK(tiles.pitch() <= 64);
        CHECK((tiles.pitch() & (tiles.pitch() - 1)) == 0);
        CHECK(tiles.grid() == grid);
      }
    }
  }
  CHECK(key_tiles({1, 56, 56}, {{1, 7, 7}, {1, 7, 7}}).tile() == Place{1, 7, 7});
  CHECK(key_tiles({1, 56, 56}, {{1, 14, 14}, {1, 14, 14}}).tile() == Place{1, 7, 7});
}

TEST_CASE("a patch of queries is a band of rows, and tiles share out an axis evenly", "[parts][permute]") {
  const WindowShape seven{{1, 7, 7}, ones};
  for (const Index group : {1, 2, 3, 4, 6, 8, 48, 500}) {
    const auto tiles = query_tiles({1, 64, 64}, seven, group);
    const Index places = fovea::volume(tiles.tile());
    CHECK(tiles.pitch() == places);
    CHECK((places * group <= 96 || places == 1));
    if (group <= 3) CHECK(places * group % 6 == 0);
  }
  CHECK(query_tiles({1, 64, 64}, seven, 1).tile() == Place{1, 8, 12});
  CHECK(query_tiles({1, 20, 13}, seven, 1).tile() == Place{1, 8, 9});
  CHECK(query_tiles({1, 2, 2}, {{1, 2, 2}, ones}, 1).pitch() <= 6);
}

TEST_CASE("tiles of queries hold whole groups of one window", "[parts][permute]") {
  CHECK(query_tiles({16, 32, 32}, {{4, 8, 8}, {4, 8, 8}}, 1).tile() == Place{4, 8, 8});
  CHECK(fovea::volume(query_tiles({16, 32, 32}, {{4, 8, 8}, {4, 8, 8}}, 4).tile()) == 64);
  CHECK(query_tiles({1, 56, 56}, {{1, 7, 7}, {1, 7, 7}}, 1).tile() == Place{1, 7, 7});
  CHECK(query_tiles({1, 60, 60}, {{1, 12, 12}, {1, 4, 4}}, 1).tile() == Place{1, 8, 8});
}
