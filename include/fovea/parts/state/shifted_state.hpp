// The memory of a kernelised method whose features are exponentials: the matrix of MatrixState, divided by e^b, and the
// shift b of each batch and kv head, the largest exponent of the keys so far. The caller's own; it goes on where the
// last call ended.
#pragma once

#include <type_traits>
#include <vector>

#include <fovea/parts/state/matrix_state.hpp>

namespace fovea::inline FOVEA_ISA {

template <class T>
struct ShiftedState {
  MatrixState<T> matrix = {};
  std::vector<T> shift = {};  // [B x G], -infinity where there were no keys yet; empty while the matrix is

  bool empty() const { return matrix.empty() && shift.empty(); }
};

template <class Out, class T>
struct WithShiftedState {
  Out& out;
  ShiftedState<T>& state;
};

// An output together with the state that a call starts from and leaves behind.
template <class Out, class T>
WithShiftedState<std::remove_reference_t<Out>, T> with_state(Out&& out, ShiftedState<T>& state) {
  return {out, state};
}

namespace state {

namespace detail {
template <class X>
inline constexpr bool has_shifted_state = false;
template <class Out, class T>
inline constexpr bool has_shifted_state<WithShiftedState<Out, T>> = true;
}  // namespace detail

// The output alone, with a state of either kind or without.
template <class Out>
auto& plain_output(Out& out) {
  if constexpr (detail::has_shifted_state<std::remove_cv_t<Out>>) {
    return out.out;
  } else {
    return output(out);
  }
}

// The state that came with the output, or null: a ShiftedState when `shifted`, else a MatrixState.
template <class T, bool shifted, class Out>
auto kernelised(Out& out) {
  constexpr bool has_shifted = detail::has_shifted_state<std::remove_cv_t<Out>>;
  static_assert(shifted || !has_shifted, "fovea: this feature map takes a MatrixState");
  static_assert(!shifted || !detail::has_state<std::remove_cv_t<Out>>,
                "fovea: an exponential feature map takes a ShiftedState");
  if constexpr (has_shifted) {
    static_assert(std::is_same_v<decltype(&out.state), ShiftedState<T>*>,
                  "fovea: a state must have the scalar type of q");
    return &out.state;
  } else if constexpr (shifted) {
    return static_cast<ShiftedState<T>*>(nullptr);
  } else {
    return of<T>(out);
  }
}

// Refuses a state that a call of this shape has not left behind; one of no shape yet is let pass.
template <class T>
void check_shape(const char* where, const ShiftedState<T>& state, const Extents& wanted, bool sums) {
  if (state.empty()) return;
  check_shape(where, state.matrix, wanted, sums);
  check(Index(state.shift.size()) == wanted.batch * wanted.heads, where,
        "the state must have one shift for each batch and head of k, wanted ", wanted.batch * wanted.heads, ", got ",
        Index(state.shift.size()));
}

}  // namespace state

}  // namespace fovea::inline FOVEA_ISA
