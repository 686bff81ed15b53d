#include "linear/hedgehog.hpp"

#include <fovea/exec/pool.hpp>
#include <fovea/linear/hedgehog.hpp>

#include "support/kernelised.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;
namespace feature = fovea::feature;
namespace reference = fovea::reference;

namespace {

template <class Phi>
auto full(const Phi& phi, std::optional<double> epsilon = {}) {
  return [=](const auto& q, const auto& k, const auto& v, auto&& out) {
    fovea::hedgehog(q, k, v, out, phi, {.epsilon = epsilon});
  };
}
template <class Phi>
auto chunked(const Phi& phi, std::optional<double> epsilon = {}, Index chunk = 16) {
  return [=](const auto& q, const auto& k, const auto& v, auto&& out) {
    fovea::chunk_hedgehog(q, k, v, out, phi, {.epsilon = epsilon, .chunk = chunk});
  };
}
template <class Phi>
auto recurrent(const Phi& phi, std::optional<double> epsilon = {}) {
  return [=](const auto& q, const auto& k, const auto& v, auto&& out) {
    fovea::recurrent_hedgehog(q, k, v, out, phi, {.epsilon = epsilon});
  };
}

// Matrices [heads, D, D] near one, and small biases [heads, D].
struct Weights {
  Tensor3<double> w;
  Matrix<double> b;

  Weights(Index heads, Index dim, unsigned seed) : w(heads, dim, dim), b(heads, dim) {
    fill_gaussian(w, seed, 0.3);
    fill_gaussian(b, seed + 1, 0.3);
    for (Index h = 0; h < heads; ++h) {
      for (Index d = 0; d < dim; ++d) w(h, d, d) += 1;
    }
  }
  feature::Projection projection() const {
    return feature::Projection(fovea::view(w), fovea::row_values(fovea::view(b.data(), {1, b.rows(), b.cols(), 1})));
  }
  template <class Real>
  Matrix<Real> matrix(Index h) const {
    const Index dim = w.dimension(1);
    return Eigen::Map<const Matrix<double>>(w.data() + h * dim * dim, dim, dim).template cast<Real>();
  }
  template <class Real>
  reference::RowVector<Real> bias(Index h) const {
    return b.row(h).template cast<Real>();
  }
};

auto model(const Weights& weights, reference::Hedgehog form, bool causal, double epsilon) {
  return [&weights, form, causal, epsilon](const auto& q, const auto& k, const auto& v, Index, Index g) {
    using Real = typename std::decay_t<decltype(q)>::Scalar;
    const Index h = weights.b.rows() == 1 ? 0 : g;
    return reference::hedgehog<Real>(q, k, v, weights.matrix<Real>(h), weights.bias<Real>(h), form,
                                     {.causal = causal, .epsilon = Real(epsilon)});
  };
}

feature::Projection one(Index dim, double x = 1) {
  const Matrix<double> w = x * Matrix<double>::Identity(dim, dim);
  return feature::Projection(fovea::view(w));
}

const std::vector<Sizes> shapes = {
    {1, 1, 1, 1, 1, 1, 1}, {1, 1, 1, 5, 5, 3, 2}, {2, 4, 2, 40, 40, 33, 15}, {1, 2, 2, 17, 60, 16, 20}};

}  // namespace

TEST_CASE("hedgehog attention of four tokens") {
  const auto x = golden_tokens();
  const std::vector<double> all = {2.296748951382, 2.670376862021, 2.500000000000, 2.142691993608},
                            causal = {1.000000000000, 1.606776133517, 2.000000000000, 2.142691993608},
                            exponential = {1.000000000000, 1.606776133517, 2.122366799264, 2.236604285106};
  const auto softmax = feature::hedgehog(one(2));
  CHECK(is_golden(output_of(x, full(softmax, 0)), all));
  CHECK(is_golden(output_of(x, chunked(softmax, 0, 3)), causal));
  CHECK(is_golden(output_of(x, recurrent(softmax, 0)), causal));
  CHECK(is_golden(output_of(x, chunked(feature::hedgehog_exp(one(2)), 0, 3)), exponential));
}

TEST_CASE("hedgehog attention equals its reference, with a matrix for each key head") {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<float>(s);
    const Weights weights(s.kv_heads, s.dim, 5);
    const auto w = weights.projection();
    using reference::Hedgehog;
    CHECK(is_near(output_of(x, full(feature::hedgehog(w))), x, model(weights, Hedgehog::softmax, false, 1e-12)));
    CHECK(is_near(output_of(x, chunked(feature::hedgehog(w))), x, model(weights, Hedgehog::softmax, true, 1e-12)));
    CHECK(is_near(output_of(x, recurrent(feature::hedgehog(w))), x, model(weights, Hedgehog::softmax, true, 1e-12)));
    CHECK(is_near(output_of(x, full(feature::hedgehog_joint(w))), x, model(weights, Hedgehog::joint, false, 1e-12)));
    CHECK(is_near(output_of(x, full(feature::hedgehog_exp(w))), x, model(weights, Hedgehog::exp, false, 0)));
    CHECK(is_near(output_of(x, chunked(feature::hedgehog_exp(w))), x, model(weights, Hedgehog::exp, true, 0)));
  }
}

TEST_CASE("hedgehog attention in double, and with one matrix for all heads") {
  const auto x = gaussian<double>({1, 4, 2, 40, 40, 8, 8});
  const Weights weights(1, 8, 9);
  using reference::Hedgehog;
  CHECK(is_near(output_of(x, full(feature::hedgehog(weights.projection()))), x,
                model(weights, Hedgehog::softmax, false, 1e-12)));
  CHECK(is_near(output_of(x, full(feature::hedgehog_exp(weights.projection()), 0.5)), x,
                model(weights, Hedgehog::exp, false, 0.5)));
}

TEST_CASE("queries may have matrices of their own, one for each query head") {
  const auto x = gaussian<float>({1, 4, 2, 30, 30, 8, 8});
  const Weights query(4, 8, 21), key(2, 8, 31);
  const auto got = output_of(x, full(feature::hedgehog(query.projection(), key.projection())));
  CHECK(is_near(got, x, [&](const auto& q, const auto& k, const auto& v, Index h, Index g) {
    using Real = typename std::decay_t<decltype(q)>::Scalar;
    const auto map = [](const Weights& w, Index n) {
      return [&w, n](const reference::RowVector<Real>& r) {
        auto both = reference::mirrored<Real>(r, w.matrix<Real>(n), w.bias<Real>(n), 1);
        both.head(8) = reference::softmax_features<Real>(both.head(8));
        both.tail(8) = reference::softmax_features<Real>(both.tail(8));
        return both;
      };
    };
    return reference::kernelised<Real>(q, k, v, map(query, h), map(key, g), {.epsilon = Real(1e-12)});
  }));
}

TEST_CASE("a matrix of zeros gives plain averages of what is seen") {
  const auto x = gaussian<float>({1, 1, 1, 30, 30, 6, 6});
  const auto check_mean = [&](const Tensor4<float>& got) {
    Matrix<double> sum = Matrix<double>::Zero(1, 6);
    for (Index i = 0; i < 30; ++i) {
      sum += head(x.v, 0, 0).row(i).cast<double>();
      for (Index e = 0; e < 6; ++e) CHECK(std::abs(got(0, 0, i, e) - sum(0, e) / double(i + 1)) < 1e-6);
    }
  };
  check_mean(output_of(x, chunked(feature::hedgehog(one(6, 0)))));
  check_mean(output_of(x, chunked(feature::hedgehog_exp(one(6, 0)))));
}

TEST_CASE("the exponential features of one number have the product 2 cosh(q + k)") {
  const Matrix<double> q = Matrix<double>::Random(5, 1), k = Matrix<double>::Random(7, 1),
                       v = Matrix<double>::Random(7, 2);
  Matrix<double> out(5, 2);
  fovea::hedgehog(q, k, v, out, feature::hedgehog_exp(one(1)));
  for (Index i = 0; i < 5; ++i) {
    double sum = 0, first = 0;
    for (Index j = 0; j < 7; ++j) {
      sum += 2 * std::cosh(q(i, 0) + k(j, 0));
      first += 2 * std::cosh(q(i, 0) + k(j, 0)) * v(j, 0);
    }
    CHECK(std::abs(out(i, 0) - first / sum) < 1e-14);
  }
}

TEST_CASE("prefill and a step equal prefill of one more, in both kinds of state") {
  const auto x = gaussian<float>({1, 2, 1, 41, 41, 8, 8}, 1, 3);
  const auto check_step = [&](auto state, const auto& phi, const auto& step) {
    const auto all = output_of(x, chunked(phi));
    output_of(tokens(x, 0, 40), [&](const auto& q, const auto& k, const auto& v, auto&& out) {
      chunked(phi)(q, k, v, fovea::with_state(out, state));
    });
    const auto last = output_of(tokens(x, 40, 41), [&](const auto& q, const auto& k, const auto& v, auto&& out) {
      step(q, k, v, fovea::with_state(out, state));
    });
    CHECK(is_near(last, tokens(all, 40, 41), 16));
  };
  const auto softmax = feature::hedgehog(one(8));
  const auto exponential = feature::hedgehog_exp(one(8));
  check_step(fovea::MatrixState<float>(), softmax, recurrent(softmax));
  check_step(fovea::ShiftedState<float>(), exponential, chunked(exponential));
}

TEST_CASE("hedgehog attention: strides and executors do not change a bit") {
  const auto x = gaussian<float>({1, 4, 2, 300, 300, 17, 12});
  const Weights weights(2, 17, 3);
  const auto phi = feature::hedgehog(weights.projection());
  const auto got = output_of(x, full(phi));
  CHECK(same_bits(got, output_of_bthd(x, full(phi))));
  CHECK(same_bits(got, output_of(x, [&](const auto& q, const auto& k, const auto& v, auto&& out) {
                    fovea::hedgehog(q, k, v, out, phi, {}, fovea::exec::Pool(2));
                  })));
}

TEST_CASE("what hedgehog refuses") {
  const auto x = gaussian<float>({1, 4, 2, 5, 5, 8, 8});
  Tensor4<float> out(1, 4, 5, 8);
  out.setConstant(7);
  const auto refusal = [&](const auto& phi) {
    return support::refusal([&] { fovea::hedgehog(x.q, x.k, x.v, out, phi); });
  };
  CHECK(refusal(feature::hedgehog(one(7))) ==
        "fovea::hedgehog: the weights of the feature map must have the width of q, wanted 8, got 7");
  CHECK(refusal(feature::hedgehog(Weights(3, 8, 1).projection())) ==
        "fovea::hedgehog: the matrices of the feature map must divide the heads, wanted a divisor of 4, got 3");
  CHECK(refusal(feature::hedgehog(Weights(4, 8, 1).projection())) ==
        "fovea::hedgehog: the matrices of the feature map must divide the heads, wanted a divisor of 2, got 4");
  CHECK(support::refusal([&] {
          fovea::chunk_hedgehog(x.q, x.k, x.v, out, feature::hedgehog(one(8)), {.chunk = -1});
        }) == "fovea::chunk_hedgehog: chunk must be positive, got -1");
  CHECK(std::all_of(out.data(), out.data() + out.size(), [](float t) { return t == 7; }));
}
