// One log decay for each token and row of the state: S_t = Diag(e^g_t) S_{t-1} + ...
#pragma once

#include <type_traits>

#include <fovea/parts/decay/decay.hpp>

namespace fovea::inline FOVEA_ISA::decay {

template <class T>
struct BoundPerChannel {
  static constexpr Kind kind = Kind::per_channel;

  View<const T> gates;

  const T* log_gates(Index batch, Index kv_head, Index token) const { return gates.row(batch, kv_head, token); }
};

template <class U>
struct PerChannel {
  View<const U> gates;

  template <class T>
  BoundPerChannel<T> bind(const char* where, const Shape& shape, Index width) const {
    static_assert(std::is_same_v<T, U>, "fovea: log gates must have the scalar type of q");
    detail::check_gates(where, gates, shape, width);
    return {gates};
  }
};

// log_gate [B,G,N,D] (the width of the features where keys become features), or a matrix [N,D]: the user's memory.
template <class X>
auto per_channel(const X& log_gate) {
  const auto gates = view(log_gate);
  return PerChannel<std::remove_const_t<std::remove_pointer_t<decltype(gates.data)>>>{gates};
}

}  // namespace fovea::inline FOVEA_ISA::decay
