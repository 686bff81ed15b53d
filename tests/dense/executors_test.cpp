// The bits of a result do not depend on who computes it.
#include <fovea/dense/scaled_dot_product.hpp>
#include <fovea/exec/eigen_device.hpp>
#include <fovea/exec/pool.hpp>

#include "support/attention.hpp"

using namespace fovea::test;
using fovea::Index;

namespace {

const std::vector<Sizes> shapes = {
    {1, 1, 1, 1, 1, 1, 1},        // less work than threads
    {1, 2, 1, 300, 300, 33, 33},  // prefill
    {3, 6, 2, 45, 90, 16, 15},    // batch and groups
    {1, 1, 1, 1, 5000, 64, 64},   // decode, one head: only splits of the keys make work
    {2, 8, 2, 1, 2500, 64, 64},   // decode, grouped
    {1, 4, 1, 3, 2500, 64, 64},   // speculative tokens
};

template <class T, class Exec>
Result<T> attention(const Inputs<T>& x, bool causal, const Exec& executor) {
  auto got = blank<T>(x.sizes());
  fovea::scaled_dot_product(x.q, x.k, x.v, got.both(), {.causal = causal}, executor);
  return got;
}

// Hands out the items last first, one at a time.
struct Backwards {
  template <class F>
  void parallel_for(Index count, double, F&& f) const {
    for (Index item = count; item-- > 0;) f(item, item + 1);
  }
};

}  // namespace

TEMPLATE_TEST_CASE("a pool of 1, 2, 3 or 8 threads gives the bits of one thread", "", float, double) {
  for (const Index threads : {1, 2, 3, 8}) {
    const fovea::exec::Pool pool(threads);
    for (const Sizes& s : shapes) {
      for (const bool causal : {false, true}) {
        INFO(threads << " threads, " << s << (causal ? " causal" : ""));
        const auto x = gaussian<TestType>(s);
        CHECK(same_bits(attention(x, causal, pool), attention(x, causal, fovea::exec::Serial{})));
      }
    }
  }
}

TEMPLATE_TEST_CASE("an Eigen device gives the bits of one thread", "", float, double) {
  for (const int threads : {1, 2, 3, 8}) {
    Eigen::ThreadPool pool(threads);
    const Eigen::ThreadPoolDevice device(&pool, threads);
    for (const Sizes& s : shapes) {
      INFO(threads << " threads, " << s);
      const auto x = gaussian<TestType>(s);
      CHECK(same_bits(attention(x, true, fovea::exec::on(device)), attention(x, true, fovea::exec::Serial{})));
    }
  }
}

TEMPLATE_TEST_CASE("an executor of the user's that goes backwards gives the bits of one thread", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    CHECK(same_bits(attention(x, true, Backwards{}), attention(x, true, fovea::exec::Serial{})));
  }
}

TEST_CASE("a pool serves call after call") {
  const fovea::exec::Pool pool(3);
  const auto x = gaussian<float>({1, 2, 2, 33, 33, 16, 16});
  const auto wanted = attention(x, false, fovea::exec::Serial{});
  for (int call = 0; call < 200; ++call) REQUIRE(same_bits(attention(x, false, pool), wanted));
}
