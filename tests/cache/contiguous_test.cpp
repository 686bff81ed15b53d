// Contiguous caches of plain types: against a list of tokens, growth, forks, refusals.
#include <fovea/cache/contiguous.hpp>

#include "cache/sequence.hpp"
#include "support/catch.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::cache::Contiguous;
using fovea::cache::ContiguousOptions;
using support::refusal;

namespace {

ContiguousOptions options(const Widths& w, Index reserve = 0, bool may_grow = true) {
  return {
      .kv_heads = w.heads, .key_dim = w.key_dim, .value_dim = w.value_dim, .reserve = reserve, .may_grow = may_grow};
}

// Random appends, cuts and forks, each copied to a list.
template <class K, class V, class T>
void run(unsigned seed, const Widths& w) {
  std::mt19937 random(seed);
  const auto below = [&](Index n) { return Index(random() % unsigned(n)); };
  std::vector<Contiguous<K, V>> caches;
  std::vector<List> lists;
  caches.emplace_back(options(w, below(40)));
  lists.emplace_back();
  for (int step = 0; step < 150; ++step) {
    const auto n = std::size_t(below(Index(caches.size())));
    const Index length = caches[n].length();
    switch (below(8)) {
      case 0:
      case 1:
      case 2: {
        const auto x = random_tokens<T>(w, 1, random());
        caches[n].append(x.k, x.v);
        append_to<K, V>(lists[n], x);
        break;
      }
      case 3:
      case 4: {
        const auto x = random_tokens<T>(w, below(30), random());
        caches[n].append(x.k, x.v);
        append_to<K, V>(lists[n], x);
        break;
      }
      case 5: {
        const Index left = length - below(std::min<Index>(length, 20) + 1);
        caches[n].truncate(left);
        lists[n].resize(std::size_t(left));
        break;
      }
      case 6:
        caches.push_back(caches[n].fork());
        lists.push_back(List(lists[n]));
        break;
      default:
        if (caches.size() < 3) break;
        caches.erase(caches.begin() + Index(n));
        lists.erase(lists.begin() + Index(n));
    }
    for (std::size_t i = 0; i < caches.size(); ++i) {
      INFO("step " << step << ", cache " << i);
      REQUIRE(difference(caches[i].source(), lists[i]) == "");
    }
  }
}

}  // namespace

TEST_CASE("A contiguous cache holds what a list holds") {
  run<float, float, float>(1, {2, 5, 3});
  run<double, double, double>(2, {1, 4, 7});
  run<Eigen::bfloat16, Eigen::half, float>(3, {3, 17, 2});
  run<float, Eigen::bfloat16, double>(4, {2, 33, 16});
}

TEST_CASE("Within the reserve a contiguous cache stays where it is") {
  Contiguous<float> cache(options({}, 50));
  CHECK(cache.capacity() == 50);
  CHECK(cache.length() == 0);
  const std::byte* const at = *cache.source().k.pages;
  const auto x = random_tokens<float>({}, 25, 1);
  cache.append(x.k, x.v);
  cache.append(x.k, x.v);
  CHECK(*cache.source().k.pages == at);
  CHECK(cache.capacity() == 50);
  cache.truncate(10);
  cache.clear();
  CHECK(cache.length() == 0);
  CHECK(cache.capacity() == 50);
}

TEST_CASE("A contiguous cache grows by doubling") {
  Contiguous<float> cache(options({}));
  CHECK(cache.capacity() == 0);
  const auto x = random_tokens<float>({}, 1, 1);
  Index moves = 0;
  for (int t = 0; t < 1000; ++t) {
    const Index before = cache.capacity();
    cache.append(x.k, x.v);
    moves += cache.capacity() != before;
  }
  CHECK(moves <= 7);
  cache.reserve(5000);
  CHECK(cache.capacity() == 5000);
  CHECK(cache.length() == 1000);
}

TEST_CASE("What a contiguous cache was moved from is empty and refuses tokens") {
  const auto x = random_tokens<float>({}, 9, 1);
  List list;
  append_to<float, float>(list, x);
  Contiguous<float> a(options({}));
  a.append(x.k, x.v);
  Contiguous<float> b(std::move(a));
  CHECK(difference(b.source(), list) == "");
  CHECK(a.length() == 0);
  CHECK(refusal([&] { a.append(x.k, x.v); }) == "fovea::cache::Contiguous::append: the cache was moved from");
  CHECK(refusal([&] { a.reserve(10); }) == "fovea::cache::Contiguous::reserve: the cache was moved from");
  a = b.fork();
  a = std::move(b);
  CHECK(difference(a.source(), list) == "");
  CHECK(refusal([&] { (void)b.fork(); }) == "fovea::cache::Contiguous::fork: the cache was moved from");
}

TEST_CASE("Views with strides and matrices of one head are appended") {
  const Widths w{1, 4, 3};
  const auto x = random_tokens<float>(w, 6, 1);
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Matrix k(6, 9), v(6, 3);
  for (Index t = 0; t < 6; ++t) {
    for (Index d = 0; d < 4; ++d) k(t, 2 + d) = x.k(0, t, d);
    for (Index d = 0; d < 3; ++d) v(t, d) = x.v(0, t, d);
  }
  Contiguous<float, Eigen::half> cache(options(w));
  cache.append(k.middleCols(2, 4), v);
  List list;
  append_to<float, Eigen::half>(list, x);
  CHECK(difference(cache.source(), list) == "");
}

TEST_CASE("Illegal calls of contiguous caches are refused and change nothing") {
  const auto made = [](const ContiguousOptions& o) { return refusal([&] { Contiguous<float>{o}; }); };
  CHECK(made({}) == "fovea::cache::Contiguous: kv_heads must be between 1 and 1048576, got 0");
  CHECK(made(options({2, -1, 3})) == "fovea::cache::Contiguous: key_dim must be between 1 and 1048576, got -1");
  CHECK(made(options({2, 5, Index{1} << 40})) ==
        "fovea::cache::Contiguous: value_dim must be between 1 and 1048576, got 1099511627776");
  CHECK(made(options({}, -3)) == "fovea::cache::Contiguous: reserve must not be negative, got -3");
  CHECK(made(options({}, std::numeric_limits<Index>::max())) != "accepted");

  Contiguous<float> cache(options({}, 10, false));
  const auto x = random_tokens<float>({}, 6, 1);
  List list;
  append_to<float, float>(list, x);
  cache.append(x.k, x.v);
  const auto append = [&](const auto& k, const auto& v) { return refusal([&] { cache.append(k, v); }); };
  const auto other_heads = random_tokens<float>({3, 5, 3}, 2, 1);
  const auto other_key = random_tokens<float>({2, 4, 3}, 2, 1);
  const auto other_value = random_tokens<float>({2, 5, 4}, 2, 1);
  Eigen::Tensor<float, 4, Eigen::RowMajor> batch(2, 2, 3, 5);
  CHECK(append(other_heads.k, other_heads.v) ==
        "fovea::cache::Contiguous::append: k must have the heads and the width of the cache, wanted [2, n, 5], "
        "got [3, 2, 5]");
  CHECK(append(other_key.k, other_key.v) ==
        "fovea::cache::Contiguous::append: k must have the heads and the width of the cache, wanted [2, n, 5], "
        "got [2, 2, 4]");
  CHECK(append(other_value.k, other_value.v) ==
        "fovea::cache::Contiguous::append: v must have the heads and the width of the cache, wanted [2, n, 3], "
        "got [2, 2, 4]");
  CHECK(append(x.k, x.part({0, 5}).v) ==
        "fovea::cache::Contiguous::append: v must have the length of k, wanted 6, got 5");
  CHECK(append(batch, x.v) ==
        "fovea::cache::Contiguous::append: k and v must be of one sequence, got a batch of 2 and of 1");
  CHECK(append(x.k, x.v) ==
        "fovea::cache::Contiguous::append: the cache may not grow, it has room for 4 tokens, got 6");
  CHECK(refusal([&] { cache.truncate(7); }) ==
        "fovea::cache::Contiguous::truncate: the tokens that stay must be between 0 and 6, got 7");
  CHECK(refusal([&] { cache.truncate(-1); }) ==
        "fovea::cache::Contiguous::truncate: the tokens that stay must be between 0 and 6, got -1");
  CHECK(refusal([&] { cache.reserve(-1); }) != "accepted");
  CHECK(cache.capacity() == 10);
  CHECK(difference(cache.source(), list) == "");
  cache.reserve(12);  // asked for by name
  cache.append(x.k, x.v);
  CHECK(cache.length() == 12);
}
