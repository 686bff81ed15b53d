// Sink logits, softmax-off-by-one and an extra key and value: against the reference, golden numbers, identities and
// limits.
#include <fovea/dense/scaled_dot_product.hpp>
#include <fovea/exec/pool.hpp>
#include <fovea/parts/combine/sink.hpp>
#include <fovea/sink/sink_logits.hpp>

#include "sink/sink_logits.hpp"
#include "support/attention.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Alignment;
using fovea::Index;

namespace {

const std::vector<Sizes> shapes = {
    {1, 1, 1, 1, 1, 1, 1}, {2, 4, 2, 70, 70, 33, 15}, {1, 4, 4, 20, 150, 16, 33}, {1, 4, 1, 1, 300, 64, 64}};

std::vector<double> logits_for(Index heads) {
  const std::vector<double> some = {0.0, 1.5, -2.0, 6.0};
  return {some.begin(), some.begin() + heads};
}

// Keys that a query sees, as the reference asks for them.
struct Seen {
  bool causal = false;
  std::optional<Index> window = {};
  Alignment alignment = Alignment::bottom_right;

  fovea::reference::Visible rule(const Sizes& s) const {
    const Index offset = alignment == Alignment::bottom_right ? s.keys - s.queries : 0;
    return [*this, offset](Eigen::Index i, Eigen::Index j) {
      const Index p = i + offset;
      return !causal || (j <= p && (!window || p - j < *window));
    };
  }
};

const std::vector<Seen> all_seen = {{},
                                    {.causal = true},
                                    {.causal = true, .window = 9},
                                    {.causal = true, .window = 9, .alignment = Alignment::top_left}};

template <class T>
Matrix<Exact<T>> exact(const Tensor4<T>& x, Index b, Index h) {
  return head(x, b, h).template cast<Exact<T>>();
}

template <class T>
fovea::SinkLogitsOptions options(const Inputs<T>& x, const Seen& seen = {}) {
  return {.sink_logits = logits_for(x.sizes().heads),
          .alignment = seen.alignment,
          .causal = seen.causal,
          .window = seen.window};
}

// An extra key and value for each head.
template <class T>
struct Extra {
  Matrix<T> key, value;
};

template <class T>
Extra<T> extra_for(const Sizes& s, Index rows) {
  Extra<T> x{Matrix<T>(rows, s.dim), Matrix<T>(rows, s.value_dim)};
  fill_gaussian(x.key, 101), fill_gaussian(x.value, 102);
  return x;
}

template <class T>
Result<T> with_logits(const Inputs<T>& x, const fovea::SinkLogitsOptions& o) {
  auto got = blank<T>(x.sizes());
  fovea::sink_logits(x.q, x.k, x.v, got.both(), o);
  return got;
}

template <class T>
Result<T> with_key(const Inputs<T>& x, const Extra<T>& extra, const fovea::SinkKeyValueOptions& o = {}) {
  auto got = blank<T>(x.sizes());
  fovea::sink_key_value(x.q, x.k, x.v, extra.key, extra.value, got.both(), o);
  return got;
}

template <class T>
Result<T> plain(const Inputs<T>& x, bool causal = false) {
  auto got = blank<T>(x.sizes());
  fovea::scaled_dot_product(x.q, x.k, x.v, got.both(), {.causal = causal});
  return got;
}

// [B,H,T,D] as [B,T,H,D] and back.
template <class T>
Tensor4<T> swapped(const Tensor4<T>& x) {
  Tensor4<T> y(x.dimension(0), x.dimension(2), x.dimension(1), x.dimension(3));
  for (Index b = 0; b < x.dimension(0); ++b) {
    for (Index m = 0; m < x.dimension(1); ++m) {
      for (Index n = 0; n < x.dimension(2); ++n) std::copy_n(row(x, b, m, n), x.dimension(3), row(y, b, n, m));
    }
  }
  return y;
}

// The fixture of the golden numbers, [4 x 3], [4 x 3], [4 x 2].
template <class T>
Inputs<T> fixture() {
  const auto fill = [](auto& x, int s, int columns) {
    for (int n = 0; n < 4 * columns; ++n) {
      const int a = n / columns, b = n % columns;
      x.data()[n] = T((7 * s + 5 * a + 3 * b + 2 * a * b) % 13 - 6) / 4;
    }
  };
  Inputs<T> x{Tensor4<T>(1, 1, 4, 3), Tensor4<T>(1, 1, 4, 3), Tensor4<T>(1, 1, 4, 2)};
  fill(x.q, 1, 3), fill(x.k, 2, 3), fill(x.v, 3, 2);
  return x;
}

}  // namespace

TEMPLATE_TEST_CASE("sink logits equal the reference", "[sink]", float, double) {
  using Real = Exact<TestType>;
  for (const Sizes& s : shapes) {
    for (const Seen& seen : all_seen) {
      const auto x = gaussian<TestType>(s);
      const auto got = with_logits(x, options(x, seen));
      Tensor4<Real> wanted(got.out.dimensions());
      for (Index b = 0; b < s.batch; ++b) {
        for (Index h = 0; h < s.heads; ++h) {
          const Index g = h * s.kv_heads / s.heads;
          const auto one = fovea::reference::sink_logits<Real>(exact(x.q, b, h), exact(x.k, b, g), exact(x.v, b, g),
                                                               1 / std::sqrt(Real(s.dim)),
                                                               Real(logits_for(s.heads)[std::size_t(h)]), seen.rule(s));
          std::copy_n(one.data(), one.size(), row(wanted, b, h, 0));
        }
      }
      INFO(s << " causal " << seen.causal << " window " << seen.window.value_or(0));
      CHECK(relative_rms(got.out, wanted) < 8 * double(epsilon<TestType>));
    }
  }
}

TEMPLATE_TEST_CASE("an extra key and value equal the reference", "[sink]", float, double) {
  using Real = Exact<TestType>;
  for (const Sizes& s : shapes) {
    for (const Seen& seen : all_seen) {
      for (const Index rows : {Index{1}, s.heads}) {
        const auto x = gaussian<TestType>(s);
        const auto extra = extra_for<TestType>(s, rows);
        const auto got =
            with_key(x, extra, {.alignment = seen.alignment, .causal = seen.causal, .window = seen.window});
        Tensor4<Real> wanted(got.out.dimensions());
        for (Index b = 0; b < s.batch; ++b) {
          for (Index h = 0; h < s.heads; ++h) {
            const Index g = h * s.kv_heads / s.heads, of = rows == 1 ? 0 : h;
            const auto one = fovea::reference::sink_key_value<Real>(
                exact(x.q, b, h), exact(x.k, b, g), exact(x.v, b, g), extra.key.row(of).template cast<Real>(),
                extra.value.row(of).template cast<Real>(), 1 / std::sqrt(Real(s.dim)), seen.rule(s));
            std::copy_n(one.data(), one.size(), row(wanted, b, h, 0));
          }
        }
        INFO(s << " causal " << seen.causal << " window " << seen.window.value_or(0) << " rows " << rows);
        CHECK(relative_rms(got.out, wanted) < 8 * double(epsilon<TestType>));
      }
    }
  }
}

TEMPLATE_TEST_CASE("golden numbers of softmax-off-by-one, causal", "[sink]", float, double) {
  const auto got = with_logits(fixture<TestType>(), {.off_by_one = true, .causal = true});
  const std::vector<double> wanted = {0.167506,  0.418765, -0.277155, 0.216071,
                                      -0.724883, 0.235935, -0.412461, 0.302407};
  for (std::size_t n = 0; n < wanted.size(); ++n) CHECK(std::abs(double(got.out.data()[n]) - wanted[n]) < 1e-6);
}

TEST_CASE("golden numbers of a zero key with a zero value are those of softmax-off-by-one", "[sink]") {
  const Extra<double> extra{Matrix<double>::Zero(1, 3), Matrix<double>::Zero(1, 2)};
  const auto got = with_key(fixture<double>(), extra, {.causal = true});
  const std::vector<double> wanted = {0.167506,  0.418765, -0.277155, 0.216071,
                                      -0.724883, 0.235935, -0.412461, 0.302407};
  for (std::size_t n = 0; n < wanted.size(); ++n) CHECK(std::abs(got.out.data()[n] - wanted[n]) < 1e-6);
}

TEST_CASE("two keys of score zero and a sink of zero weigh a third each", "[sink]") {
  Inputs<double> x{Tensor4<double>(1, 1, 1, 2), Tensor4<double>(1, 1, 2, 2), Tensor4<double>(1, 1, 2, 2)};
  x.q.setZero(), x.k.setConstant(1);
  x.v.setValues({{{{1, 0}, {0, 1}}}});
  const auto got = with_logits(x, {.sink_logits = {0}});
  CHECK(std::abs(got.out(0, 0, 0, 0) - 1 / 3.0) < 1e-15);
  CHECK(std::abs(got.out(0, 0, 0, 1) - 1 / 3.0) < 1e-15);
}

TEMPLATE_TEST_CASE("off by one is a logit of zero for every head, bit for bit", "[sink]", float, double) {
  for (const Sizes& s : shapes) {
    const auto x = gaussian<TestType>(s);
    CHECK(same_bits(with_logits(x, {.off_by_one = true}),
                    with_logits(x, {.sink_logits = std::vector<double>(std::size_t(s.heads), 0.0)})));
  }
}

TEMPLATE_TEST_CASE("sinks added to a plain result equal those in the call", "[sink]", float, double) {
  for (const Sizes& s : shapes) {
    for (const bool causal : {false, true}) {
      INFO(s << " causal " << causal);
      const auto x = gaussian<TestType>(s);
      auto added = plain(x, causal);
      fovea::combine::add_sink(added.both(), logits_for(s.heads));
      const auto got = with_logits(x, options(x, {.causal = causal}));
      CHECK(relative_rms(got.out, added.out) < 8 * double(epsilon<TestType>));
      CHECK(same_bits(got.log_sum, added.log_sum));
    }
  }
}

TEMPLATE_TEST_CASE("logits of -infinity are plain attention, bit for bit", "[sink]", float, double) {
  for (const Sizes& s : shapes) {
    const auto x = gaussian<TestType>(s);
    const std::vector<double> none(std::size_t(s.heads), -infinity<double>);
    CHECK(same_bits(with_logits(x, {.sink_logits = none, .causal = true}), plain(x, true)));
  }
}

TEMPLATE_TEST_CASE("a zero key with a zero value is softmax-off-by-one", "[sink]", float, double) {
  for (const Sizes& s : shapes) {
    const auto x = gaussian<TestType>(s);
    const Extra<TestType> zero{Matrix<TestType>::Zero(1, s.dim), Matrix<TestType>::Zero(1, s.value_dim)};
    CHECK(relative_rms(with_key(x, zero).out, with_logits(x, {.off_by_one = true}).out) <
          8 * double(epsilon<TestType>));
  }
}

TEMPLATE_TEST_CASE("weights sum to sigmoid(log_sum - logit), with an extra key to one", "[sink]", float, double) {
  for (const Sizes& s : shapes) {
    auto x = gaussian<TestType>(s);
    x.v.setConstant(TestType(1));
    const auto got = with_logits(x, options(x));
    auto extra = extra_for<TestType>(s, s.heads);
    extra.value.setConstant(TestType(1));
    const auto key = with_key(x, extra);
    for (Index n = 0; n < got.out.size(); ++n) {
      const double logit = logits_for(s.heads)[std::size_t(n / (s.value_dim * s.queries) % s.heads)];
      const double share = 1 / (1 + std::exp(logit - double(got.log_sum.data()[n / s.value_dim])));
      REQUIRE(std::abs(double(got.out.data()[n]) - share) < 32 * double(epsilon<TestType>));
      REQUIRE(std::abs(double(key.out.data()[n]) - 1) < 32 * double(epsilon<TestType>));
    }
  }
}

TEMPLATE_TEST_CASE("log-sums count an extra key and no logit", "[sink]", float, double) {
  const Sizes s{1, 2, 2, 30, 40, 16, 8};
  const auto x = gaussian<TestType>(s);
  CHECK(same_bits(with_logits(x, options(x)).log_sum, plain(x).log_sum));
  const Extra<TestType> zero{Matrix<TestType>::Zero(1, s.dim), Matrix<TestType>::Zero(1, s.value_dim)};
  auto wanted = plain(x).log_sum;
  for (Index n = 0; n < wanted.size(); ++n)
    wanted.data()[n] = TestType(std::log(std::exp(double(wanted.data()[n])) + 1));
  CHECK(log_sum_distance(with_key(x, zero).log_sum, wanted) < 8 * double(epsilon<TestType>));
}

TEMPLATE_TEST_CASE("an extra key is the same whether log-sums are asked for or not", "[sink]", float, double) {
  const Sizes s{2, 4, 2, 30, 40, 17, 15};
  const auto x = gaussian<TestType>(s);
  const auto extra = extra_for<TestType>(s, s.heads);
  auto alone = blank<TestType>(s);
  fovea::sink_key_value(x.q, x.k, x.v, extra.key, extra.value, alone.out);
  CHECK(same_bits(alone.out, with_key(x, extra).out));
}

TEST_CASE("queries that see no key: zero with a logit, the extra value with an extra key", "[sink]") {
  for (const Sizes& s : {Sizes{1, 2, 1, 70, 5, 8, 6}, Sizes{1, 2, 1, 3, 0, 8, 6}}) {
    const auto x = gaussian<float>(s);
    const auto extra = extra_for<float>(s, 2);
    const auto got = with_logits(x, options(x, {.causal = true}));
    const auto key = with_key(x, extra, {.causal = true});
    for (Index h = 0; h < 2; ++h) {
      for (Index i = 0; i < s.queries - s.keys; ++i) {
        CHECK(all_zero(row(got.out, 0, h, i), 6));
        CHECK(got.log_sum(0, h, i) == -infinity<float>);
        CHECK(std::equal(row(key.out, 0, h, i), row(key.out, 0, h, i) + 6, extra.value.row(h).data()));
      }
    }
  }
}

TEMPLATE_TEST_CASE("permuted heads permute with their sinks, bit for bit", "[sink]", float, double) {
  const Sizes s{1, 4, 4, 40, 50, 16, 8};
  const auto x = gaussian<TestType>(s);
  const auto extra = extra_for<TestType>(s, 4);
  const std::vector<Index> order = {2, 0, 3, 1};
  auto y = x;
  auto moved = extra;
  auto logits = logits_for(4);
  for (Index h = 0; h < 4; ++h) {
    const Index from = order[std::size_t(h)];
    std::copy_n(row(x.q, 0, from, 0), s.queries * s.dim, row(y.q, 0, h, 0));
    std::copy_n(row(x.k, 0, from, 0), s.keys * s.dim, row(y.k, 0, h, 0));
    std::copy_n(row(x.v, 0, from, 0), s.keys * s.value_dim, row(y.v, 0, h, 0));
    moved.key.row(h) = extra.key.row(from), moved.value.row(h) = extra.value.row(from);
    logits[std::size_t(h)] = logits_for(4)[std::size_t(from)];
  }
  const auto a = with_logits(x, options(x)), b = with_logits(y, {.sink_logits = logits});
  const auto c = with_key(x, extra), d = with_key(y, moved);
  for (Index h = 0; h < 4; ++h) {
    for (Index i = 0; i < s.queries; ++i) {
      const Index from = order[std::size_t(h)];
      REQUIRE(std::equal(row(b.out, 0, h, i), row(b.out, 0, h, i) + s.value_dim, row(a.out, 0, from, i)));
      REQUIRE(std::equal(row(d.out, 0, h, i), row(d.out, 0, h, i) + s.value_dim, row(c.out, 0, from, i)));
    }
  }
}

TEMPLATE_TEST_CASE("sinks on a pool are the same, bit for bit", "[sink]", float, double) {
  const fovea::exec::Pool pool(3);
  for (const Sizes& s : {Sizes{2, 4, 2, 170, 170, 33, 15}, Sizes{1, 4, 2, 1, 1500, 16, 16}}) {
    const auto x = gaussian<TestType>(s);
    const auto extra = extra_for<TestType>(s, s.heads);
    auto a = blank<TestType>(s), b = blank<TestType>(s);
    fovea::sink_logits(x.q, x.k, x.v, a.both(), options(x, {.causal = true}), pool);
    fovea::sink_key_value(x.q, x.k, x.v, extra.key, extra.value, b.both(), {.causal = true}, pool);
    CHECK(same_bits(a, with_logits(x, options(x, {.causal = true}))));
    CHECK(same_bits(b, with_key(x, extra, {.causal = true})));
  }
}

TEMPLATE_TEST_CASE("strided arrays give what copies give, bit for bit", "[sink]", float, double) {
  const Sizes s{2, 4, 2, 50, 60, 16, 8};
  const auto x = gaussian<TestType>(s);
  const auto q = swapped(x.q), k = swapped(x.k), v = swapped(x.v);
  Tensor4<TestType> out(s.batch, s.queries, s.heads, s.value_dim);
  const auto extra = extra_for<TestType>(s, s.heads);
  Matrix<TestType> wide(s.heads, s.dim + 5);
  wide.setConstant(not_a_number<TestType>);
  wide.middleCols(2, s.dim) = extra.key;

  fovea::sink_logits(fovea::bthd(q), fovea::bthd(k), fovea::bthd(v), fovea::bthd(out), options(x));
  CHECK(same_bits(swapped(out), with_logits(x, options(x)).out));
  fovea::sink_key_value(fovea::bthd(q), fovea::bthd(k), fovea::bthd(v), wide.middleCols(2, s.dim), extra.value,
                        fovea::bthd(out));
  CHECK(same_bits(swapped(out), with_key(x, extra).out));
}

TEST_CASE("what sink_logits refuses leaves the output untouched", "[sink]") {
  const auto x = gaussian<float>({1, 4, 2, 5, 7, 8, 6});
  auto got = blank<float>(x.sizes());
  const auto said = [&](const fovea::SinkLogitsOptions& o) {
    return support::refusal([&] { fovea::sink_logits(x.q, x.k, x.v, got.both(), o); });
  };
  const std::vector<double> good = {1, 2, 3, 4};
  CHECK(said({}) == "fovea::sink_logits: sink logits need one number for each head, wanted 4, got 0");
  CHECK(said({.sink_logits = {1, 2}}) ==
        "fovea::sink_logits: sink logits need one number for each head, wanted 4, got 2");
  CHECK(said({.sink_logits = {1, 2, 3, not_a_number<double>}}) ==
        "fovea::sink_logits: sink logits must be finite or -infinity, got nan");
  CHECK(said({.sink_logits = {1, 2, 3, infinity<double>}}) ==
        "fovea::sink_logits: sink logits must be finite or -infinity, got inf");
  CHECK(said({.sink_logits = good, .off_by_one = true}) == "fovea::sink_logits: off_by_one has no sink logits, got 4");
  CHECK(said({.sink_logits = good, .causal = true, .window = 0}) ==
        "fovea::sink_logits: the window must be positive, got 0");
  CHECK(said({.sink_logits = good, .window = 3}) == "fovea::sink_logits: a window needs causal attention");
  CHECK(said({.sink_logits = good, .scale = infinity<double>}) ==
        "fovea::sink_logits: the scale must be finite, got inf");
  CHECK(all_nan(got.out.data(), got.out.size()));
  CHECK(all_nan(got.log_sum.data(), got.log_sum.size()));
}

TEST_CASE("what sink_key_value refuses leaves the output untouched", "[sink]") {
  const Sizes s{1, 4, 2, 5, 7, 8, 6};
  const auto x = gaussian<float>(s);
  auto got = blank<float>(s);
  const auto said = [&](const Extra<float>& e, const fovea::SinkKeyValueOptions& o = {}) {
    return support::refusal([&] { fovea::sink_key_value(x.q, x.k, x.v, e.key, e.value, got.both(), o); });
  };
  const auto good = extra_for<float>(s, 4);
  CHECK(said(extra_for<float>(s, 2)) ==
        "fovea::sink_key_value: the extra key must have a row for each query head or one for all, wanted [4, 8], got "
        "[2, 8]");
  CHECK(said({good.key, good.key}) ==
        "fovea::sink_key_value: the extra value must have a row for each query head or one for all, wanted [4, 6], got "
        "[4, 8]");
  CHECK(said(good, {.causal = true, .window = 0}) == "fovea::sink_key_value: the window must be positive, got 0");
  CHECK(said(good, {.window = 3}) == "fovea::sink_key_value: a window needs causal attention");
  CHECK(said(good, {.scale = infinity<double>}) == "fovea::sink_key_value: the scale must be finite, got inf");
  CHECK(all_nan(got.out.data(), got.out.size()));
  CHECK(all_nan(got.log_sum.data(), got.log_sum.size()));
}
