// The gated delta rule: golden numbers, the reference, the properties of a recurrence, limits and refusals.
#include "linear/gated_delta.hpp"

#include <fovea/linear/gated_delta.hpp>

#include "linear/delta.hpp"
#include "linear/recurrences.hpp"

using namespace fovea::test;
using fovea::Index;

namespace {

enum class By { token, channel };

template <class T>
Method<T> gated(By by) {
  return [=](const Call<T>& call) {
    run_call(call, [&](auto&& out, const auto& executor) {
      const auto with = [&](const auto& gate) {
        if (call.chunk == 0) {
          fovea::recurrent_gated_delta(call.q, call.k, call.v, gate, call.beta, out, {}, executor);
        } else {
          fovea::chunk_gated_delta(call.q, call.k, call.v, gate, call.beta, out, {.chunk = call.chunk}, executor);
        }
      };
      if (by == By::token) {
        with(call.gate);
      } else {
        with(call.gates);
      }
    });
  };
}

const auto by_token = []<class Real>(const HeadTokens<Real>& x) {
  const fovea::reference::Matrix<Real> gates = x.gate.replicate(1, x.q.cols());
  return fovea::reference::gated_delta<Real>(x.q, x.k, x.v, gates, x.beta, x.scale, x.start);
};
const auto by_channel = []<class Real>(const HeadTokens<Real>& x) {
  return fovea::reference::gated_delta<Real>(x.q, x.k, x.v, x.gates, x.beta, x.scale, x.start);
};

}  // namespace

TEST_CASE("golden numbers of the gated delta rule", "[linear]") {
  check_golden(gated<double>(By::token), golden_tokens(true),
               {0.353553390593, 0.707106781187, 1.720970869121, -2.066291260736}, {-0.852633476483, 2.069543648263});
  check_golden(gated<double>(By::channel), golden_tokens(true),
               {0.353553390593, 0.707106781187, 1.632582521472, -1.914536407592}, {-0.928690362219, 1.778872991054});
}

TEMPLATE_TEST_CASE("the gated delta rule equals the recurrence of its equation", "[linear]", float, double) {
  check_against_reference<TestType>(gated<TestType>(By::token), by_token);
  check_against_reference<TestType>(gated<TestType>(By::channel), by_channel);
}

TEST_CASE("the gated delta rule is a recurrence", "[linear]") {
  check_recurrence(gated<float>(By::token), by_token);
  check_recurrence(gated<float>(By::channel), by_channel);
}

TEST_CASE("what is left decays before it is corrected", "[linear]") {
  Tokens<double> x{{Tensor4<double>(1, 1, 3, 1), Tensor4<double>(1, 1, 3, 1), Tensor4<double>(1, 1, 3, 1)},
                   Tensor3<double>(1, 1, 3),
                   Tensor3<double>(1, 1, 3),
                   Tensor4<double>(1, 1, 3, 1),
                   fovea::MatrixState<double>(1, 1, 1, 1)};
  for (auto* t : {&x.in.q, &x.in.k, &x.in.v}) t->setConstant(1);
  x.beta.setConstant(0.5);
  x.gate.setConstant(std::log(0.5));
  x.gates.setConstant(std::log(0.5));
  for (const By by : {By::token, By::channel}) {
    for (const Index chunk : {0, 1, 2, 3}) {
      const auto got = run(gated<double>(by), x, chunk);
      CHECK(std::fabs(got.out(0, 0, 0, 0) - 0.5) < 1e-15);
      CHECK(std::fabs(got.out(0, 0, 1, 0) - 0.625) < 1e-15);
      CHECK(std::fabs(got.out(0, 0, 2, 0) - 0.65625) < 1e-15);
    }
  }
}

TEST_CASE("gates of zero give the delta rule", "[linear]") {
  auto x = tokens<double>({1, 2, 1, 70, 70, 20, 9});
  x.gate.setZero();
  x.gates.setZero();
  const auto delta = []<class Real>(const HeadTokens<Real>& y) {
    return fovea::reference::delta<Real>(y.q, y.k, y.v, y.beta, y.scale, y.start);
  };
  const auto wanted = by_reference<long double>(x, delta);
  for (const By by : {By::token, By::channel}) {
    for (const Index chunk : {0, 7, 64})
      CHECK(distance_in_epsilons(run(gated<double>(by), x, chunk), wanted) < budget(x, delta));
  }
}

TEST_CASE("equal channels decay as one gate", "[linear]") {
  auto x = tokens<double>({1, 2, 1, 70, 70, 20, 9});
  for (Index t = 0; t < 70; ++t) std::fill_n(row(x.gates, 0, 0, t), 20, x.gate(0, 0, t));
  for (const Index chunk : {0, 7, 64}) {
    const auto one = run(gated<double>(By::token), x, chunk), each = run(gated<double>(By::channel), x, chunk);
    CHECK(distance_in_epsilons(each, one) < budget(x, by_token));
  }
}

TEST_CASE("gates of minus infinity start anew", "[linear]") {
  const Sizes s{1, 2, 1, 60, 60, 8, 8};
  auto x = tokens<float>(s);
  for (const Index t : {0, 13, 14, 40}) {
    x.gate(0, 0, t) = -infinity<float>;
    std::fill_n(row(x.gates, 0, 0, t), s.dim, -infinity<float>);
  }
  for (const Index chunk : {0, 1, 16, 64}) {
    CHECK(distance_in_epsilons(run(gated<float>(By::token), x, chunk), by_reference<double>(x, by_token)) < 8);
    CHECK(distance_in_epsilons(run(gated<float>(By::channel), x, chunk), by_reference<double>(x, by_channel)) < 8);
  }
}

TEST_CASE("the gated delta rule refuses what does not fit", "[linear]") {
  check_refusals(gated<float>(By::token), "gated_delta");
  auto x = tokens<float>({1, 2, 2, 3, 3, 4, 4});
  auto out = blank<float>(x.in.sizes()).out;
  const auto refused = [&] {
    return support::refusal([&] { fovea::chunk_gated_delta(x.in.q, x.in.k, x.in.v, x.gates, x.beta, out); });
  };
  x.beta(0, 1, 2) = 2.5f;
  CHECK(refused() == "fovea::chunk_gated_delta: beta must lie in [0, 2], got 2.5");
  x.gates(0, 1, 2, 2) = 0.5f;
  CHECK(refused() == "fovea::chunk_gated_delta: log gates must not be positive, batch 0 head 1 has one that is");
  CHECK(all_nan(out.data(), out.size()));
}
