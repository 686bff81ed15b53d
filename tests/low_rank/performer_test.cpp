#include "low_rank/performer.hpp"

#include <fovea/exec/pool.hpp>
#include <fovea/low_rank/performer.hpp>

#include "support/kernelised.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;
namespace feature = fovea::feature;
namespace reference = fovea::reference;

namespace {

template <class Phi>
auto full(const Phi& phi, double epsilon = 1e-6) {
  return [=](const auto& q, const auto& k, const auto& v, auto&& out) {
    fovea::performer(q, k, v, out, phi, {.epsilon = epsilon});
  };
}
template <class Phi>
auto chunked(const Phi& phi, double epsilon = 1e-6, Index chunk = 16) {
  return [=](const auto& q, const auto& k, const auto& v, auto&& out) {
    fovea::chunk_performer(q, k, v, out, phi, {.epsilon = epsilon, .chunk = chunk});
  };
}
template <class Phi>
auto recurrent(const Phi& phi, double epsilon = 1e-6) {
  return [=](const auto& q, const auto& k, const auto& v, auto&& out) {
    fovea::recurrent_performer(q, k, v, out, phi, {.epsilon = epsilon});
  };
}

Matrix<double> matrix(const feature::Directions& w) {
  return Eigen::Map<const Matrix<double>>(w.numbers.data(), w.rows, w.dim);
}

// features: the epsilon of the map.
auto model(const feature::Directions& w, reference::Performer kind, bool causal, double features) {
  return [&w, kind, causal, features](const auto& q, const auto& k, const auto& v, Index, Index) {
    using Real = typename std::decay_t<decltype(q)>::Scalar;
    return reference::performer<Real>(q, k, v, matrix(w).cast<Real>(), kind, 1 / std::sqrt(Real(q.cols())),
                                      Real(features), {.causal = causal, .epsilon = Real(1e-6)});
  };
}

const std::vector<Sizes> shapes = {
    {1, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 5, 5, 3, 2}, {2, 4, 2, 40, 40, 33, 15}, {1, 2, 2, 17, 60, 16, 20}};

}  // namespace

TEST_CASE("performer attention of four tokens") {
  const auto x = golden_tokens();
  const Matrix<double> identity = Matrix<double>::Identity(2, 2);
  const auto phi = feature::positive_random(fovea::view(identity), {.epsilon = 0});
  const std::vector<double> all = {2.196725219887, 2.435298636275, 2.321323447484, 2.098549647672},
                            causal = {1.000000000000, 1.578926805808, 1.993684896154, 2.098549647672};
  CHECK(is_golden(output_of(x, full(phi, 0)), all));
  CHECK(is_golden(output_of(x, chunked(phi, 0, 3)), causal));
}

TEST_CASE("performer attention equals its reference") {
  using reference::Performer;
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<float>(s);
    const auto w = feature::orthogonal_directions(s.dim + 7, s.dim, 3);
    const auto phi = feature::positive_random(w);
    CHECK(is_near(output_of(x, full(phi)), x, model(w, Performer::positive, false, 1e-4)));
    CHECK(is_near(output_of(x, chunked(phi)), x, model(w, Performer::positive, true, 0)));
    CHECK(is_near(output_of(x, recurrent(phi)), x, model(w, Performer::positive, true, 0)));
    CHECK(is_near(output_of(x, full(feature::hyperbolic_random(w))), x, model(w, Performer::hyperbolic, false, 1e-4)));
    CHECK(is_near(output_of(x, full(feature::relu_random(w))), x, model(w, Performer::relu, false, 1e-3)));
  }
}

TEST_CASE("performer attention in double") {
  const auto x = gaussian<double>({1, 4, 2, 60, 60, 16, 12});
  const auto w = feature::orthogonal_directions(40, 16, 3);
  CHECK(is_near(output_of(x, full(feature::positive_random(w))), x,
                model(w, reference::Performer::positive, false, 1e-4)));
}

TEST_CASE("performer attention stays finite where exponents are large") {
  auto x = gaussian<float>({1, 1, 1, 30, 30, 8, 8}, 1, 20);
  for (Index n = 0; n < x.k.size(); ++n) x.k.data()[n] *= 20;
  const auto w = feature::orthogonal_directions(16, 8, 3);
  const auto got = output_of(x, full(feature::positive_random(w)));
  CHECK(is_near(got, x, model(w, reference::Performer::positive, false, 1e-4)));
  const auto causal = output_of(x, chunked(feature::positive_random(w)));
  CHECK(std::all_of(causal.data(), causal.data() + causal.size(), [](float t) { return std::isfinite(t); }));
}

TEST_CASE("more features come closer to softmax attention") {
  auto x = gaussian<float>({1, 1, 1, 50, 50, 8, 8}, 1, 0.5);
  for (Index n = 0; n < x.k.size(); ++n) x.k.data()[n] *= 0.5f;
  const auto dense = expected(x).out;
  double before = 1;
  for (const Index features : {16, 256, 4096}) {  // errors shrink like the root, so by four
    double square = 0;
    for (const unsigned seed : {1, 2, 3, 4, 5, 6, 7, 8}) {
      const auto phi = fovea::performer_features(8, {.features = features, .seed = seed, .options = {.epsilon = 0}});
      const double distance = relative_rms(output_of(x, full(phi)), dense);
      square += distance * distance / 8;
    }
    INFO(features << " features: " << std::sqrt(square));
    CHECK(std::sqrt(square) < before / 2);
    before = std::sqrt(square);
  }
  CHECK(before < 0.1);
}

TEST_CASE("the usual number of features is D ln D") {
  const auto count = [](Index dim) {
    return fovea::performer_features(dim).bind<float>("test", {1, 1, 1, 1, 1}, dim).width();
  };
  CHECK(count(1) == 1);
  CHECK(count(64) == 266);
}

TEST_CASE("prefill and steps with a state equal one run, and later tokens change nothing") {
  const auto x = gaussian<float>({1, 4, 2, 50, 50, 8, 8}, 1, 3);
  const auto phi = fovea::performer_features(8, {.seed = 4});
  const auto all = output_of(x, chunked(phi));
  CHECK(same_bits(output_of(tokens(x, 0, 33), chunked(phi)), tokens(all, 0, 33)));
  fovea::ShiftedState<float> state;
  CHECK(is_near(output_of(tokens(x, 0, 33), [&](const auto& q, const auto& k, const auto& v,
                                                auto&& out) { chunked(phi)(q, k, v, fovea::with_state(out, state)); }),
                tokens(all, 0, 33), 16));
  for (Index t = 33; t < 50; ++t) {
    INFO(t);
    CHECK(is_near(
        output_of(tokens(x, t, t + 1), [&](const auto& q, const auto& k, const auto& v,
                                           auto&& out) { recurrent(phi)(q, k, v, fovea::with_state(out, state)); }),
        tokens(all, t, t + 1), 32));
  }
}

TEST_CASE("performer attention: strides and executors do not change a bit") {
  const auto x = gaussian<float>({1, 4, 2, 300, 300, 17, 12});
  const auto phi = fovea::performer_features(17);
  const auto got = output_of(x, full(phi));
  CHECK(same_bits(got, output_of_bthd(x, full(phi))));
  CHECK(same_bits(got, output_of(x, [&](const auto& q, const auto& k, const auto& v, auto&& out) {
                    fovea::performer(q, k, v, out, phi, {}, fovea::exec::Pool(2));
                  })));
}

TEST_CASE("what performer refuses") {
  const auto x = gaussian<float>({1, 2, 1, 5, 5, 8, 8});
  Tensor4<float> out(1, 2, 5, 8);
  out.setConstant(7);
  const auto w = feature::orthogonal_directions(16, 8, 3);
  const auto refusal = [&](const feature::ExponentialRandom<false>& phi, double epsilon) {
    return support::refusal([&] { fovea::performer(x.q, x.k, x.v, out, phi, {.epsilon = epsilon}); });
  };
  CHECK(refusal(fovea::performer_features(9), 0) ==
        "fovea::performer: the weights of the feature map must have the width of q, wanted 8, got 9");
  CHECK(refusal(feature::positive_random(w, {.epsilon = -1}), 0) ==
        "fovea::performer: the epsilon of random features must not be negative, got -1");
  CHECK(refusal(feature::positive_random(w, {.scale = -1}), 0) ==
        "fovea::performer: the scale of random features must not be negative, got -1");
  CHECK(refusal(feature::positive_random(w), -1).rfind("fovea::performer: ", 0) == 0);
  CHECK(support::refusal([&] {
          fovea::chunk_performer(x.q, x.k, x.v, out, feature::positive_random(w, {.epsilon = 0.5}));
        }) == "fovea::chunk_performer: causal exponential features take no epsilon, got 0.5");
  CHECK(support::refusal([&] {
          fovea::chunk_performer(x.q, x.k, x.v, out, feature::positive_random(w), {.chunk = 0});
        }) == "fovea::chunk_performer: chunk must be positive, got 0");
  CHECK(support::refusal([&] { fovea::performer_features(0); }) ==
        "fovea::performer_features: the width must be positive, got 0");
  CHECK(std::all_of(out.data(), out.data() + out.size(), [](float t) { return t == 7; }));
}
