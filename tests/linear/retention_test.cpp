// Retention: golden numbers, the reference, the properties of a recurrence, limits and refusals.
#include "linear/retention.hpp"

#include <fovea/linear/retention.hpp>

#include "linear/recurrences.hpp"

using namespace fovea::test;
using fovea::Index;

namespace {

const std::vector<double> decays = {-0.1, -0.002};  // of two kv heads

template <class T>
Method<T> retention(std::vector<double> log_decays) {
  return [=](const Call<T>& call) {
    const auto own = Index(log_decays.size()) > call.k.heads ? std::vector<double>{log_decays[0]} : log_decays;
    run_call(call, [&](auto&& out, const auto& executor) {
      if (call.chunk == 0) {
        fovea::recurrent_retention(call.q, call.k, call.v, out, {.log_decays = own}, executor);
      } else {
        fovea::chunk_retention(call.q, call.k, call.v, out, {.log_decays = own, .chunk = call.chunk}, executor);
      }
    });
  };
}

const auto reference = []<class Real>(const HeadTokens<Real>& x) {
  return fovea::reference::retention<Real>(x.q, x.k, x.v, Real(decays[std::size_t(x.kv_head)]), x.scale, x.start);
};

// Rounded to the type at every token, as a plain loop does it.
const auto loop = []<class Real>(const HeadTokens<Real>& x) {
  auto memory = fovea::reference::Memory<Real>{fovea::reference::Matrix<Real>(x.q.rows(), x.v.cols()), x.start};
  for (Index t = 0; t < x.q.rows(); ++t) {
    memory.state = Real(std::exp(decays[std::size_t(x.kv_head)])) * memory.state + x.k.row(t).transpose() * x.v.row(t);
    memory.out.row(t) = x.scale * x.q.row(t) * memory.state;
  }
  return memory;
};

}  // namespace

TEST_CASE("golden numbers of retention", "[linear]") {
  check_golden(retention<double>({std::log(0.5)}), golden_tokens(false),
               {0.707106781187, 1.414213562373, 5.126524163602, -5.922019292437}, {-2.375, 6});
  auto x = golden_tokens(false);
  x.in.q.setConstant(1);
  x.in.k.setConstant(1);
  x.in.v.setConstant(1);  // D = 2 at scale 1 / sqrt 2
  const double unit = std::sqrt(2.0);
  check_golden(retention<double>({std::log(0.5)}), x, {unit, 1.5 * unit, 1.75 * unit, 1.875 * unit}, {1.875, 1.875});
}

TEMPLATE_TEST_CASE("retention equals its weights", "[linear]", float, double) {
  for (const Sizes& s : recurrence_shapes) {
    const auto x = tokens<TestType>(s);
    const auto wanted = by_reference<Exact<TestType>>(x, reference);
    // A decay is rounded once for every token of a plain loop, and so it is token by token here.
    const double most = budget(x, reference);
    const double recurrent = std::max(most, 2 * distance_in_epsilons(by_reference<TestType>(x, loop), wanted));
    for (const Index chunk : {Index{0}, Index{1}, Index{2}, Index{3}, Index{17}, Index{64}, s.keys, s.keys + 5}) {
      const double distance = distance_in_epsilons(run(retention<TestType>(decays), x, chunk), wanted);
      INFO(s << " chunk " << chunk << " distance " << distance << " epsilons, budget " << most << " " << recurrent);
      CHECK(distance < (chunk < 16 ? recurrent : most));
    }
  }
}

TEST_CASE("retention is a recurrence", "[linear]") { check_recurrence(retention<float>(decays), loop); }

TEST_CASE("without log decays the heads decay as RetNet's", "[linear]") {
  const auto x = tokens<double>({1, 4, 4, 40, 40, 8, 8});
  auto got = run(retention<double>({}), x, 16);
  const auto wanted = by_reference<long double>(x, [](const HeadTokens<long double>& y) {
    const long double gamma = 1 - std::pow(2.0L, -5 - (long double)(y.kv_head));
    return fovea::reference::retention<long double>(y.q, y.k, y.v, std::log(gamma), y.scale, y.start);
  });
  CHECK(distance_in_epsilons(got, wanted) < 16);
}

TEST_CASE("a log decay of minus infinity leaves a token its own value", "[linear]") {
  const auto x = tokens<double>({1, 1, 1, 20, 20, 4, 4});
  const double none = -infinity<double>;
  for (const Index chunk : {0, 1, 7, 32}) {
    const auto got = run(retention<double>({none}), x, chunk);
    double error = 0;
    for (Index t = 0; t < 20; ++t) {
      const auto q = head(x.in.q, 0, 0).row(t), k = head(x.in.k, 0, 0).row(t), v = head(x.in.v, 0, 0).row(t);
      for (Index e = 0; e < 4; ++e) error = std::max(error, std::fabs(got.out(0, 0, t, e) - 0.5 * q.dot(k) * v(e)));
    }
    CHECK(error < 1e-14);
  }
}

TEST_CASE("retention without tokens or heads leaves the state", "[linear]") {
  for (const Sizes& s : {Sizes{1, 2, 1, 0, 0, 4, 4}, Sizes{0, 2, 1, 3, 3, 4, 4}, Sizes{1, 1, 1, 3, 3, 4, 0}}) {
    for (const Index chunk : {0, 4}) {
      const auto x = tokens<float>(s);
      const auto got = run(retention<float>({-0.5}), x, chunk);
      if (s.queries == 0) CHECK(same_bits(got.state, matrices(x.start)));
    }
  }
}

TEST_CASE("retention refuses what does not fit", "[linear]") {
  check_refusals(retention<float>({-0.5}), "retention");
  const auto x = tokens<float>({1, 2, 2, 3, 3, 4, 4});
  auto out = blank<float>(x.in.sizes()).out;
  const auto refused = [&](std::vector<double> log_decays) {
    return support::refusal([&] { fovea::chunk_retention(x.in.q, x.in.k, x.in.v, out, {.log_decays = log_decays}); });
  };
  CHECK(refused({0.5}) == "fovea::chunk_retention: log decays must not be positive, got 0.5");
  CHECK(refused({not_a_number<double>}) == "fovea::chunk_retention: log decays must not be positive, got nan");
  CHECK(refused({-1, -1, -1}) ==
        "fovea::chunk_retention: log decays must be one number for each kv head or one for all, wanted 2, got 3");
  CHECK(all_nan(out.data(), out.size()));
}
