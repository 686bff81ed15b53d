// Which pages a pool hands out: free ones, each once, in stretches.
#include <random>
#include <set>

#include <fovea/cache/pages.hpp>

#include "support/catch.hpp"

using fovea::Index;
using fovea::cache::Pages;

namespace {

Pages pages(Index at_a_time) { return Pages({.heads = 2, .key_bytes = 8, .value_bytes = 4}, at_a_time, true); }

struct Sequence {
  std::vector<Index> table{};

  void grow(Pages& from) { table.push_back(from.take(table.empty() ? Pages::none : table.back())); }
  // Pages that lie right behind the one before them.
  Index behind() const {
    Index count = 0;
    for (std::size_t p = 1; p < table.size(); ++p) count += table[p] == table[p - 1] + 1;
    return count;
  }
};

}  // namespace

TEST_CASE("A sequence that grows alone has its pages one behind the other") {
  Pages pool = pages(200);
  pool.provide("", 200);
  Sequence alone;
  for (Index p = 0; p < 200; ++p) alone.grow(pool);
  CHECK(alone.table.front() == 0);
  CHECK(alone.behind() == 199);
  CHECK(pool.free() == 0);
}

TEST_CASE("Sequences that grow by turns have stretches of 64 pages each") {
  Pages pool = pages(16 * 128);
  pool.provide("", 16 * 128);
  std::vector<Sequence> all(16);
  for (Index p = 0; p < 128; ++p) {
    for (Sequence& s : all) s.grow(pool);
  }
  for (const Sequence& s : all) CHECK(s.behind() >= 126);
  CHECK(pool.free() == 0);
}

TEST_CASE("A pool that grows has room for stretches too") {
  Pages pool = pages(32);
  std::vector<Sequence> all(16);
  for (Index p = 0; p < 512; ++p) {
    for (Sequence& s : all) {
      pool.provide("", 1);
      s.grow(pool);
    }
  }
  Index behind = 0;
  for (const Sequence& s : all) behind += s.behind();
  CHECK(behind > 16 * 512 * 9 / 10);
  CHECK(pool.count() <= 16 * 512 * 3 / 2 + 32);
}

TEST_CASE("Where there is no room for 64 pages, a sequence begins in the middle of the longest stretch") {
  Pages pool = pages(64);
  pool.provide("", 64);
  CHECK(pool.take() == 0);
  CHECK(pool.take() == 32);  // of 1 to 63
  CHECK(pool.take() == 16);  // of 1 to 31, which is as long as 33 to 63
  CHECK(pool.take() == 48);
  CHECK(pool.take(0) == 1);
  CHECK(pool.take(32) == 33);
  for (Index page = 2; page < 16; ++page) CHECK(pool.take(page - 1) == page);
  CHECK(pool.take(15) == 24);  // 16 is taken: of 17 to 31
}

TEST_CASE("Pages that are taken were free, and all of them can be had") {
  const auto seed = GENERATE(1u, 2u, 3u);
  CAPTURE(seed);
  std::mt19937 random(seed);
  const auto at_a_time = GENERATE(Index{1}, Index{7}, Index{64}, Index{100});
  CAPTURE(at_a_time);
  Pages pool = pages(at_a_time);
  std::set<Index> taken;
  const auto any = [&] { return *std::next(taken.begin(), std::ptrdiff_t(random() % taken.size())); };
  for (int n = 0; n < 2000; ++n) {
    if (random() % 5 < 3) {
      pool.provide("", 1);
      const Index last = taken.empty() || random() % 4 == 0 ? Pages::none : any();
      const bool follows = last != Pages::none && last + 1 < pool.count() && !taken.contains(last + 1);
      const Index page = pool.take(last);
      REQUIRE((page >= 0 && page < pool.count()));
      REQUIRE(taken.insert(page).second);
      REQUIRE((!follows || page == last + 1));
      REQUIRE(pool.references(page) == 1);
    } else if (!taken.empty()) {
      const Index page = any();
      pool.refer(page);
      pool.give(page);
      REQUIRE(pool.references(page) == 1);
      pool.give(page);
      REQUIRE(pool.references(page) == 0);
      taken.erase(page);
    }
    REQUIRE(pool.free() + Index(taken.size()) == pool.count());
  }
  while (pool.free() > 0) REQUIRE(taken.insert(pool.take()).second);
  REQUIRE(Index(taken.size()) == pool.count());
}
