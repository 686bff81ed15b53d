// oneDNN 2 has no attention of its own; this is what its primitives give when put together well: matmul, softmax,
// matmul, one head at a time on each thread.
//   onednn-head   all queries of a head at once
//   onednn-block  128 queries at a time; a causal block stops at the last key it sees, one with a window begins at the
//   first
#include <omp.h>

#include <limits>
#include <oneapi/dnnl/dnnl.hpp>

#include "peer.hpp"

namespace {

using dnnl::memory;
using peer::Buffer;
using peer::Case;
using peer::Index;
using peer::Inputs;

memory::desc matrix(Index rows, Index columns, memory::format_tag tag = memory::format_tag::ab) {
  return {{rows, columns}, memory::data_type::f32, tag};
}

// The three primitives for `rows` queries from `first` on.
struct Block {
  Block(const Case& c, const dnnl::engine& engine, Index first_row, Index count)
      : first(first_row),
        rows(count),
        first_key(c.first(first)),
        keys(c.visible(first + rows - 1) - first_key),
        mask(c.causal() ? rows * keys : 0),
        q(matrix(rows, c.D)),
        kt(matrix(c.D, keys, memory::format_tag::ba)),
        v(matrix(keys, c.D)),
        s(matrix(rows, keys)),
        o(matrix(rows, c.D)) {
    dnnl::primitive_attr plain, scaled;
    plain.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    scaled.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    scaled.set_output_scales(0, {c.scale()});
    if (c.causal()) {
      for (Index i = 0; i < mask.size(); ++i)
        mask[i] = c.sees(first + i / keys, first_key + i % keys) ? 0 : -std::numeric_limits<float>::infinity();
      dnnl::post_ops add;
      add.append_binary(dnnl::algorithm::binary_add, s);
      scaled.set_post_ops(add);
    }
    const dnnl::matmul::primitive_desc score_desc({q, kt, s}, scaled, engine), mix_desc({s, v, o}, plain, engine);
    const dnnl::softmax_forward::primitive_desc softmax_desc({dnnl::prop_kind::forward_inference, s, 1}, plain, engine);
    score = dnnl::matmul(score_desc);
    softmax = dnnl::softmax_forward(softmax_desc);
    mix = dnnl::matmul(mix_desc);
    scratch =
        static_cast<Index>(std::max({score_desc.scratchpad_desc().get_size(), softmax_desc.scratchpad_desc().get_size(),
                                     mix_desc.scratchpad_desc().get_size()}));
  }

  Index first, rows, first_key, keys;
  Buffer<float> mask;
  memory::desc q, kt, v, s, o;
  dnnl::primitive score, softmax, mix;
  Index scratch = 0;  // bytes
};

void run(const char* name, const Case& c, const Inputs& in, Index block_rows) {
  const Buffer<float> out(in.q.size());
  // One query a head: the heads of a group are the rows of one product.
  const Index rows = c.N == 1 ? c.group() : c.N, products = in.q.size() / (rows * c.D);

  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  omp_set_num_threads(1);  // each primitive is serial
  std::vector<Block> blocks;
  Index scratch = 0;
  for (Index first = 0; first < rows; first += block_rows) {
    blocks.emplace_back(c, engine, first, std::min(block_rows, rows - first));
    scratch = std::max(scratch, blocks.back().scratch);
  }
  std::vector<Buffer<float>> scores;
  std::vector<Buffer<std::uint8_t>> scratches;
  for (int t = 0; t < c.threads; ++t) {
    scores.emplace_back(std::min(block_rows, rows) * c.M);
    scratches.emplace_back(scratch);
  }
  const memory::desc bytes({scratch}, memory::data_type::u8, memory::format_tag::a);

  const auto call = [&] {
#pragma omp parallel num_threads(c.threads)
    {
      dnnl::stream stream(engine);
      const int thread = omp_get_thread_num();
      const memory pad(bytes, engine, scratches[thread].data());
#pragma omp for schedule(dynamic, 1)
      for (Index p = 0; p < products; ++p)
        for (const auto& b : blocks) {
          const auto kv = (p * (c.B * c.G) / products * c.M + b.first_key) * c.D, at = (p * rows + b.first) * c.D;
          const memory q(b.q, engine, in.q.data() + at), kt(b.kt, engine, in.k.data() + kv);
          const memory v(b.v, engine, in.v.data() + kv), o(b.o, engine, out.data() + at);
          const memory s(b.s, engine, scores[thread].data()), mask(b.s, engine, b.mask.data());
          b.score.execute(stream, {{DNNL_ARG_SRC, q},
                                   {DNNL_ARG_WEIGHTS, kt},
                                   {DNNL_ARG_DST, s},
                                   {DNNL_ARG_SCRATCHPAD, pad},
                                   {DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, mask}});
          b.softmax.execute(stream, {{DNNL_ARG_SRC, s}, {DNNL_ARG_DST, s}, {DNNL_ARG_SCRATCHPAD, pad}});
          b.mix.execute(stream,
                        {{DNNL_ARG_SRC, s}, {DNNL_ARG_WEIGHTS, v}, {DNNL_ARG_DST, o}, {DNNL_ARG_SCRATCHPAD, pad}});
        }
    }
  };
  peer::report(name, c, in, call, peer::heads_outside_rows(c, out.data()));
}

}  // namespace

int main(int argc, char** argv) {
  const auto c = peer::parse(argc, argv);
  const Inputs in(c);
  peer::attempt("onednn-head", [&] { run("onednn-head", c, in, std::numeric_limits<Index>::max() / 2); });
  if (c.N > 128) peer::attempt("onednn-block", [&] { run("onednn-block", c, in, 128); });
}
