// The delta rule: golden numbers, the reference, the properties of a recurrence, limits and refusals.
#include "linear/delta.hpp"

#include <fovea/linear/delta.hpp>

#include "linear/recurrences.hpp"

using namespace fovea::test;
using fovea::Index;

namespace {

template <class T>
Method<T> delta() {
  return [](const Call<T>& call) {
    run_call(call, [&](auto&& out, const auto& executor) {
      if (call.chunk == 0) {
        fovea::recurrent_delta(call.q, call.k, call.v, call.beta, out, {}, executor);
      } else {
        fovea::chunk_delta(call.q, call.k, call.v, call.beta, out, {.chunk = call.chunk}, executor);
      }
    });
  };
}

const auto reference = []<class Real>(const HeadTokens<Real>& x) {
  return fovea::reference::delta<Real>(x.q, x.k, x.v, x.beta, x.scale, x.start);
};

}  // namespace

TEST_CASE("golden numbers of the delta rule", "[linear]") {
  check_golden(delta<double>(), golden_tokens(true), {0.353553390593, 0.707106781187, 2.030330085890, -2.176776695297},
               {-0.103553390593, 2.974873734153});
}

TEMPLATE_TEST_CASE("the delta rule equals the recurrence of its equation", "[linear]", float, double) {
  check_against_reference<TestType>(delta<TestType>(), reference);
}

TEST_CASE("the delta rule is a recurrence", "[linear]") { check_recurrence(delta<float>(), reference); }

TEST_CASE("half of the difference is written", "[linear]") {
  Tokens<double> x{{Tensor4<double>(1, 1, 3, 1), Tensor4<double>(1, 1, 3, 1), Tensor4<double>(1, 1, 3, 1)},
                   Tensor3<double>(1, 1, 3),
                   Tensor3<double>(1, 1, 3),
                   Tensor4<double>(1, 1, 3, 1),
                   fovea::MatrixState<double>(1, 1, 1, 1)};
  for (auto* t : {&x.in.q, &x.in.k, &x.in.v}) t->setConstant(1);
  x.beta.setConstant(0.5);
  for (const Index chunk : {0, 1, 2, 3}) {
    const auto got = run(delta<double>(), x, chunk);
    CHECK(got.out(0, 0, 0, 0) == 0.5);
    CHECK(got.out(0, 0, 1, 0) == 0.75);
    CHECK(got.out(0, 0, 2, 0) == 0.875);
  }
}

TEST_CASE("strengths of zero write nothing", "[linear]") {
  auto x = tokens<float>({1, 2, 1, 40, 40, 16, 16});
  x.beta.setZero();
  for (const Index chunk : {0, 7, 64}) CHECK(same_bits(run(delta<float>(), x, chunk).state, matrices(x.start)));
}

TEST_CASE("orthonormal keys give back what was stored under them", "[linear]") {
  auto x = tokens<double>({1, 1, 1, 16, 16, 16, 5});
  x.beta.setConstant(1);
  x.in.k.setZero();
  for (Index t = 0; t < 16; ++t) {
    x.in.k(0, 0, t, t) = 1;
    std::fill_n(row(x.in.q, 0, 0, t), 16, 0.0);
    x.in.q(0, 0, t, t / 2) = 1;
  }
  x.start = fovea::MatrixState<double>(1, 1, 16, 5);
  for (const Index chunk : {0, 5, 16}) {
    const auto got = run(delta<double>(), x, chunk);
    bool right = true;
    for (Index t = 0; t < 16; ++t) {
      for (Index e = 0; e < 5; ++e) right = right && got.out(0, 0, t, e) == 0.25 * x.in.v(0, 0, t / 2, e);
    }
    CHECK(right);
  }
}

TEST_CASE("the last value written under a key stays", "[linear]") {
  auto x = tokens<double>({1, 1, 1, 12, 12, 8, 4});
  x.beta.setConstant(1);
  for (Index t = 0; t < 12; ++t) {
    for (Index d = 0; d < 8; ++d) {
      x.in.k(0, 0, t, d) = d == 3;
      x.in.q(0, 0, t, d) = d == 3;
    }
  }
  for (const Index chunk : {0, 5, 16}) {
    const auto got = run(delta<double>(), x, chunk);
    double error = 0;
    for (Index t = 0; t < 12; ++t) {
      for (Index e = 0; e < 4; ++e)
        error = std::max(error, std::fabs(got.out(0, 0, t, e) - x.in.v(0, 0, t, e) / std::sqrt(8.0)));
    }
    CHECK(error < 1e-14);
  }
}

TEST_CASE("the delta rule refuses what does not fit", "[linear]") {
  check_refusals(delta<float>(), "delta");
  auto x = tokens<float>({1, 2, 2, 3, 3, 4, 4});
  auto out = blank<float>(x.in.sizes()).out;
  const auto refused = [&](const auto& beta) {
    return support::refusal([&] { fovea::chunk_delta(x.in.q, x.in.k, x.in.v, beta, out); });
  };
  CHECK(refused(rows(x.beta, 0, 2)) ==
        "fovea::chunk_delta: beta must be one number for each token and head of k, wanted [1, 2, 3], got [1, 2, 2]");
  x.beta(0, 1, 2) = 2.5f;
  CHECK(refused(x.beta) == "fovea::chunk_delta: beta must lie in [0, 2], got 2.5");
  x.beta(0, 1, 2) = -0.5f;
  CHECK(refused(x.beta) == "fovea::chunk_delta: beta must lie in [0, 2], got -0.5");
  CHECK(all_nan(out.data(), out.size()));
}
