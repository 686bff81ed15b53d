// phi(x) = max(x, 0)^2. The features of a token may all be zero: then it weighs nothing.
#pragma once

#include <fovea/parts/feature/elementwise.hpp>

namespace fovea::inline FOVEA_ISA::feature {

struct SquaredRelu {
  template <class T>
  auto bind(const char*, const Shape&, Index dim) const {
    return elementwise<T>(dim, [](simd::Pack<T> x) {
      const simd::Pack<T> positive = simd::at_least(simd::Pack<T>(T(0)), x);
      return positive * positive;
    });
  }
};

inline SquaredRelu squared_relu() { return {}; }

}  // namespace fovea::inline FOVEA_ISA::feature
