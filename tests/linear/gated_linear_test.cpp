// Gated linear attention: golden numbers, the reference, the properties of a recurrence, limits and refusals.
#include "linear/gated_linear.hpp"

#include <fovea/linear/gated_linear.hpp>

#include "linear/recurrences.hpp"
#include "linear/retention.hpp"

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
          fovea::recurrent_gated_linear(call.q, call.k, call.v, gate, out, {}, executor);
        } else {
          fovea::chunk_gated_linear(call.q, call.k, call.v, gate, out, {.chunk = call.chunk}, executor);
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
  return fovea::reference::gated_linear<Real>(x.q, x.k, x.v, gates, x.scale, x.start);
};
const auto by_channel = []<class Real>(const HeadTokens<Real>& x) {
  return fovea::reference::gated_linear<Real>(x.q, x.k, x.v, x.gates, x.scale, x.start);
};

}  // namespace

TEST_CASE("golden numbers of gated linear attention", "[linear]") {
  check_golden(gated<double>(By::token), golden_tokens(false),
               {0.707106781187, 1.414213562373, 5.126524163602, -5.922019292437}, {-2.375, 6});
  check_golden(gated<double>(By::channel), golden_tokens(false),
               {0.707106781187, 1.414213562373, 4.772970773009, -5.126524163602}, {-2.375, 4.875});
}

TEMPLATE_TEST_CASE("gated linear attention equals the recurrence of its equation", "[linear]", float, double) {
  check_against_reference<TestType>(gated<TestType>(By::token), by_token);
  check_against_reference<TestType>(gated<TestType>(By::channel), by_channel);
}

TEST_CASE("gated linear attention is a recurrence", "[linear]") {
  check_recurrence(gated<float>(By::token), by_token);
  check_recurrence(gated<float>(By::channel), by_channel);
}

TEST_CASE("equal channels decay as one gate", "[linear]") {
  auto x = tokens<double>({1, 2, 1, 70, 70, 20, 9});
  for (Index t = 0; t < 70; ++t) std::fill_n(row(x.gates, 0, 0, t), 20, x.gate(0, 0, t));
  for (const Index chunk : {0, 7, 64}) {
    const auto one = run(gated<double>(By::token), x, chunk), each = run(gated<double>(By::channel), x, chunk);
    CHECK(distance_in_epsilons(each, one) < 8);
  }
}

TEST_CASE("gates of zero forget nothing", "[linear]") {
  auto x = tokens<double>({1, 2, 1, 70, 70, 20, 9});
  x.gate.setZero();
  x.gates.setZero();
  const auto wanted = by_reference<long double>(x, [](const HeadTokens<long double>& y) {
    return fovea::reference::retention<long double>(y.q, y.k, y.v, 0, y.scale, y.start);
  });
  for (const Index chunk : {0, 7, 64}) {
    CHECK(distance_in_epsilons(run(gated<double>(By::token), x, chunk), wanted) < 8);
    CHECK(distance_in_epsilons(run(gated<double>(By::channel), x, chunk), wanted) < 8);
  }
}

TEST_CASE("gates of minus infinity start anew", "[linear]") {
  // Now and then: what comes after such a token does not depend on what came before it.
  const Sizes s{1, 2, 1, 60, 60, 8, 8};
  auto x = tokens<float>(s);
  for (const Index t : {0, 13, 14, 40}) {
    x.gate(0, 0, t) = -infinity<float>;
    std::fill_n(row(x.gates, 0, 0, t), s.dim, -infinity<float>);
  }
  for (const By by : {By::token, By::channel}) {
    for (const Index chunk : {0, 1, 16, 64}) {
      const auto got = run(gated<float>(by), x, chunk);
      const auto wanted = by == By::token ? by_reference<double>(x, by_token) : by_reference<double>(x, by_channel);
      CHECK(distance_in_epsilons(got, wanted) < 8);
    }
  }
  // Everywhere: each token reads its own value.
  x.gate.setConstant(-infinity<float>);
  x.gates.setConstant(-infinity<float>);
  for (const By by : {By::token, By::channel}) {
    for (const Index chunk : {0, 1, 16, 64}) {
      const auto got = run(gated<float>(by), x, chunk);
      const auto wanted = by_reference<double>(x, by_token);
      CHECK(distance_in_epsilons(got, wanted) < 8);
      CHECK(std::fabs(wanted.out(0, 1, 5, 2) - head(x.in.q, 0, 1).row(5).dot(head(x.in.k, 0, 0).row(5)) *
                                                   x.in.v(0, 0, 5, 2) / std::sqrt(8.0)) < 1e-6);
    }
  }
}

TEST_CASE("strong decays end in zero, not in NaN", "[linear]") {
  auto x = tokens<float>({1, 1, 1, 100, 100, 16, 16});
  x.gate.setConstant(-30);
  x.gates.setConstant(-30);
  for (Index t = 0; t < 100; ++t) x.gates(0, 0, t, 3) = -1e30f;
  for (const Index chunk : {0, 16, 64}) {
    CHECK(distance_in_epsilons(run(gated<float>(By::token), x, chunk), by_reference<double>(x, by_token)) < 8);
    CHECK(distance_in_epsilons(run(gated<float>(By::channel), x, chunk), by_reference<double>(x, by_channel)) < 8);
  }
}

TEST_CASE("a gate of NaN spoils its token and what follows", "[linear]") {
  const Sizes s{1, 2, 2, 50, 50, 8, 8};
  auto x = tokens<float>(s);
  const auto clean = run(gated<float>(By::token), x, 16);
  x.gate(0, 1, 20) = not_a_number<float>;
  const auto got = run(gated<float>(By::token), x, 16);
  bool right = true;
  for (Index h = 0; h < 2; ++h) {
    for (Index i = 0; i < 50; ++i) {
      const float* r = row(got.out, 0, h, i);
      right = right && (h == 1 && i >= 20 ? std::isnan(r[0]) : std::memcmp(r, row(clean.out, 0, h, i), 32) == 0);
    }
  }
  CHECK(right);
}

TEST_CASE("gates beside matrices and views", "[linear]") {
  const auto x = tokens<float>({1, 1, 1, 30, 30, 8, 8});
  using Rows = Matrix<float>;
  const Rows q = head(x.in.q, 0, 0), k = head(x.in.k, 0, 0), v = head(x.in.v, 0, 0), gates = head(x.gates, 0, 0);
  const Eigen::VectorXf gate = Eigen::Map<const Eigen::VectorXf>(x.gate.data(), 30);
  Rows vector_gate(30, 8), token_view(30, 8), matrix_gate(30, 8), channel_view(30, 8);
  fovea::chunk_gated_linear(q, k, v, gate, vector_gate);
  fovea::chunk_gated_linear(q, k, v, fovea::decay::per_token(fovea::row_values(gate)), token_view);
  fovea::chunk_gated_linear(q, k, v, gates, matrix_gate);
  fovea::chunk_gated_linear(q, k, v, fovea::decay::per_channel(fovea::view(gates)), channel_view);
  CHECK(same_bits(vector_gate, token_view));
  CHECK(same_bits(matrix_gate, channel_view));
  CHECK(!same_bits(vector_gate, matrix_gate));
}

TEST_CASE("gated linear attention refuses what does not fit", "[linear]") {
  check_refusals(gated<float>(By::token), "gated_linear");
  check_refusals(gated<float>(By::channel), "gated_linear");
  auto x = tokens<float>({2, 2, 2, 3, 3, 4, 4});
  auto out = blank<float>(x.in.sizes()).out;
  const auto refused = [&](const auto& gate) {
    return support::refusal([&] { fovea::chunk_gated_linear(x.in.q, x.in.k, x.in.v, gate, out); });
  };
  CHECK(refused(rows(x.gate, 0, 2)) ==
        "fovea::chunk_gated_linear: log gates must belong to the tokens and heads of k, wanted [2, 2, 3, 1], "
        "got [2, 2, 2, 1]");
  CHECK(refused(rows(x.gates, 0, 2)) ==
        "fovea::chunk_gated_linear: log gates must belong to the tokens and heads of k, wanted [2, 2, 3, 4], "
        "got [2, 2, 2, 4]");
  x.gate(1, 0, 2) = 1e-6f;
  CHECK(refused(x.gate) == "fovea::chunk_gated_linear: log gates must not be positive, batch 1 head 0 has one that is");
  x.gates(1, 1, 2, 3) = 1e-6f;
  CHECK(refused(x.gates) ==
        "fovea::chunk_gated_linear: log gates must not be positive, batch 1 head 1 has one that is");
  CHECK(all_nan(out.data(), out.size()));
}
