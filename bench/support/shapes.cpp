#include "shapes.hpp"

#include <algorithm>
#include <cstddef>
#include <stdexcept>
#include <utility>

namespace bench {
namespace {

Shape shape(const char* table, Pattern pattern, Index batch, Index heads, Index kv_heads, Index queries, Index keys,
            Index dim, bool quick = false) {
  return {.table = table,
          .pattern = std::move(pattern),
          .batch = batch,
          .heads = heads,
          .kv_heads = kv_heads,
          .queries = queries,
          .keys = keys,
          .key_dim = dim,
          .value_dim = dim,
          .quick = quick};
}

Shape stored(const char* stem, Index heads, Index tokens, Index dim, bool quick = false) {
  Shape result = shape("real", full(), 1, heads, heads, tokens, tokens, dim, quick);
  result.data = stem;
  return result;
}

void append(std::vector<Shape>& to, const std::vector<Shape>& more) { to.insert(to.end(), more.begin(), more.end()); }

}  // namespace

Pattern full() { return {}; }

Pattern causal(Index queries, Index keys) {
  return {.label = "causal",
          .sees = [offset = keys - queries](Index i, Index j) { return j <= i + offset; },
          .count = [=](Index i) { return std::clamp<Index>(i + keys - queries + 1, 0, keys); }};
}

Pattern window(Index queries, Index keys, Index width) {
  return {.label = "window_" + std::to_string(width),
          .sees =
              [offset = keys - queries, width](Index i, Index j) {
                const Index distance = i + offset - j;
                return distance >= 0 && distance < width;
              },
          .window = width};
}

Pattern document(const std::vector<Index>& borders, bool causal) {
  std::vector<std::size_t> which;  // document of each token
  for (std::size_t d = 1; d < borders.size(); ++d) which.resize(std::size_t(borders[d]), d);
  return {
      .label = causal ? "document_causal" : "document",
      .sees = [which, causal](
                  Index i, Index j) { return which[std::size_t(i)] == which[std::size_t(j)] && (!causal || j <= i); },
      .documents = borders};
}

std::string Shape::name() const {
  std::string text = type + "/" + pattern.label;
  if (!data.empty()) text += "/" + data;
  const auto add = [&text](const char* key, Index value) {
    text += std::string("/") + key + ":" + std::to_string(value);
  };
  add("B", batch);
  add("H", heads);
  add("G", kv_heads);
  add("N", queries);
  add("M", keys);
  add("d", key_dim);
  if (value_dim != key_dim) add("e", value_dim);
  add("threads", threads);
  return text;
}

double Shape::pairs() const {
  if (!pattern.sees) return all_pairs();
  const Index same = pattern.sees.by_head() ? 1 : batch * heads;  // heads that one is counted for
  Index kept = 0;
  for (Index head = 0; head < batch * heads / same; ++head) {
    for (Index i = 0; i < queries; ++i) {
      if (pattern.count) {
        kept += pattern.count(i);
      } else {
        for (Index j = 0; j < keys; ++j) kept += pattern.sees({head / heads, head % heads, i}, j) ? 1 : 0;
      }
    }
  }
  return double(kept) * double(same);
}

double Shape::kv_bytes() const {
  return double(batch) * double(kv_heads) * double(keys) * double(key_dim + value_dim) * (type == "f64" ? 8 : 4);
}

std::vector<Shape> prefill_shapes() {
  std::vector<Shape> shapes;
  const auto square = [&shapes](Index n, Index dim, bool quick_full, bool quick_causal) {
    shapes.push_back(shape("prefill", full(), 1, 8, 8, n, n, dim, quick_full));
    shapes.push_back(shape("prefill", causal(n, n), 1, 8, 8, n, n, dim, quick_causal));
  };
  square(512, 64, true, true);
  square(2048, 64, true, true);
  square(4096, 64, true, true);
  square(8192, 64, false, false);
  square(512, 128, false, false);
  square(2048, 128, true, false);
  square(4096, 128, false, false);
  shapes.push_back(shape("prefill", full(), 8, 12, 12, 197, 197, 64, true));
  shapes.push_back(shape("prefill", full(), 1, 8, 8, 512, 4096, 64, true));
  shapes.push_back(shape("prefill", full(), 1, 8, 8, 2048, 2048, 64));
  shapes.back().type = "f64";
  return shapes;
}

std::vector<Shape> decode_shapes() {
  return {shape("decode", full(), 1, 32, 8, 1, 1024, 128, true), shape("decode", full(), 1, 32, 8, 1, 8192, 128, true),
          shape("decode", full(), 1, 32, 8, 1, 32768, 128), shape("decode", full(), 1, 8, 8, 1, 8192, 128, true),
          shape("decode", full(), 1, 8, 8, 1, 32768, 128)};
}

std::vector<Shape> small_shapes() {
  std::vector<Shape> shapes;
  for (const Index n : {16, 32, 64}) shapes.push_back(shape("small", full(), 64, 8, 8, n, n, 32, true));
  return shapes;
}

std::vector<Shape> real_shapes() {
  return {stored("use_l0", 4, 512, 64, true), stored("use_l1", 4, 512, 128, true),
          stored("use_l0_4k", 4, 4096, 64, true), stored("ocr_b1", 8, 256, 15, true),
          stored("ocr_b2", 8, 256, 15, true)};
}

std::vector<Shape> mask_shapes() {
  constexpr Index n = 4096;
  const std::vector<Index> borders = {0, 700, 1000, 2024, 2091, 3091, 3400, 3967, n};
  std::vector<Shape> shapes;
  for (const Pattern& pattern :
       {full(), window(n, n, 256), window(n, n, 1024), document(borders), document(borders, true)}) {
    shapes.push_back(shape("mask", pattern, 1, 8, 8, n, n, 64, pattern.label != "window_1024"));
  }
  return shapes;
}

std::vector<Shape> approximate_shapes(bool causal) {
  std::vector<Shape> shapes = real_shapes();
  for (Shape& s : shapes) s.quick = s.data == "use_l0_4k" || s.data == "ocr_b2";
  for (const char* kind : {"needles", "vertical_slash", "clusters", "grid", "gaussian"}) {
    shapes.push_back(shape("synthetic", full(), 1, 4, 4, 4096, 4096, 64));
    shapes.back().data = kind;
  }
  if (causal) {
    for (Shape& s : shapes) s.pattern = bench::causal(s.queries, s.keys);
  }
  return shapes;
}

std::vector<Shape> growth_shapes(bool causal) {
  std::vector<Shape> shapes;
  for (Index n = 256; n <= 65536; n *= 2) {
    shapes.push_back(shape("growth", causal ? bench::causal(n, n) : full(), 1, 2, 2, n, n, 64));
  }
  return shapes;
}

std::vector<Shape> quick_growth(std::vector<Shape> shapes) {
  for (Shape& s : shapes) s.quick = s.quick || (s.table == "growth" && s.keys <= 8192);
  return shapes;
}

std::vector<Shape> recall_shapes() { return {shape("recall", causal(256, 256), 1, 1, 1, 256, 256, 64)}; }

std::vector<Shape> dense_shapes() {
  std::vector<Shape> shapes = prefill_shapes();
  append(shapes, decode_shapes());
  append(shapes, small_shapes());
  append(shapes, real_shapes());
  return shapes;
}

std::optional<Shape> shortened(const Shape& shape) {
  constexpr Index most = 1024;
  if (double(shape.queries) * double(shape.keys) <= double(most) * double(most)) return {};
  Shape first = shape;
  first.queries = std::min(shape.queries, most);
  first.keys = std::min(shape.keys, most);
  if (shape.pattern.label == "causal") {
    first.pattern = causal(first.queries, first.keys);
  } else if (shape.pattern.sees) {
    throw std::logic_error("a head_reference of a long problem needs the pattern full or causal");
  }
  return first;
}

}  // namespace bench
