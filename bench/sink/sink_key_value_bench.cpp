// An extra key and value in full and in windowed layers.
#include <cmath>
#include <fovea/sink/sink_logits.hpp>

#include "bench.hpp"

namespace {

using bench::Index;

std::vector<bench::Shape> shapes() {
  bench::Shape shape = bench::mask_shapes().front();
  std::vector<bench::Shape> result;
  for (const bench::Pattern& pattern :
       {bench::causal(shape.queries, shape.keys), bench::window(shape.queries, shape.keys, 128)}) {
    shape.pattern = pattern;
    result.push_back(shape);
  }
  return result;
}

struct Extra {
  bench::Matrix<float> key, value;  // [H x D], [H x E]
};

const auto sinks =
    bench::method([](const auto& in, auto& extra, auto&& out, const auto& executor) {
      const bench::Pattern& pattern = in.shape.pattern;
      fovea::sink_key_value(in.q, in.k, in.v, extra.key, extra.value, out,
                            {.causal = pattern.label != "full",
                             .window = pattern.window > 0 ? std::optional(pattern.window) : std::nullopt},
                            executor);
    })
        .state([](const auto& in, const auto&) {
          const bench::Shape& s = in.shape;
          const auto keys = bench::gaussian<float>(5, {1, 1, s.heads, s.key_dim});
          const auto values = bench::gaussian<float>(6, {1, 1, s.heads, s.value_dim});
          using Map = Eigen::Map<const bench::Matrix<float>>;
          Extra extra{Map(keys->data(), s.heads, s.key_dim), Map(values->data(), s.heads, s.value_dim)};
          if (s.table == "map") extra.value.setZero();  // its weight is no key's
          return extra;
        })
        .row_reference([](const auto& in, auto& extra, const bench::Row& row, auto* out) {
          using Real = std::remove_pointer_t<decltype(out)>;
          const Real log_sum = bench::plain_row(in, row, out);
          Real score = 0;
          for (Index c = 0; c < in.shape.key_dim; ++c) {
            score += Real(in.q(row.batch, row.head, row.query, c)) * Real(extra.key(row.head, c));
          }
          score /= std::sqrt(Real(in.shape.key_dim));
          const Real share = 1 / (1 + std::exp(log_sum - score));
          for (Index c = 0; c < in.shape.value_dim; ++c) {
            out[c] += share * (Real(extra.value(row.head, c)) - out[c]);
          }
        })
        .own_definition();

const bool added = bench::add("sink/sink_key_value", shapes(), sinks) &&
                   bench::add("sink/sink_key_value", bench::real_shapes(), sinks);

}  // namespace
