// Tokens on a grid of up to three axes, and the order of its tokens tile by tile.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include <fovea/core/span.hpp>

namespace fovea::inline FOVEA_ISA {

// One number for each axis, the slowest first: extents, or the place of a token. An axis that is not there has extent
// one.
using Place = std::array<Index, 3>;

constexpr Index volume(const Place& extents) { return extents[0] * extents[1] * extents[2]; }

// Where a place stands when tokens lie row by row.
constexpr Index index_in(const Place& extents, const Place& at) {
  return (at[0] * extents[1] + at[1]) * extents[2] + at[2];
}

constexpr Place place_in(const Place& extents, Index index) {
  return {index / extents[2] / extents[1], index / extents[2] % extents[1], index % extents[2]};
}

// One value for all axes of a grid, or one for each: 7 or {4, 7, 7}.
template <class T>
class PerAxis {
 public:
  constexpr PerAxis(T all = T()) : values_{all}, count_(1) {}
  constexpr PerAxis(std::initializer_list<T> each) : count_(each.size()) {
    std::size_t a = 0;
    for (const T value : each) {
      if (a < values_.size()) values_[a++] = value;
    }
  }

  constexpr Index count() const { return Index(count_); }
  constexpr T operator[](Index axis) const { return values_[count_ == 1 ? 0 : std::size_t(axis)]; }

 private:
  std::array<T, 3> values_{};
  std::size_t count_;
};

// The places whose coordinates lie in a span of each axis.
struct Box {
  std::array<Span, 3> axes;

  constexpr bool empty() const { return axes[0].empty() || axes[1].empty() || axes[2].empty(); }
  constexpr bool operator==(const Box&) const = default;
};

// The order of a grid's tokens in equal tiles, row by row of tiles, the places of a tile in equal patches, row by row
// of patches, and those of a patch row by row. Tile n holds positions [n pitch, (n + 1) pitch). Positions beyond the
// grid's edge, or behind the places of a tile, hold no token.
class TiledGrid {
 public:
  // patch divides tile in every axis; pitch is the volume of a tile when zero.
  TiledGrid(const Place& grid, const Place& tile, const Place& patch = {1, 1, 1}, Index pitch = 0)
      : grid_(grid), tile_(tile), patch_(patch), pitch_(pitch == 0 ? volume(tile) : pitch), patch_size_(volume(patch)) {
    const Place tiles = whole(grid, tile), patches = whole(tile, patch);
    tiled_ = times(tiles, tile);
    for (Index t = 0; t < volume(tiles); ++t) origins_.push_back(narrow(times(place_in(tiles, t), tile)));
    for (Index i = 0; i < volume(tile); ++i) {
      const Place corner = times(place_in(patches, i / volume(patch)), patch),
                  inner = place_in(patch, i % volume(patch));
      offsets_.push_back(narrow({corner[0] + inner[0], corner[1] + inner[1], corner[2] + inner[2]}));
    }
  }

  const Place& grid() const { return grid_; }
  const Place& tile() const { return tile_; }
  Index pitch() const { return pitch_; }
  Index tiles() const { return Index(origins_.size()); }
  Index positions() const { return tiles() * pitch_; }

  // The first place of a tile.
  Place origin(Index tile) const { return wide(origins_[std::size_t(tile)]); }

  // Calls f(position, place) for every token.
  template <class F>
  void each_token(F&& f) const {
    for (Index t = 0; t < tiles(); ++t) {
      for (Index i = 0; i < size(); ++i) {
        const Place a = origin(t), b = wide(offsets_[std::size_t(i)]), at{a[0] + b[0], a[1] + b[1], a[2] + b[2]};
        if (at[0] < grid_[0] && at[1] < grid_[1] && at[2] < grid_[2]) f(t * pitch_ + i, at);
      }
    }
  }

  // Whether some positions that are not empty are places all of them, on the grid or beyond its edge.
  bool gapless(Span positions) const {
    if (pitch_ == size()) return true;
    const Index tile = quotient(positions.first, pitch_);
    return positions.last <= tile * pitch_ + size();
  }

  // A box that holds the places of some positions; it may reach beyond the grid's edge.
  Box box(Span positions) const {
    if (positions.empty()) return {};
    const Index first = quotient(positions.first, pitch_), begin = first * pitch_;
    if (positions.last > begin + pitch_) {
      const Index last = quotient(positions.last - 1, pitch_);
      return hull(origins_[std::size_t(first)], origins_[std::size_t(last)], tile_, {0, 0, 0}, tiled_);
    }
    const Index from = positions.first - begin, to = std::min(positions.last - begin, size()) - 1;
    if (to < from) return {};
    const Index a = quotient(from, patch_size_) * patch_size_;
    const auto& patch = offsets_[std::size_t(a)];
    const Box inner =
        to >= a + patch_size_
            ? hull(patch, offsets_[std::size_t(quotient(to, patch_size_) * patch_size_)], patch_, {0, 0, 0}, tile_)
            : hull(offsets_[std::size_t(from)], offsets_[std::size_t(to)], {1, 1, 1}, wide(patch), patch_);
    return moved(inner, origin(first));
  }

 private:
  using Narrow = std::array<std::int32_t, 3>;

  static Narrow narrow(const Place& x) { return {std::int32_t(x[0]), std::int32_t(x[1]), std::int32_t(x[2])}; }
  static Place wide(const Narrow& x) { return {x[0], x[1], x[2]}; }
  static Place times(const Place& a, const Place& b) { return {a[0] * b[0], a[1] * b[1], a[2] * b[2]}; }
  static Place whole(const Place& extents, const Place& part) {
    const auto count = [&](std::size_t a) { return (extents[a] + part[a] - 1) / part[a]; };
    return {count(0), count(1), count(2)};
  }

  // a / b; a division of 64 bits takes several times as long.
  static Index quotient(Index a, Index b) {
    const bool narrow = ((a | b) >> 32) == 0;
    return narrow ? Index(std::uint32_t(a) / std::uint32_t(b)) : a / b;
  }

  Index size() const { return Index(offsets_.size()); }

  static Box moved(const Box& x, const Place& by) {
    const auto span = [&](std::size_t a) { return Span{x.axes[a].first + by[a], x.axes[a].last + by[a]}; };
    return {{span(0), span(1), span(2)}};
  }

  // Around pieces of the extents `piece` that stand row by row from place a to place b, in a whole that begins at
  // `begin` and has the extents `all`.
  static Box hull(const Narrow& a, const Narrow& b, const Place& piece, const Place& begin, const Place& all) {
    const auto between = [&](std::size_t axis) { return Span{a[axis], b[axis] + piece[axis]}; };
    const auto across = [&](std::size_t axis) { return Span{begin[axis], begin[axis] + all[axis]}; };
    if (a[0] != b[0]) return {{between(0), across(1), across(2)}};
    if (a[1] != b[1]) return {{between(0), between(1), across(2)}};
    return {{between(0), between(1), between(2)}};
  }

  Place grid_, tile_, patch_;
  Place tiled_{};  // the extents of all tiles
  Index pitch_, patch_size_;
  std::vector<Narrow> origins_;  // of each tile
  std::vector<Narrow> offsets_;  // of each place of a tile, from its origin
};

}  // namespace fovea::inline FOVEA_ISA
