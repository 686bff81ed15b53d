// One log decay for each token and kv head: S_t = e^g_t S_{t-1} + ...
#pragma once

#include <type_traits>

#include <fovea/parts/decay/decay.hpp>

namespace fovea::inline FOVEA_ISA::decay {

template <class T>
struct BoundPerToken {
  static constexpr Kind kind = Kind::per_token;

  View<const T> gates;

  T log_gate(Index batch, Index kv_head, Index token) const { return *gates.row(batch, kv_head, token); }
};

template <class U>
struct PerToken {
  View<const U> gates;

  template <class T>
  BoundPerToken<T> bind(const char* where, const Shape& shape, Index /*width*/) const {
    static_assert(std::is_same_v<T, U>, "fovea: log gates must have the scalar type of q");
    detail::check_gates(where, gates, shape, 1);
    return {gates};
  }
};

// log_gate [B,G,N], or a vector [N] beside matrices: the user's memory.
template <class X>
auto per_token(const X& log_gate) {
  const auto gates = row_values(log_gate);
  return PerToken<std::remove_const_t<std::remove_pointer_t<decltype(gates.data)>>>{gates};
}

}  // namespace fovea::inline FOVEA_ISA::decay
