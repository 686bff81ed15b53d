// Streaming attention from a cache beside a prefill, and on a pool.
#include <fovea/exec/pool.hpp>

#include "sink/decoded.hpp"

using namespace fovea::test;
using fovea::StreamingOptions;

TEST_CASE("log-sums from a cache are those of the prefill, and a pool gives the same bits", "[sink]") {
  const auto x = gaussian<float>({2, 4, 2, 60, 60, 32, 16});
  const StreamingOptions options{.window = 9, .sink_tokens = 3};
  const auto got = decoded(x, 0, options);
  auto prefill = blank<float>(x.sizes());
  fovea::streaming(x.q, x.k, x.v, prefill.both(), options);
  CHECK(log_sum_distance(got.log_sum, prefill.log_sum) < 16 * double(epsilon<float>));
  CHECK(same_bits(got, decoded(x, 0, options, fovea::exec::Pool(2))));
}
