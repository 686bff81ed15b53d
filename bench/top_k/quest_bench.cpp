#include <fovea/top_k/quest.hpp>

#include "bench.hpp"

namespace {

using bench::Index;

constexpr Index page = 16;

// A budget of 2048 tokens, or an eighth of a shorter cache; a page at least.
fovea::QuestOptions options_for(const bench::Shape& s) {
  return {.top_k = std::max<Index>(1, std::min<Index>(2048, s.keys / 8) / page)};
}

std::vector<bench::Shape> shapes() {
  std::vector<bench::Shape> shapes;
  for (const bench::Shape& s : bench::decode_shapes()) {
    if (s.keys >= 8192) shapes.push_back(s);
  }
  for (bench::Shape s : bench::approximate_shapes()) {
    if (s.table != "synthetic" && s.data != "use_l0_4k") continue;
    s.queries = 1;
    shapes.push_back(s);
  }
  return shapes;
}

// The bounds of the cache, which a program keeps from step to step.
const bool added = bench::add(
    "top_k/quest", shapes(),
    bench::method([](const auto& in, auto& bounds, auto&& out, const auto& executor) {
      fovea::quest(in.q, in.k, in.v, out, bounds, options_for(in.shape), executor);
    })
        .state([](const auto& in, const auto& executor) {
          using T = std::remove_cvref_t<decltype(in.k(0, 0, 0, 0))>;
          const bench::Shape& s = in.shape;
          fovea::PageBounds<T> bounds{.page = page, .batch = s.batch, .kv_heads = s.kv_heads, .dim = s.key_dim};
          bounds.append(in.k, executor);
          return bounds;
        })
        .keeps([](const auto& in, auto& bounds, const auto& executor) {
          const auto table = fovea::quest_selection(in.q, bounds, options_for(in.shape), executor);
          return bench::Kept(fovea::mask::blocks(table), in.shape);
        })
        .bytes([](const bench::Shape& s) {
          const double read = double(s.batch * s.heads * options_for(s).top_k * page);
          const double bounds = double(s.batch * s.kv_heads * (s.keys / page));
          return 4 * (read * double(s.key_dim + s.value_dim) + bounds * 2 * double(s.key_dim));
        }));

}  // namespace
