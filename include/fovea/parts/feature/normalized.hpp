// Features divided by their own sum: phi(x) / (sum_f phi_f(x) + epsilon); zeros when that is zero.
#pragma once

#include <cmath>
#include <optional>

#include <fovea/parts/feature/feature.hpp>
#include <fovea/simd/features.hpp>
#include <fovea/simd/row.hpp>

namespace fovea::inline FOVEA_ISA::feature {

template <class T, class Bound>
struct BoundNormalized {
  Bound inner;
  bool divides;
  T epsilon;

  Index width() const { return inner.width(); }

  template <Side side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row first) const {
    inner.template operator()<side>(x, stride, count, to, to_stride, first);
    for (Index i = 0; divides && i < count; ++i) {
      const T sum = simd::total(to + i * to_stride, width()) + epsilon;
      simd::scale(to + i * to_stride, width(), sum == T(0) ? T(0) : T(1) / sum);
    }
  }
};

template <class Phi>
struct Normalized {
  Phi inner;
  std::optional<double> epsilon;

  template <class T>
  auto bind(const char* where, const Shape& shape, Index dim) const {
    const double added = epsilon.value_or(0);
    check(added >= 0 && std::isfinite(added), where, "the epsilon of feature::normalized must not be negative, got ",
          added);
    auto bound = inner.template bind<T>(where, shape, dim);
    return BoundNormalized<T, decltype(bound)>{std::move(bound), epsilon.has_value(), T(added)};
  }
};

// Without an epsilon the features stay as they are.
template <class Phi>
Normalized<Phi> normalized(const Phi& phi, std::optional<double> epsilon = 1e-4) {
  static_assert(!has_signed_features<Phi>(), "fovea: features that may be negative cannot be divided by their sum");
  return {phi, epsilon};
}

}  // namespace fovea::inline FOVEA_ISA::feature
