// Streaming attention: against the reference, token by token from a cache, at the limits, and refused.
#include <fovea/dense/scaled_dot_product.hpp>
#include <fovea/exec/pool.hpp>
#include <fovea/sink/streaming.hpp>

#include "sink/streaming.hpp"
#include "support/attention.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::StreamingOptions;
using fovea::position::RotaryLayout;

namespace {

const std::vector<Sizes> shapes = {{1, 1, 1, 1, 1, 2, 1},
                                   {2, 4, 2, 70, 70, 18, 15},
                                   {1, 2, 2, 20, 150, 16, 33},
                                   {1, 4, 1, 1, 600, 64, 64},
                                   {1, 2, 1, 200, 200, 32, 16}};

template <class T, class Exec = fovea::exec::Serial>
Result<T> stream(const Inputs<T>& x, const StreamingOptions& options, const Exec& executor = {}) {
  auto got = blank<T>(x.sizes());
  fovea::streaming(x.q, x.k, x.v, got.both(), options, executor);
  return got;
}

template <class Real, class T>
Tensor4<Real> by_reference_in(const Inputs<T>& x, Index window, Index sink_tokens, double base) {
  const Sizes s = x.sizes();
  Tensor4<Real> wanted(s.batch, s.heads, s.queries, s.value_dim);
  for (Index b = 0; b < s.batch; ++b) {
    for (Index h = 0; h < s.heads; ++h) {
      const Index g = h * s.kv_heads / s.heads;
      const auto one = fovea::reference::streaming<Real>(
          head(x.q, b, h).template cast<Real>(), head(x.k, b, g).template cast<Real>(),
          head(x.v, b, g).template cast<Real>(), window, sink_tokens, Real(base));
      std::copy_n(one.data(), one.size(), row(wanted, b, h, 0));
    }
  }
  return wanted;
}

// Whether a result is within 8 epsilons of the reference. Angles are computed in double, to an epsilon of it for each
// position: in double that may be more, and twice the error of the reference in double is allowed.
template <class T>
bool is_close(const Result<T>& got, const Inputs<T>& x, Index window, Index sink_tokens, double base = 10000) {
  const auto wanted = by_reference_in<Exact<T>>(x, window, sink_tokens, base);
  double budget = 8 * double(epsilon<T>);
  if constexpr (std::is_same_v<T, double>)
    budget = std::max(budget, 2 * relative_rms(by_reference_in<T>(x, window, sink_tokens, base), wanted));
  const double distance = relative_rms(got.out, wanted);
  UNSCOPED_INFO("distance " << distance / double(epsilon<T>) << " epsilons, budget " << budget / double(epsilon<T>));
  return distance < budget;
}

// q and k rotated by their own positions.
template <class T>
Inputs<T> rotated(const Inputs<T>& x) {
  auto y = x;
  const Index keys = x.k.dimension(2), queries = x.q.dimension(2);
  std::vector<Index> at;
  for (Index j = 0; j < keys; ++j) at.push_back(j);
  fovea::position::rotary(x.k, at, y.k);
  fovea::position::rotary(x.q, std::vector<Index>(at.end() - queries, at.end()), y.q);
  return y;
}

// Tokens of one head that a cache keeps, in order, as they came.
class Cache {
 public:
  Cache(Index sink_tokens, Index recent) : sink_tokens_(sink_tokens), recent_(recent) {}

  Index size() const { return Index(tokens_.size()); }
  void append(Index token) { tokens_.push_back(token); }
  // Leaves room for so many tokens to come.
  void evict(Index room) {
    const Index most = sink_tokens_ + recent_ - room;
    if (size() > most) tokens_.erase(tokens_.begin() + sink_tokens_, tokens_.end() - (recent_ - room));
  }

  template <class T>
  Tensor4<T> of(const Tensor4<T>& x) const {
    Tensor4<T> kept(x.dimension(0), x.dimension(1), size(), x.dimension(3));
    for (Index b = 0; b < x.dimension(0); ++b) {
      for (Index h = 0; h < x.dimension(1); ++h) {
        for (Index n = 0; n < size(); ++n)
          std::copy_n(row(x, b, h, tokens_[std::size_t(n)]), x.dimension(3), row(kept, b, h, n));
      }
    }
    return kept;
  }

 private:
  Index sink_tokens_, recent_;
  std::vector<Index> tokens_;
};

// Token by token: what the method gives for a query and what the cache holds.
template <class T>
Result<T> decoded(const Inputs<T>& x, Index sink_tokens, Index recent, bool evict_first, const StreamingOptions& o) {
  auto all = blank<T>(x.sizes());
  const Index heads = x.q.dimension(1), dim = x.q.dimension(3), value_dim = x.v.dimension(3);
  Cache cache(sink_tokens, recent);
  for (Index t = 0; t < x.q.dimension(2); ++t) {
    if (evict_first) cache.evict(1);
    cache.append(t);
    Inputs<T> now{Tensor4<T>(x.q.dimension(0), heads, 1, dim), cache.of(x.k), cache.of(x.v)};
    for (Index b = 0; b < x.q.dimension(0); ++b) {
      for (Index h = 0; h < heads; ++h) std::copy_n(row(x.q, b, h, t), dim, row(now.q, b, h, 0));
    }
    const auto one = stream(now, o);
    for (Index b = 0; b < x.q.dimension(0); ++b) {
      for (Index h = 0; h < heads; ++h) {
        std::copy_n(row(one.out, b, h, 0), value_dim, row(all.out, b, h, t));
        all.log_sum(b, h, t) = one.log_sum(b, h, 0);
      }
    }
    if (!evict_first) cache.evict(0);
  }
  return all;
}

}  // namespace

TEMPLATE_TEST_CASE("all tokens at once equal the reference", "[sink]", float, double) {
  for (const Sizes& s : shapes) {
    const auto x = gaussian<TestType>(s);
    for (const Index window : {1, 7, 66}) {
      for (const Index sink_tokens : {0, 1, 4, 65}) {
        const auto got = stream(x, {.window = window, .sink_tokens = sink_tokens});
        INFO(s << " window " << window << " sink_tokens " << sink_tokens);
        CHECK(is_close(got, x, window, sink_tokens));
      }
    }
  }
}

TEMPLATE_TEST_CASE("few and many queries at every place against the keys equal the reference", "[sink]", float,
                   double) {
  for (const Index keys : {5, 12, 13, 14, 20, 40}) {
    for (const Index queries : {1, 2, 9, 12, 20, 45}) {
      const auto x = gaussian<TestType>({1, 2, 1, queries, keys, 8, 6});
      INFO("N:" << queries << " M:" << keys);
      CHECK(is_close(stream(x, {.window = 9, .sink_tokens = 4}), x, 9, 4));
    }
  }
}

TEMPLATE_TEST_CASE("keys that no query sees do not matter", "[sink]", float, double) {
  auto x = gaussian<TestType>({1, 2, 2, 10, 1000, 16, 8});
  const StreamingOptions options = {.window = 20, .sink_tokens = 4};
  const auto before = stream(x, options);
  for (Index h = 0; h < 2; ++h) {
    std::fill_n(row(x.k, 0, h, 4), 967 * 16, not_a_number<TestType>);  // up to key 970
    std::fill_n(row(x.v, 0, h, 4), 967 * 8, not_a_number<TestType>);
  }
  CHECK(same_bits(stream(x, options), before));
}

TEMPLATE_TEST_CASE("another base equals the reference", "[sink]", float, double) {
  const auto x = gaussian<TestType>({1, 2, 2, 100, 100, 16, 8});
  const auto got = stream(x, {.window = 20, .sink_tokens = 4, .rotary = {.base = 500}});
  CHECK(is_close(got, x, 20, 4, 500));
}

TEMPLATE_TEST_CASE("interleaved channels are those of the half split in another order", "[sink]", float, double) {
  const auto x = gaussian<TestType>({1, 2, 2, 100, 100, 16, 8});
  auto y = x;
  for (Tensor4<TestType>* of : {&y.q, &y.k}) {
    const Tensor4<TestType> from = *of;
    for (Index n = 0; n < from.size(); n += 16) {
      for (Index d = 0; d < 8; ++d) {
        of->data()[n + 2 * d] = from.data()[n + d];
        of->data()[n + 2 * d + 1] = from.data()[n + 8 + d];
      }
    }
  }
  const auto half = stream(x, {.window = 20, .sink_tokens = 4});
  const auto pairs = stream(y, {.window = 20, .sink_tokens = 4, .rotary = {.layout = RotaryLayout::interleaved}});
  CHECK(relative_rms(pairs.out, half.out) < 8 * double(epsilon<TestType>));
}

TEMPLATE_TEST_CASE("a cache that evicts before it appends: the window is its recent size", "[sink]", float, double) {
  const auto x = gaussian<TestType>({2, 4, 2, 150, 150, 16, 8});
  for (const Index sink_tokens : {0, 4}) {
    const StreamingOptions options = {.window = 20, .sink_tokens = sink_tokens};
    const auto whole = stream(x, options), steps = decoded(x, sink_tokens, 20, true, options);
    CHECK(relative_rms(steps.out, whole.out) < 8 * double(epsilon<TestType>));
    CHECK(log_sum_distance(steps.log_sum, whole.log_sum) < 8 * double(epsilon<TestType>));
  }
}

TEMPLATE_TEST_CASE("a cache that appends before it evicts: the window is one longer", "[sink]", float, double) {
  const auto x = gaussian<TestType>({2, 4, 2, 150, 150, 16, 8});
  for (const Index sink_tokens : {0, 4}) {
    const StreamingOptions options = {.window = 21, .sink_tokens = sink_tokens};
    const auto whole = stream(x, options), steps = decoded(x, sink_tokens, 20, false, options);
    CHECK(relative_rms(steps.out, whole.out) < 8 * double(epsilon<TestType>));
    CHECK(log_sum_distance(steps.log_sum, whole.log_sum) < 8 * double(epsilon<TestType>));
  }
}

TEMPLATE_TEST_CASE("the last queries of a prefill alone are those of the whole", "[sink]", float, double) {
  const auto x = gaussian<TestType>({1, 2, 1, 150, 150, 16, 8});
  auto last = x;
  last.q = Tensor4<TestType>(1, 2, 30, 16);
  const StreamingOptions options = {.window = 20, .sink_tokens = 4};
  const auto whole = stream(x, options);
  Tensor4<TestType> wanted(1, 2, 30, 8);
  for (Index h = 0; h < 2; ++h) {
    std::copy_n(row(x.q, 0, h, 120), 30 * 16, row(last.q, 0, h, 0));
    std::copy_n(row(whole.out, 0, h, 120), 30 * 8, row(wanted, 0, h, 0));
  }
  CHECK(relative_rms(stream(last, options).out, wanted) < 8 * double(epsilon<TestType>));
}

TEMPLATE_TEST_CASE("keys that fit the cache are causal attention of rotated q and k, bit for bit", "[sink]", float,
                   double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const auto turned = rotated(x);
    auto wanted = blank<TestType>(s);
    fovea::scaled_dot_product(turned.q, turned.k, turned.v, wanted.both(), {.causal = true});
    CHECK(same_bits(stream(x, {.window = s.keys}), wanted));
    CHECK(same_bits(stream(x, {.window = (s.keys + 1) / 2, .sink_tokens = s.keys / 2}), wanted));
  }
}

TEMPLATE_TEST_CASE("without sink tokens it is a window of rotated q and k, bit for bit", "[sink]", float, double) {
  namespace mask = fovea::mask;
  for (const Sizes& s : shapes) {
    if (s.queries != s.keys) continue;  // elsewhere positions are counted from the first key that is seen
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const auto turned = rotated(x);
    auto wanted = blank<TestType>(s);
    fovea::attend(turned.q, turned.k, turned.v, wanted.both(), fovea::softmax().mask(mask::causal() & mask::window(9)));
    CHECK(same_bits(stream(x, {.window = 9}), wanted));
  }
}

TEMPLATE_TEST_CASE("sink tokens change only the queries whose window has left the first key", "[sink]", float, double) {
  const auto x = gaussian<TestType>({1, 1, 1, 100, 100, 16, 8});
  const auto with = stream(x, {.window = 20, .sink_tokens = 4}), without = stream(x, {.window = 20});
  for (Index i = 0; i < 100; ++i) {
    double apart = 0;
    for (Index e = 0; e < 8; ++e)
      apart = std::max(apart, std::abs(double(row(with.out, 0, 0, i)[e]) - double(row(without.out, 0, 0, i)[e])));
    INFO("query " << i);
    REQUIRE((apart > 1000 * double(epsilon<TestType>)) == (i >= 20));
  }
}

TEMPLATE_TEST_CASE("outputs are the same whether log-sums are asked for or not", "[sink]", float, double) {
  const Sizes s{2, 4, 2, 90, 90, 16, 8};
  const auto x = gaussian<TestType>(s);
  auto alone = blank<TestType>(s);
  fovea::streaming(x.q, x.k, x.v, alone.out, {.window = 20, .sink_tokens = 4});
  CHECK(same_bits(alone.out, stream(x, {.window = 20, .sink_tokens = 4}).out));
}

TEMPLATE_TEST_CASE("permuted heads permute, bit for bit", "[sink]", float, double) {
  const Sizes s{1, 4, 4, 90, 90, 16, 8};
  const auto x = gaussian<TestType>(s);
  const std::vector<Index> order = {2, 0, 3, 1};
  auto y = x;
  for (Index h = 0; h < 4; ++h) {
    const Index from = order[std::size_t(h)];
    std::copy_n(row(x.q, 0, from, 0), s.queries * s.dim, row(y.q, 0, h, 0));
    std::copy_n(row(x.k, 0, from, 0), s.keys * s.dim, row(y.k, 0, h, 0));
    std::copy_n(row(x.v, 0, from, 0), s.keys * s.value_dim, row(y.v, 0, h, 0));
  }
  const auto a = stream(x, {.window = 9, .sink_tokens = 2}), b = stream(y, {.window = 9, .sink_tokens = 2});
  const Index size = s.queries * s.value_dim;
  for (Index h = 0; h < 4; ++h)
    CHECK(std::equal(row(b.out, 0, h, 0), row(b.out, 0, h, 0) + size, row(a.out, 0, order[std::size_t(h)], 0)));
}

TEMPLATE_TEST_CASE("streaming on a pool is the same, bit for bit", "[sink]", float, double) {
  const fovea::exec::Pool pool(3);
  for (const Sizes& s : {Sizes{2, 4, 2, 170, 170, 34, 15}, Sizes{1, 4, 4, 1, 1500, 16, 16}}) {
    const auto x = gaussian<TestType>(s);
    CHECK(same_bits(stream(x, {.window = 20, .sink_tokens = 4}), stream(x, {.window = 20, .sink_tokens = 4}, pool)));
  }
}

TEMPLATE_TEST_CASE("strided arrays stream as copies do, bit for bit", "[sink]", float, double) {
  const Sizes s{2, 4, 2, 50, 60, 16, 8};
  const auto x = gaussian<TestType>(s);
  const auto swapped = [](const Tensor4<TestType>& from) {
    Tensor4<TestType> to(from.dimension(0), from.dimension(2), from.dimension(1), from.dimension(3));
    for (Index b = 0; b < from.dimension(0); ++b) {
      for (Index m = 0; m < from.dimension(1); ++m) {
        for (Index n = 0; n < from.dimension(2); ++n)
          std::copy_n(row(from, b, m, n), from.dimension(3), row(to, b, n, m));
      }
    }
    return to;
  };
  const auto q = swapped(x.q), k = swapped(x.k), v = swapped(x.v);
  Tensor4<TestType> out(s.batch, s.queries, s.heads, s.value_dim);
  fovea::streaming(fovea::bthd(q), fovea::bthd(k), fovea::bthd(v), fovea::bthd(out), {.window = 9, .sink_tokens = 3});
  CHECK(same_bits(swapped(out), stream(x, {.window = 9, .sink_tokens = 3}).out));
}

TEMPLATE_TEST_CASE("constant values stay constant under streaming", "[sink]", float, double) {
  auto x = gaussian<TestType>({1, 4, 2, 80, 90, 16, 8});
  x.v.setConstant(TestType(3));
  const auto got = stream(x, {.window = 9, .sink_tokens = 3});
  for (Index n = 0; n < got.out.size(); ++n)
    REQUIRE(std::abs(double(got.out.data()[n]) - 3) < 64 * double(epsilon<TestType>));
}

TEST_CASE("NaN in a key and its value spoils the queries that see it and no other", "[sink]") {
  for (const Index spoiled : {1, 50}) {
    auto x = gaussian<float>({1, 1, 1, 100, 100, 8, 6});
    row(x.k, 0, 0, spoiled)[3] = not_a_number<float>;
    std::fill_n(row(x.v, 0, 0, spoiled), 6, not_a_number<float>);
    const auto got = stream(x, {.window = 10, .sink_tokens = 3});
    for (Index i = 0; i < 100; ++i) {
      INFO("key " << spoiled << " query " << i);
      REQUIRE(std::isnan(row(got.out, 0, 0, i)[0]) == (i >= spoiled && (spoiled < 3 || i < spoiled + 10)));
    }
  }
}

TEST_CASE("queries before the first key get zero under streaming", "[sink]") {
  const auto x = gaussian<float>({1, 2, 2, 70, 40, 8, 6});
  const auto got = stream(x, {.window = 9, .sink_tokens = 2});
  for (Index h = 0; h < 2; ++h) {
    CHECK(all_zero(row(got.out, 0, h, 0), 30 * 6));
    CHECK(got.log_sum(0, h, 29) == -infinity<float>);
    CHECK(got.log_sum(0, h, 30) > -infinity<float>);
  }
}

TEST_CASE("no queries, no keys and no batch are legal under streaming", "[sink]") {
  for (const Sizes& s : {Sizes{0, 2, 2, 5, 5, 8, 6}, Sizes{1, 2, 2, 0, 5, 8, 6}, Sizes{1, 2, 2, 5, 0, 8, 6}}) {
    const auto got = stream(gaussian<float>(s), {.window = 1, .sink_tokens = 1});
    CHECK(all_zero(got.out.data(), got.out.size()));
  }
}

TEST_CASE("what streaming refuses leaves the output untouched", "[sink]") {
  const auto x = gaussian<float>({1, 4, 2, 50, 70, 8, 6});
  auto got = blank<float>(x.sizes());
  const auto said = [&](const StreamingOptions& o) {
    return support::refusal([&] { fovea::streaming(x.q, x.k, x.v, got.both(), o); });
  };
  CHECK(said({}) == "fovea::streaming: window must be positive, got 0");
  CHECK(said({.window = -1}) == "fovea::streaming: window must be positive, got -1");
  CHECK(said({.window = 3, .sink_tokens = -2}) == "fovea::streaming: sink_tokens must not be negative, got -2");
  CHECK(said({.window = 3, .scale = infinity<double>}) == "fovea::streaming: the scale must be finite, got inf");
  CHECK(said({.window = 3, .rotary = {.rotated = 3}}) ==
        "fovea::streaming: the rotated channels must be even and at most the width 8, got 3");
  CHECK(said({.window = 3, .rotary = {.base = 0}}) == "fovea::streaming: the base must be positive and finite, got 0");
  CHECK(all_nan(got.out.data(), got.out.size()));
  CHECK(all_nan(got.log_sum.data(), got.log_sum.size()));
}
