// The benches of caches, one storage type at a time:
//
//   cache/decode          one new token at the end of each sequence
//   cache/ragged          the same of sequences of very different lengths in one call, and call by call
//   cache/prefill_chunk   256 tokens of a prompt behind those that are cached
//   cache/append          256 tokens at once, and one by one
//
// `type` of a shape is what the cache stores, its pattern says how: contiguous, paged_16, paged_16_strewn.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fovea/engine/attend.hpp>
#include <fovea/exec/workspace.hpp>
#include <fovea/parts/kv/batch.hpp>
#include <fovea/parts/mask/causal.hpp>

#include "bench.hpp"
#include "sequences.hpp"

namespace bench::cached {

constexpr Index chunk = 256;

inline Shape cached_shape(const char* type, const std::string& layout, Index batch, Index heads, Index kv_heads,
                          Index queries, Index keys, Index dim, bool quick = false) {
  Shape s{.table = "cache",
          .batch = batch,
          .heads = heads,
          .kv_heads = kv_heads,
          .queries = queries,
          .keys = keys,
          .key_dim = dim,
          .value_dim = dim,
          .type = type,
          .quick = quick,
          .alone = true};
  s.pattern = causal(queries, keys);
  s.pattern.label = layout;
  return s;
}

inline std::vector<Shape> decode_cache_shapes(const char* type, const std::vector<std::string>& paged) {
  std::vector<Shape> shapes;
  for (const Index heads : {32, 8}) {
    for (const Index dim : {128, 64}) {
      for (const Index keys : {1024, 8192, 32768, 131072}) {
        const bool quick = dim == 128 && heads == 8 && keys == 32768;
        shapes.push_back(cached_shape(type, "contiguous", 1, heads, 8, 1, keys, dim, quick));
        if (keys <= 8192) shapes.push_back(cached_shape(type, "contiguous", 16, heads, 8, 1, keys, dim));
        if (dim != 128) continue;
        for (const std::string& layout : paged) {
          const bool first = layout == paged.front();
          shapes.push_back(cached_shape(type, layout, 1, heads, 8, 1, keys, dim, quick));
          if (keys == 8192 && first) shapes.push_back(cached_shape(type, layout, 16, heads, 8, 1, keys, dim));
        }
      }
    }
  }
  for (Shape real : real_shapes()) {
    if (real.key_dim % 32 != 0) continue;
    shapes.push_back(cached_shape(type, "contiguous", 1, real.heads, real.kv_heads, 1, real.keys, real.key_dim,
                                  real.data == "use_l0_4k"));
    shapes.back().data = real.data;
  }
  return shapes;
}

// Against the definition on what is stored, and on what it was before.
template <class Tag, class Attend>
Accuracy check(const Shape& shape, bool ragged, const Sequences<Tag>& sequences, const Tensor<float>& q,
               const Tensor<float>& out, const Attend& attend) {
  const std::vector<Index> lengths = lengths_of(shape, ragged);
  const std::vector<Row> rows = some_rows(shape, double(1 << 18));
  const Values got = rows_of(out, rows), exact = by_definition<double>(shape, lengths, q, rows, sequences.stored());
  Accuracy result;
  result.own = true;
  result.error = distance(got, exact);
  result.naive_error = distance(by_definition<float>(shape, lengths, q, rows, sequences.stored()), exact);
  const auto before = [&](const Shape& s, const Tensor<float>& queries, const std::vector<Row>& some) {
    std::string name = s.data + (ragged ? " ragged" : "") + " exact rows";
    add_numbers(name, {s.batch, s.heads, s.kv_heads, s.queries, s.keys, s.key_dim, s.value_dim});
    auto values = std::static_pointer_cast<const Values>(keep(name));
    if (!values) {
      values = std::make_shared<Values>(by_definition<double>(s, lengths, queries, some, sequences.before()));
      keep(name, values);
    }
    return values;
  };
  if (shape.data.empty()) {
    result.storage_error = distance(got, *before(shape, q, rows));
  } else {  // one token says little about a model
    Shape last = shape;
    last.queries = 64;
    last.pattern = causal(last.queries, last.keys);
    const auto queries = sequences.original().queries(last.heads, last.queries);
    Tensor<float> all(last.batch, last.heads, last.queries, last.value_dim);
    attend(*queries, all);
    const std::vector<Row> of_all = some_rows(last, double(1 << 20));
    result.storage_error = distance(rows_of(all, of_all), *before(last, *queries, of_all));
  }
  return result;
}

enum class Calls { one, one_each };

template <class Tag>
Prepared prepare_attend(const Shape& shape, bool ragged, Calls calls) {
  using View = typename Sequences<Tag>::View;
  const auto all = sequences<Tag>(shape, ragged);
  const auto q = all->original().queries(shape.heads, shape.queries);
  const auto out = std::make_shared<Tensor<float>>(shape.batch, shape.heads, shape.queries, shape.value_dim);
  const auto pool = std::make_shared<const fovea::exec::Pool>(shape.threads);
  const auto workspace = std::make_shared<fovea::Workspace>();
  const auto attend = [=](const Tensor<float>& queries, Tensor<float>& to) {
    const auto executor = fovea::exec::reuse(*workspace, *pool);
    const auto recipe = fovea::softmax().mask(fovea::mask::causal());
    const std::span<const View> views(all->views());
    if (calls == Calls::one) {
      fovea::attend(queries, fovea::kv::batch(views), to, recipe, executor);
      return;
    }
    const auto part = [](auto& tensor, Index b) {
      auto rows = fovea::view(tensor);
      rows.data = rows.row(b, 0, 0);
      rows.batch = 1;
      return rows;
    };
    for (Index b = 0; b < shape.batch; ++b) {
      const auto one = fovea::kv::batch(views.subspan(std::size_t(b), 1));
      fovea::attend(part(queries, b), one, part(to, b), recipe, executor);
    }
  };
  out->setConstant(std::numeric_limits<float>::quiet_NaN());
  Prepared ready;
  ready.call = [=] { attend(*q, *out); };
  ready.check = [=] { return check(shape, ragged, *all, *q, *out, attend); };
  ready.pool = pool;
  ready.bytes = all->bytes();
  ready.areas = all->areas();
  return ready;
}

// Into caches that have the room: empties them and fills them again.
template <class Tag>
Prepared prepare_append(const Shape& shape, Index at_once) {
  using fovea::cache::Contiguous, fovea::cache::Paged, fovea::cache::Pool;
  const Original original(shape);
  const auto k = std::make_shared<Tensor<float>>(1, shape.kv_heads, shape.queries, shape.key_dim);
  const auto v = std::make_shared<Tensor<float>>(1, shape.kv_heads, shape.queries, shape.value_dim);
  for (Index h = 0; h < shape.kv_heads; ++h) {
    original.read(Side::keys, 0, h, 0, shape.queries, &(*k)(0, h, 0, 0));
    original.read(Side::values, 0, h, 0, shape.queries, &(*v)(0, h, 0, 0));
  }
  Prepared ready;
  ready.pool = std::make_shared<const fovea::exec::Pool>(1);
  ready.flops = 0;
  const auto fill = [&](auto cache) {
    ready.call = [=] {
      cache->clear();
      for (Index t = 0; t < shape.queries; t += at_once) {
        const auto some = [&](const Tensor<float>& all) {
          auto rows = fovea::view(all);
          rows.data = rows.row(0, 0, t);
          rows.length = at_once;
          return rows;
        };
        cache->append(some(*k), some(*v));
      }
    };
    ready.check = [=] {
      if (cache->length() != shape.queries) throw std::runtime_error("tokens were lost");
      return Accuracy{};
    };
  };
  if (const Index page = page_tokens(shape); page > 0) {
    const Pool<Tag> pool({.kv_heads = shape.kv_heads,
                          .key_dim = shape.key_dim,
                          .value_dim = shape.value_dim,
                          .page_tokens = page,
                          .pages = (shape.queries + page - 1) / page});
    fill(std::make_shared<Paged<Tag>>(pool));
  } else {
    fill(std::make_shared<Contiguous<Tag>>(fovea::cache::ContiguousOptions{
        .kv_heads = shape.kv_heads, .key_dim = shape.key_dim, .value_dim = shape.value_dim, .reserve = shape.queries}));
  }
  return ready;
}

// All of them for a storage type; `paged` names its layouts in pages, if they are measured too.
template <class Tag>
bool add(const char* type, const std::vector<std::string>& paged) {
  const auto attend = [&](const char* name, const std::vector<Shape>& shapes, bool ragged, Calls calls) {
    return add_prepared(name, type, shapes,
                        [=](const Shape& shape) { return prepare_attend<Tag>(shape, ragged, calls); });
  };
  const auto append = [&](const char* name, const std::vector<Shape>& shapes, Index at_once) {
    return add_prepared(name, type, shapes, [=](const Shape& shape) { return prepare_append<Tag>(shape, at_once); });
  };
  std::vector<std::string> layouts = {"contiguous"};
  if (!paged.empty()) layouts.push_back(paged.front());

  std::vector<Shape> ragged, prompts, grown;
  for (const std::string& layout : layouts) {
    const bool first = layout == layouts.front();
    ragged.push_back(cached_shape(type, layout, 16, 32, 8, 1, 16384, 128));
    if (first && paged.empty()) ragged.clear();
    for (const Index tokens : {4096, 16384}) {
      for (const Index heads : {8, 32})
        prompts.push_back(cached_shape(type, layout, 1, heads, 8, chunk, tokens + chunk, 128,
                                       first && heads == 8 && tokens == 4096 && !paged.empty()));
    }
    grown.push_back(cached_shape(type, layout, 1, 8, 8, chunk, chunk, 128, first));
  }
  std::vector<Shape> one_by_one = grown;
  for (Shape& shape : one_by_one) shape.quick = false;
  return attend("cache/decode", decode_cache_shapes(type, paged), false, Calls::one) &&
         attend("cache/ragged_decode", ragged, true, Calls::one) &&
         attend("cache/ragged_decode_one_by_one", ragged, true, Calls::one_each) &&
         attend("cache/prefill_chunk", prompts, false, Calls::one) && append("cache/append", grown, chunk) &&
         append("cache/append_one_by_one", one_by_one, 1);
}
}  // namespace bench::cached
