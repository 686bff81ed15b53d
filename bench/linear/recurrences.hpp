// What the benches of methods with a matrix state share: keys of length one, gates and strengths as layers make them, a
// state for single tokens, and the shapes.
#pragma once

#include <fovea/engine/chunk.hpp>
#include <fovea/parts/state/matrix_state.hpp>

#include <cmath>

#include "bench.hpp"

namespace bench {

template <class T>
struct Tokens {
  Tensor<T> k;            // [B,G,N,D], of length one
  LogSums<T> beta, gate;  // [B,G,N]: strengths in (0, 1), log decays
  Tensor<T> gates;        // [B,G,N,D]
  fovea::MatrixState<T> state;
};

const auto make_tokens = []<class T>(const Input<T>& in, const auto&) {
  const Shape& s = in.shape;
  Tokens<T> x{in.k, LogSums<T>(s.batch, s.kv_heads, s.keys), LogSums<T>(s.batch, s.kv_heads, s.keys),
              *gaussian<T>(6, {s.batch, s.kv_heads, s.keys, s.key_dim}),
              fovea::MatrixState<T>(s.batch, s.kv_heads, s.key_dim, s.value_dim)};
  for (Index row = 0; row < s.batch * s.kv_heads * s.keys; ++row) {
    Eigen::Map<Eigen::Matrix<T, Eigen::Dynamic, 1>> key(x.k.data() + row * s.key_dim, s.key_dim);
    if (const T size = std::sqrt(key.squaredNorm()); size > 0) key /= size;
  }
  const auto log_sigmoid = [](T y) { return -std::log1p(std::exp(-y)); };
  const auto strengths = gaussian<T>(4, {1, s.batch, s.kv_heads, s.keys});
  const auto gates = gaussian<T>(5, {1, s.batch, s.kv_heads, s.keys});
  for (Index i = 0; i < x.beta.size(); ++i) {
    x.beta.data()[i] = std::exp(log_sigmoid(strengths->data()[i]));
    x.gate.data()[i] = log_sigmoid(gates->data()[i]) / 16;
  }
  if (s.given && s.given->strengths) x.beta = s.given->strengths->template cast<T>();
  for (Index i = 0; i < x.gates.size(); ++i) x.gates.data()[i] = log_sigmoid(x.gates.data()[i]) / 16;
  if (s.queries == 1) {
    const auto state = gaussian<T>(7, {s.batch, s.kv_heads, s.key_dim, s.value_dim});
    for (Index n = 0; n < s.batch * s.kv_heads * s.key_dim; ++n)
      std::copy_n(state->data() + n * s.value_dim, s.value_dim, x.state.view().row(0, 0, n));
  }
  return x;
};

// One head of the tokens for a reference, as far as the head of the problem goes.
template <class Real>
struct HeadTokens {
  Matrix<Real> k, gates, start;
  Eigen::Matrix<Real, Eigen::Dynamic, 1> beta, gate;

  template <class T>
  HeadTokens(const Head<Real>& head, const Tokens<T>& x) {
    const Index n = head.q.rows(), d = head.q.cols(), e = head.v.cols(), b = head.batch, h = head.kv_head;
    using Rows = Eigen::Map<const Matrix<T>>;
    using Line = Eigen::Map<const Eigen::Matrix<T, Eigen::Dynamic, 1>>;
    k = Rows(&x.k(b, h, 0, 0), n, d).template cast<Real>();
    gates = Rows(&x.gates(b, h, 0, 0), n, d).template cast<Real>();
    beta = Line(&x.beta(b, h, 0), n).template cast<Real>();
    gate = Line(&x.gate(b, h, 0), n).template cast<Real>();
    start.resize(d, e);
    for (Index i = 0; i < d; ++i) {
      for (Index c = 0; c < e; ++c) start(i, c) = Real(x.state(b, h, i, c));
    }
  }
};

inline double scale_of(const Shape& s) { return 1 / std::sqrt(double(s.key_dim)); }

// Operations that a chunked run needs: half of a chunk's square, the state read, and written; for the delta rule half a
// square and the state once more.
inline std::function<double(const Shape&)> chunk_flops(bool delta) {
  return [delta](const Shape& s) {
    const double chunk = double(std::min(fovea::engine::default_chunk, s.keys));
    const double widths = double(s.key_dim + s.value_dim), matrix = 2 * double(s.key_dim * s.value_dim);
    const double query = (chunk + 1) * widths + matrix, key = matrix + (delta ? (chunk - 1) * widths + matrix : 0);
    return double(s.batch) * (double(s.heads * s.queries) * query + double(s.kv_heads * s.keys) * key);
  };
}

// A state read once for a token.
inline double state_bytes(const Shape& s) {
  return 4 * double(s.batch * s.kv_heads * s.queries) * double(s.key_dim * s.value_dim);
}

// How a method that writes with a strength recalls.
inline std::vector<RecallForm> with_strength() { return {{"beta 1", Writes::all}}; }

// Causal prompts, also of trained models (with gates and strengths of ours); one token of sixteen sequences.
inline std::vector<Shape> prompt_shapes() {
  auto shapes = growth_shapes(true);
  for (Shape real : real_shapes()) {
    real.pattern = causal(real.queries, real.keys);
    real.quick = real.data == "use_l0_4k";
    shapes.push_back(real);
  }
  for (const Index dim : {64, 128}) {
    Shape prompt = shapes.front();
    prompt.table = "prefill";
    prompt.heads = prompt.kv_heads = 8;
    prompt.queries = prompt.keys = 4096;
    prompt.pattern = causal(4096, 4096);
    prompt.key_dim = prompt.value_dim = dim;
    prompt.quick = dim == 64;
    shapes.push_back(prompt);
  }
  return shapes;
}

inline std::vector<Shape> token_shapes() {
  Shape token = growth_shapes(true).front();
  token.table = "decode";
  token.pattern = full();
  token.batch = 16;
  token.heads = token.kv_heads = 32;
  token.queries = token.keys = 1;
  token.key_dim = token.value_dim = 128;
  token.quick = true;
  return {token};
}

}  // namespace bench
