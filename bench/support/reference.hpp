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

struct Row {
  Index batch, head, query;
};

// At most `most` rows from anywhere in the problem, the first and the last among them; always the same.
inline std::vector<Row> sample_rows(const Shape& shape, Index most) {
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
    rows.push_back({i / (shape.heads * shape.queries), i / shape.queries % shape.heads, i % shape.queries});
  }
  return rows;
}

// One output row [value_dim]; returns its log-sum-exp.
template <class Real, class T>
Real plain_row(const Input<T>& in, const Row& row, Real* out) {
  const Shape& shape = in.shape;
  const Index kv_head = row.head / (shape.heads / shape.kv_heads);
  const Real scale = 1 / std::sqrt(Real(shape.key_dim));
  std::vector<Real> weight(std::size_t(shape.keys), -std::numeric_limits<Real>::infinity());
  Real most = -std::numeric_limits<Real>::infinity();
  for (Index j = 0; j < shape.keys; ++j) {
    if (shape.pattern.sees && !shape.pattern.sees(row.query, j)) continue;
    Real score = 0;
    for (Index c = 0; c < shape.key_dim; ++c) {
      score += Real(in.q(row.batch, row.head, row.query, c)) * Real(in.k(row.batch, kv_head, j, c));
    }
    weight[std::size_t(j)] = scale * score;
    most = std::max(most, weight[std::size_t(j)]);
  }
  std::fill_n(out, shape.value_dim, Real(0));
  if (most == -std::numeric_limits<Real>::infinity()) return most;
  Real sum = 0;
  for (Index j = 0; j < shape.keys; ++j) {
    const Real w = std::exp(weight[std::size_t(j)] - most);
    if (w == 0) continue;
    sum += w;
    for (Index c = 0; c < shape.value_dim; ++c) out[c] += w * Real(in.v(row.batch, kv_head, j, c));
  }
  for (Index c = 0; c < shape.value_dim; ++c) out[c] /= sum;
  return most + std::log(sum);
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
