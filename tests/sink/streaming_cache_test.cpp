// Streaming attention token by token from a cache: what a prefill of all tokens gives.
#include "sink/decoded.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::StreamingCache;
using fovea::StreamingOptions;

namespace {

const std::vector<Sizes> shapes = {{1, 1, 1, 1, 1, 2, 1}, {2, 4, 2, 70, 70, 18, 15}, {1, 4, 1, 150, 150, 32, 64}};

}  // namespace

TEMPLATE_TEST_CASE("decoding from a cache equals the reference of all tokens", "[sink]", float, double) {
  for (const Sizes& s : shapes) {
    const auto x = gaussian<TestType>(s);
    for (const Index window : {1, 7, 40, 200}) {
      for (const Index sinks : {0, 4}) {
        CAPTURE(window, sinks);
        const StreamingOptions options{.window = window, .sink_tokens = sinks};
        const auto wanted = by_reference<Exact<TestType>>(x, options);
        // Angles are computed in double; there twice the error of the reference in double is allowed.
        double budget = 8 * double(epsilon<TestType>);
        if constexpr (std::is_same_v<TestType, double>)
          budget = std::max(budget, 2 * relative_rms(by_reference<TestType>(x, options), wanted));
        CHECK(relative_rms(decoded(x, 0, options).out, wanted) < budget);
      }
    }
  }
}

TEST_CASE("a prompt that enters the cache at once leaves it as one token after the other does", "[sink]") {
  const auto x = gaussian<float>({1, 2, 1, 50, 50, 16, 16});
  const StreamingOptions options{.window = 8, .sink_tokens = 2};
  const auto all = decoded(x, 0, options), rest = decoded(x, 33, options);
  for (Index h = 0; h < 2; ++h) {
    for (Index t = 33; t < 50; ++t) CHECK(same_row(all, rest, 0, h, t));
  }
}

TEST_CASE("an empty cache gives zero; what does not fit the cache is refused", "[sink]") {
  StreamingCache<float> cache(1, 8, 4, {.window = 5, .sink_tokens = 2}), other(1, 8, 4, {.window = 6});
  const auto x = gaussian<float>({1, 2, 1, 2, 3, 8, 4});
  auto one = blank<float>({1, 2, 1, 1, 1, 8, 4});
  fovea::streaming(tokens(x.q, 0, 1), cache, one.both());
  CHECK(all_zero(one.out.data(), one.out.size()));
  CHECK(one.log_sum(0, 0, 0) == -infinity<float>);

  cache.append(of_sequence(x.k, 0, 0, 3), of_sequence(x.v, 0, 0, 3));
  const auto refused = [&](const Tensor4<float>& q, const auto&... caches) {
    auto got = blank<float>({q.dimension(0), q.dimension(1), 1, q.dimension(2), 1, 8, 4});
    const std::vector<const StreamingCache<float>*> all{caches...};
    const auto message = support::refusal([&] { fovea::streaming(q, all, got.both()); });
    return all_nan(got.out.data(), got.out.size()) ? message : "touched";
  };
  CHECK(refused(x.q, &cache) == "fovea::streaming: there must be one query, got 2");
  CHECK(refused(Tensor4<float>(1, 2, 1, 6), &cache) == "fovea::streaming: k must have the width of q, wanted 6, got 8");
  CHECK(refused(Tensor4<float>(2, 2, 1, 8), &cache) ==
        "fovea::streaming: there must be a cache for each sequence, wanted 2, got 1");
  CHECK(refused(Tensor4<float>(2, 2, 1, 8), &cache, &other) ==
        "fovea::streaming: caches must have the same heads, widths and options, number 1 differs from the first");
  CHECK(refused(Tensor4<float>(2, 2, 1, 8), &cache, static_cast<StreamingCache<float>*>(nullptr)) ==
        "fovea::streaming: cache 1 is a null pointer");
  CHECK(refused(Tensor4<float>(0, 2, 1, 8)) == "accepted");
  CHECK(support::refusal([&] { StreamingCache<float>(1, 7, 4, {.window = 5}); }) ==
        "fovea::StreamingCache: the rotated channels must be even and at most the width 7, got 7");
  CHECK(support::refusal([&] { cache.append(of_sequence(x.q, 0, 0, 1), of_sequence(x.v, 0, 0, 1)); }) ==
        "fovea::StreamingCache::append: k must have the heads and the width of the cache, wanted [1, n, 8], got "
        "[2, 1, 8]");
}
