// One registration makes a method's benches:
//
//   const bool added = bench::add("dense/scaled_dot_product", bench::dense_shapes(),
//       [](const auto& in, auto&& out, const auto& executor) {
//         fovea::scaled_dot_product(in.q, in.k, in.v, out, {.causal = in.shape.pattern.label == "causal"}, executor);
//       });
//
// Each shape runs with one and with two threads and is timed, held against the machine's limits measured just before
// and after, and checked on a sample of rows against softmax over the keys that the shape's pattern shows. The lambda
// also gets outputs with a log-sum; a functor that takes tensors only is checked without. add<float, double> for
// methods whose shapes include f64.
//
// A method that approximates dense attention is handed over as bench::method(call) with what it keeps or its own
// definition; see method.hpp. Dense attention at the same shapes runs beside every method.
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

#include "accuracy.hpp"
#include "input.hpp"
#include "machine.hpp"
#include "method.hpp"
#include "reference.hpp"

namespace bench {

// A problem that is ready to run. Everything here is set up once and used by all repetitions.
struct Prepared {
  std::function<void()> call;
  std::function<Accuracy()> check;                // of the output that `call` left
  std::shared_ptr<const fovea::exec::Pool> pool;  // its threads
  const void* keys = nullptr;
  const void* values = nullptr;
  std::optional<double> flops = {};   // operations, where the kept pairs do not give them
  std::optional<double> bytes = {};   // memory that has to be read, where it is not K and V
  std::vector<Bytes> areas = {};      // where it lies; some other memory of the same size when empty
  const void* out = nullptr;          // the output
  std::function<double()> kept = {};  // share of the shown pairs that the method keeps, where it selects
};

using Prepare = std::function<Prepared(const Shape&)>;

// Remembers a method; `type` is that of the shapes which `prepare` takes.
bool add_prepared(const std::string& name, const std::string& type, const std::vector<Shape>& shapes, Prepare prepare,
                  const Details& details = {});

// One of them.
struct Registered {
  std::string name, type;
  std::vector<Shape> shapes;
  Prepare prepare;
  Details details;
};
const std::vector<Registered>& registered();  // by name, those of one name in the order in which they were added

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
  ready.out = out->data();
  return ready;
}

template <class T, class Call, class... Others>
Prepared prepare(const Shape& shape, const Method<Call, Others...>& method) {
  using M = Method<Call, Others...>;
  static_assert(M::selects || M::by_row || M::by_head, "a method needs keeps, row_reference or head_reference");
  using Pool = fovea::exec::Pool;
  using State = decltype(method.start(std::declval<const Input<T>&>(), std::declval<const Pool&>()));
  const auto in = std::make_shared<const Input<T>>(make_input<T>(shape));
  const auto out = std::make_shared<Tensor<T>>(shape.batch, shape.heads, shape.queries, shape.value_dim);
  const auto pool = std::make_shared<const Pool>(shape.threads);
  const auto made = std::make_shared<const State>(method.start(*in, *pool));
  const auto state = std::make_shared<State>(*made);
  Prepared ready;
  ready.call = [=] { method.run(*in, *state, *out, *pool); };
  ready.check = [=] { return method_accuracy(*in, *made, *out, method, *pool); };
  ready.pool = pool;
  ready.keys = in->k.data();
  ready.values = in->v.data();
  ready.out = out->data();
  if (method.details.flops) ready.flops = method.details.flops(shape);
  if (method.details.bytes) ready.bytes = method.details.bytes(shape);
  if constexpr (M::selects) {
    ready.kept = [=] {
      State selecting = *made;
      return kept_share(in->shape, method.kept(*in, selecting, *pool));
    };
  }
  return ready;
}

template <class... Types, class Call>
bool add(const std::string& name, const std::vector<Shape>& shapes, Call call) {
  Details details;
  if constexpr (requires { call.details; }) details = call.details;
  const auto add_type = [&]<class T>(T) {
    const std::string type = std::is_same_v<T, float> ? "f32" : "f64";
    return add_prepared(
        name, type, shapes, [call](const Shape& shape) { return prepare<T>(shape, call); }, details);
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
  int repetitions = 5;          // of dense attention; three at most of others
  double budget_seconds = 0;    // samples become shorter when the run would take longer; 0: they do not
};

// Hands the chosen benches to Google Benchmark.
void register_selected(const Selection& selection);
// Whether the selection has something of this method, in a long run.
bool is_selected(const Registered& method, const Selection& selection);
// Names of the benches that failed so far.
const std::vector<std::string>& failures();

}  // namespace bench
