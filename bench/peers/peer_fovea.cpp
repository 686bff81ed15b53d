// Ours, timed as the others are.
#include <Eigen/Core>
#include <fovea/dense/scaled_dot_product.hpp>
#include <fovea/exec/pool.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

#include "peer.hpp"

int main(int argc, char** argv) {
  const auto c = peer::parse(argc, argv);
  const peer::Inputs in(c);
  const peer::Buffer<float> out(in.q.size());

  using Tensor = Eigen::Tensor<float, 4, Eigen::RowMajor>;
  const Eigen::TensorMap<const Tensor> q(in.q.data(), c.B, c.H, c.N, c.D), k(in.k.data(), c.B, c.G, c.M, c.D),
      v(in.v.data(), c.B, c.G, c.M, c.D);
  Eigen::TensorMap<Tensor> o(out.data(), c.B, c.H, c.N, c.D);
  const auto run = [&](const auto& executor) {
    const auto call = [&] { fovea::scaled_dot_product(q, k, v, o, {.causal = c.causal()}, executor); };
    peer::report("fovea", c, in, call, peer::heads_outside_rows(c, out.data()));
  };
  if (c.threads == 1)
    run(fovea::exec::Serial{});
  else
    run(fovea::exec::Pool{c.threads});
}
