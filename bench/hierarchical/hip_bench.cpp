#include <fovea/hierarchical/hip.hpp>

#include "bench.hpp"

namespace {

using bench::Index;

// The published settings where the context grows; on shorter inputs a sixteenth of the keys, and half as many for the
// window.
fovea::HipOptions options_for(const bench::Shape& shape) {
  fovea::HipOptions options{.causal = shape.pattern.label == "causal"};
  if (shape.table == "growth" || shape.table == "decode") return options;
  options.top_k = std::max<Index>(shape.keys / 16, 1);
  options.window = options.top_k / 2;
  options.sink_tokens = std::min<Index>(options.top_k / 8, 32);
  return options;
}

const auto hip = bench::method([](const auto& in, auto&& out, const auto& executor) {
                   fovea::hip(in.q, in.k, in.v, out, options_for(in.shape), executor);
                 }).keeps([](const auto& in, const auto& executor) {
  return bench::Kept(fovea::mask::spans(fovea::hip_selection(in.q, in.k, options_for(in.shape), executor)), in.shape);
});

const bool added = bench::add("hierarchical/hip", bench::growth_shapes(true), hip) &&
                   bench::add("hierarchical/hip", bench::decode_shapes(), hip) &&
                   bench::add("hierarchical/hip", bench::approximate_shapes(true), hip);

}  // namespace
