// Ours, timed as the others are.
#include <Eigen/Core>
#include <fovea/cache/contiguous.hpp>
#include <fovea/dense/scaled_dot_product.hpp>
#include <fovea/exec/pool.hpp>
#include <fovea/exec/workspace.hpp>
#include <fovea/linear/delta.hpp>
#include <fovea/linear/gated_delta.hpp>
#include <fovea/linear/gated_linear.hpp>
#include <fovea/linear/retention.hpp>
#include <fovea/parts/kv/batch.hpp>
#include <fovea/parts/kv/quantized.hpp>
#include <fovea/window/sliding_window.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

#include "peer.hpp"

namespace {

// A rule of linear attention, one token by the recurrence, more in chunks. The state begins as zeros in every call but
// that of a single token, which goes on from where the last one ended.
template <class Q, class V, class Out, class Exec>
void linear(const peer::Case& c, const peer::Inputs& in, const Q& q, const Q& k, const V& v, Out& out,
            const Exec& exec) {
  const Eigen::TensorMap<const Eigen::Tensor<float, 3, Eigen::RowMajor>> beta(in.beta.data(), c.B, c.G, c.N),
      gate(in.gate.data(), c.B, c.G, c.N);
  const Eigen::TensorMap<const Eigen::Tensor<float, 4, Eigen::RowMajor>> gates(in.gate.data(), c.B, c.G, c.N, c.D);
  fovea::MatrixState<float> zeros(c.B, c.G, c.D, c.D), state = zeros;
  const auto report = [&](const auto& recurrent, const auto& chunk) {
    const auto call = [&] {
      const auto result = fovea::with_state(out, state);
      if (c.N == 1) {
        recurrent(result);
      } else {
        for (peer::Index n = 0; n < c.B * c.G * c.D; ++n) std::fill_n(state.view().row(0, 0, n), c.D, 0.f);
        chunk(result);
      }
    };
    peer::report("fovea", c, in, call, peer::heads_outside_rows(c, out.data()));
  };
  const auto gated = [&](const auto& g) {
    if (c.delta()) {
      report([&](auto& to) { fovea::recurrent_gated_delta(q, k, v, g, beta, to, {}, exec); },
             [&](auto& to) { fovea::chunk_gated_delta(q, k, v, g, beta, to, {}, exec); });
    } else {
      report([&](auto& to) { fovea::recurrent_gated_linear(q, k, v, g, to, {}, exec); },
             [&](auto& to) { fovea::chunk_gated_linear(q, k, v, g, to, {}, exec); });
    }
  };
  if (c.by_channel()) {
    gated(gates);
  } else if (c.gated()) {
    gated(gate);
  } else if (c.delta()) {
    report([&](auto& to) { fovea::recurrent_delta(q, k, v, beta, to, {}, exec); },
           [&](auto& to) { fovea::chunk_delta(q, k, v, beta, to, {}, exec); });
  } else {
    report([&](auto& to) { fovea::recurrent_retention(q, k, v, to, {.log_decays = {0}}, exec); },
           [&](auto& to) { fovea::chunk_retention(q, k, v, to, {.log_decays = {0}}, exec); });
  }
}

// One token behind a cache of narrower numbers.
template <class Tag, class Q, class Out, class Exec>
void decode(const peer::Case& c, const peer::Inputs& in, const Q& q, Out& out, const Exec& exec) {
  std::vector<fovea::cache::Contiguous<Tag>> caches;
  for (peer::Index b = 0; b < c.B; ++b) {
    caches.emplace_back(
        fovea::cache::ContiguousOptions{.kv_heads = c.G, .key_dim = c.D, .value_dim = c.D, .reserve = c.M});
    const fovea::Extents extents{1, c.G, c.M, c.D};
    caches.back().append(fovea::view(in.k.data() + b * c.G * c.M * c.D, extents),
                         fovea::view(in.v.data() + b * c.G * c.M * c.D, extents));
  }
  fovea::Workspace workspace;
  const auto reusing = fovea::exec::reuse(workspace, exec);
  const auto call = [&] { fovea::attend(q, fovea::kv::batch(caches), out, fovea::softmax(), reusing); };
  peer::report("fovea", c, in, call, peer::heads_outside_rows(c, out.data()));
}

}  // namespace

int main(int argc, char** argv) {
  const auto c = peer::parse(argc, argv);
  const peer::Inputs in(c);
  const peer::Buffer<float> out(in.q.size());

  using Tensor = Eigen::Tensor<float, 4, Eigen::RowMajor>;
  const Eigen::TensorMap<const Tensor> q(in.q.data(), c.B, c.H, c.N, c.D), k(in.k.data(), c.B, c.G, c.M, c.D),
      v(in.v.data(), c.B, c.G, c.M, c.D);
  Eigen::TensorMap<Tensor> o(out.data(), c.B, c.H, c.N, c.D);
  const auto run = [&](const auto& executor) {
    if (c.linear()) return linear(c, in, q, k, v, o, executor);
    if (c.stored_as("f16")) return decode<Eigen::half>(c, in, q, o, executor);
    if (c.stored_as("bf16")) return decode<Eigen::bfloat16>(c, in, q, o, executor);
    if (c.stored_as("q8")) return decode<fovea::kv::Int8>(c, in, q, o, executor);
    if (c.stored_as("q4")) return decode<fovea::kv::Int4>(c, in, q, o, executor);
    const auto call = [&] {
      if (c.window() > 0)
        fovea::sliding_window(q, k, v, o, {.window = c.window()}, executor);
      else
        fovea::scaled_dot_product(q, k, v, o, {.causal = c.causal()}, executor);
    };
    peer::report("fovea", c, in, call, peer::heads_outside_rows(c, out.data()));
  };
  if (c.threads == 1)
    run(fovea::exec::Serial{});
  else
    run(fovea::exec::Pool{c.threads});
}
