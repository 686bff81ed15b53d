// What a bench of an approximate method says about it, beside the call that is timed:
//
//   bench::method(call)                what is timed: call(in, out, executor), or call(in, state, out, executor)
//       .state(make)                   make(in, executor): set up once a problem and outside the time. The call may
//                                      change it; the check starts from the state as it was made
//       .keeps(kept)                   kept(in, executor) or kept(in, state, executor): the bench::Kept of this input,
//                                      as the method itself selects. The result is checked against softmax over them
//       .row_reference(f)              f(in, row, Real* out) or f(in, state, row, Real* out): a row by the method's own
//                                      definition; called with Real double, and with float to see what a plain loop
//                                      would make of it
//       .head_reference(f)             f(head) or f(head, state): a head's whole output [N x E] from a Head<Real>, for
//                                      what cannot be had row by row. Problems of more than 1024 tokens are checked on
//                                      the first of them
//       .flops(f)                      f(shape): operations, where they are not 2 (D + E) for each kept pair
//       .bytes(f)                      f(shape): memory that has to be read, where it is not the kept share of K and V
//       .own_definition()              does not mean to approximate dense attention: its distance is not reported
//       .on_grid()                     its tokens are places of a grid: its map is drawn on one
//       .recalls(forms)                the forms in which it does the task of associative recall (recall.hpp)
//
// A method has keeps, or a reference, or both. Queries see what the pattern of the shape shows and of that what the
// method keeps; the pattern alone is what dense attention beside it does.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "accuracy.hpp"
#include "kept.hpp"
#include "shares.hpp"

namespace bench {

template <class Real>
using Matrix = Eigen::Matrix<Real, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// One head of a problem.
template <class Real>
struct Head {
  const Shape& shape;
  Index batch, head, kv_head;
  Matrix<Real> q, k, v;  // [N x D], [M x D], [M x E]
};

template <class Real, class T>
Head<Real> head_of(const Input<T>& in, Index batch, Index head) {
  using Map = Eigen::Map<const Matrix<T>>;
  const Shape& s = in.shape;
  const Index kv_head = head / (s.heads / s.kv_heads);
  return {s,
          batch,
          head,
          kv_head,
          Map(&in.q(batch, head, 0, 0), s.queries, s.key_dim).template cast<Real>(),
          Map(&in.k(batch, kv_head, 0, 0), s.keys, s.key_dim).template cast<Real>(),
          Map(&in.v(batch, kv_head, 0, 0), s.keys, s.value_dim).template cast<Real>()};
}

struct Nothing {};

// What becomes of the strengths with which tokens are written, where a method has them, and of their keys.
enum class Writes {
  own,     // as the bench has them
  all,     // every token with strength one
  values,  // the values of the pairs with strength one, nothing else: the gate of one who knows
};

// How a method does the task of associative recall.
struct RecallForm {
  std::string what = {};  // tells several forms of a method apart
  Writes writes = Writes::own;
  std::vector<Index> dims = {64};
};

// What is known of a method beside its functions.
struct Details {
  std::function<double(const Shape&)> flops = {}, bytes = {};
  bool approximates = true;
  bool on_grid = false;
  std::vector<RecallForm> recall = {{}};
};

template <class Call, class State = Nothing, class Keeps = Nothing, class RowReference = Nothing,
          class HeadReference = Nothing>
struct Method {
  Call call;
  State make_state;
  Keeps make_kept;
  RowReference own_row;
  HeadReference own_head;
  Details details = {};

  static constexpr bool has_state = !std::is_same_v<State, Nothing>;
  static constexpr bool selects = !std::is_same_v<Keeps, Nothing>;
  static constexpr bool by_row = !std::is_same_v<RowReference, Nothing>;
  static constexpr bool by_head = !std::is_same_v<HeadReference, Nothing>;

  template <class F>
  Method<Call, F, Keeps, RowReference, HeadReference> state(F f) const {
    return {call, std::move(f), make_kept, own_row, own_head, details};
  }
  template <class F>
  Method<Call, State, F, RowReference, HeadReference> keeps(F f) const {
    return {call, make_state, std::move(f), own_row, own_head, details};
  }
  template <class F>
  Method<Call, State, Keeps, F, HeadReference> row_reference(F f) const {
    return {call, make_state, make_kept, std::move(f), own_head, details};
  }
  template <class F>
  Method<Call, State, Keeps, RowReference, F> head_reference(F f) const {
    return {call, make_state, make_kept, own_row, std::move(f), details};
  }
  Method flops(std::function<double(const Shape&)> f) const {
    return changed([&](Details& d) { d.flops = std::move(f); });
  }
  Method bytes(std::function<double(const Shape&)> f) const {
    return changed([&](Details& d) { d.bytes = std::move(f); });
  }
  Method own_definition() const {
    return changed([](Details& d) { d.approximates = false; });
  }
  Method on_grid() const {
    return changed([](Details& d) { d.on_grid = true; });
  }
  Method recalls(std::vector<RecallForm> forms) const {
    return changed([&](Details& d) { d.recall = std::move(forms); });
  }

  // The functions as they are called, whether they want the state or not.
  template <class T, class Executor>
  auto start(const Input<T>& in, const Executor& executor) const {
    if constexpr (has_state) {
      return make_state(in, executor);
    } else {
      return Nothing{};
    }
  }
  template <class T, class Start, class Executor>
  void run(const Input<T>& in, Start& state, Tensor<T>& out, const Executor& executor) const {
    if constexpr (has_state) {
      call(in, state, out, executor);
    } else {
      call(in, out, executor);
    }
  }
  template <class T, class Start, class Executor>
  Kept kept(const Input<T>& in, Start& state, const Executor& executor) const {
    if constexpr (std::is_invocable_v<const Keeps&, const Input<T>&, Start&, const Executor&>) {
      return make_kept(in, state, executor);
    } else {
      return make_kept(in, executor);
    }
  }
  template <class Real, class T, class Start>
  void reference(const Input<T>& in, Start& state, const Row& row, Real* out) const {
    if constexpr (std::is_invocable_v<const RowReference&, const Input<T>&, Start&, const Row&, Real*>) {
      own_row(in, state, row, out);
    } else {
      own_row(in, row, out);
    }
  }
  template <class Real, class T, class Start>
  Matrix<Real> reference(const Input<T>& in, Start& state, Index batch, Index head) const {
    const Head<Real> one = head_of<Real>(in, batch, head);
    if constexpr (std::is_invocable_v<const HeadReference&, const Head<Real>&, Start&>) {
      return own_head(one, state);
    } else {
      return own_head(one);
    }
  }

 private:
  template <class F>
  Method changed(F change) const {
    Method other = *this;
    change(other.details);
    return other;
  }
};

template <class Call>
Method<Call> method(Call call) {
  return {std::move(call), {}, {}, {}, {}, {}};
}

// How far `out` is from what the method should give. `state` is as it was made.
template <class T, class M, class State>
void check_against_own(Accuracy& result, const Input<T>& in, State& state, const Tensor<T>& out, const M& method,
                       const std::optional<Kept>& kept) {
  using Exact = ExactFor<T>;
  const Shape& shape = in.shape;
  RelativeError error, naive;
  std::vector<Exact> exact(std::size_t(shape.value_dim)), exact_weight;
  std::vector<T> plain(exact.size()), plain_weight;
  Matrix<Exact> exact_head;
  Matrix<T> plain_head;
  std::pair<Index, Index> head{-1, -1};
  for (const Row& row : sample_rows(shape, 64, M::by_head)) {
    if constexpr (M::by_head) {
      if (head != std::pair{row.batch, row.head}) {
        head = {row.batch, row.head};
        exact_head = method.template reference<Exact>(in, state, row.batch, row.head);
        plain_head = method.template reference<T>(in, state, row.batch, row.head);
      }
      for (Index c = 0; c < shape.value_dim; ++c) {
        exact[std::size_t(c)] = exact_head(row.query, c);
        plain[std::size_t(c)] = plain_head(row.query, c);
      }
    } else if constexpr (M::by_row) {
      method.reference(in, state, row, exact.data());
      method.reference(in, state, row, plain.data());
    } else {
      const std::vector<char> seen = seen_keys(shape, row, kept);
      softmax_row(in, row, seen, exact.data(), exact_weight);
      softmax_row(in, row, seen, plain.data(), plain_weight);
    }
    for (Index c = 0; c < shape.value_dim; ++c) {
      const double wanted = double(exact[std::size_t(c)]);
      error.add(double(out(row.batch, row.head, row.query, c)), wanted);
      naive.add(double(plain[std::size_t(c)]), wanted);
    }
  }
  result.error = error.value();
  result.naive_error = naive.value();
}

// How far `out` is from dense attention, and how much of it the kept keys hold.
template <class T>
void compare_with_dense(Accuracy& result, const Input<T>& in, const Tensor<T>& out, const std::optional<Kept>& kept) {
  const auto dense = dense_rows(in, false);
  RelativeError error;
  double mass = 0;
  for (std::size_t r = 0; r < dense->rows.size(); ++r) {
    const Row& row = dense->rows[r];
    for (Index c = 0; c < in.shape.value_dim; ++c) {
      error.add(double(out(row.batch, row.head, row.query, c)), double(dense->out[r][std::size_t(c)]));
    }
    if (!kept) continue;
    const std::vector<char> seen = seen_keys(in.shape, row, kept);
    for (std::size_t j = 0; j < seen.size(); ++j) mass += seen[j] ? double(dense->weights[r][j]) : 0;
  }
  result.dense_error = error.value();
  if (kept) result.mass = mass / double(dense->rows.size());
}

// The first tokens of a problem. `shape` outlives the result.
template <class T>
Input<T> first_tokens(const Input<T>& in, const Shape& shape) {
  const auto take = [](const Tensor<T>& from, Index length) {
    auto extents = from.dimensions();
    extents[2] = length;
    return std::make_shared<const Tensor<T>>(from.slice(Eigen::array<Index, 4>{0, 0, 0, 0}, extents));
  };
  return {shape, take(in.q, shape.queries), take(in.k, shape.keys), take(in.v, shape.keys)};
}

// Of the output that the timed calls left. A method with a state, which they may have changed, runs again from the
// start.
template <class T, class M, class State, class Executor>
Accuracy method_accuracy(const Input<T>& in, const State& made, const Tensor<T>& timed, const M& method,
                         const Executor& executor) {
  const auto run = [&](const Input<T>& input, State state) {
    const Shape& s = input.shape;
    Tensor<T> out(s.batch, s.heads, s.queries, s.value_dim);
    out.setConstant(std::numeric_limits<T>::quiet_NaN());
    method.run(input, state, out, executor);
    return out;
  };
  Accuracy result;
  result.own = true;
  const Tensor<T> out = M::has_state ? run(in, made) : timed;
  State selecting = made;  // what was kept may refer to it
  std::optional<Kept> kept;
  if constexpr (M::selects) kept = method.kept(in, selecting, executor);
  if (method.details.approximates) compare_with_dense(result, in, out, kept);
  if (kept) result.kept = kept_share(in.shape, *kept);
  if (in.shape.table == "mask") result.tiles = tile_share(in.shape, kept);
  const std::optional<Shape> first = M::by_head ? shortened(in.shape) : std::nullopt;
  if (first) {
    const Input<T> few = first_tokens(in, *first);
    const State few_made = method.start(few, executor);
    State state = few_made;
    check_against_own(result, few, state, run(few, few_made), method, std::nullopt);
  } else {
    State state = made;
    check_against_own(result, in, state, out, method, kept);
  }
  return result;
}

}  // namespace bench
