// Whether numbers in memory stay within bounds.
#pragma once

#include <fovea/simd/ops.hpp>

namespace fovea::inline FOVEA_ISA::simd {

// Whether no element lies below `low` or above `high`; NaN does neither.
template <class T>
inline bool within(const T* x, Index n, T low, T high) {
  const Pack<T> least(low), most(high);
  Index j = 0;
  for (; j + lanes<T> <= n; j += lanes<T>) {
    const Pack<T> v = load(x + j);
    if (any((v < least) || (v > most))) return false;
  }
  for (; j < n; ++j) {
    if (x[j] < low || x[j] > high) return false;
  }
  return true;
}

}  // namespace fovea::inline FOVEA_ISA::simd
