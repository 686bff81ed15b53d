// The keys and values that a list names, out of those of any source: what a selection or an eviction left.
#pragma once

#include <algorithm>
#include <cstring>

#include <fovea/core/check.hpp>
#include <fovea/parts/kv/contiguous.hpp>
#include <fovea/parts/kv/integers.hpp>

namespace fovea::inline FOVEA_ISA::kv {

// A run (rows.hpp) of rows that lie apart: row j begins at data + list[j] * stride. They are brought together a piece
// at a time and give the bits of neighbours.
template <class S, class I>
struct ListedRows {
  const S* data = nullptr;
  Index stride = 0;
  Index dim = 0;
  const I* list = nullptr;
  Index more = 0;  // entries of the list behind the run

  static constexpr Index piece = Rows<S>::piece;
  static constexpr bool long_run = true;

  const S* operator[](Index j) const { return data + Index(list[j]) * stride; }

  template <class T>
  static constexpr Index scratch_size(Index /*rows*/, Index dim) {
    return (piece * dim * Index(sizeof(S)) + Index(sizeof(T)) - 1) / Index(sizeof(T));
  }
  template <class T>
  void score(Index queries, const T* q, Index q_stride, Index first, Index count, T* scores, Index scores_stride,
             T* scratch) const {
    together(first, count, scratch).score(queries, q, q_stride, 0, count, scores, scores_stride, scratch);
  }
  bool whole(Index width) const { return width == dim; }
  template <class T>
  void add(Index rows, Index first, Index count, const T* weights, Index weights_stride, T* out, Index width,
           const T* shrink, T* scratch) const {
    together(first, count, scratch).add(rows, 0, count, weights, weights_stride, out, width, shrink, scratch);
  }
  template <class T>
  void read(Index first, Index count, T* to, Index to_stride) const {
    for (Index j = 0; j < count; ++j) simd::copy_as(to + j * to_stride, (*this)[first + j], dim);
  }
  bool finite(Index first, Index count) const {
    for (Index j = 0; j < count; ++j) {
      if (!simd::all_finite((*this)[first + j], dim)) return false;
    }
    return true;
  }
  [[gnu::always_inline]] void prefetch(Index first, Index count) const {
    for (Index j = 0; j < count; ++j) Rows<S>{(*this)[first + j], stride, dim}.prefetch(0, 1);
  }

 private:
  // The rows [first, first + count), at most a piece, side by side; those that come later are asked for meanwhile.
  template <class T>
  Rows<S> together(Index first, Index count, T* scratch) const {
    constexpr Index later = 2 * piece;
    S* const rows = reinterpret_cast<S*>(scratch);
    for (Index j = first; j < first + count; ++j) {
      if (j + later < first + count + more) prefetch(j + later, 1);
      if (dim > 0) std::memcpy(static_cast<void*>(rows + (j - first) * dim), (*this)[j], std::size_t(dim) * sizeof(S));
    }
    return {rows, dim, dim};
  }
};

namespace detail {
template <class From>
inline constexpr bool plain_rows = false;
template <class K, class V>
inline constexpr bool plain_rows<Contiguous<K, V>> = true;
}  // namespace detail

// A source (contiguous.hpp). Token j is token list[j] of `source`; tokens that are neighbours there are one run.
template <class From, class I, class Length = Index>
struct Gathered {
  From from;
  View<const I> lists;              // [B or 1, G or 1, 1, n], an axis of one repeats
  const Length* lengths = nullptr;  // [B]; n when null
  bool ascending = false;           // whether every list ascends

  Index length(Index batch) const { return lengths == nullptr ? lists.dim : Index(lengths[batch]); }
  Index longest() const {
    if (lengths == nullptr) return lists.dim;
    Index most = 0;
    for (Index b = 0; b < batch(); ++b) most = std::max(most, length(b));
    return most;
  }
  Index batch() const { return from.batch(); }
  Index kv_heads() const { return from.kv_heads(); }
  Index key_dim() const { return from.key_dim(); }
  Index value_dim() const { return from.value_dim(); }

  template <class F>
  [[gnu::always_inline]] void each_keys(Index batch, Index kv_head, Span tokens, F&& f) const {
    if constexpr (plain) {
      if (strewn(batch, kv_head, tokens)) return f(tokens, listed_rows(from.k, batch, kv_head, tokens));
    }
    each_stretch(
        batch, kv_head, tokens, [&](Span there, Index shift) __attribute__((always_inline)) {
          from.each_keys(
              batch, kv_head, there, [&](Span part, const auto& run) __attribute__((always_inline)) {
                f(Span{part.first - shift, part.last - shift}, in_list(run, part.size()));
              });
        });
  }
  template <class F>
  [[gnu::always_inline]] void each_values(Index batch, Index kv_head, Span tokens, F&& f) const {
    if constexpr (plain) {
      if (strewn(batch, kv_head, tokens)) return f(tokens, listed_rows(from.v, batch, kv_head, tokens));
    }
    each_stretch(
        batch, kv_head, tokens, [&](Span there, Index shift) __attribute__((always_inline)) {
          from.each_values(
              batch, kv_head, there, [&](Span part, const auto& run) __attribute__((always_inline)) {
                f(Span{part.first - shift, part.last - shift}, in_list(run, part.size()));
              });
        });
  }
  template <class T>
  Index scratch_size(Index rows) const {
    Index most = from.template scratch_size<T>(rows);
    if constexpr (plain) {
      const auto of = [&](const auto& x) {
        using S = std::remove_cvref_t<decltype(*x.data)>;
        return ListedRows<S, I>::template scratch_size<T>(rows, x.dim);
      };
      most = std::max({most, of(from.k), of(from.v)});
    }
    return most;
  }

 private:
  // Whether the tokens of `from` are rows of one array.
  static constexpr bool plain = detail::plain_rows<From>;

  // Whether it is known at once that all of some tokens are neighbours.
  bool neighbours(const I* list, Span tokens) const {
    return ascending && Index(list[tokens.last - 1]) - Index(list[tokens.first]) == tokens.size() - 1;
  }
  // Whether so few of the tokens are neighbours that it is better to bring them together.
  bool strewn(Index batch, Index kv_head, Span tokens) const {
    const I* const list = lists.row(batch, kv_head, 0);
    if (tokens.empty() || neighbours(list, tokens)) return false;
    Index stretches = 1;
    for (Index j = tokens.first + 1; j < tokens.last; ++j) stretches += list[j] != list[j - 1] + 1 ? 1 : 0;
    return stretches * Rows<float>::piece > tokens.size() && stretches > 1;
  }
  template <class S>
  ListedRows<S, I> listed_rows(const View<const S>& x, Index batch, Index kv_head, Span tokens) const {
    return {x.row(batch, kv_head, 0), x.length_stride, x.dim, lists.row(batch, kv_head, 0) + tokens.first,
            length(batch) - tokens.last};
  }

  // What follows a short run in memory is hardly what the list names next, and is not asked for.
  template <class Run>
  [[gnu::always_inline]] static Run in_list(Run run, Index size) {
    if constexpr (requires { run.long_run = false; }) run.long_run = run.long_run && size >= 2 * Run::piece;
    return run;
  }

  // f(there, shift) for tokens that are neighbours in `from`, where they stand `shift` further on.
  template <class F>
  [[gnu::always_inline]] void each_stretch(Index batch, Index kv_head, Span tokens, F&& f) const {
    const I* const list = lists.row(batch, kv_head, 0);
    for (Index first = tokens.first; first < tokens.last;) {
      Index end = neighbours(list, {first, tokens.last}) ? tokens.last : first + 1;
      while (end < tokens.last && list[end] == list[end - 1] + 1) ++end;
      const Index begin = Index(list[first]);
      f(Span{begin, begin + (end - first)}, begin - first);
      first = end;
    }
  }
};

namespace detail {

// count: how many lengths there are, negative where the lists count whole.
template <class From, class Lists, class Length>
auto checked_gathered(const From& from, const Lists& lists, const Length* lengths, Index count) {
  constexpr auto where = "fovea::kv::gathered";
  const auto rows = integers(lists);
  Gathered<From, IntegerOf<Lists>, Length> source{from, rows, lengths, true};
  const Index batch = from.batch(), heads = from.kv_heads();
  check(rows.batch == 1 || rows.batch == batch, where, "there must be lists for all sequences or for each, wanted ",
        batch, ", got ", rows.batch);
  check(rows.heads == 1 || rows.heads == heads, where, "there must be lists for all kv heads or for each, wanted ",
        heads, ", got ", rows.heads);
  check(count < 0 || count == batch, where, "there must be one length for each sequence, wanted ", batch, ", got ",
        count);
  for (Index b = 0; b < batch; ++b) {
    const Index length = source.length(b), tokens = from.length(b);
    check(length >= 0 && length <= rows.dim, where, "lengths must be between 0 and ", rows.dim, ", got ", length);
    for (Index h = 0; h < rows.heads; ++h) {
      const auto* const list = rows.row(b, h, 0);
      for (Index j = 0; j < length; ++j) {
        const auto token = list[j];
        source.ascending = source.ascending && (j == 0 || token > list[j - 1]);
        check(token >= 0 && Index(token) < tokens, where, "tokens must be among the ", tokens, " of sequence ", b,
              ", got ", token);
      }
    }
  }
  return source;
}

template <class From>
auto source_of(const From& from) {
  if constexpr (Source<From>) {
    return from;
  } else {
    return from.source();
  }
}

}  // namespace detail

// The source of the tokens that `lists` name of `from`, a source or an object that has one. A list may name tokens in
// any order and twice; masks see the places in the list. lists are integers: a RowMajor tensor [B,G,n], one list for
// each kv head; a RowMajor matrix or tensor [B x n], one for all heads of a sequence; a vector or range [n], one for
// all sequences. lengths, where they are given, [B], say how many entries of a sequence's lists count. Integers are not
// copied.
//
//   fovea::attend(q, kv::gathered(cache, kept), out, softmax(), executor);
//
// Throws ArgumentError when lists and source do not fit or a token is not there.
template <class From, class Lists>
auto gathered(const From& from, const Lists& lists) {
  return detail::checked_gathered<decltype(detail::source_of(from)), Lists, Index>(detail::source_of(from), lists,
                                                                                   nullptr, -1);
}
template <class From, class Lists, class Lengths>
auto gathered(const From& from, const Lists& lists, const Lengths& lengths) {
  const auto counts = integers(lengths);
  return detail::checked_gathered(detail::source_of(from), lists, counts.data, counts.dim);
}

}  // namespace fovea::inline FOVEA_ISA::kv
