#include <algorithm>
#include <fovea/window/neighborhood.hpp>

#include "bench.hpp"

namespace {

using bench::Index;
using fovea::NeighborhoodOptions;

// A grid whose windows are not cut at its ends.
struct Setting {
  const char* label;
  NeighborhoodOptions options;
};

const std::vector<Setting>& settings() {
  static const std::vector<Setting> all = {
      {"neighborhood_257", {.grid = {4096}, .window = 257}},
      {"blocks_256", {.grid = {4096}, .window = 256, .stride = 256}},
      {"image_64_window_7", {.grid = {64, 64}, .window = 7}},
      {"image_64_window_13", {.grid = {64, 64}, .window = 13}},
      {"video_16_32_32_window_4_8_8", {.grid = {16, 32, 32}, .window = {4, 8, 8}}},
      {"video_16_32_32_blocks_4_8_8", {.grid = {16, 32, 32}, .window = {4, 8, 8}, .stride = {4, 8, 8}}},
  };
  return all;
}

// Whether one axis shows a key, by the definition; without dilation, not causal.
bool axis_sees(Index extent, Index window, Index stride, Index query, Index key) {
  const Index leader = std::min(query / stride * stride + stride / 2, extent - 1);
  const Index first = std::clamp<Index>(leader - window / 2, 0, extent - window);
  return key >= first && key < first + window;
}

bool sees(const NeighborhoodOptions& o, Index query, Index key) {
  for (Index a = Index(o.grid.size()) - 1; a >= 0; --a) {
    const Index extent = o.grid[std::size_t(a)];
    if (!axis_sees(extent, o.window[a], o.stride[a], query % extent, key % extent)) return false;
    query /= extent;
    key /= extent;
  }
  return true;
}

Index pairs_of_query(const NeighborhoodOptions& o) {
  Index pairs = 1;
  for (std::size_t a = 0; a < o.grid.size(); ++a) pairs *= o.window[Index(a)];
  return pairs;
}

std::vector<bench::Shape> shapes() {
  std::vector<bench::Shape> result;
  for (const Setting& setting : settings()) {
    bench::Shape shape = bench::mask_shapes().front();
    shape.queries = shape.keys = 1;
    for (const Index extent : setting.options.grid) shape.queries = shape.keys = shape.keys * extent;
    const NeighborhoodOptions options = setting.options;
    shape.pattern = {.label = setting.label,
                     .sees = [options](Index i, Index j) { return sees(options, i, j); },
                     .count = [options](Index) { return pairs_of_query(options); }};
    shape.quick = setting.options.grid.size() == 2;
    result.push_back(shape);
  }
  return result;
}

const bool added = bench::add("window/neighborhood", shapes(), [](const auto& in, auto&& out, const auto& executor) {
  for (const Setting& setting : settings()) {
    if (in.shape.pattern.label == setting.label) fovea::neighborhood(in.q, in.k, in.v, out, setting.options, executor);
  }
});

// The tokens as a grid of power-of-two extents, and a window of about a third of each axis: an eighth of the keys.
NeighborhoodOptions on_grid(Index tokens) {
  Index height = 1;
  while (4 * height * height <= tokens) height *= 2;
  const Index width = tokens / height;
  return {.grid = {height, width}, .window = {std::max<Index>(height * 3 / 8, 1), std::max<Index>(width * 3 / 8, 1)}};
}

const bool added_real =
    bench::add("window/neighborhood", bench::approximate_shapes(),
               bench::method([](const auto& in, auto&& out, const auto& executor) {
                 fovea::neighborhood(in.q, in.k, in.v, out, on_grid(in.shape.keys), executor);
               })
                   .keeps([](const auto& in, const auto&) {
                     return bench::Kept([options = on_grid(in.shape.keys)](const bench::Row& row, bench::Index key) {
                       return sees(options, row.query, key);
                     });
                   })
                   .on_grid());

}  // namespace
