// Caches that several threads read at the same time, each with a workspace of its own. Under the thread sanitizer this
// shows that reading changes nothing.
#include <fovea/cache/contiguous.hpp>
#include <fovea/cache/paged.hpp>
#include <fovea/dense/cached_attention.hpp>
#include <fovea/exec/workspace.hpp>
#include <fovea/parts/kv/quantized.hpp>
#include <functional>
#include <thread>
#include <vector>

#include "cache/sequence.hpp"
#include "support/attention.hpp"

using namespace fovea::test;
using fovea::Index;

namespace {

const Widths widths{2, 20, 16};

// Calls f(n) for n in [0, 4), each on a thread of its own.
void on_threads(const std::function<void(std::size_t)>& f) {
  std::vector<std::thread> threads;
  for (std::size_t n = 0; n < 4; ++n) threads.emplace_back(f, n);
  for (auto& thread : threads) thread.join();
}

// The bits of a token's attention over a cache, asked for several times with one workspace.
template <class Cache>
Tensor4<float> attended(const Cache& cache, const Tensor4<float>& q) {
  Tensor4<float> out(1, q.dimension(1), q.dimension(2), widths.value_dim);
  fovea::Workspace workspace;
  for (int call = 0; call < 3; ++call) fovea::cached_attention(q, cache, out, {}, fovea::exec::reuse(workspace));
  return out;
}

template <class Cache>
void check_shared(const std::vector<const Cache*>& caches) {
  Tensor4<float> q(1, 4, 1, widths.key_dim);
  fill_gaussian(q, 3);
  std::vector<Tensor4<float>> wanted, got(4);
  for (std::size_t n = 0; n < 4; ++n) wanted.push_back(attended(*caches[n % caches.size()], q));
  on_threads([&](std::size_t n) { got[n] = attended(*caches[n % caches.size()], q); });
  for (std::size_t n = 0; n < 4; ++n) CHECK(same_bits(got[n], wanted[n]));
}

}  // namespace

TEST_CASE("threads read sequences that share the pages of a pool", "[cache]") {
  fovea::cache::Pool<float> pool({.kv_heads = widths.heads,
                                  .key_dim = widths.key_dim,
                                  .value_dim = widths.value_dim,
                                  .page_tokens = 8,
                                  .pages = 40});
  fovea::cache::Paged<float> prompt(pool);
  const auto x = random_tokens<float>(widths, 100, 1), y = random_tokens<float>(widths, 5, 2);
  prompt.append(x.k, x.v);
  auto fork = prompt.fork(), other = prompt.fork(50);
  fork.append(y.k, y.v);
  other.append(y.k, y.v);
  check_shared<fovea::cache::Paged<float>>({&prompt, &fork, &other});
}

TEST_CASE("threads read one cache of codes", "[cache]") {
  using Cache = fovea::cache::Contiguous<fovea::kv::Int8>;
  Cache cache({.kv_heads = widths.heads, .key_dim = widths.key_dim, .value_dim = widths.value_dim});
  const auto x = random_tokens<float>(widths, 100, 1);
  cache.append(x.k, x.v);
  check_shared<Cache>({&cache});
}
