// A cache that keeps the first tokens and rolls over the last ones: a few pinned slots and a ring behind them. A plain
// object of the caller's that can be kept and copied; its memory is taken once and does not grow.
// Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024, arXiv:2309.17453.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include <fovea/core/check.hpp>
#include <fovea/core/eigen.hpp>

namespace fovea::inline FOVEA_ISA {

template <class T>
class RollingCache {
 public:
  // Room for `sink_tokens` leading tokens and the last `window` ones, of each (batch, kv head).
  RollingCache(Index batch, Index kv_heads, Index key_dim, Index value_dim, Index window, Index sink_tokens = 0)
      : batch_(batch),
        heads_(kv_heads),
        key_dim_(key_dim),
        value_dim_(value_dim),
        window_(window),
        sink_tokens_(sink_tokens) {
    constexpr auto where = "fovea::RollingCache";
    check(window > 0, where, "window must be positive, got ", window);
    check(sink_tokens >= 0, where, "sink_tokens must not be negative, got ", sink_tokens);
    check(batch >= 0 && kv_heads >= 0 && key_dim >= 0 && value_dim >= 0, where, "extents must not be negative, got [",
          batch, ", ", kv_heads, "] and widths ", key_dim, " and ", value_dim);
    keys_.resize(std::size_t(batch * kv_heads * room() * key_dim));
    values_.resize(std::size_t(batch * kv_heads * room() * value_dim));
  }

  Index window() const { return window_; }
  Index sink_tokens() const { return sink_tokens_; }
  Index seen() const { return seen_; }                          // tokens that came
  Index length() const { return std::min(seen_, room()); }      // tokens that are kept
  View<const T> keys() const { return kept(keys_, key_dim_); }  // [B, G, length, D], slot by slot
  View<const T> values() const { return kept(values_, value_dim_); }

  // The place of each slot among the kept tokens in the order they came: 0 to length - 1.
  std::vector<Index> positions() const {
    std::vector<Index> places(std::size_t(length()), 0);
    const Index oldest = seen_ <= room() ? 0 : (seen_ - sink_tokens_) % window_;  // in the ring
    for (Index slot = 0; slot < length(); ++slot) {
      const Index ring = slot - sink_tokens_;
      places[std::size_t(slot)] = ring < 0 ? slot : sink_tokens_ + (ring - oldest + window_) % window_;
    }
    return places;
  }

  // Tokens that follow: k [B,G,n,D], v [B,G,n,E]. The oldest ones behind the sink tokens make room.
  template <class K, class V>
  void append(const K& k, const V& v) {
    constexpr auto where = "fovea::RollingCache::append";
    const auto keys = view(k);
    const auto values = view(v);
    static_assert(std::is_same_v<std::remove_const_t<std::remove_pointer_t<decltype(keys.data)>>, T> &&
                      std::is_same_v<std::remove_const_t<std::remove_pointer_t<decltype(values.data)>>, T>,
                  "fovea: keys and values must have the scalar type of the cache");
    check(keys.batch == batch_ && keys.heads == heads_ && keys.dim == key_dim_, where,
          "k must have the shape of the cache, wanted [", batch_, ", ", heads_, ", n, ", key_dim_, "], got [",
          keys.batch, ", ", keys.heads, ", ", keys.length, ", ", keys.dim, "]");
    check(values.batch == batch_ && values.heads == heads_ && values.dim == value_dim_, where,
          "v must have the shape of the cache, wanted [", batch_, ", ", heads_, ", n, ", value_dim_, "], got [",
          values.batch, ", ", values.heads, ", ", values.length, ", ", values.dim, "]");
    check(values.length == keys.length, where, "v must have the length of k, wanted ", keys.length, ", got ",
          values.length);
    for (Index b = 0; b < batch_; ++b) {
      for (Index h = 0; h < heads_; ++h) {
        for (Index i = 0; i < keys.length; ++i) {
          const Index token = seen_ + i, ring = token - sink_tokens_;
          if (ring >= 0 && i + window_ < keys.length) continue;  // would be overwritten
          const Index slot = (b * heads_ + h) * room() + (ring < 0 ? token : sink_tokens_ + ring % window_);
          std::copy_n(keys.row(b, h, i), key_dim_, keys_.begin() + slot * key_dim_);
          std::copy_n(values.row(b, h, i), value_dim_, values_.begin() + slot * value_dim_);
        }
      }
    }
    seen_ += keys.length;
  }

 private:
  Index room() const { return sink_tokens_ + window_; }
  View<const T> kept(const std::vector<T>& x, Index dim) const {
    return {x.data(), batch_, heads_, length(), dim, heads_ * room() * dim, room() * dim, dim};
  }

  Index batch_, heads_, key_dim_, value_dim_, window_, sink_tokens_;
  Index seen_ = 0;
  std::vector<T> keys_, values_;
};

}  // namespace fovea::inline FOVEA_ISA
