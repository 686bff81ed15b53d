// A query on a grid of up to three axes sees a box of keys around it: the neighborhood of each axis. Queries and keys
// stand in the order of a TiledGrid each.
// Hassani et al., "Generalized Neighborhood Attention", 2025, arXiv:2504.16922.
#pragma once

#include <bit>
#include <memory>

#include <fovea/core/grid.hpp>
#include <fovea/parts/mask/neighborhood.hpp>

namespace fovea::inline FOVEA_ISA::mask {

// The neighborhood of each axis; an axis of extent one has the window one.
using Neighborhoods = std::array<Neighborhood, 3>;

// The rule for one order of queries and one of keys.
class NeighborhoodOnGrid {
 public:
  // A tile of keys has at most a word of places, in one patch or none, and begins at a multiple of a power of two.
  NeighborhoodOnGrid(const char* where, const Neighborhoods& axes, TiledGrid query_order, TiledGrid key_order)
      : queries_(std::move(query_order)), keys_(std::move(key_order)) {
    const Place& grid = keys_.grid();
    for (std::size_t a = 0; a < 3; ++a) {
      const auto bound = axes[a].bind(where, {1, 1, 1, grid[a], grid[a]});
      for (Index i = 0; i < grid[a]; ++i) windows_[a].push_back(bound.interval(i));
    }
    seen_by_.resize(std::size_t(queries_.positions()));
    queries_.each_token([&](Index position, const Place& at) {
      for (std::size_t a = 0; a < 3; ++a) {
        const Span window = windows_[a][std::size_t(at[a])];
        seen_by_[std::size_t(position)][a] = {std::int32_t(window.first), std::int32_t(window.last)};
      }
    });
    const Place& tile = keys_.tile();
    for (Index r = 0; r < tile[1]; ++r) rows_ |= std::uint64_t{1} << r * tile[2];
    for (Index p = 0; p < tile[0]; ++p) planes_ |= std::uint64_t{1} << p * tile[1] * tile[2];
    pitch_bits_ = std::countr_zero(std::uint64_t(keys_.pitch()));
  }

  Index queries() const { return queries_.positions(); }
  Index keys() const { return keys_.positions(); }
  Grain grain() const { return {queries_.pitch(), keys_.pitch()}; }

  std::uint64_t seen(Index query, Span keys) const {
    const Windows& windows = seen_by_[std::size_t(query)];
    std::uint64_t bits = 0;
    for (Index tile = keys.first >> pitch_bits_; tile << pitch_bits_ < keys.last; ++tile) {
      const Index begin = tile << pitch_bits_;
      const std::uint64_t of_tile = seen_in_tile(windows, keys_.origin(tile));
      bits |= begin < keys.first ? of_tile >> (keys.first - begin) : of_tile << (begin - keys.first);
    }
    return bits & low_bits(keys.size());
  }

  // Exact for boxes; some keys in any other order may be called seen in part.
  Cover cover(Span queries, Span keys) const {
    const Box from = queries_.box(queries), to = keys_.box(keys);
    if (from.empty() || to.empty()) return Cover::none;
    bool full = queries_.gapless(queries) && keys_.gapless(keys);
    for (std::size_t a = 0; a < 3; ++a) {
      const Index length = Index(windows_[a].size());
      const Span on_grid = intersect(from.axes[a], {0, length});
      if (on_grid.empty()) return Cover::none;
      const Span first = windows_[a][std::size_t(on_grid.first)], last = windows_[a][std::size_t(on_grid.last - 1)];
      if (intersect({first.first, last.last}, to.axes[a]).empty()) return Cover::none;
      full = full && on_grid == from.axes[a] && Span{last.first, first.last}.contains(to.axes[a]);
    }
    return full ? Cover::full : Cover::part;
  }

 private:
  struct Window {
    std::int32_t first = 0, last = 0;
  };
  using Windows = std::array<Window, 3>;

  // Bits of the keys of a tile, row by row: an outer product of intervals, one an axis.
  std::uint64_t seen_in_tile(const Windows& windows, const Place& origin) const {
    const Place& tile = keys_.tile();
    const auto inside = [&](std::size_t a) {
      return intersect({windows[a].first - origin[a], windows[a].last - origin[a]}, {0, tile[a]});
    };
    const Span plane = inside(0), row = inside(1), column = inside(2);
    if (plane.empty() || row.empty() || column.empty()) return 0;
    const auto between = [](Span x, Index step) { return low_bits(x.last * step) & ~low_bits(x.first * step); };
    return between(column, 1) * (rows_ & between(row, tile[2])) * (planes_ & between(plane, tile[1] * tile[2]));
  }

  TiledGrid queries_, keys_;
  std::array<std::vector<Span>, 3> windows_;  // for each coordinate of a query, the coordinates it sees
  std::vector<Windows> seen_by_;              // the same for each position; empty where there is no token
  std::uint64_t rows_ = 0, planes_ = 0;       // where the rows, and planes, of a tile of keys begin
  int pitch_bits_ = 0;                        // a tile of keys has 2^pitch_bits positions
};

struct BoundGridNeighborhood {
  std::shared_ptr<const NeighborhoodOnGrid> rule;

  std::uint64_t seen(Row row, Span keys) const { return rule->seen(row.query, keys); }
  Cover cover(const Region& region) const { return rule->cover(region.queries, region.keys); }
  Grain grain() const { return rule->grain(); }
};

struct GridNeighborhood {
  std::shared_ptr<const NeighborhoodOnGrid> rule;

  BoundGridNeighborhood bind(const char* where, const Shape& shape) const {
    check(shape.queries == rule->queries() && shape.keys == rule->keys(), where,
          "a grid's neighborhood needs its positions as queries and keys, wanted ", rule->queries(), " and ",
          rule->keys(), ", got ", shape.queries, " and ", shape.keys);
    return {rule};
  }
};

// Query i, a place in one order of a grid, sees key j, a place in the other, when every axis' neighborhood does.
// Positions without a token see nothing and are not seen. Tiles of keys have at most 64 places and no patches, and
// their pitch is a power of two.
inline GridNeighborhood grid_neighborhood(const Neighborhoods& axes, TiledGrid queries, TiledGrid keys) {
  constexpr auto where = "fovea::mask::grid_neighborhood";
  check(queries.grid() == keys.grid(), where, "queries and keys must be orders of one grid");
  check(volume(keys.tile()) <= word && std::has_single_bit(std::uint64_t(keys.pitch())), where,
        "a tile of keys must have at most 64 places and a power of two as its pitch, got ", volume(keys.tile()),
        " and ", keys.pitch());
  return {std::make_shared<const NeighborhoodOnGrid>(where, axes, std::move(queries), std::move(keys))};
}

}  // namespace fovea::inline FOVEA_ISA::mask
