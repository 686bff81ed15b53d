// The gated delta rule with a gate for each token, and with one for each channel.
#include <fovea/linear/gated_delta.hpp>

#include "linear/gated_delta.hpp"

#include "recurrences.hpp"

namespace {

using bench::Matrix;

const auto reference = []<class Real, class X>(const bench::Head<Real>& head, const X& x) {
  const bench::HeadTokens<Real> t(head, x);
  return bench::Matrix<Real>(fovea::reference::gated_delta<Real>(head.q, t.k, head.v,
                                                                 Matrix<Real>(t.gate.replicate(1, head.q.cols())),
                                                                 t.beta, Real(bench::scale_of(head.shape)), t.start)
                                 .out);
};

const auto chunk = bench::method([](const auto& in, auto& x, auto&& out, const auto& executor) {
                     fovea::chunk_gated_delta(in.q, x.k, in.v, x.gate, x.beta, out, {}, executor);
                   })
                       .state(bench::make_tokens)
                       .head_reference(reference)
                       .flops(bench::chunk_flops(true))
                       .own_definition()
                       .recalls(bench::with_strength());

const auto recurrent =
    bench::method([](const auto& in, auto& x, auto&& out, const auto& executor) {
      fovea::recurrent_gated_delta(in.q, x.k, in.v, x.gate, x.beta, fovea::with_state(out, x.state), {}, executor);
    })
        .state(bench::make_tokens)
        .head_reference(reference)
        .bytes(bench::state_bytes)
        .own_definition()
        .recalls(bench::with_strength());

const auto reference_by_channel = []<class Real, class X>(const bench::Head<Real>& head, const X& x) {
  const bench::HeadTokens<Real> t(head, x);
  return bench::Matrix<Real>(fovea::reference::gated_delta<Real>(head.q, t.k, head.v, t.gates, t.beta,
                                                                 Real(bench::scale_of(head.shape)), t.start)
                                 .out);
};

const auto chunk_by_channel = bench::method([](const auto& in, auto& x, auto&& out, const auto& executor) {
                                fovea::chunk_gated_delta(in.q, x.k, in.v, x.gates, x.beta, out, {}, executor);
                              })
                                  .state(bench::make_tokens)
                                  .head_reference(reference_by_channel)
                                  .flops(bench::chunk_flops(true))
                                  .own_definition()
                                  .recalls(bench::with_strength());

const auto recurrent_by_channel =
    bench::method([](const auto& in, auto& x, auto&& out, const auto& executor) {
      fovea::recurrent_gated_delta(in.q, x.k, in.v, x.gates, x.beta, fovea::with_state(out, x.state), {}, executor);
    })
        .state(bench::make_tokens)
        .head_reference(reference_by_channel)
        .bytes(bench::state_bytes)
        .own_definition()
        .recalls(bench::with_strength());

const bool added = bench::add("linear/chunk_gated_delta", bench::prompt_shapes(), chunk) &&
                   bench::add("linear/recurrent_gated_delta", bench::token_shapes(), recurrent) &&
                   bench::add("linear/chunk_gated_delta_by_channel", bench::prompt_shapes(), chunk_by_channel) &&
                   bench::add("linear/recurrent_gated_delta_by_channel", bench::token_shapes(), recurrent_by_channel);

}  // namespace
