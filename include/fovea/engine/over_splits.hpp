// The few-query path, as in decoding against a cache: bound by memory, so keys and values are read once, in order,
// where they lie. Keys are cut into splits of a fixed length that run independently and are merged by their references
// and sums. Flash-decoding: Dao et al. 2023.
#pragma once

#include <fovea/engine/pass.hpp>
#include <fovea/engine/visit.hpp>
#include <fovea/simd/dots.hpp>

namespace fovea::inline FOVEA_ISA::engine {

template <class T, class Source, class Mask, class Scores>
class OverSplits {
 public:
  explicit OverSplits(const Pass<T, Source, Mask, Scores>& pass)
      : pass_(pass),
        rows_(pass.problem.q.length * pass.problem.group),
        depth_(simd::whole<T>(pass.source.key_dim())),
        width_(simd::whole<T>(pass.source.value_dim())),
        splits_((pass.source.length() + split - 1) / split),
        part_(whole_lines<T>(rows_ * (width_ + 2))) {}

  // Whether a call has few enough queries: of a kv head, or in a sequence.
  static bool takes(Index queries, Index group) { return queries == 1 || queries * group <= 8; }

  template <class Exec>
  void run(const Exec& executor) const {
    const Index kv_heads = pass_.problem.q.heads / pass_.problem.group;
    const Index heads = pass_.problem.q.batch * kv_heads;
    const auto rows = [&](Index head) {
      return TileRows{head / kv_heads, head % kv_heads, pass_.problem.group, {0, pass_.problem.q.length}};
    };
    const auto parts = allocate_scratch<T>(std::max<Index>(heads * splits_ * part_, 1));
    const double flops = 2.0 * double(rows_) * double(split) * double(depth_ + width_);
    distribute<T>(executor, heads * splits_, flops, scratch_size(), [&](Index item, T* memory) {
      const Index first = item % splits_ * split;
      attend_split(rows(item / splits_), {first, std::min(first + split, pass_.source.length())}, memory,
                   parts.get() + item * part_);
    });
    distribute<T>(executor, heads, 2.0 * double(splits_ * rows_ * width_), width_,
                  [&](Index head, T* sum) { merge(rows(head), parts.get() + head * splits_ * part_, sum); });
  }

 private:
  static constexpr Index split = 512;        // keys
  static constexpr Index step = mask::word;  // keys of a tile

  // A part is what a split leaves behind: the weighted sum of values [rows x width], totals [rows] and references
  // [rows].
  T* totals(T* part) const { return part + rows_ * width_; }
  T* references(T* part) const { return totals(part) + rows_; }

  Index scratch_size() const {
    return whole_lines<T>(rows_ * depth_) + whole_lines<T>(rows_ * step) + whole_lines<T>(step * width_) +
           whole_lines<T>(normalizer::SoftmaxRows<T>::size(rows_));
  }

  void attend_split(const TileRows& rows, Span keys, T* memory, T* part) const {
    Carve<T> carve(memory);
    T* const q = carve(rows_ * depth_);
    T* const scores = carve(rows_ * step);
    T* const values = carve(step * width_);
    normalizer::SoftmaxRows<T> state(carve(normalizer::SoftmaxRows<T>::size(rows_)), rows_);
    pass_.load_queries(rows, q, depth_);
    std::fill(part, part + rows_ * width_, T(0));
    state.begin(rows_);
    visit_tiles(pass_.mask, rows.region(0, rows_, keys), step, [&](Span span, bool full) {
      const Index columns = simd::whole<T>(span.size());
      const auto k = pass_.source.keys(rows.batch, rows.kv_head, span);
      const auto v = pass_.source.values(rows.batch, rows.kv_head, span);
      simd::dot_rows(rows_, q, depth_, span.size(), k.data, k.stride, pass_.source.key_dim(), scores, columns);
      if (pass_.modified || !full || columns != span.size())
        pass_.finish_scores(rows, 0, rows_, span, full, scores, columns);
      const bool moved = state.absorb(0, rows_, scores, columns, columns);
      if (full && width_ == pass_.source.value_dim()) {
        add_values(span.size(), scores, columns, v.data, v.stride, part, moved ? state.shrink : nullptr);
      } else {
        const bool spoiled = pass_.load_values(v, span.size(), !full, values, width_);
        add_values(span.size(), scores, columns, values, width_, part, moved ? state.shrink : nullptr);
        if (spoiled) [[unlikely]]
          pass_.add_spoiled(rows, 0, rows_, span, v, scores, columns, part, width_);
      }
    });
    for (Index r = 0; r < rows_; ++r) {
      totals(part)[r] = state.total(r);
      references(part)[r] = state.reference[r];
    }
  }

  // out [rows x width] = shrink out + weights v, shrink being one where it is null.
  void add_values(Index keys, const T* weights, Index columns, const T* v, Index stride, T* out,
                  const T* shrink) const {
    Index r = 0;
    const auto run = [&](auto some) {
      constexpr int count = decltype(some)::value;
      const T* const a = weights + r * columns;
      T* const c = out + r * width_;
      if (shrink != nullptr) {
        simd::multiply_rows<count, simd::Start::shrink>(width_, keys, a, columns, v, stride, c, width_, shrink + r);
      } else {
        simd::multiply_rows<count, simd::Start::keep>(width_, keys, a, columns, v, stride, c, width_);
      }
      r += count;
    };
    while (rows_ - r >= 4) run(std::integral_constant<int, 4>{});
    while (rows_ - r >= 2) run(std::integral_constant<int, 2>{});
    if (r < rows_) run(std::integral_constant<int, 1>{});
  }

  // Adds the parts of one kv head up, in order, and writes its rows.
  void merge(const TileRows& rows, T* parts, T* sum) const {
    rows.each(0, rows_, [&](Index r, Row at) {
      T reference = -simd::infinity<T>, total = T(0);
      for (Index s = 0; s < splits_; ++s) {
        T* const part = parts + s * part_;
        if (totals(part)[r] != T(0) && !(references(part)[r] <= reference)) reference = references(part)[r];
      }
      std::fill(sum, sum + width_, T(0));
      for (Index s = 0; s < splits_; ++s) {
        T* const part = parts + s * part_;
        if (totals(part)[r] == T(0)) continue;
        const T weight = std::exp2(references(part)[r] - reference);
        total += weight * totals(part)[r];
        simd::add_scaled(sum, weight, part + r * width_, width_);
      }
      pass_.write_row(at, sum, total, reference);
    });
  }

  const Pass<T, Source, Mask, Scores>& pass_;
  const Index rows_, depth_, width_, splits_, part_;
};

}  // namespace fovea::inline FOVEA_ISA::engine
