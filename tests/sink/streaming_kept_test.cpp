// What a streaming cache keeps and gives back: tokens taken back, storage types, forks, positions far out.
#include "sink/decoded.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::StreamingCache;
using fovea::StreamingOptions;

TEST_CASE("rejected tokens leave no trace", "[sink]") {
  const auto x = gaussian<float>({1, 1, 1, 50, 50, 16, 16});
  const StreamingOptions options{.window = 8, .sink_tokens = 2};
  CHECK(same_bits(decoded(x, 0, options, {}, 3), decoded(x, 0, options)));
}

TEST_CASE("positions far out do not spoil the angles", "[sink]") {
  // The same tokens, the second time behind many others that have left the window.
  const auto x = gaussian<float>({1, 2, 1, 40, 40, 64, 16});
  const StreamingOptions options{.window = 40};
  StreamingCache<float> near(1, 64, 16, options), far(1, 64, 16, options);
  const Index before = 3000000, step = 50000;
  Tensor3<float> k(1, step, 64), v(1, step, 16);
  k.setConstant(1);
  v.setConstant(1);
  for (Index n = 0; n < before; n += step) far.append(k, v);
  for (auto* cache : {&near, &far}) cache->append(of_sequence(x.k, 0, 0, 40), of_sequence(x.v, 0, 0, 40));
  Tensor4<float> a(1, 2, 1, 16), b(1, 2, 1, 16);
  fovea::streaming(tokens(x.q, 39, 40), near, a);
  fovea::streaming(tokens(x.q, 39, 40), far, b);
  CHECK(far.seen() == before + 40);
  CHECK(relative_rms(b, a) < 8 * double(epsilon<float>));
}

TEST_CASE("a narrow cache is off by the rounding of what it stores", "[sink]") {
  const auto x = gaussian<float>({1, 4, 2, 150, 150, 32, 64});
  const StreamingOptions options{.window = 40, .sink_tokens = 4};
  const auto wanted = by_reference<double>(x, options);
  // Rounded to 11 bits: values move by 2^-12 of themselves at the rms, scores of deviation one by as much, twice.
  const double error = relative_rms(decoded<float, Eigen::half>(x, 0, options).out, wanted);
  CHECK(error < 4 * 0x1p-12);
  CHECK(error > 0x1p-16);
}

TEST_CASE("a fork and a move of a streaming cache go their own ways", "[sink]") {
  const auto x = gaussian<float>({1, 2, 1, 30, 30, 16, 8});
  const StreamingOptions options{.window = 8, .sink_tokens = 2};
  StreamingCache<float> cache(1, 16, 8, options);
  cache.append(of_sequence(x.k, 0, 0, 20), of_sequence(x.v, 0, 0, 20));
  auto fork = cache.fork();
  fork.append(of_sequence(x.k, 0, 0, 5), of_sequence(x.v, 0, 0, 5));
  cache.append(of_sequence(x.k, 0, 20, 21), of_sequence(x.v, 0, 20, 21));
  auto moved = std::move(cache);
  fork = std::move(moved);
  Tensor4<float> got(1, 2, 1, 8);
  fovea::streaming(tokens(x.q, 20, 21), fork, got);
  const auto wanted = decoded(x, 0, options);
  for (Index h = 0; h < 2; ++h) CHECK(std::equal(row(got, 0, h, 0), row(got, 0, h, 0) + 8, row(wanted.out, 0, h, 20)));
}
