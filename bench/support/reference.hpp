// softmax(scale q K^T) V of single rows, by the definition: the yardstick in double, and what a plain loop in the
// bench's own type makes of it.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "input.hpp"

namespace bench {

// At most `most` rows from anywhere in the problem, the first and the last among them; always the same. With
// `two_heads` they are of the first head of all and of the last.
inline std::vector<Row> sample_rows(const Shape& shape, Index most, bool two_heads = false) {
  const Index all = shape.batch * shape.heads * shape.queries;
  std::vector<Index> flat;
  if (all <= most) {
    for (Index i = 0; i < all; ++i) flat.push_back(i);
  } else {
    flat = {0, all - 1};
    std::mt19937_64 engine(4);
    std::uniform_int_distribution<Index> any(0, all - 1);
    while (Index(flat.size()) < most) flat.push_back(any(engine));
  }
  std::vector<Row> rows;
  for (const Index i : flat) {
    Row row{i / (shape.heads * shape.queries), i / shape.queries % shape.heads, i % shape.queries};
    if (two_heads) {
      const bool last = 2 * i >= all;
      row.batch = last ? shape.batch - 1 : 0;
      row.head = last ? shape.heads - 1 : 0;
    }
    rows.push_back(row);
  }
  return rows;
}

// The keys that the pattern shows a row.
inline std::vector<char> visible_keys(const Shape& shape, const Row& row) {
  std::vector<char> seen(std::size_t(shape.keys), 1);
  if (shape.pattern.sees) {
    for (Index j = 0; j < shape.keys; ++j) seen[std::size_t(j)] = shape.pattern.sees(row, j);
  }
  return seen;
}

// One output row [value_dim] from the keys that are marked in `seen`; returns its log-sum-exp. `weight` becomes the
// softmax weight of each key.
template <class Real, class T>
Real softmax_row(const Input<T>& in, const Row& row, const std::vector<char>& seen, Real* out,
                 std::vector<Real>& weight) {
  const Shape& shape = in.shape;
  const Index kv_head = row.head / (shape.heads / shape.kv_heads);
  const Real scale = 1 / std::sqrt(Real(shape.key_dim));
  weight.assign(std::size_t(shape.keys), -std::numeric_limits<Real>::infinity());
  Real most = -std::numeric_limits<Real>::infinity();
  for (Index j = 0; j < shape.keys; ++j) {
    if (!seen[std::size_t(j)]) continue;
    Real score = 0;
    for (Index c = 0; c < shape.key_dim; ++c) {
      score += Real(in.q(row.batch, row.head, row.query, c)) * Real(in.k(row.batch, kv_head, j, c));
    }
    weight[std::size_t(j)] = scale * score;
    most = std::max(most, weight[std::size_t(j)]);
  }
  std::fill_n(out, shape.value_dim, Real(0));
  if (most == -std::numeric_limits<Real>::infinity()) {
    weight.assign(weight.size(), Real(0));
    return most;
  }
  Real sum = 0;
  for (Index j = 0; j < shape.keys; ++j) {
    Real& w = weight[std::size_t(j)];
    w = std::exp(w - most);
    if (w == 0) continue;
    sum += w;
    for (Index c = 0; c < shape.value_dim; ++c) out[c] += w * Real(in.v(row.batch, kv_head, j, c));
  }
  for (Index c = 0; c < shape.value_dim; ++c) out[c] /= sum;
  for (Real& w : weight) w /= sum;
  return most + std::log(sum);
}

// The same with every key that the pattern shows.
template <class Real, class T>
Real plain_row(const Input<T>& in, const Row& row, Real* out) {
  std::vector<Real> weight;
  return softmax_row(in, row, visible_keys(in.shape, row), out, weight);
}

// Root mean square of what was got less what was wanted, over that of what was wanted.
class RelativeError {
 public:
  void add(double got, double wanted) {
    difference_ += (got - wanted) * (got - wanted);
    size_ += wanted * wanted;
  }
  double value() const { return size_ > 0 ? std::sqrt(difference_ / size_) : std::sqrt(difference_); }

 private:
  double difference_ = 0, size_ = 0;
};

}  // namespace bench
