// Linear methods with a state: token by token or in chunks of any size, cut anywhere with the state passed on, gates up
// to -infinity, legal or not, against the recurrence of the equation.
#include <Eigen/Core>
#include <fovea/linear/gated_delta.hpp>
#include <fovea/linear/gated_linear.hpp>
#include <fovea/linear/retention.hpp>
#include <optional>

#include "fuzz/support/input.hpp"
#include "fuzz/support/matrix.hpp"
#include "linear/gated_delta.hpp"
#include "linear/gated_linear.hpp"
#include "linear/retention.hpp"

using namespace fovea;
using namespace fovea::fuzz;

namespace {

enum class Method { delta_by_token, delta_by_channel, linear_by_channel, retention };

template <class T>
struct Arrays {
  Array<T> q, k, v, beta, gates;
  std::vector<double> log_decays{};
  double scale = 1;
};

// Tokens [first, last) of an array.
template <class T>
View<T> part(View<T> x, Span tokens) {
  if (x.batch > 0 && x.heads > 0 && x.dim > 0) x.data = x.row(0, 0, tokens.first);
  x.length = tokens.size();
  return x;
}

// chunk zero is token by token.
template <Method method, class T>
void run(const Arrays<T>& x, Span tokens, std::optional<Index> chunk, View<T> out, MatrixState<T>& state,
         const Workers& executor) {
  const View<const T> q = part<const T>(x.q.view, tokens), k = part<const T>(x.k.view, tokens);
  const View<const T> v = part<const T>(x.v.view, tokens), beta = part<const T>(x.beta.view, tokens);
  const View<const T> gates = part<const T>(x.gates.view, tokens);
  auto with = with_state(out, state);
  if constexpr (method == Method::delta_by_token) {
    if (!chunk) return recurrent_gated_delta(q, k, v, decay::per_token(gates), beta, with, {x.scale}, executor);
    chunk_gated_delta(q, k, v, decay::per_token(gates), beta, with, {x.scale, *chunk}, executor);
  } else if constexpr (method == Method::delta_by_channel) {
    if (!chunk) return recurrent_gated_delta(q, k, v, decay::per_channel(gates), beta, with, {x.scale}, executor);
    chunk_gated_delta(q, k, v, decay::per_channel(gates), beta, with, {x.scale, *chunk}, executor);
  } else if constexpr (method == Method::linear_by_channel) {
    if (!chunk) return recurrent_gated_linear(q, k, v, decay::per_channel(gates), with, {x.scale}, executor);
    chunk_gated_linear(q, k, v, decay::per_channel(gates), with, {x.scale, *chunk}, executor);
  } else {
    if (!chunk) return recurrent_retention(q, k, v, with, {x.log_decays, x.scale}, executor);
    chunk_retention(q, k, v, with, {x.log_decays, x.scale, *chunk}, executor);
  }
}

template <class Real>
Real norm(const reference::Matrix<Real>& x) {
  return x.size() == 0 ? Real(0) : x.norm();
}

template <Method method, class T>
void recurrences(Input& in) {
  using Real = std::conditional_t<std::is_same_v<T, float>, double, long double>;
  constexpr bool delta = method == Method::delta_by_token || method == Method::delta_by_channel;
  constexpr bool by_token = method == Method::delta_by_token;
  const Index batch = in.between(0, 2), kv_heads = in.between(1, 2), group = in.between(1, 2);
  const Index length = in.between(0, in.one_in(4) ? 80 : 20);
  const Index dim = in.between(1, in.one_in(4) ? 40 : 9), width = in.between(0, in.one_in(4) ? 40 : 9);

  Arrays<T> x{array_of<T>(in, {batch, kv_heads * group, length, dim}), array_of<T>(in, {batch, kv_heads, length, dim}),
              array_of<T>(in, {batch, kv_heads, length, width}), blank_array<T>(in, {batch, kv_heads, length, 1}),
              blank_array<T>(in, {batch, kv_heads, length, by_token ? 1 : dim})};
  x.scale = in.one_of(std::array{1.0, 0.25, -2.0});
  // Keys no longer than one.
  for (Index b = 0; b < batch; ++b) {
    for (Index h = 0; h < kv_heads; ++h) {
      for (Index t = 0; t < length; ++t) {
        T* const k = x.k.view.row(b, h, t);
        double square = 0;
        for (Index d = 0; d < dim; ++d) square += double(k[d]) * double(k[d]);
        for (Index d = 0; d < dim; ++d) k[d] = square > 0 ? T(double(k[d]) / std::sqrt(square) * 0.999999) : T(0);
      }
    }
  }
  Random random(in.between(0, 255));
  const Index forgets = in.between(0, 3);
  const auto gate = [&] {
    return forgets == 0                            ? 0.0
           : forgets == 3 && random.below(10) == 0 ? -infinity<double>
                                                   : -random.uniform() * (forgets == 1 ? 0.1 : 8);
  };
  x.gates.each([&](T& g) { g = T(gate()); });
  const bool strong = in.flag();
  x.beta.each([&](T& b) { b = strong ? T(2) : T(2 * random.uniform()); });
  for (Index h = 0; h < kv_heads; ++h) x.log_decays.push_back(double(T(std::max(gate(), -1e3))));

  // What is not legal.
  bool legal = true;
  std::optional<Index> chunk[2];
  const Index cut = in.between(0, length);
  for (auto& c : chunk) {
    if (in.flag()) c = in.between(1, 90);
  }
  if (in.one_in(8) && batch > 0 && length > 0) {
    switch (in.between(0, 2)) {
      case 0:
        if (method == Method::retention) break;
        x.gates.view.row(0, 0, in.between(0, cut > 0 ? cut - 1 : length - 1))[0] = T(0.5);
        legal = false;
        break;
      case 1:
        if (!delta) break;
        x.beta.view.row(0, 0, in.between(0, cut > 0 ? cut - 1 : length - 1))[0] = in.flag() ? T(-0.25) : T(2.5);
        legal = false;
        break;
      default:
        chunk[0] = in.between(-1, 0);
        legal = false;
    }
  }

  auto out = blank_array<T>(in, {batch, kv_heads * group, length, width});
  MatrixState<T> state(batch, kv_heads, dim, width);
  const bool begins = in.flag();
  for (Index b = 0; b < batch; ++b) {
    for (Index h = 0; h < kv_heads; ++h) {
      for (Index d = 0; d < dim; ++d) {
        for (Index e = 0; e < width; ++e) state(b, h, d, e) = begins ? T(random.normal()) : T(0);
      }
    }
  }
  const auto start = state;
  const Span parts[2] = {{0, cut}, {cut, length}};
  const auto both = [&](const Workers& executor) {
    state = start;
    for (const std::size_t p : {0u, 1u}) {
      if (p == 1 && parts[p].empty()) continue;
      run<method>(x, parts[p], chunk[p], part(out.view, parts[p]), state, executor);
    }
  };
  if (!legal && cut == 0) {  // the first call has no tokens of its own
    std::swap(chunk[0], chunk[1]);
    const auto second = [&] { run<method>(x, parts[1], chunk[1], part(out.view, parts[1]), state, Workers{}); };
    require(refused(second), "an illegal call is not refused");
    return require(out.untouched(), "a refused call has written");
  }
  const bool refusal = refused([&] { both(workers(in)); });
  require(refusal == !legal, legal ? "a legal call is refused" : "an illegal call is not refused");
  if (!legal) return require(out.untouched(), "a refused call has written");
  require(out.untouched_between_rows(), "a call has written between rows");
  const auto first = out.memory;
  const auto left = state;
  both(workers(in));
  require(same_bits(first, out.memory), "bits depend on the workers");

  const Index longest = std::max({chunk[0].value_or(1), chunk[1].value_or(1), Index{1}});
  const double longest_chunk = double(std::min(longest, std::max<Index>(length, 1)));
  for (Index b = 0; b < batch; ++b) {
    for (Index h = 0; h < kv_heads * group; ++h) {
      const Index g = h / group;
      const auto q = head<Real>(x.q.view, b, h), k = head<Real>(x.k.view, b, g), v = head<Real>(x.v.view, b, g);
      reference::Matrix<Real> gates = head<Real>(x.gates.view, b, g), s = head<Real>(start.view(), b, g);
      const reference::Vector<Real> beta = head<Real>(x.beta.view, b, g).col(0);
      if (by_token) gates = reference::Matrix<Real>(gates.replicate(1, dim));
      if (method == Method::retention) gates.setConstant(Real(x.log_decays[std::size_t(g)]));
      const auto wanted =
          delta ? reference::gated_delta<Real>(q, k, v, gates, beta, Real(x.scale), s)
          : method == Method::retention
              ? reference::retention<Real>(q, k, v, Real(x.log_decays[std::size_t(g)]), Real(x.scale), s)
              : reference::gated_linear<Real>(q, k, v, gates, Real(x.scale), s);

      // What a token adds to the error of the state is in proportion to what it reads and writes, and nothing makes it
      // grow afterwards, since |1 - beta k k^T| <= 1; of a chunk's corrections, each element of the inverse that they
      // go through is at most two. Decays from token to token are powers of differences of sums of gates.
      double decays = 0;
      for (Index n = 0; n < gates.size(); ++n) {
        if (std::isfinite(gates.data()[n])) decays = std::max(decays, std::fabs(double(gates.data()[n])));
      }
      const double u = double(std::numeric_limits<T>::epsilon()) / 2;
      const double each = u * (double(dim) + longest_chunk + 16 + (longest_chunk + 2) * decays * longest_chunk) *
                          (delta ? 1 + 2 * longest_chunk : 1);
      double error = 0;
      for (Index t = 0; t < length; ++t) {
        const reference::Vector<Real> kept = gates.row(t).unaryExpr([](Real a) { return std::exp(a); });
        s = kept.asDiagonal() * s;
        error += each * 6 * double(norm(s) + norm(reference::Matrix<Real>(v.row(t))));
        const reference::Matrix<Real> held = k.row(t) * s;
        s += (delta ? beta(t) : Real(1)) * k.row(t).transpose() *
             (delta ? reference::Matrix<Real>(v.row(t) - held) : reference::Matrix<Real>(v.row(t)));
        const double allowed = std::fabs(x.scale) * double(norm(reference::Matrix<Real>(q.row(t)))) *
                                   (error + 2 * each * double(norm(s))) +
                               1e-30;
        for (Index e = 0; e < width; ++e) {
          const double got = double(out.view.row(b, h, t)[e]), exact = double(wanted.out(t, e));
          require(std::fabs(got - exact) <= allowed, "an output is ", got, ", wanted ", exact, ", bound ", allowed,
                  ": token ", t, " of ", length, " head ", h, " channel ", e);
        }
      }
      const double allowed = error + each * double(norm(s)) + 1e-30;
      for (Index d = 0; d < dim; ++d) {
        for (Index e = 0; e < width; ++e) {
          const double got = double(left(b, g, d, e)), exact = double(wanted.state(d, e));
          require(std::fabs(got - exact) <= allowed, "a state is ", got, ", wanted ", exact, ", bound ", allowed);
        }
      }
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, size);
  switch (in.between(0, 3)) {
    case 0:
      recurrences<Method::delta_by_token, double>(in);
      break;
    case 1:
      recurrences<Method::delta_by_channel, float>(in);
      break;
    case 2:
      recurrences<Method::linear_by_channel, float>(in);
      break;
    default:
      recurrences<Method::retention, float>(in);
  }
  return 0;
}
