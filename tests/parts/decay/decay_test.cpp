#include <fovea/parts/decay/gate.hpp>
#include <fovea/parts/decay/per_head.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Index;
using fovea::Shape;
using support::refusal;
namespace decay = fovea::decay;

namespace {

constexpr Shape shape{2, 4, 2, 5, 5};
template <int rank>
using Tensor = Eigen::Tensor<float, rank, Eigen::RowMajor>;

}  // namespace

TEST_CASE("a log decay for each kv head or one for all", "[decay]") {
  const auto each = decay::per_head({-1, -2}).bind<float>("f", shape, 3);
  CHECK(each.log_decay(0) == -1);
  CHECK(each.log_decay(1) == -2);
  CHECK(decay::per_head({-3}).bind<float>("f", shape, 3).log_decay(1) == -3);
  const auto refused = [](std::vector<double> g) {
    return refusal([&] { decay::per_head(g).bind<float>("f", shape, 3); });
  };
  CHECK(refused({0, -HUGE_VAL}) == "accepted");
  CHECK(refused({}) == "f: log decays must be one number for each kv head or one for all, wanted 2, got 0");
  CHECK(refused({-1, 1e-9}) == "f: log decays must not be positive, got 1e-09");
}

TEST_CASE("the decays of retention", "[decay]") {
  const auto g = decay::retention(3);
  REQUIRE(g.size() == 3);
  CHECK(std::fabs(std::exp(g[0]) - 31 / 32.) < 1e-15);
  CHECK(std::fabs(std::exp(g[2]) - 127 / 128.) < 1e-15);
}

TEST_CASE("gates are read where they lie", "[decay]") {
  Tensor<3> token(2, 2, 5);
  Tensor<4> channel(2, 2, 5, 3);
  token.setConstant(-1);
  channel.setConstant(-1);
  token(1, 0, 3) = -7;
  channel(1, 0, 3, 2) = -9;
  CHECK(decay::per_token(token).bind<float>("f", shape, 3).log_gate(1, 0, 3) == -7);
  CHECK(decay::per_channel(channel).bind<float>("f", shape, 3).log_gates(1, 0, 3)[2] == -9);
}

TEST_CASE("a gate above zero is refused wherever it stands", "[decay]") {
  Tensor<3> token(2, 2, 5);
  Tensor<4> channel(2, 2, 5, 19);
  const auto token_refused = [&] { return refusal([&] { decay::per_token(token).bind<float>("f", shape, 19); }); };
  const auto channel_refused = [&](auto gates) { return refusal([&] { gates.template bind<float>("f", shape, 19); }); };
  token.setZero();
  channel.setConstant(-HUGE_VALF);
  CHECK(token_refused() == "accepted");
  CHECK(channel_refused(decay::per_channel(channel)) == "accepted");
  Index missed = 0;
  for (Index i = 0; i < channel.size(); ++i) {
    for (const float wrong : {1e-30f, HUGE_VALF}) {
      channel.data()[i] = wrong;
      missed += channel_refused(decay::per_channel(channel)) == "accepted";
      auto strided = fovea::view(channel);  // every second token
      strided.length = 3;
      strided.length_stride *= 2;
      const bool seen = i / 19 % 5 % 2 == 0;
      const Shape fewer{2, 4, 2, 3, 3};
      missed += (refusal([&] { decay::per_channel(strided).bind<float>("f", fewer, 19); }) == "accepted") == seen;
    }
    channel.data()[i] = i % 2 == 0 ? support::nan<float> : -1;
  }
  CHECK(missed == 0);
  token(1, 1, 4) = 0.5f;
  CHECK(token_refused() == "f: log gates must not be positive, batch 1 head 1 has one that is");
}

TEST_CASE("gates of another shape are refused", "[decay]") {
  const Tensor<3> token = Tensor<3>(2, 4, 5).setConstant(-1);
  const Tensor<4> channel = Tensor<4>(2, 2, 5, 4).setConstant(-1);
  CHECK(refusal([&] { decay::per_token(token).bind<float>("f", shape, 3); }) ==
        "f: log gates must belong to the tokens and heads of k, wanted [2, 2, 5, 1], got [2, 4, 5, 1]");
  CHECK(refusal([&] { decay::per_channel(channel).bind<float>("f", shape, 3); }) ==
        "f: log gates must belong to the tokens and heads of k, wanted [2, 2, 5, 3], got [2, 2, 5, 4]");
}

TEST_CASE("the axes of the gates say what they are", "[decay]") {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using decay::Kind;
  const auto kind = []<class D>(const D&) {
    return decltype(std::declval<D>().template bind<float>("", shape, 1))::kind;
  };
  const Tensor<2> two(1, 1);
  const Tensor<3> three(1, 1, 1);
  const Tensor<4> four(1, 1, 1, 1);
  const Matrix matrix(1, 1);
  const Eigen::VectorXf vector(1);
  CHECK(kind(decay::gate<Tensor<4>>(three)) == Kind::per_token);
  CHECK(kind(decay::gate<Tensor<4>>(four)) == Kind::per_channel);
  CHECK(kind(decay::gate<Tensor<3>>(two)) == Kind::per_token);
  CHECK(kind(decay::gate<Tensor<3>>(three)) == Kind::per_channel);
  CHECK(kind(decay::gate<Matrix>(vector)) == Kind::per_token);
  CHECK(kind(decay::gate<Matrix>(matrix)) == Kind::per_channel);
  CHECK(kind(decay::gate<Matrix>(decay::per_token(fovea::row_values(vector)))) == Kind::per_token);
  CHECK(kind(decay::gate<fovea::View<const float>>(fovea::view(four))) == Kind::per_channel);
}
