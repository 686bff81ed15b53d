// Radial Attention: the tokens as a video of 16 frames.
#include <fovea/block_sparse/radial.hpp>

#include "block_sparse/radial.hpp"

#include "bench.hpp"

namespace {

using bench::Index;

constexpr Index frames = 16;

fovea::RadialOptions options_for(const bench::Shape& shape) {
  fovea::RadialOptions options{.frame = shape.keys / frames};
  if (shape.pattern.label == "radial_released") {
    options.rule = fovea::RadialRule::released;
    options.least = 64;
  }
  return options;
}

// Small frames by both rules, and frames as large as those of a video.
std::vector<bench::Shape> masked() {
  std::vector<bench::Shape> shapes;
  for (const auto& [released, tokens] : {std::pair<bool, Index>{false, 4096}, {true, 4096}, {false, 16384}}) {
    bench::Shape shape = bench::mask_shapes().front();
    shape.queries = shape.keys = tokens;
    const fovea::reference::RadialRule rule{.frame = tokens / frames, .released = released, .least = 64};
    const auto sees = [rule, all = tokens](Index i, Index j) { return fovea::reference::radial_sees(rule, all, i, j); };
    shape.pattern = {.label = released ? "radial_released" : "radial_published", .sees = sees};
    shape.quick = tokens == 4096;
    if (tokens != 4096) {
      shape.heads = shape.kv_heads = 2;
      // Of each frame a query sees a stretch around its own place.
      shape.pattern.count = [sees, frame = rule.frame](Index i) {
        Index number = 0;
        for (Index c = 0; c < frames; ++c) {
          Index first = c * frame + i % frame, last = first;
          if (!sees(i, first)) continue;
          while (last + 1 < (c + 1) * frame && sees(i, last + 1)) ++last;
          while (first > c * frame && sees(i, first - 1)) --first;
          number += last - first + 1;
        }
        return number;
      };
    }
    shapes.push_back(shape);
  }
  return shapes;
}

const bool added = bench::add("block_sparse/radial", masked(), [](const auto& in, auto&& out, const auto& executor) {
  fovea::radial(in.q, in.k, in.v, out, options_for(in.shape), executor);
});

const bool added_real =
    bench::add("block_sparse/radial", bench::approximate_shapes(),
               bench::method([](const auto& in, auto&& out, const auto& executor) {
                 fovea::radial(in.q, in.k, in.v, out, options_for(in.shape), executor);
               }).keeps([](const auto& in, const auto&) {
                 const fovea::reference::RadialRule rule{.frame = in.shape.keys / frames};
                 return bench::Kept([rule, tokens = in.shape.keys](const bench::Row& row, Index key) {
                   return fovea::reference::radial_sees(rule, tokens, row.query, key);
                 });
               }));

}  // namespace
