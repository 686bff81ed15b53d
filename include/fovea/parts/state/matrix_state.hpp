// The memory of a linear method: one matrix [key_dim x value_dim] for each batch and kv head, the caller's own. It
// holds S_0 when a call begins and S_T when it returns; passed again it goes on where the last call ended.
//
//   MatrixState<float> state;                                     // zeros of the shape of the first call
//   chunk_delta(q, k, v, beta, with_state(out, state), options);  // the prompt
//   recurrent_delta(q, k, v, beta, with_state(out, state));       // a token
//
// A method that divides by the sum of its features keeps that sum in one more column, the last.
#pragma once

#include <cstddef>
#include <type_traits>
#include <vector>

#include <fovea/core/check.hpp>
#include <fovea/core/eigen.hpp>

namespace fovea::inline FOVEA_ISA {

template <class T>
class MatrixState {
 public:
  // Takes the shape of the first call that gets it.
  MatrixState() = default;

  // Zeros. `sums` asks for the column of a method that divides.
  MatrixState(Index batch, Index heads, Index key_dim, Index value_dim, bool sums = false)
      : shape_{batch, heads, key_dim, value_dim},
        sums_(sums),
        lines_(std::size_t(batch * heads * key_dim * (stride() / line))) {}

  bool empty() const { return lines_.empty() && shape_ == Extents{0, 0, 0, 0}; }
  Index batch() const { return shape_.batch; }
  Index heads() const { return shape_.heads; }  // kv heads
  Index key_dim() const { return shape_.length; }
  Index value_dim() const { return shape_.dim; }
  bool sums() const { return sums_; }

  // [batch, heads, key_dim, value_dim], value_dim + 1 with sums. Rows begin on cache lines; what lies between their
  // ends and the next line belongs to nobody.
  View<T> view() { return view_of(reinterpret_cast<T*>(lines_.data())); }
  View<const T> view() const { return view_of(reinterpret_cast<const T*>(lines_.data())); }

  T& operator()(Index b, Index h, Index key, Index value) { return view().row(b, h, key)[value]; }
  const T& operator()(Index b, Index h, Index key, Index value) const { return view().row(b, h, key)[value]; }

 private:
  static constexpr Index line = 64 / Index(sizeof(T));
  struct alignas(64) Line {
    T x[std::size_t(line)] = {};
  };

  Index stride() const { return (shape_.dim + sums_ + line - 1) / line * line; }
  template <class U>
  View<U> view_of(U* data) const {
    const auto [batch, heads, length, dim] = shape_;
    return {data, batch, heads, length, dim + sums_, heads * length * stride(), length * stride(), stride()};
  }

  Extents shape_ = {0, 0, 0, 0};
  bool sums_ = false;
  std::vector<Line> lines_;
};

// An output together with the state that a call starts from and leaves behind.
template <class Out, class T>
struct WithState {
  Out& out;
  MatrixState<T>& state;
};

template <class Out, class T>
WithState<std::remove_reference_t<Out>, T> with_state(Out&& out, MatrixState<T>& state) {
  return {out, state};
}

namespace state {

namespace detail {
template <class X>
inline constexpr bool has_state = false;
template <class Out, class T>
inline constexpr bool has_state<WithState<Out, T>> = true;
}  // namespace detail

// The output alone, with a state or without.
template <class Out>
auto& output(Out& out) {
  if constexpr (detail::has_state<std::remove_cv_t<Out>>) {
    return out.out;
  } else {
    return out;
  }
}

// The state that came with the output, or null.
template <class T, class Out>
MatrixState<T>* of(Out& out) {
  if constexpr (detail::has_state<std::remove_cv_t<Out>>) {
    static_assert(std::is_same_v<decltype(&out.state), MatrixState<T>*>,
                  "fovea: a state must have the scalar type of q");
    return &out.state;
  } else {
    return nullptr;
  }
}

// Refuses a state that a call of this shape has not left behind; one of no shape yet is let pass.
template <class T>
void check_shape(const char* where, const MatrixState<T>& state, const Extents& wanted, bool sums) {
  if (state.empty()) return;
  check(state.batch() == wanted.batch && state.heads() == wanted.heads && state.key_dim() == wanted.length &&
            state.value_dim() == wanted.dim,
        where, "the state must have the shape of the call, wanted [", wanted.batch, ", ", wanted.heads, ", ",
        wanted.length, ", ", wanted.dim, "], got [", state.batch(), ", ", state.heads(), ", ", state.key_dim(), ", ",
        state.value_dim(), "]");
  check(state.sums() == sums, where, "the state must ", sums ? "" : "not ", "have a column of sums");
}

}  // namespace state

}  // namespace fovea::inline FOVEA_ISA
