// What caches allocate: nothing while tokens are decoded within a reserve, little for a file that promises much.
#include <algorithm>
#include <fovea/cache/contiguous.hpp>
#include <fovea/cache/paged.hpp>
#include <fovea/engine/attend.hpp>
#include <fovea/parts/kv/batch.hpp>
#include <fovea/parts/kv/quantized.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <sstream>

#include "cache/sequence.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::cache::Contiguous;
using fovea::cache::Paged;
using fovea::cache::Pool;
using fovea::kv::Int4;
using fovea::kv::Int8;

namespace {

const Widths widths{2, 16, 16};
using Tensor4 = Eigen::Tensor<float, 4, Eigen::RowMajor>;

// Allocations of 200 steps of decoding: a token for each of two sequences, and attention.
template <class Cache>
long decode(std::vector<Cache>& caches) {
  Tensor4 q(2, 4, 1, 16), out(2, 4, 1, 16);
  q.setConstant(0.5f);
  const auto prompt = random_tokens<float>(widths, 300, 1), x = random_tokens<float>(widths, 1, 2);
  for (auto& cache : caches) cache.append(prompt.k, prompt.v);
  const auto recipe = fovea::softmax().mask(fovea::mask::causal());
  fovea::Workspace workspace;
  const auto step = [&] {
    for (auto& cache : caches) cache.append(x.k, x.v);
    fovea::attend(q, fovea::kv::batch(caches), out, recipe, fovea::exec::reuse(workspace));
  };
  for (int n = 0; n < 2; ++n) step();
  const long before = allocations;
  for (int n = 0; n < 198; ++n) step();
  return allocations - before;
}

template <class K, class V>
long decode_contiguous() {
  std::vector<Contiguous<K, V>> caches;
  for (int n = 0; n < 2; ++n)
    caches.emplace_back(fovea::cache::ContiguousOptions{.kv_heads = 2, .key_dim = 16, .value_dim = 16, .reserve = 512});
  return decode(caches);
}
template <class K, class V>
long decode_paged(Index page_tokens) {
  const Pool<K, V> pool({.kv_heads = 2,
                         .key_dim = 16,
                         .value_dim = 16,
                         .page_tokens = page_tokens,
                         .pages = 1024 / page_tokens,
                         .may_grow = false});
  std::vector<Paged<K, V>> caches;
  for (int n = 0; n < 2; ++n) {
    caches.emplace_back(pool);
    caches.back().reserve(512);
  }
  return decode(caches);
}

}  // namespace

TEST_CASE("Decoding within a reserve allocates nothing") {
  const long before = allocations;
  CHECK(decode_contiguous<float, float>() == 0);
  CHECK(allocations > before);  // the counter counts
  CHECK(decode_paged<Eigen::bfloat16, Eigen::half>(16) == 0);
  CHECK(decode_paged<Int8, Int4>(32) == 0);
}

TEST_CASE("Rejected tokens and copies on writing allocate nothing") {
  const Pool<float> pool(
      {.kv_heads = 2, .key_dim = 16, .value_dim = 16, .page_tokens = 16, .pages = 64, .may_grow = false});
  const auto prompt = random_tokens<float>(widths, 100, 1), x = random_tokens<float>(widths, 30, 2);
  Paged<float> a(pool);
  a.reserve(200);
  a.append(prompt.k, prompt.v);
  Paged<float> b = a.fork();
  const long before = allocations;
  for (int n = 0; n < 5; ++n) {
    a.append(x.k, x.v);
    a.truncate(100);
  }
  CHECK(allocations == before);
}

TEST_CASE("A file that promises much gets little") {
  Contiguous<float> cache({.kv_heads = 2, .key_dim = 16, .value_dim = 16});
  Paged<float> paged(Pool<float>({.kv_heads = 2, .key_dim = 16, .value_dim = 16, .pages = 2}));
  const auto x = random_tokens<float>(widths, 200, 1);
  cache.append(x.k, x.v);
  std::ostringstream to;
  cache.save(to);
  std::string file = to.str();
  const Index length = Index{1} << 50;
  for (const std::size_t at : {64, 72, 80}) std::memcpy(file.data() + at, &length, sizeof length);
  fovea::cache::detail::Checksum sum;
  sum.add(file.data(), 96);
  const std::uint32_t value = sum.value();
  std::memcpy(file.data() + 96, &value, sizeof value);
  largest_allocation = 0;
  const auto load = [&](auto& any) {
    std::istringstream from(file);
    any.load(from);
  };
  CHECK_THROWS_AS(load(cache), fovea::cache::FormatError);
  CHECK_THROWS_AS(load(paged), fovea::cache::FormatError);
  CHECK(largest_allocation < 4 * long(file.size()));
  CHECK(cache.length() == 200);
}
