// Runs a recipe on a problem: o = normalizer(mask(scores(scale q k^T))) v, exact, in memory that does not grow with N x
// M.
#pragma once

#include <type_traits>

#include <fovea/engine/over_splits.hpp>
#include <fovea/engine/over_tiles.hpp>
#include <fovea/exec/serial.hpp>

namespace fovea::inline FOVEA_ISA {

namespace engine {

template <class T, class Mask, class Scores, exec::Executor Exec = exec::Serial>
void attend(const Problem<T>& problem, const Recipe<Mask, Scores>& recipe, const Exec& executor = {}) {
  const Shape shape = problem.shape();
  recipe.normalizer.check_for(problem.where, shape);
  const auto mask = recipe.visible.bind(problem.where, shape);
  const auto scores = recipe.scores.template bind<T>(problem.where, shape);
  if (shape.batch == 0 || shape.heads == 0 || shape.queries == 0) return;
  using Source = kv::Contiguous<T>;
  using Bound = std::remove_const_t<decltype(mask)>;
  using BoundScores = std::remove_const_t<decltype(scores)>;
  const Source source{problem.k, problem.v};
  const Pass<T, Source, Bound, BoundScores> pass(problem, source, recipe.normalizer, mask, scores, !Scores::empty);
  if (few_queries(shape.queries, problem.group)) {
    OverSplits(pass).run(executor);
  } else {
    OverTiles(pass, exec::concurrency(executor)).run(executor);
  }
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

}  // namespace fovea::inline FOVEA_ISA
