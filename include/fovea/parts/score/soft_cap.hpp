// Soft-capped scores: cap tanh(s / cap), as in Gemma 2 (cap 50). Saturates, never overflows.
#pragma once

#include <cmath>

#include <fovea/parts/score/score.hpp>
#include <fovea/simd/row.hpp>

namespace fovea::inline FOVEA_ISA::score {

struct SoftCap {
  double cap = 0;

  template <class T>
  auto bind(const char* where, const Shape&) const {
    check(std::isfinite(T(cap)) && cap > 0 && std::isfinite(T(1) / T(cap)), where,
          "the soft cap and its inverse must be positive and finite in the scalar type of q, got ", cap);
    return [cap = T(cap)](T* scores, Row, Span keys) { simd::soft_cap(scores, keys.size(), cap); };
  }
};

constexpr SoftCap soft_cap(double cap) { return {cap}; }

}  // namespace fovea::inline FOVEA_ISA::score
