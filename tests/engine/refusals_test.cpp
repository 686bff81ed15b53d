// What attend and merge refuse: an ArgumentError in their name, before any work, the output untouched.
#include <fovea/engine/attend.hpp>
#include <fovea/parts/combine/merge.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/document.hpp>
#include <fovea/parts/mask/prefix.hpp>
#include <fovea/parts/mask/window.hpp>
#include <fovea/parts/score/alibi.hpp>
#include <fovea/parts/score/bias.hpp>
#include <fovea/parts/score/soft_cap.hpp>

#include "support/attention.hpp"

using namespace fovea::test;
using fovea::Index;
namespace mask = fovea::mask;
namespace score = fovea::score;

namespace {

const Sizes sizes{2, 4, 2, 5, 7, 8, 6};

// The message with which f is refused; empty when it is not, or not in the name of `function`, or not before the output
// was touched.
template <class F>
std::string refusal(const std::string& function, Result<float>& result, F f) {
  result.out.setConstant(7);
  result.log_sum.setConstant(7);
  try {
    f();
  } catch (const fovea::ArgumentError& error) {
    const std::string message = error.what();
    const auto is_7 = [](float value) { return value == 7; };
    const bool untouched = std::all_of(result.out.data(), result.out.data() + result.out.size(), is_7) &&
                           std::all_of(result.log_sum.data(), result.log_sum.data() + result.log_sum.size(), is_7);
    CHECK(untouched);
    CHECK(error.function() == function);
    CHECK(message.rfind(function + ": ", 0) == 0);
    return message;
  }
  return {};
}

template <class Recipe>
std::string refusal(const Recipe& recipe) {
  const auto x = gaussian<float>(sizes);
  auto result = blank<float>(sizes);
  return refusal("fovea::attend", result, [&] { fovea::attend(x.q, x.k, x.v, result.both(), recipe); });
}

template <class M>
std::string refusal_of_mask(const M& m) {
  return refusal(fovea::softmax().mask(m));
}
template <class S>
std::string refusal_of_score(const S& s) {
  return refusal(fovea::softmax().score(s));
}

bool mentions(const std::string& message, const std::vector<std::string>& words) {
  UNSCOPED_INFO("message: " << message);
  return std::all_of(words.begin(), words.end(),
                     [&](const std::string& word) { return message.find(word) != std::string::npos; });
}

}  // namespace

TEST_CASE("arrays that do not fit") {
  const auto x = gaussian<float>(sizes);
  auto result = blank<float>(sizes);
  const auto k = gaussian<float>({2, 4, 3, 5, 7, 8, 6}).k;
  CHECK(mentions(refusal("fovea::attend", result, [&] { fovea::attend(x.q, k, x.v, result.both(), fovea::softmax()); }),
                 {"heads", "3", "2"}));
}

TEST_CASE("a scale that is not finite") {
  CHECK(mentions(refusal(fovea::softmax(infinity<double>)), {"scale", "finite", "inf"}));
  CHECK(mentions(refusal(fovea::softmax(not_a_number<double>).mask(mask::causal())), {"scale", "finite", "nan"}));
}

TEST_CASE("sink logits for another number of heads") {
  CHECK(mentions(refusal(fovea::softmax().sink_logits({1, 2, 3})), {"sink", "4", "3"}));
  CHECK(mentions(refusal(fovea::softmax().sink_logits({1, 2, 3, 4, 5})), {"sink", "4", "5"}));
}

TEST_CASE("slopes for another number of heads") {
  CHECK(mentions(refusal_of_score(score::alibi({0.5, 0.25})), {"alibi", "slope", "4", "2"}));
  CHECK(mentions(refusal_of_score(score::alibi({})), {"alibi", "slope", "4", "0"}));
  CHECK(mentions(refusal_of_score(score::alibi(score::alibi_slopes(8))), {"alibi", "slope", "4", "8"}));
}

TEST_CASE("a soft cap that is not positive and finite") {
  for (const double cap : {0.0, -1.0, infinity<double>, not_a_number<double>}) {
    INFO("cap " << cap);
    CHECK(mentions(refusal_of_score(score::soft_cap(cap)), {"soft cap", "positive", "finite"}));
  }
}

TEST_CASE("a bias of another shape") {
  Tensor4<float> good(1, 4, 5, 7), batch(3, 4, 5, 7), heads(2, 2, 5, 7), queries(2, 4, 6, 7), keys(2, 4, 5, 1);
  for (auto* table : {&good, &batch, &heads, &queries, &keys}) table->setZero();
  CHECK(refusal_of_score(score::bias(good)).empty());
  CHECK(mentions(refusal_of_score(score::bias(batch)), {"bias", "[3, 4, 5, 7]"}));
  CHECK(mentions(refusal_of_score(score::bias(heads)), {"bias", "[2, 2, 5, 7]"}));
  CHECK(mentions(refusal_of_score(score::bias(queries)), {"bias", "[2, 4, 6, 7]"}));
  CHECK(mentions(refusal_of_score(score::bias(keys)), {"bias", "[2, 4, 5, 1]"}));
}

TEST_CASE("a key bias of another shape") {
  const Eigen::VectorXf good = Eigen::VectorXf::Zero(7), bad = Eigen::VectorXf::Zero(5);
  CHECK(refusal_of_score(score::key_bias(good)).empty());
  CHECK(mentions(refusal_of_score(score::key_bias(bad)), {"bias", "7", "5"}));
  const Matrix<float> batches = Matrix<float>::Zero(3, 7);
  CHECK(mentions(refusal_of_score(score::key_bias(batches)), {"bias", "3"}));
}

TEST_CASE("a relative bias with an even number of distances or for other heads") {
  const Matrix<float> good = Matrix<float>::Zero(4, 9), even = Matrix<float>::Zero(4, 8),
                      heads = Matrix<float>::Zero(2, 9);
  CHECK(refusal_of_score(score::relative_bias(good)).empty());
  CHECK(mentions(refusal_of_score(score::relative_bias(even)), {"relative", "odd", "8"}));
  CHECK(mentions(refusal_of_score(score::relative_bias(heads)), {"relative", "4", "2"}));
}

TEST_CASE("a window that is not positive") {
  CHECK(mentions(refusal_of_mask(mask::window(0)), {"window", "positive", "0"}));
  CHECK(mentions(refusal_of_mask(mask::window(-3)), {"window", "positive", "-3"}));
}

TEST_CASE("a prefix that is negative") {
  CHECK(mentions(refusal_of_mask(mask::prefix(-1)), {"prefix", "negative", "-1"}));
}

TEST_CASE("boundaries of documents that are not boundaries") {
  const std::vector<Index> queries = {0, 2, 5}, keys = {0, 3, 7};
  CHECK(refusal_of_mask(mask::document(queries, keys)).empty());
  CHECK(mentions(refusal_of_mask(mask::document({}, keys)), {"document", "queries", "0"}));
  CHECK(mentions(refusal_of_mask(mask::document({1, 2, 5}, keys)), {"document", "queries", "begin"}));
  CHECK(mentions(refusal_of_mask(mask::document({0, 6, 5}, keys)), {"document", "queries", "decrease"}));
  CHECK(mentions(refusal_of_mask(mask::document({0, 2, 6}, keys)), {"document", "queries", "end", "5", "6"}));
  CHECK(mentions(refusal_of_mask(mask::document(queries, {0, 3, 6})), {"document", "keys", "end", "7", "6"}));
  CHECK(mentions(refusal_of_mask(mask::document(queries, {0, 7})), {"document", "sequences", "2", "1"}));
  CHECK(mentions(refusal_of_mask(mask::document(queries)), {"document", "keys", "7", "5"}));
}

TEST_CASE("a part is checked wherever it stands in the recipe") {
  CHECK(mentions(refusal_of_mask(mask::causal() & mask::window(0)), {"window"}));
  CHECK(mentions(refusal_of_mask(mask::causal() | !mask::prefix(-1)), {"prefix"}));
  CHECK(mentions(refusal_of_mask(mask::document({0, 2, 5}, {0, 3, 7}, mask::window(-1))), {"window"}));
  CHECK(mentions(refusal(fovea::softmax().mask(mask::causal()).mask(mask::window(0))), {"window"}));
  CHECK(mentions(refusal(fovea::softmax().score(score::alibi({1, 2, 3, 4})).score(score::soft_cap(0))), {"soft cap"}));
}

TEST_CASE("an empty call is checked all the same") {
  const Sizes none{0, 4, 2, 5, 7, 8, 6};
  const auto x = gaussian<float>(none);
  auto result = blank<float>(none);
  CHECK_THROWS_AS(fovea::attend(x.q, x.k, x.v, result.out, fovea::softmax().mask(mask::window(0))),
                  fovea::ArgumentError);
  CHECK_THROWS_AS(fovea::attend(x.q, x.k, x.v, result.out, fovea::softmax().sink_logits({1})), fovea::ArgumentError);
}

TEST_CASE("results that do not merge") {
  auto a = blank<float>(sizes), b = blank<float>(sizes), result = blank<float>(sizes);
  auto other_heads = blank<float>({2, 2, 2, 5, 7, 8, 6}), other_width = blank<float>({2, 4, 2, 5, 7, 8, 3});
  auto other_length = blank<float>({2, 4, 2, 4, 7, 8, 6});
  const auto merge = [&](auto& x, auto& y) {
    return refusal("fovea::combine::merge", result, [&] { fovea::combine::merge(x.both(), y.both(), result.both()); });
  };
  CHECK(mentions(merge(other_heads, b), {"shape", "[2, 4, 5, 6]", "[2, 2, 5, 6]"}));
  CHECK(mentions(merge(a, other_width), {"shape", "[2, 4, 5, 6]", "[2, 4, 5, 3]"}));
  CHECK(mentions(merge(a, other_length), {"shape", "[2, 4, 4, 6]"}));
  const auto mixed = refusal("fovea::combine::merge", result, [&] {
    fovea::combine::merge(fovea::with_log_sum(a.out, other_length.log_sum), b.both(), result.both());
  });
  CHECK(mentions(mixed, {"log_sum", "5", "4"}));
}
