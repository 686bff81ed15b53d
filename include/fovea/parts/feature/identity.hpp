// phi(x) = x: queries and keys as they are. An engine may read them where they lie.
#pragma once

#include <fovea/parts/feature/feature.hpp>
#include <fovea/simd/row.hpp>

namespace fovea::inline FOVEA_ISA::feature {

template <class T>
struct BoundIdentity {
  Index dim;

  Index width() const { return dim; }

  template <Side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row) const {
    for (Index i = 0; i < count; ++i) simd::copy(to + i * to_stride, x + i * stride, dim);
  }
};

struct Identity {
  static constexpr bool signed_features = true;

  template <class T>
  BoundIdentity<T> bind(const char*, const Shape&, Index dim) const {
    return {dim};
  }
};

inline Identity identity() { return {}; }

}  // namespace fovea::inline FOVEA_ISA::feature
