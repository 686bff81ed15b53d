// Heads of arrays as matrices, for the references.
#pragma once

#include <fovea/core/view.hpp>

#include "dense/scaled_dot_product.hpp"

namespace fovea::fuzz {

template <class Real, class T>
reference::Matrix<Real> head(const View<T>& x, Index b, Index h) {
  reference::Matrix<Real> m(x.length, x.dim);
  for (Index i = 0; i < x.length; ++i) {
    for (Index d = 0; d < x.dim; ++d) m(i, d) = Real(x.row(b, h, i)[d]);
  }
  return m;
}

}  // namespace fovea::fuzz
