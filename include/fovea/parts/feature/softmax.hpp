// phi(x) = softmax over the D numbers of x: positive features whose sum is one.
#pragma once

#include <fovea/parts/feature/feature.hpp>
#include <fovea/simd/features.hpp>
#include <fovea/simd/row.hpp>

namespace fovea::inline FOVEA_ISA::feature {

namespace detail {

// to = the softmax of n numbers; to may be x. NaN or nothing but -infinity gives NaN.
template <class T>
void softmax_row(const T* x, Index n, T* to) {
  const simd::Pack<T> most(simd::largest(x, n));
  simd::Pack<T> sums(T(0));
  Index j = 0;
  for (; j + simd::lanes<T> <= n; j += simd::lanes<T>) {
    const simd::Pack<T> weight = simd::exp_in_range<T>(simd::load(x + j) - most);
    sums = sums + weight;
    simd::store(to + j, weight);
  }
  if (j < n) {
    const simd::Pack<T> weight = simd::exp_in_range<T>(simd::load_some(x + j, n - j, -simd::infinity<T>) - most);
    sums = sums + weight;
    simd::store_some(to + j, weight, n - j);
  }
  simd::scale(to, n, T(1) / simd::sum_of_lanes<T>(sums));
}

}  // namespace detail

template <class T>
struct BoundSoftmax {
  Index dim;

  Index width() const { return dim; }

  template <Side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row) const {
    for (Index i = 0; i < count; ++i) detail::softmax_row(x + i * stride, dim, to + i * to_stride);
  }
};

struct Softmax {
  template <class T>
  BoundSoftmax<T> bind(const char*, const Shape&, Index dim) const {
    return {dim};
  }
};

inline Softmax softmax() { return {}; }

}  // namespace fovea::inline FOVEA_ISA::feature
