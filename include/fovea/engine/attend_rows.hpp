// Runs a recipe on the keys that each query chooses from all that it sees: the scores of tiles of queries against tiles
// of keys go to a selector for each row, and behind the last key the chosen scores become weights of the chosen values.
// Memory holds the selectors of one tile of queries and does not grow with N x M.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <fovea/engine/attend_lists.hpp>
#include <fovea/engine/splits.hpp>
#include <fovea/parts/select/streaming_top_k.hpp>
#include <fovea/parts/select/top_k.hpp>
#include <fovea/simd/tile.hpp>
#include <fovea/simd/transpose.hpp>

namespace fovea::inline FOVEA_ISA::engine {

// Where chosen keys go when they are asked for: places of one size for all lists, closed up at the end.
class KeySlots {
 public:
  KeySlots(const Shape& shape, Index heads, Index size)
      : lists_{shape.batch, heads, shape.queries, {0}, {}},
        size_(size),
        counts_(std::size_t(shape.batch * heads * shape.queries)) {
    lists_.keys.resize(counts_.size() * std::size_t(size));
  }

  template <class Key>
  void put(Index batch, Index head, Index query, const Key* keys, Index count) {
    const Index at = (batch * lists_.heads + head) * lists_.queries + query;
    counts_[std::size_t(at)] = count;
    std::copy(keys, keys + count, lists_.keys.begin() + at * size_);
  }

  select::KeyLists close() && {
    Index end = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      const auto from = lists_.keys.begin() + Index(i) * size_;
      std::copy(from, from + counts_[i], lists_.keys.begin() + end);
      lists_.begin.push_back(end += counts_[i]);
    }
    lists_.keys.resize(std::size_t(end));
    return std::move(lists_);
  }

 private:
  select::KeyLists lists_;
  Index size_;
  std::vector<Index> counts_;
};

// The selectors of the rows of a tile: one for each row, or for each query when the heads choose together.
template <class T, class Source, class Mask, class Scores>
class Choices {
 public:
  using Selector = select::StreamingTopK<T>;
  using Key = typename Selector::Key;

  // length: keys that a selector may see.
  Choices(const Pass<T, Source, Mask, Scores>& pass, const select::TopK& choice, Index length)
      : pass_(pass),
        choice_(choice),
        lists_(pass),
        length_(length),
        room_(Selector::room(choice.k, length)),
        rows_(choice.heads == select::Heads::each ? 1 : pass.problem.group) {}

  Index rows_of_one() const { return rows_; }  // rows that choose together
  Index most() const { return std::min(choice_.k, length_); }
  Index size_of_one() const { return 2 * room_ + Index(sizeof(Selector) / sizeof(T)); }  // elements, roughly
  Index depth() const { return lists_.depth(); }
  bool keeps_mass() const { return choice_.keep_mass; }

  struct Scratch {
    Selector* selectors;
    T* joined;
    typename ListRows<T, Source, Mask, Scores>::Scratch lists;
  };

  Index scratch_size(Index rows) const {
    const Index count = rows / rows_;
    return whole_lines<T>(selector_size(count)) + whole_lines<T>(count * 2 * room_) + whole_lines<T>(mask::word) +
           lists_.scratch_size(rows_, most());
  }

  Scratch begin(Carve<T>& carve, Index rows) const {
    const Index count = rows / rows_;
    auto* const selectors = reinterpret_cast<Selector*>(carve(selector_size(count)));
    T* const memory = carve(count * 2 * room_);
    for (Index i = 0; i < count; ++i) {
      T* const scores = memory + i * 2 * room_;
      std::construct_at(selectors + i, choice_.k, length_, scores, reinterpret_cast<Key*>(scores + room_))->begin();
    }
    T* const joined = carve(mask::word);
    return {selectors, joined, lists_.carve(carve, rows_, most())};
  }

  // Shows the finished scores of rows [first, last), whole queries when they choose together, to their selectors.
  void take(Index first, Index last, const KeyTile& tile, const T* scores, Index columns, const Scratch& to) const {
    for (Index r = first; r < last; r += rows_) {
      const T* row = scores + (r - first) * columns;
      if (rows_ > 1) row = join(row, columns, to.joined);
      Selector& selector = to.selectors[r / rows_];
      if (tile.runs() == 1) {
        selector.take(row, tile.size(), tile.first_run().first);
      } else {
        tile.each_run([&](Index column, Span keys) { selector.take(row + column, keys.size(), keys.first); });
      }
    }
  }

  // Ends the choices of a tile, q its queries: keeps the lists and attends to them, as far as either is asked for.
  // whole(r) is the total and the reference of the softmax over all keys that row r sees, for choices that keep mass.
  template <class Whole>
  void finish(const TileRows& rows, const T* q, const Scratch& scratch, KeySlots* slots, Whole&& whole) const {
    for (Index first = 0; first < rows.count(); first += rows_) {
      const select::Chosen<T> chosen = scratch.selectors[first / rows_].finish();
      const Index n = chosen.count;
      T* scores = chosen.scores;
      if (rows_ > 1 && pass_.problem.out.data != nullptr) {
        scores = scratch.lists.scores;
        lists_.score(rows, first, first + rows_, q + first * depth(), chosen.keys, n, scores);
      }
      rows.each(first, first + rows_, [&](Index r, Row at) {
        if (slots != nullptr && r == first)
          slots->put(at.batch, choice_.heads == select::Heads::each ? at.head : rows.kv_head, at.query, chosen.keys, n);
        if (pass_.problem.out.data == nullptr) return;
        T* const row = scores + (r - first) * simd::whole<T>(n);
        if (choice_.keep_mass) {
          const auto [total, reference] = whole(r);
          lists_.attend_within(at, chosen.keys, n, row, total, reference, scratch.lists);
        } else {
          lists_.attend(at, chosen.keys, n, row, scratch.lists);
        }
      });
    }
  }

 private:
  static Index selector_size(Index count) { return count * Index((sizeof(Selector) + sizeof(T) - 1) / sizeof(T)); }

  // The largest, or the sum, of the scores of the rows that choose together.
  const T* join(const T* scores, Index columns, T* joined) const {
    using simd::Pack;
    const Pack<T> none(-simd::infinity<T>);
    for (Index j = 0; j < columns; j += simd::lanes<T>) {
      Pack<T> all = simd::load(scores + j);
      if (choice_.heads == select::Heads::kv_sum) {
        for (Index r = 1; r < rows_; ++r) all = all + simd::load(scores + r * columns + j);
      } else {
        all = xsimd::select(all > none, all, none);
        for (Index r = 1; r < rows_; ++r) {
          const Pack<T> next = simd::load(scores + r * columns + j);
          all = xsimd::select(next > all, next, all);
        }
      }
      simd::store(joined + j, all);
    }
    return joined;
  }

  const Pass<T, Source, Mask, Scores>& pass_;
  const select::TopK& choice_;
  const ListRows<T, Source, Mask, Scores> lists_;
  const Index length_, room_, rows_;
};

// Many queries: tiles of queries against tiles of keys on the register kernel.
template <class T, class Source, class Mask, class Scores>
class RowsOverTiles {
 public:
  RowsOverTiles(const Pass<T, Source, Mask, Scores>& pass, const select::TopK& choice, KeySlots* slots, Index workers)
      : pass_(pass), slots_(slots), choices_(pass, choice, pass.shape.keys) {
    const Index group = pass.problem.group, kv_heads = pass.problem.q.batch * pass.problem.q.heads / group;
    const Index of_query =
        (group / choices_.rows_of_one() * choices_.size_of_one() + group * (choices_.depth() + step));
    const Index share = workers == 1 ? 1 : (4 * workers + kv_heads - 1) / kv_heads;
    const Index least = (band + group - 1) / group, wanted = (pass.problem.q.length + share - 1) / share;
    const Index fit = std::min(budget / Index(sizeof(T)) / of_query, most_rows / group);
    queries_ = std::max(std::min(fit, wanted), least);
    rows_ = queries_ * group;
  }

  template <class Exec>
  void run(const Exec& executor) const {
    const auto& q = pass_.problem.q;
    const Index group = pass_.problem.group, kv_heads = q.heads / group, tiles = (q.length + queries_ - 1) / queries_;
    const double flops = 2.0 * double(rows_) * double(pass_.shape.keys) * double(pass_.source.key_dim());
    const Index padded = simd::whole_rows(rows_), dim = pass_.source.key_dim();
    const Index size = whole_lines<T>(padded * choices_.depth()) + whole_lines<T>(dim * step) +
                       whole_lines<T>(step * dim) + whole_lines<T>(padded * step) +
                       whole_lines<T>(normalizer::SoftmaxRows<T>::size(padded)) + choices_.scratch_size(rows_);
    distribute<T>(executor, q.batch * kv_heads * tiles, flops, size, [&](Index item, T* memory) {
      const Index t = tiles - 1 - item % tiles, kv_head = item / tiles % kv_heads, batch = item / tiles / kv_heads;
      tile({batch, kv_head, kv_head * group, group, {t * queries_, std::min((t + 1) * queries_, q.length)}}, memory);
    });
  }

 private:
  static constexpr Index band = simd::tile_rows;
  static constexpr Index step = mask::word;  // keys of a tile
  static constexpr Index most_rows = 32 * band;
  static constexpr Index budget = 768 * 1024;  // bytes of the selectors of a tile

  void tile(const TileRows& rows, T* memory) const {
    const Index padded = simd::whole_rows(rows_), dim = pass_.source.key_dim(), depth = choices_.depth();
    Carve<T> carve(memory);
    T* const q = carve(padded * depth);
    T* const keys = carve(dim * step);
    T* const gathered = carve(step * dim);
    T* const scores = carve(padded * step);
    normalizer::SoftmaxRows<T> whole(pass_.power_unit(), carve(normalizer::SoftmaxRows<T>::size(padded)), padded);
    const auto choices = choices_.begin(carve, rows_);
    pass_.load_queries(rows, q, depth);
    std::fill(q + rows.count() * depth, q + padded * depth, T(0));
    whole.begin(padded);
    const Index bands = (rows.count() + band - 1) / band;
    each_tile(
        pass_.mask, rows.region(0, rows.count(), {0, pass_.shape.keys}), step,
        [&](const KeyTile& tile, const KeyTile* next) {
          const Index columns = simd::whole<T>(tile.size());
          lay_out_keys(rows, tile, columns, keys, gathered);
          const bool together = choices_.rows_of_one() > 1;
          if (together && !tile.full()) std::fill(scores, scores + padded * columns, -simd::infinity<T>);
          const auto cover = [&](Index first, Index last) {
            return tile.full() ? mask::Cover::full : cover_of(rows.region(first * band, last * band, {0, 0}), tile);
          };
          visit_pieces(0, bands, cover, [&](Index i, bool all) {
            const Index first = i * band;
            T* const of_band = scores + first * columns;
            score_band(q + first * depth, depth, columns, keys, of_band);
            if (pass_.modified || !all || columns != tile.size()) {
              pass_.finish_scores(rows, first, first + band, tile, 0, tile.size(), all, nullptr, of_band, columns);
            }
            if (together) return;
            choices_.take(first, std::min(first + band, rows.count()), tile, of_band, columns, choices);
            if (choices_.keeps_mass()) whole.absorb(first, band, of_band, columns, columns);
          });
          if (next != nullptr) ask(rows, *next);
          if (!together) return;
          choices_.take(0, rows.count(), tile, scores, columns, choices);
          if (choices_.keeps_mass()) whole.absorb(0, bands * band, scores, columns, columns);
        });
    choices_.finish(rows, q, choices, slots_, [&](Index r) { return std::pair(whole.total(r), whole.reference[r]); });
  }

  [[gnu::always_inline]] void ask(const TileRows& rows, const KeyTile& tile) const {
    tile.each_run([&](Index, Span keys) { pass_.prefetch_keys(rows, keys); });
  }

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

  void lay_out_keys(const TileRows& rows, const KeyTile& tile, Index columns, T* keys, T* gathered) const {
    const auto k = pass_.key_rows(rows, tile, gathered);
    simd::transpose(tile.size(), k.dim, k.data, k.stride, keys, columns);
  }

  // Scores of one band, in pieces of the depth so that no chain of additions is long.
  void score_band(const T* q, Index q_stride, Index columns, const T* keys, T* scores) const {
    constexpr Index piece = 64;
    const Index dim = pass_.source.key_dim();
    simd::multiply_rows<band, simd::Onto::nothing>(columns, std::min(piece, dim), q, q_stride, keys, columns, scores,
                                                   columns);
    for (Index d = piece; d < dim; d += piece)
      simd::multiply_rows<band, simd::Onto::sum>(columns, std::min(piece, dim - d), q + d, q_stride, keys + d * columns,
                                                 columns, scores, columns);
  }

  const Pass<T, Source, Mask, Scores>& pass_;
  KeySlots* const slots_;
  const Choices<T, Source, Mask, Scores> choices_;
  Index queries_ = 1, rows_ = 1;  // of a tile
};

// Few queries, as in decoding: keys are read once, in order, where they lie. They are cut into splits of a fixed length
// that choose for themselves; the choice among the chosen is the choice among all.
template <class T, class Source, class Mask, class Scores>
class RowsOverSplits {
 public:
  RowsOverSplits(const Pass<T, Source, Mask, Scores>& pass, const select::TopK& choice, KeySlots* slots)
      : pass_(pass),
        slots_(slots),
        rows_(pass.problem.q.length * pass.problem.group),
        of_split_(pass, choice, std::min(split, pass.shape.keys)),
        of_all_(pass, choice, pass.shape.keys),
        selectors_(rows_ / of_all_.rows_of_one()) {}

  template <class Exec>
  void run(const Exec& executor) const {
    const auto& q = pass_.problem.q;
    const Splits splits(
        executor, q.batch, q.heads / pass_.problem.group, split, [&](Index) -> const auto& { return pass_; });
    Results results(splits.size(), selectors_, of_split_.most(), rows_);
    const Index depth = of_all_.depth(), state = normalizer::SoftmaxRows<T>::size(rows_);
    const double flops = 2.0 * double(rows_) * double(split) * double(depth);
    const Index size = whole_lines<T>(rows_ * depth) + whole_lines<T>(rows_ * step) + whole_lines<T>(state) +
                       of_split_.scratch_size(rows_);
    distribute<T>(executor, splits.size(), flops, size,
                  [&](Index item, T* memory) { choose(splits[item], item, memory, results); });
    distribute<T>(
        executor, splits.heads(), 1e5, whole_lines<T>(rows_ * depth) + of_all_.scratch_size(rows_),
        [&](Index head, T* memory) { finish(rows_of_head(pass_.problem, head), splits.of(head), memory, results); });
  }

 private:
  using Choices = engine::Choices<T, Source, Mask, Scores>;
  using Key = typename Choices::Key;

  static constexpr Index split = 4096;       // keys of a part
  static constexpr Index step = mask::word;  // keys of a tile
  static constexpr Index piece = 16;         // keys between two looks ahead

  // What the parts leave behind: for each selector its choice, for each row the sum of its softmax.
  struct Results {
    Index selectors, most, rows;
    std::vector<Index> counts;
    std::unique_ptr<T[], FreeScratch> scores, totals;
    std::unique_ptr<Key[], FreeScratch> keys;

    Results(Index parts, Index of_part, Index keys_of_one, Index rows_of_part)
        : selectors(of_part),
          most(keys_of_one),
          rows(rows_of_part),
          counts(std::size_t(parts * of_part)),
          scores(allocate_scratch<T>(parts * of_part * keys_of_one)),
          totals(allocate_scratch<T>(parts * rows_of_part * 2)),
          keys(allocate_scratch<Key>(parts * of_part * keys_of_one)) {}

    T* total(Index part, Index r) { return totals.get() + (part * rows + r) * 2; }  // and the reference behind it
    void put(Index part, Index selector, const select::Chosen<T>& chosen) {
      const Index at = part * selectors + selector;
      counts[std::size_t(at)] = chosen.count;
      std::copy(chosen.scores, chosen.scores + chosen.count, scores.get() + at * most);
      std::copy(chosen.keys, chosen.keys + chosen.count, keys.get() + at * most);
    }
    select::Chosen<T> get(Index part, Index selector) const {
      const Index at = part * selectors + selector;
      return {keys.get() + at * most, scores.get() + at * most, counts[std::size_t(at)]};
    }
  };

  void choose(const Split& part, Index number, T* memory, Results& results) const {
    const TileRows rows = rows_of_head(pass_.problem, part.head);
    const Index depth = of_split_.depth();
    Carve<T> carve(memory);
    T* const q = carve(rows_ * depth);
    T* const scores = carve(rows_ * step);
    normalizer::SoftmaxRows<T> whole(pass_.power_unit(), carve(normalizer::SoftmaxRows<T>::size(rows_)), rows_);
    const auto choices = of_split_.begin(carve, rows_);
    pass_.load_queries(rows, q, depth);
    whole.begin(rows_);
    each_tile(pass_.mask, rows.region(0, rows_, part.keys), step, [&](const KeyTile& tile, const KeyTile*) {
      const Index columns = simd::whole<T>(tile.size());
      tile.each_run([&](Index column, Span keys) {
        const auto k = pass_.source.keys(rows.batch, rows.kv_head, keys);
        for (Index j = 0; j < keys.size(); j += piece) {
          const Index soon = std::min(keys.first + j + step, pass_.shape.keys);
          pass_.prefetch_keys(rows, {soon, std::min(soon + piece, pass_.shape.keys)});
          simd::dot_rows(rows_, q, depth, std::min(piece, keys.size() - j), k[j], k.stride, pass_.source.key_dim(),
                         scores + column + j, columns);
        }
      });
      if (pass_.modified || !tile.full() || columns != tile.size()) {
        pass_.finish_scores(rows, 0, rows_, tile, 0, tile.size(), tile.full(), nullptr, scores, columns);
      }
      of_split_.take(0, rows_, tile, scores, columns, choices);
      if (of_split_.keeps_mass()) whole.absorb(0, rows_, scores, columns, columns);
    });
    for (Index i = 0; i < selectors_; ++i) results.put(number, i, choices.selectors[i].finish());
    for (Index r = 0; r < rows_; ++r) {
      results.total(number, r)[0] = whole.total(r);
      results.total(number, r)[1] = whole.reference[r];
    }
  }

  void finish(const TileRows& rows, Span parts, T* memory, Results& results) const {
    Carve<T> carve(memory);
    T* const q = carve(rows_ * of_all_.depth());
    const auto choices = of_all_.begin(carve, rows_);
    if (of_all_.rows_of_one() > 1) pass_.load_queries(rows, q, of_all_.depth());
    for (Index i = 0; i < selectors_; ++i) {
      for (Index part = parts.first; part < parts.last; ++part) choices.selectors[i].take(results.get(part, i));
    }
    of_all_.finish(rows, q, choices, slots_, [&](Index r) {
      T reference = -simd::infinity<T>, total = T(0);
      for (Index part = parts.first; part < parts.last; ++part) {
        const T* const sum = results.total(part, r);
        if (sum[0] != T(0) && !(sum[1] <= reference)) reference = sum[1];
      }
      for (Index part = parts.first; part < parts.last; ++part) {
        const T* const sum = results.total(part, r);
        if (sum[0] != T(0)) total += sum[0] * std::exp(pass_.natural_unit() * (sum[1] - reference));
      }
      return std::pair(total, total == T(0) ? T(0) : reference);
    });
  }

  const Pass<T, Source, Mask, Scores>& pass_;
  KeySlots* const slots_;
  const Index rows_;
  const Choices of_split_, of_all_;
  const Index selectors_;
};

// Attends (unless problem.out has no memory) to the keys that `choice` takes from those that the recipe shows, and puts
// the choice into `lists` (unless null).
template <class T, class Mask, class Scores, exec::Executor Exec = exec::Serial>
void attend_rows(const Problem<T>& problem, const Recipe<Mask, Scores>& recipe, const select::TopK& choice,
                 select::KeyLists* lists = nullptr, const Exec& executor = {}) {
  const Shape shape = problem.shape();
  recipe.normalizer.check_for(problem.where, shape);
  choice.check_for(problem.where, shape);
  const auto mask = recipe.visible.bind(problem.where, shape);
  const auto scores = recipe.scores.template bind<T>(problem.where, shape);
  std::optional<KeySlots> slots;
  if (lists != nullptr) slots.emplace(shape, choice.lists(shape), std::min(choice.k, shape.keys));
  if (shape.batch != 0 && shape.heads != 0 && shape.queries != 0) {
    using Source = kv::Contiguous<T>;
    using Bound = std::remove_const_t<decltype(mask)>;
    using BoundScores = std::remove_const_t<decltype(scores)>;
    const Source source{problem.k, problem.v};
    const Pass<T, Source, Bound, BoundScores> pass(problem, shape, source, recipe.normalizer, mask, scores,
                                                   !Scores::empty);
    KeySlots* const to = slots ? &*slots : nullptr;
    if (few_queries(shape.queries, problem.group)) {
      RowsOverSplits(pass, choice, to).run(executor);
    } else {
      RowsOverTiles(pass, choice, to, exec::concurrency(executor)).run(executor);
    }
  }
  if (lists != nullptr) *lists = std::move(*slots).close();
}

}  // namespace fovea::inline FOVEA_ISA::engine

namespace fovea::inline FOVEA_ISA {

// Attention by recipe to the keys that every query chooses; arrays as for attend.
//
//   attend_rows(q, k, v, out, softmax().mask(mask::causal() & mask::window(4096)), select::TopK{.k = 64}, executor);
//
// Throws ArgumentError before any work when shapes, parts or the choice do not fit.
template <class Q, class K, class V, class Out, class Mask, class Scores, exec::Executor Exec = exec::Serial>
void attend_rows(const Q& q, const K& k, const V& v, Out&& out, const Recipe<Mask, Scores>& recipe,
                 const select::TopK& choice, const Exec& executor = {}) {
  engine::attend_rows(make_problem("fovea::attend_rows", q, k, v, out), recipe, choice, nullptr, executor);
}

}  // namespace fovea::inline FOVEA_ISA
