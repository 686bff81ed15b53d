// Sink logits in full and in windowed layers. They are so low that the result is the one without sinks, which is what
// it is checked against; the time does not depend on them.
#include <cmath>
#include <fovea/sink/sink_logits.hpp>

#include "bench.hpp"

namespace {

bench::Shape shape(const bench::Pattern& pattern) {
  return {.table = "mask",
          .pattern = pattern,
          .heads = 8,
          .kv_heads = 8,
          .queries = 4096,
          .keys = 4096,
          .key_dim = 64,
          .value_dim = 64,
          .quick = true};
}

const bool added =
    bench::add("sink/sink_logits", {shape(bench::causal(4096, 4096)), shape(bench::window(4096, 4096, 128))},
               [](const auto& in, auto&& out, const auto& executor) {
                 const bench::Index window = in.shape.pattern.window;
                 fovea::sink_logits(in.q, in.k, in.v, out,
                                    {.sink_logits = std::vector<double>(std::size_t(in.shape.heads), -1000.0),
                                     .causal = true,
                                     .window = window > 0 ? std::optional(window) : std::nullopt},
                                    executor);
               });

// Softmax-off-by-one of trained models' tensors.
const bool added_real = bench::add("sink/sink_logits", bench::real_shapes(),
                                   bench::method([](const auto& in, auto&& out, const auto& executor) {
                                     fovea::sink_logits(in.q, in.k, in.v, out, {.off_by_one = true}, executor);
                                   })
                                       .row_reference([](const auto& in, const bench::Row& row, auto* out) {
                                         const auto log_sum = bench::plain_row(in, row, out);
                                         for (bench::Index c = 0; c < in.shape.value_dim; ++c)
                                           out[c] /= 1 + std::exp(-log_sum);
                                       })
                                       .own_definition());

}  // namespace
