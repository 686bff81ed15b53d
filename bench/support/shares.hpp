// Which share of the pairs of query and key a method looks at.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "kept.hpp"
#include "reference.hpp"

namespace bench {

// The keys of a row that a method looks at.
inline std::vector<char> seen_keys(const Shape& shape, const Row& row, const std::optional<Kept>& kept) {
  std::vector<char> seen = visible_keys(shape, row);
  if (kept) kept->restrict(row, seen);
  return seen;
}

// Of the rows, or blocks of rows, of a problem every so many-th, so that about `pairs` are looked at: an odd number,
// not to meet the same place of every block of a mask.
inline Index sampling_step(const Shape& shape, Index rows, Index rows_of_one, Index least, Index pairs) {
  const Index most = std::max<Index>(least, pairs / std::max<Index>(1, shape.keys * rows_of_one));
  return rows <= most ? 1 : rows / most | 1;
}

// The pairs that a method keeps over those that the pattern shows.
inline double kept_share(const Shape& shape, const Kept& kept) {
  const Index rows = shape.batch * shape.heads * shape.queries;
  const Index step = sampling_step(shape, rows, 1, 64, Index{1} << 26);
  Index shown = 0, left = 0;
  for (Index i = 0; i < rows; i += step) {
    const Row row{i / (shape.heads * shape.queries), i / shape.queries % shape.heads, i % shape.queries};
    std::vector<char> seen = visible_keys(shape, row);
    for (const char s : seen) shown += s;
    kept.restrict(row, seen);
    for (const char s : seen) left += s;
  }
  return shown > 0 ? double(left) / double(shown) : 1;
}

// The pairs in tiles of 64 x 64 that hold a pair which is looked at, over all pairs: what a kernel that works on whole
// tiles has to visit.
inline double tile_share(const Shape& shape, const std::optional<Kept>& kept) {
  constexpr Index tile = 64;
  const Index bands = (shape.queries + tile - 1) / tile, all = shape.batch * shape.heads * bands;
  const Index step = sampling_step(shape, all, tile, 32, Index{1} << 23);
  double pairs = 0, visited = 0;
  for (Index i = 0; i < all; i += step) {
    const Index first = i % bands * tile, last = std::min(first + tile, shape.queries);
    std::vector<char> some(std::size_t(shape.keys), 0);
    for (Index query = first; query < last; ++query) {
      const auto seen = seen_keys(shape, {i / bands / shape.heads, i / bands % shape.heads, query}, kept);
      for (std::size_t j = 0; j < some.size(); ++j) some[j] = some[j] || seen[j];
    }
    for (Index key = 0; key < shape.keys; key += tile) {
      const Index end = std::min(key + tile, shape.keys), size = (last - first) * (end - key);
      pairs += double(size);
      if (std::any_of(some.begin() + key, some.begin() + end, [](char s) { return s != 0; })) visited += double(size);
    }
  }
  return pairs > 0 ? visited / pairs : 1;
}

}  // namespace bench
