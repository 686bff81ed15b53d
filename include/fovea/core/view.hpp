// View<T>: a [batch, heads, length, dim] array with free strides on the first three axes and a contiguous last one.
// The only array type inside the library; core/eigen.hpp turns Eigen objects into views.
#pragma once

#include <cstddef>
#include <type_traits>

#include <fovea/core/config.hpp>

namespace fovea::inline FOVEA_ISA {

// Extents of a contiguous array given by a raw pointer.
struct Extents {
  Index batch = 1;
  Index heads = 1;
  Index length = 0;
  Index dim = 0;

  bool operator==(const Extents&) const = default;
};

template <class T>
struct View {
  T* data = nullptr;
  Index batch = 0;
  Index heads = 0;
  Index length = 0;
  Index dim = 0;
  Index batch_stride = 0;  // in elements, as are the other strides; zero repeats the same memory
  Index head_stride = 0;
  Index length_stride = 0;

  T* row(Index b, Index h, Index i) const { return data + (b * batch_stride + h * head_stride + i * length_stride); }
  Extents extents() const { return {batch, heads, length, dim}; }

  operator View<const T>() const requires(!std::is_const_v<T>) {
    return {data, batch, heads, length, dim, batch_stride, head_stride, length_stride};
  }
};

// The contiguous row-major array [batch, heads, length, dim] at `data`.
template <class T>
View<T> view(T* data, const Extents& extents) {
  const auto [batch, heads, length, dim] = extents;
  return {data, batch, heads, length, dim, heads * length * dim, length * dim, dim};
}

}  // namespace fovea::inline FOVEA_ISA
