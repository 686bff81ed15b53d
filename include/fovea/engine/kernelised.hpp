// Kernelised attention with any feature map, all keys at once or causal:
//
//   kernelised           every query sees every key
//   causal_kernelised    query i sees the keys j <= i + M - N, with the engine of the caller's choice
//
// What the engines themselves leave open is settled here: the keys before the first query, the queries before the first
// key, and the shifts of exponential maps. A shift b_j is the largest exponent of the keys that may be known: of all
// keys, or of those up to j. What was summed under an older shift shrinks by e^(b_{j-1} - b_j): a decay for each token.
#pragma once

#include <utility>

#include <fovea/engine/accumulate.hpp>
#include <fovea/engine/chunk.hpp>
#include <fovea/engine/recur.hpp>
#include <fovea/parts/decay/per_token.hpp>
#include <fovea/parts/feature/exponential.hpp>
#include <fovea/parts/state/shifted_state.hpp>

namespace fovea::inline FOVEA_ISA::engine {

// Shifts of the keys of a call [B,G,M] and the decays that go with them.
template <class T>
class KeyShift {
 public:
  // The largest exponent of every key by itself.
  template <class Bound, class Exec>
  KeyShift(const Bound& phi, const View<const T>& k, const Exec& executor)
      : extents_{k.batch, k.heads, k.length, 1},
        shifts_(allocate_scratch<T>(std::max<Index>(k.batch * k.heads * k.length, 1))) {
    const Index stride = simd::whole<T>(phi.width()), blocks = (k.length + step - 1) / step;
    distribute<T>(executor, k.batch * k.heads * blocks, 2.0 * double(step * k.dim * phi.width()), step * stride,
                  [&](Index item, T* memory) {
                    const Index head = item / blocks, first = item % blocks * step;
                    const Row row{head / k.heads, head % k.heads, first};
                    phi.largest_exponents(k.row(row.batch, row.head, first), k.length_stride,
                                          std::min(step, k.length - first), memory, stride, row, at(head, first));
                  });
  }

  // The largest exponent of keys [0, last), as the shift of all of them, in a head that begins with `start`.
  T common(Index head, Index last, T start) {
    T most = start;
    for (Index j = 0; j < last; ++j) most = *at(head, j) > most ? *at(head, j) : most;
    std::fill_n(at(head, 0), last, most);
    return most;
  }

  // The largest exponent so far for keys [first, M) behind `start`, and the decays.
  T running(Index head, Index first, T start) {
    if (gates_ == nullptr)
      gates_ = allocate_scratch<T>(std::max<Index>(extents_.batch * extents_.heads * extents_.length, 1));
    T most = start;
    for (Index j = first; j < extents_.length; ++j) {
      T* const shift = at(head, j);
      const T before = most;
      if (*shift > most) most = *shift;
      *shift = most;
      // Before the first key there is nothing to shrink.
      gates_[head * extents_.length + j] = before == most || before == -simd::infinity<T> ? T(0) : before - most;
    }
    return most;
  }

  // Tokens [first, last).
  View<const T> shifts(Index first, Index last) const { return tokens(shifts_.get(), first, last); }
  View<const T> gates(Index first, Index last) const { return tokens(gates_.get(), first, last); }

 private:
  static constexpr Index step = 96;

  T* at(Index head, Index token) const { return shifts_.get() + head * extents_.length + token; }
  View<const T> tokens(const T* data, Index first, Index last) const {
    View<const T> result = view(data, extents_);
    result.data += first;
    result.length = last - first;
    return result;
  }

  Extents extents_;
  std::unique_ptr<T[], FreeScratch> shifts_, gates_;
};

namespace detail {

// What is checked before any of the engines runs, so that a refusal leaves all as it was. Gives the bound map.
template <class T, class F, class State>
auto bind_kernelised(const Problem<T>& problem, const State* state, const LinearRecipe<F>& recipe) {
  const bool sums = recipe.division.divides();
  check(!recipe.factor || std::isfinite(*recipe.factor), problem.where, "scale must be finite");
  check(!sums || !feature::has_signed_features<F>(), problem.where,
        "features that may be negative have no sum to divide by: the normalizer must be none");
  check(sums || !feature::wants_shift<F>(), problem.where,
        "exponential features are known up to a factor only: the normalizer must be sum_eps or clamp");
  recipe.division.check_for(problem.where);
  const auto phi = recipe.features.template bind<T>(problem.where, problem.shape(), problem.q.dim);
  if (state != nullptr)
    state::check_shape(problem.where, *state, {problem.k.batch, problem.k.heads, phi.width(), problem.v.dim}, sums);
  return phi;
}

// A state of no shape yet gets that of the call.
template <class T>
void shape_state(ShiftedState<T>& state, const Problem<T>& problem, Index width) {
  if (!state.empty()) return;
  state.matrix = MatrixState<T>(problem.k.batch, problem.k.heads, width, problem.v.dim, true);
  state.shift.assign(std::size_t(problem.k.batch * problem.k.heads), -simd::infinity<T>);
}

// The state of a head under a larger shift.
template <class T>
void shift_state(ShiftedState<T>& state, Index head, T shift) {
  const T before = std::exchange(state.shift[std::size_t(head)], shift);
  if (before == shift || before == -simd::infinity<T>) return;
  const T factor = std::exp(before - shift);
  const View<T> matrix = state.matrix.view();
  for (Index f = 0; f < matrix.length; ++f)
    simd::scale(matrix.row(head / matrix.heads, head % matrix.heads, f), matrix.dim, factor);
}

template <class X>
View<X> tokens(View<X> x, Index first, Index last) {
  x.data += first * x.length_stride;
  x.length = last - first;
  return x;
}

// Queries [q.first, q.last) with keys [k.first, k.last).
template <class T>
Problem<T> part(Problem<T> problem, Span q, Span k) {
  problem.q = tokens(problem.q, q.first, q.last);
  problem.out = tokens(problem.out, q.first, q.last);
  problem.k = tokens(problem.k, k.first, k.last);
  problem.v = tokens(problem.v, k.first, k.last);
  return problem;
}

}  // namespace detail

// The state is a MatrixState, a ShiftedState where phi is an exponential, or null: S_0 on entry, S on return.
template <class T, class State, class F, exec::Executor Exec>
void kernelised(const Problem<T>& problem, State* state, const LinearRecipe<F>& recipe, const Exec& executor) {
  const auto phi = detail::bind_kernelised(problem, state, recipe);
  if constexpr (!feature::wants_shift<F>()) {
    accumulate(problem, state, recipe, executor);
  } else {
    const Index heads = problem.k.batch * problem.k.heads, keys = problem.k.length;
    if (state != nullptr) detail::shape_state(*state, problem, phi.width());
    KeyShift<T> shift(phi, problem.k, executor);
    for (Index head = 0; head < heads; ++head) {
      const T most = shift.common(head, keys, state == nullptr ? -simd::infinity<T> : state->shift[std::size_t(head)]);
      if (state != nullptr) detail::shift_state(*state, head, most);
    }
    accumulate(problem, state == nullptr ? nullptr : &state->matrix,
               recipe.feature(feature::shifted(recipe.features, shift.shifts(0, keys))), executor);
  }
}

// The engines that causal_kernelised may run.
inline auto by_token() {
  return [](const auto& problem, auto* state, const auto& recipe, const auto& executor) {
    recur(problem, state, recipe, executor);
  };
}
inline auto by_chunk(Index length) {
  return [length](const auto& problem, auto* state, const auto& recipe, const auto& executor) {
    chunk(problem, state, recipe, length, executor);
  };
}

// run(problem, MatrixState*, recipe, executor) is by_token() or by_chunk(length).
template <class T, class State, class F, exec::Executor Exec, class Run>
void causal_kernelised(const Problem<T>& problem, State* state, const LinearRecipe<F>& recipe, const Exec& executor,
                       const Run& run) {
  const Index queries = problem.q.length, keys = problem.k.length;
  const Span early{0, std::max<Index>(queries - keys, 0)};   // queries before the first key
  const Span before{0, std::max<Index>(keys - queries, 0)};  // keys before the first query
  const auto late = detail::part(problem, {early.last, queries}, {before.last, keys});
  const auto phi = detail::bind_kernelised(problem, state, recipe);
  std::conditional_t<feature::wants_shift<F>(), ShiftedState<T>, MatrixState<T>> own;
  if (state == nullptr && !before.empty()) state = &own;
  if constexpr (!feature::wants_shift<F>()) {
    if (!early.empty()) accumulate(detail::part(problem, early, {0, 0}), state, recipe, executor);
    if (!before.empty()) accumulate(detail::part(problem, {0, 0}, before), state, recipe, executor);
    run(late, state, recipe, executor);
  } else {
    check(phi.added == T(0), problem.where, "causal exponential features take no epsilon, got ", double(phi.added));
    MatrixState<T>* matrix = nullptr;
    if (state != nullptr) {
      detail::shape_state(*state, problem, phi.width());
      matrix = &state->matrix;
    }
    if (!early.empty()) accumulate(detail::part(problem, early, {0, 0}), matrix, recipe, executor);
    KeyShift<T> shift(phi, problem.k, executor);
    for (Index head = 0; head < problem.k.batch * problem.k.heads; ++head) {
      T most = state == nullptr ? -simd::infinity<T> : state->shift[std::size_t(head)];
      most = shift.common(head, before.last, most);
      if (state != nullptr) detail::shift_state(*state, head, most);
      most = shift.running(head, before.last, most);
      if (state != nullptr) state->shift[std::size_t(head)] = most;
    }
    if (!before.empty()) {
      accumulate(detail::part(problem, {0, 0}, before), matrix,
                 recipe.feature(feature::shifted(recipe.features, shift.shifts(0, before.last))), executor);
    }
    run(late, matrix,
        recipe.feature(feature::shifted(recipe.features, shift.shifts(before.last, keys)))
            .decay(decay::per_token(shift.gates(before.last, keys))),
        executor);
  }
}

}  // namespace fovea::inline FOVEA_ISA::engine
