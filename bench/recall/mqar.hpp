// Multi-query associative recall: sequences in which pairs of a key and a value come first and later some of the tokens
// are those keys again, each to be answered by its value.
// Arora et al., "Zoology: Measuring and Improving Recall in Efficient Language Models", ICLR 2024, arXiv:2312.04927.
//
//   key_0 value_0 key_1 value_1 ... | x x key_7 x x x key_2 x ...        answers value_7 and value_2, not shown
//
// x is any word, or always word 0, which fills nearly a whole sequence then and a memory without softmax with it.
// And queries, keys and values of an attention layer that solves it without training: the circuit of an induction head.
// Token t asks for what followed an earlier token like itself:
//
//   q_t = sqrt(d) e(x_t),   k_t = sqrt(d) e(x_{t-1}),   v_t = e(x_t),   k_0 = 0
//
// with embeddings e of length one in random directions, so that softmax's scores are sqrt(d) e . e'. The answer is the
// token of the value half of the vocabulary whose embedding has the largest product with the output. What is retrieved
// measures the memory of the mechanism alone.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <stdexcept>
#include <utility>
#include <vector>

namespace bench::recall {

using Index = Eigen::Index;
using Rows = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct Setting {
  Index length = 0, pairs = 0;  // tokens, an even number, and pairs of key and value, at most a quarter of them
  Index vocabulary = 8192;      // keys are 1 ... half - 1, values from half on
  bool random_fill = true;      // any word where nothing is asked, or word 0
};

// A place whose token is a key that came before, and the value that came with it.
struct Label {
  Index place = 0, answer = 0;
};

struct Example {
  std::vector<Index> tokens;
  std::vector<Label> labels;  // one for each key, in the order of the pairs
};

// The first `count` places of a random order of 0 ... weights.size() - 1, drawn one after the other with these weights:
// the smallest of exponential times with these rates.
inline std::vector<Index> draw_without_replacement(const std::vector<double>& weights, Index count,
                                                   std::mt19937_64& engine) {
  std::exponential_distribution<double> time;
  std::vector<std::pair<double, Index>> times;
  for (std::size_t i = 0; i < weights.size(); ++i) times.emplace_back(time(engine) / weights[i], Index(i));
  std::sort(times.begin(), times.end());
  std::vector<Index> drawn;
  for (Index i = 0; i < count; ++i) drawn.push_back(times[std::size_t(i)].second);
  return drawn;
}

inline Example make_example(const Setting& s, std::mt19937_64& engine) {
  if (s.length % 2 != 0 || s.pairs < 1 || 4 * s.pairs > s.length || s.vocabulary <= s.length) {
    throw std::invalid_argument("associative recall needs an even length of four tokens a pair, and more words");
  }
  const Index half = s.vocabulary / 2, slots = (s.length - 2 * s.pairs) / 2;
  const auto distinct = [&](Index first, Index last) {
    std::vector<Index> all(static_cast<std::size_t>(last - first)), some;
    std::iota(all.begin(), all.end(), first);
    std::sample(all.begin(), all.end(), std::back_inserter(some), s.pairs, engine);
    std::shuffle(some.begin(), some.end(), engine);
    return some;
  };
  const std::vector<Index> keys = distinct(1, half), values = distinct(half, s.vocabulary);

  // Keys come back soon: the weight of a slot falls nearly as one over its distance.
  constexpr double power = 0.01;
  std::vector<double> weights;
  for (Index i = 1; i <= slots; ++i) weights.push_back(power * std::pow(double(i), power - 1));
  const std::vector<Index> gaps = draw_without_replacement(weights, s.pairs, engine);

  Example example{std::vector<Index>(std::size_t(s.length), 0), {}};
  for (Index n = 0; n < s.pairs; ++n) {
    const auto i = std::size_t(n);
    const Index place = 2 * s.pairs + 2 * gaps[i];
    example.tokens[2 * i] = keys[i];
    example.tokens[2 * i + 1] = values[i];
    example.tokens[std::size_t(place)] = keys[i];
    example.labels.push_back({place, values[i]});
  }
  if (s.random_fill) {
    std::uniform_int_distribution<Index> any(0, s.vocabulary - 1);
    for (Index& token : example.tokens) token = token == 0 ? any(engine) : token;
  }
  return example;
}

// Embeddings of length one, a row for each word.
inline Rows make_embeddings(Index vocabulary, Index dim, std::mt19937_64& engine) {
  std::normal_distribution<float> normal;
  Rows e = Rows::NullaryExpr(vocabulary, dim, [&] { return normal(engine); });
  e.rowwise().normalize();
  return e;
}

// Queries, keys and values [T x d] of an example.
struct Circuit {
  Rows q, k, v;
};

inline Circuit make_circuit(const Example& example, const Rows& embeddings) {
  const Index length = Index(example.tokens.size()), dim = embeddings.cols();
  Circuit c{Rows(length, dim), Rows::Zero(length, dim), Rows(length, dim)};
  const float size = std::sqrt(float(dim));
  for (Index t = 0; t < length; ++t) {
    const auto e = embeddings.row(example.tokens[std::size_t(t)]);
    c.q.row(t) = size * e;
    c.v.row(t) = e;
    if (t + 1 < length) c.k.row(t + 1) = size * e;
  }
  return c;
}

// Whether a token is the value of a pair: what a layer that knows would write, and nothing else.
inline bool is_value_of_pair(Index place, const Setting& s) { return place < 2 * s.pairs && place % 2 == 1; }

// Share of the labels that the outputs at their places, one row [d] for each label, answer rightly.
inline double retrieved_share(const Rows& outputs, const std::vector<Label>& labels, const Rows& embeddings) {
  const Index half = embeddings.rows() / 2;
  const Rows products = outputs * embeddings.bottomRows(embeddings.rows() - half).transpose();
  Index right = 0;
  for (std::size_t n = 0; n < labels.size(); ++n) {
    const auto row = products.row(Index(n));
    Index best = 0;
    if (row.allFinite() && row.maxCoeff(&best) != 0 && half + best == labels[n].answer) ++right;
  }
  return double(right) / double(labels.size());
}

}  // namespace bench::recall
