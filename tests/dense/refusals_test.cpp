// What scaled_dot_product refuses: an ArgumentError in its name, before any work, the output untouched.
#include <fovea/dense/scaled_dot_product.hpp>

#include "support/attention.hpp"

using namespace fovea::test;
using fovea::Index;

namespace {

struct Shapes {
  std::vector<Index> q = {2, 4, 5, 8}, k = {2, 2, 7, 8}, v = {2, 2, 7, 6}, out = {2, 4, 5, 6}, log_sum = {2, 4, 5};
};

Tensor4<float> tensor(const std::vector<Index>& e) {
  Tensor4<float> x(e[0], e[1], e[2], e[3]);
  x.setConstant(0.5f);
  return x;
}

// The message of the refusal; empty when the call was not refused as it must be.
std::string refusal(const Shapes& shapes, const fovea::ScaledDotProductOptions& options = {}) {
  const auto q = tensor(shapes.q), k = tensor(shapes.k), v = tensor(shapes.v);
  auto out = tensor(shapes.out);
  Tensor3<float> log_sum(shapes.log_sum[0], shapes.log_sum[1], shapes.log_sum[2]);
  out.setConstant(7);
  log_sum.setConstant(7);
  try {
    fovea::scaled_dot_product(q, k, v, fovea::with_log_sum(out, log_sum), options);
  } catch (const fovea::ArgumentError& error) {
    const auto is_7 = [](float value) { return value == 7; };
    const bool untouched = std::all_of(out.data(), out.data() + out.size(), is_7) &&
                           std::all_of(log_sum.data(), log_sum.data() + log_sum.size(), is_7);
    const std::string message = error.what();
    CHECK(untouched);
    CHECK(error.function() == "fovea::scaled_dot_product");
    CHECK(message.rfind("fovea::scaled_dot_product: ", 0) == 0);
    return message;
  }
  return {};
}

bool mentions(const std::string& message, const std::vector<std::string>& words) {
  UNSCOPED_INFO("message: " << message);
  return std::all_of(words.begin(), words.end(),
                     [&](const std::string& word) { return message.find(word) != std::string::npos; });
}

}  // namespace

TEST_CASE("the shapes of the refusals are legal as they stand") { CHECK(refusal({}).empty()); }

TEST_CASE("keys of another batch") { CHECK(mentions(refusal({.k = {3, 2, 7, 8}}), {"k must", "batch", "2", "3"})); }

TEST_CASE("values of another batch") { CHECK(mentions(refusal({.v = {1, 2, 7, 6}}), {"v must", "batch", "2", "1"})); }

TEST_CASE("keys of another width") { CHECK(mentions(refusal({.k = {2, 2, 7, 9}}), {"k must", "width", "8", "9"})); }

TEST_CASE("keys of no width") {
  CHECK(mentions(refusal({.q = {2, 4, 5, 0}, .k = {2, 2, 7, 0}}), {"width", "positive"}));
}

TEST_CASE("values of other heads than the keys") {
  CHECK(mentions(refusal({.v = {2, 4, 7, 6}}), {"v must", "heads", "2", "4"}));
}

TEST_CASE("values of another length than the keys") {
  CHECK(mentions(refusal({.v = {2, 2, 6, 6}}), {"v must", "length", "7", "6"}));
}

TEST_CASE("heads that are not a multiple of the key heads") {
  CHECK(mentions(refusal({.k = {2, 3, 7, 8}, .v = {2, 3, 7, 6}}), {"heads", "multiple", "3", "4"}));
  CHECK(mentions(refusal({.k = {2, 8, 7, 8}, .v = {2, 8, 7, 6}}), {"heads", "multiple", "8", "4"}));
}

TEST_CASE("no key heads for the query heads") {
  CHECK(mentions(refusal({.k = {2, 0, 7, 8}, .v = {2, 0, 7, 6}}), {"head", "0"}));
}

TEST_CASE("an output of another batch, other heads, another length or another width") {
  CHECK(mentions(refusal({.out = {1, 4, 5, 6}}), {"out must", "batch", "2", "1"}));
  CHECK(mentions(refusal({.out = {2, 2, 5, 6}}), {"out must", "heads", "4", "2"}));
  CHECK(mentions(refusal({.out = {2, 4, 7, 6}}), {"out must", "length", "5", "7"}));
  CHECK(mentions(refusal({.out = {2, 4, 5, 8}}), {"out must", "width", "6", "8"}));
}

TEST_CASE("a log_sum of another shape") {
  CHECK(mentions(refusal({.log_sum = {1, 4, 5}}), {"log_sum", "[2, 4, 5]", "[1, 4, 5]"}));
  CHECK(mentions(refusal({.log_sum = {2, 2, 5}}), {"log_sum", "[2, 4, 5]", "[2, 2, 5]"}));
  CHECK(mentions(refusal({.log_sum = {2, 4, 7}}), {"log_sum", "[2, 4, 5]", "[2, 4, 7]"}));
}

TEST_CASE("a scale that is not finite") {
  CHECK(mentions(refusal({}, {.scale = infinity<double>}), {"scale", "finite", "inf"}));
  CHECK(mentions(refusal({}, {.scale = -infinity<double>}), {"scale", "finite", "inf"}));
  CHECK(mentions(refusal({}, {.causal = true, .scale = not_a_number<double>}), {"scale", "finite", "nan"}));
}

TEST_CASE("matrices that do not fit") {
  const Matrix<double> q = Matrix<double>::Zero(5, 8), k = Matrix<double>::Zero(7, 8), v = Matrix<double>::Zero(7, 6);
  Matrix<double> out(5, 6);
  Eigen::VectorXd log_sum(4);
  CHECK_THROWS_AS(fovea::scaled_dot_product(q, v, v, out), fovea::ArgumentError);
  CHECK_THROWS_AS(fovea::scaled_dot_product(q, k, v.topRows(6), out), fovea::ArgumentError);
  CHECK_THROWS_AS(fovea::scaled_dot_product(q, k, v, out.leftCols(5)), fovea::ArgumentError);
  CHECK_THROWS_AS(fovea::scaled_dot_product(q, k, v, fovea::with_log_sum(out, log_sum)), fovea::ArgumentError);
}

TEST_CASE("a call that is empty is checked all the same") {
  CHECK(mentions(
      refusal({.q = {0, 4, 5, 8}, .k = {0, 2, 7, 9}, .v = {0, 2, 7, 6}, .out = {0, 4, 5, 6}, .log_sum = {0, 4, 5}}),
      {"k must", "width"}));
  CHECK(
      mentions(refusal({.q = {2, 4, 0, 8}, .out = {2, 4, 0, 6}, .log_sum = {2, 4, 0}}, {.scale = not_a_number<double>}),
               {"scale"}));
}
