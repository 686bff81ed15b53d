// The first and the last tokens of one sequence: some that stay, and a ring behind them in which new tokens take the
// places of the oldest. Its memory is taken once and does not grow.
// Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024, arXiv:2309.17453.
//
//   cache::Rolling<Eigen::half> cache({.kv_heads = 8, .key_dim = 128, .value_dim = 128, .window = 1020,
//                                      .sink_tokens = 4});
//   cache.append(k, v);                                        k [G,n,D], v [G,n,E]: the prompt, then token by token
//   fovea::attend(q, cache, out, softmax().mask(mask::causal()));       q [1,H,1,D] is the last token
//
// Masks and windows see the tokens that are left numbered 0, 1, ... in the order in which they came. Keys may be given
// before or after rotation; `streaming` (sink/streaming.hpp) counts rotary positions inside a cache of this kind.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>

#include <fovea/cache/appended.hpp>
#include <fovea/cache/memory.hpp>
#include <fovea/parts/kv/format.hpp>
#include <fovea/parts/kv/ring.hpp>

namespace fovea::inline FOVEA_ISA::cache {

struct RollingOptions {
  Index kv_heads = 0;  // required, as are the widths
  Index key_dim = 0;
  Index value_dim = 0;
  Index window = 0;       // last tokens that stay; required
  Index sink_tokens = 0;  // first tokens that stay
  Index spare = 0;        // further slots of the ring: as many tokens can be taken back, or asked for by source(more)
};

// K and V: float, double, Eigen::bfloat16 or Eigen::half. Moved, and copied by fork() alone.
template <class K = float, class V = K>
class Rolling {
  static_assert(kv::PlainTag<K> && kv::PlainTag<V>, "fovea: rolling caches store float, double, bfloat16 or half");

 public:
  // Throws ArgumentError for extents that are not legal.
  explicit Rolling(const RollingOptions& options)
      : options_(checked(options)), keys_(options.kv_heads * key_bytes()), values_(options.kv_heads * value_bytes()) {}
  // What is left is empty and refuses tokens.
  Rolling(Rolling&& other) noexcept
      : options_(other.options_),
        seen_(std::exchange(other.seen_, 0)),
        most_(std::exchange(other.most_, 0)),
        keys_(std::move(other.keys_)),
        values_(std::move(other.values_)) {
    other.options_.kv_heads = 0;
  }
  Rolling& operator=(Rolling&& other) noexcept {
    std::swap(options_, other.options_);
    std::swap(seen_, other.seen_);
    std::swap(most_, other.most_);
    std::swap(keys_, other.keys_);
    std::swap(values_, other.values_);
    return *this;
  }

  const RollingOptions& options() const { return options_; }
  Index seen() const { return seen_; }                                   // tokens that came
  Index length() const { return order(options_.window).length(seen_); }  // tokens that are left
  Index capacity() const { return options_.sink_tokens + ring(); }       // slots

  // Tokens that follow: k [G,n,D] and v [G,n,E], or matrices [n,D] and [n,E] when there is one head; float or double.
  // Throws ArgumentError, and leaves the cache as it was, when they do not fit it.
  template <class Tk, class Tv>
  void append(const Tk& k, const Tv& v) {
    constexpr auto where = "fovea::cache::Rolling::append";
    const auto keys = appended(k);
    const auto values = appended(v);
    check(options_.kv_heads > 0, where, "the cache was moved from");
    check_appended(where, keys.extents(), values.extents(), options_.kv_heads, options_.key_dim, options_.value_dim);
    write(kv::Plain<K>{options_.key_dim}, keys_.data(), key_bytes(), keys);
    write(kv::Plain<V>{options_.value_dim}, values_.data(), value_bytes(), values);
    seen_ += keys.length;
    most_ = std::max(most_, seen_);
  }

  // Only the first `tokens` tokens that came stay (speculative ones that were rejected go), and the window moves back
  // over older ones. Refused when those have been overwritten: as long as no token has left the ring, and from then on
  // for `spare` tokens, they are there.
  void truncate(Index tokens) {
    constexpr auto where = "fovea::cache::Rolling::truncate";
    check(tokens >= 0 && tokens <= seen_, where, "the tokens that stay must be between 0 and ", seen_, ", got ",
          tokens);
    check(tokens <= options_.sink_tokens || first_of(tokens, options_.window) >= oldest(), where,
          "tokens that would come back are overwritten, at least ", std::min(oldest() + options_.window, seen_),
          " must stay, got ", tokens);
    seen_ = tokens;
    if (tokens <= options_.sink_tokens) most_ = tokens;
  }
  void clear() { truncate(0); }

  // A copy with a memory of its own.
  Rolling fork() const {
    check(options_.kv_heads > 0, "fovea::cache::Rolling::fork", "the cache was moved from");
    Rolling copy(options_);
    const Index slots = std::min(most_, capacity());
    for (Index h = 0; h < options_.kv_heads; ++h) {
      copy_slots(copy.keys_.data() + h * key_bytes(), keys_.data() + h * key_bytes(),
                 slots * options_.key_dim * Index(sizeof(K)));
      copy_slots(copy.values_.data() + h * value_bytes(), values_.data() + h * value_bytes(),
                 slots * options_.value_dim * Index(sizeof(V)));
    }
    copy.seen_ = seen_;
    copy.most_ = most_;
    return copy;
  }

  // What the engine reads (parts/kv/contiguous.hpp): the sink tokens and the window.
  kv::Ring<K, V> source() const { return of_window(options_.window); }
  // The same with `more` tokens in front of the window, as long as there are any: N queries that each see a window of
  // their own want N - 1. Throws ArgumentError when the ring has no room for them.
  kv::Ring<K, V> source(Index more) const {
    constexpr auto where = "fovea::cache::Rolling::source";
    check(more >= 0 && more <= options_.spare, where, "the tokens in front of the window must be between 0 and ",
          options_.spare, ", got ", more);
    check(seen_ <= options_.sink_tokens || first_of(seen_, options_.window + more) >= oldest(), where,
          "tokens in front of the window are overwritten, there are ", first_of(seen_, options_.window) - oldest(),
          ", got ", more);
    return of_window(options_.window + more);
  }

 private:
  static constexpr auto name = "fovea::cache::Rolling";

  static const RollingOptions& checked(const RollingOptions& options) {
    check_extents(name, options.kv_heads, options.key_dim, options.value_dim);
    constexpr Index most = Index{1} << 40;
    check(options.window > 0 && options.window <= most, name, "window must be between 1 and ", most, ", got ",
          options.window);
    check(options.sink_tokens >= 0 && options.sink_tokens <= most, name, "sink_tokens must be between 0 and ", most,
          ", got ", options.sink_tokens);
    check(options.spare >= 0 && options.spare <= most, name, "spare must be between 0 and ", most, ", got ",
          options.spare);
    const Index widest = options.key_dim * Index(sizeof(K)) + options.value_dim * Index(sizeof(V));
    const Index slots = options.sink_tokens + options.window + options.spare;
    check(slots <= (Index{1} << 62) / (options.kv_heads * widest) - 64, name, "there is no room for ", slots,
          " tokens");
    return options;
  }

  Index ring() const { return options_.window + options_.spare; }
  kv::RingOrder order(Index window) const { return {options_.sink_tokens, ring(), window}; }
  // Bytes of a head.
  Index key_bytes() const { return kv::Plain<K>{options_.key_dim}.bytes(capacity()); }
  Index value_bytes() const { return kv::Plain<V>{options_.value_dim}.bytes(capacity()); }

  // The first token of a window that ends with `tokens`, and the oldest one that stands in the ring.
  Index first_of(Index tokens, Index window) const { return std::max(options_.sink_tokens, tokens - window); }
  Index oldest() const { return first_of(most_, ring()); }

  kv::Ring<K, V> of_window(Index window) const {
    const auto view = [&](const auto* data, Index dim, Index bytes) {
      using S = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
      const Index head = bytes / Index(sizeof(S));
      return View<const S>{data, 1, options_.kv_heads, capacity(), dim, 0, head, dim};
    };
    return {view(reinterpret_cast<const K*>(keys_.data()), options_.key_dim, key_bytes()),
            view(reinterpret_cast<const V*>(values_.data()), options_.value_dim, value_bytes()), order(window), seen_};
  }

  // Rows of tokens into their slots; what would be overwritten is left out.
  template <class Format, class T>
  void write(const Format& format, std::byte* memory, Index head_bytes, const View<const T>& rows) {
    const Index end = seen_ + rows.length, pinned = std::clamp<Index>(options_.sink_tokens - seen_, 0, rows.length);
    for (Index h = 0; h < options_.kv_heads; ++h) {
      std::byte* const stretch = memory + h * head_bytes;
      if (pinned > 0) format.write(stretch, seen_, pinned, rows.row(0, h, 0), rows.length_stride);
      for (Index token = std::max(seen_ + pinned, end - ring()); token < end;) {
        const Index place = (token - options_.sink_tokens) % ring(), n = std::min(end - token, ring() - place);
        format.write(stretch, options_.sink_tokens + place, n, rows.row(0, h, token - seen_), rows.length_stride);
        token += n;
      }
    }
  }
  static void copy_slots(std::byte* to, const std::byte* from, Index bytes) {
    if (bytes > 0) std::memcpy(to, from, std::size_t(bytes));
  }

  RollingOptions options_;
  Index seen_ = 0, most_ = 0;  // tokens that came, and that had come before some were taken back
  Memory keys_, values_;
};

}  // namespace fovea::inline FOVEA_ISA::cache
