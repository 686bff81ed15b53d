#include <fovea/cache/contiguous.hpp>
#include <fovea/cache/paged.hpp>
#include <fovea/dense/cached_attention.hpp>
#include <fovea/exec/pool.hpp>
#include <fovea/parts/kv/quantized.hpp>

#include "dense/cached_attention.hpp"
#include "support/attend.hpp"

using namespace fovea::test;
using fovea::CachedAttentionOptions;
using fovea::Index;
namespace cache = fovea::cache;

namespace {

// Tokens [first, last) of sequence b of x [B,G,M,D] as [G,n,D].
template <class T>
Tensor3<T> tokens(const Tensor4<T>& x, Index b, Index first, Index last) {
  Tensor3<T> some(x.dimension(1), last - first, x.dimension(3));
  for (Index h = 0; h < x.dimension(1); ++h)
    std::copy_n(row(x, b, h, first), some.dimension(1) * some.dimension(2), &some(h, 0, 0));
  return some;
}

// Caches of the sequences of x with lengths of their own.
template <class K, class V>
std::vector<cache::Contiguous<K, V>> filled(const Inputs<float>& x, const std::vector<Index>& lengths) {
  const Sizes s = x.sizes();
  std::vector<cache::Contiguous<K, V>> caches;
  for (Index b = 0; b < s.batch; ++b) {
    caches.emplace_back(cache::ContiguousOptions{.kv_heads = s.kv_heads, .key_dim = s.dim, .value_dim = s.value_dim});
    const Index length = lengths[std::size_t(b)];
    caches.back().append(tokens(x.k, b, 0, length), tokens(x.v, b, 0, length));
  }
  return caches;
}

// What a cache stands for, of one kv head.
template <class Source>
std::pair<Matrix<double>, Matrix<double>> held(const Source& source, Index head) {
  const Index length = source.length(0);
  Matrix<double> k(length, source.key_dim()), v(length, source.value_dim());
  source.each_keys(0, head, {0, length}, [&](fovea::Span part, const auto& run) {
    run.read(0, part.size(), k.data() + part.first * k.cols(), k.cols());
  });
  source.each_values(0, head, {0, length}, [&](fovea::Span part, const auto& run) {
    run.read(0, part.size(), v.data() + part.first * v.cols(), v.cols());
  });
  return {k, v};
}

// The distance to the reference on the numbers that the caches stand for, and that of the same reference in float.
struct Distances {
  double kernel, naive;
};

template <class Caches>
Distances distance_to_reference(const Inputs<float>& x, const Caches& caches, const CachedAttentionOptions& options) {
  const Sizes s = x.sizes();
  auto got = blank<float>(s);
  fovea::cached_attention(x.q, caches, got.both(), options);
  double kernel = 0, naive = 0, size = 0;
  for (Index b = 0; b < s.batch; ++b) {
    for (Index h = 0; h < s.heads; ++h) {
      const auto [k, v] = held(caches[std::size_t(b)].source(), h * s.kv_heads / s.heads);
      const Matrix<double> q = head(x.q, b, h).template cast<double>();
      const Index window = options.window.value_or(s.keys + s.queries);
      const double scale = 1 / std::sqrt(double(s.dim));
      const auto exact = fovea::reference::cached_attention<double>(q, k, v, scale, window, options.sink_tokens).out;
      const auto plain =
          fovea::reference::cached_attention<float>(q.template cast<float>(), k.template cast<float>(),
                                                    v.template cast<float>(), float(scale), window, options.sink_tokens)
              .out;
      kernel += (head(got.out, b, h).template cast<double>() - exact).squaredNorm();
      naive += (plain.template cast<double>() - exact).squaredNorm();
      size += exact.squaredNorm();
    }
  }
  return {std::sqrt(kernel / size), std::sqrt(naive / size)};
}

template <class K, class V>
void compare_with_reference() {
  for (const Sizes& s :
       {Sizes{3, 4, 2, 1, 700, 40, 24}, Sizes{2, 6, 1, 5, 200, 15, 33}, Sizes{1, 2, 2, 30, 190, 64, 64}}) {
    const auto x = gaussian<float>(s);
    std::vector<Index> lengths = {s.keys, s.keys / 3, 40};
    lengths.resize(std::size_t(s.batch));
    const auto caches = filled<K, V>(x, lengths);
    for (const CachedAttentionOptions& options :
         {CachedAttentionOptions{}, CachedAttentionOptions{.window = 37, .sink_tokens = 3},
          CachedAttentionOptions{.window = 100}}) {
      const Distances d = distance_to_reference(x, caches, options);
      INFO(s << " window " << options.window.value_or(0) << " kernel " << d.kernel << " plain loop " << d.naive);
      CHECK(d.kernel < 8 * double(epsilon<float>));
    }
  }
}

}  // namespace

TEST_CASE("cached attention equals the equation over what plain caches hold") {
  compare_with_reference<float, float>();
  compare_with_reference<Eigen::half, Eigen::bfloat16>();
}

TEST_CASE("cached attention equals the equation over what quantised caches stand for") {
  compare_with_reference<fovea::kv::Int8, fovea::kv::Int4>();
}

TEST_CASE("a batch of caches gets the bits of calls one by one, on any number of threads") {
  const Sizes s{3, 4, 2, 1, 1100, 32, 32};
  const auto x = gaussian<float>(s);
  const auto caches = filled<float, float>(x, {1100, 3, 600});
  std::vector<const cache::Contiguous<float>*> pointers;
  for (const auto& c : caches) pointers.push_back(&c);
  auto all = blank<float>(s), shared = blank<float>(s);
  fovea::cached_attention(x.q, caches, all.both());
  fovea::cached_attention(x.q, pointers, shared.both(), {}, fovea::exec::Pool(3));
  CHECK(std::equal(all.out.data(), all.out.data() + all.out.size(), shared.out.data()));
  for (Index b = 0; b < s.batch; ++b) {
    Tensor4<float> q(1, s.heads, 1, s.dim), out(1, s.heads, 1, s.value_dim);
    std::copy_n(row(x.q, b, 0, 0), q.size(), q.data());
    fovea::cached_attention(q, caches[std::size_t(b)], out);
    CHECK(std::equal(out.data(), out.data() + out.size(), row(all.out, b, 0, 0)));
  }
}

TEST_CASE("token by token gives what a prompt gives at once") {
  const Sizes s{1, 4, 2, 90, 90, 32, 32};
  const auto x = gaussian<float>(s);
  cache::Pool<float> pool({.kv_heads = 2, .key_dim = 32, .value_dim = 32, .page_tokens = 7});
  cache::Paged<float> whole(pool), grown(pool);
  whole.append(tokens(x.k, 0, 0, 90), tokens(x.v, 0, 0, 90));
  auto prompt = blank<float>(s);
  fovea::cached_attention(x.q, whole, prompt.both(), {.window = 20, .sink_tokens = 2});
  for (Index t = 0; t < 90; ++t) {
    grown.append(tokens(x.k, 0, t, t + 1), tokens(x.v, 0, t, t + 1));
    Tensor4<float> q(1, s.heads, 1, s.dim), out(1, s.heads, 1, s.value_dim), prefill = out;
    for (Index h = 0; h < s.heads; ++h) std::copy_n(row(x.q, 0, h, t), s.dim, row(q, 0, h, 0));
    fovea::cached_attention(q, grown, out, {.window = 20, .sink_tokens = 2});
    fovea::cached_attention(q, grown, prefill, {.window = 20, .sink_tokens = 2, .as_prefill = true});
    for (Index h = 0; h < s.heads; ++h) {
      const Eigen::Map<const Eigen::VectorXf> one(row(out, 0, h, 0), s.value_dim),
          all(row(prompt.out, 0, h, t), s.value_dim);
      CHECK((one - all).norm() <= 8 * epsilon<float> * all.norm());
      CHECK(std::equal(row(prefill, 0, h, 0), row(prefill, 0, h, 0) + s.value_dim, row(prompt.out, 0, h, t)));
    }
  }
}

TEST_CASE("illegal calls of cached attention are refused and leave the output alone") {
  const Sizes s{2, 4, 2, 1, 50, 16, 16};
  const auto x = gaussian<float>(s);
  const auto caches = filled<float, float>(x, {50, 20});
  auto got = blank<float>(s);
  const auto refused = [&](const auto& q, const auto& from, const CachedAttentionOptions& options) {
    CHECK_THROWS_AS(fovea::cached_attention(q, from, got.both(), options), fovea::ArgumentError);
    CHECK(std::isnan(got.out(0, 0, 0, 0)));
  };
  refused(x.q, caches, {.window = 0});
  refused(x.q, caches, {.window = 5, .sink_tokens = -1});
  refused(x.q, caches, {.sink_tokens = 4});
  refused(x.q, caches[0], {});                                       // one sequence for two queries
  refused(gaussian<float>({2, 4, 2, 1, 50, 17, 16}).q, caches, {});  // another width
  refused(gaussian<float>({2, 3, 1, 1, 50, 16, 16}).q, caches, {});  // three heads on two
}

TEST_CASE("no sequences and caches without tokens are legal") {
  const std::vector<cache::Contiguous<float>> none;
  auto nothing = blank<float>({0, 4, 2, 1, 0, 16, 8});
  fovea::cached_attention(Tensor4<float>(0, 4, 1, 16), none, nothing.both());

  const cache::Contiguous<float> empty({.kv_heads = 2, .key_dim = 16, .value_dim = 8});
  const auto x = gaussian<float>({1, 4, 2, 1, 1, 16, 8});
  auto got = blank<float>({1, 4, 2, 1, 1, 16, 8});
  fovea::cached_attention(x.q, empty, got.both());
  CHECK(std::all_of(got.out.data(), got.out.data() + got.out.size(), [](float y) { return y == 0; }));
  CHECK(got.log_sum(0, 3, 0) == -infinity<float>);
}
