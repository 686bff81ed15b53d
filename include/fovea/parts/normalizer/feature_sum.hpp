// What kernelised attention divides by: the sum of the weights phi(q_i) . phi(k_j), taken along as one more value
// column.
//
//   none       o_i = sum_j (phi(q_i) . phi(k_j)) v_j
//   sum_eps    the same, divided by   sum_j phi(q_i) . phi(k_j) + epsilon
//   clamp      the same, divided by   max(sum_j phi(q_i) . phi(k_j), least)
#pragma once

#include <fovea/core/check.hpp>

namespace fovea::inline FOVEA_ISA::normalizer {

struct FeatureSum {
  enum class Rule { none, sum_eps, clamp };

  Rule rule = Rule::none;
  double bound = 0;  // epsilon or the least divisor

  bool divides() const { return rule != Rule::none; }
  void check_for(const char* where) const {
    check(bound >= 0 && bound - bound == 0, where, "the bound of the divisor must be finite and not negative, got ",
          bound);
  }

  template <class T>
  T divisor(T sum) const {
    if (rule == Rule::sum_eps) return sum + T(bound);
    return sum < T(bound) ? T(bound) : sum;
  }
};

inline FeatureSum none() { return {}; }
inline FeatureSum sum_eps(double epsilon = 1e-6) { return {FeatureSum::Rule::sum_eps, epsilon}; }
inline FeatureSum clamp(double least) { return {FeatureSum::Rule::clamp, least}; }

}  // namespace fovea::inline FOVEA_ISA::normalizer
