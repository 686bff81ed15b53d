// The task of associative recall that the benchmarks set: what its examples promise, and what a loop of each mechanism
// retrieves.
#include "../../bench/recall/mqar.hpp"

#include <cmath>
#include <set>

#include "support/catch.hpp"

using namespace bench::recall;

namespace {

std::vector<Example> some_examples(const Setting& setting, int count) {
  std::mt19937_64 engine(1);
  std::vector<Example> examples;
  for (int n = 0; n < count; ++n) examples.push_back(make_example(setting, engine));
  return examples;
}

enum class Mechanism { softmax, additive, delta };

// Outputs at the labels by a loop over the tokens; with a gate only the values of the pairs are written.
Rows outputs(const Circuit& c, const Example& example, const Setting& setting, Mechanism mechanism, bool gate) {
  const Index length = c.q.rows(), dim = c.q.cols();
  Rows all = Rows::Zero(length, dim), state = Rows::Zero(dim, dim);
  for (Index t = 0; t < length; ++t) {
    if (mechanism == Mechanism::softmax) {
      const Eigen::RowVectorXf scores = c.q.row(t) * c.k.topRows(t + 1).transpose() / std::sqrt(float(dim));
      const Eigen::RowVectorXf weights = (scores.array() - scores.maxCoeff()).exp();
      all.row(t) = weights / weights.sum() * c.v.topRows(t + 1);
      continue;
    }
    const Eigen::RowVectorXf key = c.k.row(t) / std::sqrt(float(dim));  // of length one, or zero
    Eigen::RowVectorXf value = c.v.row(t);
    if (mechanism == Mechanism::delta) value -= key * state;
    if (!gate || is_value_of_pair(t, setting)) state += key.transpose() * value;
    all.row(t) = c.q.row(t) * state;
  }
  Rows at_labels(Index(example.labels.size()), dim);
  for (std::size_t n = 0; n < example.labels.size(); ++n) at_labels.row(Index(n)) = all.row(example.labels[n].place);
  return at_labels;
}

constexpr int examples = 60;

double retrieved(const Setting& setting, Index dim, Mechanism mechanism, bool gate = false) {
  std::mt19937_64 engine(2);
  const Rows embeddings = make_embeddings(setting.vocabulary, dim, engine);
  double sum = 0;
  for (const Example& example : some_examples(setting, examples)) {
    const Rows got = outputs(make_circuit(example, embeddings), example, setting, mechanism, gate);
    sum += retrieved_share(got, example.labels, embeddings) / examples;
  }
  return sum;
}

bool near(double got, double wanted) {
  UNSCOPED_INFO("got " << got << ", wanted " << wanted);
  return std::abs(got - wanted) <= 0.03;
}

}  // namespace

TEST_CASE("every pair has one label, an odd place before it holds the answer behind the key", "[bench]") {
  for (const Setting& setting : {Setting{64, 4}, Setting{256, 16}, Setting{256, 64}, Setting{512, 128}}) {
    for (const Example& example : some_examples(setting, 5)) {
      REQUIRE(Index(example.tokens.size()) == setting.length);
      REQUIRE(Index(example.labels.size()) == setting.pairs);
      for (const Label& label : example.labels) {
        const Index key = example.tokens[std::size_t(label.place)];
        CHECK(label.place >= 2 * setting.pairs);
        bool found = false;
        for (Index t = 1; t < label.place; t += 2) {
          found =
              found || (example.tokens[std::size_t(t)] == label.answer && example.tokens[std::size_t(t - 1)] == key);
        }
        CHECK(found);
      }
    }
  }
}

TEST_CASE("no key and no value stands in the context twice, and each is of its half of the vocabulary", "[bench]") {
  const Setting setting{512, 128};
  for (const Example& example : some_examples(setting, 5)) {
    std::set<Index> keys, values;
    for (Index n = 0; n < setting.pairs; ++n) {
      keys.insert(example.tokens[std::size_t(2 * n)]);
      values.insert(example.tokens[std::size_t(2 * n + 1)]);
    }
    CHECK(Index(keys.size()) == setting.pairs);
    CHECK(Index(values.size()) == setting.pairs);
    CHECK(*keys.begin() >= 1);
    CHECK(*keys.rbegin() < setting.vocabulary / 2);
    CHECK(*values.begin() >= setting.vocabulary / 2);
    CHECK(*values.rbegin() < setting.vocabulary);
  }
}

TEST_CASE("four tokens a pair leave no slot free, and answers are not shown", "[bench]") {
  const Setting setting{256, 64, 8192, false};
  for (const Example& example : some_examples(setting, 5)) {
    for (Index t = 2 * setting.pairs; t < setting.length; ++t) {
      CHECK((example.tokens[std::size_t(t)] != 0) == (t % 2 == 0));
    }
  }
}

TEST_CASE("words that fill are any words, and change nothing else", "[bench]") {
  const Setting setting{256, 16};
  std::mt19937_64 engine(1);
  const Example filled = make_example(setting, engine);
  engine.seed(1);
  const Example empty = make_example({256, 16, 8192, false}, engine);
  Index zeros = 0;
  for (std::size_t t = 0; t < filled.tokens.size(); ++t) {
    if (empty.tokens[t] != 0) CHECK(filled.tokens[t] == empty.tokens[t]);
    zeros += filled.tokens[t] == 0 ? 1 : 0;
  }
  CHECK(zeros <= 2);
  for (std::size_t n = 0; n < filled.labels.size(); ++n) CHECK(filled.labels[n].place == empty.labels[n].place);
}

TEST_CASE("keys come back soon rather than late", "[bench]") {
  // Of 64 slots with weights i^-0.99 the first is drawn first with a probability of one over their sum.
  double sum = 0;
  std::vector<double> weights;
  for (int i = 1; i <= 64; ++i) {
    weights.push_back(std::pow(i, -0.99));
    sum += weights.back();
  }
  std::mt19937_64 engine(3);
  int first = 0;
  for (int n = 0; n < 20000; ++n) first += draw_without_replacement(weights, 1, engine).front() == 0 ? 1 : 0;
  CHECK(std::abs(first / 20000.0 - 1 / sum) < 0.015);
}

TEST_CASE("settings without room are refused", "[bench]") {
  std::mt19937_64 engine(1);
  CHECK_THROWS_AS(make_example({64, 17}, engine), std::invalid_argument);
  CHECK_THROWS_AS(make_example({63, 4}, engine), std::invalid_argument);
  CHECK_THROWS_AS(make_example({64, 4, 64}, engine), std::invalid_argument);
}

TEST_CASE("softmax retrieves everything", "[bench]") {
  CHECK(retrieved({64, 4}, 64, Mechanism::softmax) >= 0.997);
  CHECK(retrieved({256, 64}, 64, Mechanism::softmax) >= 0.997);
}

TEST_CASE("a sum of products forgets with the tokens that it holds", "[bench]") {
  CHECK(near(retrieved({64, 4}, 64, Mechanism::additive), 1.0));
  CHECK(near(retrieved({256, 16}, 64, Mechanism::additive), 0.94));
  CHECK(near(retrieved({256, 64}, 64, Mechanism::additive), 0.77));
  CHECK(near(retrieved({512, 128}, 64, Mechanism::additive), 0.34));
  CHECK(near(retrieved({256, 16}, 32, Mechanism::additive), 0.52));
}

TEST_CASE("the delta rule that writes every token forgets sooner", "[bench]") {
  CHECK(near(retrieved({64, 4}, 64, Mechanism::delta), 0.975));
  CHECK(near(retrieved({256, 16}, 64, Mechanism::delta), 0.60));
  CHECK(near(retrieved({256, 64}, 64, Mechanism::delta), 0.04));
}

TEST_CASE("one word that fills the sequence is in the way of a sum of products", "[bench]") {
  CHECK(retrieved({256, 16, 8192, false}, 64, Mechanism::additive) < 0.7);
  CHECK(retrieved({256, 16, 8192, false}, 64, Mechanism::delta) > 0.9);
}

TEST_CASE("a gate that knows what to write keeps more", "[bench]") {
  CHECK(near(retrieved({256, 64}, 64, Mechanism::additive, true), 0.999));
  CHECK(near(retrieved({256, 64}, 64, Mechanism::delta, true), 0.866));
  CHECK(near(retrieved({512, 128}, 64, Mechanism::additive, true), 0.94));
  CHECK(near(retrieved({512, 128}, 64, Mechanism::delta, true), 0.449));
}
