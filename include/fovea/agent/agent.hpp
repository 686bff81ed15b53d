// Agent attention: a few agent tokens first collect from the keys, then every query asks the agents.
// Han et al., "Agent Attention: On the Integration of Softmax and Linear Attention", ECCV 2024, arXiv:2312.08874.
//
//   u_a = sum_j softmax_j(scale a_a . k_j + B1_aj) v_j,   o_i = sum_a softmax_a(scale q_i . a_a + B2_ia) u_a
//
// In the vision form the agents are the means of the queries over the cells of their grid, and o gains a depthwise
// convolution of the values on the grid.
//
// Approximates dense attention; exactly it when agents are the keys and every agent collects its own value alone, or
// agents are the queries and every query asks its own agent alone (by biases of -infinity). Exact for its definition.
// Not causal: agents have seen all queries. Cost O((N + M) n (D + E)) for n agents.
#pragma once

#include <algorithm>
#include <optional>

#include <fovea/engine/attend.hpp>
#include <fovea/engine/work.hpp>
#include <fovea/parts/combine/depthwise.hpp>
#include <fovea/parts/resample/bilinear.hpp>
#include <fovea/parts/resample/mean.hpp>
#include <fovea/parts/score/bias.hpp>

namespace fovea::inline FOVEA_ISA {

// The biases of both steps, of the scalar type of the call; a view of no data is no bias.
template <class T>
struct AgentBiases {
  View<const T> collect;  // B1 [B or 1, H or 1, n, M]
  View<const T> ask;      // B2 [B or 1, H or 1, N, n]
};

// RowMajor tensors or matrices whose last axes are [n, M] and [N, n].
template <class B1, class B2>
auto agent_biases(const B1& collect, const B2& ask) {
  const auto first = view(collect);
  return AgentBiases<std::remove_const_t<std::remove_pointer_t<decltype(first.data)>>>{first, view(ask)};
}

struct AgentOptions {
  std::optional<double> scale = {};  // 1 / sqrt(D) when empty
};

struct VisionAgentOptions {
  Index height = 0;  // grid of the queries; required
  Index width = 0;
  Index agents = 7;      // cells along each axis: agents squared in all
  Index key_height = 0;  // grid of the keys when it is another one
  Index key_width = 0;
  bool class_token = false;             // token 0 of queries and keys lies outside the grids
  combine::DepthwiseKernel residual{};  // [H E, size, size], of the values on the grid of the queries, 3 in the paper
  std::optional<double> scale = {};     // 1 / sqrt(D) when empty
};

namespace detail {

// All that can be refused about one step is refused before the first one is taken.
template <class T>
void check_agent_step(const Problem<T>& problem, const Recipe<>& recipe, const View<const T>& bias) {
  recipe.normalizer.check_for(problem.where, problem.shape());
  if (bias.data != nullptr) (void)score::bias(bias).template bind<T>(problem.where, problem.shape());
}

template <class T, exec::Executor Exec>
void agent_step(const Problem<T>& problem, const Recipe<>& recipe, const View<const T>& bias, const Exec& executor) {
  if (bias.data != nullptr) {
    engine::attend(problem, recipe.score(score::bias(bias)), executor);
  } else {
    engine::attend(problem, recipe, executor);
  }
}

// Both steps as problems; `collected` is room for [B,H,n,E].
template <class T>
struct AgentSteps {
  Problem<T> collect, ask;
  Recipe<> recipe;

  AgentSteps(const Problem<T>& problem, const View<const T>& agents, const View<T>& collected,
             std::optional<double> scale)
      : collect{agents, problem.k, problem.v, collected, {}, problem.group, problem.where},
        ask{problem.q, agents, collected, problem.out, {}, 1, problem.where},
        recipe(softmax(scale)) {}

  void check_with(const AgentBiases<T>& biases) const {
    check_agent_step(collect, recipe, biases.collect);
    check_agent_step(ask, recipe, biases.ask);
  }
  template <exec::Executor Exec>
  void run(const AgentBiases<T>& biases, const Exec& executor) const {
    agent_step(collect, recipe, biases.collect, executor);
    agent_step(ask, recipe, biases.ask, executor);
  }
};

template <class T>
void check_agents(const Problem<T>& problem, Index agents) {
  check(problem.log_sum.data == nullptr, problem.where, "there is no log-sum of two steps");
  check(agents > 0, problem.where, "there must be agents, got ", agents);
  const Index tokens = std::max(problem.q.length, problem.k.length);
  check(agents <= std::max<Index>(tokens, 1), problem.where, "there must not be more agents than the ", tokens,
        " tokens, got ", agents);
}

// The tokens of a grid behind a class token.
template <class T>
View<T> without_class_token(View<T> x, bool class_token) {
  if (class_token) {
    x.data += x.length_stride;
    x.length -= 1;
  }
  return x;
}

}  // namespace detail

// The plain form, with agents of the caller's: q [B,H,N,D], agents [B,H,n,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E],
// H a multiple of G; or matrices. With biases, agent_biases(B1, B2).
template <class Q, class A, class K, class V, class Out, class T, exec::Executor Exec = exec::Serial>
void agent(const Q& q, const A& agents, const K& k, const V& v, Out&& out, const AgentBiases<T>& biases,
           const AgentOptions& options = {}, const Exec& executor = {}) {
  constexpr auto where = "fovea::agent";
  const auto problem = make_problem(where, q, k, v, out);
  const View<const T> a = view(agents);
  const auto& shape = problem.q;
  detail::check_agents(problem, a.length);
  check(a.batch == shape.batch && a.heads == shape.heads && a.dim == shape.dim, where,
        "agents must have the batch, heads and width of q, wanted [", shape.batch, ", ", shape.heads, ", n, ",
        shape.dim, "], got [", a.batch, ", ", a.heads, ", ", a.length, ", ", a.dim, "]");
  const Extents extents{a.batch, a.heads, a.length, problem.v.dim};
  const auto memory = engine::allocate_scratch<T>(std::max<Index>(a.batch * a.heads * a.length * problem.v.dim, 1));
  const detail::AgentSteps<T> steps(problem, a, view(memory.get(), extents), options.scale);
  steps.check_with(biases);
  steps.run(biases, executor);
}

template <class Q, class A, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void agent(const Q& q, const A& agents, const K& k, const V& v, Out&& out, const AgentOptions& options = {},
           const Exec& executor = {}) {
  using T = std::remove_const_t<std::remove_pointer_t<decltype(view(agents).data)>>;
  agent(q, agents, k, v, out, AgentBiases<T>{}, options, executor);
}

// The vision form: tokens row by row of their grid, behind a class token when there is one. Arrays as above without the
// agents; the biases count the class token as key 0 and query 0. With a key grid of its own the values are brought to
// the grid of the queries, by bilinear interpolation, before the convolution. The class token gets no convolution.
template <class Q, class K, class V, class Out, class T, exec::Executor Exec = exec::Serial>
void vision_agent(const Q& q, const K& k, const V& v, Out&& out, const AgentBiases<T>& biases,
                  const VisionAgentOptions& options, const Exec& executor = {}) {
  constexpr auto where = "fovea::vision_agent";
  const auto problem = make_problem(where, q, k, v, out);
  const Index height = options.height, width = options.width, before = options.class_token ? 1 : 0;
  const bool other_grid = options.key_height != 0 || options.key_width != 0;
  const Index key_height = other_grid ? options.key_height : height, key_width = other_grid ? options.key_width : width;
  const auto fits = [&](Index h, Index w, Index tokens) {
    return h > 0 && w > 0 && (tokens - before) % w == 0 && (tokens - before) / w == h;
  };
  check(fits(height, width, problem.q.length), where, "the grid must hold the queries, wanted ",
        problem.q.length - before, ", got ", height, " times ", width);
  check(fits(key_height, key_width, problem.k.length), where, "the grid must hold the keys, wanted ",
        problem.k.length - before, ", got ", key_height, " times ", key_width);
  check(options.agents > 0, where, "there must be agents, got ", options.agents);
  check(options.agents <= height * width / options.agents, where, "there must not be more agents than the ",
        height * width, " tokens of the grid, got ", options.agents, " squared");
  const Index number = options.agents * options.agents;
  detail::check_agents(problem, number);
  options.residual.check_for(where, problem.out.heads * problem.out.dim);

  const Extents all{problem.q.batch, problem.q.heads, number, problem.q.dim};
  const auto room =
      engine::allocate_scratch<T>(std::max<Index>(all.batch * all.heads * number * (problem.q.dim + problem.v.dim), 1));
  const View<T> agents = view(room.get(), all);
  T* const behind = room.get() + all.batch * all.heads * number * all.dim;
  const detail::AgentSteps<T> steps(problem, agents, view(behind, {all.batch, all.heads, number, problem.v.dim}),
                                    options.scale);
  steps.check_with(biases);

  resample::cell_means(detail::without_class_token(problem.q, options.class_token), height, width, agents,
                       options.agents, options.agents, executor);
  steps.run(biases, executor);
  if (options.residual.empty()) return;
  const View<const T> values = detail::without_class_token(problem.v, options.class_token);
  const View<T> on_grid = detail::without_class_token(problem.out, options.class_token);
  if (key_height == height && key_width == width) {
    combine::add_depthwise(values, on_grid, height, width, options.residual, executor);
  } else {
    const Extents wide{values.batch, values.heads, height * width, values.dim};
    const auto memory =
        engine::allocate_scratch<T>(std::max<Index>(wide.batch * wide.heads * wide.length * wide.dim, 1));
    const View<T> widened = view(memory.get(), wide);
    resample::bilinear(values, key_height, key_width, widened, height, width, executor);
    combine::add_depthwise(widened, on_grid, height, width, options.residual, executor);
  }
}

template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void vision_agent(const Q& q, const K& k, const V& v, Out&& out, const VisionAgentOptions& options,
                  const Exec& executor = {}) {
  using T = std::remove_const_t<std::remove_pointer_t<decltype(view(q).data)>>;
  vision_agent(q, k, v, out, AgentBiases<T>{}, options, executor);
}

}  // namespace fovea::inline FOVEA_ISA
