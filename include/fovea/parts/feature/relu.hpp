// phi(x) = max(x, 0) + epsilon. Without an epsilon the features of a token may all be zero: then it weighs nothing, and
// a query like that sees nothing.
#pragma once

#include <cmath>

#include <fovea/parts/feature/elementwise.hpp>

namespace fovea::inline FOVEA_ISA::feature {

struct Relu {
  double epsilon = 0;

  template <class T>
  auto bind(const char* where, const Shape&, Index dim) const {
    check(epsilon >= 0 && std::isfinite(epsilon), where, "the epsilon of feature::relu must not be negative, got ",
          epsilon);
    return elementwise<T>(dim, [added = T(epsilon)](simd::Pack<T> x) {
      return simd::at_least(simd::Pack<T>(T(0)), x) + simd::Pack<T>(added);
    });
  }
};

inline Relu relu(double epsilon = 0) { return {epsilon}; }

}  // namespace fovea::inline FOVEA_ISA::feature
