// Maps that take every number of a row by itself: F = D.
#pragma once

#include <fovea/parts/feature/feature.hpp>
#include <fovea/simd/features.hpp>

namespace fovea::inline FOVEA_ISA::feature {

// f(Pack<T>) gives the features of a vector of numbers.
template <class T, class F>
struct BoundElementwise {
  Index dim;
  F f;

  Index width() const { return dim; }

  template <Side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row) const {
    for (Index i = 0; i < count; ++i) simd::map_row(x + i * stride, dim, to + i * to_stride, f);
  }
};

template <class T, class F>
BoundElementwise<T, F> elementwise(Index dim, F f) {
  return {dim, f};
}

}  // namespace fovea::inline FOVEA_ISA::feature
