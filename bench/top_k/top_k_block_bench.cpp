#include <fovea/top_k/top_k_block.hpp>

#include "bench.hpp"

namespace {

using bench::Index;
using fovea::TopKBlockOptions;

std::vector<bench::Shape> with_growth(bool causal) {
  std::vector<bench::Shape> shapes = bench::approximate_shapes(causal);
  for (const bench::Shape& s : bench::growth_shapes(causal)) shapes.push_back(s);
  for (const bench::Shape& s : bench::prefill_shapes()) {
    if (s.keys == 8192 && s.pattern.label == (causal ? "causal" : "full")) shapes.push_back(s);
  }
  return shapes;
}

template <class Options>
auto with_options(const Options& options_for) {
  return bench::method([=](const auto& in, auto&& out, const auto& executor) {
           fovea::top_k_block(in.q, in.k, in.v, out, options_for(in.shape), executor);
         })
      .keeps([=](const auto& in, const auto& executor) {
        const auto table = fovea::top_k_block_selection(in.q, in.k, options_for(in.shape), executor);
        return bench::Kept(fovea::mask::blocks(table), in.shape);
      });
}

// An eighth of the key blocks, and two at least.
TopKBlockOptions an_eighth(const bench::Shape& s) { return {.top_k = std::max<Index>(2, (s.keys + 63) / 64 / 8)}; }

TopKBlockOptions an_eighth_by_bounds(const bench::Shape& s) {
  TopKBlockOptions options = an_eighth(s);
  options.key_pooling = fovea::Pooling::bounds;
  return options;
}

// Three blocks of 512 tokens, or of an eighth of a shorter sequence.
TopKBlockOptions moba(const bench::Shape& s) { return fovea::moba(std::clamp<Index>(s.keys / 8, 16, 512), 3); }

const bool added =
    bench::add("top_k/top_k_block", bench::quick_growth(with_growth(false)), with_options(an_eighth)) &&
    bench::add("top_k/top_k_block_bounds", bench::approximate_shapes(), with_options(an_eighth_by_bounds)) &&
    bench::add("top_k/moba", with_growth(true), with_options(moba));

}  // namespace
