// Runs a recipe over given lists of keys: o = softmax(mask(scores(scale q k_list^T))) v_list. Keys and values are read
// where they lie, and only those that are listed.
#pragma once

#include <algorithm>
#include <type_traits>

#include <fovea/engine/pass.hpp>
#include <fovea/exec/serial.hpp>
#include <fovea/parts/select/key_lists.hpp>
#include <fovea/simd/gathered.hpp>

namespace fovea::inline FOVEA_ISA::engine {

// What a list of keys does to a row.
template <class T, class Source, class Mask, class Scores>
class ListRows {
 public:
  explicit ListRows(const Pass<T, Source, Mask, Scores>& pass)
      : pass_(pass), depth_(simd::whole<T>(pass.source.key_dim())), width_(simd::whole<T>(pass.source.value_dim())) {}

  struct Scratch {
    T *scores, *sum, *state;
  };

  // For lists of at most `longest` keys that `rows` rows share.
  Index scratch_size(Index rows, Index longest) const {
    return whole_lines<T>(rows * simd::whole<T>(longest)) + whole_lines<T>(width_) +
           whole_lines<T>(normalizer::SoftmaxRows<T>::size(1));
  }
  Scratch carve(Carve<T>& memory, Index rows, Index longest) const {
    T* const scores = memory(rows * simd::whole<T>(longest));
    T* const sum = memory(width_);
    return {scores, sum, memory(normalizer::SoftmaxRows<T>::size(1))};
  }

  Index depth() const { return depth_; }  // from a row of queries to the next

  // The finished scores of rows [first, last) of a tile, q their queries, and the n keys of a list that they share;
  // rows whole vectors apart.
  template <class Key>
  void score(const TileRows& rows, Index first, Index last, const T* q, const Key* list, Index n, T* scores) const {
    if (n == 0) return;
    const Index columns = simd::whole<T>(n);
    const auto k = pass_.source.keys(rows.batch, rows.kv_head, {0, pass_.shape.keys});
    simd::dot_listed(last - first, q, depth_, n, list, k.data, k.stride, pass_.source.key_dim(), scores, columns);
    rows.each(first, last, [&](Index r, Row at) { finish(at, list, n, scores + (r - first) * columns); });
  }

  // A row from its finished scores, which become weights; behind them is room up to a whole vector.
  template <class Key>
  void attend(Row at, const Key* list, Index n, T* scores, const Scratch& scratch) const {
    normalizer::SoftmaxRows<T> softmax(pass_.power_unit(), scratch.state, 1);
    softmax.begin(1);
    const Index columns = simd::whole<T>(n);
    std::fill(scores + n, scores + columns, -simd::infinity<T>);
    if (n > 0) softmax.absorb(0, std::integral_constant<Index, 1>{}, scores, columns, columns);
    write(at, list, n, scores, softmax.total(0), softmax.reference[0], scratch);
  }

  // A row from its finished scores, which become weights of a softmax whose total and reference are given.
  template <class Key>
  void attend_within(Row at, const Key* list, Index n, T* scores, T total, T reference, const Scratch& scratch) const {
    const auto unit = pass_.power_unit();
    simd::transform(scores, n,
                    [&](simd::Pack<T> s, Index) { return simd::exp2_weight(s - simd::Pack<T>(reference), unit); });
    write(at, list, n, scores, total, reference, scratch);
  }

 private:
  template <class Key>
  void write(Row at, const Key* list, Index n, const T* weights, T total, T reference, const Scratch& scratch) const {
    std::fill(scratch.sum, scratch.sum + width_, T(0));
    if (n > 0) {
      const auto v = pass_.source.values(at.batch, at.head / pass_.problem.group, {0, pass_.shape.keys});
      simd::add_listed(n, weights, list, v.data, v.stride, pass_.source.value_dim(), scratch.sum);
    }
    pass_.write_row(at, scratch.sum, total, reference);
  }

  // Modifiers and mask, a word of keys at a time.
  template <class Key>
  void finish(Row at, const Key* list, Index n, T* scores) const {
    const Span queries{at.query, at.query + 1}, heads{at.head, at.head + 1};
    const Span keys{Index(list[0]), Index(list[n - 1]) + 1};
    const bool all = pass_.mask.cover(mask::Region{at.batch, heads, queries, keys}) == mask::Cover::full;
    if (all && !pass_.modified) return;
    const TileRows row{at.batch, at.head / pass_.problem.group, at.head, 1, queries};
    KeyTile tile;
    for (Index j = 0; j < n; j += mask::word) {
      const Index count = std::min(mask::word, n - j);
      tile.clear();
      for (Index i = j; i < j + count; ++i) tile.add({Index(list[i]), Index(list[i]) + 1}, all);
      pass_.finish_scores(row, 0, 1, tile, 0, count, all, nullptr, scores + j, count);
    }
  }

  const Pass<T, Source, Mask, Scores>& pass_;
  const Index depth_, width_;
};

// Tiles of queries with the lists that belong to them.
template <class T, class Source, class Mask, class Scores>
class OverLists {
 public:
  OverLists(const Pass<T, Source, Mask, Scores>& pass, const select::KeyLists& lists)
      : pass_(pass),
        rows_(pass),
        lists_(lists),
        sharing_(std::min(pass.problem.group, pass.problem.q.heads / lists.heads)),
        longest_(lists.longest()) {}

  template <class Exec>
  void run(const Exec& executor) const {
    const auto& q = pass_.problem.q;
    const Index tiles = (q.length + tile_queries - 1) / tile_queries, groups = q.heads / sharing_;
    const double pairs = double(lists_.keys.size()) / double(lists_.begin.size()) * double(tile_queries * sharing_);
    const double flops = 2.0 * pairs * double(pass_.source.key_dim() + pass_.source.value_dim());
    const Index size = whole_lines<T>(tile_queries * sharing_ * rows_.depth()) + rows_.scratch_size(sharing_, longest_);
    distribute<T>(executor, q.batch * groups * tiles, flops, size, [&](Index item, T* memory) {
      const Index t = tiles - 1 - item % tiles, head = item / tiles % groups * sharing_, batch = item / tiles / groups;
      const Span queries{t * tile_queries, std::min((t + 1) * tile_queries, q.length)};
      tile({batch, head / pass_.problem.group, head, sharing_, queries}, memory);
    });
  }

 private:
  static constexpr Index tile_queries = 16;

  void tile(const TileRows& rows, T* memory) const {
    Carve<T> carve(memory);
    T* const q = carve(tile_queries * sharing_ * rows_.depth());
    const auto scratch = rows_.carve(carve, sharing_, longest_);
    pass_.load_queries(rows, q, rows_.depth());
    const Index list_head = rows.first_head * lists_.heads / pass_.problem.q.heads;
    for (Index first = 0; first < rows.count(); first += sharing_) {
      const Span list = lists_.list(rows.batch, list_head, rows.queries.first + first / sharing_);
      const Index* const keys = lists_.keys.data() + list.first;
      const Index n = list.size();
      rows_.score(rows, first, first + sharing_, q + first * rows_.depth(), keys, n, scratch.scores);
      rows.each(first, first + sharing_, [&](Index r, Row at) {
        rows_.attend(at, keys, n, scratch.scores + (r - first) * simd::whole<T>(n), scratch);
      });
    }
  }

  const Pass<T, Source, Mask, Scores>& pass_;
  const ListRows<T, Source, Mask, Scores> rows_;
  const select::KeyLists& lists_;
  const Index sharing_;  // query heads of a kv head that share a list
  const Index longest_;
};

template <class T, class Mask, class Scores, exec::Executor Exec = exec::Serial>
void attend_lists(const Problem<T>& problem, const Recipe<Mask, Scores>& recipe, const select::KeyLists& lists,
                  const Exec& executor = {}) {
  const Shape shape = problem.shape();
  recipe.normalizer.check_for(problem.where, shape);
  const auto mask = recipe.visible.bind(problem.where, shape);
  const auto scores = recipe.scores.template bind<T>(problem.where, shape);
  lists.check_for(problem.where, shape);
  if (shape.batch == 0 || shape.heads == 0 || shape.queries == 0) return;
  using Source = kv::Contiguous<T>;
  using Bound = std::remove_const_t<decltype(mask)>;
  using BoundScores = std::remove_const_t<decltype(scores)>;
  const Source source{problem.k, problem.v};
  const Pass<T, Source, Bound, BoundScores> pass(problem, shape, source, recipe.normalizer, mask, scores,
                                                 !Scores::empty);
  OverLists(pass, lists).run(executor);
}

}  // namespace fovea::inline FOVEA_ISA::engine

namespace fovea::inline FOVEA_ISA {

// Attention by recipe over lists of keys; arrays as for attend, lists for the query heads, the kv heads or all.
// Throws ArgumentError before any work when shapes, parts or lists do not fit.
template <class Q, class K, class V, class Out, class Mask, class Scores, exec::Executor Exec = exec::Serial>
void attend_lists(const Q& q, const K& k, const V& v, Out&& out, const Recipe<Mask, Scores>& recipe,
                  const select::KeyLists& lists, const Exec& executor = {}) {
  engine::attend_lists(make_problem("fovea::attend_lists", q, k, v, out), recipe, lists, executor);
}

}  // namespace fovea::inline FOVEA_ISA
