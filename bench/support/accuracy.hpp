// How far an output is from the truth: from the definition of what was computed, and for a method that approximates,
// from dense attention.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "input.hpp"
#include "reference.hpp"
#include "shares.hpp"

namespace bench {

struct Accuracy {
  bool own = false;                            // the definition is the method's own, or over the keys that it kept
  double error = 0;                            // sampled rows against the definition in double
  double naive_error = 0;                      // the same rows by a plain loop in the bench's type
  std::optional<double> log_sum_error;         // the same rows
  std::optional<double> storage_error;         // of caches: rows against the numbers before they were rounded
  std::optional<double> stored_error;          // every row against the stored output
  std::optional<double> stored_log_sum_error;  // every row against the stored log-sums
  std::optional<double> dense_error;           // sampled rows against dense attention, for a method that is not dense
  std::optional<double> mass;                  // softmax weight that dense attention gives the kept keys, mean of rows
  std::optional<double> kept;                  // pairs that the method keeps over those that the pattern shows
  std::optional<double> tiles;                 // of masks: pairs in tiles that hold a seen pair, over all pairs
};

// What a row is held against: double for float, long double for double.
template <class T>
using ExactFor = std::conditional_t<std::is_same_v<T, float>, double, long double>;

// Dense attention of sampled rows.
template <class T>
struct DenseRows {
  std::vector<Row> rows;
  std::vector<std::vector<ExactFor<T>>> out, weights;  // [row][value_dim], [row][key]
  std::vector<ExactFor<T>> log_sums;
};

// The last ones are kept, since many methods come back to them.
template <class T>
std::shared_ptr<const DenseRows<T>> dense_rows(const Input<T>& in, bool two_heads) {
  static std::list<std::pair<std::string, std::shared_ptr<const DenseRows<T>>>> made;
  Shape any_threads = in.shape;
  any_threads.threads = 0;
  const std::string name = any_threads.name() + (two_heads ? " two heads" : "");
  for (auto at = made.begin(); at != made.end(); ++at) {
    if (at->first != name) continue;
    made.splice(made.begin(), made, at);
    return made.front().second;
  }
  DenseRows<T> dense{sample_rows(in.shape, 64, two_heads), {}, {}, {}};
  for (const Row& row : dense.rows) {
    dense.out.emplace_back(std::size_t(in.shape.value_dim));
    dense.weights.emplace_back();
    dense.log_sums.push_back(
        softmax_row(in, row, visible_keys(in.shape, row), dense.out.back().data(), dense.weights.back()));
  }
  made.emplace_front(name, std::make_shared<const DenseRows<T>>(std::move(dense)));
  if (made.size() > 8) made.pop_back();
  return made.front().second;
}

// Of exact attention over the keys that the pattern shows.
template <class T>
Accuracy accuracy(const Input<T>& in, const Tensor<T>& out, const LogSums<T>* log_sum) {
  Accuracy result;
  RelativeError error, naive, log_sums;
  const auto dense = dense_rows(in, false);
  std::vector<T> plain(std::size_t(in.shape.value_dim));
  for (std::size_t r = 0; r < dense->rows.size(); ++r) {
    const Row& row = dense->rows[r];
    plain_row(in, row, plain.data());
    for (Index c = 0; c < in.shape.value_dim; ++c) {
      const double wanted = double(dense->out[r][std::size_t(c)]);
      error.add(double(out(row.batch, row.head, row.query, c)), wanted);
      naive.add(double(plain[std::size_t(c)]), wanted);
    }
    if (log_sum) log_sums.add(double((*log_sum)(row.batch, row.head, row.query)), double(dense->log_sums[r]));
  }
  if (in.shape.table == "mask") result.tiles = tile_share(in.shape, std::nullopt);
  result.error = error.value();
  result.naive_error = naive.value();
  if (log_sum) result.log_sum_error = log_sums.value();
  if (in.expected.size() > 0) {
    RelativeError all;
    for (Index i = 0; i < out.size(); ++i) all.add(double(out.data()[i]), double(in.expected.data()[i]));
    result.stored_error = all.value();
  }
  if (log_sum && in.expected_log_sum.size() > 0) {
    RelativeError all;
    for (Index i = 0; i < log_sum->size(); ++i)
      all.add(double(log_sum->data()[i]), double(in.expected_log_sum.data()[i]));
    result.stored_log_sum_error = all.value();
  }
  return result;
}

}  // namespace bench
