// Linear attention with the features elu + 1: over all keys, and causal chunk by chunk. In associative recall also with
// no features and no divisor, the plain sum of k_j v_j^T.
#include <fovea/linear/linear.hpp>
#include <fovea/parts/feature/identity.hpp>

#include <cmath>

#include "bench.hpp"

namespace {

using bench::Index;

// A row of the definition: weights phi(q) . phi(k_j) over the keys that the pattern shows.
const auto row_of_linear = []<class T, class Real>(const bench::Input<T>& in, const bench::Row& row, Real* out) {
  const bench::Shape& s = in.shape;
  const Index kv_head = row.head / (s.heads / s.kv_heads);
  const auto phi = [](Real x) { return x > 0 ? x + 1 : std::exp(x); };
  std::fill_n(out, s.value_dim, Real(0));
  Real sum = 0;
  for (Index j = 0; j < s.keys; ++j) {
    if (s.pattern.sees && !s.pattern.sees(row, j)) continue;
    Real weight = 0;
    for (Index d = 0; d < s.key_dim; ++d)
      weight += phi(Real(in.q(row.batch, row.head, row.query, d))) * phi(Real(in.k(row.batch, kv_head, j, d)));
    sum += weight;
    for (Index c = 0; c < s.value_dim; ++c) out[c] += weight * Real(in.v(row.batch, kv_head, j, c));
  }
  for (Index c = 0; c < s.value_dim; ++c) out[c] /= sum + Real(1e-6);
};

double matrix(const bench::Shape& s) { return 2 * double(s.key_dim) * double(s.value_dim) * double(s.batch); }

const auto linear = bench::method([](const auto& in, auto&& out, const auto& executor) {
                      fovea::linear(in.q, in.k, in.v, out, fovea::feature::elu_plus_one(), {}, executor);
                    })
                        .row_reference(row_of_linear)
                        .flops([](const bench::Shape& s) {
                          return matrix(s) * (double(s.heads * s.queries) + double(s.kv_heads * s.keys));
                        })
                        .own_definition();

const auto chunk_linear =
    bench::method([](const auto& in, auto&& out, const auto& executor) {
      fovea::chunk_linear(in.q, in.k, in.v, out, fovea::feature::elu_plus_one(), {}, executor);
    })
        .row_reference(row_of_linear)
        .flops([](const bench::Shape& s) {  // half of each chunk's square, the state read, and written
          const double square = double(fovea::engine::default_chunk * (s.key_dim + s.value_dim)) * double(s.batch);
          return double(s.heads * s.queries) * (square + matrix(s)) + double(s.kv_heads * s.keys) * matrix(s);
        })
        .own_definition();

const auto identity =
    bench::method([](const auto& in, auto&& out, const auto& executor) {
      fovea::chunk_linear(in.q, in.k, in.v, out, fovea::feature::identity(),
                          {.normalizer = fovea::LinearNormalizer::none}, executor);
    })
        .row_reference([](const auto& in, const bench::Row& row, auto* out) {
          const bench::Shape& s = in.shape;
          using Real = std::remove_pointer_t<decltype(out)>;
          const Index kv_head = row.head / (s.heads / s.kv_heads);
          std::fill_n(out, s.value_dim, Real(0));
          for (Index j = 0; j <= row.query; ++j) {
            Real weight = 0;
            for (Index d = 0; d < s.key_dim; ++d)
              weight += Real(in.q(row.batch, row.head, row.query, d)) * Real(in.k(row.batch, kv_head, j, d));
            weight /= std::sqrt(Real(s.key_dim));
            for (Index c = 0; c < s.value_dim; ++c) out[c] += weight * Real(in.v(row.batch, kv_head, j, c));
          }
        })
        .own_definition()
        .recalls({{"identity", bench::Writes::own, {32, 64, 128}}, {"identity, write gate", bench::Writes::values}});

const bool added = bench::add("linear/linear", bench::growth_shapes(), linear) &&
                   bench::add("linear/linear", bench::real_shapes(), linear) &&
                   bench::add("linear/chunk_linear", bench::quick_growth(bench::growth_shapes(true)), chunk_linear) &&
                   bench::add("linear/chunk_linear", bench::recall_shapes(), identity);

}  // namespace
