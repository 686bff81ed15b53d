// Agent attention, plain and on a grid, against its reference, in its exact limits, and what it refuses.
#include "agent/agent.hpp"

#include <fovea/agent/agent.hpp>
#include <fovea/dense/scaled_dot_product.hpp>
#include <fovea/exec/pool.hpp>

#include "support/attention.hpp"
#include "window/kept.hpp"

using namespace fovea::test;
using fovea::Index;

namespace {

template <class T>
Tensor4<T> tensor(unsigned seed, Index a, Index b, Index c, Index d) {
  Tensor4<T> x(a, b, c, d);
  fill_gaussian(x, seed);
  return x;
}

template <class T>
Tensor4<T> blank_like(const Tensor4<T>& q, const Tensor4<T>& v) {
  Tensor4<T> out(q.dimension(0), q.dimension(1), q.dimension(2), v.dimension(3));
  out.setConstant(not_a_number<T>);
  return out;
}

// f(q, k, v, agents, b, h) over batch and heads, as matrices of the exact type.
template <class T, class F>
Tensor4<Exact<T>> over_heads_exact(const Inputs<T>& x, const F& f) {
  using Real = Exact<T>;
  const Sizes s = x.sizes();
  Tensor4<Real> out(s.batch, s.heads, s.queries, s.value_dim);
  for (Index b = 0; b < s.batch; ++b) {
    for (Index h = 0; h < s.heads; ++h) {
      const Index g = h * s.kv_heads / s.heads;
      const Matrix<Real> one =
          f(Matrix<Real>(head(x.q, b, h).template cast<Real>()), Matrix<Real>(head(x.k, b, g).template cast<Real>()),
            Matrix<Real>(head(x.v, b, g).template cast<Real>()), b, h);
      std::copy_n(one.data(), one.size(), row(out, b, h, 0));
    }
  }
  return out;
}

template <class T>
Matrix<Exact<T>> exact_head(const Tensor4<T>& x, Index b, Index h) {
  return head(x, x.dimension(0) == 1 ? 0 : b, x.dimension(1) == 1 ? 0 : h).template cast<Exact<T>>();
}

// The tokens behind the class token, if there is one.
template <class Real>
Matrix<Real> patches(const Matrix<Real>& x, bool class_token) {
  return class_token ? Matrix<Real>(x.bottomRows(x.rows() - 1)) : x;
}

// The vision form by its reference.
template <class T>
Tensor4<Exact<T>> vision_reference(const Inputs<T>& x, const fovea::VisionAgentOptions& options,
                                   const Tensor4<T>& collect, const Tensor4<T>& ask) {
  using Real = Exact<T>;
  namespace reference = fovea::reference;
  const Index height = options.height, width = options.width, E = x.v.dimension(3);
  const bool other = options.key_height > 0;
  return over_heads_exact(x, [&](const auto& q, const auto& k, const auto& v, Index b, Index h) {
    const Matrix<Real> grid = patches<Real>(q, options.class_token);
    const Real scale = 1 / std::sqrt(Real(q.cols()));
    Matrix<Real> B1, B2;
    if (collect.size() > 0) B1 = exact_head(collect, b, h);
    if (ask.size() > 0) B2 = exact_head(ask, b, h);
    Matrix<Real> out = reference::agent<Real>(q, reference::pool_to_agents<Real>(grid, height, width, options.agents),
                                              k, v, scale, B1, B2);
    if (options.residual.empty()) return out;
    Matrix<Real> values = patches<Real>(v, options.class_token);
    if (other) values = reference::resize<Real>(values, options.key_height, options.key_width, height, width);
    Matrix<Real> kernel(E, 9);
    fovea::reference::Vector<Real> bias = fovea::reference::Vector<Real>::Zero(E);
    for (Index e = 0; e < E; ++e) {
      for (Index n = 0; n < 9; ++n) kernel(e, n) = Real(T(options.residual.weights[std::size_t((h * E + e) * 9 + n)]));
      if (!options.residual.bias.empty()) bias(e) = Real(T(options.residual.bias[std::size_t(h * E + e)]));
    }
    out.bottomRows(height * width) += reference::convolve<Real>(values, height, width, kernel, bias);
    return out;
  });
}

fovea::combine::DepthwiseKernel kernel(Index channels, bool bias) {
  std::mt19937 random(5);
  std::normal_distribution<double> normal;
  fovea::combine::DepthwiseKernel result;
  result.size = 3;
  for (Index n = 0; n < channels * 9; ++n) result.weights.push_back(normal(random));
  for (Index n = 0; bias && n < channels; ++n) result.bias.push_back(normal(random));
  return result;
}

template <class T>
std::string refused(const Inputs<T>& x, const fovea::VisionAgentOptions& options) {
  return refusal_of(x, [&](const auto& in, auto&& out) { fovea::vision_agent(in.q, in.k, in.v, out.out, options); });
}

}  // namespace

TEST_CASE("the golden values of two agents") {
  Matrix<double> q(4, 2), k(4, 2), v(4, 1), agents(2, 2);
  q << 1, 0, 0, 1, 1, 1, 1, -1;
  k << 1, 0, 0, 1, 1, 1, -1, 1;
  v << 1, 2, 3, 4;
  agents << 0.5, 0.5, 1, 0;
  Matrix<double> out(4, 1), collected(2, 1), wanted(4, 1), wanted_collected(2, 1);
  fovea::agent(q, agents, k, v, out);
  wanted << 2.287198845330, 2.333637323797, 2.310418084564, 2.265358881913;
  CHECK(relative_rms(out, wanted) < 1e-12);
  fovea::scaled_dot_product(agents, k, v, collected);
  wanted_collected << 2.443131301512, 2.177704867615;
  CHECK(relative_rms(collected, wanted_collected) < 1e-12);
  CHECK(relative_rms(fovea::reference::agent<double>(q, agents, k, v, std::sqrt(0.5)), wanted) < 1e-12);
}

TEMPLATE_TEST_CASE("agent equals its reference, with biases and without", "", float, double) {
  using T = TestType;
  for (const auto& [s, n] : {std::pair<Sizes, Index>{{1, 1, 1, 1, 1, 1, 1}, 1},
                             {{1, 1, 1, 5, 9, 3, 2}, 4},
                             {{2, 4, 2, 70, 133, 33, 15}, 49},
                             {{1, 2, 2, 300, 300, 64, 64}, 81},
                             {{1, 6, 2, 131, 40, 16, 24}, 7}}) {
    const auto x = gaussian<T>(s);
    const auto agents = tensor<T>(7, s.batch, s.heads, n, s.dim);
    for (const int biases : {0, 1, 2, 3, 4}) {
      INFO(s << " agents " << n << " biases " << biases);
      const bool shared = biases == 4;
      Tensor4<T> collect, ask;
      if (biases == 1 || biases >= 3) collect = tensor<T>(8, shared ? 1 : s.batch, shared ? 1 : s.heads, n, s.keys);
      if (biases >= 2) ask = tensor<T>(9, 1, shared ? 1 : s.heads, s.queries, n);
      fovea::AgentBiases<T> both;
      if (collect.size() > 0) both.collect = fovea::view(std::as_const(collect));
      if (ask.size() > 0) both.ask = fovea::view(std::as_const(ask));
      auto out = blank_like(x.q, x.v);
      fovea::agent(x.q, agents, x.k, x.v, out, both);
      const auto wanted = over_heads_exact(x, [&](const auto& q, const auto& k, const auto& v, Index b, Index h) {
        using Real = Exact<T>;
        Matrix<Real> B1, B2;
        if (collect.size() > 0) B1 = exact_head(collect, b, h);
        if (ask.size() > 0) B2 = exact_head(ask, b, h);
        return fovea::reference::agent<Real>(q, exact_head(agents, b, h), k, v, 1 / std::sqrt(Real(q.cols())), B1, B2);
      });
      CHECK(relative_rms(out, wanted) < 8 * double(epsilon<T>));
    }
  }
}

TEMPLATE_TEST_CASE("vision_agent equals its reference: ragged cells, class token, key grid, residual", "", float,
                   double) {
  using T = TestType;
  struct Case {
    Index height, width, agents, key_height, key_width;
    bool class_token, biases, bias;
  };
  for (const Case& c : {Case{7, 9, 3, 0, 0, false, false, false},
                        {10, 6, 4, 0, 0, true, true, true},
                        {14, 14, 7, 7, 7, false, true, true},
                        {5, 13, 2, 4, 3, true, false, true},
                        {1, 1, 1, 0, 0, false, false, true},
                        {2, 20, 6, 0, 0, false, true, false}}) {
    const Index before = c.class_token ? 1 : 0, n = c.agents * c.agents, N = c.height * c.width + before;
    const Index M = c.key_height > 0 ? c.key_height * c.key_width + before : N;
    for (const auto& [batch, heads, kv_heads, dim, value_dim] :
         {std::array<Index, 5>{1, 1, 1, 16, 16}, {2, 4, 2, 20, 35}}) {
      const auto x = gaussian<T>({batch, heads, kv_heads, N, M, dim, value_dim});
      const fovea::VisionAgentOptions options{.height = c.height,
                                              .width = c.width,
                                              .agents = c.agents,
                                              .key_height = c.key_height,
                                              .key_width = c.key_width,
                                              .class_token = c.class_token,
                                              .residual = kernel(heads * value_dim, c.bias)};
      Tensor4<T> collect, ask;
      auto out = blank_like(x.q, x.v);
      if (c.biases) {
        collect = tensor<T>(3, 1, heads, n, M);
        ask = tensor<T>(4, 1, heads, N, n);
        fovea::vision_agent(x.q, x.k, x.v, out, fovea::agent_biases(collect, ask), options);
      } else {
        fovea::vision_agent(x.q, x.k, x.v, out, options);
      }
      INFO(x.sizes() << " grid " << c.height << " x " << c.width << " agents " << c.agents);
      CHECK(relative_rms(out, vision_reference(x, options, collect, ask)) < 8 * double(epsilon<T>));
    }
  }
}

TEST_CASE("forced to the identity, either step leaves softmax attention") {
  const auto x = gaussian<double>({1, 2, 2, 30, 20, 8, 8});
  const auto dense = expected<double>(x);
  const auto diagonal = [](Index n) {
    Matrix<double> bias = Matrix<double>::Constant(n, n, -infinity<double>);
    bias.diagonal().setZero();
    return bias;
  };
  auto out = blank_like(x.q, x.v);
  fovea::AgentBiases<double> biases;
  const Matrix<double> own_key = diagonal(20), own_agent = diagonal(30);
  biases.collect = fovea::view(own_key);
  fovea::agent(x.q, x.k, x.k, x.v, out, biases);
  CHECK(relative_rms(out, dense.out) < 8 * epsilon<double>);
  biases = {};
  biases.ask = fovea::view(own_agent);
  fovea::agent(x.q, x.q, x.k, x.v, out, biases);
  CHECK(relative_rms(out, dense.out) < 8 * epsilon<double>);
}

TEST_CASE("one agent gives every query the same, and constant values stay constant") {
  auto x = gaussian<double>({1, 2, 1, 12, 12, 8, 8});
  auto out = blank_like(x.q, x.v);
  fovea::vision_agent(x.q, x.k, x.v, out, {.height = 3, .width = 4, .agents = 1});
  for (Index h = 0; h < 2; ++h) {
    for (Index i = 1; i < 12; ++i) CHECK(std::memcmp(row(out, 0, h, i), row(out, 0, h, 0), 8 * sizeof(double)) == 0);
  }
  x.v.setConstant(3.25);
  fovea::vision_agent(x.q, x.k, x.v, out, {.height = 3, .width = 4, .agents = 3});
  for (Index n = 0; n < out.size(); ++n) CHECK(std::abs(out.data()[n] - 3.25) < 1e-14);
}

TEST_CASE("strides and threads do not change a bit") {
  const auto x = gaussian<float>({2, 4, 2, 401, 401, 32, 24});
  const fovea::VisionAgentOptions options{
      .height = 20, .width = 20, .agents = 7, .class_token = true, .residual = kernel(96, true)};
  const auto collect = tensor<float>(3, 1, 4, 49, 401), ask = tensor<float>(4, 1, 4, 401, 49);
  const auto biases = fovea::agent_biases(collect, ask);
  auto serial = blank_like(x.q, x.v);
  fovea::vision_agent(x.q, x.k, x.v, serial, biases, options);
  for (const Index threads : {2, 5}) {
    auto out = blank_like(x.q, x.v);
    fovea::vision_agent(x.q, x.k, x.v, out, biases, options, fovea::exec::Pool(threads));
    CHECK(same_bits(out, serial));
  }
  const auto q = swap_axes(x.q), k = swap_axes(x.k), v = swap_axes(x.v);
  auto swapped = swap_axes(serial);
  swapped.setConstant(not_a_number<float>);
  fovea::vision_agent(fovea::bthd(q), fovea::bthd(k), fovea::bthd(v), fovea::bthd(swapped), biases, options);
  CHECK(same_bits(swap_axes(swapped), serial));
}

TEST_CASE("a NaN stays in its head and batch") {
  auto x = gaussian<float>({2, 4, 2, 36, 36, 16, 16});
  const fovea::VisionAgentOptions options{.height = 6, .width = 6, .agents = 2};
  auto clean = blank_like(x.q, x.v), out = blank_like(x.q, x.v);
  fovea::vision_agent(x.q, x.k, x.v, clean, options);
  row(x.v, 1, 1, 5)[3] = not_a_number<float>;
  fovea::vision_agent(x.q, x.k, x.v, out, options);
  for (Index b = 0; b < 2; ++b) {
    for (Index h = 0; h < 4; ++h) {
      const bool spoiled = b == 1 && h >= 2;
      for (Index i = 0; i < 36; ++i) {
        for (Index e = 0; e < 16; ++e) {
          const float got = row(out, b, h, i)[e];
          CHECK((spoiled && e == 3 ? std::isnan(got) : got == row(clean, b, h, i)[e]));
        }
      }
    }
  }
}

TEST_CASE("no batch, no heads and no queries are no error") {
  const auto empty = gaussian<float>({0, 2, 1, 4, 4, 4, 4});
  auto out = blank_like(empty.q, empty.v);
  CHECK_NOTHROW(fovea::vision_agent(empty.q, empty.k, empty.v, out, {.height = 2, .width = 2, .agents = 1}));
  const auto no_queries = gaussian<float>({1, 2, 1, 0, 4, 4, 4});
  const auto agents = tensor<float>(1, 1, 2, 2, 4);
  auto none = blank_like(no_queries.q, no_queries.v);
  CHECK_NOTHROW(fovea::agent(no_queries.q, agents, no_queries.k, no_queries.v, none));
  const auto no_keys = gaussian<float>({1, 2, 1, 3, 0, 4, 4});
  auto zero = blank_like(no_keys.q, no_keys.v);
  fovea::agent(no_keys.q, agents, no_keys.k, no_keys.v, zero);
  CHECK(all_zero(zero.data(), zero.size()));
}

TEST_CASE("what is refused, and that nothing is touched") {
  const auto x = gaussian<float>({1, 2, 1, 12, 12, 8, 8});
  const std::string where = "fovea::vision_agent: ";
  CHECK(refused(x, {}) == where + "the grid must hold the queries, wanted 12, got 0 times 0");
  CHECK(refused(x, {.height = 3, .width = 5, .agents = 2}) ==
        where + "the grid must hold the queries, wanted 12, got 3 times 5");
  CHECK(refused(x, {.height = 3, .width = 4, .agents = 2, .class_token = true}) ==
        where + "the grid must hold the queries, wanted 11, got 3 times 4");
  CHECK(refused(x, {.height = 3, .width = 4, .agents = 2, .key_height = 2, .key_width = 2}) ==
        where + "the grid must hold the keys, wanted 12, got 2 times 2");
  CHECK(refused(x, {.height = 3, .width = 4, .agents = 4}) ==
        where + "there must not be more agents than the 12 tokens of the grid, got 4 squared");
  CHECK(refused(x, {.height = 3, .width = 4, .agents = 0}) == where + "there must be agents, got 0");
  CHECK(refused(x, {.height = 3, .width = 4, .agents = 2, .scale = infinity<double>}).rfind(where, 0) == 0);
  CHECK(refused(x, {.height = 3, .width = 4, .agents = 2, .residual = kernel(3, false)}).rfind(where, 0) == 0);

  const auto plain = [&](const Tensor4<float>& agents, const fovea::AgentBiases<float>& biases) {
    return refusal_of(x, [&](const auto& in, auto&& out) { fovea::agent(in.q, agents, in.k, in.v, out.out, biases); });
  };
  CHECK(plain(tensor<float>(1, 1, 2, 13, 8), {}) ==
        "fovea::agent: there must not be more agents than the 12 tokens, got 13");
  CHECK(plain(tensor<float>(1, 1, 2, 0, 8), {}) == "fovea::agent: there must be agents, got 0");
  CHECK(plain(tensor<float>(1, 1, 1, 3, 8), {}) ==
        "fovea::agent: agents must have the batch, heads and width of q, wanted [1, 2, n, 8], got [1, 1, 3, 8]");
  const auto good = tensor<float>(1, 1, 2, 3, 12), wrong = tensor<float>(1, 1, 2, 12, 4);
  CHECK(plain(tensor<float>(1, 1, 2, 3, 8), fovea::agent_biases(good, wrong)).rfind("fovea::agent: a bias must", 0) ==
        0);
  CHECK(refusal_of(x, [&](const auto& in, auto&& out) { fovea::agent(in.q, in.q, in.k, in.v, out); }) ==
        "fovea::agent: there is no log-sum of two steps");
}
