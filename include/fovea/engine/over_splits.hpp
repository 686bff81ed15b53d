// The few-query path, as in decoding against a cache: bound by memory, so keys and values are read once, in order,
// where they lie. Keys are cut into splits of a fixed length that run independently and are merged by their references
// and sums. Flash-decoding: Dao et al. 2023.
#pragma once

#include <fovea/engine/pass.hpp>
#include <fovea/engine/splits.hpp>
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
        part_size_(whole_lines<T>(rows_ * (width_ + 2))),
        look_ahead_(double(pass.problem.k.batch * pass.problem.k.heads) * double(pass.source.length()) *
                        double(pass.source.key_dim() + pass.source.value_dim()) * double(sizeof(T)) >
                    cache_size) {}

  template <class Exec>
  void run(const Exec& executor) const {
    const Splits splits(pass_.problem, pass_.mask, pass_.source.length(), split);
    const Index heads = splits.heads();
    const auto results = allocate_scratch<T>(std::max<Index>(splits.size() * part_size_, 1));
    const double flops = 2.0 * double(rows_) * double(split) * double(depth_ + width_);
    distribute<T>(executor, splits.size(), flops, scratch_size(), [&](Index item, T* memory) {
      attend_split(splits.all[std::size_t(item)], memory, results.get() + item * part_size_);
    });
    const double additions = 2.0 * double(rows_ * width_) * double(splits.size()) / double(heads);
    distribute<T>(executor, heads, additions, width_, [&](Index head, T* sum) {
      const Span own = splits.of(head);
      merge(rows_of_head(pass_.problem, head), results.get() + own.first * part_size_, own.size(), sum);
    });
  }

 private:
  static constexpr Index split = 512;        // keys of a split
  static constexpr Index step = mask::word;  // keys of a tile
  static constexpr Index piece = 16;         // keys between two looks ahead
  // Keys and values of so many bytes come from memory in any case and are asked for early; fewer may come from a cache,
  // where asking costs more than it gains.
  static constexpr double cache_size = 64 << 20;

  // A part leaves behind the weighted sum of values [rows x width], its totals [rows] and references [rows].
  T* totals(T* part) const { return part + rows_ * width_; }
  T* references(T* part) const { return totals(part) + rows_; }

  Index scratch_size() const {
    return whole_lines<T>(rows_ * depth_) + 2 * whole_lines<T>(rows_ * step) + whole_lines<T>(step * width_) +
           whole_lines<T>(normalizer::SoftmaxRows<T>::size(rows_));
  }

  void attend_split(const Split& part, T* memory, T* result) const {
    const TileRows rows = rows_of_head(pass_.problem, part.head);
    Carve<T> carve(memory);
    T* const q = carve(rows_ * depth_);
    T* const scores = carve(rows_ * step);
    T* const kept_scores = carve(rows_ * step);
    T* const values = carve(step * width_);
    normalizer::SoftmaxRows<T> state(pass_.power_unit(), carve(normalizer::SoftmaxRows<T>::size(rows_)), rows_);
    pass_.load_queries(rows, q, depth_);
    std::fill(result, result + rows_ * width_, T(0));
    state.begin(rows_);
    const auto keys_soon = [&](Span soon) __attribute__((always_inline)) { pass_.prefetch_keys(rows, soon); };
    const auto values_soon = [&](Span soon) __attribute__((always_inline)) { pass_.prefetch_values(rows, soon); };
    each_tile(pass_.mask, rows.region(0, rows_, part.keys), step, [&](const KeyTile& tile, const KeyTile* next) {
      const Index count = tile.size(), columns = simd::whole<T>(count);
      tile.each_run([&](Index column, Span keys) {
        const auto k = pass_.source.keys(rows.batch, rows.kv_head, keys);
        for (Index j = 0; j < keys.size(); j += piece) {
          if (look_ahead_) ahead(tile, next, column + j, keys_soon);
          simd::dot_rows(rows_, q, depth_, std::min(piece, keys.size() - j), k[j], k.stride, pass_.source.key_dim(),
                         scores + column + j, columns);
        }
      });
      if (pass_.modified || !tile.full() || columns != count) {
        const auto seen = [&](Index, Row at) { return tile.seen(pass_.mask, at); };
        pass_.finish_scores(rows, 0, rows_, tile, 0, count, tile.full(), seen, scores, columns);
      }
      bool spoiled = false;
      if (pass_.careful(tile.full())) {
        tile.each_run([&](Index, Span keys) {
          spoiled = spoiled || !pass_.finite(pass_.source.values(rows.batch, rows.kv_head, keys), keys.size());
        });
      }
      if (spoiled) [[unlikely]]
        std::copy_n(scores, rows_ * columns, kept_scores);
      const T* shrink = state.absorb(0, rows_, scores, columns, columns) ? state.shrink : nullptr;
      const bool in_place = !spoiled && width_ == pass_.source.value_dim();
      tile.each_run([&](Index column, Span keys) {
        const auto v = pass_.source.values(rows.batch, rows.kv_head, keys);
        if (!in_place) pass_.load_values(v, keys.size(), spoiled, values, width_);
        for (Index j = 0; j < keys.size(); j += piece) {
          if (look_ahead_) ahead(tile, next, column + j, values_soon);
          add_values(std::min(piece, keys.size() - j), scores + column + j, columns,
                     in_place ? v[j] : values + j * width_, in_place ? v.stride : width_, result, shrink);
          shrink = nullptr;
        }
        if (spoiled) [[unlikely]]
          pass_.add_spoiled(rows_, keys.size(), v, kept_scores + column, scores + column, columns, result, width_);
      });
    });
    for (Index r = 0; r < rows_; ++r) {
      totals(result)[r] = state.total(r);
      references(result)[r] = state.reference[r];
    }
  }

  // Calls f(keys) for the keys of the next tile in the place of the `piece` keys from `column` on: what memory should
  // be busy with meanwhile. Behind the last tile of a part the keys that follow in memory are taken for it.
  template <class F>
  [[gnu::always_inline]] void ahead(const KeyTile& tile, const KeyTile* next, Index column, F&& f) const {
    if (next != nullptr) {
      const auto run = [&](Index, Span keys) __attribute__((always_inline)) { f(keys); };
      next->each_run(column, std::min(column + piece, next->size()), run);
    } else {
      const Index first = std::min(tile.last_key() + 1 + column, pass_.source.length());
      f(Span{first, std::min(first + piece, pass_.source.length())});
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
        simd::multiply_rows<count, simd::Onto::shrunk_sum>(width_, keys, a, columns, v, stride, c, width_, shrink + r);
      } else {
        simd::multiply_rows<count, simd::Onto::sum>(width_, keys, a, columns, v, stride, c, width_);
      }
      r += count;
    };
    while (rows_ - r >= 4) run(std::integral_constant<int, 4>{});
    while (rows_ - r >= 2) run(std::integral_constant<int, 2>{});
    if (r < rows_) run(std::integral_constant<int, 1>{});
  }

  // Adds the parts of one kv head up, in order, and writes its rows.
  void merge(const TileRows& rows, T* parts, Index count, T* sum) const {
    rows.each(0, rows_, [&](Index r, Row at) {
      T reference = -simd::infinity<T>, total = T(0);
      for (Index s = 0; s < count; ++s) {
        T* const part = parts + s * part_size_;
        if (totals(part)[r] != T(0) && !(references(part)[r] <= reference)) reference = references(part)[r];
      }
      std::fill(sum, sum + width_, T(0));
      for (Index s = 0; s < count; ++s) {
        T* const part = parts + s * part_size_;
        if (totals(part)[r] == T(0)) continue;
        const T weight = std::exp(pass_.natural_unit() * (references(part)[r] - reference));
        total += weight * totals(part)[r];
        simd::add_scaled(sum, weight, part + r * width_, width_);
      }
      pass_.write_row(at, sum, total, reference);
    });
  }

  const Pass<T, Source, Mask, Scores>& pass_;
  const Index rows_, depth_, width_, part_size_;
  const bool look_ahead_;
};

}  // namespace fovea::inline FOVEA_ISA::engine
