// Sequences as caches store them, as the engine sees them: the parts of their runs, and results that have the same bits
// however they are cut into pages.
#include <fovea/cache/contiguous.hpp>
#include <fovea/cache/paged.hpp>
#include <fovea/parts/kv/quantized.hpp>
#include <fovea/parts/mask/causal.hpp>

#include "cache/sequence.hpp"
#include "support/attend.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::Span;
using fovea::cache::Contiguous;
using fovea::cache::Paged;
using fovea::cache::Pool;
namespace kv = fovea::kv;

static_assert(kv::Source<kv::Stored<kv::Plain<float>, kv::Plain<Eigen::half>>>);
static_assert(kv::Source<kv::Stored<kv::KeyFormat<kv::Int8>, kv::ValueFormat<kv::Int4>>>);

namespace {

// The spans of the parts of tokens 0 .. length - 1 between first and last.
template <class Format>
std::vector<Span> parts(const kv::Tokens<Format>& tokens, Span span) {
  std::vector<Span> all;
  tokens.each_run(0, span, [&](Span part, const auto&) { all.push_back(part); });
  return all;
}

template <class Cache>
Result<float> attended(const Inputs<float>& x, const Cache& cache) {
  auto got = blank<float>(x.sizes());
  fovea::attend(x.q, cache, got.both(), fovea::softmax().mask(fovea::mask::causal()));
  return got;
}

template <class Cache>
void append(Cache& cache, const Inputs<float>& x, Index first, Index last) {
  const auto some = [&](const Tensor4<float>& all) {
    Tensor4<float> y(1, all.dimension(1), last - first, all.dimension(3));
    for (Index h = 0; h < all.dimension(1); ++h)
      std::copy_n(row(all, 0, h, first), (last - first) * all.dimension(3), row(y, 0, h, 0));
    return y;
  };
  cache.append(some(x.k), some(x.v));
}

template <class K, class V>
Contiguous<K, V> contiguous(const Sizes& s) {
  return Contiguous<K, V>({.kv_heads = s.kv_heads, .key_dim = s.dim, .value_dim = s.value_dim});
}
template <class K, class V>
Pool<K, V> pool(const Sizes& s, Index page_tokens) {
  return Pool<K, V>({.kv_heads = s.kv_heads, .key_dim = s.dim, .value_dim = s.value_dim, .page_tokens = page_tokens});
}

// Two sequences by turns, so that pages lie apart, the second one in pieces.
template <class K, class V>
Paged<K, V> scattered(const Pool<K, V>& pool, const Inputs<float>& x) {
  Paged<K, V> sequence(pool), other(pool);
  const Index length = x.k.dimension(2);
  for (Index first = 0; first < length;) {
    const Index last = std::min(length, first + 1 + first % 90);
    append(other, x, 0, std::min<Index>(length, 10));
    append(sequence, x, first, last);
    first = last;
  }
  return sequence;
}

}  // namespace

TEST_CASE("Runs end with pages, with what is stored, and with the ring") {
  const std::vector<std::byte> memory(4 * 48);
  const std::byte* const pages[] = {memory.data() + 48, memory.data() + 144, memory.data()};
  kv::Tokens<kv::Plain<float>> plain{{2}, pages, 5, 0, 40, 13, 13};
  CHECK(parts(plain, {0, 13}) == std::vector<Span>{{0, 5}, {5, 10}, {10, 13}});
  CHECK(parts(plain, {4, 6}) == std::vector<Span>{{4, 5}, {5, 6}});
  CHECK(parts(plain, {5, 10}) == std::vector<Span>{{5, 10}});
  CHECK(parts(plain, {7, 7}).empty());
  // Pages of five tokens that follow one another are one run.
  const std::byte* const near[] = {memory.data() + 8, memory.data() + 48, memory.data() + 88};
  plain.pages = near;
  CHECK(parts(plain, {0, 13}) == std::vector<Span>{{0, 13}});
  CHECK(parts(plain, {4, 6}) == std::vector<Span>{{4, 6}});
  const std::byte* const both[] = {memory.data() + 8, memory.data() + 48, memory.data() + 96};
  plain.pages = both;
  CHECK(parts(plain, {3, 13}) == std::vector<Span>{{3, 10}, {10, 13}});

  const float waiting[64 * 2] = {};
  kv::Tokens<kv::ValueFormat<kv::Int8>> late{{2, 16, 32}, nullptr, 32, 0, 0, 0, 20, waiting, 64};
  CHECK(parts(late, {3, 20}) == std::vector<Span>{{3, 20}});
  CHECK(parts(late, {3, 3}).empty());
  late.length = 150;
  late.stored = 118;
  CHECK(parts(late, {120, 150}) == std::vector<Span>{{120, 128}, {128, 150}});
}

TEST_CASE("Results have the bits of the same tokens in one array, whatever the pages") {
  for (const Index queries : {1, 40}) {
    const Sizes s{1, 4, 2, queries, 700, 20, 12};
    const auto x = gaussian<float>(s);
    const auto wanted = attended(x, kv::contiguous(x.k, x.v));
    auto cache = contiguous<float, float>(s);
    append(cache, x, 0, 700);
    const auto got = attended(x, cache);
    CHECK(same_bits(got.out, wanted.out));
    CHECK(same_bits(got.log_sum, wanted.log_sum));
    for (const Index page_tokens : {1, 16, 64, 37, 1000}) {
      const auto other = attended(x, scattered(pool<float, float>(s, page_tokens), x));
      INFO("pages of " << page_tokens << ", queries " << queries);
      CHECK(same_bits(other.out, wanted.out));
      CHECK(same_bits(other.log_sum, wanted.log_sum));
    }
  }
}

TEST_CASE("Quantised results do not depend on pages or on how tokens came") {
  for (const Index queries : {1, 40}) {
    const Sizes s{1, 4, 2, queries, 700, 20, 12};
    const auto x = gaussian<float>(s);
    auto cache = contiguous<kv::Int8, kv::Int4>(s);
    append(cache, x, 0, 700);
    const auto wanted = attended(x, cache);
    for (const Index page_tokens : {32, 96}) {
      const auto other = attended(x, scattered(pool<kv::Int8, kv::Int4>(s, page_tokens), x));
      INFO("pages of " << page_tokens << ", queries " << queries);
      CHECK(same_bits(other.out, wanted.out));
      CHECK(same_bits(other.log_sum, wanted.log_sum));
    }
  }
}
