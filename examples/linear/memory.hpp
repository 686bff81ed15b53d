// What the references of methods with a matrix memory return: the outputs and the state after the last token.
#pragma once

#include "dense/scaled_dot_product.hpp"

namespace fovea::reference {

template <class Real>
struct Memory {
  Matrix<Real> out;    // [N x E]
  Matrix<Real> state;  // [D x E]
};

}  // namespace fovea::reference
