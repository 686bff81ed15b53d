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
// with N = 1, and from a RollingCache, whose slots are in any order, the call below it.
//
// Exact for this definition; equals causal attention of rotated q and k while M <= window + sink_tokens. Cost
// O(N (window + sink_tokens) (D + E)) for each head. Memory: q and the keys that are seen, rotated, and an
// output and log-sums for the sink tokens.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <vector>

#include <fovea/engine/attend.hpp>
#include <fovea/parts/combine/merge.hpp>
#include <fovea/parts/kv/rolling_cache.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/window.hpp>
#include <fovea/parts/position/rotary.hpp>

namespace fovea::inline FOVEA_ISA {

struct StreamingOptions {
  Index window = 0;                     // last keys that a query sees, its own included; required
  Index sink_tokens = 0;                // leading keys that every query sees
  position::RotaryOptions rotary = {};  // of the positions
  std::optional<double> scale = {};     // 1 / sqrt(D) when empty
};

namespace detail {

// A contiguous array of its own.
template <class T>
struct OwnedArray {
  Extents extents;
  std::unique_ptr<T[], engine::FreeScratch> memory;

  explicit OwnedArray(const Extents& e)
      : extents(e), memory(engine::allocate_scratch<T>(e.batch * e.heads * e.length * e.dim)) {}
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

  const Index queries = problem.q.length, keys = problem.k.length;
  const Index window = std::min(options.window, keys + queries), sinks = std::min(options.sink_tokens, keys);
  const Index unseen = std::max<Index>(0, keys - (sinks + window - 1 + queries));  // keys that no query sees
  const Index kept = keys - unseen;
  const auto rotate = [&](View<const T> x, View<T> to, Index first) {  // to first, first + 1, ...
    std::vector<Index> positions(std::size_t(x.length), 0);
    std::iota(positions.begin(), positions.end(), first);
    position::rotary(x, positions, to, options.rotary, executor);
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

  const detail::OwnedArray<T> turned_q(problem.q.extents());
  const detail::OwnedArray<T> turned_k({problem.k.batch, problem.k.heads, kept, problem.k.dim});
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
  const detail::OwnedArray<T> recent_log_sum(sums), sink_log_sum(sums);
  const detail::OwnedArray<T> sink_out(recent.out.extents());
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

// Decoding: q [B,H,1,D] is the query of the token that the cache took last. Keys are in the cache as they came, without
// positions, and are rotated by their places in it; out [B,H,1,E].
template <class Q, class T, class Out, exec::Executor Exec = exec::Serial>
void streaming(const Q& q, const RollingCache<T>& cache, Out&& out, const StreamingOptions& options,
               const Exec& executor = {}) {
  constexpr auto where = "fovea::streaming";
  auto problem = make_problem(where, q, cache.keys(), cache.values(), out);
  static_assert(std::is_same_v<decltype(problem), Problem<T>>, "fovea: the cache must have the scalar type of q");
  check(problem.q.length == 1, where, "there must be one query, got ", problem.q.length);
  check(options.window == cache.window(), where, "window must be that of the cache, wanted ", cache.window(), ", got ",
        options.window);
  check(options.sink_tokens == cache.sink_tokens(), where, "sink_tokens must be that of the cache, wanted ",
        cache.sink_tokens(), ", got ", options.sink_tokens);
  const auto recipe = softmax(options.scale);
  recipe.normalizer.check_for(where, problem.shape());

  const detail::OwnedArray<T> turned_q(problem.q.extents()), turned_k(problem.k.extents());
  position::rotary(problem.q, std::vector<Index>{cache.length() - 1}, turned_q.all(), options.rotary, executor);
  position::rotary(problem.k, cache.positions(), turned_k.all(), options.rotary, executor);
  problem.q = turned_q.all();
  problem.k = turned_k.all();
  engine::attend(problem, recipe, executor);
}

}  // namespace fovea::inline FOVEA_ISA
