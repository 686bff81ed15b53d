#include <fovea/parts/write/delta.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Shape;
using support::refusal;

namespace {

constexpr Shape shape{2, 4, 2, 5, 5};
using Tensor = Eigen::Tensor<double, 3, Eigen::RowMajor>;

}  // namespace

TEST_CASE("strengths of the delta rule are read where they lie", "[write]") {
  Tensor beta(2, 2, 5);
  beta.setConstant(1);
  beta(1, 0, 4) = 0.25;
  CHECK(fovea::write::delta(beta).bind<double>("f", shape).beta(1, 0, 4) == 0.25);
  CHECK(decltype(fovea::write::delta(beta).bind<double>("f", shape))::corrects);
  CHECK(!decltype(fovea::write::outer_product().bind<double>("f", shape))::corrects);
}

TEST_CASE("strengths outside zero to two are refused", "[write]") {
  Tensor beta(2, 2, 5);
  beta.setConstant(2);
  const auto refused = [&] { return refusal([&] { fovea::write::delta(beta).bind<double>("f", shape); }); };
  CHECK(refused() == "accepted");
  beta(0, 1, 2) = support::nan<double>;
  CHECK(refused() == "accepted");
  beta(1, 1, 4) = 2.5;
  CHECK(refused() == "f: beta must lie in [0, 2], got 2.5");
  beta(1, 1, 4) = -1e-9;
  CHECK(refused() == "f: beta must lie in [0, 2], got -1e-09");
}

TEST_CASE("strengths of another shape are refused", "[write]") {
  const Tensor beta = Tensor(2, 4, 5).setConstant(1);
  CHECK(refusal([&] { fovea::write::delta(beta).bind<double>("f", shape); }) ==
        "f: beta must be one number for each token and head of k, wanted [2, 2, 5], got [2, 4, 5]");
}
