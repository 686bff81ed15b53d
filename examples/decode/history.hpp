// What the model keeps of the tokens that it has seen.
#pragma once

#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/window.hpp>
#include <vector>

#include "decode/model.hpp"

namespace decode {

class History {
 public:
  virtual ~History() = default;

  // Appends the keys and values of one layer, and attends over all that it then has, up to the `window` last tokens.
  virtual void operator()(Index layer, const Heads& heads) = 0;
};

// Keys and values in plain arrays that grow, as a program without caches has them.
class Arrays : public History {
 public:
  Arrays(const Model& model, Index sequences, Index window)
      : sequences_(sequences), window_(window), arrays_(std::size_t(model.layers * sequences)) {}

  void operator()(Index layer, const Heads& heads) override {
    const auto recipe = fovea::softmax().mask(fovea::mask::causal() & fovea::mask::window(window_));
    for (Index b = 0; b < sequences_; ++b) {
      Pair& kept = arrays_[std::size_t(layer * sequences_ + b)];
      const auto q = one(heads.q, b);
      const auto out = one(heads.out, b);
      fovea::attend(q, append(kept.k, one(heads.k, b)), append(kept.v, one(heads.v, b)), out, recipe);
    }
  }

 private:
  struct Pair {
    std::vector<float> k, v;  // [tokens, kv_heads, head_dim]
  };

  template <class T>
  static fovea::View<T> one(fovea::View<T> all, Index sequence) {
    all.data += sequence * all.batch_stride;
    all.batch = 1;
    return all;
  }

  static fovea::View<const float> append(std::vector<float>& kept, const fovea::View<const float>& rows) {
    for (Index i = 0; i < rows.length; ++i) {
      for (Index h = 0; h < rows.heads; ++h) kept.insert(kept.end(), rows.row(0, h, i), rows.row(0, h, i) + rows.dim);
    }
    const Index token = rows.heads * rows.dim;
    return {kept.data(), 1, rows.heads, Index(kept.size()) / token, rows.dim, 0, rows.dim, token};
  }

  Index sequences_, window_;
  std::vector<Pair> arrays_;
};

}  // namespace decode
