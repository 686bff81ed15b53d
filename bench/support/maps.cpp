#include "maps.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <utility>
#include <vector>

#if __has_include(<xtensor/io/xnpy.hpp>)
#include <xtensor/containers/xadapt.hpp>
#include <xtensor/io/xnpy.hpp>
#else
#include <xtensor/xadapt.hpp>
#include <xtensor/xnpy.hpp>
#endif

#include "apart.hpp"

namespace bench {
namespace {

// The second of two heads: of the stored tensors the one with the clearest structure, and one that streams where only
// every other head does.
constexpr Index heads = 2, head = 1, most_tokens = 1024, side = 32;

struct Tensors {
  std::string name;
  Given given;  // without values
  Index tokens() const { return given.k->dimension(2); }
};

Shape base_shape(const std::string& data, Index tokens) {
  return {.table = "map",
          .heads = heads,
          .kv_heads = heads,
          .queries = tokens,
          .keys = tokens,
          .key_dim = 64,
          .value_dim = 64,
          .data = data};
}

Tensors make_tensors(const Shape& shape) {
  return {shape.data, leading_tokens(shape, shape.heads > 1 ? heads : 1, most_tokens)};
}

std::shared_ptr<const Tensor<float>> identity(Index count, Index size) {
  auto values = std::make_shared<Tensor<float>>(Index{1}, count, size, size);
  values->setZero();
  for (Index h = 0; h < count; ++h) {
    for (Index j = 0; j < size; ++j) (*values)(0, h, j, j) = 1;
  }
  return values;
}

// One call: what is to be seen of which method on which numbers.
struct Map {
  const Registered* method;
  const Tensors* on;
  Shape shape;
  std::string file;

  // Writes the file.
  void draw(const std::string& folder) const {
    const Prepared ready = method->prepare(shape);
    ready.call();
    const Index drawn = std::min(head, shape.heads - 1);
    const auto* const weights = static_cast<const float*>(ready.out) + drawn * shape.queries * shape.keys;
    const std::vector<std::size_t> extents = {std::size_t(shape.queries), std::size_t(shape.keys)};
    xt::dump_npy(folder + "/" + file, xt::adapt(weights, extents[0] * extents[1], xt::no_ownership(), extents));
  }
};

// The shape of a method's map: one of its own, cut to the tokens that there are.
Shape map_shape(const Shape& own, const Tensors& on) {
  Shape shape = base_shape(on.name, on.tokens());
  shape.heads = shape.kv_heads = on.given.q->dimension(1);
  shape.key_dim = on.given.k->dimension(3);
  shape.value_dim = shape.keys;
  shape.pattern = own.pattern;
  Given given = on.given;
  const bool by_token = own.queries == 1 && own.keys == 1;
  if (own.queries == 1 && !by_token) {
    const Index last = given.q->dimension(2) - 1;
    auto one = std::make_shared<Tensor<float>>(Index{1}, shape.heads, Index{1}, shape.key_dim);
    for (Index h = 0; h < shape.heads; ++h) std::copy_n(&(*given.q)(0, h, last, 0), shape.key_dim, &(*one)(0, h, 0, 0));
    given.q = one;
    shape.pattern = full();
  }
  shape.queries = given.q->dimension(2);
  if (by_token || own.pattern.label == "causal") shape.pattern = causal(shape.queries, shape.keys);
  given.v = identity(shape.heads, shape.keys);
  shape.given = std::make_shared<const Given>(std::move(given));
  return shape;
}

// Dense attention beside: causal where the pattern never shows what comes later.
Pattern dense_pattern(const Shape& shape) {
  if (!shape.pattern.sees || shape.queries == 1) return full();
  const Index offset = shape.keys - shape.queries;
  for (Index i = 0; i < shape.queries; ++i) {
    for (Index j = i + offset + 1; j < shape.keys; ++j) {
      if (shape.pattern.sees(i, j)) return full();
    }
  }
  return causal(shape.queries, shape.keys);
}

std::string file_name(std::string text) {
  for (std::size_t at = 0; (at = text.find('/', at)) != std::string::npos;) text.replace(at, 1, "__");
  return text + ".npy";
}

}  // namespace

int telling(const Shape& shape) {
  if (shape.data == "use_l0_4k") return 4;
  if (!shape.data.empty()) return 3;
  if (shape.table == "growth") return 2;
  return shape.pattern.label == "full" ? 0 : 1;
}

bool make_maps(const std::string& folder, const Selection& selection) {
  const bool own = selection.instead.empty();
  Shape stored = base_shape("use_l0_4k", 4096);
  stored.heads = stored.kv_heads = 4;
  const Tensors plain = make_tensors(own ? stored : selection.instead.front());
  const std::optional<Tensors> grid = own ? std::optional(make_tensors(base_shape("grid", side * side))) : std::nullopt;

  // Of each name the entry and the shape that say most.
  std::map<std::string, std::pair<const Registered*, const Shape*>> chosen;
  const Registered* dense = nullptr;
  for (const Registered& method : registered()) {
    if (method.type != "f32") continue;
    if (method.name == "dense/scaled_dot_product") dense = &method;
    if (!is_selected(method, selection)) continue;
    for (const Shape& shape : method.shapes) {
      if (shape.table == "cache" || shape.table == "recall") continue;
      auto& [best, best_shape] = chosen[method.name];
      if (best == nullptr || telling(shape) > telling(*best_shape)) {
        best = &method;
        best_shape = &shape;
      }
    }
  }

  std::vector<Map> maps;
  for (const auto& [name, of] : chosen) {
    const Tensors& on = grid && of.first->details.on_grid ? *grid : plain;
    maps.push_back({of.first, &on, map_shape(*of.second, on), file_name(name)});
  }
  std::filesystem::create_directories(folder);
  std::vector<Job> jobs;
  std::map<std::string, std::size_t> dense_files;  // and the jobs that make them
  std::vector<std::string> beside;
  for (const Map& map : maps) {
    Map full = map;
    full.method = dense;
    full.shape.pattern = dense_pattern(map.shape);
    full.file =
        file_name("dense/" + map.on->name + "/" + (map.shape.queries == 1 ? "last_query" : full.shape.pattern.label));
    beside.push_back(full.file);
    if (dense != nullptr && dense_files.emplace(full.file, jobs.size()).second) {
      jobs.push_back({full.file, [full, folder] { return full.draw(folder), std::string(); }});
    }
  }
  const std::size_t first = jobs.size();
  for (const Map& map : maps) {
    jobs.push_back({map.method->name, [&map, folder] { return map.draw(folder), std::string(); }});
  }
  const std::vector<Left> left = run_apart(jobs, std::size_t(selection.threads.back()));

  std::ofstream index(folder + "/index.json");
  index << "[\n";
  for (std::size_t i = 0; i < maps.size(); ++i) {
    const Map& map = maps[i];
    const auto beside_it = dense_files.find(beside[i]);
    std::string failure = left[first + i].failure;
    if (failure.empty() && beside_it == dense_files.end()) failure = "no dense attention beside it";
    if (failure.empty()) failure = left[beside_it->second].failure;
    index << "  {\"method\": " << quoted(map.method->name);
    if (failure.empty()) {
      index << ", \"data\": " << quoted(map.on->name) << ", \"pattern\": " << quoted(map.shape.pattern.label)
            << ", \"head\": " << std::min(head, map.shape.heads - 1) << ", \"tokens\": " << map.shape.keys;
      if (grid && map.on == &*grid) index << ", \"grid\": [" << side << ", " << side << "]";
      if (map.shape.queries == 1) index << ", \"query\": " << map.shape.keys - 1;
      index << ", \"weights\": " << quoted(map.file) << ", \"dense\": " << quoted(beside[i]);
    } else {
      index << ", \"failed\": " << quoted(failure);
    }
    index << (i + 1 < maps.size() ? "},\n" : "}\n");
  }
  index << "]\n";
  if (!index.flush()) throw std::runtime_error(folder + "/index.json: cannot be written");
  return none_crashed(left);
}

}  // namespace bench
