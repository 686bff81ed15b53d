#include <fovea/parts/mask/grid_neighborhood.hpp>
#include <vector>

#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Index;
using fovea::Place;
using fovea::Shape;
using fovea::Site;
using fovea::Span;
using fovea::TiledGrid;
namespace mask = fovea::mask;
using mask::Cover;

namespace {

struct Axis {
  Index window, stride;
  bool causal;
};

// The definition on one axis: the centre is kept as far from the ends as the extents of the window ask for.
bool axis_sees(const Axis& axis, Index extent, Index query, Index key) {
  const Index left = axis.window / 2, right = axis.window / 2 + axis.window % 2 - 1, group = query / axis.stride;
  if (axis.causal) {
    const Index leader = std::min(group * axis.stride + axis.stride - 1, extent - 1);
    return key <= query && key > leader - axis.window;
  }
  const Index leader = std::min(group * axis.stride + axis.stride / 2, extent - 1);
  const Index centre = std::min(std::max(leader, left), extent - 1 - right);
  return key >= centre - left && key <= centre + right;
}

// The place of each position, {-1, -1, -1} where there is none.
std::vector<Place> places_of(const TiledGrid& order) {
  std::vector<Place> places(std::size_t(order.positions()), {-1, -1, -1});
  order.each_token([&](Index position, const Place& at) { places[std::size_t(position)] = at; });
  return places;
}

using Axes = std::array<Axis, 3>;

struct Rule {
  Axes axes;
  TiledGrid queries, keys;

  mask::GridNeighborhood mask() const {
    mask::Neighborhoods n;
    for (std::size_t a = 0; a < 3; ++a) n[a] = mask::neighborhood(axes[a].window, axes[a].stride, axes[a].causal);
    return mask::grid_neighborhood(n, queries, keys);
  }
  auto predicate() const {
    return [this, from = places_of(queries), to = places_of(keys)](const Site& s) {
      const Place &x = from[std::size_t(s.query)], &y = to[std::size_t(s.key)];
      if (x[0] < 0 || y[0] < 0) return false;
      for (std::size_t a = 0; a < 3; ++a) {
        if (!axis_sees(axes[a], keys.grid()[a], x[a], y[a])) return false;
      }
      return true;
    };
  }
  Shape shape() const { return {1, 1, 1, queries.positions(), keys.positions()}; }
};

constexpr Axis one{1, 1, false};

// Neither causal nor in strides.
constexpr Axis plain(Index window) { return {window, 1, false}; }

}  // namespace

TEST_CASE("grid_neighborhood sees what its definition says", "[parts][mask][grid_neighborhood]") {
  const Place row{1, 1, 9}, plane{1, 5, 6}, cube{2, 3, 4};
  const Axis causal3{3, 3, true}, blocks3{3, 3, false};
  const std::vector<Rule> rules = {
      {Axes{one, one, plain(4)}, TiledGrid(row, {1, 1, 3}), TiledGrid(row, {1, 1, 8})},
      {Axes{one, plain(3), plain(2)}, TiledGrid(plane, {1, 4, 3}, {1, 2, 3}), TiledGrid(plane, {1, 4, 4})},
      {Axes{one, Axis{5, 2, false}, Axis{4, 3, true}}, TiledGrid(plane, {1, 3, 3}), TiledGrid(plane, {1, 8, 8})},
      {Axes{one, causal3, blocks3}, TiledGrid(plane, {1, 3, 3}), TiledGrid(plane, {1, 3, 3}, {1, 1, 1}, 16)},
      {Axes{Axis{2, 1, true}, plain(2), Axis{3, 2, false}}, TiledGrid(cube, {1, 2, 3}), TiledGrid(cube, {2, 2, 4})},
      {Axes{one, plain(3), Axis{2, 2, false}}, TiledGrid(cube, {2, 1, 2}, {1, 1, 2}), TiledGrid(cube, {1, 4, 4})},
  };
  for (const Rule& rule : rules)
    CHECK(support::mask_difference(rule.mask(), rule.shape(), rule.predicate(), false) == "");
}

TEST_CASE("grid_neighborhood on spans of every offset and every size up to a word", "[parts][mask]") {
  const Place grid{1, 13, 21}, cube{3, 6, 9};
  const Rule image{Axes{one, plain(5), Axis{6, 2, false}}, TiledGrid(grid, {1, 8, 6}, {1, 2, 3}),
                   TiledGrid(grid, {1, 8, 8})};
  CHECK(support::long_mask_difference(image.mask(), image.shape(), image.predicate()) == "");
  const Rule video{Axes{plain(2), plain(3), Axis{4, 1, true}}, TiledGrid(cube, {1, 2, 3}), TiledGrid(cube, {2, 4, 8})};
  CHECK(support::long_mask_difference(video.mask(), video.shape(), video.predicate()) == "");
}

TEST_CASE("the cover of tiles and patches on the grid is exact", "[parts][mask][grid_neighborhood]") {
  for (const Index window : {3, 8, 13, 16, 23}) {
    const Place grid{1, 24, 24};
    const Rule rule{Axes{one, plain(window), plain(window)}, TiledGrid(grid, {1, 8, 6}, {1, 2, 3}),
                    TiledGrid(grid, {1, 8, 8})};
    const auto bound = rule.mask().bind("test", rule.shape());
    const auto sees = rule.predicate();
    Index wrong = 0;
    for (const Index size : {6, 48}) {
      for (Index i = 0; i < rule.queries.positions(); i += size) {
        for (Index j = 0; j < rule.keys.positions(); j += 64) {
          bool any = false, all = true;
          for (Index n = i; n < i + size; ++n) {
            for (Index m = j; m < j + 64; ++m) {
              const bool seen = sees(Site{0, 0, n, m});
              any = any || seen;
              all = all && seen;
            }
          }
          const Cover wanted = all ? Cover::full : any ? Cover::part : Cover::none;
          wrong += bound.cover({0, {0, 1}, {i, i + size}, {j, j + 64}}) == wanted ? 0 : 1;
        }
      }
    }
    CAPTURE(window);
    CHECK(wrong == 0);
  }
}

TEST_CASE("what a neighborhood on a grid refuses", "[parts][mask][grid_neighborhood]") {
  const Place grid{1, 4, 6};
  const mask::Neighborhoods n{mask::neighborhood(1), mask::neighborhood(3), mask::neighborhood(3)};
  const TiledGrid queries(grid, {1, 2, 3}), keys(grid, {1, 4, 4});
  const auto made = [&](const mask::Neighborhoods& axes, const TiledGrid& q, const TiledGrid& k) {
    return support::refusal([&] { mask::grid_neighborhood(axes, q, k); });
  };
  const std::string name = "fovea::mask::grid_neighborhood: ";
  CHECK(made(n, queries, keys) == "accepted");
  CHECK(made(n, TiledGrid({1, 4, 5}, {1, 2, 3}), keys) == name + "queries and keys must be orders of one grid");
  CHECK(made(n, queries, TiledGrid(grid, {1, 4, 6})).rfind(name + "a tile of keys must have at most 64 places", 0) ==
        0);
  CHECK(made(n, queries, TiledGrid({1, 4, 6}, {1, 16, 8})).rfind(name + "a tile of keys", 0) == 0);
  CHECK(made({mask::neighborhood(1), mask::neighborhood(5), mask::neighborhood(3)}, queries, keys) ==
        name + "the window must not be longer than the keys, 4, got 5");
  CHECK(made({mask::neighborhood(1), mask::neighborhood(3, 4), mask::neighborhood(3)}, queries, keys) ==
        name + "the stride must be between 1 and the window, 3, got 4");
  CHECK(support::refusal([&] {
          mask::grid_neighborhood(n, queries, keys).bind("test", {1, 1, 1, 24, 24});
        }) == "test: a grid's neighborhood needs its positions as queries and keys, wanted 24 and 32, got 24 and 24");
}
