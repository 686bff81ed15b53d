// Runs a linear recipe token by token, as in decoding: the state is read and written once for each token.
#pragma once

#include <type_traits>

#include <fovea/engine/linear_pass.hpp>
#include <fovea/exec/serial.hpp>
#include <fovea/simd/recurrence.hpp>

namespace fovea::inline FOVEA_ISA::engine {

template <class T, class Feature, class Decay, class Write>
class Recurrence {
 public:
  explicit Recurrence(const LinearPass<T, Feature, Decay, Write>& pass)
      : pass_(pass), depth_(simd::whole<T>(pass.key_dim)), width_(whole_lines<T>(pass.columns())) {}

  template <class Exec>
  void run(const Exec& executor) const {
    const auto& p = pass_.problem;
    // Where outputs are divided, every part would need the last column.
    const Index parts = pass_.division.divides() ? 1 : pass_.parts(exec::concurrency(executor), grain);
    const double flops = double(p.q.length) * double(pass_.key_dim * width_) * double(4 + 2 * p.group) / double(parts);
    distribute<T>(executor, pass_.heads() * parts, flops, scratch_size(), [&](Index item, T* memory) {
      const Index head = item / parts;
      run_head(pass_.batch_of(head), pass_.kv_head_of(head), pass_.part(item % parts, parts, grain), memory);
    });
  }

 private:
  static constexpr Index grain = Index(scratch_alignment / sizeof(T));  // columns that begin on a cache line
  static constexpr auto kind = Decay::kind;
  static constexpr simd::Fade fade = kind == decay::Kind::none          ? simd::Fade::none
                                     : kind == decay::Kind::per_channel ? simd::Fade::rows
                                                                        : simd::Fade::one;

  Index scratch_size() const {
    const Index state = pass_.state.data == nullptr ? whole_lines<T>(pass_.key_dim * width_) : 0;
    return state + 2 * whole_lines<T>(depth_) + whole_lines<T>(pass_.problem.group * depth_) + whole_lines<T>(width_) +
           whole_lines<T>(pass_.problem.group * width_);
  }

  void run_head(Index batch, Index kv_head, Span values, T* memory) const {
    const auto& p = pass_.problem;
    Carve<T> carve(memory);
    T* const state =
        pass_.state.data == nullptr ? carve(pass_.key_dim * width_) : pass_.state.row(batch, kv_head, 0) + values.first;
    T* const factors = carve(depth_);
    T* const k = carve(depth_);
    T* const q = carve(p.group * depth_);
    T* const v = carve(width_);
    T* const out = carve(p.group * width_);
    if (pass_.state.data == nullptr) std::fill_n(state, pass_.key_dim * width_, T(0));
    std::fill_n(v, width_, T(0));
    if (pass_.division.divides()) v[values.size()] = T(1);

    const Index columns = simd::whole<T>(values.size() + pass_.division.divides());
    for (Index t = 0; t < p.q.length; ++t) {
      pass_.features.template operator()<feature::Side::key>(p.k.row(batch, kv_head, t), p.k.length_stride, 1, k,
                                                             depth_, Row{batch, kv_head, t});
      for (Index i = 0; i < p.group; ++i) {
        const Index head = kv_head * p.group + i;
        pass_.features.template operator()<feature::Side::query>(p.q.row(batch, head, t), p.q.length_stride, 1,
                                                                 q + i * depth_, depth_, Row{batch, head, t});
        simd::scale(q + i * depth_, pass_.key_dim, pass_.scale);
      }
      simd::copy(v, p.v.row(batch, kv_head, t) + values.first, values.size());
      forget(batch, kv_head, t, factors);
      T beta = 0;
      if constexpr (Write::corrects) beta = pass_.write.beta(batch, kv_head, t);
      simd::recur<fade, Write::corrects>(pass_.key_dim, columns, state, width_,
                                         simd::Token<T>{factors, k, v, beta, q, depth_, p.group, out, width_});
      for (Index i = 0; i < p.group; ++i) {
        const T* sums = out + i * width_;
        pass_.finish(sums, values.size(), pass_.division.divides() ? sums[values.size()] : T(1),
                     p.out.row(batch, kv_head * p.group + i, t) + values.first);
      }
    }
  }

  // e^g of a token.
  void forget(Index batch, Index kv_head, Index token, T* factors) const {
    if constexpr (kind == decay::Kind::per_head) {
      if (token == 0) factors[0] = T(std::exp(pass_.decay.log_decay(kv_head)));
    } else if constexpr (kind == decay::Kind::per_token) {
      factors[0] = std::exp(pass_.decay.log_gate(batch, kv_head, token));
    } else if constexpr (kind == decay::Kind::per_channel) {
      const simd::PowerUnit<T> unit(simd::log2_e);
      simd::copy(factors, pass_.decay.log_gates(batch, kv_head, token), pass_.key_dim);
      simd::transform(factors, pass_.key_dim, [&](simd::Pack<T> g, Index) { return simd::exp2_weight<T>(g, unit); });
    }
  }

  const LinearPass<T, Feature, Decay, Write>& pass_;
  Index depth_;  // of a row of features in scratch
  Index width_;  // of a row of the state
};

// q, k, v, out of the problem with N = M; the state may be null.
template <class T, class F, class D, class W, exec::Executor Exec = exec::Serial>
void recur(const Problem<T>& problem, std::type_identity_t<MatrixState<T>>* state, const LinearRecipe<F, D, W>& recipe,
           const Exec& executor = {}) {
  const auto pass = bind_linear(problem, state, recipe);
  Recurrence(pass).run(executor);
}

}  // namespace fovea::inline FOVEA_ISA::engine
