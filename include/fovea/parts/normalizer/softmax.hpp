// Online softmax over tiles of keys: the running state of some rows and what a tile of scores does to it.
// Milakov and Gimelshein 2018, arXiv:1805.02867; the tiled form of FlashAttention-2, Dao 2023, arXiv:2307.08691.
//
//   p_ij = exp(c (s_ij - r_i)),  l_i = sum_j p_ij,  o_i = sum_j p_ij v_j / l_i,  log_sum_i = c r_i + ln l_i
//
// c is what is left of the scale of the scores: it is applied inside the exponential, where it costs no rounding and no
// time. The reference r_i is the largest score of the first tile in which row i sees a key; it moves only when a score
// exceeds it by so much that p would pass 2^slack, which spares most tiles the rescaling of what was summed before.
#pragma once

#include <cmath>
#include <optional>
#include <vector>

#include <fovea/core/problem.hpp>
#include <fovea/simd/row.hpp>
#include <fovea/simd/tile.hpp>

namespace fovea::inline FOVEA_ISA::normalizer {

// The state of the rows of one tile; the memory is the engine's.
template <class T>
struct SoftmaxRows {
  static constexpr double slack = 8;

  simd::PowerUnit<T> unit;  // c in powers of two: p = 2^(unit (s - r))
  T* reference;             // [rows] r_i; 0 before the first key
  T* limit;                 // [rows] the score whose weight is 2^slack; -infinity before the first key
  T* shrink;                // [rows] what the last tile multiplies earlier sums with
  T* sum;                   // [rows x lanes] l_i spread over the lanes

  static constexpr Index size(Index rows) { return simd::whole<T>(rows) * 3 + rows * simd::lanes<T>; }

  SoftmaxRows(const simd::PowerUnit<T>& power_unit, T* memory, Index rows)
      : unit(power_unit),
        reference(memory),
        limit(memory + simd::whole<T>(rows)),
        shrink(memory + 2 * simd::whole<T>(rows)),
        sum(memory + 3 * simd::whole<T>(rows)) {}

  void begin(Index rows) {
    for (Index i = 0; i < rows; ++i) {
      reference[i] = T(0);
      limit[i] = -simd::infinity<T>;
    }
    for (Index i = 0; i < rows * simd::lanes<T>; ++i) sum[i] = T(0);
  }

  // Turns the scores of `rows` rows from row `first` on into weights, in place; columns is a whole number of vectors.
  // Either may be a constant. True when a reference moved: what was summed before must then be multiplied by shrink.
  template <class Rows, class Columns>
  bool absorb(Index first, Rows rows, T* scores, Index stride, Columns columns) {
    using simd::Pack;
    constexpr Index step = simd::lanes<T>;
    auto over = Pack<T>(T(0)) > Pack<T>(T(0));
    for (Index i = 0; i < rows; ++i) {
      const T* row = scores + i * stride;
      Pack<T> top = simd::load(row);
      for (Index j = step; j < columns; j += step) top = simd::max(top, simd::load(row + j));
      over = over | (top > Pack<T>(limit[first + i]));
    }
    const bool moved = simd::any(over);
    if (moved) [[unlikely]]
      move_references(first, rows, scores, stride, columns);
    for (Index i = 0; i < rows; ++i) {
      T* row = scores + i * stride;
      const Pack<T> r(reference[first + i]);
      Pack<T> total = simd::load(sum + (first + i) * step);
      for (Index j = 0; j < columns; j += step) {
        const Pack<T> p = simd::exp2_weight(simd::load(row + j) - r, unit);
        total = total + p;
        simd::store(row + j, p);
      }
      simd::store(sum + (first + i) * step, total);
    }
    return moved;
  }

  // l_i, the sum of the weights of row i; zero when it saw no key.
  T total(Index i) const { return simd::sum_of_lanes(simd::load(sum + i * simd::lanes<T>)); }

 private:
  [[gnu::noinline]] void move_references(Index first, Index rows, const T* scores, Index stride, Index columns) {
    for (Index i = 0; i < rows; ++i) {
      const Index at = first + i;
      simd::Pack<T> top = simd::load(scores + i * stride);
      for (Index j = simd::lanes<T>; j < columns; j += simd::lanes<T>)
        top = simd::max(top, simd::load(scores + i * stride + j));
      const T most = simd::max_of_lanes(top);
      if (!(most > limit[at])) {
        shrink[at] = T(1);
        continue;
      }
      const bool begun = limit[at] > -simd::infinity<T>;
      shrink[at] = begun ? std::exp2(unit.unit * (reference[at] - most)) : T(1);
      simd::scale(sum + at * simd::lanes<T>, simd::lanes<T>, shrink[at]);
      reference[at] = most;
      limit[at] = most + T(slack) / unit.unit;
    }
  }
};

// ln sum_j exp(s_ij) from the sum of a row's weights and their reference in natural units.
template <class T>
T log_sum(T total, T reference) {
  return total == T(0) ? -simd::infinity<T> : reference + std::log(total);
}

// Scores as the engine computes them, (query q) . k, and what turns them into scale q . k. The power of two and the
// sign of the scale go into the query, which is exact; the rest, in [1/2, 1), is left for later.
template <class T>
struct SplitScale {
  T query;
  double rest;

  explicit SplitScale(double scale) : query(T(0)), rest(1) {
    if (scale == 0) return;
    int exponent = 0;
    rest = std::frexp(std::abs(scale), &exponent);
    query = T(std::copysign(std::ldexp(1.0, exponent), scale));
  }
};

// softmax as a value of a recipe: the scale of the scores and, when asked for, a learned logit per head that takes part
// in the denominator alone.
struct Softmax {
  std::optional<double> scale = {};      // 1 / sqrt(D) when empty
  std::vector<double> sink_logits = {};  // [H] or empty

  // The scale for keys of width `dim`.
  double scale_for(Index dim) const { return scale ? *scale : 1.0 / std::sqrt(double(dim)); }

  void check_for(const char* where, const Shape& shape) const {
    check(!scale || std::isfinite(*scale), where, "the scale must be finite, got ", scale.value_or(0.0));
    check(sink_logits.empty() || Index(sink_logits.size()) == shape.heads, where,
          "sink logits need one number for each head, wanted ", shape.heads, ", got ", sink_logits.size());
    for (const double logit : sink_logits)
      check(logit < HUGE_VAL, where, "sink logits must be finite or -infinity, got ", logit);
  }

  // What the sink of `head` adds to a sum of weights relative to exp(reference); zero without sinks.
  template <class T>
  T sink_weight(Index head, T reference) const {
    if (sink_logits.empty()) return T(0);
    return std::exp(T(sink_logits[std::size_t(head)]) - reference);
  }
};

}  // namespace fovea::inline FOVEA_ISA::normalizer
