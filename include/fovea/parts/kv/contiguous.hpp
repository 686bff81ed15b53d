// Keys and values as plain arrays [B,G,M,D] and [B,G,M,E], and what a source of keys and values is.
//
// A source tells the engines how many tokens each sequence has and hands out runs (rows.hpp) of them:
//
//   length(batch), longest(), batch(), kv_heads(), key_dim(), value_dim()
//   each_keys(batch, kv_head, tokens, f)     f(Span part, run) for ascending parts that make up `tokens`; the first row
//   each_values(batch, kv_head, tokens, f)   of a run is token part.first. Runs may be of several types
//   scratch_size<T>(rows)                    the largest that its runs want
//
// Tokens are counted 0, 1, ... in the order in which masks see them.
#pragma once

#include <concepts>
#include <span>

#include <fovea/core/problem.hpp>
#include <fovea/core/span.hpp>
#include <fovea/parts/kv/rows.hpp>

namespace fovea::inline FOVEA_ISA::kv {

namespace detail {
struct AnyRun {
  template <class Run>
  void operator()(Span, const Run&) const {}
};
}  // namespace detail

template <class S>
concept Source = requires(const S& source, Index n, Span tokens, detail::AnyRun f) {
  { source.length(n) } -> std::convertible_to<Index>;
  { source.longest() } -> std::convertible_to<Index>;
  { source.batch() } -> std::convertible_to<Index>;
  { source.kv_heads() } -> std::convertible_to<Index>;
  { source.key_dim() } -> std::convertible_to<Index>;
  { source.value_dim() } -> std::convertible_to<Index>;
  { source.template scratch_size<float>(n) } -> std::convertible_to<Index>;
  source.each_keys(n, n, tokens, f);
  source.each_values(n, n, tokens, f);
};

template <class K, class V = K>
struct Contiguous {
  View<const K> k;
  View<const V> v;
  std::span<const Index> lengths = {};  // of the sequences, [B]; all of k when empty

  Index length(Index batch) const { return lengths.empty() ? k.length : lengths[std::size_t(batch)]; }
  Index longest() const { return lengths.empty() ? k.length : std::ranges::max(lengths); }
  Index batch() const { return k.batch; }
  Index kv_heads() const { return k.heads; }
  Index key_dim() const { return k.dim; }
  Index value_dim() const { return v.dim; }

  Rows<K> keys(Index batch, Index kv_head, Span tokens) const {
    return {k.row(batch, kv_head, tokens.first), k.length_stride, k.dim, k.length * k.dim >= Rows<K>::much};
  }
  Rows<V> values(Index batch, Index kv_head, Span tokens) const {
    return {v.row(batch, kv_head, tokens.first), v.length_stride, v.dim, v.length * v.dim >= Rows<V>::much};
  }
  template <class F>
  [[gnu::always_inline]] void each_keys(Index batch, Index kv_head, Span tokens, F&& f) const {
    f(tokens, keys(batch, kv_head, tokens));
  }
  template <class F>
  [[gnu::always_inline]] void each_values(Index batch, Index kv_head, Span tokens, F&& f) const {
    f(tokens, values(batch, kv_head, tokens));
  }
  template <class T>
  Index scratch_size(Index) const {
    return 0;
  }
};

namespace detail {

// Refuses values that are not as many, or not of the same sequences and heads, as the keys.
inline void check_alike(const char* where, const Extents& keys, const Extents& values) {
  check(values.batch == keys.batch, where, "v must have the batch of k, wanted ", keys.batch, ", got ", values.batch);
  check(values.heads == keys.heads, where, "v must have the heads of k, wanted ", keys.heads, ", got ", values.heads);
  check(values.length == keys.length, where, "v must have the length of k, wanted ", keys.length, ", got ",
        values.length);
}

}  // namespace detail

// The source of k [B,G,M,D] and v [B,G,M,E], whose scalar types may differ: float, double, Eigen::bfloat16,
// Eigen::half. lengths, where there are any, hold the tokens of each sequence that count, [B], and are not copied.
// Throws ArgumentError when they do not fit together.
template <class K, class V>
auto contiguous(const K& k, const V& v, std::span<const Index> lengths = {}) {
  constexpr auto where = "fovea::kv::contiguous";
  const auto keys = view(k);
  const auto values = view(v);
  using Key = std::remove_const_t<std::remove_pointer_t<decltype(keys.data)>>;
  using Value = std::remove_const_t<std::remove_pointer_t<decltype(values.data)>>;
  detail::check_alike(where, keys.extents(), values.extents());
  check(lengths.empty() || Index(lengths.size()) == keys.batch, where, "there must be one length for each sequence, ",
        "wanted ", keys.batch, ", got ", lengths.size());
  for (const Index length : lengths)
    check(length >= 0 && length <= keys.length, where, "lengths must be between 0 and ", keys.length, ", got ", length);
  return Contiguous<Key, Value>{keys, values, lengths};
}

}  // namespace fovea::inline FOVEA_ISA::kv
