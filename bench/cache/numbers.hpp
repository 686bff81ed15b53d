// What the benches of caches store: standard normal numbers, or the keys and values of a trained model.
#pragma once

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "input.hpp"

namespace bench::cached {

enum class Side { keys, values };

// `count` standard normal numbers, the same million of each side again and again, from place `first` on.
inline void normal_numbers(Side side, Index first, Index count, float* to) {
  constexpr Index period = 1000003;  // prime, so that no two tokens are alike
  const auto make = [](unsigned seed) {
    std::vector<float> numbers(period);
    std::mt19937_64 engine(seed);
    std::normal_distribution<float> normal;
    std::generate(numbers.begin(), numbers.end(), [&] { return normal(engine); });
    return numbers;
  };
  static const std::vector<float> all[] = {make(2), make(3)};
  const std::vector<float>& numbers = all[side == Side::keys ? 0 : 1];
  for (first %= period; count > 0; first = 0) {
    const Index some = std::min(count, period - first);
    std::copy_n(numbers.data() + first, some, to);
    to += some;
    count -= some;
  }
}

// The tokens of a shape before they are stored.
class Original {
 public:
  explicit Original(const Shape& shape) : shape_(shape) {
    if (shape.data.empty()) return;
    shape_.queries = shape_.keys;  // stored tensors have a query for each key
    const Input<float> in = make_input<float>(shape_);
    q_ = in.q_data;
    k_ = in.k_data;
    v_ = in.v_data;
  }

  // Tokens of one head as rows [tokens, dim].
  void read(Side side, Index batch, Index kv_head, Index first, Index count, float* to) const {
    const Index dim = side == Side::keys ? shape_.key_dim : shape_.value_dim;
    for (Index t = first; t < first + count; ++t, to += dim) {
      if (k_) {
        std::copy_n(&(side == Side::keys ? *k_ : *v_)(batch, kv_head, t, 0), dim, to);
      } else {
        normal_numbers(side, ((batch * shape_.keys + t) * shape_.kv_heads + kv_head) * dim, dim, to);
      }
    }
  }

  // The last queries [B,heads,count,D].
  std::shared_ptr<const Tensor<float>> queries(Index heads, Index count) const {
    const Shape& s = shape_;
    if (!q_) return gaussian<float>(1, {s.batch, heads, count, s.key_dim});
    auto last = std::make_shared<Tensor<float>>(s.batch, heads, count, s.key_dim);
    for (Index head = 0; head < s.batch * heads; ++head)
      std::copy_n(q_->data() + ((head + 1) * s.keys - count) * s.key_dim, count * s.key_dim,
                  last->data() + head * count * s.key_dim);
    return last;
  }

 private:
  Shape shape_;
  std::shared_ptr<const Tensor<float>> q_, k_, v_;
};

}  // namespace bench::cached
