// What the tests of methods with a matrix state share: tokens with gates and strengths, the reference over batch and
// heads, and the properties that every such method has.
#pragma once

#include <fovea/exec/pool.hpp>
#include <fovea/parts/state/matrix_state.hpp>
#include <functional>
#include <string>
#include <vector>

#include "linear/memory.hpp"
#include "support/attention.hpp"
#include "support/parts.hpp"

namespace fovea::test {

template <class T>
struct Tokens {
  Inputs<T> in;
  Tensor3<T> beta, gate;  // [B,G,N]
  Tensor4<T> gates;       // [B,G,N,D]
  MatrixState<T> start;   // of some earlier tokens
};

// Keys of length one, strengths in (0, 2), decays from nearly one to strong.
template <class T>
Tokens<T> tokens(const Sizes& s, unsigned seed = 1) {
  Tokens<T> x{gaussian<T>(s, seed), Tensor3<T>(s.batch, s.kv_heads, s.keys), Tensor3<T>(s.batch, s.kv_heads, s.keys),
              Tensor4<T>(s.batch, s.kv_heads, s.keys, s.dim), MatrixState<T>(s.batch, s.kv_heads, s.dim, s.value_dim)};
  for (Index b = 0; b < s.batch; ++b) {
    for (Index g = 0; g < s.kv_heads; ++g) {
      for (Index t = 0; t < s.keys; ++t) {
        Eigen::Map<Eigen::Matrix<T, Eigen::Dynamic, 1>> key(row(x.in.k, b, g, t), s.dim);
        key /= std::sqrt(key.squaredNorm());
      }
    }
  }
  const auto log_sigmoid = [](T y) { return T(-std::log1p(std::exp(-double(y)))); };
  fill_gaussian(x.beta, seed + 100, 2);
  fill_gaussian(x.gate, seed + 101, 3);
  fill_gaussian(x.gates, seed + 102, 3);
  for (Index i = 0; i < x.beta.size(); ++i) x.beta.data()[i] = 2 * std::exp(log_sigmoid(x.beta.data()[i]));
  for (Index i = 0; i < x.gate.size(); ++i) x.gate.data()[i] = log_sigmoid(x.gate.data()[i]) / 4;
  for (Index i = 0; i < x.gates.size(); ++i) x.gates.data()[i] = log_sigmoid(x.gates.data()[i]) / 4;
  Tensor4<T> start(s.batch, s.kv_heads, s.dim, s.value_dim);
  fill_gaussian(start, seed + 103);
  for (Index b = 0; b < s.batch; ++b) {
    for (Index g = 0; g < s.kv_heads; ++g) {
      for (Index d = 0; d < s.dim; ++d) std::copy_n(row(start, b, g, d), s.value_dim, x.start.view().row(b, g, d));
    }
  }
  return x;
}

// How a method is called. chunk zero stands for the recurrent form; the state may be null.
template <class T>
struct Call {
  View<const T> q, k, v;
  const Tensor3<T>& beta;
  const Tensor3<T>& gate;
  const Tensor4<T>& gates;
  View<T> out;
  MatrixState<T>* state;
  Index chunk;
  Index threads = 1;
};

template <class T>
using Method = std::function<void(const Call<T>&)>;

// f(output or output with state, executor) for a call.
template <class T, class F>
void run_call(const Call<T>& call, const F& f) {
  auto out = call.out;
  const auto with = [&](const auto& executor) {
    if (call.state == nullptr) {
      f(out, executor);
    } else {
      f(with_state(out, *call.state), executor);
    }
  };
  if (call.threads > 1) {
    with(exec::Pool(call.threads));
  } else {
    with(exec::Serial{});
  }
}

template <class T>
struct Outcome {
  Tensor4<T> out;    // [B,H,N,E]
  Tensor4<T> state;  // [B,G,D,E]
};

template <class T>
Tensor4<T> matrices(const MatrixState<T>& state) {
  Tensor4<T> all(state.batch(), state.heads(), state.key_dim(), state.value_dim());
  for (Index b = 0; b < state.batch(); ++b) {
    for (Index h = 0; h < state.heads(); ++h) {
      for (Index d = 0; d < state.key_dim(); ++d)
        std::copy_n(state.view().row(b, h, d), state.value_dim(), row(all, b, h, d));
    }
  }
  return all;
}

// Tokens [first, last) of an array.
template <class X>
X rows(X x, Index first, Index last) {
  x.data = x.row(0, 0, first);
  x.length = last - first;
  return x;
}
template <class T>
Tensor3<T> rows(const Tensor3<T>& x, Index first, Index last) {
  return x.slice(Eigen::array<Index, 3>{0, 0, first},
                 Eigen::array<Index, 3>{x.dimension(0), x.dimension(1), last - first});
}
template <class T>
Tensor4<T> rows(const Tensor4<T>& x, Index first, Index last) {
  return x.slice(Eigen::array<Index, 4>{0, 0, first, 0},
                 Eigen::array<Index, 4>{x.dimension(0), x.dimension(1), last - first, x.dimension(3)});
}

// Tokens [first, last) of x into the same rows of out.
template <class T>
void run_span(const Method<T>& method, const Tokens<T>& x, Index first, Index last, Tensor4<T>& out,
              MatrixState<T>* state, Index chunk, Index threads = 1) {
  const auto beta = rows(x.beta, first, last), gate = rows(x.gate, first, last);
  const auto gates = rows(x.gates, first, last);
  const View<const T> q = view(x.in.q), k = view(x.in.k), v = view(x.in.v);
  method({rows(q, first, last), rows(k, first, last), rows(v, first, last), beta, gate, gates,
          rows(view(out), first, last), state, chunk, threads});
}

// A whole run from the state of x.
template <class T>
Outcome<T> run(const Method<T>& method, const Tokens<T>& x, Index chunk, Index threads = 1) {
  auto out = blank<T>(x.in.sizes()).out;
  auto state = x.start;
  run_span(method, x, 0, x.in.q.dimension(2), out, &state, chunk, threads);
  return {out, matrices(state)};
}

template <class T>
bool same_bits(const Outcome<T>& a, const Outcome<T>& b) {
  return same_bits(a.out, b.out) && same_bits(a.state, b.state);
}

// One head for a reference.
template <class Real>
struct HeadTokens {
  reference::Matrix<Real> q, k, v, gates, start;
  reference::Vector<Real> beta, gate;
  Real scale;  // 1 / sqrt(D)
  Index kv_head;
};

// The reference `one`(HeadTokens<Real>) -> Memory<Real> over batch and heads.
template <class Real, class T, class F>
Outcome<Real> by_reference(const Tokens<T>& x, const F& one) {
  const Sizes s = x.in.sizes();
  Outcome<Real> all{Tensor4<Real>(s.batch, s.heads, s.queries, s.value_dim),
                    Tensor4<Real>(s.batch, s.kv_heads, s.dim, s.value_dim)};
  const auto start = matrices(x.start);
  for (Index b = 0; b < s.batch; ++b) {
    for (Index h = 0; h < s.heads; ++h) {
      const Index g = h * s.kv_heads / s.heads;
      using Line = Eigen::Map<const Eigen::Matrix<T, Eigen::Dynamic, 1>>;
      const Line beta(x.beta.data() + (b * s.kv_heads + g) * s.keys, s.keys);
      const Line gate(x.gate.data() + (b * s.kv_heads + g) * s.keys, s.keys);
      const auto memory =
          one(HeadTokens<Real>{head(x.in.q, b, h).template cast<Real>(), head(x.in.k, b, g).template cast<Real>(),
                               head(x.in.v, b, g).template cast<Real>(), head(x.gates, b, g).template cast<Real>(),
                               head(start, b, g).template cast<Real>(), beta.template cast<Real>(),
                               gate.template cast<Real>(), 1 / std::sqrt(Real(s.dim)), g});
      std::copy_n(memory.out.data(), memory.out.size(), row(all.out, b, h, 0));
      std::copy_n(memory.state.data(), memory.state.size(), row(all.state, b, g, 0));
    }
  }
  return all;
}

template <class T, class Real>
double distance_in_epsilons(const Outcome<T>& got, const Outcome<Real>& wanted) {
  const double out = relative_rms(got.out, wanted.out), state = relative_rms(got.state, wanted.state);
  return std::isnan(out) || std::isnan(state) ? not_a_number<double> : std::max(out, state) / double(epsilon<T>);
}

// What a run must stay below, in epsilons: 8, or twice the error of the reference in the type itself.
template <class T, class F>
double budget(const Tokens<T>& x, const F& one) {
  return std::max(8.0, 2 * distance_in_epsilons(by_reference<T>(x, one), by_reference<Exact<T>>(x, one)));
}

inline const std::vector<Sizes> recurrence_shapes = {{1, 1, 1, 1, 1, 1, 1},
                                                     {2, 4, 2, 70, 70, 20, 13},
                                                     {1, 2, 2, 33, 33, 16, 64},
                                                     {1, 2, 1, 150, 150, 64, 32},
                                                     {1, 1, 1, 5, 5, 3, 130}};

// Every form of a method against its reference.
template <class T, class F>
void check_against_reference(const Method<T>& method, const F& one) {
  for (const Sizes& s : recurrence_shapes) {
    const auto x = tokens<T>(s);
    const auto wanted = by_reference<Exact<T>>(x, one);
    const double most = budget(x, one);
    for (const Index chunk : {Index{0}, Index{1}, Index{2}, Index{3}, Index{17}, Index{64}, s.keys, s.keys + 5}) {
      const double distance = distance_in_epsilons(run(method, x, chunk), wanted);
      INFO(s << " chunk " << chunk << " distance " << distance << " epsilons, budget " << most);
      CHECK(distance < most);
    }
  }
}

// The properties of any recurrence, in float.
template <class F>
void check_recurrence(const Method<float>& method, const F& one) {
  const Sizes s{2, 4, 2, 75, 75, 20, 13};
  const auto x = tokens<float>(s);
  const auto wanted = by_reference<double>(x, one);
  const double most = budget(x, one) * double(epsilon<float>);

  for (const Index chunk : {0, 1, 16, 32}) {
    INFO("chunk " << chunk);
    const auto whole = run(method, x, chunk);
    {
      INFO("a state that is not asked for");
      auto y = x;
      y.start = MatrixState<float>(s.batch, s.kv_heads, s.dim, s.value_dim);
      auto out = blank<float>(s).out;
      run_span(method, y, 0, s.keys, out, static_cast<MatrixState<float>*>(nullptr), chunk);
      CHECK(same_bits(out, run(method, y, chunk).out));
      MatrixState<float> fresh;
      auto again = blank<float>(s).out;
      run_span(method, y, 0, s.keys, again, &fresh, chunk);
      CHECK(same_bits(out, again));
      CHECK(fresh.value_dim() == s.value_dim);
    }
    {
      INFO("two parts with the state equal one run");
      for (const Index cut : {1, 32, 74}) {
        auto out = blank<float>(s).out;
        auto state = x.start;
        run_span(method, x, 0, cut, out, &state, chunk);
        run_span(method, x, cut, s.keys, out, &state, chunk);
        CHECK(relative_rms(out, wanted.out) < most);
        CHECK(relative_rms(matrices(state), wanted.state) < most);
        if (cut == 32 || chunk < 2) CHECK(same_bits(Outcome<float>{out, matrices(state)}, whole));
      }
    }
    {
      INFO("a prompt in chunks, then a token");
      auto out = blank<float>(s).out;
      auto state = x.start;
      run_span(method, x, 0, 74, out, &state, chunk);
      run_span(method, x, 74, 75, out, &state, 0);
      CHECK(relative_rms(out, wanted.out) < most);
      CHECK(relative_rms(matrices(state), wanted.state) < most);
    }
    {
      INFO("threads");
      CHECK(same_bits(run(method, x, chunk, 3), whole));
      const auto one_head = tokens<float>({1, 1, 1, 75, 75, 16, 170});
      CHECK(same_bits(run(method, one_head, chunk, 3), run(method, one_head, chunk)));
    }
    {
      INFO("strided");
      const auto turned = [](const Tensor4<float>& t) {
        Tensor4<float> y(t.dimension(0), t.dimension(2), t.dimension(1), t.dimension(3));
        for (Index b = 0; b < t.dimension(0); ++b) {
          for (Index h = 0; h < t.dimension(1); ++h) {
            for (Index i = 0; i < t.dimension(2); ++i) std::copy_n(row(t, b, h, i), t.dimension(3), row(y, b, i, h));
          }
        }
        return y;
      };
      const auto q = turned(x.in.q), k = turned(x.in.k), v = turned(x.in.v);
      auto out = turned(blank<float>(s).out);
      auto state = x.start;
      method({bthd(q), bthd(k), bthd(v), x.beta, x.gate, x.gates, bthd(out), &state, chunk});
      CHECK(same_bits(turned(out), whole.out));
      CHECK(same_bits(matrices(state), whole.state));
    }
    {
      INFO("NaN spoils what sees it");
      const Index at = 20;  // of batch 0, kv head 1 (heads 2 and 3), and as a query of head 2
      for (const char what : {'q', 'k', 'v'}) {
        auto y = x;
        row(what == 'q' ? y.in.q : what == 'k' ? y.in.k : y.in.v, 0, what == 'q' ? 2 : 1, at)[3] = not_a_number<float>;
        const auto got = run(method, y, chunk);
        bool right = true;
        for (Index b = 0; b < s.batch; ++b) {
          for (Index h = 0; h < s.heads; ++h) {
            for (Index i = 0; i < s.queries; ++i) {
              const bool spoilt = what == 'q' ? b == 0 && h == 2 && i == at : b == 0 && h >= 2 && i >= at;
              const float* r = row(got.out, b, h, i);
              const bool clean = std::memcmp(r, row(whole.out, b, h, i), sizeof(float) * 13) == 0;
              right = right && (spoilt ? std::isnan(r[3]) : clean);
            }
          }
        }
        INFO(what);
        CHECK(right);
      }
    }
  }
}

// What each form refuses, leaving output and state alone.
inline void check_refusals(const Method<float>& method, const std::string& name) {
  const Sizes s{1, 2, 1, 6, 6, 4, 3};
  const auto x = tokens<float>(s);
  for (const Index chunk : {Index{0}, Index{4}}) {
    const std::string where = (chunk == 0 ? "fovea::recurrent_" : "fovea::chunk_") + name + ": ";
    auto out = blank<float>(s).out;
    auto other = out;
    auto state = x.start;
    const auto refused = [&](const Tokens<float>& y, MatrixState<float>& memory, Index length, Index keys) {
      const View<const float> q = view(y.in.q), k = view(y.in.k), v = view(y.in.v);
      const auto beta = rows(y.beta, 0, keys), gate = rows(y.gate, 0, keys);
      const auto gates = rows(y.gates, 0, keys);
      const auto message = support::refusal([&] {
        method({rows(q, 0, 5), rows(k, 0, keys), rows(v, 0, keys), beta, gate, gates, rows(view(out), 0, 5), &memory,
                length});
      });
      CHECK(same_bits(out, other));
      CHECK(same_bits(matrices(state), matrices(x.start)));
      return message;
    };
    CHECK(refused(x, state, chunk, 4) == where + "k must have the length of q, wanted 5, got 4");
    MatrixState<float> narrow(1, 1, 4, 2);
    CHECK(refused(x, narrow, chunk, 5) ==
          where + "the state must have the shape of the call, wanted [1, 1, 4, 3], got [1, 1, 4, 2]");
    MatrixState<float> sums(1, 1, 4, 3, true);
    CHECK(refused(x, sums, chunk, 5) == where + "the state must not have a column of sums");
    if (chunk > 0) CHECK(refused(x, state, -1, 5) == where + "chunk must be positive, got -1");
  }
}

// The fixed tokens of the golden numbers: N = 4, D = 2, E = 1; keys divided by their length or not.
inline Tokens<double> golden_tokens(bool unit_keys) {
  Tokens<double> x{{Tensor4<double>(1, 1, 4, 2), Tensor4<double>(1, 1, 4, 2), Tensor4<double>(1, 1, 4, 1)},
                   Tensor3<double>(1, 1, 4),
                   Tensor3<double>(1, 1, 4),
                   Tensor4<double>(1, 1, 4, 2),
                   MatrixState<double>(1, 1, 2, 1)};
  const double length = unit_keys ? std::sqrt(0.5) : 1;
  std::copy_n(std::vector<double>{1, 0, 0, 1, 1, 1, 1, -1}.data(), 8, x.in.q.data());
  std::copy_n(std::vector<double>{1, 0, 0, 1, length, length, -length, length}.data(), 8, x.in.k.data());
  std::copy_n(std::vector<double>{1, 2, 3, 4}.data(), 4, x.in.v.data());
  x.beta.setConstant(0.5);
  x.gate.setConstant(std::log(0.5));
  for (Index t = 0; t < 4; ++t) {
    x.gates(0, 0, t, 0) = std::log(0.5);
    x.gates(0, 0, t, 1) = std::log(0.25);
  }
  return x;
}

// Outputs and last state of the golden tokens, in every form.
inline void check_golden(const Method<double>& method, const Tokens<double>& x, const std::vector<double>& out,
                         const std::vector<double>& state) {
  for (const Index chunk : {0, 1, 2, 3, 4, 9}) {
    INFO("chunk " << chunk);
    const auto got = run(method, x, chunk);
    for (Index i = 0; i < 4; ++i) CHECK(std::fabs(got.out.data()[i] - out[std::size_t(i)]) < 1e-12);
    for (Index d = 0; d < 2; ++d) CHECK(std::fabs(got.state.data()[d] - state[std::size_t(d)]) < 1e-12);
  }
}

}  // namespace fovea::test
