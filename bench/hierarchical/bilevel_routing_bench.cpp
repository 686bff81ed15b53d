#include <fovea/hierarchical/bilevel_routing.hpp>

#include "bench.hpp"

namespace {

using bench::Index;

// The tokens as a grid of power-of-two extents in 8 x 8 regions, of which each reads eight: an eighth of the keys. The
// scale is that of dense attention, so that the two can be compared.
fovea::BilevelRoutingOptions options_for(const bench::Shape& shape) {
  Index height = 1;
  while (4 * height * height <= shape.keys) height *= 2;
  return {.height = height,
          .width = shape.keys / height,
          .regions = 8,
          .top_k = 8,
          .scale = 1 / std::sqrt(double(shape.key_dim))};
}

const bool added = bench::add(
    "hierarchical/bilevel_routing", bench::approximate_shapes(),
    bench::method([](const auto& in, auto&& out, const auto& executor) {
      fovea::bilevel_routing(in.q, in.k, in.v, out, options_for(in.shape), executor);
    })
        .keeps([](const auto& in, const auto& executor) {
          const auto options = options_for(in.shape);
          const Index width = options.width, rows = options.height / 8, columns = width / 8;
          return bench::Kept([=, table = fovea::bilevel_routes(in.q, in.k, options, executor).table](
                                 const bench::Row& row, Index key) {
            const auto region = [=](Index token) { return token / width / rows * 8 + token % width / columns; };
            const fovea::Span list = table.list(row.batch, 0, region(row.query));
            const auto begin = table.blocks.begin();
            return std::binary_search(begin + list.first, begin + list.last, region(key));
          });
        })
        .on_grid());

}  // namespace
