// Streaming attention token by token from a rolling cache: what a prefill of all tokens gives.
#include <fovea/exec/pool.hpp>
#include <fovea/sink/streaming.hpp>

#include "sink/streaming.hpp"
#include "support/attention.hpp"
#include "support/parts.hpp"
#include "window/kept.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::RollingCache;
using fovea::StreamingOptions;

namespace {

// The first `prompt` tokens enter the cache at once, each of the others before its query.
template <class T, class Exec = fovea::exec::Serial>
Result<T> decoded(const Inputs<T>& x, Index prompt, const StreamingOptions& options, const Exec& executor = {}) {
  const Sizes s = x.sizes();
  auto all = blank<T>(s);
  RollingCache<T> cache(s.batch, s.kv_heads, s.dim, s.value_dim, options.window, options.sink_tokens);
  cache.append(tokens(x.k, 0, prompt), tokens(x.v, 0, prompt));
  for (Index t = prompt; t < s.keys; ++t) {
    cache.append(tokens(x.k, t, t + 1), tokens(x.v, t, t + 1));
    auto one = blank<T>({s.batch, s.heads, s.kv_heads, 1, 1, s.dim, s.value_dim});
    fovea::streaming(tokens(x.q, t, t + 1), cache, one.both(), options, executor);
    for (Index b = 0; b < s.batch; ++b) {
      for (Index h = 0; h < s.heads; ++h) {
        std::copy_n(row(one.out, b, h, 0), s.value_dim, row(all.out, b, h, t));
        all.log_sum(b, h, t) = one.log_sum(b, h, 0);
      }
    }
  }
  return all;
}

template <class Real, class T>
Tensor4<Real> by_reference(const Inputs<T>& x, const StreamingOptions& options) {
  const Sizes s = x.sizes();
  Tensor4<Real> wanted(s.batch, s.heads, s.queries, s.value_dim);
  for (Index b = 0; b < s.batch; ++b) {
    for (Index h = 0; h < s.heads; ++h) {
      const Index g = h * s.kv_heads / s.heads;
      const auto one = fovea::reference::streaming<Real>(
          head(x.q, b, h).template cast<Real>(), head(x.k, b, g).template cast<Real>(),
          head(x.v, b, g).template cast<Real>(), options.window, options.sink_tokens, Real(options.rotary.base));
      std::copy_n(one.data(), one.size(), row(wanted, b, h, 0));
    }
  }
  return wanted;
}

const std::vector<Sizes> shapes = {{1, 1, 1, 1, 1, 2, 1}, {2, 4, 2, 70, 70, 18, 15}, {1, 4, 1, 150, 150, 32, 64}};

}  // namespace

TEMPLATE_TEST_CASE("decoding from a rolling cache equals the reference of all tokens", "[sink]", float, double) {
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

TEST_CASE("log-sums from a rolling cache are those of the prefill, and a pool gives the same bits", "[sink]") {
  const auto x = gaussian<float>({2, 4, 2, 60, 60, 32, 16});
  const StreamingOptions options{.window = 9, .sink_tokens = 3};
  const auto got = decoded(x, 0, options);
  auto prefill = blank<float>(x.sizes());
  fovea::streaming(x.q, x.k, x.v, prefill.both(), options);
  CHECK(log_sum_distance(got.log_sum, prefill.log_sum) < 16 * double(epsilon<float>));
  CHECK(same_bits(got, decoded(x, 0, options, fovea::exec::Pool(2))));
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
  RollingCache<float> cache(1, 1, 8, 4, 5, 2);
  const auto x = gaussian<float>({1, 2, 1, 2, 3, 8, 4});
  auto one = blank<float>({1, 2, 1, 1, 1, 8, 4});
  fovea::streaming(tokens(x.q, 0, 1), cache, one.both(), {.window = 5, .sink_tokens = 2});
  for (Index n = 0; n < one.out.size(); ++n) CHECK(one.out.data()[n] == 0);
  CHECK(one.log_sum(0, 0, 0) == -infinity<float>);

  cache.append(x.k, x.v);
  const auto refused = [&](const Tensor4<float>& q, const StreamingOptions& options) {
    auto got = blank<float>({1, q.dimension(1), 1, q.dimension(2), 1, 8, 4});
    const auto message = support::refusal([&] { fovea::streaming(q, cache, got.both(), options); });
    return all_nan(got.out.data(), got.out.size()) ? message : "touched";
  };
  CHECK(refused(x.q, {.window = 5, .sink_tokens = 2}) == "fovea::streaming: there must be one query, got 2");
  CHECK(refused(tokens(x.q, 0, 1), {.window = 6, .sink_tokens = 2}) ==
        "fovea::streaming: window must be that of the cache, wanted 5, got 6");
  CHECK(refused(tokens(x.q, 0, 1), {.window = 5, .sink_tokens = 1}) ==
        "fovea::streaming: sink_tokens must be that of the cache, wanted 2, got 1");
  CHECK(refused(Tensor4<float>(1, 2, 1, 6), {.window = 5, .sink_tokens = 2}) ==
        "fovea::streaming: k must have the width of q, wanted 6, got 8");
}
