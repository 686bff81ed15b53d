// Retention with the decays of RetNet.
#include <fovea/linear/retention.hpp>

#include <cmath>

#include "linear/gated_linear.hpp"

#include "recurrences.hpp"

namespace {

// As gated linear attention with the same gate at every token: its loop is linear in N.
const auto reference = []<class Real, class X>(const bench::Head<Real>& head, const X& x) {
  const bench::HeadTokens<Real> t(head, x);
  const Real log_decay = Real(std::log1p(-std::exp2(-5 - double(head.kv_head))));
  const auto gates = bench::Matrix<Real>::Constant(head.q.rows(), head.q.cols(), log_decay);
  return bench::Matrix<Real>(
      fovea::reference::gated_linear<Real>(head.q, t.k, head.v, gates, Real(bench::scale_of(head.shape)), t.start).out);
};

const auto chunk = bench::method([](const auto& in, auto& x, auto&& out, const auto& executor) {
                     fovea::chunk_retention(in.q, x.k, in.v, out, {}, executor);
                   })
                       .state(bench::make_tokens)
                       .head_reference(reference)
                       .flops(bench::chunk_flops(false))
                       .own_definition();

const auto recurrent = bench::method([](const auto& in, auto& x, auto&& out, const auto& executor) {
                         fovea::recurrent_retention(in.q, x.k, in.v, fovea::with_state(out, x.state), {}, executor);
                       })
                           .state(bench::make_tokens)
                           .head_reference(reference)
                           .bytes(bench::state_bytes)
                           .own_definition();

const bool added = bench::add("linear/chunk_retention", bench::prompt_shapes(), chunk) &&
                   bench::add("linear/recurrent_retention", bench::token_shapes(), recurrent);

}  // namespace
