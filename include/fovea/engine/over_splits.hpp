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
  using OnePass = Pass<T, Source, Mask, Scores>;

  // One pass for all sequences, or one for each.
  explicit OverSplits(const Several<OnePass>& passes)
      : passes_(passes),
        problem_(passes[0].problem),
        source_(passes[0].source),
        rows_(problem_.q.length * problem_.group),
        depth_(simd::whole<T>(source_.key_dim())),
        width_(simd::whole<T>(source_.value_dim())),
        part_size_(whole_lines<T>(rows_ * (width_ + 2))),
        look_ahead_(double(problem_.k.batch * problem_.k.heads) * double(source_.longest()) *
                        double(source_.key_dim() + source_.value_dim()) * double(sizeof(T)) >
                    cache_size) {}

  template <class Exec>
  void run(const Exec& executor) const {
    const Splits splits(executor, problem_.q.batch, problem_.q.heads / problem_.group, split,
                        [&](Index batch) -> const OnePass& { return pass_of(batch); });
    const Index heads = splits.heads();
    const auto results = allocate_scratch<T>(executor, std::max<Index>(splits.size() * part_size_, 1));
    const double flops = 2.0 * double(rows_) * double(split) * double(depth_ + width_);
    distribute<T>(executor, splits.size(), flops, scratch_size(), [&](Index item, T* memory) {
      attend_split(splits[item], memory, results.get() + item * part_size_);
    });
    const double additions = 2.0 * double(rows_ * width_) * double(splits.size()) / double(heads);
    distribute<T>(executor, heads, additions, width_, [&](Index head, T* sum) {
      const Span own = splits.of(head);
      const TileRows rows = rows_of_head(problem_, head);
      merge(pass_of(rows.batch), rows, results.get() + own.first * part_size_, own.size(), sum);
    });
  }

 private:
  static constexpr Index split = 512;        // keys of a split
  static constexpr Index step = mask::word;  // keys of a tile
  // Keys and values of so many bytes come from memory in any case and are asked for early; fewer may come from a cache,
  // where asking costs more than it gains.
  static constexpr double cache_size = 64 << 20;

  const OnePass& pass_of(Index batch) const { return passes_[passes_.size() == 1 ? 0 : batch]; }

  // A part leaves behind the weighted sum of values [rows x width], its totals [rows] and references [rows].
  T* totals(T* part) const { return part + rows_ * width_; }
  T* references(T* part) const { return totals(part) + rows_; }

  Index scratch_size() const {
    return whole_lines<T>(rows_ * depth_) + 2 * whole_lines<T>(rows_ * step) +
           whole_lines<T>(kv::Rows<T>::piece * width_) + whole_lines<T>(width_) +
           whole_lines<T>(normalizer::SoftmaxRows<T>::size(rows_)) +
           whole_lines<T>(source_.template scratch_size<T>(rows_));
  }

  void attend_split(const Split& part, T* memory, T* result) const {
    const TileRows rows = rows_of_head(problem_, part.head);
    const OnePass& pass = pass_of(rows.batch);
    Carve<T> carve(memory);
    T* const q = carve(rows_ * depth_);
    T* const scores = carve(rows_ * step);
    T* const kept_scores = carve(rows_ * step);
    T* const values = carve(kv::Rows<T>::piece * width_);
    T* const row = carve(width_);
    normalizer::SoftmaxRows<T> state(pass.power_unit(), carve(normalizer::SoftmaxRows<T>::size(rows_)), rows_);
    T* const scratch = carve(source_.template scratch_size<T>(rows_));
    pass.load_queries(rows, q, depth_);
    std::fill(result, result + rows_ * width_, T(0));
    state.begin(rows_);
    const auto keys_soon = [&](Span soon) __attribute__((always_inline)) { pass.prefetch_keys(rows, soon); };
    const auto values_soon = [&](Span soon) __attribute__((always_inline)) { pass.prefetch_values(rows, soon); };
    each_tile(pass.mask, rows.region(0, rows_, part.keys), step, [&](const KeyTile& tile, const KeyTile* next) {
      const Index count = tile.size(), columns = simd::whole<T>(count);
      tile.each_run([&](Index column, Span keys) {
        pass.each_keys(rows, keys, [&](Span some, const auto& k) {
          const Index at = column + some.first - keys.first;
          each_piece(
              k, some.size(), [&](Index j, Index n) __attribute__((always_inline)) {
                if (look_ahead_ && !k.long_run) ahead(pass, tile, next, at + j, n, keys_soon);
                k.score(rows_, q, depth_, j, n, scores + at + j, columns, scratch);
              });
        });
      });
      if (pass.modified || !tile.full() || columns != count) {
        pass.finish_scores(rows, 0, rows_, tile, 0, count, tile.full(), nullptr, scores, columns);
      }
      bool spoiled = false;
      if (pass.careful(tile.full()))
        tile.each_run([&](Index, Span keys) { spoiled = spoiled || !pass.finite(rows, keys); });
      if (spoiled) [[unlikely]]
        std::copy_n(scores, rows_ * columns, kept_scores);
      const T* shrink = state.absorb(0, rows_, scores, columns, columns) ? state.shrink : nullptr;
      // Pieces are counted from the beginning of the tile: sums do not depend on where runs end.
      Index waiting = 0;  // values that are read, of a piece of which more are to come
      const auto add = [&](const auto& run, Index first, Index at, Index n) __attribute__((always_inline)) {
        run.add(rows_, first, n, scores + at, columns, result, width_, shrink, scratch);
        shrink = nullptr;
      };
      tile.each_run([&](Index column, Span keys) {
        pass.each_values(rows, keys, [&](Span some, const auto& v) {
          const Index begin = column + some.first - keys.first, size = some.size();
          const bool in_place = !spoiled && v.whole(width_);
          for (Index j = 0, n = 0; j < size; j += n) {
            const Index at = begin + j;
            n = std::min(v.piece, size - j);
            const bool all = waiting == 0 && at % v.piece == 0 && (n == v.piece || at + n == count);
            if (in_place && all) {
              if (look_ahead_ && !v.long_run) ahead(pass, tile, next, at, n, values_soon);
              add(v, j, at, n);
              continue;
            }
            constexpr Index piece = kv::Rows<T>::piece;
            n = std::min(size - j, piece - waiting);
            if (look_ahead_ && !v.long_run) ahead(pass, tile, next, at, n, values_soon);
            pass.load_values(v, j, n, spoiled, values + waiting * width_, width_);
            waiting += n;
            if (waiting < piece && at + n < count) continue;
            add(kv::Rows<T>{values, width_, width_}, 0, at + n - waiting, waiting);
            waiting = 0;
          }
        });
      });
      if (spoiled) [[unlikely]]
        pass.add_spoiled(rows, tile, 0, count, rows_, kept_scores, scores, columns, result, width_, row);
    });
    for (Index r = 0; r < rows_; ++r) {
      totals(result)[r] = state.total(r);
      references(result)[r] = state.reference[r];
    }
  }

  // Calls f(first, count) for the pieces of a run.
  template <class Run, class F>
  [[gnu::always_inline]] static void each_piece(const Run& run, Index size, F&& f) {
    for (Index j = 0; j < size; j += run.piece) f(j, std::min(run.piece, size - j));
  }

  // Calls f(keys) for the keys of the next tile in the place of the `count` keys from `column` on: what memory should
  // be busy with meanwhile. Behind the last tile of a part the keys that follow are taken for it.
  template <class F>
  [[gnu::noinline]] static void ahead(const OnePass& pass, const KeyTile& tile, const KeyTile* next, Index column,
                                      Index count, F&& f) {
    pass.has_effect();
    if (next != nullptr) {
      const auto run = [&](Index, Span keys) __attribute__((always_inline)) { f(keys); };
      next->each_run(column, std::min(column + count, next->size()), run);
    } else {
      const Index first = std::min(tile.last_key() + 1 + column, pass.shape.keys);
      f(Span{first, std::min(first + count, pass.shape.keys)});
    }
  }

  // Adds the parts of one kv head up, in order, and writes its rows.
  void merge(const OnePass& pass, const TileRows& rows, T* parts, Index count, T* sum) const {
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
        const T weight = std::exp(pass.natural_unit() * (references(part)[r] - reference));
        total += weight * totals(part)[r];
        simd::add_scaled(sum, weight, part + r * width_, width_);
      }
      pass.write_row(at, sum, total, reference);
    });
  }

  const Several<OnePass>& passes_;
  const Problem<T>& problem_;
  const Source& source_;
  const Index rows_, depth_, width_, part_size_;
  const bool look_ahead_;
};

}  // namespace fovea::inline FOVEA_ISA::engine
