#include <fovea/core/grid.hpp>
#include <set>

#include "support/catch.hpp"

using fovea::Box;
using fovea::Index;
using fovea::Place;
using fovea::Span;
using fovea::TiledGrid;

namespace {

struct Tiling {
  Place grid, tile, patch;
  Index pitch;
};

const std::vector<Tiling> tilings = {
    {{1, 1, 1}, {1, 1, 1}, {1, 1, 1}, 0},  {{1, 1, 10}, {1, 1, 4}, {1, 1, 1}, 0},
    {{1, 8, 12}, {1, 4, 6}, {1, 2, 3}, 0}, {{1, 7, 11}, {1, 4, 6}, {1, 2, 3}, 0},
    {{5, 6, 7}, {2, 4, 4}, {1, 2, 2}, 0},  {{1, 14, 14}, {1, 7, 7}, {1, 1, 1}, 64},
    {{3, 5, 4}, {2, 3, 2}, {1, 1, 1}, 16},
};

// The place of each position by the definition, {-1, -1, -1} where there is none.
std::vector<Place> places_of(const Tiling& t) {
  std::vector<Place> places;
  const auto count = [](Index a, Index b) { return (a + b - 1) / b; };
  const Place tiles{count(t.grid[0], t.tile[0]), count(t.grid[1], t.tile[1]), count(t.grid[2], t.tile[2])};
  for (Index n = 0; n < fovea::volume(tiles); ++n) {
    const Place tile = fovea::place_in(tiles, n);
    const std::size_t begin = places.size();
    const Place patches{t.tile[0] / t.patch[0], t.tile[1] / t.patch[1], t.tile[2] / t.patch[2]};
    for (Index p = 0; p < fovea::volume(patches); ++p) {
      const Place patch = fovea::place_in(patches, p);
      for (Index i = 0; i < fovea::volume(t.patch); ++i) {
        const Place inner = fovea::place_in(t.patch, i);
        Place at;
        for (std::size_t a = 0; a < 3; ++a) at[a] = tile[a] * t.tile[a] + patch[a] * t.patch[a] + inner[a];
        places.push_back(at);
      }
    }
    const Index pitch = t.pitch == 0 ? fovea::volume(t.tile) : t.pitch;
    places.resize(begin + std::size_t(pitch), {-1, -1, -1});
  }
  return places;
}

}  // namespace

TEST_CASE("places and their indices", "[core][grid]") {
  const Place extents{3, 4, 5};
  CHECK(fovea::volume(extents) == 60);
  for (Index i = 0; i < 60; ++i) CHECK(fovea::index_in(extents, fovea::place_in(extents, i)) == i);
  CHECK(fovea::place_in(extents, 27) == Place{1, 1, 2});
}

TEST_CASE("one value for all axes, or one for each", "[core][grid]") {
  const fovea::PerAxis<Index> all = 7, one = {7}, each = {4, 7, 8};
  CHECK((all.count() == 1 && all[0] == 7 && all[2] == 7));
  CHECK((one.count() == 1 && one[1] == 7));
  CHECK((each.count() == 3 && each[0] == 4 && each[1] == 7 && each[2] == 8));
  CHECK(fovea::PerAxis<Index>{1, 2, 3, 4}.count() == 4);
  CHECK(!fovea::PerAxis<bool>()[0]);
}

TEST_CASE("every token of a grid has one position, that of its tile and patch", "[core][grid]") {
  for (const Tiling& t : tilings) {
    const TiledGrid grid(t.grid, t.tile, t.patch, t.pitch);
    const auto places = places_of(t);
    CHECK(grid.positions() == Index(places.size()));
    CHECK(grid.positions() == grid.tiles() * grid.pitch());
    std::set<Index> seen;
    grid.each_token([&](Index position, const Place& at) {
      CHECK(places[std::size_t(position)] == at);
      CHECK(seen.insert(fovea::index_in(t.grid, at)).second);
      CHECK((at[0] < t.grid[0] && at[1] < t.grid[1] && at[2] < t.grid[2]));
    });
    CHECK(Index(seen.size()) == fovea::volume(t.grid));
    for (Index n = 0; n < grid.tiles(); ++n) CHECK(grid.origin(n) == places[std::size_t(n * grid.pitch())]);
  }
}

TEST_CASE("boxes hold the places of every range of positions", "[core][grid]") {
  for (const Tiling& t : tilings) {
    const TiledGrid grid(t.grid, t.tile, t.patch, t.pitch);
    const auto places = places_of(t);
    bool holds = true, gapless = true;
    for (Index first = 0; first < grid.positions(); ++first) {
      bool whole = true;
      for (Index last = first + 1; last <= grid.positions(); ++last) {
        const Place& at = places[std::size_t(last - 1)];
        whole = whole && at[0] >= 0;
        gapless &= !grid.gapless({first, last}) || whole;
        const Box box = grid.box({first, last});
        for (Index p = first; p < last; ++p) {
          for (std::size_t a = 0; a < 3; ++a) {
            const Index x = places[std::size_t(p)][a];
            holds &= x < 0 || box.axes[a].contains({x, x + 1});
          }
        }
      }
    }
    CHECK(holds);
    CHECK(gapless);
  }
}

TEST_CASE("boxes of places, rows, patches and tiles are exact", "[core][grid]") {
  const TiledGrid grid({1, 8, 12}, {1, 4, 6}, {1, 2, 3});
  const auto box = [](Span y, Span x) { return Box{{Span{0, 1}, y, x}}; };
  CHECK(grid.box({0, 1}) == box({0, 1}, {0, 1}));
  CHECK(grid.box({4, 6}) == box({1, 2}, {1, 3}));
  CHECK(grid.box({0, 6}) == box({0, 2}, {0, 3}));
  CHECK(grid.box({6, 12}) == box({0, 2}, {3, 6}));
  CHECK(grid.box({0, 12}) == box({0, 2}, {0, 6}));
  CHECK(grid.box({0, 24}) == box({0, 4}, {0, 6}));
  CHECK(grid.box({24, 48}) == box({0, 4}, {6, 12}));
  CHECK(grid.box({0, 48}) == box({0, 4}, {0, 12}));
  CHECK(grid.box({48, 72}) == box({4, 8}, {0, 6}));
  CHECK(grid.box({5, 5}).empty());
}
