// Agent attention with 7 x 7 agents, the tokens as an image: bare on every input, and whole, with biases and the
// depthwise residual, on an image of 56 x 56 tokens.
#include <fovea/agent/agent.hpp>

#include "agent/agent.hpp"

#include "bench.hpp"

namespace {

using bench::Index;

constexpr Index side = 7, agents = side * side;

// The grid nearest to a square that holds the tokens.
fovea::VisionAgentOptions options_for(const bench::Shape& shape) {
  Index height = 1;
  for (Index h = 1; h * h <= shape.keys; ++h) {
    if (shape.keys % h == 0) height = h;
  }
  return {.height = height, .width = shape.keys / height, .agents = side};
}

double flops(const bench::Shape& s) {
  return double(s.batch * s.heads) * double((s.queries + s.keys) * agents) * 2 * double(s.key_dim + s.value_dim);
}

std::vector<bench::Shape> image() {
  bench::Shape shape = bench::mask_shapes().front();
  shape.queries = shape.keys = 56 * 56;
  shape.quick = true;
  return {shape};
}

const auto bare =
    bench::method([](const auto& in, auto&& out, const auto& executor) {
      fovea::vision_agent(in.q, in.k, in.v, out, options_for(in.shape), executor);
    })
        .head_reference([]<class Real>(const bench::Head<Real>& head) {
          const auto options = options_for(head.shape);
          const auto pooled = fovea::reference::pool_to_agents<Real>(head.q, options.height, options.width, side);
          return fovea::reference::agent<Real>(head.q, pooled, head.k, head.v, 1 / std::sqrt(Real(head.shape.key_dim)));
        })
        .flops(flops)
        .on_grid();

// The learned numbers of the whole form.
struct Learned {
  fovea::VisionAgentOptions options;
  std::shared_ptr<const bench::Tensor<float>> collect, ask, kernel;
};

const auto whole =
    bench::method([](const auto& in, const Learned& learned, auto&& out, const auto& executor) {
      fovea::vision_agent(in.q, in.k, in.v, out, fovea::agent_biases(*learned.collect, *learned.ask), learned.options,
                          executor);
    })
        .state([](const auto& in, const auto&) {
          const bench::Shape& s = in.shape;
          Learned learned{options_for(s), bench::gaussian<float>(4, {1, s.heads, agents, s.keys}),
                          bench::gaussian<float>(5, {1, s.heads, s.queries, agents}),
                          bench::gaussian<float>(6, {1, s.heads, s.value_dim, 9})};
          learned.options.residual = {3, {learned.kernel->data(), learned.kernel->data() + learned.kernel->size()}, {}};
          return learned;
        })
        .head_reference([]<class Real>(const bench::Head<Real>& head, const Learned& learned) {
          using Matrix = fovea::reference::Matrix<Real>;
          using Map = Eigen::Map<const fovea::reference::Matrix<float>>;
          const auto& o = learned.options;
          const Index N = head.q.rows(), M = head.k.rows(), E = head.v.cols(), h = head.head;
          const Matrix B1 = Map(&(*learned.collect)(0, h, 0, 0), agents, M).template cast<Real>();
          const Matrix B2 = Map(&(*learned.ask)(0, h, 0, 0), N, agents).template cast<Real>();
          const Matrix kernel = Map(&(*learned.kernel)(0, h, 0, 0), E, 9).template cast<Real>();
          const Matrix pooled = fovea::reference::pool_to_agents<Real>(head.q, o.height, o.width, side);
          Matrix out = fovea::reference::agent<Real>(head.q, pooled, head.k, head.v,
                                                     1 / std::sqrt(Real(head.shape.key_dim)), B1, B2);
          out += fovea::reference::convolve<Real>(head.v, o.height, o.width, kernel,
                                                  fovea::reference::Vector<Real>::Zero(E));
          return out;
        })
        .flops([](const bench::Shape& s) {
          return flops(s) + 18 * double(s.batch * s.heads) * double(s.queries * s.value_dim);
        })
        .own_definition()
        .on_grid();

const bool added = bench::add("agent/agent", image(), bare) &&
                   bench::add("agent/agent", bench::approximate_shapes(), bare) &&
                   bench::add("agent/vision_agent", image(), whole);

}  // namespace
