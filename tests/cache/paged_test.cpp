// Paged sequences of plain types: against lists of tokens over every kind of page, what is shared and what is copied,
// the end of pages, refusals.
#include <fovea/cache/contiguous.hpp>
#include <fovea/cache/paged.hpp>

#include "cache/sequence.hpp"
#include "support/catch.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::cache::Paged;
using fovea::cache::Pool;
using fovea::cache::PoolOptions;
using support::refusal;

namespace {

PoolOptions options(const Widths& w, Index page_tokens, Index pages = 0, bool may_grow = true) {
  return {.kv_heads = w.heads,
          .key_dim = w.key_dim,
          .value_dim = w.value_dim,
          .page_tokens = page_tokens,
          .pages = pages,
          .may_grow = may_grow};
}

// The pages to which something refers, and whether each is referred to as often as tables name it.
template <class K, class V>
Index used_pages(const Pool<K, V>& pool, const std::vector<Paged<K, V>>& sequences) {
  std::vector<Index> named(std::size_t(pool.pages()), 0);
  for (const auto& sequence : sequences) {
    for (const Index page : sequence.pages()) ++named[std::size_t(page)];
  }
  Index used = 0;
  for (Index page = 0; page < pool.pages(); ++page) {
    if (pool.references(page) != named[std::size_t(page)]) return -1;
    used += named[std::size_t(page)] > 0;
  }
  return used + pool.free_pages() == pool.pages() ? used : -2;
}

// Random appends, cuts, forks and ends, each copied to a list.
template <class K, class V, class T>
void run(unsigned seed, const Widths& w, Index page_tokens) {
  std::mt19937 random(seed);
  const auto below = [&](Index n) { return Index(random() % unsigned(n)); };
  const Pool<K, V> pool(options(w, page_tokens, 1 + below(5)));
  std::vector<Paged<K, V>> sequences;
  std::vector<List> lists;
  for (int step = 0; step < 200; ++step) {
    if (sequences.empty()) {
      sequences.emplace_back(pool);
      lists.emplace_back();
    }
    const auto n = std::size_t(below(Index(sequences.size())));
    const Index length = sequences[n].length();
    switch (below(9)) {
      case 0:
      case 1:
      case 2: {
        const auto x = random_tokens<T>(w, 1, random());
        sequences[n].append(x.k, x.v);
        append_to<K, V>(lists[n], x);
        break;
      }
      case 3: {
        const auto x = random_tokens<T>(w, below(40), random());
        sequences[n].append(x.k, x.v);
        append_to<K, V>(lists[n], x);
        break;
      }
      case 4: {
        const Index left = length - below(std::min<Index>(length, 20) + 1);
        sequences[n].truncate(left);
        lists[n].resize(std::size_t(left));
        break;
      }
      case 5:
        sequences.push_back(sequences[n].fork());
        lists.push_back(List(lists[n]));
        break;
      case 6: {
        const Index shared = below(length + 1);
        sequences.push_back(sequences[n].fork(shared));
        lists.emplace_back(lists[n].begin(), lists[n].begin() + shared);
        break;
      }
      case 7: {  // another sequence takes its place
        const auto m = std::size_t(below(Index(sequences.size())));
        if (m == n) break;
        sequences[n] = std::move(sequences[m]);
        lists[n] = std::move(lists[m]);
        sequences.erase(sequences.begin() + Index(m));
        lists.erase(lists.begin() + Index(m));
        break;
      }
      default:
        if (sequences.size() < 4) break;
        sequences.erase(sequences.begin() + Index(n));
        lists.erase(lists.begin() + Index(n));
    }
    INFO("step " << step << ", pages of " << page_tokens);
    REQUIRE(used_pages(pool, sequences) >= 0);
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      INFO("sequence " << i);
      REQUIRE(difference(sequences[i].source(), lists[i]) == "");
    }
  }
  sequences.clear();
  CHECK(used_pages(pool, sequences) == 0);
}

}  // namespace

TEST_CASE("Paged sequences hold what lists hold") {
  for (const Index page_tokens : {1, 16, 64, 7})
    run<float, float, float>(unsigned(page_tokens), {2, 5, 3}, page_tokens);
  for (const Index page_tokens : {3, 16}) run<Eigen::half, Eigen::bfloat16, double>(5, {1, 17, 2}, page_tokens);
}

TEST_CASE("A fork copies no page, and an append to a shared one copies that one") {
  const Pool<float> pool(options({}, 4));
  Paged<float> a(pool);
  const auto x = random_tokens<float>({}, 10, 1);
  a.append(x.k, x.v);
  CHECK(pool.pages() - pool.free_pages() == 3);
  Paged<float> b = a.fork();
  CHECK(pool.pages() - pool.free_pages() == 3);
  for (const Index page : a.pages()) CHECK(pool.references(page) == 2);
  const Index last = a.pages()[2];
  const auto y = random_tokens<float>({}, 1, 2);
  b.append(y.k, y.v);
  CHECK(b.pages()[0] == a.pages()[0]);
  CHECK(b.pages()[1] == a.pages()[1]);
  CHECK(a.pages()[2] == last);
  CHECK(b.pages()[2] != last);
  CHECK(pool.references(last) == 1);
  a.append(y.k, y.v);  // alone on its page by now
  CHECK(a.pages()[2] == last);

  Paged<float> c = a.fork(8);  // ends with a page: nothing is copied
  c.append(y.k, y.v);
  CHECK(c.pages()[1] == a.pages()[1]);
  CHECK(pool.references(a.pages()[1]) == 3);
}

TEST_CASE("Pages are given back by truncation and at the end of a sequence") {
  const Pool<float> pool(options({}, 4, 10, false));
  CHECK(pool.free_pages() == 10);
  const auto x = random_tokens<float>({}, 40, 1);
  {
    Paged<float> a(pool);
    a.append(x.k, x.v);
    CHECK(pool.free_pages() == 0);
    a.truncate(36);
    CHECK(pool.free_pages() == 1);
    a.truncate(33);
    CHECK(pool.free_pages() == 1);
    Paged<float> b = a.fork();
    a.clear();
    CHECK(pool.free_pages() == 1);
    b.truncate(1);
    CHECK(pool.free_pages() == 9);
    a = std::move(b);
    CHECK(pool.free_pages() == 9);
    CHECK(a.length() == 1);
  }
  CHECK(pool.free_pages() == 10);
}

TEST_CASE("When the pool has too few pages neither it nor the sequence changes") {
  const Pool<float> pool(options({}, 4, 3, false));
  Paged<float> a(pool);
  const auto x = random_tokens<float>({}, 6, 1);
  a.append(x.k, x.v);
  Paged<float> b = a.fork();
  List list;
  append_to<float, float>(list, x);
  const std::vector<Index> table(a.pages().begin(), a.pages().end());
  // A copy of the shared page, and another one.
  CHECK(refusal([&] { b.append(x.k, x.v); }) ==
        "fovea::cache::Paged::append: the pool may not grow, it has 1 free pages, wanted 2");
  CHECK(pool.pages() == 3);
  CHECK(pool.free_pages() == 1);
  CHECK(std::vector<Index>(b.pages().begin(), b.pages().end()) == table);
  CHECK(difference(a.source(), list) == "");
  CHECK(difference(b.source(), list) == "");
  const auto y = x.part({0, 2});
  b.append(y.k, y.v);
  CHECK(pool.free_pages() == 0);
  a.append(y.k, y.v);  // the page is no longer shared
  CHECK(refusal([&] { a.append(y.k, y.v); }) ==
        "fovea::cache::Paged::append: the pool may not grow, it has 0 free pages, wanted 1");
  Pool<float> same = pool;
  same.reserve(4);
  a.append(y.k, y.v);
  CHECK(a.length() == 10);
}

TEST_CASE("A sequence can be made of pages that are there") {
  const Pool<float> pool(options({}, 4, 8, false));
  Paged<float> a(pool);
  const auto x = random_tokens<float>({}, 10, 1);
  a.append(x.k, x.v);
  List list;
  append_to<float, float>(list, x);
  const auto pages = a.pages();
  Paged<float> b(pool, pages, 9);
  CHECK(difference(b.source(), List(list.begin(), list.begin() + 9)) == "");
  CHECK(pool.references(pages[2]) == 2);
  // Pages in another order: whatever the table says.
  const std::vector<Index> turned{pages[1], pages[0], pages[1]};
  Paged<float> c(pool, turned, 12);
  List other(list.begin() + 4, list.begin() + 8);
  other.insert(other.end(), list.begin(), list.begin() + 4);
  other.insert(other.end(), list.begin() + 4, list.begin() + 8);
  CHECK(difference(c.source(), other) == "");
  CHECK(pool.references(pages[1]) == 4);

  const auto made = [&](std::vector<Index> table, Index length) {
    return refusal([&] { Paged<float>(pool, table, length); });
  };
  const Index used = pages[0];
  Index free = 0;
  while (pool.references(free) > 0) ++free;
  CHECK(made({used, -1}, 8) == "fovea::cache::Paged: pages must be between 0 and 7, entry 1 is -1");
  CHECK(made({used, 8}, 8) == "fovea::cache::Paged: pages must be between 0 and 7, entry 1 is 8");
  CHECK(made({used}, 5) == "fovea::cache::Paged: the page table is shorter than the length, wanted 2 pages, got 1");
  CHECK(made({used}, -1) == "fovea::cache::Paged: the length must not be negative, got -1");
  CHECK(made({free}, 4) ==
        "fovea::cache::Paged: page " + std::to_string(free) + " is free, no sequence has written it, entry 0");
  CHECK(pool.references(used) == 3);
}

TEST_CASE("A pool lives as long as its sequences, and what was moved from refuses") {
  auto pool = std::make_unique<Pool<float>>(options({}, 4));
  Paged<float> a(*pool);
  const auto x = random_tokens<float>({}, 10, 1);
  List list;
  append_to<float, float>(list, x);
  pool = nullptr;
  a.append(x.k, x.v);
  CHECK(difference(a.source(), list) == "");
  Paged<float> b(std::move(a));
  CHECK(difference(b.source(), list) == "");
  CHECK(a.length() == 0);
  CHECK(a.pages().empty());
  const std::string moved = ": the sequence was moved from";
  CHECK(refusal([&] { a.append(x.k, x.v); }) == "fovea::cache::Paged::append" + moved);
  CHECK(refusal([&] { (void)a.fork(); }) == "fovea::cache::Paged::fork" + moved);
  CHECK(refusal([&] { a.truncate(0); }) == "fovea::cache::Paged::truncate" + moved);
  CHECK(refusal([&] { a.reserve(1); }) == "fovea::cache::Paged::reserve" + moved);
  CHECK(refusal([&] { (void)a.source(); }) == "fovea::cache::Paged::source" + moved);
  CHECK(refusal([&] { (void)a.pool(); }) == "fovea::cache::Paged::pool" + moved);
  a = std::move(b);
  CHECK(difference(a.source(), list) == "");
}

TEST_CASE("Illegal calls of pools and sequences are refused") {
  const auto made = [](const PoolOptions& o) { return refusal([&] { Pool<float>{o}; }); };
  CHECK(made({}) == "fovea::cache::Pool: kv_heads must be between 1 and 1048576, got 0");
  CHECK(made(options({2, 0, 3}, 4)) == "fovea::cache::Pool: key_dim must be between 1 and 1048576, got 0");
  CHECK(made(options({}, 0)) == "fovea::cache::Pool: page_tokens must be between 1 and 1048576, got 0");
  CHECK(made(options({}, 4, -1)) != "accepted");
  CHECK(made(options({}, 4, std::numeric_limits<Index>::max(), false)) != "accepted");

  Pool<float> pool(options({}, 4));
  CHECK(refusal([&] { pool.reserve(-1); }) != "accepted");
  CHECK(refusal([&] { pool.references(0); }) != "accepted");
  Paged<float> a(pool);
  const auto x = random_tokens<float>({}, 6, 1);
  const auto wide = random_tokens<float>({2, 6, 3}, 6, 1);
  a.append(x.k, x.v);
  CHECK(refusal([&] { a.append(wide.k, wide.v); }) ==
        "fovea::cache::Paged::append: k must have the heads and the width of the cache, wanted [2, n, 5], "
        "got [2, 6, 6]");
  CHECK(refusal([&] {
          a.append(x.k, x.part({1, 6}).v);
        }) == "fovea::cache::Paged::append: v must have the length of k, wanted 6, got 5");
  CHECK(refusal([&] { a.truncate(7); }) ==
        "fovea::cache::Paged::truncate: the tokens that stay must be between 0 and 6, got 7");
  CHECK(refusal([&] { (void)a.fork(7); }) == "fovea::cache::Paged::fork: the tokens must be between 0 and 6, got 7");
  CHECK(refusal([&] { (void)a.fork(-1); }) != "accepted");
  CHECK(refusal([&] { a.reserve(-1); }) != "accepted");
  CHECK(a.length() == 6);
  CHECK(pool.pages() - pool.free_pages() == 2);
}
