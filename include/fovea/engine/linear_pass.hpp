// What the recurrent and the chunked engine share: a linear recipe bound to one call, and the state it runs on.
#pragma once

#include <cmath>

#include <fovea/core/problem.hpp>
#include <fovea/core/span.hpp>
#include <fovea/engine/linear_recipe.hpp>
#include <fovea/engine/work.hpp>
#include <fovea/parts/state/matrix_state.hpp>
#include <fovea/simd/row.hpp>

namespace fovea::inline FOVEA_ISA::engine {

template <class T, class Feature, class Decay, class Write>
struct LinearPass {
  Problem<T> problem;
  Feature features;  // bound, as are the other two
  Decay decay;
  Write write;
  normalizer::FeatureSum division;
  T scale;
  View<T> state;  // of the caller; data is null where a call starts from zeros and leaves nothing behind
  Index key_dim, value_dim;

  Index columns() const { return value_dim + division.divides(); }  // of the state
  Index heads() const { return problem.k.batch * problem.k.heads; }
  Index batch_of(Index head) const { return head / problem.k.heads; }
  Index kv_head_of(Index head) const { return head % problem.k.heads; }

  // Value columns in `parts` pieces of whole `grain`s, the last one ragged.
  Span part(Index p, Index parts, Index grain) const {
    const Index all = (value_dim + grain - 1) / grain;
    return {all * p / parts * grain, std::min(all * (p + 1) / parts * grain, value_dim)};
  }
  Index parts(Index workers, Index grain) const {
    const Index most = (value_dim + grain - 1) / grain;
    return std::clamp<Index>(workers / std::max<Index>(heads(), 1), 1, std::max<Index>(most, 1));
  }

  // One output row from its sums.
  void finish(const T* sums, Index count, T divisor_sum, T* out) const {
    if (!division.divides()) return simd::copy(out, sums, count);
    const T divisor = division.divisor(divisor_sum), inverse = T(1) / divisor;
    if (divisor == T(0)) {  // no weight at all
      for (Index c = 0; c < count; ++c) out[c] = T(0);
    } else if (std::isinf(inverse)) {
      simd::copy_divided(out, sums, count, divisor);
    } else {
      simd::copy_scaled(out, sums, count, inverse);
    }
  }
};

// Binds a recipe to a call: every check is here, and a state of no shape yet gets its shape after the last of them.
template <class T, class F, class D, class W>
auto bind_linear(const Problem<T>& problem, MatrixState<T>* state, const LinearRecipe<F, D, W>& recipe) {
  const char* where = problem.where;
  const Shape shape = problem.shape();
  check(shape.queries == shape.keys, where, "k must have the length of q, wanted ", shape.queries, ", got ",
        shape.keys);
  check(problem.log_sum.data == nullptr, where, "without a softmax there are no log-sums to give");
  check(!recipe.factor || std::isfinite(*recipe.factor), where, "scale must be finite");
  recipe.division.check_for(where);
  const auto features = recipe.features.template bind<T>(where, shape, problem.q.dim);
  const Index width = features.width();
  const auto decay = recipe.forgetting.template bind<T>(where, shape, width);
  const auto write = recipe.writing.template bind<T>(where, shape);
  const bool sums = recipe.division.divides();
  View<T> memory;
  if (state != nullptr) {
    const Extents wanted{shape.batch, shape.kv_heads, width, problem.v.dim};
    state::check_shape(where, *state, wanted, sums);
    if (state->empty()) *state = MatrixState<T>(wanted.batch, wanted.heads, wanted.length, wanted.dim, sums);
    memory = state->view();
  }
  const double scale = recipe.factor.value_or(sums ? 1 : 1 / std::sqrt(double(problem.q.dim)));
  return LinearPass<T, std::remove_const_t<decltype(features)>, std::remove_const_t<decltype(decay)>,
                    std::remove_const_t<decltype(write)>>{problem,  features, decay, write,        recipe.division,
                                                          T(scale), memory,   width, problem.v.dim};
}

}  // namespace fovea::inline FOVEA_ISA::engine
