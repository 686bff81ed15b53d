// phi(x) = elu(x) + 1, which is x + 1 above zero and e^x below. Katharopoulos et al. 2020, arXiv:2006.16236.
#pragma once

#include <fovea/parts/feature/elementwise.hpp>

namespace fovea::inline FOVEA_ISA::feature {

struct EluPlusOne {
  template <class T>
  auto bind(const char*, const Shape&, Index dim) const {
    return elementwise<T>(dim, [](simd::Pack<T> x) {
      const simd::Pack<T> zero(T(0));
      return simd::at_least(zero, x) + simd::exp_in_range<T>(simd::at_most(zero, x));
    });
  }
};

inline EluPlusOne elu_plus_one() { return {}; }

}  // namespace fovea::inline FOVEA_ISA::feature
