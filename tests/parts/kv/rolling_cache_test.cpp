#include <fovea/parts/kv/rolling_cache.hpp>

#include <deque>
#include <vector>

#include "support/attention.hpp"
#include "support/parts.hpp"

using fovea::Index;
using fovea::RollingCache;
using fovea::test::Tensor4;
using support::refusal;

namespace {

// Tokens [first, last) of an array whose numbers say where they stand.
Tensor4<double> numbered(Index batch, Index heads, Index first, Index last, Index dim) {
  Tensor4<double> x(batch, heads, last - first, dim);
  for (Index b = 0; b < batch; ++b) {
    for (Index h = 0; h < heads; ++h) {
      for (Index t = first; t < last; ++t) {
        for (Index d = 0; d < dim; ++d) x(b, h, t - first, d) = double(((b * 10 + h) * 1000 + t) * 10 + d);
      }
    }
  }
  return x;
}

// Whether the cache holds, in the order of its positions, the first and the last of `seen` tokens.
bool holds(const RollingCache<double>& cache, Index batch, Index heads, Index key_dim, Index value_dim, Index seen) {
  std::deque<Index> tokens;
  for (Index t = 0; t < seen; ++t) {
    tokens.push_back(t);
    if (Index(tokens.size()) > cache.sink_tokens() + cache.window()) tokens.erase(tokens.begin() + cache.sink_tokens());
  }
  const auto keys = cache.keys(), values = cache.values();
  const auto places = cache.positions();
  if (cache.seen() != seen || cache.length() != Index(tokens.size())) return false;
  if (keys.extents() != fovea::Extents{batch, heads, cache.length(), key_dim}) return false;
  if (values.extents() != fovea::Extents{batch, heads, cache.length(), value_dim}) return false;
  std::vector<bool> taken(tokens.size(), false);
  for (Index slot = 0; slot < cache.length(); ++slot) {
    const auto place = std::size_t(places[std::size_t(slot)]);
    if (place >= tokens.size() || taken[place]) return false;
    taken[place] = true;
    for (Index b = 0; b < batch; ++b) {
      for (Index h = 0; h < heads; ++h) {
        const Index token = (b * 10 + h) * 1000 + tokens[place];
        for (Index d = 0; d < key_dim; ++d)
          if (keys.row(b, h, slot)[d] != double(token * 10 + d)) return false;
        for (Index d = 0; d < value_dim; ++d)
          if (values.row(b, h, slot)[d] != double(token * 10 + d)) return false;
      }
    }
  }
  return true;
}

}  // namespace

TEST_CASE("a rolling cache holds the first tokens and the last ones, appended one by one or many at a time",
          "[parts][kv]") {
  for (const Index window : {1, 3, 5}) {
    for (const Index sinks : {0, 1, 4}) {
      for (const Index step : {1, 2, 7, 40}) {
        RollingCache<double> cache(2, 3, 4, 2, window, sinks);
        CAPTURE(window, sinks, step);
        CHECK(holds(cache, 2, 3, 4, 2, 0));
        for (Index seen = 0; seen < 25; seen += step) {
          cache.append(numbered(2, 3, seen, seen + step, 4), numbered(2, 3, seen, seen + step, 2));
          CHECK(holds(cache, 2, 3, 4, 2, seen + step));
        }
      }
    }
  }
}

TEST_CASE("a copy of a rolling cache goes its own way", "[parts][kv]") {
  RollingCache<double> cache(1, 1, 2, 2, 3, 1);
  cache.append(numbered(1, 1, 0, 5, 2), numbered(1, 1, 0, 5, 2));
  auto other = cache;
  other.append(numbered(1, 1, 5, 6, 2), numbered(1, 1, 5, 6, 2));
  CHECK(holds(cache, 1, 1, 2, 2, 5));
  CHECK(holds(other, 1, 1, 2, 2, 6));
}

TEST_CASE("a rolling cache refuses what does not fit and stays as it was", "[parts][kv]") {
  CHECK(refusal([] { RollingCache<float>(1, 1, 2, 2, 0); }) == "fovea::RollingCache: window must be positive, got 0");
  CHECK(refusal([] { RollingCache<float>(1, 1, 2, 2, 4, -1); }) ==
        "fovea::RollingCache: sink_tokens must not be negative, got -1");
  CHECK(refusal([] { RollingCache<float>(1, -1, 2, 2, 4); }) ==
        "fovea::RollingCache: extents must not be negative, got [1, -1] and widths 2 and 2");
  RollingCache<double> cache(1, 2, 4, 2, 3);
  cache.append(numbered(1, 2, 0, 2, 4), numbered(1, 2, 0, 2, 2));
  const auto append = [&](Index heads, Index n, Index dim, Index values, Index value_dim) {
    return refusal([&] { cache.append(numbered(1, heads, 0, n, dim), numbered(1, heads, 0, values, value_dim)); });
  };
  CHECK(append(1, 1, 4, 1, 2) ==
        "fovea::RollingCache::append: k must have the shape of the cache, wanted [1, 2, n, 4], got [1, 1, 1, 4]");
  CHECK(append(2, 1, 3, 1, 2) ==
        "fovea::RollingCache::append: k must have the shape of the cache, wanted [1, 2, n, 4], got [1, 2, 1, 3]");
  CHECK(append(2, 1, 4, 1, 5) ==
        "fovea::RollingCache::append: v must have the shape of the cache, wanted [1, 2, n, 2], got [1, 2, 1, 5]");
  CHECK(append(2, 2, 4, 1, 2) == "fovea::RollingCache::append: v must have the length of k, wanted 2, got 1");
  CHECK(holds(cache, 1, 2, 4, 2, 2));
}
