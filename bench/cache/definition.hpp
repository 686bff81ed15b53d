// Rows of attention over a cache by the definition, and how far an output is from them.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <type_traits>
#include <vector>

#include <fovea/core/span.hpp>

#include "accuracy.hpp"

namespace bench::cached {

// Hands out tokens of a kv head in double: [tokens, dim].
struct Reader {
  std::function<void(Index batch, Index kv_head, fovea::Span tokens, double*to)> keys, values;
};

using Values = std::vector<std::vector<double>>;  // [row][value_dim]

// Some rows of the first and the last kv head, of three sequences at most, with `most` keys or a few more in all.
inline std::vector<Row> some_rows(const Shape& s, double most) {
  std::vector<Index> batches = {0, s.batch / 2, s.batch - 1}, heads;
  const Index group = s.heads / s.kv_heads;
  for (const Index h : {Index{0}, group - 1, s.heads - group, s.heads - 1}) heads.push_back(h);
  for (auto* list : {&batches, &heads}) list->erase(std::unique(list->begin(), list->end()), list->end());
  const double pairs = double(batches.size()) * double(heads.size()) * double(s.keys);
  const Index queries = std::clamp<Index>(Index(most / pairs), 1, s.queries);
  std::vector<Row> rows;
  for (const Index b : batches) {
    for (const Index h : heads) {
      for (Index i = 0; i < queries; ++i)
        rows.push_back({b, h, queries == 1 ? s.queries - 1 : i * (s.queries - 1) / (queries - 1)});
    }
  }
  return rows;
}

// Softmax over the keys of each row's sequence, of `lengths` tokens, up to its own. In float as a plain loop does it.
template <class Real>
Values by_definition(const Shape& shape, const std::vector<Index>& lengths, const Tensor<float>& q,
                     const std::vector<Row>& rows, const Reader& reader) {
  constexpr Index piece = 1024;
  using Vector = Eigen::Matrix<Real, 1, Eigen::Dynamic>;
  using Rows = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  Values result(rows.size());
  for (std::size_t first = 0, last = 0; first < rows.size(); first = last) {
    const Index batch = rows[first].batch, kv_head = rows[first].head / (shape.heads / shape.kv_heads);
    while (last < rows.size() && rows[last].batch == batch &&
           rows[last].head / (shape.heads / shape.kv_heads) == kv_head)
      ++last;
    const Index length = lengths[std::size_t(batch)];
    std::vector<Vector> weights, sums;
    for (std::size_t r = first; r < last; ++r) {
      const Index seen = rows[r].query + length - q.dimension(2) + 1;
      weights.emplace_back(Vector::Constant(seen, Real(0)));
      sums.emplace_back(Vector::Zero(shape.value_dim));
    }
    Rows tokens(piece, std::max(shape.key_dim, shape.value_dim));
    for (Index begin = 0; begin < length; begin += piece) {
      const Index end = std::min(begin + piece, length);
      tokens.resize(end - begin, shape.key_dim);
      reader.keys(batch, kv_head, {begin, end}, tokens.data());
      for (std::size_t r = first; r < last; ++r) {
        Vector& weight = weights[r - first];
        const float* const query = &q(batch, rows[r].head, rows[r].query, 0);
        const Vector own = Eigen::Map<const Eigen::RowVectorXf>(query, shape.key_dim).template cast<Real>();
        for (Index j = begin; j < std::min<Index>(end, weight.size()); ++j) {
          Real score = 0;
          if constexpr (std::is_same_v<Real, double>) {
            score = tokens.row(j - begin).dot(own);
          } else {
            for (Index c = 0; c < shape.key_dim; ++c) score += own[c] * Real(tokens(j - begin, c));
          }
          weight[j] = score / std::sqrt(Real(shape.key_dim));
        }
      }
    }
    std::vector<Real> totals;
    for (Vector& weight : weights) {
      const Real most = weight.maxCoeff();
      Real total = 0;
      for (Index j = 0; j < weight.size(); ++j) total += weight[j] = std::exp(weight[j] - most);
      totals.push_back(total);
    }
    for (Index begin = 0; begin < length; begin += piece) {
      const Index end = std::min(begin + piece, length);
      tokens.resize(end - begin, shape.value_dim);
      reader.values(batch, kv_head, {begin, end}, tokens.data());
      for (std::size_t r = first; r < last; ++r) {
        const Vector& weight = weights[r - first];
        for (Index j = begin; j < std::min<Index>(end, weight.size()); ++j)
          sums[r - first] += weight[j] * tokens.row(j - begin).template cast<Real>();
      }
    }
    for (std::size_t r = first; r < last; ++r) {
      const Vector sum = sums[r - first] / totals[r - first];
      result[r].assign(sum.data(), sum.data() + sum.size());
    }
  }
  return result;
}

inline Values rows_of(const Tensor<float>& out, const std::vector<Row>& rows) {
  Values values;
  for (const Row& row : rows) {
    const float* const first = &out(row.batch, row.head, row.query, 0);
    values.emplace_back(first, first + out.dimension(3));
  }
  return values;
}

inline double distance(const Values& got, const Values& wanted) {
  RelativeError error;
  for (std::size_t r = 0; r < wanted.size(); ++r) {
    for (std::size_t c = 0; c < wanted[r].size(); ++c) error.add(got[r][c], wanted[r][c]);
  }
  return error.value();
}

}  // namespace bench::cached
