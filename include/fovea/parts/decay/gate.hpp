// The decay that an array of log gates asks for by its axes: those of q give one for each channel, those of q without
// the last one for each token.
#pragma once

#include <fovea/parts/decay/per_channel.hpp>
#include <fovea/parts/decay/per_token.hpp>

namespace fovea::inline FOVEA_ISA::decay {

namespace detail {

template <class X>
inline constexpr bool is_decay = false;
template <class U>
inline constexpr bool is_decay<PerToken<U>> = true;
template <class U>
inline constexpr bool is_decay<PerChannel<U>> = true;

// Axes of an array; a vector in the place of a matrix has two.
template <class X>
constexpr int axes(bool matrix) {
  if constexpr (fovea::detail::is_view<X>) {
    return 4;
  } else if constexpr (fovea::detail::TensorLike<X>) {
    return int(X::NumIndices);
  } else {
    return !matrix && bool(X::IsVectorAtCompileTime) ? 1 : 2;
  }
}

}  // namespace detail

// Beside a tensor q [B,H,N,D]: log_gate [B,G,N] or [B,G,N,D]; beside a matrix q [N,D]: a vector [N] or a matrix [N,D].
// Views have four axes; one number for each token is then said as decay::per_token(view).
template <class Q, class Gate>
auto gate(const Gate& log_gate) {
  if constexpr (detail::is_decay<Gate>) {
    return log_gate;
  } else {
    constexpr int wanted = detail::axes<Q>(true), got = detail::axes<Gate>(false);
    static_assert(got == wanted || got + 1 == wanted,
                  "fovea: log gates must have the axes of q, or those but the last");
    if constexpr (got == wanted) {
      return per_channel(log_gate);
    } else {
      return per_token(log_gate);
    }
  }
}

}  // namespace fovea::inline FOVEA_ISA::decay
