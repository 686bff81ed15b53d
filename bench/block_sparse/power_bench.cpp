// PowerAttention with the published constants; short inputs get smaller blocks.
#include <fovea/block_sparse/power.hpp>

#include "block_sparse/power.hpp"

#include "bench.hpp"

namespace {

using bench::Index;

constexpr fovea::PowerOptions published{}, small{.block = 64};

std::vector<bench::Shape> masked() {
  std::vector<bench::Shape> shapes;
  for (const fovea::PowerOptions& options : {published, small}) {
    bench::Shape shape = bench::mask_shapes().front();
    shape.queries = shape.keys = 8192;
    shape.pattern = {.label = "power_" + std::to_string(options.block), .sees = [=](Index i, Index j) {
                       return fovea::reference::power_sees(i, j, options.block, options.sink_blocks,
                                                           options.window_blocks);
                     }};
    shape.quick = options.block == published.block;
    shapes.push_back(shape);
  }
  return shapes;
}

const bool added = bench::add("block_sparse/power", masked(), [](const auto& in, auto&& out, const auto& executor) {
  fovea::power(in.q, in.k, in.v, out, in.shape.pattern.label == "power_64" ? small : published, executor);
});

const bool added_real =
    bench::add("block_sparse/power", bench::approximate_shapes(true),
               bench::method([](const auto& in, auto&& out, const auto& executor) {
                 fovea::power(in.q, in.k, in.v, out, small, executor);
               }).keeps([](const auto& in, const auto&) {
                 return bench::Kept(fovea::mask::blocks(fovea::power_blocks({0, in.shape.keys}, small)), in.shape);
               }));

}  // namespace
