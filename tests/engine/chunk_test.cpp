// Linear recipes that no method has, token by token and in chunks: features, divisors, and decays and writes combined.
#include <fovea/engine/chunk.hpp>
#include <fovea/engine/recur.hpp>
#include <fovea/exec/pool.hpp>
#include <fovea/parts/decay/per_channel.hpp>
#include <fovea/parts/decay/per_head.hpp>
#include <fovea/parts/write/delta.hpp>

#include "support/attention.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::linear;
using fovea::MatrixState;
using fovea::View;
namespace decay = fovea::decay;
namespace feature = fovea::feature;
namespace normalizer = fovea::normalizer;

namespace {

// phi(x) = (x_1^2, ..., x_D^2, 1, h, t) for queries, (..., 1, 0, 0) for keys: a width of its own, and it sees the row.
struct Squares {
  template <class T>
  struct Bound {
    Index dim;

    Index width() const { return dim + 3; }
    template <feature::Side side>
    void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, fovea::Row first) const {
      for (Index i = 0; i < count; ++i) {
        for (Index d = 0; d < dim; ++d) to[i * to_stride + d] = x[i * stride + d] * x[i * stride + d];
        const bool query = side == feature::Side::query;
        to[i * to_stride + dim] = 1;
        to[i * to_stride + dim + 1] = query ? T(first.head) : 0;
        to[i * to_stride + dim + 2] = query ? T(first.query + i) : 0;
      }
    }
  };

  template <class T>
  Bound<T> bind(const char*, const fovea::Shape&, Index dim) const {
    return {dim};
  }
};

template <class T>
struct Ran {
  Tensor4<T> out;
  MatrixState<T> state;
};

// chunk zero: token by token.
template <class T, class Recipe, class Exec = fovea::exec::Serial>
Ran<T> run(const Inputs<T>& x, const Recipe& recipe, Index chunk, const Exec& executor = {}) {
  Ran<T> ran{blank<T>(x.sizes()).out, {}};
  const auto problem = fovea::make_problem("f", x.q, x.k, x.v, ran.out);
  if (chunk == 0) {
    fovea::engine::recur(problem, &ran.state, recipe, executor);
  } else {
    fovea::engine::chunk(problem, &ran.state, recipe, chunk, executor);
  }
  return ran;
}

// Squares with a divisor, as weights.
Tensor4<long double> weights(const Inputs<double>& x, const normalizer::FeatureSum& division) {
  const Sizes s = x.sizes();
  Tensor4<long double> out(s.batch, s.heads, s.queries, s.value_dim);
  out.setZero();
  for (Index b = 0; b < s.batch; ++b) {
    for (Index h = 0; h < s.heads; ++h) {
      const Index g = h * s.kv_heads / s.heads;
      for (Index i = 0; i < s.queries; ++i) {
        long double all = 0;
        for (Index j = 0; j <= i; ++j) {
          long double w = 1;
          for (Index d = 0; d < s.dim; ++d) {
            const long double y = (long double)(x.q(b, h, i, d)) * (long double)(x.k(b, g, j, d));
            w += y * y;
          }
          all += w;
          for (Index e = 0; e < s.value_dim; ++e) out(b, h, i, e) += w * (long double)(x.v(b, g, j, e));
        }
        for (Index e = 0; e < s.value_dim; ++e) out(b, h, i, e) /= division.divisor(all);
      }
    }
  }
  return out;
}

template <class T>
bool same_state(const MatrixState<T>& a, const MatrixState<T>& b) {
  const auto x = a.view(), y = b.view();
  bool same = x.extents() == y.extents();
  for (Index n = 0; same && n < x.batch * x.heads * x.length; ++n) {
    const Index d = n % x.length, h = n / x.length % x.heads, batch = n / x.length / x.heads;
    same = std::memcmp(x.row(batch, h, d), y.row(batch, h, d), std::size_t(x.dim) * sizeof(T)) == 0;
  }
  return same;
}

}  // namespace

TEST_CASE("features and a divisor", "[engine]") {
  const auto x = gaussian<double>({2, 4, 2, 70, 70, 5, 16});
  for (const auto& division : {normalizer::sum_eps(0.25), normalizer::clamp(100)}) {
    const auto wanted = weights(x, division);
    const auto recipe = linear().feature(Squares{}).normalizer(division);
    for (const Index chunk : {0, 1, 17, 64, 100}) {
      const auto got = run(x, recipe, chunk);
      INFO("chunk " << chunk);
      CHECK(relative_rms(got.out, wanted) < 8 * epsilon<double>);
      CHECK(got.state.sums());
      CHECK(got.state.key_dim() == 8);
      double sum = 0;  // of the squares of the first channel
      for (Index j = 0; j < 70; ++j) sum += x.k(1, 1, j, 0) * x.k(1, 1, j, 0);
      CHECK(std::fabs(got.state(1, 1, 0, 16) - sum) < 1e-13 * sum);
      CHECK(got.state(1, 1, 5, 16) == 70);
    }
  }
}

TEST_CASE("weights of zero give zero", "[engine]") {
  auto x = gaussian<float>({1, 1, 1, 20, 20, 4, 3});
  x.q.setZero();
  const auto recipe = linear().normalizer(normalizer::sum_eps(0));
  for (const Index chunk : {0, 16}) CHECK(all_zero(run(x, recipe, chunk).out.data(), 60));
}

TEST_CASE("states with a divisor go on where they ended, by any number of threads", "[engine]") {
  const auto x = gaussian<float>({1, 2, 1, 64, 64, 8, 150});
  const auto recipe = linear(0.5).feature(Squares{}).decay(decay::per_head({-0.1})).normalizer(normalizer::sum_eps());
  const fovea::exec::Pool pool(3);
  for (const Index chunk : {0, 16}) {
    const auto whole = run(x, recipe, chunk);
    const auto shared = run(x, recipe, chunk, pool);
    CHECK(same_bits(shared.out, whole.out));
    CHECK(same_state(shared.state, whole.state));
  }
}

TEST_CASE("a constant decay and a decay by channel with delta writes are the same recurrence in chunks", "[engine]") {
  auto x = gaussian<double>({1, 2, 1, 90, 90, 12, 20}, 1, 0.3);
  x.k = x.k * 0.25;
  Tensor3<double> beta(1, 1, 90);
  Tensor4<double> gates(1, 1, 90, 12);
  beta.setConstant(0.75);
  gates.setConstant(-0.05);
  const auto by_head = linear().decay(decay::per_head({-0.05})).write(fovea::write::delta(beta));
  const auto by_channel = linear().decay(decay::per_channel(gates)).write(fovea::write::delta(beta));
  const auto wanted = run(x, by_head, 0);
  for (const Index chunk : {1, 5, 16, 64}) {
    CHECK(relative_rms(run(x, by_head, chunk).out, wanted.out) < 32 * epsilon<double>);
    CHECK(relative_rms(run(x, by_channel, chunk).out, wanted.out) < 32 * epsilon<double>);
  }
}

TEST_CASE("linear recipes are refused what does not fit", "[engine]") {
  const auto x = gaussian<float>({1, 1, 1, 4, 4, 4, 4});
  CHECK(support::refusal([&] { run(x, linear(infinity<double>), 4); }) == "f: scale must be finite");
  CHECK(support::refusal([&] { run(x, linear().normalizer(normalizer::sum_eps(-1)), 4); }) ==
        "f: the bound of the divisor must be finite and not negative, got -1");
  auto both = blank<float>(x.sizes());
  CHECK(support::refusal([&] {
          fovea::engine::recur(fovea::make_problem("f", x.q, x.k, x.v, both.both()), nullptr, linear());
        }) == "f: without a softmax there are no log-sums to give");
  CHECK(support::refusal([&] { run(x, linear(), -4); }) == "f: chunk must be positive, got -4");
}
