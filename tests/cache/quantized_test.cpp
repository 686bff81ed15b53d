// Caches of quantised types, contiguous and paged: what waits and what is rounded, that appends may be cut anywhere,
// and what truncation brings back.
#include <fovea/cache/contiguous.hpp>
#include <fovea/cache/paged.hpp>
#include <fovea/parts/kv/quantized.hpp>

#include "cache/sequence.hpp"
#include "support/catch.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::Span;
using fovea::cache::Contiguous;
using fovea::cache::Paged;
using fovea::cache::Pool;
using fovea::kv::Int4;
using fovea::kv::Int8;
using support::refusal;

namespace {

const Widths widths{2, 20, 37};
constexpr Index group = 16, residual = 32;

template <class K, class V>
Contiguous<K, V> contiguous() {
  return Contiguous<K, V>({.kv_heads = widths.heads,
                           .key_dim = widths.key_dim,
                           .value_dim = widths.value_dim,
                           .grouping = {group, residual}});
}
template <class K, class V>
Pool<K, V> pool(Index page_tokens) {
  return Pool<K, V>({.kv_heads = widths.heads,
                     .key_dim = widths.key_dim,
                     .value_dim = widths.value_dim,
                     .page_tokens = page_tokens,
                     .grouping = {group, residual}});
}

template <class Cache, class T>
void append_in_pieces(Cache& cache, const Appended<T>& x, std::vector<Index> pieces) {
  Index first = 0;
  for (std::size_t n = 0; first < x.length(); ++n) {
    const Index last = std::min(x.length(), first + pieces[n % pieces.size()]);
    const auto y = x.part({first, last});
    cache.append(y.k, y.v);
    first = last;
  }
}

template <class Cache>
List all_of(const Cache& cache) {
  std::string trouble;
  const List list = read<double>(cache.source(), 0, {0, cache.length()}, trouble);
  REQUIRE(trouble == "");
  return list;
}

}  // namespace

TEST_CASE("Keys are rounded a residual at a time, values one by one when so many follow") {
  const auto x = random_tokens<float>(widths, 150, 1);
  List given;
  append_to<float, float>(given, x);
  auto cache = contiguous<Int8, Int8>();
  for (Index t = 0; t < x.length(); ++t) {
    const auto y = x.part({t, t + 1});
    cache.append(y.k, y.v);
    const Index length = t + 1;
    const auto source = cache.source();
    REQUIRE(source.k.stored == length / residual * residual);
    REQUIRE(source.v.stored == std::max<Index>(0, length - residual));
    if (length % 10 != 0) continue;
    const List got = all_of(cache);
    const Index keys = widths.heads * widths.key_dim;
    for (Index n = 0; n < length; ++n) {
      for (Index d = 0; d < Index(given[0].size()); ++d) {
        const double wanted = given[std::size_t(n)][std::size_t(d)], have = got[std::size_t(n)][std::size_t(d)];
        // Normal numbers span less than 8 within a group, and half a step of 8 bits is the most that is lost.
        const bool rounded = n < (d < keys ? source.k.stored : source.v.stored);
        REQUIRE(std::fabs(have - wanted) <= (rounded ? 8.0 / 255 / 2 * 1.01 : 0));
      }
    }
  }
}

TEMPLATE_TEST_CASE("How tokens are cut into appends makes no difference", "", Int8, Int4) {
  const auto x = random_tokens<double>(widths, 200, 1);
  auto whole = contiguous<TestType, Int4>();
  whole.append(x.k, x.v);
  const List wanted = all_of(whole);
  auto pieces = contiguous<TestType, Int4>();
  append_in_pieces(pieces, x, {1, 2, 31, 64, 7, 33});
  CHECK(all_of(pieces) == wanted);
  for (const Index page_tokens : {32, 64, 96}) {
    Paged<TestType, Int4> paged(pool<TestType, Int4>(page_tokens));
    append_in_pieces(paged, x, {1, 1, 50, 3});
    CHECK(all_of(paged) == wanted);
  }
}

TEST_CASE("Up to a residual of tokens goes without a trace") {
  const auto x = random_tokens<float>(widths, 260, 1), other = random_tokens<float>(widths, residual, 2);
  for (Index length = 0; length < 200; length += 9) {
    const Index more = std::min<Index>(residual, (length * 7) % 33);
    auto wanted = contiguous<Int4, Int8>();
    wanted.append(x.part({0, length}).k, x.part({0, length}).v);

    auto contiguous_one = contiguous<Int4, Int8>();
    Paged<Int4, Int8> paged(pool<Int4, Int8>(32));
    const auto run = [&](auto& cache) {
      append_in_pieces(cache, x.part({0, length}), {40, 3});
      const auto rejected = other.part({0, more});
      cache.append(rejected.k, rejected.v);
      cache.truncate(length);
      INFO("length " << length << ", more " << more);
      REQUIRE(all_of(cache) == all_of(wanted));
      append_in_pieces(cache, x.part({length, 260}), {5, 50});
    };
    run(contiguous_one);
    run(paged);
    append_in_pieces(wanted, x.part({length, 260}), {260});
    REQUIRE(all_of(contiguous_one) == all_of(wanted));
    REQUIRE(all_of(paged) == all_of(wanted));
  }
}

TEST_CASE("When more go, the last ones that stay come back as they had been rounded") {
  const auto x = random_tokens<float>(widths, 150, 1);
  auto cache = contiguous<Int8, Int8>();
  cache.append(x.k, x.v);
  const List before = all_of(cache);
  cache.truncate(70);
  const List after = all_of(cache);
  CHECK(after == List(before.begin(), before.begin() + 70));
  CHECK(cache.source().k.stored == 64);
  CHECK(cache.source().v.stored == 70 - residual);
  cache.clear();
  CHECK(cache.length() == 0);
  cache.append(x.k, x.v);
  CHECK(all_of(cache) == before);
}

TEST_CASE("Forks of quantised sequences share pages and go their own ways") {
  const auto x = random_tokens<float>(widths, 150, 1), y = random_tokens<float>(widths, 60, 2);
  const auto all = pool<Int8, Int4>(32);
  const auto alone = [&](Index length) {
    auto cache = contiguous<Int8, Int4>();
    append_in_pieces(cache, x.part({0, length}), {150});
    append_in_pieces(cache, y, {1});
    return all_of(cache);
  };
  {
    Paged<Int8, Int4> a(all);
    append_in_pieces(a, x, {64});
    const Index used = all.pages() - all.free_pages();
    CHECK(used == 4);
    auto b = a.fork(), c = a.fork(130);
    CHECK(all.pages() - all.free_pages() == used);
    const List before = all_of(a);
    append_in_pieces(b, y, {1});
    append_in_pieces(c, y, {60});
    CHECK(all_of(a) == before);
    CHECK(all_of(b) == alone(150));
    CHECK(all_of(c) == alone(130));
    append_in_pieces(a, y, {7});
    CHECK(all_of(a) == alone(150));
    CHECK(all_of(b) == alone(150));
  }
  CHECK(all.pages() == all.free_pages());
}

TEST_CASE("Keys and values may differ in type") {
  const auto x = random_tokens<float>(widths, 100, 1);
  List given;
  append_to<float, Eigen::half>(given, x);
  auto cache = contiguous<Int8, Eigen::half>();
  append_in_pieces(cache, x, {9});
  auto other = contiguous<Eigen::half, Int4>();
  append_in_pieces(other, x, {9});
  const auto keys = std::size_t(widths.heads * widths.key_dim);
  const List first = all_of(cache);
  for (std::size_t t = 0; t < first.size(); ++t)
    REQUIRE(std::equal(first[t].begin() + Index(keys), first[t].end(), given[t].begin() + Index(keys)));
  CHECK(cache.source().v.stored == 100);
  CHECK(other.source().k.stored == 100);
  CHECK(other.source().v.stored == 100 - residual);
}

TEST_CASE("What quantised caches cannot hold is refused and changes nothing") {
  auto cache = contiguous<Int8, Int4>();
  auto x = random_tokens<double>(widths, 40, 1);
  cache.append(x.k, x.v);
  const List before = all_of(cache);
  const double bad[] = {support::nan<double>, std::numeric_limits<double>::infinity(), -65505.0, 1e300};
  for (const double number : bad) {
    auto k = x, v = x;
    k.k(1, 39, 19) = number;
    v.v(0, 0, 0) = number;
    CHECK(refusal([&] { cache.append(k.k, k.v); }) ==
          "fovea::cache::Contiguous::append: k must be finite and at most 65504 in magnitude to be stored in this "
          "format, token 39 of head 1 is not");
    CHECK(refusal([&] { cache.append(v.k, v.v); }) ==
          "fovea::cache::Contiguous::append: v must be finite and at most 65504 in magnitude to be stored in this "
          "format, token 0 of head 0 is not");
  }
  CHECK(all_of(cache) == before);
  CHECK(
      refusal([] { pool<Int8, Int8>(16); }) ==
      "fovea::cache::Pool: page_tokens must be a multiple of the block of the format, wanted a multiple of 32, got 16");
  CHECK(refusal([] {
          Contiguous<Int8>({.kv_heads = 1, .key_dim = 4, .value_dim = 4, .grouping = {16, 40}});
        }) != "accepted");
}
