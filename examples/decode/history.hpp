// What the model keeps of the tokens that it has read: keys and values of each layer and each sequence.
#pragma once

#include <algorithm>
#include <fovea/cache/contiguous.hpp>
#include <fovea/cache/paged.hpp>
#include <fovea/cache/rolling_cache.hpp>
#include <fovea/engine/attend.hpp>
#include <fovea/exec/workspace.hpp>
#include <fovea/parts/kv/batch.hpp>
#include <fovea/parts/kv/quantized.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/window.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "decode/model.hpp"

namespace decode {

inline constexpr Index everything = Index(1) << 40;  // a window that hides nothing
inline constexpr Index context = 1024;               // what the model was trained with
inline constexpr Index piece = 64;                   // tokens of a prompt that are read at a time

class History {
 public:
  virtual ~History() = default;

  // Appends keys and values of one layer and attends over all that it then has.
  virtual void operator()(Index layer, const Heads& heads) = 0;
};

template <class T>
fovea::View<T> sequence_of(fovea::View<T> all, Index sequence) {
  all.data += sequence * all.batch_stride;
  all.batch = 1;
  return all;
}

// kv::batch takes caches as they are. Contiguous and paged ones have the same source, though, and what is called with
// it is compiled once.
template <class Stored>
struct Sequence {
  Stored stored;
  const Stored& source() const { return stored; }
};

// Caches of the library, one for each layer and sequence.
template <class Cache>
class Caches : public History {
 public:
  template <class Make>
  Caches(const Model& model, Index sequences, Index window, const Make& make)
      : window_(window), layers_(std::size_t(model.layers)) {
    for (auto& layer : layers_) {
      for (Index b = 0; b < sequences; ++b) layer.push_back(make());
    }
  }

  void operator()(Index layer, const Heads& heads) override {
    std::vector<Cache>& caches = layers_[std::size_t(layer)];
    sources_.clear();
    for (std::size_t b = 0; b < caches.size(); ++b) {
      caches[b].append(sequence_of(heads.k, Index(b)), sequence_of(heads.v, Index(b)));
      sources_.push_back({source_for(caches[b], heads.q.length)});
    }
    const auto recipe = fovea::softmax().mask(fovea::mask::causal() & fovea::mask::window(window_));
    fovea::attend(heads.q, fovea::kv::batch(sources_), heads.out, recipe, fovea::exec::reuse(workspace_));
  }

 private:
  // A rolling cache hides what has left its window, and must not yet for the first of several queries.
  static auto source_for(const Cache& cache, Index queries) {
    if constexpr (requires { cache.source(queries - 1); }) {
      return cache.source(queries - 1);
    } else {
      return cache.source();
    }
  }

  Index window_;
  std::vector<std::vector<Cache>> layers_;  // [layers, sequences]
  std::vector<Sequence<decltype(source_for(std::declval<Cache>(), 1))>> sources_;
  fovea::Workspace workspace_;
};

// A kind of cache: its name, the bytes of a token of the model as it is stored, and how it is made for some sequences
// and a window.
struct Kind {
  std::string name;
  std::function<double(const Model&)> bytes;
  std::function<std::unique_ptr<History>(const Model&, Index sequences, Index window)> make;
};

template <class Tag>
double bytes_per_token(const Model& model) {
  const Index tokens = 1024;
  const auto k = fovea::kv::Formats<Tag>::keys("decode", model.head_dim, {});
  const auto v = fovea::kv::Formats<Tag>::values("decode", model.head_dim, {});
  return double(model.layers * model.kv_heads * (k.bytes(tokens) + v.bytes(tokens))) / double(tokens);
}

// Tag is float, Eigen::bfloat16, Eigen::half, kv::Int8 or kv::Int4.
template <class Tag>
Kind contiguous(const std::string& name) {
  using Cache = fovea::cache::Contiguous<Tag>;
  const auto make = [](const Model& model, Index sequences, Index window) -> std::unique_ptr<History> {
    return std::make_unique<Caches<Cache>>(model, sequences, window, [&] {
      return Cache({.kv_heads = model.kv_heads, .key_dim = model.head_dim, .value_dim = model.head_dim});
    });
  };
  return {name, bytes_per_token<Tag>, make};
}

template <class Tag>
Kind paged(const std::string& name, Index page_tokens) {
  const auto make = [=](const Model& model, Index sequences, Index window) -> std::unique_ptr<History> {
    const fovea::cache::Pool<Tag> pool({.kv_heads = model.kv_heads,
                                        .key_dim = model.head_dim,
                                        .value_dim = model.head_dim,
                                        .page_tokens = page_tokens});
    using Cache = fovea::cache::Paged<Tag>;
    return std::make_unique<Caches<Cache>>(model, sequences, window, [&] { return Cache(pool); });
  };
  return {name, bytes_per_token<Tag>, make};
}

// A ring that holds the window, the context where no shorter one is wanted: a text without end in memory that does not
// grow. There is room for a piece of a prompt beside the window.
template <class Tag>
Kind rolling(const std::string& name) {
  using Cache = fovea::cache::Rolling<Tag>;
  const auto make = [](const Model& model, Index sequences, Index window) -> std::unique_ptr<History> {
    window = std::min(window, context);
    return std::make_unique<Caches<Cache>>(model, sequences, window, [&] {
      return Cache({.kv_heads = model.kv_heads,
                    .key_dim = model.head_dim,
                    .value_dim = model.head_dim,
                    .window = window,
                    .spare = piece - 1});
    });
  };
  return {name, bytes_per_token<Tag>, make};
}

}  // namespace decode
