// Rolling caches against a list from which the oldest token leaves.
#include <fovea/cache/rolling_cache.hpp>

#include <deque>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/prefix.hpp>
#include <fovea/parts/mask/window.hpp>
#include <vector>

#include "support/attend.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::softmax;
using fovea::Span;
using fovea::cache::RollingOptions;
using support::refusal;
namespace kv = fovea::kv;
namespace mask = fovea::mask;

namespace {

constexpr Index heads = 3, key_dim = 4, value_dim = 2;

RollingOptions small(Index window, Index sink_tokens, Index spare = 0) {
  return {heads, key_dim, value_dim, window, sink_tokens, spare};
}

// Tokens [first, last) of a sequence whose numbers say where they stand; exact in all storage types.
template <class T = double>
Tensor3<T> numbered(Index first, Index last, Index dim) {
  Tensor3<T> x(heads, last - first, dim);
  for (Index h = 0; h < heads; ++h) {
    for (Index t = first; t < last; ++t) {
      for (Index d = 0; d < dim; ++d) x(h, t - first, d) = T(h * 64 + t % 60);
    }
  }
  return x;
}

template <class Cache>
void append(Cache& cache, Index first, Index last) {
  cache.append(numbered(first, last, key_dim), numbered<float>(first, last, value_dim));
}

std::deque<Index> kept(Index seen, Index window, Index sinks) {
  std::deque<Index> tokens;
  for (Index t = 0; t < seen; ++t) {
    tokens.push_back(t);
    if (Index(tokens.size()) > sinks + window) tokens.erase(tokens.begin() + sinks);
  }
  return tokens;
}

// Whether a source holds these tokens in this order.
template <class Source>
bool holds(const Source& source, const std::deque<Index>& tokens) {
  if (source.length(0) != Index(tokens.size()) || source.batch() != 1 || source.kv_heads() != heads) return false;
  bool good = true;
  for (Index h = 0; h < heads; ++h) {
    const auto same = [&](Span part, const auto& run) {
      for (Index j = part.first; j < part.last; ++j) {
        for (Index d = 0; d < run.dim; ++d)
          good = good && double(run[j - part.first][d]) == double(h * 64 + tokens[std::size_t(j)] % 60);
      }
    };
    source.each_keys(0, h, {0, source.length(0)}, same);
    source.each_values(0, h, {0, source.length(0)}, same);
  }
  return good;
}

template <class Cache>
bool holds(const Cache& cache, Index seen) {
  const auto tokens = kept(seen, cache.options().window, cache.options().sink_tokens);
  return cache.seen() == seen && cache.length() == Index(tokens.size()) && holds(cache.source(), tokens);
}

}  // namespace

TEMPLATE_TEST_CASE("a rolling cache holds the first tokens and the last ones, one by one or many at a time", "[cache]",
                   double, float, Eigen::half, Eigen::bfloat16) {
  for (const Index window : {1, 3, 5}) {
    for (const Index sinks : {0, 1, 4}) {
      for (const Index spare : {0, 2}) {
        for (const Index step : {1, 2, 7, 40}) {
          fovea::cache::Rolling<TestType> cache(small(window, sinks, spare));
          CAPTURE(window, sinks, spare, step);
          CHECK(holds(cache, 0));
          for (Index seen = 0; seen < 25; seen += step) {
            append(cache, seen, seen + step);
            CHECK(holds(cache, seen + step));
          }
        }
      }
    }
  }
}

TEST_CASE("tokens are taken back as long as what they overwrote is not wanted", "[cache]") {
  for (const Index spare : {0, 1, 3}) {
    for (const Index sinks : {0, 2}) {
      for (Index seen = 0; seen < 16; ++seen) {
        for (Index left = 0; left <= seen; ++left) {
          fovea::cache::Rolling<float> cache(small(4, sinks, spare));
          append(cache, 0, seen);
          CAPTURE(spare, sinks, seen, left);
          // The ring holds the last 4 + spare tokens behind the sinks, the window wants the last 4 of those that stay.
          const bool there = left <= sinks || std::max(left - 4, sinks) >= seen - 4 - spare;
          const auto said = refusal([&] { cache.truncate(left); });
          CHECK((said == "accepted") == there);
          CHECK(holds(cache, there ? left : seen));
          append(cache, cache.seen(), cache.seen() + 3);
          CHECK(holds(cache, cache.seen()));
        }
      }
    }
  }
}

TEST_CASE("what was taken back is not taken for what is there", "[cache]") {
  fovea::cache::Rolling<float> cache(small(4, 1, 2));
  append(cache, 0, 20);
  cache.truncate(18);
  CHECK(refusal([&] { cache.truncate(17); }) ==
        "fovea::cache::Rolling::truncate: tokens that would come back are overwritten, at least 18 must stay, got 17");
  append(cache, 18, 19);
  cache.truncate(18);
  CHECK(holds(cache, 18));
  CHECK(refusal([&] { cache.truncate(17); }) != "accepted");
  CHECK(refusal([&] { cache.truncate(19); }) ==
        "fovea::cache::Rolling::truncate: the tokens that stay must be between 0 and 18, got 19");
  append(cache, 18, 21);
  cache.truncate(19);
  CHECK(holds(cache, 19));
  cache.clear();
  CHECK(holds(cache, 0));
  append(cache, 0, 3);
  cache.truncate(2);
  CHECK(holds(cache, 2));
}

TEST_CASE("tokens in front of the window can be asked for where there are spare slots", "[cache]") {
  fovea::cache::Rolling<float> cache(small(4, 1, 3));
  append(cache, 0, 3);
  CHECK(holds(cache.source(3), kept(3, 7, 1)));
  append(cache, 3, 30);
  for (Index more = 0; more <= 3; ++more) CHECK(holds(cache.source(more), kept(30, 4 + more, 1)));
  CHECK(refusal([&] { cache.source(4); }) ==
        "fovea::cache::Rolling::source: the tokens in front of the window must be between 0 and 3, got 4");
  cache.truncate(28);
  CHECK(holds(cache.source(1), kept(28, 5, 1)));
  CHECK(refusal([&] { cache.source(2); }) ==
        "fovea::cache::Rolling::source: tokens in front of the window are overwritten, there are 1, got 2");
}

TEST_CASE("a fork and a move of a rolling cache go their own ways", "[cache]") {
  fovea::cache::Rolling<float, double> cache(small(3, 1));
  append(cache, 0, 5);
  auto other = cache.fork();
  append(other, 5, 6);
  CHECK(holds(cache, 5));
  CHECK(holds(other, 6));
  auto third = std::move(other);
  CHECK(holds(third, 6));
  CHECK(other.length() == 0);
  CHECK(refusal([&] { append(other, 0, 1); }) == "fovea::cache::Rolling::append: the cache was moved from");
  third = std::move(cache);
  CHECK(holds(third, 5));
}

TEST_CASE("attention from a rolling cache is a sliding window with sink tokens, in pieces as well", "[cache]") {
  const Index window = 100, sinks = 3, all = 700;
  const auto x = gaussian<float>({1, 4, 2, all, all, 16, 8});
  const auto seen = mask::causal() & (mask::window(window) | mask::prefix(sinks));
  Model<float> model;
  model.visible = [&](fovea::Site s) { return s.key <= s.query && (s.query - s.key < window || s.key < sinks); };
  const auto part = [](const Tensor4<float>& from, Index first, Index last) {
    Tensor4<float> to(1, from.dimension(1), last - first, from.dimension(3));
    for (Index h = 0; h < from.dimension(1); ++h)
      std::copy_n(row(from, 0, h, first), (last - first) * from.dimension(3), row(to, 0, h, 0));
    return to;
  };
  fovea::cache::Rolling<float> cache({2, 16, 8, window, sinks, 29});
  auto got = blank<float>(x.sizes());
  for (Index first = 0, n = 1; first < all; first += n) {
    n = std::min(first % 7 == 0 ? Index{30} : Index{1}, all - first);
    const auto q = part(x.q, first, first + n);
    cache.append(part(x.k, first, first + n), part(x.v, first, first + n));
    auto some = blank<float>({1, 4, 2, n, 1, 16, 8});
    fovea::attend(q, cache.source(n - 1), some.both(), softmax().mask(seen));
    for (Index h = 0; h < 4; ++h) {
      std::copy_n(row(some.out, 0, h, 0), n * 8, row(got.out, 0, h, first));
      std::copy_n(&some.log_sum(0, h, 0), n, &got.log_sum(0, h, first));
    }
  }
  CHECK(is_exact(got, x, model));
}

TEST_CASE("a rolling cache refuses what does not fit and stays as it was", "[cache]") {
  const auto made = [](const RollingOptions& options) {
    return refusal([&] { fovea::cache::Rolling<float> cache(options); });
  };
  CHECK(made({1, 2, 2}) == "fovea::cache::Rolling: window must be between 1 and 1099511627776, got 0");
  CHECK(made({1, 2, 2, 4, -1}) == "fovea::cache::Rolling: sink_tokens must be between 0 and 1099511627776, got -1");
  CHECK(made({1, 2, 2, 4, 0, -1}) == "fovea::cache::Rolling: spare must be between 0 and 1099511627776, got -1");
  CHECK(made({0, 2, 2, 4}) == "fovea::cache::Rolling: kv_heads must be between 1 and 1048576, got 0");
  CHECK(made({1 << 20, 1 << 20, 1, Index{1} << 40}) ==
        "fovea::cache::Rolling: there is no room for 1099511627776 tokens");
  fovea::cache::Rolling<float> cache({2, 4, 2, 3});
  const auto append = [&](Index kv_heads, Index n, Index dim, Index values, Index width) {
    Tensor3<float> k(kv_heads, n, dim), v(kv_heads, values, width);
    k.setZero();
    v.setZero();
    return refusal([&] { cache.append(k, v); });
  };
  CHECK(append(2, 2, 4, 2, 2) == "accepted");
  CHECK(append(1, 1, 4, 1, 2) ==
        "fovea::cache::Rolling::append: k must have the heads and the width of the cache, wanted [2, n, 4], got "
        "[1, 1, 4]");
  CHECK(append(2, 1, 3, 1, 2) != "accepted");
  CHECK(append(2, 1, 4, 1, 5) != "accepted");
  CHECK(append(2, 2, 4, 1, 2) == "fovea::cache::Rolling::append: v must have the length of k, wanted 2, got 1");
  CHECK(cache.seen() == 2);
}
