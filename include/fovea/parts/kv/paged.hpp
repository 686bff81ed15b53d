// Keys and values in pages of a common pool, found by a table for each sequence.
// Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention", SOSP 2023,
// arXiv:2309.06180.
//
// Token t of sequence b is token t % page of page table[b][t / page]. Pages may stand in any order and serve several
// sequences; results have the bits of the same tokens in one array.
#pragma once

#include <algorithm>

#include <fovea/core/check.hpp>
#include <fovea/core/span.hpp>
#include <fovea/parts/kv/integers.hpp>
#include <fovea/parts/kv/rows.hpp>

namespace fovea::inline FOVEA_ISA::kv {

// The source (contiguous.hpp) of pools k [pages,G,page,D] and v [pages,G,page,E].
template <class K, class V, class Page, class Length>
struct Paged {
  View<const K> k;
  View<const V> v;
  const Page* table = nullptr;  // row b begins at b * table_stride
  Index table_stride = 0;
  const Length* lengths = nullptr;
  Index sequences = 0;

  Index page() const { return k.length; }  // tokens of one
  Index length(Index batch) const { return Index(lengths[batch]); }
  Index longest() const {
    Index most = 0;
    for (Index b = 0; b < sequences; ++b) most = std::max(most, length(b));
    return most;
  }
  Index batch() const { return sequences; }
  Index kv_heads() const { return k.heads; }
  Index key_dim() const { return k.dim; }
  Index value_dim() const { return v.dim; }

  template <class F>
  [[gnu::always_inline]] void each_keys(Index batch, Index kv_head, Span tokens, F&& f) const {
    each_run(k, batch, kv_head, tokens, f);
  }
  template <class F>
  [[gnu::always_inline]] void each_values(Index batch, Index kv_head, Span tokens, F&& f) const {
    each_run(v, batch, kv_head, tokens, f);
  }
  template <class T>
  Index scratch_size(Index) const {
    return 0;
  }

 private:
  // Pages that follow one another in memory are one run, as long as what is read later lies equally far.
  template <class S, class F>
  [[gnu::always_inline]] void each_run(const View<const S>& pool, Index batch, Index kv_head, Span tokens,
                                       F&& f) const {
    if (tokens.empty()) return;
    const bool seamless = pool.batch_stride == pool.length * pool.length_stride;
    const Index all = length(batch), page_size = std::max<Index>(page() * pool.length_stride, 1);
    const bool much = all * pool.dim >= Rows<S>::much;
    const Index pages_later = (Rows<S>::far + page_size - 1) / page_size;
    // What is read later lies where the table says, at the same place of its page: how far, none when it is 0.
    const auto later = [&](const Page* at, Index token) {
      const bool is_there = much && token + pages_later * page() < all;
      return is_there ? (Index(at[pages_later]) - Index(*at)) * pool.batch_stride : 0;
    };
    const Page* next = table + batch * table_stride + tokens.first / page();
    Index first = tokens.first, in_page = tokens.first % page();
    while (true) {
      Rows<S> run{pool.row(Index(*next), kv_head, in_page), pool.length_stride, pool.dim};
      run.later = later(next, first - in_page);
      run.long_run = run.later != 0;
      Index end = std::min(tokens.last, first + (page() - in_page));
      while (seamless && end < tokens.last && next[1] == next[0] + 1 && later(next + 1, end) == run.later) {
        end = std::min(tokens.last, end + page());
        ++next;
      }
      f(Span{first, end}, run);
      if (end == tokens.last) return;
      first = end;
      in_page = 0;
      ++next;
    }
  }
};

// The source of pools k [pages,G,page,D] and v [pages,G,page,E] (bthd(k) for [pages,page,G,D]), whose scalar types may
// differ: float, double, Eigen::bfloat16, Eigen::half. table holds the pages of each sequence, integers [B x most
// pages]: a RowMajor matrix or tensor, or a range of B rows one behind the other; lengths, [B], the tokens of each
// sequence. Entries behind those that a length needs may hold anything. Nothing is copied.
//
//   fovea::attend(q, kv::paged(k_pool, v_pool, table, lengths), out, softmax().mask(mask::causal()), executor);
//
// Throws ArgumentError when pools do not fit each other, a length is negative, the table is shorter than a length needs
// or a page that is needed is not in the pool.
template <class K, class V, class Table, class Lengths>
auto paged(const K& k, const V& v, const Table& table, const Lengths& lengths) {
  constexpr auto where = "fovea::kv::paged";
  const auto keys = view(k);
  const auto values = view(v);
  const auto rows = integers(table);
  const auto tokens = integers(lengths);
  using Key = std::remove_const_t<std::remove_pointer_t<decltype(keys.data)>>;
  using Value = std::remove_const_t<std::remove_pointer_t<decltype(values.data)>>;
  check(values.batch == keys.batch, where, "v must have the pages of k, wanted ", keys.batch, ", got ", values.batch);
  check(values.heads == keys.heads, where, "v must have the heads of k, wanted ", keys.heads, ", got ", values.heads);
  check(values.length == keys.length, where, "pages of v must be as long as those of k, wanted ", keys.length, ", got ",
        values.length);
  check(keys.length > 0, where, "pages must have a positive length, got ", keys.length);
  check(tokens.batch == 1 && tokens.heads == 1, where, "lengths must be one row");
  const Index sequences = tokens.dim;
  constexpr bool flat = !fovea::detail::TensorLike<Table> && !fovea::detail::DenseLike<Table>;
  check(rows.heads == 1 && (flat ? sequences == 0 || rows.dim % sequences == 0 : rows.batch == sequences), where,
        "the table must have a row for each sequence, wanted ", sequences, " rows, got ", flat ? rows.dim : rows.batch,
        flat ? " entries" : "");
  const Index most = flat && sequences > 0 ? rows.dim / sequences : rows.dim;
  const Paged<Key, Value, IntegerOf<Table>, IntegerOf<Lengths>> source{
      keys, values, rows.data, flat ? most : rows.batch_stride, tokens.data, sequences};
  for (Index b = 0; b < sequences; ++b) {
    const Index length = source.length(b);
    check(length >= 0, where, "lengths must not be negative, got ", length);
    const Index needed = length / keys.length + (length % keys.length != 0 ? 1 : 0);
    check(needed <= most, where, "the table must hold every page that a length needs, wanted ", needed, " of ", length,
          " tokens, got ", most);
    for (Index p = 0; p < needed; ++p) {
      const auto page = source.table[b * source.table_stride + p];
      check(page >= 0 && Index(page) < keys.batch, where, "pages must be among the ", keys.batch, " of the pool, got ",
            page, " in row ", b);
    }
  }
  return source;
}

}  // namespace fovea::inline FOVEA_ISA::kv
