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

// Every other head streams.
std::vector<bool> retrieval(const bench::Shape& s) {
  std::vector<bool> flags;
  for (bench::Index h = 0; h < s.heads; ++h) flags.push_back(h % 2 == 0);
  return flags;
}

const bool added_real = bench::add(
    "sink/head_split", bench::approximate_shapes(true),
    bench::method([](const auto& in, auto&& out, const auto& executor) {
      fovea::head_split(in.q, in.k, in.v, out,
                        {.retrieval = retrieval(in.shape), .window = in.shape.keys / 8, .sink_tokens = 4}, executor);
    }).keeps([](const auto& in, const auto&) {
      return bench::Kept([width = in.shape.keys / 8](const bench::Row& row, bench::Index key) {
        return row.head % 2 == 0 || row.query - key < width || key < 4;
      });
    }));

}  // namespace
