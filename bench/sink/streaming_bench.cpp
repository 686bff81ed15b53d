// Streaming attention with rotary positions. The check is its own: plain attention over the cache of a token.
#include <fovea/sink/streaming.hpp>

#include "bench.hpp"

namespace {

using bench::Index;
constexpr Index window = 1020, sink_tokens = 4;

// Row `row` from the cache of its token, positions counted by slots.
template <class Real>
std::vector<Real> plain_row(const bench::Input<float>& in, const bench::Row& row) {
  const Index half = in.shape.key_dim / 2, token = row.query + in.shape.keys - in.shape.queries;
  const Index kv_head = row.head / (in.shape.heads / in.shape.kv_heads);
  std::vector<Index> cache;
  for (Index j = 0; j <= token; ++j) {
    if (j < sink_tokens || token - j < window) cache.push_back(j);
  }
  std::vector<Real> weight, out(std::size_t(in.shape.value_dim));
  Real most = -std::numeric_limits<Real>::infinity(), sum = 0;
  for (std::size_t slot = 0; slot < cache.size(); ++slot) {
    Real score = 0;
    for (Index c = 0; c < half; ++c) {  // a turn of the query against the key: only their distance counts
      const double angle = double(cache.size() - 1 - slot) * std::pow(10000.0, -2.0 * double(c) / double(2 * half));
      const Real cosine = Real(std::cos(angle)), sine = Real(std::sin(angle));
      const Real a = in.q(row.batch, row.head, row.query, c), b = in.q(row.batch, row.head, row.query, half + c);
      score += (a * cosine - b * sine) * Real(in.k(row.batch, kv_head, cache[slot], c));
      score += (a * sine + b * cosine) * Real(in.k(row.batch, kv_head, cache[slot], half + c));
    }
    weight.push_back(score / std::sqrt(Real(2 * half)));
    most = std::max(most, weight.back());
  }
  for (std::size_t slot = 0; slot < cache.size(); ++slot) {
    const Real p = std::exp(weight[slot] - most);
    sum += p;
    for (Index c = 0; c < in.shape.value_dim; ++c)
      out[std::size_t(c)] += p * Real(in.v(row.batch, kv_head, cache[slot], c));
  }
  for (Real& x : out) x /= sum;
  return out;
}

bench::Prepared prepare(const bench::Shape& shape) {
  const auto in = std::make_shared<const bench::Input<float>>(bench::make_input<float>(shape));
  const auto out = std::make_shared<bench::Tensor<float>>(shape.batch, shape.heads, shape.queries, shape.value_dim);
  const auto pool = std::make_shared<fovea::exec::Pool>(shape.threads);
  const auto check = [in, out] {
    bench::RelativeError error, naive;
    for (const bench::Row& row : bench::sample_rows(in->shape, 64)) {
      const auto exact = plain_row<double>(*in, row);
      const auto plain = plain_row<float>(*in, row);
      for (Index c = 0; c < in->shape.value_dim; ++c) {
        error.add(double((*out)(row.batch, row.head, row.query, c)), exact[std::size_t(c)]);
        naive.add(double(plain[std::size_t(c)]), exact[std::size_t(c)]);
      }
    }
    bench::Accuracy accuracy;
    accuracy.error = error.value();
    accuracy.naive_error = naive.value();
    return accuracy;
  };
  bench::Prepared ready;
  ready.call = [=] {
    fovea::streaming(in->q, in->k, in->v, *out, {.window = window, .sink_tokens = sink_tokens}, std::as_const(*pool));
  };
  ready.check = check;
  ready.pool = pool;
  ready.keys = in->k.data();
  ready.values = in->v.data();
  return ready;
}

const bench::Pattern seen = {.label = "streaming_1020_4",
                             .sees = [](Index i, Index j) { return j <= i && (i - j < window || j < sink_tokens); }};

const bool added = bench::add_prepared("sink/streaming", "f32",
                                       {{.table = "mask",
                                         .pattern = seen,
                                         .heads = 8,
                                         .kv_heads = 8,
                                         .queries = 4096,
                                         .keys = 4096,
                                         .key_dim = 64,
                                         .value_dim = 64,
                                         .quick = true}},
                                       prepare);

}  // namespace
