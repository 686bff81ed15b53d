// libtorch:
//   torch-bmm   baddbmm with the mask as an added matrix, softmax, bmm
//   torch-sdpa  scaled_dot_product_attention, from version 2 on; equal head counts
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <limits>
#include <optional>

#include "peer.hpp"

int main(int argc, char** argv) {
  const auto c = peer::parse(argc, argv);
  const peer::Inputs in(c);
  at::set_num_threads(c.threads);
  const at::NoGradGuard no_grad;
  at::Tensor out;
  // Only known after a call, since torch allocates it.
  const auto rows = [&](peer::Index b, peer::Index h, peer::Index n) {
    return out.data_ptr<float>() + ((b * c.H + h) * c.N + n) * c.D;
  };

  peer::attempt("torch-bmm", [&] {
    // One query a head: the heads of a group are the rows of one product.
    const auto length = c.N == 1 ? c.group() : c.N;
    auto q = at::from_blob(in.q.data(), {in.q.size() / (length * c.D), length, c.D});
    auto k = at::from_blob(in.k.data(), {c.B * c.G, c.M, c.D}), v = at::from_blob(in.v.data(), {c.B * c.G, c.M, c.D});
    if (q.size(0) != k.size(0)) k = k.repeat_interleave(c.group(), 0), v = v.repeat_interleave(c.group(), 0);
    auto mask = at::zeros({1, 1, 1});
    if (c.causal()) {
      mask = at::zeros({c.N, c.M});
      for (peer::Index i = 0; i < c.N * c.M; ++i)
        if (!c.sees(i / c.M, i % c.M)) mask.data_ptr<float>()[i] = -std::numeric_limits<float>::infinity();
    }
    const auto call = [&] { out = at::bmm(at::softmax(at::baddbmm(mask, q, k.transpose(1, 2), 1, c.scale()), -1), v); };
    peer::report("torch-bmm", c, in, call, rows);
  });

#if __has_include(<ATen/ops/scaled_dot_product_attention.h>)
  if (c.H != c.G || (c.causal() && c.N != c.M)) return 0;
  std::optional<at::Tensor> mask;
  if (c.window() > 0) {
    mask = at::zeros({c.N, c.M});
    for (peer::Index i = 0; i < c.N * c.M; ++i)
      if (!c.sees(i / c.M, i % c.M)) mask->data_ptr<float>()[i] = -std::numeric_limits<float>::infinity();
  }
  peer::attempt("torch-sdpa", [&] {
    const auto q = at::from_blob(in.q.data(), {c.B, c.H, c.N, c.D});
    const auto k = at::from_blob(in.k.data(), {c.B, c.G, c.M, c.D}), v = at::from_blob(in.v.data(), k.sizes());
    const auto call = [&] {
      out = at::scaled_dot_product_attention(q, k, v, mask, 0, c.causal() && !mask).contiguous();
    };
    peer::report("torch-sdpa", c, in, call, rows);
  });
#endif
}
