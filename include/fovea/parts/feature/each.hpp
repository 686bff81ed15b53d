// Any map of the user's: a function of a number, or of a row.
#pragma once

#include <span>
#include <type_traits>
#include <utility>

#include <fovea/parts/feature/feature.hpp>

namespace fovea::inline FOVEA_ISA::feature {

template <class T, class F>
struct BoundEach {
  Index dim;
  F f;

  Index width() const { return dim; }

  template <Side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row) const {
    for (Index i = 0; i < count; ++i) {
      for (Index j = 0; j < dim; ++j) to[i * to_stride + j] = f(x[i * stride + j]);
    }
  }
};

template <class F>
struct Each {
  F f;

  template <class T>
  BoundEach<T, F> bind(const char*, const Shape&, Index dim) const {
    static_assert(std::is_invocable_r_v<T, const F&, T>, "fovea: feature::each takes a function callable as T(T)");
    return {dim, f};
  }
};

// f(x) gives the feature of a number; F = D. It is called from several threads. Features should not be negative where
// their sum is divided by.
template <class F>
Each<F> each(F f) {
  return {std::move(f)};
}

template <class T, class F>
struct BoundMap {
  Index dim, features;
  F f;

  Index width() const { return features; }

  template <Side side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row first) const {
    for (Index i = 0; i < count; ++i) {
      const std::span<const T> from(x + i * stride, std::size_t(dim));
      const std::span<T> result(to + i * to_stride, std::size_t(features));
      if constexpr (std::is_invocable_v<const F&, std::span<const T>, std::span<T>, Side, Row>) {
        f(from, result, side, Row{first.batch, first.head, first.query + i});
      } else {
        f(from, result);
      }
    }
  }
};

template <class F>
struct Map {
  Index features;
  F f;

  template <class T>
  BoundMap<T, F> bind(const char* where, const Shape&, Index dim) const {
    static_assert(std::is_invocable_v<const F&, std::span<const T>, std::span<T>> ||
                      std::is_invocable_v<const F&, std::span<const T>, std::span<T>, Side, Row>,
                  "fovea: feature::map takes a function callable as f(std::span<const T> x, std::span<T> features) or "
                  "f(x, features, fovea::feature::Side, fovea::Row)");
    check(features > 0, where, "feature::map must give at least one feature, got ", features);
    return {dim, features, f};
  }
};

// f(x, features) writes the `features` features of the D numbers of a token; f(x, features, side, at) is told which
// token of which head, a kv head for keys. It is called from several threads. Features should not be negative where
// their sum is divided by.
template <class F>
Map<F> map(Index features, F f) {
  return {features, std::move(f)};
}

}  // namespace fovea::inline FOVEA_ISA::feature
