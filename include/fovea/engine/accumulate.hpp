// Runs a linear recipe without a decay on all keys at once, for queries that see them all:
//
//   S = S_0 + sum_j phi(k_j) v_j^T      o_i = scale S^T phi(q_i)      divided as the recipe says
//
// Two passes on the register kernel. Keys are cut into pieces of a length that the number of keys alone decides; their
// sums are added up in order. Blocks of features live in scratch and are never stored.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#include <fovea/core/span.hpp>
#include <fovea/engine/linear_recipe.hpp>
#include <fovea/engine/work.hpp>
#include <fovea/exec/serial.hpp>
#include <fovea/parts/state/matrix_state.hpp>
#include <fovea/simd/dots.hpp>
#include <fovea/simd/features.hpp>
#include <fovea/simd/outer.hpp>
#include <fovea/simd/row.hpp>

namespace fovea::inline FOVEA_ISA::engine {

template <class T, class Phi>
class Accumulation {
 public:
  // phi is bound; the state's data is null when the call has none.
  Accumulation(const Problem<T>& problem, const Phi& phi, const normalizer::FeatureSum& division, T scale,
               const View<T>& state)
      : problem_(problem),
        phi_(phi),
        division_(division),
        scale_(scale),
        state_(state),
        features_(phi.width()),
        feature_stride_(simd::whole<T>(features_)),
        width_(simd::whole<T>(problem.v.dim)),
        sums_size_(whole_lines<T>(features_ * width_) + whole_lines<T>(feature_stride_)) {
    const Index keys = problem.k.length;
    const Index share = (keys + most_pieces - 1) / most_pieces;
    piece_ = std::max(least_piece, (share + key_step - 1) / key_step * key_step);
    pieces_ = std::max<Index>((keys + piece_ - 1) / piece_, 1);
  }

  template <class Exec>
  void run(const Exec& executor) const {
    const auto& p = problem_;
    const Index heads = p.k.batch * p.k.heads;
    const auto sums = allocate_scratch<T>(std::max<Index>(heads * pieces_ * sums_size_, 1));
    const double token_flops = 2.0 * double(features_) * double(width_);
    const double all_keys = double(p.k.length);
    distribute<T>(executor, heads * pieces_, token_flops * std::min(all_keys, double(piece_)), key_scratch_size(),
                  [&](Index item, T* memory) {
                    const Index head = item / pieces_, first = item % pieces_ * piece_;
                    add_keys(head / p.k.heads, head % p.k.heads, {first, std::min(first + piece_, p.k.length)}, memory,
                             sums.get() + item * sums_size_);
                  });
    if (pieces_ > 1 || state_.data != nullptr) {
      distribute<T>(executor, heads, double(sums_size_) * double(pieces_ + 1), 1, [&](Index head, T*) {
        add_up(head / p.k.heads, head % p.k.heads, sums.get() + head * pieces_ * sums_size_);
      });
    }
    const Index blocks = (p.q.length + query_item - 1) / query_item;
    distribute<T>(executor, p.q.batch * p.q.heads * blocks, token_flops * double(query_item), query_scratch_size(),
                  [&](Index item, T* memory) {
                    const Index row = item / blocks, first = item % blocks * query_item;
                    const Index batch = row / p.q.heads, head = row % p.q.heads;
                    read(batch, head, {first, std::min(first + query_item, p.q.length)}, memory,
                         sums.get() + (batch * p.k.heads + head / p.group) * pieces_ * sums_size_);
                  });
  }

 private:
  static constexpr Index key_step = 128;  // keys of a block: its features and values stay in the first cache
  static constexpr Index query_step = 16 * simd::tile_rows;
  static constexpr Index query_item = 4 * query_step;
  static constexpr Index least_piece = 4 * key_step;
  static constexpr Index most_pieces = 64;  // of a head

  // Sums: S [F x width], then the sums of the features [whole vectors of F], zero behind the last.
  T* totals(T* sums) const { return sums + whole_lines<T>(features_ * width_); }

  bool values_in_place() const { return width_ == problem_.v.dim; }

  Index key_scratch_size() const {
    return whole_lines<T>(key_step * feature_stride_) + (values_in_place() ? 0 : whole_lines<T>(key_step * width_));
  }
  Index query_scratch_size() const {
    return whole_lines<T>(query_step * feature_stride_) + whole_lines<T>(query_step) +
           (values_in_place() ? 0 : whole_lines<T>(query_step * width_));
  }

  void add_keys(Index batch, Index kv_head, Span keys, T* memory, T* sums) const {
    const auto& p = problem_;
    Carve<T> carve(memory);
    T* const features = carve(key_step * feature_stride_);
    T* const padded = values_in_place() ? nullptr : carve(key_step * width_);
    std::memset(sums, 0, std::size_t(sums_size_) * sizeof(T));
    for (Index first = keys.first; first < keys.last; first += key_step) {
      const Index count = std::min(key_step, keys.last - first);
      const T* a = p.k.row(batch, kv_head, first);
      Index a_stride = p.k.length_stride;
      if constexpr (!std::is_same_v<Phi, feature::BoundIdentity<T>>) {
        phi_.template operator()<feature::Side::key>(a, a_stride, count, features, feature_stride_,
                                                     Row{batch, kv_head, first});
        a = features;
        a_stride = feature_stride_;
      }
      const T* v = p.v.row(batch, kv_head, first);
      Index v_stride = p.v.length_stride;
      if (padded != nullptr) {
        for (Index j = 0; j < count; ++j) {
          simd::copy(padded + j * width_, v + j * v_stride, p.v.dim);
          std::fill(padded + j * width_ + p.v.dim, padded + (j + 1) * width_, T(0));
        }
        v = padded;
        v_stride = width_;
      }
      const Span next{first + count, std::min(first + count + key_step, keys.last)};
      simd::add_outer(features_, width_, count, a, a_stride, v, v_stride, sums, width_,
                      soon(next, p.k, p.v, batch, kv_head));
      if (division_.divides()) simd::add_rows(count, features_, a, a_stride, totals(sums));
    }
  }

  // The pieces of a head and the state, in order, into the first piece; and the state anew.
  void add_up(Index batch, Index kv_head, T* sums) const {
    for (Index s = 1; s < pieces_; ++s) simd::add(sums, sums + s * sums_size_, sums_size_);
    if (state_.data == nullptr) return;
    const Index columns = problem_.v.dim;
    for (Index f = 0; f < features_; ++f) {
      T *const state = state_.row(batch, kv_head, f), *const row = sums + f * width_;
      simd::add(row, state, columns);
      simd::copy(state, row, columns);
      if (division_.divides()) state[columns] = totals(sums)[f] += state[columns];
    }
  }

  void read(Index batch, Index head, Span queries, T* memory, const T* sums) const {
    for (Index first = queries.first; first < queries.last; first += query_step) {
      const Index last = std::min(first + query_step, queries.last);
      read_block(batch, head, {first, last}, {last, std::min(last + query_step, queries.last)}, memory, sums);
    }
  }

  void read_block(Index batch, Index head, Span queries, Span next, T* memory, const T* sums) const {
    const auto& p = problem_;
    Carve<T> carve(memory);
    T* const features = carve(query_step * feature_stride_);
    T* const weight = carve(query_step);
    T* const padded = values_in_place() ? nullptr : carve(query_step * width_);
    const Index count = queries.size();
    phi_.template operator()<feature::Side::query>(p.q.row(batch, head, queries.first), p.q.length_stride, count,
                                                   features, feature_stride_, Row{batch, head, queries.first});
    if (scale_ != T(1)) {
      for (Index i = 0; i < count; ++i) simd::scale(features + i * feature_stride_, features_, scale_);
    }
    if (division_.divides()) {
      simd::dot_rows(1, totals(const_cast<T*>(sums)), feature_stride_, count, features, feature_stride_, features_,
                     weight, count);
    }
    const auto finish_rows = [&](T* rows, Index stride, Index i, Index n) {
      for (Index r = 0; r < n; ++r)
        finish(rows + r * stride, division_.divides() ? weight[i + r] : T(0),
               p.out.row(batch, head, queries.first + i + r));
    };
    const simd::Ahead ahead = soon(next, p.q, View<const T>(p.out), batch, head);
    if (padded == nullptr) {
      T* const out = p.out.row(batch, head, queries.first);
      const Index stride = p.out.length_stride;
      simd::multiply_by(count, width_, features_, features, feature_stride_, sums, width_, out, stride, ahead,
                        [&](Index i, Index n) { finish_rows(out + i * stride, stride, i, n); });
    } else {
      simd::multiply_by(count, width_, features_, features, feature_stride_, sums, width_, padded, width_, ahead,
                        [&](Index i, Index n) { finish_rows(padded + i * width_, width_, i, n); });
    }
  }

  static simd::Ahead soon(Span rows, const View<const T>& a, const View<const T>& b, Index batch, Index head) {
    if (rows.empty()) return {};
    return {rows.size(), a.row(batch, head, rows.first), a.length_stride,
            a.dim,       b.row(batch, head, rows.first), b.length_stride,
            b.dim};
  }

  // An output row from its sums, which may stand where it goes.
  void finish(const T* sums, T weight, T* out) const {
    const Index columns = problem_.v.dim;
    if (!division_.divides()) {
      if (sums != out) simd::copy(out, sums, columns);
      return;
    }
    const T divisor = division_.divisor(weight), inverse = T(1) / divisor;
    if (divisor == T(0)) {  // no weight at all
      std::fill_n(out, columns, T(0));
    } else if (std::isinf(inverse)) {
      simd::copy_divided(out, sums, columns, divisor);
    } else {
      simd::copy_scaled(out, sums, columns, inverse);
    }
  }

  const Problem<T>& problem_;
  const Phi& phi_;
  const normalizer::FeatureSum division_;
  const T scale_;
  const View<T> state_;
  const Index features_, feature_stride_, width_, sums_size_;
  Index piece_, pieces_;
};

// N and M may differ. The state may be null; it comes with S_0 and leaves with S.
template <class T, class F, exec::Executor Exec = exec::Serial>
void accumulate(const Problem<T>& problem, std::type_identity_t<MatrixState<T>>* state, const LinearRecipe<F>& recipe,
                const Exec& executor = {}) {
  const char* where = problem.where;
  const Shape shape = problem.shape();
  check(!recipe.factor || std::isfinite(*recipe.factor), where, "scale must be finite");
  recipe.division.check_for(where);
  const auto features = recipe.features.template bind<T>(where, shape, problem.q.dim);
  const bool sums = recipe.division.divides();
  View<T> memory;
  if (state != nullptr) {
    const Extents wanted{shape.batch, shape.kv_heads, features.width(), problem.v.dim};
    state::check_shape(where, *state, wanted, sums);
    if (state->empty()) *state = MatrixState<T>(wanted.batch, wanted.heads, wanted.length, wanted.dim, sums);
    memory = state->view();
  }
  const double scale = recipe.factor.value_or(sums ? 1 : 1 / std::sqrt(double(problem.q.dim)));
  using Bound = std::remove_const_t<decltype(features)>;
  Accumulation<T, Bound>(problem, features, recipe.division, T(scale), memory).run(executor);
}

}  // namespace fovea::inline FOVEA_ISA::engine
