// Orders of a grid in tiles for windows that move over it: the queries of a tile see few keys together, and those lie
// in few tiles of keys.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <numeric>

#include <fovea/core/grid.hpp>
#include <fovea/simd/tile.hpp>

namespace fovea::inline FOVEA_ISA::permute {

// Windows of `window` places on each axis, those of `stride` neighbours the same.
struct WindowShape {
  Place window{1, 1, 1};
  Place stride{1, 1, 1};
};

// Extents of a tile of at most `most` places, grown from `least` on the axis where it is shortest for its window. An
// extent below its unit divides it, one above is a multiple.
inline Place tile_extents(const Place& grid, const Place& window, const Place& least, const Place& unit, Index most) {
  Place tile = least;
  const auto grown = [&](std::size_t a) {
    if (tile[a] >= unit[a]) return 2 * tile[a];
    Index next = tile[a] + 1;
    while (unit[a] % next != 0) ++next;
    return next;
  };
  for (;;) {
    std::size_t best = 3;
    for (std::size_t a : {2, 1, 0}) {
      if (tile[a] >= grid[a] || volume(tile) / tile[a] * grown(a) > most) continue;
      if (best == 3 || window[a] * tile[best] > window[best] * tile[a]) best = a;
    }
    if (best == 3) return tile;
    tile[best] = grown(best);
  }
}

// Queries: the rows that the engine works on together, a band of `group` heads each, are a patch; tiles are whole
// groups of queries with one window where those have room.
inline TiledGrid query_tiles(const Place& grid, const WindowShape& shape, Index group) {
  constexpr Index some_rows = 16 * simd::tile_rows;
  constexpr Index most_rows = 64 * simd::tile_rows;  // of queries with the same window: more of them see no more keys
  Place patch{1, 1, 1}, unit = shape.stride;
  Index left = simd::tile_rows % group == 0 ? simd::tile_rows / group : 1;
  for (const Index factor : {3, 2}) {
    if (left % factor != 0) continue;
    std::size_t best = 3;
    for (std::size_t a : {2, 1, 0}) {
      if (shape.stride[a] > 1 || grid[a] < factor * patch[a]) continue;
      if (best == 3 || shape.window[a] * patch[best] > shape.window[best] * patch[a]) best = a;
    }
    if (best < 3) patch[best] *= factor;
  }
  for (std::size_t a = 0; a < 3; ++a) unit[a] = std::max(unit[a], patch[a]);
  Place alike;
  for (std::size_t a = 0; a < 3; ++a) alike[a] = std::min(grid[a], unit[a]);
  Place tile = tile_extents(alike, shape.window, patch, unit, std::max<Index>(most_rows / group, 1));
  tile = tile_extents(grid, shape.window, tile, unit, std::max<Index>(some_rows / group, 1));
  for (std::size_t a = 0; a < 3; ++a) {  // as many tiles, of equal extents
    const Index tiles = (grid[a] + tile[a] - 1) / tile[a], most = (grid[a] + tiles - 1) / tiles;
    if (tile[a] > unit[a]) tile[a] = (most + unit[a] - 1) / unit[a] * unit[a];
  }
  return {grid, tile, patch};
}

// Keys: at most a word of them in a tile, which is cut along the windows where those do not overlap by less than a
// stride.
inline TiledGrid key_tiles(const Place& grid, const WindowShape& shape) {
  constexpr Index most = 64;
  Place unit{1, 1, 1};
  for (std::size_t a = 0; a < 3; ++a) {
    const Index window = shape.window[a], stride = shape.stride[a];
    if (stride > 1) unit[a] = std::gcd(std::gcd(stride, window), std::abs(stride / 2 - window / 2));
  }
  const Place tile = tile_extents(grid, shape.window, {1, 1, 1}, unit, most);
  Index pitch = 1;
  while (pitch < volume(tile)) pitch *= 2;
  return {grid, tile, {1, 1, 1}, pitch};
}

}  // namespace fovea::inline FOVEA_ISA::permute
