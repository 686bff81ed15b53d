#include <fovea/window/sliding_window.hpp>

#include "bench.hpp"

namespace {

std::vector<bench::Shape> shapes() {
  std::vector<bench::Shape> result = bench::mask_shapes();
  std::erase_if(result, [](const bench::Shape& s) { return s.pattern.window == 0; });
  bench::Shape streaming = result.front();
  streaming.pattern = {.label = "window_256_sinks_4",
                       .sees = [](bench::Index i, bench::Index j) { return j <= i && (i - j < 256 || j < 4); }};
  bench::Shape both_sides = result.front();
  both_sides.pattern = {.label = "distance_128",
                        .sees = [](bench::Index i, bench::Index j) { return j - i <= 128 && i - j <= 128; }};
  result.push_back(streaming);
  result.push_back(both_sides);
  return result;
}

const bool added = bench::add("window/sliding_window", shapes(), [](const auto& in, auto&& out, const auto& executor) {
  const bench::Pattern& pattern = in.shape.pattern;
  if (pattern.label == "distance_128") {
    fovea::bidirectional_window(in.q, in.k, in.v, out, {.distance = 128}, executor);
  } else if (pattern.label == "window_256_sinks_4") {
    fovea::sliding_window(in.q, in.k, in.v, out, {.window = 256, .sink_tokens = 4}, executor);
  } else {
    fovea::sliding_window(in.q, in.k, in.v, out, {.window = pattern.window}, executor);
  }
});

// An eighth of the keys, the latest with four sink tokens, or those on both sides.
const bool added_causal = bench::add(
    "window/sliding_window", bench::approximate_shapes(true),
    bench::method([](const auto& in, auto&& out, const auto& executor) {
      fovea::sliding_window(in.q, in.k, in.v, out, {.window = in.shape.keys / 8, .sink_tokens = 4}, executor);
    }).keeps([](const auto& in, const auto&) {
      return bench::Kept([width = in.shape.keys / 8](const bench::Row& row, bench::Index key) {
        return row.query - key < width || key < 4;
      });
    }));

const bool added_both_sides =
    bench::add("window/sliding_window", bench::approximate_shapes(),
               bench::method([](const auto& in, auto&& out, const auto& executor) {
                 fovea::bidirectional_window(in.q, in.k, in.v, out, {.distance = in.shape.keys / 16}, executor);
               }).keeps([](const auto& in, const auto&) {
                 return bench::Kept([distance = in.shape.keys / 16](const bench::Row& row, bench::Index key) {
                   return row.query - key <= distance && key - row.query <= distance;
                 });
               }));

}  // namespace
