// Exact top-k attention with a sixteenth of the keys.
#include <fovea/top_k/top_k.hpp>

#include "bench.hpp"

namespace {

using bench::Index;

fovea::TopKOptions options_for(const bench::Shape& shape) {
  return {.top_k = std::max<Index>(shape.keys / 16, 1), .causal = shape.pattern.label == "causal"};
}

const auto top_k =
    bench::method([](const auto& in, auto&& out, const auto& executor) {
      fovea::top_k(in.q, in.k, in.v, out, options_for(in.shape), executor);
    })
        .keeps([](const auto& in, const auto& executor) {
          return bench::Kept([lists = fovea::top_k_selection(in.q, in.k, options_for(in.shape), executor),
                              heads = in.shape.heads](const bench::Row& row) {
            const fovea::Span list = lists.list(row.batch, row.head * lists.heads / heads, row.query);
            return std::vector<Index>(lists.keys.begin() + list.first, lists.keys.begin() + list.last);
          });
        })
        .flops([](const bench::Shape& s) {
          const double rows = double(s.batch * s.heads * s.queries);
          return 2 * s.pairs() * double(s.key_dim) + 2 * rows * double(options_for(s).top_k * s.value_dim);
        })
        .bytes([](const bench::Shape& s) {
          const double kept = double(s.heads * s.queries) / double(s.kv_heads) * double(options_for(s).top_k);
          return 4 * double(s.batch * s.kv_heads) *
                 (double(s.keys * s.key_dim) + std::min(kept, double(s.keys)) * double(s.value_dim));
        });

std::vector<bench::Shape> prefill() {
  std::vector<bench::Shape> shapes;
  for (const bench::Shape& s : bench::prefill_shapes()) {
    if (s.queries == 4096 && s.heads == 8 && s.key_dim == 64) shapes.push_back(s);
  }
  return shapes;
}

const bool added = bench::add("top_k/top_k", prefill(), top_k) &&
                   bench::add("top_k/top_k", bench::decode_shapes(), top_k) &&
                   bench::add("top_k/top_k", bench::approximate_shapes(), top_k);

}  // namespace
