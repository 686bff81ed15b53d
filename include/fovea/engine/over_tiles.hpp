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

#include <fovea/engine/panels.hpp>
#include <fovea/engine/pass.hpp>
#include <fovea/engine/visit.hpp>

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

  bool gathers;  // whether the keys of a tile may be scattered

  // Tiles as large as fits, so that keys are laid out seldom; but at least `wanted` of them to share out, as long as
  // they have some bands; and along the blocks of a mask that has any. `group` heads are rows of one tile. Results do
  // not depend on the queries of a tile.
  TilePlan(const Shape& shape, Index key_width, Index value_width, Index group, Index wanted, const mask::Grain& grain,
           bool listed)
      : key_dim(key_width), value_dim(value_width), width(simd::whole<T>(value_width)), gathers(listed) {
    constexpr Index least_rows = 8 * simd::tile_rows, most_rows = 64 * simd::tile_rows;
    const Index fit = std::clamp<Index>(budget / Index(sizeof(T)) / (key_dim + width), least_rows, most_rows);
    const Index share = (shape.queries * group + wanted - 1) / wanted;
    const Index most = std::max<Index>((gathers ? fit : std::min(fit, std::max(share, least_rows))) / group, 1);
    if (grain.queries > 1 && grain.queries <= most) {
      queries = std::max<Index>(least_rows / group / grain.queries, 1) * grain.queries;
    } else if (gathers) {
      // What is gathered depends on the lists of a tile, so these must not depend on the workers.
      Index parts = (grain.queries + most - 1) / most;
      while (grain.queries % parts != 0) ++parts;
      queries = std::max(grain.queries / parts, std::max<Index>(least_rows / group, 1));
    } else {
      const Index tiles = (shape.queries + most - 1) / most;
      queries = (shape.queries + tiles - 1) / tiles;
    }
    queries = std::min(queries, shape.queries);
    rows = simd::whole_rows(queries * group);
    const Index block = grain.keys > 1 && grain.keys < most_keys && !gathers ? simd::whole<T>(grain.keys) : most_keys;
    step = std::min(most_keys % block == 0 ? block : most_keys, std::max(simd::whole<T>(shape.keys), simd::lanes<T>));
  }

  Index scratch_size() const {
    return whole_lines<T>(rows * key_dim) + whole_lines<T>(rows * width) + whole_lines<T>(key_dim * step) +
           whole_lines<T>(step * width) + 2 * whole_lines<T>(simd::tile_rows * step) +
           whole_lines<T>(normalizer::SoftmaxRows<T>::size(rows)) + whole_lines<T>(step * key_dim) +
           whole_lines<T>(width);
  }
};

// The product of a band of 2, 4 or 6 rows. A function of its own: every mask, source and score of a program shares it.
template <class T>
[[gnu::noinline]] void multiply_band(simd::Onto onto, Index height, Index columns, Index depth, const T* a, Index lda,
                                     const T* b, Index ldb, T* c, Index ldc, const T* shrink) {
  if (height == 6) return simd::multiply_rows<6>(onto, columns, depth, a, lda, b, ldb, c, ldc, shrink);
  if (height == 4) return simd::multiply_rows<4>(onto, columns, depth, a, lda, b, ldb, c, ldc, shrink);
  simd::multiply_rows<2>(onto, columns, depth, a, lda, b, ldb, c, ldc, shrink);
}

template <class T, class Source, class Mask, class Scores>
class OverTiles {
 public:
  // For some sequences, of one shape.
  OverTiles(const Pass<T, Source, Mask, Scores>& pass, Span batches, Index workers)
      : pass_(pass),
        batches_(batches),
        workers_(workers),
        group_(mask::grain_of(pass.mask).by_head ? 1 : pass.problem.group),
        plan_(pass.shape, pass.source.key_dim(), pass.source.value_dim(), group_,
              tiles_for(workers, batches.size() * pass.problem.q.heads / group_), mask::grain_of(pass.mask),
              mask::Lists<Mask>) {}

  template <class Exec>
  void run(const Exec& executor) const {
    const auto& q = pass_.problem.q;
    const Index kv_heads = q.heads / pass_.problem.group;
    const Span all{batches_.first * kv_heads, batches_.last * kv_heads};
    if (!shares_keys()) return attend_heads(all, nullptr, executor);
    const Index keys = pass_.shape.keys, some = heads_at_a_time(all.size());
    const Panels<T> panels(executor, some, keys, plan_.key_dim, plan_.step);
    for (Index first = all.first; first < all.last; first += some) {
      const Span heads{first, std::min(first + some, all.last)};
      const double moves = 4.0 * double(plan_.step) * double(plan_.key_dim);
      const Index items = heads.size() * panels.tiles();
      distribute<T>(executor, items, moves, plan_.step * plan_.key_dim, [&](Index item, T* gathered) {
        const Index head = item / panels.tiles(), n = first + head, place = item % panels.tiles();
        KeyTile tile;
        tile.clear();
        tile.add(panels.tokens(place), true);
        const auto k = pass_.key_rows({n / kv_heads, n % kv_heads, 0, 1, {}}, tile, gathered);
        simd::transpose(tile.size(), plan_.key_dim, k.data, k.stride, panels.panel(head, place),
                        simd::whole<T>(tile.size()));
      });
      attend_heads(heads, &panels, executor);
    }
  }

 private:
  static constexpr Index band = simd::tile_rows;
  static constexpr Index whole_step = TilePlan<T>::most_keys;
  static_assert(whole_step <= mask::word);
  static_assert(band == 6);

  // Tiles of each of some groups of heads such that every worker finds a few.
  static Index tiles_for(Index workers, Index groups) { return workers == 1 ? 1 : (4 * workers + groups - 1) / groups; }

  // Panels of keys use so much memory at most, or that of one kv head.
  static constexpr Index panel_budget = Index{32} << 20;

  // As few kv heads as keep the workers busy, since memory that is new costs time (a thread of its own needs one), and
  // as have room for their panels. The results do not depend on it.
  Index heads_at_a_time(Index heads) const {
    const Index tiles_of_head = tiles() * pass_.problem.group / group_, wanted = workers_ == 1 ? 1 : 32 * workers_;
    const Index room = panel_budget / (pass_.shape.keys * plan_.key_dim * Index(sizeof(T)));
    return std::clamp<Index>(std::min((wanted + tiles_of_head - 1) / tiles_of_head, room), 1, heads);
  }

  Index tiles() const { return (pass_.problem.q.length + plan_.queries - 1) / plan_.queries; }
  Span queries(Span tiles) const {
    return {tiles.first * plan_.queries, std::min(tiles.last * plan_.queries, pass_.problem.q.length)};
  }

  // Whether enough tiles of queries read a tile of keys, one in the middle, for it to be laid out once for all.
  bool shares_keys() const {
    constexpr Index enough = 4;
    const Index keys = pass_.shape.keys, groups = pass_.problem.group / group_;
    if (tiles() * groups < enough || keys == 0) return false;
    const Index middle = keys / 2 / plan_.step * plan_.step;
    const Span tile{middle, std::min(middle + plan_.step, keys)};
    Index readers = 0;
    const auto cover = [&](Index first, Index last) {
      return pass_.mask.cover({batches_.first, {0, group_}, queries({first, last}), tile});
    };
    visit_pieces(0, tiles(), cover, [&](Index, bool) { ++readers; });
    return readers * groups >= enough;
  }

  // Attends for the query heads of some kv heads, counted over batches; panels begin with the first of them.
  template <class Exec>
  void attend_heads(Span heads, const Panels<T>* panels, const Exec& executor) const {
    const auto& problem = pass_.problem;
    const Index kv_heads = problem.q.heads / problem.group, groups = problem.group / group_;
    const double flops = 2.0 * double(plan_.rows) * double(pass_.shape.keys) * double(plan_.key_dim + plan_.value_dim);
    distribute<T>(executor, heads.size() * groups * tiles(), flops, plan_.scratch_size(), [&](Index item, T* memory) {
      // The last queries first: under a causal mask they have most to do.
      const Index t = tiles() - 1 - item % tiles(), n = item / tiles(), place = n / groups;
      const Index kv_head = (heads.first + place) % kv_heads, batch = (heads.first + place) / kv_heads;
      const Index first_head = kv_head * problem.group + n % groups * group_;
      tile({batch, kv_head, first_head, group_, queries({t, t + 1})}, panels, place, memory);
    });
  }

  struct Scratch {
    const Panels<T>* panels;  // null, or where the keys of this kv head lie as columns
    Index place;              // of the kv head among the panels
    T *q, *out, *keys, *values, *scores, *kept_scores, *gathered, *row;
    normalizer::SoftmaxRows<T> state;
  };

  void tile(const TileRows& rows, const Panels<T>* panels, Index place, T* memory) const {
    Carve<T> carve(memory);
    T* const q = carve(plan_.rows * plan_.key_dim);
    T* const out = carve(plan_.rows * plan_.width);
    T* const keys = carve(plan_.key_dim * plan_.step);
    T* const values = carve(plan_.step * plan_.width);
    T* const scores = carve(band * plan_.step);
    T* const kept_scores = carve(band * plan_.step);
    T* const gathered = carve(plan_.step * plan_.key_dim);
    T* const row = carve(plan_.width);
    T* const state = carve(normalizer::SoftmaxRows<T>::size(plan_.rows));
    Scratch scratch{panels,
                    place,
                    q,
                    out,
                    keys,
                    values,
                    scores,
                    kept_scores,
                    gathered,
                    row,
                    {pass_.power_unit(), state, plan_.rows}};
    const Index padded = simd::whole_rows(rows.count());
    std::fill(out, out + padded * plan_.width, T(0));
    scratch.state.begin(padded);
    bool begun = false;
    each_tile(pass_.mask, rows.region(0, rows.count(), {0, pass_.shape.keys}), plan_.step,
              [&](const KeyTile& keys_of_tile, const KeyTile* next) {
                if (!begun) {
                  ask(rows, keys_of_tile, 0, keys_of_tile.size(), scratch);
                  pass_.load_queries(rows, q, plan_.key_dim);
                  std::fill(q + rows.count() * plan_.key_dim, q + padded * plan_.key_dim, T(0));
                  begun = true;
                }
                absorb_tile(rows, keys_of_tile, next, scratch);
              });
    rows.each(0, rows.count(), [&](Index r, Row at) {
      pass_.write_row(at, out + r * plan_.width, scratch.state.total(r), scratch.state.reference[r]);
    });
  }

  // The keys of a tile as columns that are there already, or null.
  const T* panel_of(const KeyTile& tile, const Scratch& scratch) const {
    return scratch.panels == nullptr ? nullptr : scratch.panels->find(scratch.place, tile);
  }

  // Asks for columns [first, last) of a tile.
  [[gnu::noinline]] void ask(const TileRows& rows, const KeyTile& tile, Index first, Index last,
                             const Scratch& scratch) const {
    pass_.has_effect();
    const T* const panel = panel_of(tile, scratch);
    if (panel != nullptr) {
      const Index all = plan_.key_dim * simd::whole<T>(tile.size());
      pass_.prefetch(panel + all * first / tile.size(), all * last / tile.size() - all * first / tile.size());
    }
    tile.each_run(
        first, last, [&](Index, Span keys) __attribute__((always_inline)) {
          if (panel == nullptr) pass_.prefetch_keys(rows, keys);
          pass_.prefetch_values(rows, keys);
        });
  }

  void absorb_tile(const TileRows& rows, const KeyTile& tile, const KeyTile* next, Scratch& scratch) const {
    const Index columns = simd::whole<T>(tile.size());
    const T* const panel = panel_of(tile, scratch);
    if (panel == nullptr) lay_out_keys(rows, tile, columns, scratch);
    const T* const keys = panel == nullptr ? scratch.keys : panel;
    bool spoiled = false;
    const T* const values = values_of(rows, tile, columns, scratch, spoiled);

    // While bands are worked on, the next tile is asked for: some rows a band, at last what is left.
    const Index bands = (rows.count() + band - 1) / band, wanted = next == nullptr ? 0 : next->size();
    const Index share = (wanted + bands - 1) / bands;
    Index asked = 0;
    const auto ask_for = [&](Index count) __attribute__((always_inline)) {
      const Index last = std::min(asked + count, wanted);
      if (asked < last) ask(rows, *next, asked, last, scratch);
      asked = last;
    };
    const auto cover = [&](Index first, Index last) {
      return tile.full() ? mask::Cover::full : cover_of(rows.region(first * band, last * band, {0, 0}), tile);
    };
    visit_pieces(0, bands, cover, [&](Index i, bool all) {
      ask_for(share);
      absorb_band(rows, i * band, tile, all, columns, keys, values, spoiled, scratch);
    });
    ask_for(wanted);
  }

  // What the rows of a region see of a tile.
  mask::Cover cover_of(mask::Region region, const KeyTile& tile) const {
    bool some = false, all = true;
    tile.each_run([&](Index, Span keys) {
      if (some && !all) return;
      region.keys = keys;
      const mask::Cover seen = pass_.mask.cover(region);
      some = some || seen != mask::Cover::none;
      all = all && seen == mask::Cover::full;
    });
    return !some ? mask::Cover::none : all ? mask::Cover::full : mask::Cover::part;
  }

  // The keys of a tile as columns.
  void lay_out_keys(const TileRows& rows, const KeyTile& tile, Index columns, Scratch& scratch) const {
    const auto k = pass_.key_rows(rows, tile, scratch.gathered);
    simd::transpose(tile.size(), plan_.key_dim, k.data, k.stride, scratch.keys, columns);
  }

  // The values of a tile as rows: where they lie when they lie well, else as load_values leaves them.
  const T* values_of(const TileRows& rows, const KeyTile& tile, Index columns, Scratch& scratch, bool& spoiled) const {
    const bool careful = pass_.careful(tile.full());
    const T* in_place = nullptr;
    tile.each_run([&](Index column, Span keys) {
      pass_.each_values(rows, keys, [&](Span part, const auto& v) {
        if constexpr (std::is_same_v<decltype(v), const kv::Rows<T>&>) {
          if (part.size() == tile.size() && columns == tile.size() && lies_well(v) &&
              !(careful && !v.finite(0, part.size()))) {
            in_place = v.data;
            return;
          }
        }
        T* const to = scratch.values + (column + part.first - keys.first) * plan_.width;
        const bool left_out = pass_.load_values(v, 0, part.size(), careful, to, plan_.width);
        spoiled = spoiled || left_out;
      });
    });
    if (in_place != nullptr) return in_place;
    std::fill(scratch.values + tile.size() * plan_.width, scratch.values + columns * plan_.width, T(0));
    return scratch.values;
  }

  // Whether values can be read where they are: whole, aligned vectors, row behind row.
  bool lies_well(const kv::Rows<T>& v) const {
    return v.stride == plan_.width && reinterpret_cast<std::uintptr_t>(v.data) % sizeof(simd::Pack<T>) == 0;
  }

  // `stride` columns of keys and rows of values; spoiled: load_values left some out.
  [[gnu::noinline]] void absorb_band(const TileRows& rows, Index first, const KeyTile& tile, bool all, Index stride,
                                     const T* tile_keys, const T* tile_values, bool spoiled, Scratch& scratch) const {
    // Of a tile that the border cuts, only the vectors of keys that some row of the band sees.
    std::uint64_t seen[std::size_t(band)] = {};
    Index skip = 0, columns = stride, count = tile.size();
    if (!all) {
      std::uint64_t some = 0;
      rows.each(first, first + band, [&](Index r, Row at) { some |= seen[r - first] = tile.seen(pass_.mask, at); });
      if (some == 0) return;
      skip = Index(std::countr_zero(some)) / simd::lanes<T> * simd::lanes<T>;
      columns = simd::whole<T>(mask::word - Index(std::countl_zero(some)) - skip);
      count = std::min(columns, tile.size() - skip);
      for (std::uint64_t& bits : seen) bits >>= skip;
    }
    const T* const values = tile_values + skip * plan_.width;
    const Index height = height_of(rows.count() - first);
    score_band(height, scratch.q + first * plan_.key_dim, plan_.key_dim, columns, tile_keys + skip, stride,
               scratch.scores);
    if (pass_.modified || !all || columns != count) {
      pass_.finish_scores(rows, first, first + height, tile, skip, count, all, seen, scratch.scores, columns);
    }
    if (spoiled) [[unlikely]]
      std::copy_n(scratch.scores, height * columns, scratch.kept_scores);
    constexpr std::integral_constant<Index, whole_step> whole;
    const bool moved = columns == whole_step ? scratch.state.absorb(first, height, scratch.scores, whole, whole)
                                             : scratch.state.absorb(first, height, scratch.scores, columns, columns);
    T* const out = scratch.out + first * plan_.width;
    multiply_band(moved ? simd::Onto::shrunk_sum : simd::Onto::sum, height, plan_.width, count, scratch.scores, columns,
                  values, plan_.width, out, plan_.width, scratch.state.shrink + first);
    if (spoiled) [[unlikely]]
      pass_.add_spoiled(rows, tile, skip, skip + count, std::min(band, rows.count() - first), scratch.kept_scores,
                        scratch.scores, columns, out, plan_.width, scratch.row);
  }

  // Rows of a band that are computed when there are `left`: a band, or an even number of rows at the end of a tile.
  static Index height_of(Index left) { return std::min(band, (left + 1) / 2 * 2); }

  // Scores of one band, in pieces of the depth so that no chain of additions is long.
  static void score_band(Index height, const T* q, Index dim, Index columns, const T* keys, Index stride, T* scores) {
    constexpr Index piece = 64;
    simd::Onto onto = simd::Onto::nothing;
    Index d = 0;
    do {
      multiply_band<T>(onto, height, columns, std::min(piece, dim - d), q + d, dim, keys + d * stride, stride, scores,
                       columns, nullptr);
      onto = simd::Onto::sum;
      d += piece;
    } while (d < dim);
  }

  const Pass<T, Source, Mask, Scores>& pass_;
  const Span batches_;
  const Index workers_;
  const Index group_;  // heads of a tile
  const TilePlan<T> plan_;
};

}  // namespace fovea::inline FOVEA_ISA::engine
