#include <algorithm>
#include <fovea/window/neighborhood.hpp>

#include "bench.hpp"

namespace {

using bench::Index;

// Stride one, and blocks, whose windows tiles of keys can fill without a border.
std::vector<bench::Shape> shapes() {
  bench::Shape sliding = bench::mask_shapes().front();
  const Index keys = sliding.keys;
  sliding.pattern = {.label = "neighborhood_257", .sees = [keys](Index i, Index j) {
                       const Index first = std::clamp<Index>(i - 128, 0, keys - 257);
                       return j >= first && j < first + 257;
                     }};
  bench::Shape blocks = sliding;
  blocks.pattern = {.label = "blocks_256", .sees = [](Index i, Index j) { return i / 256 == j / 256; }};
  sliding.quick = true;
  return {sliding, blocks};
}

const bool added = bench::add("window/neighborhood", shapes(), [](const auto& in, auto&& out, const auto& executor) {
  if (in.shape.pattern.label == "blocks_256") {
    fovea::neighborhood(in.q, in.k, in.v, out, {.window = 256, .stride = 256}, executor);
  } else {
    fovea::neighborhood(in.q, in.k, in.v, out, {.window = 257}, executor);
  }
});

}  // namespace
