// Streaming attention with rotary positions, all tokens at once and the last one from a cache that takes it. The check
// is its own: plain attention over the cache of a token.
#include <fovea/exec/workspace.hpp>
#include <fovea/sink/streaming.hpp>

#include "bench.hpp"

namespace {

using bench::Index;
constexpr Index window = 1020, sink_tokens = 4;

// Maps show fewer tokens than such a window.
Index window_of(const bench::Shape& s) { return s.table == "map" ? 124 : window; }

// Row `row` from the cache of its token, positions counted by slots.
template <class Real>
void cached_row(const bench::Input<float>& in, const bench::Row& row, Real* out) {
  const Index half = in.shape.key_dim / 2, token = row.query + in.shape.keys - in.shape.queries;
  const Index kv_head = row.head / (in.shape.heads / in.shape.kv_heads);
  std::vector<Index> cache;
  for (Index j = 0; j <= token; ++j) {
    if (j < sink_tokens || token - j < window) cache.push_back(j);
  }
  std::vector<Real> weight;
  std::fill_n(out, in.shape.value_dim, Real(0));
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
    for (Index c = 0; c < in.shape.value_dim; ++c) out[c] += p * Real(in.v(row.batch, kv_head, cache[slot], c));
  }
  for (Index c = 0; c < in.shape.value_dim; ++c) out[c] /= sum;
}

// Of the pairs of a window and its sink tokens, whatever the pattern of the shape shows.
double flops(const bench::Shape& s) {
  double pairs = 0;
  for (Index i = 0; i < s.queries; ++i) pairs += double(std::min(i + s.keys - s.queries + 1, window + sink_tokens));
  return pairs * double(s.batch * s.heads) * 2 * double(s.key_dim + s.value_dim);
}

// Keys and values that some query sees.
double bytes(const bench::Shape& s) {
  return double(s.batch * s.kv_heads) * double(std::min(s.keys, window + sink_tokens + s.queries - 1)) *
         double(s.key_dim + s.value_dim) * double(sizeof(float));
}

const auto streaming =
    bench::method([](const auto& in, auto&& out, const auto& executor) {
      fovea::streaming(in.q, in.k, in.v, out, {.window = window_of(in.shape), .sink_tokens = sink_tokens}, executor);
    })
        .row_reference([](const auto& in, const bench::Row& row, auto* out) { cached_row(in, row, out); })
        .flops(flops)
        .bytes(bytes)
        .own_definition();

// The cache of a sequence, before its last token.
struct Sequence {
  fovea::StreamingCache<float> cache;
  fovea::Workspace workspace{};

  explicit Sequence(fovea::StreamingCache<float>&& filled) : cache(std::move(filled)) {}
  Sequence(const Sequence& other) : cache(other.cache.fork()) {}
};

fovea::View<const float> tokens(const bench::Tensor<float>& x, Index first, Index last) {
  auto part = fovea::view(x);
  part.data = part.row(0, 0, first);
  part.length = last - first;
  return part;
}

const auto from_cache =
    bench::method([](const auto& in, auto& sequence, auto&& out, const auto& executor) {
      const Index last = in.shape.keys - 1;
      sequence.cache.append(tokens(in.k, last, last + 1), tokens(in.v, last, last + 1));
      fovea::streaming(in.q, sequence.cache, out, fovea::exec::reuse(sequence.workspace, executor));
    })
        .state([](const auto& in, const auto&) {
          fovea::StreamingCache<float> cache(in.shape.kv_heads, in.shape.key_dim, in.shape.value_dim,
                                             {.window = window_of(in.shape), .sink_tokens = sink_tokens});
          cache.append(tokens(in.k, 0, in.shape.keys - 1), tokens(in.v, 0, in.shape.keys - 1));
          return Sequence(std::move(cache));
        })
        .row_reference([](const auto& in, const bench::Row& row, auto* out) { cached_row(in, row, out); })
        .flops(flops)
        .bytes(bytes)
        .own_definition();

std::vector<bench::Shape> masked() {
  bench::Shape shape = bench::mask_shapes().front();
  shape.pattern = {.label = "streaming_1020_4",
                   .sees = [](Index i, Index j) { return j <= i && (i - j < window || j < sink_tokens); }};
  return {shape};
}

std::vector<bench::Shape> real() {
  std::vector<bench::Shape> shapes = bench::approximate_shapes(true);
  std::erase_if(shapes, [](const bench::Shape& s) { return s.key_dim % 2 != 0 || s.keys <= window; });
  return shapes;
}

std::vector<bench::Shape> decoding() {
  std::vector<bench::Shape> shapes = bench::decode_shapes();
  for (bench::Shape& s : shapes) s.pattern.label = "streaming_1020_4";
  return shapes;
}

const bool added =
    bench::add("sink/streaming", masked(), streaming) && bench::add("sink/streaming", real(), streaming) &&
    bench::add("sink/streaming", decoding(), streaming) && bench::add("sink/streaming_cache", decoding(), from_cache);

}  // namespace
