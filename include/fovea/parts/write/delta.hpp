// The delta rule: the value that the state predicts for a key is moved towards the new one.
//
//   S_t = S + k_t (beta_t (v_t - S^T k_t))^T
//
// The part of S along k_t is multiplied by 1 - beta_t |k_t|^2: with keys of length one, beta in [0, 2] never lets it
// grow.
#pragma once

#include <type_traits>

#include <fovea/parts/write/write.hpp>

namespace fovea::inline FOVEA_ISA::write {

template <class T>
struct BoundDelta {
  static constexpr bool corrects = true;

  View<const T> strengths;

  T beta(Index batch, Index kv_head, Index token) const { return *strengths.row(batch, kv_head, token); }
};

template <class U>
struct Delta {
  View<const U> strengths;

  template <class T>
  BoundDelta<T> bind(const char* where, const Shape& shape) const {
    static_assert(std::is_same_v<T, U>, "fovea: beta must have the scalar type of q");
    const auto& x = strengths;
    check(x.batch == shape.batch && x.heads == shape.kv_heads && x.length == shape.keys && x.dim == 1, where,
          "beta must be one number for each token and head of k, wanted [", shape.batch, ", ", shape.kv_heads, ", ",
          shape.keys, "], got [", x.batch, ", ", x.heads, ", ", x.length, "]");
    for (Index b = 0; b < x.batch; ++b) {
      for (Index h = 0; h < x.heads; ++h) {
        for (Index t = 0; t < x.length; ++t) {
          const T beta = *x.row(b, h, t);
          check(!(beta < T(0) || beta > T(2)), where, "beta must lie in [0, 2], got ", double(beta));
        }
      }
    }
    return {strengths};
  }
};

// beta [B,G,N], or a vector [N] beside matrices, each in [0, 2]: the user's memory.
template <class X>
auto delta(const X& beta) {
  const auto strengths = row_values(beta);
  return Delta<std::remove_const_t<std::remove_pointer_t<decltype(strengths.data)>>>{strengths};
}

}  // namespace fovea::inline FOVEA_ISA::write
