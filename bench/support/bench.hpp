// One registration makes a method's benches:
//
//   const bool added = bench::add("dense/scaled_dot_product", bench::dense_shapes(),
//       [](const auto& in, auto&& out, const auto& executor) {
//         fovea::scaled_dot_product(in.q, in.k, in.v, out, {.causal = in.shape.pattern.label == "causal"}, executor);
//       });
//
// Each shape runs with one and with two threads and is timed, held against the machine's limits measured just before
// and after, and checked on a sample of rows. The lambda also gets outputs with a log-sum; a functor that takes tensors
// only is checked without. add<float, double> for methods whose shapes include f64.
#pragma once

#include <benchmark/benchmark.h>

#include <chrono>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <fovea/core/problem.hpp>
#include <fovea/exec/pool.hpp>

#include "input.hpp"
#include "reference.hpp"

namespace bench {

// How far the timed output is from the truth.
struct Accuracy {
  double error = 0;                            // sampled rows against double
  double naive_error = 0;                      // the same rows by a plain loop in the bench's type
  std::optional<double> log_sum_error;         // the same rows
  std::optional<double> stored_error;          // every row against the stored output
  std::optional<double> stored_log_sum_error;  // every row against the stored log-sums
};

// A problem that is ready to run. Everything here is set up once and used by all repetitions.
struct Prepared {
  std::function<void()> call;
  std::function<Accuracy()> check;          // of the output that `call` left
  std::shared_ptr<fovea::exec::Pool> pool;  // its threads
  const void* keys = nullptr;
  const void* values = nullptr;
};

using Prepare = std::function<Prepared(const Shape&)>;

// Remembers a method; `type` is that of the shapes which `prepare` takes.
bool add_prepared(const std::string& name, const std::string& type, const std::vector<Shape>& shapes, Prepare prepare);

template <class T>
Accuracy accuracy(const Input<T>& in, const Tensor<T>& out, const LogSums<T>* log_sum) {
  Accuracy result;
  RelativeError error, naive, log_sums;
  using Exact = std::conditional_t<std::is_same_v<T, float>, double, long double>;
  std::vector<Exact> exact(std::size_t(in.shape.value_dim));
  std::vector<T> plain(std::size_t(in.shape.value_dim));
  for (const Row& row : sample_rows(in.shape, 64)) {
    const double wanted = double(plain_row(in, row, exact.data()));
    plain_row(in, row, plain.data());
    for (Index c = 0; c < in.shape.value_dim; ++c) {
      error.add(double(out(row.batch, row.head, row.query, c)), double(exact[std::size_t(c)]));
      naive.add(double(plain[std::size_t(c)]), double(exact[std::size_t(c)]));
    }
    if (log_sum) log_sums.add(double((*log_sum)(row.batch, row.head, row.query)), wanted);
  }
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

template <class T, class Call>
Prepared prepare(const Shape& shape, const Call& call) {
  using Pool = fovea::exec::Pool;
  const auto in = std::make_shared<const Input<T>>(make_input<T>(shape));
  const auto out = std::make_shared<Tensor<T>>(shape.batch, shape.heads, shape.queries, shape.value_dim);
  out->setConstant(std::numeric_limits<T>::quiet_NaN());
  const auto pool = std::make_shared<Pool>(shape.threads);
  Prepared ready;
  ready.call = [=] { call(*in, *out, std::as_const(*pool)); };
  ready.check = [=] {
    if constexpr (std::is_invocable_v<const Call&, const Input<T>&, fovea::WithLogSum<Tensor<T>, LogSums<T>>,
                                      const Pool&>) {
      Tensor<T> again(out->dimensions());
      LogSums<T> log_sum(shape.batch, shape.heads, shape.queries);
      log_sum.setConstant(std::numeric_limits<T>::quiet_NaN());
      call(*in, fovea::with_log_sum(again, log_sum), std::as_const(*pool));
      return accuracy(*in, *out, &log_sum);
    } else {
      return accuracy<T>(*in, *out, nullptr);
    }
  };
  ready.pool = pool;
  ready.keys = in->k.data();
  ready.values = in->v.data();
  return ready;
}

template <class... Types, class Call>
bool add(const std::string& name, const std::vector<Shape>& shapes, Call call) {
  const auto add_type = [&]<class T>(T) {
    const std::string type = std::is_same_v<T, float> ? "f32" : "f64";
    return add_prepared(name, type, shapes, [call](const Shape& shape) { return prepare<T>(shape, call); });
  };
  if constexpr (sizeof...(Types) == 0) {
    return add_type(float{});
  } else {
    return (add_type(Types{}) && ...);
  }
}

// What the command line chose.
struct Selection {
  bool quick = false;
  std::string filter;  // regular expression on names
  std::vector<Index> threads = {1, 2};
  std::vector<Shape> instead;   // these shapes for every method that has a shape with the same pattern and type
  double sample_seconds = 0.1;  // length of one timed sample
  int repetitions = 5;
};

// Hands the chosen benches to Google Benchmark; returns how many samples will be taken.
Index register_selected(const Selection& selection);
// Names of the benches that failed so far.
const std::vector<std::string>& failures();

}  // namespace bench
