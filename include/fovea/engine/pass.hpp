// What both paths of the engine do to a tile besides the products: bring in queries and values, finish scores, write
// rows.
#pragma once

#include <cmath>
#include <cstring>

#include <fovea/engine/key_tile.hpp>
#include <fovea/engine/recipe.hpp>
#include <fovea/engine/rows.hpp>
#include <fovea/engine/work.hpp>
#include <fovea/parts/kv/contiguous.hpp>

namespace fovea::inline FOVEA_ISA::engine {

// One call, or one sequence of it: its arrays, and the parts of its recipe bound to its shape. Where lengths differ,
// shape.keys is that of the sequence. k and v of the problem are there for their extents; they are read by the source.
template <class T, class Source, class Mask, class Scores>
class Pass {
 public:
  const Problem<T>& problem;
  const Shape shape;
  const Source& source;
  const normalizer::Softmax& softmax;
  const Mask& mask;
  const Scores& scores;
  const bool modified;  // whether there are score modifiers, which want scores in natural units

  Pass(const Problem<T>& the_problem, const Shape& the_shape, const Source& the_source,
       const normalizer::Softmax& the_softmax, const Mask& the_mask, const Scores& the_scores, bool are_modified)
      : problem(the_problem),
        shape(the_shape),
        source(the_source),
        softmax(the_softmax),
        mask(the_mask),
        scores(the_scores),
        modified(are_modified),
        scale_(softmax.scale_for(source.key_dim())) {}

  // Natural units, and powers of two, in one unit of the finished scores.
  T natural_unit() const { return T(modified ? 1.0 : scale_.rest); }
  simd::PowerUnit<T> power_unit() const { return simd::PowerUnit<T>((modified ? 1.0 : scale_.rest) * simd::log2_e); }

  // Rows of q as the products want them, `stride` apart and zero behind the width.
  void load_queries(const TileRows& rows, T* q, Index stride) const {
    const Index dim = source.key_dim();
    rows.each(0, rows.count(), [&](Index r, Row at) {
      simd::copy_scaled(q + r * stride, problem.q.row(at.batch, at.head, at.query), dim, scale_.query);
      for (Index d = dim; d < stride; ++d) q[r * stride + d] = T(0);
    });
  }

  // Calls f(part, run) for the runs of keys, or of values, that hold a span of tokens.
  template <class F>
  [[gnu::always_inline]] void each_keys(const TileRows& rows, Span span, F&& f) const {
    source.each_keys(rows.batch, rows.kv_head, span, f);
  }
  template <class F>
  [[gnu::always_inline]] void each_values(const TileRows& rows, Span span, F&& f) const {
    source.each_values(rows.batch, rows.kv_head, span, f);
  }

  // g++ takes a function that does nothing but prefetch for one without effect and drops its calls: it begins with
  // this, or is always inlined.
  [[gnu::always_inline]] static void has_effect() { asm volatile(""); }

  // Asks for keys or values, so that they are near when their turn comes.
  [[gnu::always_inline]] void prefetch_keys(const TileRows& rows, Span span) const {
    each_keys(
        rows, span, [](Span part, const auto& run) __attribute__((always_inline)) { run.prefetch(0, part.size()); });
  }
  [[gnu::always_inline]] void prefetch_values(const TileRows& rows, Span span) const {
    each_values(
        rows, span, [](Span part, const auto& run) __attribute__((always_inline)) { run.prefetch(0, part.size()); });
  }

  [[gnu::always_inline]] static void prefetch(const T* row, Index dim) {
    constexpr Index line = Index(scratch_alignment / sizeof(T));
    for (Index d = 0; d < dim; d += line) __builtin_prefetch(row + d, 0, 2);
  }

  // The keys of a tile as rows of T: where they are, if they lie in one stretch, else read into `gathered`.
  kv::Rows<T> key_rows(const TileRows& rows, const KeyTile& tile, T* gathered) const {
    const Index dim = source.key_dim();
    kv::Rows<T> found{gathered, dim, dim};
    tile.each_run([&](Index column, Span keys) {
      each_keys(rows, keys, [&](Span part, const auto& k) {
        if constexpr (std::is_same_v<decltype(k), const kv::Rows<T>&>) {
          if (part.size() == tile.size()) {
            found = k;
            return;
          }
        }
        k.read(0, part.size(), gathered + (column + part.first - keys.first) * dim, dim);
      });
    });
    return found;
  }

  // Finishes rows [first, last) of scores against `count` keys of a tile from column `skip` on, `columns` apart: score
  // modifiers, then the mask unless all keys are seen, then the columns behind the last key. `seen`
  // holds the bits of those keys that each row sees; where it is null, the mask is asked.
  [[gnu::noinline]] void finish_scores(const TileRows& rows, Index first, Index last, const KeyTile& tile, Index skip,
                                       Index count, bool all, const std::uint64_t* seen, T* band, Index columns) const {
    if (modified || !all) {
      rows.each(first, last, [&](Index r, Row at) {
        T* const row = band + (r - first) * columns;
        if (modified) {
          simd::scale(row, columns, T(scale_.rest));
          tile.each_run(skip, skip + count, [&](Index column, Span keys) { scores(row + (column - skip), at, keys); });
        }
        if (all) return;
        const std::uint64_t bits = seen == nullptr ? tile.seen(mask, at) >> skip : seen[r - first];
        if (bits != mask::low_bits(count)) simd::hide(row, count, bits);
      });
    }
    if (columns == count) return;
    for (Index r = 0; r < last - first; ++r)
      std::fill(band + r * columns + count, band + (r + 1) * columns, -simd::infinity<T>);
  }

  // Whether some query may leave out a key of the tile: by the mask, or by a modifier that makes its score -infinity.
  // Then an infinity or NaN among the values must not meet a weight of zero.
  bool careful(bool full) const { return !full || modified; }

  // Whether the values of a span have neither infinity nor NaN.
  bool finite(const TileRows& rows, Span span) const {
    bool all = true;
    each_values(rows, span, [&](Span part, const auto& v) { all = all && v.finite(0, part.size()); });
    return all;
  }

  // Values from `first` on as aligned rows of `width` elements, zero behind theirs. When `leave_out`, rows with an
  // infinity or NaN are left out (zero) and true is returned: they are for add_spoiled.
  template <class Run>
  [[gnu::noinline]] bool load_values(const Run& v, Index first, Index count, bool leave_out, T* values,
                                     Index width) const {
    bool spoiled = false;
    const Index dim = source.value_dim();
    v.read(first, count, values, width);
    for (Index j = 0; j < count; ++j) {
      T* const row = values + j * width;
      for (Index e = dim; e < width; ++e) row[e] = T(0);
      if (leave_out && !simd::all_finite(row, dim)) {
        std::memset(row, 0, std::size_t(dim) * sizeof(T));
        spoiled = true;
      }
    }
    return spoiled;
  }

  // Adds the values of columns [first, last) that load_values left out to those of `count` rows that see them: whose
  // finished score is not -infinity. Scores and weights begin with column `first` and are `columns` apart, out is
  // `width` apart; `row` has room for one token.
  [[gnu::noinline, gnu::cold]] void add_spoiled(const TileRows& rows, const KeyTile& tile, Index first, Index last,
                                                Index count, const T* finished, const T* weights, Index columns, T* out,
                                                Index width, T* row) const {
    tile.each_run(first, last, [&](Index column, Span keys) {
      each_values(rows, keys, [&](Span part, const auto& v) {
        for (Index j = 0; j < part.size(); ++j) {
          if (v.finite(j, 1)) continue;
          v.read(j, 1, row, width);
          const Index at = column - first + part.first - keys.first + j;
          for (Index r = 0; r < count; ++r) {
            if (finished[r * columns + at] != -simd::infinity<T>)
              simd::add_scaled(out + r * width, weights[r * columns + at], row, source.value_dim());
          }
        }
      });
    });
  }

  // The result of a row from its weighted sum of values, the sum of its weights and their reference.
  void write_row(Row at, const T* sum, T total, T reference) const {
    const T natural = reference * natural_unit();
    T* const out = problem.out.row(at.batch, at.head, at.query);
    if (total == T(0)) {
      if (source.value_dim() > 0) std::memset(out, 0, std::size_t(source.value_dim()) * sizeof(T));
    } else {
      simd::copy_divided(out, sum, source.value_dim(), total + softmax.sink_weight(at.head, natural));
    }
    if (problem.log_sum.data != nullptr)
      *problem.log_sum.row(at.batch, at.head, at.query) = normalizer::log_sum(total, natural);
  }

 private:
  const normalizer::SplitScale<T> scale_;
};

}  // namespace fovea::inline FOVEA_ISA::engine
