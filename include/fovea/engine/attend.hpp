// Runs a recipe on a problem: o = normalizer(mask(scores(scale q k^T))) v, exact, in memory that does not grow with N x
// M.
#pragma once

#include <type_traits>

#include <fovea/engine/over_splits.hpp>
#include <fovea/engine/over_tiles.hpp>
#include <fovea/exec/serial.hpp>

namespace fovea::inline FOVEA_ISA {

namespace engine {

// A source, or the one that an object has.
template <class From>
auto source_of(const From& from) {
  if constexpr (kv::Source<From>) {
    return from;
  } else {
    return from.source();
  }
}

// The problem of queries against a source, or an ArgumentError in the name of `where`.
template <class Q, kv::Source Source, class Out>
auto make_problem(const char* where, const Q& q, const Source& source, Out&& out) {
  const auto queries = view(q);
  using T = std::remove_const_t<std::remove_pointer_t<decltype(queries.data)>>;
  // No sequences have whatever heads and widths are asked of them.
  const bool none = source.batch() == 0;
  const auto extents = [&](Index dim) {
    return View<const T>{nullptr, source.batch(), none ? queries.heads : source.kv_heads(), source.longest(), dim, 0, 0,
                         0};
  };
  const Index key_dim = none ? queries.dim : source.key_dim();
  const Index value_dim = none ? fovea::detail::output_view(out).dim : source.value_dim();
  return fovea::detail::checked_problem<T>(where, queries, extents(key_dim), extents(value_dim), out);
}

// Keys and values are those of `source`; k and v of the problem are there for their extents.
template <class T, kv::Source Source, class Mask, class Scores, exec::Executor Exec = exec::Serial>
void attend(const Problem<T>& problem, const Source& source, const Recipe<Mask, Scores>& recipe,
            const Exec& executor = {}) {
  const Shape shape = problem.shape();
  recipe.normalizer.check_for(problem.where, shape);
  const auto shape_of = [&](Index batch) {
    Shape own = shape;
    own.keys = source.length(batch);
    return own;
  };
  bool alike = true;
  for (Index b = 0; b < shape.batch; ++b) alike = alike && source.length(b) == source.length(0);

  using Bound = std::remove_const_t<decltype(recipe.visible.bind(problem.where, shape))>;
  using BoundScores = std::remove_const_t<decltype(recipe.scores.template bind<T>(problem.where, shape))>;
  const Index number = alike ? 1 : shape.batch;
  Several<Bound> masks(executor, number);
  Several<BoundScores> scores(executor, number);
  Several<Pass<T, Source, Bound, BoundScores>> passes(executor, number);
  for (Index b = 0; b < number; ++b) {
    const Shape own = shape.batch == 0 ? shape : shape_of(b);
    masks.add(recipe.visible.bind(problem.where, own));
    scores.add(recipe.scores.template bind<T>(problem.where, own));
    passes.add(problem, own, source, recipe.normalizer, masks[b], scores[b], !Scores::empty);
  }
  if (shape.batch == 0 || shape.heads == 0 || shape.queries == 0) return;
  if (few_queries(shape.queries, problem.group) && !recipe.tiles_only) return OverSplits(passes).run(executor);
  for (Index b = 0; b < number; ++b)
    OverTiles(passes[b], alike ? Span{0, shape.batch} : Span{b, b + 1}, exec::concurrency(executor)).run(executor);
}

template <class T, class Mask, class Scores, exec::Executor Exec = exec::Serial>
void attend(const Problem<T>& problem, const Recipe<Mask, Scores>& recipe, const Exec& executor = {}) {
  attend(problem, kv::Contiguous<T>{problem.k, problem.v}, recipe, executor);
}

}  // namespace engine

// Attention by recipe. q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E] (with_log_sum(out, log_sum) for the
// log-sums too), H a multiple of G; query head h reads kv head h / (H / G).
//
//   attend(q, k, v, out, softmax().mask(mask::causal() & mask::window(256)).score(score::alibi(slopes)), executor);
//
// Throws ArgumentError before any work when shapes or parts do not fit.
template <class Q, class K, class V, class Out, class Mask, class Scores, exec::Executor Exec = exec::Serial>
void attend(const Q& q, const K& k, const V& v, Out&& out, const Recipe<Mask, Scores>& recipe,
            const Exec& executor = {}) {
  engine::attend(make_problem("fovea::attend", q, k, v, out), recipe, executor);
}

// Attention over keys and values wherever they lie: `from` is a source (parts/kv/contiguous.hpp says what that is), or
// has one, as caches do. q [B,H,N,D], out [B,H,N,E]; every sequence has its own length M_b, and the queries stand at
// its end unless a mask says otherwise. Narrower storage types are widened to the type of q as they are read.
//
//   attend(q, cache, out, softmax().mask(mask::causal()), executor);
//
// Throws ArgumentError before any work when shapes or parts do not fit.
template <class Q, class From, class Out, class Mask, class Scores, exec::Executor Exec = exec::Serial>
void attend(const Q& q, const From& from, Out&& out, const Recipe<Mask, Scores>& recipe, const Exec& executor = {}) {
  const auto source = engine::source_of(from);
  engine::attend(engine::make_problem("fovea::attend", q, source, out), source, recipe, executor);
}

}  // namespace fovea::inline FOVEA_ISA
