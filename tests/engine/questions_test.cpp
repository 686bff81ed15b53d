// How often a mask is asked: a narrow mask over many keys must not cost a question for every tile.
#include <atomic>
#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/prefix.hpp>
#include <fovea/parts/mask/where.hpp>
#include <fovea/parts/mask/window.hpp>

#include "support/attention.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::Site;
namespace mask = fovea::mask;

namespace {

struct Count {
  std::atomic<Index> covers{0}, rows{0};
};

template <class Bound>
struct BoundCounting {
  Bound mask;
  Count* count;

  std::uint64_t seen(fovea::Row row, fovea::Span keys) const {
    ++count->rows;
    return mask.seen(row, keys);
  }
  fovea::mask::Cover cover(const fovea::mask::Region& region) const {
    ++count->covers;
    return mask.cover(region);
  }
};

template <class Mask>
struct Counting {
  Mask mask;
  Count* count;

  auto bind(const char* where, const fovea::Shape& shape) const {
    return BoundCounting<decltype(mask.bind(where, shape))>{mask.bind(where, shape), count};
  }
};

template <class M>
void ask(const Sizes& s, const M& m, Count& count) {
  auto x = gaussian<float>(s);
  auto got = blank<float>(s);
  fovea::attend(x.q, x.k, x.v, got.both(), fovea::softmax().mask(Counting<M>{m, &count}));
  UNSCOPED_INFO(count.covers << " questions about regions, " << count.rows << " about rows");
}

}  // namespace

TEST_CASE("one query with a window over 100,000 keys asks far less than a question for each tile") {
  Count count;
  ask({1, 1, 1, 1, 100'000, 1, 1}, mask::causal() & mask::window(256), count);
  CHECK(count.covers + count.rows < 500);  // of 1,563 tiles of 64 keys
}

TEST_CASE("a window over 100,000 tokens asks a few questions a query") {
  // A question for every tile of 192 queries and 64 keys would be 814,000; for every row, 156 million.
  Count count;
  ask({1, 1, 1, 100'000, 100'000, 1, 1}, mask::causal() & mask::window(256), count);
  CHECK(count.covers < 250'000);
  CHECK(count.rows < 1'000'000);
}

TEST_CASE("causal attention asks about rows on the diagonal alone") {
  Count count;
  ask({1, 1, 1, 4096, 4096, 1, 1}, mask::causal(), count);
  // At most two tiles of keys cut the diagonal of a row, each two words wide at the most.
  CHECK(count.rows <= 4 * 4096);
  CHECK(count.covers < 10'000);
}

TEST_CASE("a mask that sees everything asks nothing about rows") {
  Count count;
  ask({1, 1, 1, 500, 5000, 1, 1}, mask::prefix(5000), count);
  CHECK(count.rows == 0);
  CHECK(count.covers < 100);
}

TEST_CASE("a mask that sees nothing asks nothing about rows") {
  Count count;
  ask({1, 1, 1, 500, 5000, 1, 1}, mask::prefix(0), count);
  CHECK(count.rows == 0);
  CHECK(count.covers < 100);
}

TEST_CASE("a predicate is asked where the masks joined with it leave a doubt, and nowhere else") {
  const Index n = 4096, window = 64;
  std::atomic<Index> asked{0}, outside{0};
  const auto rule = [&](Site at) {
    ++asked;
    if (at.key > at.query + 128 || at.query - at.key >= window + 128) ++outside;
    return (at.key + at.query) % 2 == 0;
  };
  const Sizes s{1, 1, 1, n, n, 1, 1};
  const auto x = gaussian<float>(s);
  auto got = blank<float>(s);
  fovea::attend(x.q, x.k, x.v, got.both(),
                fovea::softmax().mask(mask::causal() & mask::window(window) & mask::where(rule)));
  UNSCOPED_INFO(asked << " asked, " << outside << " far outside");
  CHECK(outside == 0);
  CHECK(asked < n * (window + 2 * 128));
}
