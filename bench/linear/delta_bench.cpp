// The delta rule.
#include <fovea/linear/delta.hpp>

#include "linear/delta.hpp"

#include "recurrences.hpp"

namespace {

const auto reference = []<class Real, class X>(const bench::Head<Real>& head, const X& x) {
  const bench::HeadTokens<Real> t(head, x);
  return bench::Matrix<Real>(
      fovea::reference::delta<Real>(head.q, t.k, head.v, t.beta, Real(bench::scale_of(head.shape)), t.start).out);
};

const std::vector<bench::RecallForm> recalled = {{"beta 1", bench::Writes::all}, {"write gate", bench::Writes::values}};

const auto chunk = bench::method([](const auto& in, auto& x, auto&& out, const auto& executor) {
                     fovea::chunk_delta(in.q, x.k, in.v, x.beta, out, {}, executor);
                   })
                       .state(bench::make_tokens)
                       .head_reference(reference)
                       .flops(bench::chunk_flops(true))
                       .own_definition()
                       .recalls(recalled);

const auto recurrent = bench::method([](const auto& in, auto& x, auto&& out, const auto& executor) {
                         fovea::recurrent_delta(in.q, x.k, in.v, x.beta, fovea::with_state(out, x.state), {}, executor);
                       })
                           .state(bench::make_tokens)
                           .head_reference(reference)
                           .bytes(bench::state_bytes)
                           .own_definition()
                           .recalls(recalled);

const bool added = bench::add("linear/chunk_delta", bench::prompt_shapes(), chunk) &&
                   bench::add("linear/recurrent_delta", bench::token_shapes(), recurrent);

}  // namespace
