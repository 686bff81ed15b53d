// Keys and values of which the first tokens stay and the last ones go round in a ring behind them.
// Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024, arXiv:2309.17453.
//
// Slot t holds token t as long as there is room. Later tokens t >= pinned stand in slot pinned + (t - pinned) % ring,
// where a ring of so many slots follows the pinned ones. They are read in the order in which they came, the pinned ones
// first, in three runs at most: masks and windows stand as they do over an array of these tokens.
#pragma once

#include <algorithm>

#include <fovea/core/check.hpp>
#include <fovea/core/span.hpp>
#include <fovea/parts/kv/contiguous.hpp>
#include <fovea/parts/kv/integers.hpp>

namespace fovea::inline FOVEA_ISA::kv {

// Which slots are read, and in what order.
struct RingOrder {
  Index pinned = 0;  // tokens that stay
  Index ring = 1;    // slots behind them
  Index window = 0;  // last tokens behind the pinned ones that are read, at most `ring`

  // Tokens to be read when `seen` came.
  Index length(Index seen) const { return std::min(seen, pinned + window); }

  // f(Span part, slot) for the tokens of a span, counted as they are read, that stand in slots from `slot` on.
  template <class F>
  [[gnu::always_inline]] void each_run(Index seen, Span tokens, F&& f) const {
    const Index left_out = std::max<Index>(0, seen - pinned - window), start = left_out % ring;
    Index first = tokens.first;
    while (first < tokens.last) {
      Index slot = first, room = pinned + ring - first;
      if (start > 0 && first < pinned) {
        room = pinned - first;
      } else if (start > 0) {
        slot = start + first - pinned < ring ? start + first : start + first - ring;
        room = pinned + ring - slot;
      }
      const Index end = std::min(tokens.last, first + room);
      f(Span{first, end}, slot);
      first = end;
    }
  }
};

// The source (contiguous.hpp) of arrays k [B,G,slots,D] and v [B,G,slots,E].
template <class K, class V, class Seen = Index>
struct Ring {
  View<const K> k;
  View<const V> v;
  RingOrder order;
  Index seen_by_all = 0;       // tokens that came
  const Seen* seen = nullptr;  // the same for each sequence, [B], unless it is null

  Index seen_of(Index batch) const { return seen == nullptr ? seen_by_all : Index(seen[batch]); }
  Index length(Index batch) const { return order.length(seen_of(batch)); }
  Index longest() const {
    Index most = 0;
    for (Index b = 0; b < batch(); ++b) most = std::max(most, length(b));
    return most;
  }
  Index batch() const { return k.batch; }
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
  template <class S, class F>
  [[gnu::always_inline]] void each_run(const View<const S>& x, Index batch, Index kv_head, Span tokens, F&& f) const {
    const bool much = x.length * x.dim >= Rows<S>::much;
    order.each_run(
        seen_of(batch), tokens, [&](Span part, Index slot) __attribute__((always_inline)) {
          f(part, Rows<S>{x.row(batch, kv_head, slot), x.length_stride, x.dim, much});
        });
  }
};

namespace detail {

// count: how many numbers there are in seen, negative where seen_by_all holds for all.
template <class K, class V, class Seen>
auto checked_ring(const K& k, const V& v, Index pinned, Index seen_by_all, const Seen* seen, Index count) {
  constexpr auto where = "fovea::kv::ring";
  const auto keys = view(k);
  const auto values = view(v);
  using Key = std::remove_const_t<std::remove_pointer_t<decltype(keys.data)>>;
  using Value = std::remove_const_t<std::remove_pointer_t<decltype(values.data)>>;
  check_alike(where, keys.extents(), values.extents());
  check(pinned >= 0 && pinned < keys.length, where, "there must be slots behind the pinned tokens, pinned are ", pinned,
        " of ", keys.length);
  check(count < 0 || count == keys.batch, where, "there must be one number of tokens for each sequence, wanted ",
        keys.batch, ", got ", count);
  const Index ring = keys.length - pinned;
  const Ring<Key, Value, Seen> source{keys, values, {pinned, ring, ring}, seen_by_all, seen};
  for (Index b = 0; b < keys.batch; ++b)
    check(source.seen_of(b) >= 0, where, "numbers of tokens must not be negative, got ", source.seen_of(b));
  return source;
}

}  // namespace detail

// The source of k [B,G,slots,D] and v [B,G,slots,E], whose scalar types may differ: float, double, Eigen::bfloat16,
// Eigen::half. The first `pinned` slots are for the tokens that stay, the others are the ring. seen is how many tokens
// came: one integer, or integers [B], which are not copied.
// Throws ArgumentError when they do not fit together.
template <class K, class V>
auto ring(const K& k, const V& v, Index pinned, Index seen) {
  return detail::checked_ring<K, V, Index>(k, v, pinned, seen, nullptr, -1);
}
template <class K, class V, class Seen>
requires(!std::integral<Seen>) auto ring(const K& k, const V& v, Index pinned, const Seen& seen) {
  const auto counts = integers(seen);
  return detail::checked_ring(k, v, pinned, 0, counts.data, counts.dim);
}

}  // namespace fovea::inline FOVEA_ISA::kv
