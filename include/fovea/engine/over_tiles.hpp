// The many-query path: tiles of queries against tiles of keys, both products on the register kernel.
//
// A work item is the tile of some queries of one (batch, kv head). It walks over tiles of keys; for each it lays the
// keys out as columns and the values as rows in aligned scratch, and then, band by band of a few rows:
//
//   scores = q k^T          register kernel
//   weights = normalizer    in place, on vectors
//   out += weights v        register kernel; what the normalizer shrinks, it shrinks on the way in
#pragma once

#include <cmath>
#include <cstring>

#include <fovea/engine/recipe.hpp>
#include <fovea/engine/rows.hpp>
#include <fovea/engine/visit.hpp>
#include <fovea/engine/work.hpp>
#include <fovea/parts/kv/contiguous.hpp>
#include <fovea/simd/transpose.hpp>

namespace fovea::inline FOVEA_ISA::engine {

// Sizes of the tiles of one call.
template <class T>
struct TilePlan {
  Index key_dim, value_dim, width;  // width: value_dim in whole vectors
  Index step;                       // keys of a tile
  Index queries;                    // queries of a tile
  Index rows;                       // rows of a tile, in whole bands

  // Keys of a tile: one register tile wide at least, 64 where the vectors are shorter.
  static constexpr Index most_keys = std::max<Index>(simd::tile_vectors * simd::lanes<T>, 64);
  // Scratch of one worker, in bytes, that queries and sums may fill.
  static constexpr Index budget = 160 * 1024;

  TilePlan(Index all_queries, Index keys, Index group, Index key_width, Index value_width)
      : key_dim(key_width), value_dim(value_width), width(simd::whole<T>(value_width)) {
    step = std::min(most_keys, std::max<Index>(simd::whole<T>(keys), simd::lanes<T>));
    const Index fit = std::clamp<Index>(budget / Index(sizeof(T)) / (key_dim + width), 4 * simd::tile_rows, 192);
    const Index most = std::max<Index>(fit / group, 1);
    const Index tiles = (all_queries + most - 1) / most;
    queries = (all_queries + tiles - 1) / tiles;
    rows = simd::whole_rows(queries * group);
  }

  Index scratch_size() const {
    return whole_lines<T>(rows * key_dim) + whole_lines<T>(rows * width) + whole_lines<T>(key_dim * step) +
           whole_lines<T>(step * width) + whole_lines<T>(simd::tile_rows * step) +
           whole_lines<T>(normalizer::SoftmaxRows<T>::size(rows));
  }
};

template <class T, class Source, class Mask, class Scores>
class OverTiles {
 public:
  static constexpr int band = simd::tile_rows;

  OverTiles(const Problem<T>& problem, const Source& source, const normalizer::Softmax& softmax, const Mask& mask,
            const Scores& scores, bool modified)
      : problem_(problem),
        source_(source),
        softmax_(softmax),
        mask_(mask),
        scores_(scores),
        modified_(modified),
        plan_(problem.q.length, source.length(), problem.group, source.key_dim(), source.value_dim()) {}

  template <class Exec>
  void run(const Exec& executor) const {
    const Index tiles = (problem_.q.length + plan_.queries - 1) / plan_.queries;
    const Index kv_heads = problem_.q.heads / problem_.group;
    const double flops = 2.0 * double(plan_.rows) * double(source_.length()) * double(plan_.key_dim + plan_.value_dim);
    distribute<T>(
        executor, problem_.q.batch * kv_heads * tiles, flops, plan_.scratch_size(), [&](Index item, T* memory) {
          // The last queries first: under a causal mask they have most to do.
          const Index t = tiles - 1 - item % tiles, head = item / tiles % kv_heads, batch = item / tiles / kv_heads;
          const Span queries{t * plan_.queries, std::min((t + 1) * plan_.queries, problem_.q.length)};
          tile({batch, head, problem_.group, queries}, memory);
        });
  }

 private:
  struct Scratch {
    T *q, *out, *keys, *values, *scores;
    normalizer::SoftmaxRows<T> state;
  };

  void tile(const TileRows& rows, T* memory) const {
    Carve<T> carve(memory);
    T* const q = carve(plan_.rows * plan_.key_dim);
    T* const out = carve(plan_.rows * plan_.width);
    T* const keys = carve(plan_.key_dim * plan_.step);
    T* const values = carve(plan_.step * plan_.width);
    T* const scores = carve(band * plan_.step);
    const Index padded = simd::whole_rows(rows.count());
    Scratch scratch{q, out, keys, values, scores, {carve(normalizer::SoftmaxRows<T>::size(plan_.rows)), plan_.rows}};
    scratch.state.begin(padded);
    load_queries(rows, padded, q);
    std::memset(out, 0, std::size_t(padded * plan_.width) * sizeof(T));
    visit_tiles(mask_, rows.region(0, rows.count(), {0, source_.length()}), plan_.step,
                [&](Span span, bool full) { absorb_tile(rows, span, full, scratch); });
    store(rows, scratch);
  }

  // Rows of q times what brings scores into the unit that the first reader wants; rows behind the last are zero.
  void load_queries(const TileRows& rows, Index padded, T* q) const {
    const double scale = softmax_.scale_for(plan_.key_dim) * (modified_ ? 1.0 : simd::log2_e);
    for (Index r = 0; r < rows.count(); ++r) {
      const Row at = rows.row(r);
      simd::copy_scaled(q + r * plan_.key_dim, problem_.q.row(at.batch, at.head, at.query), plan_.key_dim, T(scale));
    }
    std::memset(q + rows.count() * plan_.key_dim, 0, std::size_t((padded - rows.count()) * plan_.key_dim) * sizeof(T));
  }

  void absorb_tile(const TileRows& rows, Span span, bool full, Scratch& scratch) const {
    const Index columns = simd::whole<T>(span.size());
    const auto k = source_.keys(rows.batch, rows.kv_head, span);
    const auto v = source_.values(rows.batch, rows.kv_head, span);
    simd::transpose(span.size(), plan_.key_dim, k.data, k.stride, scratch.keys, columns);
    const bool spoiled = load_values(v, span.size(), columns, !full, scratch.values);

    for (Index first = 0; first < rows.count(); first += band) {
      bool all = full;
      if (!full) {
        const auto cover = mask_.cover(rows.region(first, first + band, span));
        if (cover == mask::Cover::none) continue;
        all = cover == mask::Cover::full;
      }
      simd::multiply_rows<band, simd::Start::zero>(columns, plan_.key_dim, scratch.q + first * plan_.key_dim,
                                                   plan_.key_dim, scratch.keys, columns, scratch.scores, columns);
      if (modified_ || !all || columns != span.size()) finish_scores(rows, first, span, all, columns, scratch.scores);
      const bool moved = scratch.state.template absorb<band>(first, scratch.scores, columns, columns);
      T* const out = scratch.out + first * plan_.width;
      if (moved) {
        simd::multiply_rows<band, simd::Start::shrink>(plan_.width, columns, scratch.scores, columns, scratch.values,
                                                       plan_.width, out, plan_.width, scratch.state.shrink + first);
      } else {
        simd::multiply_rows<band, simd::Start::keep>(plan_.width, columns, scratch.scores, columns, scratch.values,
                                                     plan_.width, out, plan_.width);
      }
      if (spoiled) [[unlikely]]
        add_spoiled(rows, first, span, v, columns, scratch);
    }
  }

  // Score modifiers, then the mask, then the columns behind the last key.
  [[gnu::noinline]] void finish_scores(const TileRows& rows, Index first, Span span, bool all, Index columns,
                                       T* scores) const {
    const Index last = std::min<Index>(first + band, rows.count());
    for (Index r = first; r < last; ++r) {
      T* const row = scores + (r - first) * columns;
      const Row at = rows.row(r);
      if (modified_) {
        scores_(row, at, span);
        simd::scale(row, span.size(), T(simd::log2_e));
      }
      if (!all) {
        for (Index j = 0; j < span.size(); j += mask::word) {
          const Span keys{span.first + j, std::min(span.first + j + mask::word, span.last)};
          const auto seen = mask_.seen(at, keys);
          if (seen != mask::low_bits(keys.size())) simd::hide(row + j, keys.size(), seen);
        }
      }
    }
    for (Index r = 0; r < band; ++r) {
      for (Index j = span.size(); j < columns; ++j) scores[r * columns + j] = -simd::infinity<T>;
    }
  }

  // Values as aligned rows of whole vectors. When `careful`, rows with an infinity or NaN are left out (zero) and true
  // is returned: they may be added to the queries that see them and to no other.
  bool load_values(const kv::Rows<T>& v, Index count, Index columns, bool careful, T* values) const {
    bool spoiled = false;
    const std::size_t row_size = std::size_t(plan_.value_dim) * sizeof(T);
    const std::size_t padding = std::size_t(plan_.width - plan_.value_dim) * sizeof(T);
    for (Index j = 0; j < count; ++j) {
      T* const row = values + j * plan_.width;
      std::memcpy(row, v[j], row_size);
      if (padding != 0) std::memset(row + plan_.value_dim, 0, padding);
      if (careful && !simd::all_finite(row, plan_.value_dim)) {
        std::memset(row, 0, row_size);
        spoiled = true;
      }
    }
    std::memset(values + count * plan_.width, 0, std::size_t((columns - count) * plan_.width) * sizeof(T));
    return spoiled;
  }

  // The values that load_values left out, for the rows that see them.
  [[gnu::noinline]] void add_spoiled(const TileRows& rows, Index first, Span span, const kv::Rows<T>& v, Index columns,
                                     Scratch& scratch) const {
    const Index last = std::min<Index>(first + band, rows.count());
    for (Index j = 0; j < span.size(); ++j) {
      if (simd::all_finite(v[j], plan_.value_dim)) continue;
      for (Index r = first; r < last; ++r) {
        const Row at = rows.row(r);
        if (mask::sees(mask_, {at.batch, at.head, at.query, span.first + j}))
          simd::add_scaled(scratch.out + r * plan_.width, scratch.scores[(r - first) * columns + j], v[j],
                           plan_.value_dim);
      }
    }
  }

  void store(const TileRows& rows, const Scratch& scratch) const {
    for (Index r = 0; r < rows.count(); ++r) {
      const Row at = rows.row(r);
      const T total = scratch.state.total(r);
      const T* const sums = scratch.out + r * plan_.width;
      T* const out = problem_.out.row(at.batch, at.head, at.query);
      const T whole = total + softmax_.sink_weight(at.head, scratch.state.reference[r]);
      if (total == T(0)) {
        std::memset(out, 0, std::size_t(plan_.value_dim) * sizeof(T));
      } else {
        simd::copy_divided(out, sums, plan_.value_dim, whole);
      }
      if (problem_.log_sum.data != nullptr)
        *problem_.log_sum.row(at.batch, at.head, at.query) = scratch.state.log_sum(r, total);
    }
  }

  const Problem<T>& problem_;
  const Source& source_;
  const normalizer::Softmax& softmax_;
  const Mask& mask_;
  const Scores& scores_;
  const bool modified_;
  const TilePlan<T> plan_;
};

}  // namespace fovea::inline FOVEA_ISA::engine
