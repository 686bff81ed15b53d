// Learned or drawn matrices that tokens are multiplied by: y = W x + b, one matrix for all heads or one for each.
#pragma once

#include <memory>
#include <new>
#include <type_traits>

#include <fovea/parts/feature/feature.hpp>
#include <fovea/simd/tile.hpp>

namespace fovea::inline FOVEA_ISA::feature {

// The matrices of a call, transposed: [heads, in, whole vectors of out], and the b [heads, whole vectors of out].
template <class T>
struct BoundProjection {
  const T* weights = nullptr;
  const T* bias = nullptr;  // null when there is none
  Index in = 0, out = 0;
  Index sharing = 1;  // heads of the call that use one matrix

  Index width() const { return out; }

  // to = W x + b; to_stride is whole<T>(out) at least.
  template <Side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row first) const {
    const Index columns = simd::whole<T>(out);
    const Index head = first.head / sharing;
    const T* const w = weights + head * in * columns;
    Index i = 0;
    const auto run = [&](auto some) {
      constexpr int rows = decltype(some)::value;
      simd::multiply_rows<rows, simd::Onto::nothing>(columns, in, x + i * stride, stride, w, columns,
                                                     to + i * to_stride, to_stride);
      i += rows;
    };
    while (count - i >= simd::tile_rows) run(std::integral_constant<int, simd::tile_rows>{});
    if (count - i >= 4) run(std::integral_constant<int, 4>{});
    while (count - i >= 1) run(std::integral_constant<int, 1>{});
    if (bias == nullptr) return;
    const T* const b = bias + head * columns;
    for (i = 0; i < count; ++i) {
      for (Index j = 0; j < columns; j += simd::lanes<T>)
        simd::store(to + i * to_stride + j, simd::load(to + i * to_stride + j) + simd::load(b + j));
    }
  }
};

class Projection {
 public:
  Projection() = default;

  // weights [heads, out, in] (batch 1), bias [heads, out, 1] or nothing; both are copied.
  template <class T>
  explicit Projection(View<const T> weights, View<const T> bias = {})
      : heads_(checked(weights, bias).heads),
        out_(weights.length),
        in_(weights.dim),
        single_(lay_out<float>(weights, bias)),
        double_(lay_out<double>(weights, bias)) {}

  Index heads() const { return heads_; }
  Index out() const { return out_; }
  Index in() const { return in_; }

  // For tokens of dim numbers in `heads` heads, of which every heads / heads() in turn use one matrix.
  template <class T>
  BoundProjection<T> bind(const char* where, Index heads, Index dim) const {
    check(in_ == dim, where, "the weights of the feature map must have the width of q, wanted ", dim, ", got ", in_);
    check(heads_ > 0 && heads % heads_ == 0, where, "the matrices of the feature map must divide the heads, wanted ",
          "a divisor of ", heads, ", got ", heads_);
    BoundProjection<T> bound;
    if constexpr (std::is_same_v<T, float>) {
      bound.weights = single_.numbers.get();
      bound.bias = single_.bias;
    } else {
      bound.weights = double_.numbers.get();
      bound.bias = double_.bias;
    }
    bound.in = in_;
    bound.out = out_;
    bound.sharing = heads > 0 ? heads / heads_ : 1;
    return bound;
  }

 private:
  template <class T>
  static const View<const T>& checked(const View<const T>& weights, const View<const T>& bias) {
    constexpr auto where = "fovea::feature::Projection";
    check(weights.batch == 1, where, "weights are [heads, out, in], got a batch of ", weights.batch);
    check(weights.heads > 0 && weights.length > 0 && weights.dim > 0, where, "weights must not be empty, got [",
          weights.heads, ", ", weights.length, ", ", weights.dim, "]");
    check(bias.data == nullptr ||
              (bias.batch == 1 && bias.heads == weights.heads && bias.length == weights.length && bias.dim == 1),
          where, "bias must have one number for each row of the weights, wanted [", weights.heads, ", ", weights.length,
          "], got [", bias.heads, ", ", bias.length, "]");
    return weights;
  }

  template <class T>
  struct Laid {
    std::shared_ptr<const T[]> numbers = {};
    const T* bias = nullptr;
  };

  template <class T, class From>
  static Laid<T> lay_out(const View<const From>& weights, const View<const From>& bias) {
    constexpr auto alignment = std::align_val_t(64);
    const Index in = weights.dim, out = weights.length, columns = simd::whole<T>(out), heads = weights.heads;
    const Index count = heads * (in + 1) * columns;
    T* const numbers = static_cast<T*>(::operator new(std::size_t(count) * sizeof(T) + 64, alignment));
    Laid<T> result{
        std::shared_ptr<const T[]>(numbers, [](const T* p) { ::operator delete(const_cast<T*>(p), alignment); }),
        bias.data == nullptr ? nullptr : numbers + heads * in * columns};
    for (Index n = 0; n < count; ++n) numbers[n] = T(0);
    for (Index h = 0; h < heads; ++h) {
      for (Index o = 0; o < out; ++o) {
        for (Index i = 0; i < in; ++i) numbers[(h * in + i) * columns + o] = T(weights.row(0, h, o)[i]);
        if (bias.data != nullptr) numbers[(heads * in + h) * columns + o] = T(*bias.row(0, h, o));
      }
    }
    return result;
  }

  Index heads_ = 0, out_ = 0, in_ = 0;
  Laid<float> single_ = {};
  Laid<double> double_ = {};
};

}  // namespace fovea::inline FOVEA_ISA::feature
