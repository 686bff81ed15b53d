// phi(x) = e^x, number by number, with shifts that keep it in range (exponential.hpp).
#pragma once

#include <fovea/parts/feature/exponential.hpp>
#include <fovea/parts/feature/identity.hpp>

namespace fovea::inline FOVEA_ISA::feature {

struct Exp {
  static constexpr bool exponential = true;

  template <class T>
  BoundExponential<T, BoundIdentity<T>> bind(const char*, const Shape&, Index dim) const {
    return {BoundIdentity<T>{dim}};
  }
};

inline Exp exp() { return {}; }

}  // namespace fovea::inline FOVEA_ISA::feature
