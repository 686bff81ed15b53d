// StreamingLLM: sink tokens and a rolling window, with rotary positions counted inside the cache.
// Xiao et al., "Efficient Streaming Language Models with Attention Sinks", ICLR 2024, arXiv:2309.17453.
//
//   o_i = sum_j softmax_j(scale R(a_ij) q_i . R(j) k_j) v_j   over   { j <= p : p - j < window or j < sink_tokens }
//   a_ij = p for keys of the window, min(p, sink_tokens + window - 1) for sink tokens,   p = i + M - N
//
// R(a) is the rotation by position a. A query thus stands right behind the window and the window right behind the sink
// tokens, as in a cache that keeps these keys alone and counts positions by its slots. q and k come without positions.
//
// window counts the query's own key: it is the recent size of a cache that evicts before it appends, and one more when
// it appends first. Decoding a token from such a cache (keys as they came, in order, the own one last) is the same call
// with N = 1; from a StreamingCache, which turns keys once, it is the call below it.
//
// Exact for this definition; equals causal attention of rotated q and k while M <= window + sink_tokens. Cost
// O(N (window + sink_tokens) (D + E)) for each head. Memory: q and the keys that are seen, rotated, and an
// output and log-sums for the sink tokens.
#pragma once

#include <algorithm>
#include <array>
#include <iterator>
#include <memory>
#include <optional>
#include <ranges>
#include <utility>

#include <fovea/cache/rolling_cache.hpp>
#include <fovea/engine/attend.hpp>
#include <fovea/parts/combine/merge.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/window.hpp>
#include <fovea/parts/position/rotary.hpp>

namespace fovea::inline FOVEA_ISA {

struct StreamingOptions {
  Index window = 0;                     // last keys that a query sees, its own included; required
  Index sink_tokens = 0;                // leading keys that every query sees
  position::RotaryOptions rotary = {};  // of the positions
  std::optional<double> scale = {};     // 1 / sqrt(D) when empty

  bool operator==(const StreamingOptions&) const = default;
};

namespace detail {

// A contiguous array of its own.
template <class T>
struct OwnedArray {
  Extents extents;
  std::unique_ptr<T[], engine::FreeScratch> memory;

  template <class Exec>
  OwnedArray(const Exec& executor, const Extents& e)
      : extents(e), memory(engine::allocate_scratch<T>(executor, std::max<Index>(size_of(e), 1))) {}
  static Index size_of(const Extents& e) { return e.batch * e.heads * e.length * e.dim; }
  View<T> all() const { return view(memory.get(), extents); }
};

}  // namespace detail

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; or matrices [N,D], [M,D], [M,E], [N,E].
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void streaming(const Q& q, const K& k, const V& v, Out&& out, const StreamingOptions& options,
               const Exec& executor = {}) {
  constexpr auto where = "fovea::streaming";
  const auto problem = make_problem(where, q, k, v, out);
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  check(options.window > 0, where, "window must be positive, got ", options.window);
  check(options.sink_tokens >= 0, where, "sink_tokens must not be negative, got ", options.sink_tokens);
  const auto recipe = softmax(options.scale);
  recipe.normalizer.check_for(where, problem.shape());
  const position::Angles angles(problem.q.dim, options.rotary, where);

  const Index queries = problem.q.length, keys = problem.k.length;
  const Index window = std::min(options.window, keys + queries), sinks = std::min(options.sink_tokens, keys);
  const Index unseen = std::max<Index>(0, keys - (sinks + window - 1 + queries));  // keys that no query sees
  const Index kept = keys - unseen;
  const auto rotate = [&](View<const T> x, View<T> to, Index first) {  // to first, first + 1, ...
    position::rotary(x, position::Consecutive{first, x.length}, to, angles, executor);
  };
  const auto tokens = [](auto x, Index first, Index last) {
    if (x.data != nullptr) x.data = x.row(0, 0, first);
    x.length = last - first;
    return x;
  };
  const auto rows = [&](Index first, Index last) {
    auto part = problem;
    part.q = tokens(part.q, first, last);
    part.out = tokens(part.out, first, last);
    part.log_sum = tokens(part.log_sum, first, last);
    return part;
  };

  const detail::OwnedArray<T> turned_q(executor, problem.q.extents());
  const detail::OwnedArray<T> turned_k(executor, {problem.k.batch, problem.k.heads, kept, problem.k.dim});
  const View<T> turned_sinks = tokens(turned_k.all(), 0, sinks), turned_rest = tokens(turned_k.all(), sinks, kept);
  rotate(problem.q, turned_q.all(), kept - queries);
  rotate(tokens(problem.k, 0, sinks), turned_sinks, 0);
  rotate(tokens(problem.k, sinks + unseen, keys), turned_rest, sinks);

  // Early queries see every key up to their own.
  const Index early = sinks == 0 ? 0 : std::clamp<Index>(sinks + window - (keys - queries), 0, queries);
  if (early > 0) {
    auto part = rows(0, early);
    part.q = tokens(turned_q.all(), 0, early);
    part.k = tokens(turned_k.all(), 0, early + keys - queries);
    part.v = tokens(problem.v, 0, early + keys - queries);
    engine::attend(part, recipe.mask(mask::causal()), executor);
    if (early == queries) return;
  }

  auto recent = rows(early, queries);
  recent.q = tokens(turned_q.all(), early, queries);
  recent.k = turned_rest;
  recent.v = tokens(problem.v, sinks + unseen, keys);
  const auto windowed = recipe.mask(mask::causal() & mask::window(window));
  if (sinks == 0) return engine::attend(recent, windowed, executor);

  // The others stand at sinks + window - 1 for the sink tokens: these are turned back as far, and q is left as it is.
  const Extents sums{problem.q.batch, problem.q.heads, queries - early, 1};
  const detail::OwnedArray<T> recent_log_sum(executor, sums), sink_log_sum(executor, sums);
  const detail::OwnedArray<T> sink_out(executor, recent.out.extents());
  rotate(tokens(problem.k, 0, sinks), turned_sinks, 1 - sinks - window);
  auto sink = rows(early, queries);
  sink.k = turned_sinks;
  sink.v = tokens(problem.v, 0, sinks);
  sink.out = sink_out.all();
  sink.log_sum = sink_log_sum.all();
  if (recent.log_sum.data == nullptr) recent.log_sum = recent_log_sum.all();
  engine::attend(recent, windowed, executor);
  engine::attend(sink, recipe, executor);
  const auto result = with_log_sum(recent.out, recent.log_sum);
  combine::merge(result, with_log_sum(sink.out, sink.log_sum), result, executor);
}

// What a sequence keeps for streaming: its sink tokens, as they came, and the window, whose keys are turned to their
// own positions when they come. A query turned to its own position then finds its window where it should be, and only
// the sink tokens have to follow it.
template <class K = float, class V = K>
class StreamingCache {
 public:
  // K and V: float, double, Eigen::bfloat16 or Eigen::half. Up to `spare` tokens can be taken back once tokens have
  // left the window. Throws ArgumentError for extents and options that are not legal.
  StreamingCache(Index kv_heads, Index key_dim, Index value_dim, const StreamingOptions& options, Index spare = 0)
      : options_(options),
        angles_(key_dim, options.rotary, "fovea::StreamingCache"),
        tokens_({kv_heads, key_dim, value_dim, options.window, options.sink_tokens, spare}) {}

  const StreamingOptions& options() const { return options_; }
  const position::Angles& angles() const { return angles_; }
  const cache::Rolling<K, V>& tokens() const { return tokens_; }
  Index seen() const { return tokens_.seen(); }      // tokens that came
  Index length() const { return tokens_.length(); }  // tokens that are left

  // Tokens that follow: k [G,n,D], without positions, and v [G,n,E], or matrices [n,D] and [n,E] when there is one
  // head; float or double. Throws ArgumentError, and leaves the cache as it was, when they do not fit it.
  template <class Tk, class Tv>
  void append(const Tk& k, const Tv& v) {
    constexpr auto where = "fovea::StreamingCache::append";
    const auto keys = cache::appended(k);
    const auto values = cache::appended(v);
    using T = std::remove_const_t<std::remove_pointer_t<decltype(keys.data)>>;
    const auto& size = tokens_.options();
    check(size.kv_heads > 0, where, "the cache was moved from");
    cache::check_appended(where, keys.extents(), values.extents(), size.kv_heads, size.key_dim, size.value_dim);
    const auto part = [](auto x, Index first, Index last) {
      x.data = x.row(0, 0, first);
      x.length = last - first;
      return x;
    };
    // Sink tokens stay as they are, and so may those that the ring will not hold.
    const Index n = keys.length, begin = seen(), ring = size.window + size.spare;
    const Index as_they_are = std::clamp<Index>(std::max(size.sink_tokens - begin, n - ring), 0, n);
    const Index most = std::min<Index>(n - as_they_are, 64);
    reserve(size.kv_heads * most * size.key_dim * Index(sizeof(T)));
    if (as_they_are > 0) tokens_.append(part(keys, 0, as_they_are), part(values, 0, as_they_are));
    for (Index first = as_they_are; first < n; first += most) {
      const Index last = std::min(first + most, n);
      const auto turned =
          view(reinterpret_cast<T*>(turned_.data()), Extents{1, size.kv_heads, last - first, size.key_dim});
      position::rotary(part(keys, first, last), position::Consecutive{begin + first, last - first}, turned, angles_);
      tokens_.append(turned, part(values, first, last));
    }
  }

  // As cache::Rolling has them.
  void truncate(Index tokens) { tokens_.truncate(tokens); }
  void clear() { tokens_.clear(); }
  StreamingCache fork() const { return StreamingCache(*this); }

  StreamingCache(StreamingCache&&) noexcept = default;
  StreamingCache& operator=(StreamingCache&& other) noexcept {
    std::swap(options_, other.options_);
    std::swap(angles_, other.angles_);
    std::swap(tokens_, other.tokens_);
    std::swap(turned_, other.turned_);
    std::swap(room_, other.room_);
    return *this;
  }

 private:
  StreamingCache(const StreamingCache& other)
      : options_(other.options_), angles_(other.angles_), tokens_(other.tokens_.fork()) {}

  void reserve(Index bytes) {
    if (bytes <= room_) return;
    turned_ = cache::Memory(bytes);
    room_ = bytes;
  }

  StreamingOptions options_;
  position::Angles angles_;
  cache::Rolling<K, V> tokens_;
  cache::Memory turned_{};  // keys on their way in
  Index room_ = 0;
};

namespace detail {

// The source of some caches: their sink tokens, turned to where the query wants them, and their windows.
template <class T, class Iterator>
struct Streamed {
  Iterator caches;  // leads to pointers
  Index size = 0;
  const T* sinks = nullptr;  // [B, G, sink_tokens, D]

  const auto& of(Index batch) const { return (*caches[std::iter_difference_t<Iterator>(batch)]).tokens(); }
  Index pinned(Index batch) const { return std::min(of(batch).seen(), of(batch).options().sink_tokens); }

  Index length(Index batch) const { return of(batch).length(); }
  Index longest() const {
    Index most = 0;
    for (Index b = 0; b < size; ++b) most = std::max(most, length(b));
    return most;
  }
  Index batch() const { return size; }
  Index kv_heads() const { return of(0).options().kv_heads; }
  Index key_dim() const { return of(0).options().key_dim; }
  Index value_dim() const { return of(0).options().value_dim; }

  template <class F>
  [[gnu::always_inline]] void each_keys(Index batch, Index kv_head, Span tokens, F&& f) const {
    const Span first = intersect(tokens, {0, pinned(batch)}), rest{std::max(tokens.first, first.last), tokens.last};
    if (!first.empty()) {
      const Index dim = key_dim(), row = (batch * kv_heads() + kv_head) * of(0).options().sink_tokens + first.first;
      f(first, kv::Rows<T>{sinks + row * dim, dim, dim});
    }
    of(batch).source().each_keys(0, kv_head, rest, f);
  }
  template <class F>
  [[gnu::always_inline]] void each_values(Index batch, Index kv_head, Span tokens, F&& f) const {
    of(batch).source().each_values(0, kv_head, tokens, f);
  }
  template <class S>
  Index scratch_size(Index) const {
    return 0;
  }
};

// The positions of the last tokens of some caches.
template <class Iterator>
struct LastPositions {
  Iterator caches;
  Index count;

  Index size() const { return count; }
  Index operator[](std::size_t b) const {
    return std::max<Index>((*caches[std::iter_difference_t<Iterator>(b)]).seen() - 1, 0);
  }
};

template <class Q, class Iterator, class Out, class Exec>
void streaming_from(const Q& q, Iterator caches, Index size, Out&& out, const Exec& executor) {
  constexpr auto where = "fovea::streaming";
  const auto queries = view(q);
  using T = std::remove_const_t<std::remove_pointer_t<decltype(queries.data)>>;
  check(queries.batch == size, where, "there must be a cache for each sequence, wanted ", queries.batch, ", got ",
        size);
  if (size == 0) return;
  const StreamingOptions& options = (*caches[0]).options();
  const auto& layout = (*caches[0]).tokens().options();
  for (Index b = 1; b < size; ++b) {
    const auto& other = *caches[std::iter_difference_t<Iterator>(b)];
    const auto& its = other.tokens().options();
    check(its.kv_heads == layout.kv_heads && its.key_dim == layout.key_dim && its.value_dim == layout.value_dim &&
              other.options() == options,
          where, "caches must have the same heads, widths and options, number ", b, " differs from the first");
  }
  Streamed<T, Iterator> source{caches, size};
  auto problem = engine::make_problem(where, q, source, out);
  check(problem.q.length == 1, where, "there must be one query, got ", problem.q.length);
  const auto recipe = softmax(options.scale);
  recipe.normalizer.check_for(where, problem.shape());

  // The query stands at its own position p, and sink token j as far in front of it as it would inside the cache.
  const position::Angles& angles = (*caches[0]).angles();
  const OwnedArray<T> turned_q(executor, problem.q.extents());
  position::rotary(problem.q, LastPositions<Iterator>{caches, size}, turned_q.all(), angles, executor);
  problem.q = turned_q.all();
  const OwnedArray<T> sinks(executor, {size, layout.kv_heads, options.sink_tokens, layout.key_dim});
  for (Index b = 0; b < size; ++b) {
    const auto& tokens = source.of(b);
    View<T> own = sinks.all();
    own.data = own.row(b, 0, 0);
    own.batch = 1;
    own.length = source.pinned(b);
    for (Index h = 0; h < own.heads && own.length > 0; ++h)
      tokens.source().each_keys(0, h, {0, own.length}, [&](Span part, const auto& run) {
        run.read(0, part.size(), own.row(0, h, part.first), own.length_stride);
      });
    position::rotary(own, position::Consecutive{tokens.seen() - tokens.length(), own.length}, own, angles, executor);
  }
  source.sinks = sinks.memory.get();
  engine::attend(problem, source, recipe, executor);
}

}  // namespace detail

// Decoding: q [1,H,1,D], without position, is the query of the token that the cache took last; out [1,H,1,E]. Cost
// O((window + sink_tokens) (D + E)) for each head.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void streaming(const Q& q, const StreamingCache<K, V>& cache, Out&& out, const Exec& executor = {}) {
  const std::array<const StreamingCache<K, V>*, 1> one{&cache};
  detail::streaming_from(q, one.data(), 1, out, executor);
}

// The same for B sequences at once: q [B,H,1,D], out [B,H,1,E]. caches is a range of pointers to StreamingCache, with
// the same options, each of its own length.
template <class Q, std::ranges::random_access_range Caches, class Out, exec::Executor Exec = exec::Serial>
requires requires(const Caches& caches) { (*std::ranges::begin(caches))->angles(); }
void streaming(const Q& q, const Caches& caches, Out&& out, const Exec& executor = {}) {
  Index n = 0;
  for (const auto& cache : caches) {
    check(cache != nullptr, "fovea::streaming", "cache ", n, " is a null pointer");
    ++n;
  }
  detail::streaming_from(q, std::ranges::begin(caches), n, out, executor);
}

}  // namespace fovea::inline FOVEA_ISA
