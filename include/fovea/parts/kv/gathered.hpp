// The keys and values that a list names, out of those of any source: what a selection or an eviction left.
#pragma once

#include <algorithm>

#include <fovea/core/check.hpp>
#include <fovea/parts/kv/contiguous.hpp>
#include <fovea/parts/kv/integers.hpp>

namespace fovea::inline FOVEA_ISA::kv {

// A source (contiguous.hpp). Token j is token list[j] of `source`; tokens that are neighbours there are one run.
template <class From, class I, class Length = Index>
struct Gathered {
  From from;
  View<const I> lists;              // [B or 1, G or 1, 1, n], an axis of one repeats
  const Length* lengths = nullptr;  // [B]; n when null

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
    each_stretch(
        batch, kv_head, tokens, [&](Span there, Index shift) __attribute__((always_inline)) {
          from.each_keys(
              batch, kv_head, there, [&](Span part, const auto& run) __attribute__((always_inline)) {
                f(Span{part.first - shift, part.last - shift}, run);
              });
        });
  }
  template <class F>
  [[gnu::always_inline]] void each_values(Index batch, Index kv_head, Span tokens, F&& f) const {
    each_stretch(
        batch, kv_head, tokens, [&](Span there, Index shift) __attribute__((always_inline)) {
          from.each_values(
              batch, kv_head, there, [&](Span part, const auto& run) __attribute__((always_inline)) {
                f(Span{part.first - shift, part.last - shift}, run);
              });
        });
  }
  template <class T>
  Index scratch_size(Index rows) const {
    return from.template scratch_size<T>(rows);
  }

 private:
  // What follows a short run in memory is hardly what the list names next, and is not asked for.
  template <class Run>
  [[gnu::always_inline]] static Run listed(Run run, Index size) {
    if constexpr (requires { run.long_run = false; }) run.long_run = run.long_run && size >= 2 * Run::piece;
    return run;
  }

  // f(there, shift) for tokens that are neighbours in `from`, where they stand `shift` further on.
  template <class F>
  [[gnu::always_inline]] void each_stretch(Index batch, Index kv_head, Span tokens, F&& f) const {
    const I* const list = lists.row(batch, kv_head, 0);
    for (Index first = tokens.first; first < tokens.last;) {
      Index end = first + 1;
      while (end < tokens.last && list[end] == list[end - 1] + 1) ++end;
      const Index begin = Index(list[first]);
      f(Span{begin, begin + (end - first)}, begin - first);
      first = end;
    }
  }
};

namespace detail {

template <class From, class Lists, class Length>
auto checked_gathered(const From& from, const Lists& lists, const Length* lengths, Index count) {
  constexpr auto where = "fovea::kv::gathered";
  const auto rows = integers(lists);
  Gathered<From, IntegerOf<Lists>, Length> source{from, rows, lengths};
  const Index batch = from.batch(), heads = from.kv_heads();
  check(rows.batch == 1 || rows.batch == batch, where, "there must be lists for all sequences or for each, wanted ",
        batch, ", got ", rows.batch);
  check(rows.heads == 1 || rows.heads == heads, where, "there must be lists for all kv heads or for each, wanted ",
        heads, ", got ", rows.heads);
  check(lengths == nullptr || count == batch, where, "there must be one length for each sequence, wanted ", batch,
        ", got ", count);
  for (Index b = 0; b < batch; ++b) {
    const Index length = source.length(b), tokens = from.length(b);
    check(length >= 0 && length <= rows.dim, where, "lengths must be between 0 and ", rows.dim, ", got ", length);
    for (Index h = 0; h < rows.heads; ++h) {
      for (Index j = 0; j < length; ++j) {
        const auto token = rows.row(b, h, 0)[j];
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
                                                                                   nullptr, 0);
}
template <class From, class Lists, class Lengths>
auto gathered(const From& from, const Lists& lists, const Lengths& lengths) {
  const auto counts = integers(lengths);
  return detail::checked_gathered(detail::source_of(from), lists, counts.data, counts.dim);
}

}  // namespace fovea::inline FOVEA_ISA::kv
