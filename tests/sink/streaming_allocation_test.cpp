// Streaming from a cache, and attention over the other sources, allocate nothing in the steady state.
#include <fovea/exec/workspace.hpp>
#include <fovea/parts/kv/gathered.hpp>
#include <fovea/parts/kv/paged.hpp>
#include <fovea/sink/streaming.hpp>
#include <span>

#include "support/allocations.hpp"
#include "support/attention.hpp"

using namespace fovea::test;
using fovea::Index;
namespace kv = fovea::kv;

namespace {

// Allocations of later steps, when two have run.
template <class Step>
long more(const Step& step) {
  const long before = allocations;
  step();
  CHECK(allocations > before);  // the counter counts
  step();
  const long first = allocations;
  for (int n = 0; n < 5; ++n) step();
  return allocations - first;
}

}  // namespace

TEST_CASE("a token that enters a streaming cache and is decoded allocates nothing", "[sink]") {
  fovea::StreamingCache<Eigen::bfloat16> cache(2, 64, 32, {.window = 100, .sink_tokens = 4});
  const auto x = gaussian<float>({1, 4, 2, 1, 1, 64, 32});
  auto got = blank<float>(x.sizes());
  for (int n = 0; n < 6; ++n) cache.append(x.k, x.v);  // the sink tokens and more
  fovea::Workspace workspace;
  CHECK(more([&] {
          cache.append(x.k, x.v);
          fovea::streaming(x.q, cache, got.both(), fovea::exec::reuse(workspace));
        }) == 0);
}

TEST_CASE("sources that are made for every call allocate nothing", "[parts][kv]") {
  const auto x = gaussian<float>({1, 4, 2, 1, 12, 64, 32});
  Tensor4<float> k(10, 2, 8, 64), v(10, 2, 8, 32);
  k.setConstant(1);
  v.setConstant(1);
  const std::vector<int> table{3, 1, 9}, list{0, 5, 2, 17};
  std::vector<Index> lengths{10};
  auto got = blank<float>(x.sizes());
  fovea::Workspace workspace;
  CHECK(more([&] {
          ++lengths[0];
          const auto pages = kv::paged(k, v, table, lengths);
          fovea::attend(x.q, kv::gathered(pages, std::span(list).first(3)), got.both(), fovea::softmax(),
                        fovea::exec::reuse(workspace));
          fovea::attend(x.q, kv::ring(x.k, x.v, 2, lengths[0]), got.both(), fovea::softmax(),
                        fovea::exec::reuse(workspace));
        }) == 0);
}
