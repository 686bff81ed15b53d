// All heads retrieve, and all heads stream: what either kind of head costs.
#include <fovea/sink/head_split.hpp>

#include "bench.hpp"

namespace {

constexpr bench::Index window = 256, sink_tokens = 64;

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

const bench::Pattern streaming = {.label = "streaming", .sees = [](bench::Index i, bench::Index j) {
                                    return j <= i && (i - j < window || j < sink_tokens);
                                  }};

const bool added =
    bench::add("sink/head_split", {shape(bench::causal(4096, 4096)), shape(streaming)},
               [](const auto& in, auto&& out, const auto& executor) {
                 const bool retrieval = in.shape.pattern.label == "causal";
                 fovea::head_split(in.q, in.k, in.v, out,
                                   {.retrieval = std::vector<bool>(std::size_t(in.shape.heads), retrieval),
                                    .window = window,
                                    .sink_tokens = sink_tokens},
                                   executor);
               });

}  // namespace
