// The many-query path: tiles of queries against tiles of keys, both products on the register kernel.
//
// A work item is the tile of some queries of one (batch, kv head). It walks over tiles of keys; for each it lays the
// keys out as columns and the values as rows in aligned scratch, and then, band by band of a few rows:
//
//   scores = q k^T          register kernel
//   weights = normalizer    in place, on vectors
//   out += weights v        register kernel; what the normalizer shrinks, it shrinks on the way in
#pragma once

#include <bit>

#include <fovea/engine/pass.hpp>
#include <fovea/engine/visit.hpp>
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
  // Queries and sums of a tile in bytes: they stay in the second-level cache while keys and values pass by.
  static constexpr Index budget = 320 * 1024;

  // Tiles as large as fits, so that keys are laid out seldom; but at least `wanted` of them to share out, as long as
  // they have some bands; and along the blocks of a mask that has any. Results do not depend on the queries of a tile.
  TilePlan(const Shape& shape, Index key_width, Index value_width, Index wanted, const mask::Grain& grain)
      : key_dim(key_width), value_dim(value_width), width(simd::whole<T>(value_width)) {
    constexpr Index least_rows = 8 * simd::tile_rows, most_rows = 64 * simd::tile_rows;
    const Index group = shape.heads / shape.kv_heads;
    const Index fit = std::clamp<Index>(budget / Index(sizeof(T)) / (key_dim + width), least_rows, most_rows);
    const Index share = (shape.queries * group + wanted - 1) / wanted;
    const Index most = std::max<Index>(std::min(fit, std::max(share, least_rows)) / group, 1);
    if (grain.queries > 1 && grain.queries <= most) {
      queries = std::max<Index>(least_rows / group / grain.queries, 1) * grain.queries;
    } else {
      const Index tiles = (shape.queries + most - 1) / most;
      queries = (shape.queries + tiles - 1) / tiles;
    }
    rows = simd::whole_rows(queries * group);
    const Index block = grain.keys > 1 && grain.keys < most_keys ? simd::whole<T>(grain.keys) : most_keys;
    step = std::min(most_keys % block == 0 ? block : most_keys, std::max(simd::whole<T>(shape.keys), simd::lanes<T>));
  }

  Index scratch_size() const {
    return whole_lines<T>(rows * key_dim) + whole_lines<T>(rows * width) + whole_lines<T>(key_dim * step) +
           whole_lines<T>(step * width) + 2 * whole_lines<T>(simd::tile_rows * step) +
           whole_lines<T>(normalizer::SoftmaxRows<T>::size(rows));
  }
};

template <class T, class Source, class Mask, class Scores>
class OverTiles {
 public:
  OverTiles(const Pass<T, Source, Mask, Scores>& pass, Index workers)
      : pass_(pass),
        plan_(pass.problem.shape(), pass.source.key_dim(), pass.source.value_dim(),
              tiles_for(workers, pass.problem.shape()), mask::grain_of(pass.mask)) {}

  template <class Exec>
  void run(const Exec& executor) const {
    const auto& q = pass_.problem.q;
    const Index group = pass_.problem.group;
    const Index tiles = (q.length + plan_.queries - 1) / plan_.queries;
    const Index kv_heads = q.heads / group;
    const double flops =
        2.0 * double(plan_.rows) * double(pass_.source.length()) * double(plan_.key_dim + plan_.value_dim);
    distribute<T>(executor, q.batch * kv_heads * tiles, flops, plan_.scratch_size(), [&](Index item, T* memory) {
      // The last queries first: under a causal mask they have most to do.
      const Index t = tiles - 1 - item % tiles, head = item / tiles % kv_heads, batch = item / tiles / kv_heads;
      tile({batch, head, group, {t * plan_.queries, std::min((t + 1) * plan_.queries, q.length)}}, memory);
    });
  }

 private:
  static constexpr Index band = simd::tile_rows;
  static constexpr Index whole_step = TilePlan<T>::most_keys;
  static_assert(whole_step <= mask::word);

  // Tiles of a (batch, kv head) such that every worker finds a few.
  static Index tiles_for(Index workers, const Shape& shape) {
    const Index heads = shape.batch * shape.kv_heads;
    return workers == 1 ? 1 : (4 * workers + heads - 1) / heads;
  }

  struct Scratch {
    T *q, *out, *keys, *values, *scores, *kept_scores;
    normalizer::SoftmaxRows<T> state;
  };

  void tile(const TileRows& rows, T* memory) const {
    Carve<T> carve(memory);
    T* const q = carve(plan_.rows * plan_.key_dim);
    T* const out = carve(plan_.rows * plan_.width);
    T* const keys = carve(plan_.key_dim * plan_.step);
    T* const values = carve(plan_.step * plan_.width);
    T* const scores = carve(band * plan_.step);
    T* const kept_scores = carve(band * plan_.step);
    Scratch scratch{q,
                    out,
                    keys,
                    values,
                    scores,
                    kept_scores,
                    {pass_.power_unit(), carve(normalizer::SoftmaxRows<T>::size(plan_.rows)), plan_.rows}};
    const Index padded = simd::whole_rows(rows.count());
    const Span soon{0, std::min(plan_.step, pass_.source.length())};
    pass_.prefetch_keys(rows, soon);
    pass_.prefetch_values(rows, soon);
    pass_.load_queries(rows, q, plan_.key_dim);
    std::fill(q + rows.count() * plan_.key_dim, q + padded * plan_.key_dim, T(0));
    std::fill(out, out + padded * plan_.width, T(0));
    scratch.state.begin(padded);
    visit_tiles(pass_.mask, rows.region(0, rows.count(), {0, pass_.source.length()}), plan_.step,
                [&](Span span, bool full) { absorb_tile(rows, span, full, scratch); });
    rows.each(0, rows.count(), [&](Index r, Row at) {
      pass_.write_row(at, out + r * plan_.width, scratch.state.total(r), scratch.state.reference[r]);
    });
  }

  void absorb_tile(const TileRows& rows, Span span, bool full, Scratch& scratch) const {
    const Index columns = simd::whole<T>(span.size());
    const auto k = pass_.source.keys(rows.batch, rows.kv_head, span);
    const auto v = pass_.source.values(rows.batch, rows.kv_head, span);
    simd::transpose(span.size(), plan_.key_dim, k.data, k.stride, scratch.keys, columns);
    const bool careful = pass_.careful(full);
    bool spoiled = false;
    const T* values = v.data;
    if (columns != span.size() || !lies_well(v) || (careful && !pass_.finite(v, span.size()))) {
      spoiled = pass_.load_values(v, span.size(), careful, scratch.values, plan_.width);
      std::fill(scratch.values + span.size() * plan_.width, scratch.values + columns * plan_.width, T(0));
      values = scratch.values;
    }

    // While bands are worked on, the next tile is asked for: some rows a band, at last what is left.
    const Index bands = (rows.count() + band - 1) / band;
    const Index share = (plan_.step + bands - 1) / bands;
    const Index end = std::min(span.last + plan_.step, pass_.source.length());
    Index asked = span.last;
    const auto ask = [&](Index count) {
      const Span next{asked, std::min(asked + count, end)};
      pass_.prefetch_keys(rows, next);
      pass_.prefetch_values(rows, next);
      asked = next.last;
    };
    const auto cover = [&](Index first, Index last) {
      return full ? mask::Cover::full : pass_.mask.cover(rows.region(first * band, last * band, span));
    };
    visit_pieces(0, bands, cover, [&](Index i, bool all) {
      ask(share);
      absorb_band(rows, i * band, span, all, columns, values, spoiled ? &v : nullptr, scratch);
    });
    ask(plan_.step);
  }

  // Whether values can be read where they are: whole, aligned vectors, row behind row.
  bool lies_well(const kv::Rows<T>& v) const {
    return v.stride == plan_.width && reinterpret_cast<std::uintptr_t>(v.data) % sizeof(simd::Pack<T>) == 0;
  }

  void absorb_band(const TileRows& rows, Index first, Span tile, bool all, Index stride, const T* tile_values,
                   const kv::Rows<T>* tile_spoiled, Scratch& scratch) const {
    // Of a tile that the border cuts, only the vectors of keys that some row of the band sees.
    std::uint64_t seen[std::size_t(band)] = {};
    Index skip = 0, columns = stride;
    Span span = tile;
    if (!all) {
      std::uint64_t some = 0;
      rows.each(first, first + band, [&](Index r, Row at) { some |= seen[r - first] = pass_.mask.seen(at, tile); });
      if (some == 0) return;
      skip = Index(std::countr_zero(some)) / simd::lanes<T> * simd::lanes<T>;
      columns = simd::whole<T>(mask::word - Index(std::countl_zero(some)) - skip);
      span = {tile.first + skip, std::min(tile.first + skip + columns, tile.last)};
      for (std::uint64_t& bits : seen) bits >>= skip;
    }
    const T* const values = tile_values + skip * plan_.width;
    score_band(scratch.q + first * plan_.key_dim, columns, scratch.keys + skip, stride, scratch.scores);
    if (pass_.modified || !all || columns != span.size()) {
      const auto bits = [&](Index r, Row) { return seen[r - first]; };
      pass_.finish_scores(rows, first, first + band, span, all, bits, scratch.scores, columns);
    }
    if (tile_spoiled != nullptr) [[unlikely]]
      std::copy_n(scratch.scores, band * columns, scratch.kept_scores);
    const auto absorb = [&](auto width) {
      return scratch.state.absorb(first, std::integral_constant<Index, band>{}, scratch.scores, columns, width);
    };
    const bool moved = columns == whole_step ? absorb(std::integral_constant<Index, whole_step>{}) : absorb(columns);
    T* const out = scratch.out + first * plan_.width;
    if (moved) {
      simd::multiply_rows<band, simd::Onto::shrunk_sum>(plan_.width, columns, scratch.scores, columns, values,
                                                        plan_.width, out, plan_.width, scratch.state.shrink + first);
    } else {
      simd::multiply_rows<band, simd::Onto::sum>(plan_.width, columns, scratch.scores, columns, values, plan_.width,
                                                 out, plan_.width);
    }
    if (tile_spoiled != nullptr) [[unlikely]] {
      const kv::Rows<T> spoiled{(*tile_spoiled)[skip], tile_spoiled->stride};
      pass_.add_spoiled(std::min(band, rows.count() - first), span.size(), spoiled, scratch.kept_scores, scratch.scores,
                        columns, out, plan_.width);
    }
  }

  // Scores of one band, in pieces of the depth so that no chain of additions is long.
  void score_band(const T* q, Index columns, const T* keys, Index stride, T* scores) const {
    constexpr Index piece = 64;
    const Index dim = plan_.key_dim;
    simd::multiply_rows<band, simd::Onto::nothing>(columns, std::min(piece, dim), q, dim, keys, stride, scores,
                                                   columns);
    for (Index d = piece; d < dim; d += piece)
      simd::multiply_rows<band, simd::Onto::sum>(columns, std::min(piece, dim - d), q + d, dim, keys + d * stride,
                                                 stride, scores, columns);
  }

  const Pass<T, Source, Mask, Scores>& pass_;
  const TilePlan<T> plan_;
};

}  // namespace fovea::inline FOVEA_ISA::engine
