#include <fovea/window/dilated.hpp>

#include "bench.hpp"

namespace {

constexpr bench::Index window = 64, distance = 32, dilation = 4;

std::vector<bench::Shape> shapes() {
  const bench::Pattern causal{.label = "dilated_64x4", .sees = [](bench::Index i, bench::Index j) {
                                return j <= i && (i - j) % dilation == 0 && (i - j) / dilation < window;
                              }};
  const bench::Pattern both_sides{.label = "dilated_both_32x4", .sees = [](bench::Index i, bench::Index j) {
                                    const bench::Index n = i < j ? j - i : i - j;
                                    return n % dilation == 0 && n / dilation <= distance;
                                  }};
  bench::Shape shape = bench::mask_shapes().front();
  shape.quick = true;
  std::vector<bench::Shape> result;
  for (const bench::Pattern& pattern : {causal, both_sides}) {
    shape.pattern = pattern;
    result.push_back(shape);
  }
  return result;
}

const bool added = bench::add("window/dilated", shapes(), [](const auto& in, auto&& out, const auto& executor) {
  if (in.shape.pattern.label == "dilated_64x4") {
    fovea::dilated_window(in.q, in.k, in.v, out, {.window = window, .dilation = dilation}, executor);
  } else {
    fovea::bidirectional_dilated_window(in.q, in.k, in.v, out, {.distance = distance, .dilation = dilation}, executor);
  }
});

// An eighth of the keys again, every fourth.
const bool added_real =
    bench::add("window/dilated", bench::approximate_shapes(),
               bench::method([](const auto& in, auto&& out, const auto& executor) {
                 fovea::bidirectional_dilated_window(in.q, in.k, in.v, out,
                                                     {.distance = in.shape.keys / 16, .dilation = dilation}, executor);
               }).keeps([](const auto& in, const auto&) {
                 return bench::Kept([most = in.shape.keys / 16](const bench::Row& row, bench::Index key) {
                   const bench::Index n = row.query < key ? key - row.query : row.query - key;
                   return n % dilation == 0 && n / dilation <= most;
                 });
               }));

}  // namespace
