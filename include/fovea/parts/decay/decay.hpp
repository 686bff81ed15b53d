// What a decay is: how much of the state a token leaves of what stood there before it, e^g with a log decay g <= 0.
//
//   S_t = Diag(e^g_t) S_{t-1} + ...        the token's own part is not decayed
//
// A decay is a small value. `bind<T>(where, shape, width)` checks it against a call (width: the rows of the state) and
// gives the bound decay: its kind, and
//
//   per_head     double log_decay(kv_head)                            the same for every token
//   per_token    T log_gate(batch, kv_head, token)
//   per_channel  const T* log_gates(batch, kv_head, token)            one number for each row of the state
//
// -infinity is legal: e^g is zero and the state starts anew.
#pragma once

#include <fovea/core/problem.hpp>
#include <fovea/simd/range.hpp>

namespace fovea::inline FOVEA_ISA::decay {

enum class Kind { none, per_head, per_token, per_channel };

template <class T>
struct BoundNone {
  static constexpr Kind kind = Kind::none;
};

// Nothing is forgotten.
struct None {
  template <class T>
  BoundNone<T> bind(const char*, const Shape&, Index /*width*/) const {
    return {};
  }
};

inline None none() { return {}; }

namespace detail {

// Gates of a call: right shape, none above zero.
template <class T>
void check_gates(const char* where, const View<const T>& gates, const Shape& shape, Index dim) {
  check(gates.batch == shape.batch && gates.heads == shape.kv_heads && gates.length == shape.keys && gates.dim == dim,
        where, "log gates must belong to the tokens and heads of k, wanted [", shape.batch, ", ", shape.kv_heads, ", ",
        shape.keys, ", ", dim, "], got [", gates.batch, ", ", gates.heads, ", ", gates.length, ", ", gates.dim, "]");
  for (Index b = 0; b < gates.batch; ++b) {
    for (Index h = 0; h < gates.heads; ++h) {
      const bool one_row = gates.length_stride == gates.dim;
      for (Index t = 0; t < (one_row ? Index{1} : gates.length); ++t) {
        const T* row = gates.row(b, h, t);
        const Index n = one_row ? gates.length * gates.dim : gates.dim;
        check(simd::within(row, n, -simd::infinity<T>, T(0)), where, "log gates must not be positive, batch ", b,
              " head ", h, " has one that is");
      }
    }
  }
}

}  // namespace detail

}  // namespace fovea::inline FOVEA_ISA::decay
