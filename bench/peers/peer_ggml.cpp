// ggml's CPU backend, float keys and values:
//   ggml-flash    ggml_flash_attn_ext; decode also with keys and values of ggml's types F16, BF16, Q8_0 and Q4_0
//   ggml-unfused  mul_mat, soft_max_ext, mul_mat on values transposed beforehand; decode only, where it can win
#include <ggml-cpu.h>
#include <ggml.h>

#include <stdexcept>
#include <utility>

#include "peer.hpp"

namespace {

using peer::Case;
using peer::Index;
using peer::Inputs;

struct FreeContext {
  void operator()(ggml_context* context) const { ggml_free(context); }
};
struct FreePool {
  void operator()(ggml_threadpool* pool) const { ggml_threadpool_free(pool); }
};

ggml_tensor* over(void* data, ggml_context* context, ggml_type type, Index columns, Index rows, Index heads,
                  Index batch) {
  auto* tensor = ggml_new_tensor_4d(context, type, columns, rows, heads, batch);
  tensor->data = data;
  return tensor;
}

// Rows of D numbers as a type of ggml's, in memory of its own.
peer::Buffer<std::uint8_t> stored(const Case& c, const peer::Buffer<float>& rows, ggml_type type) {
  const Index count = rows.size() / c.D;
  peer::Buffer<std::uint8_t> bytes(count * static_cast<Index>(ggml_row_size(type, c.D)));
  ggml_quantize_chunk(type, rows.data(), bytes.data(), 0, count, c.D, nullptr);
  return bytes;
}

void run(const Case& c, const Inputs& in, bool fused, ggml_type type = GGML_TYPE_F32) {
  const bool narrow = type != GGML_TYPE_F32;
  const auto k_stored = narrow ? stored(c, in.k, type) : peer::Buffer<std::uint8_t>(0);
  const auto v_stored = narrow ? stored(c, in.v, type) : peer::Buffer<std::uint8_t>(0);
  constexpr ggml_fp16_t zero = 0, minus_infinity = 0xfc00;
  peer::Buffer<ggml_fp16_t> mask(c.causal() ? c.N * c.M : 0);
  for (Index i = 0; i < mask.size(); ++i) mask[i] = c.sees(i / c.M, i % c.M) ? zero : minus_infinity;
  peer::Buffer<float> transposed(fused ? 0 : in.v.size()), scores(fused ? 0 : c.B * c.H * c.N * c.M), out(in.q.size());
  if (!fused)
    for (Index head = 0; head < c.B * c.G; ++head)
      for (Index j = 0; j < c.M; ++j)
        for (Index d = 0; d < c.D; ++d) transposed[(head * c.D + d) * c.M + j] = in.v[(head * c.M + j) * c.D + d];

  // The context holds descriptions only; all data are ours.
  const std::unique_ptr<ggml_context, FreeContext> context(ggml_init({std::size_t{1} << 20, nullptr, true}));
  auto* x = context.get();
  auto* q = over(in.q.data(), x, GGML_TYPE_F32, c.D, c.N, c.H, c.B);
  void* const keys = narrow ? static_cast<void*>(k_stored.data()) : in.k.data();
  auto* k = over(keys, x, type, c.D, c.M, c.G, c.B);
  auto* m = c.causal() ? over(mask.data(), x, GGML_TYPE_F16, c.M, c.N, 1, 1) : nullptr;
  ggml_tensor* result = nullptr;
  if (fused) {
    void* const values = narrow ? static_cast<void*>(v_stored.data()) : in.v.data();
    auto* v = over(values, x, type, c.D, c.M, c.G, c.B);
    result = ggml_flash_attn_ext(x, q, k, v, m, c.scale(), 0, 0);
    ggml_flash_attn_ext_set_prec(result, GGML_PREC_F32);
  } else {
    auto* v = over(transposed.data(), x, GGML_TYPE_F32, c.M, c.D, c.G, c.B);
    auto* products = ggml_mul_mat(x, k, q);
    products->data = scores.data();
    auto* weights = ggml_soft_max_ext_inplace(x, products, m, c.scale(), 0);
    weights->data = scores.data();
    result = ggml_mul_mat(x, v, weights);
  }
  result->data = out.data();

  auto* graph = ggml_new_graph(x);
  ggml_build_forward_expand(graph, result);
  auto parameters = ggml_threadpool_params_default(c.threads);
  const std::unique_ptr<ggml_threadpool, FreePool> pool(ggml_threadpool_new(&parameters));
  auto plan = ggml_graph_plan(graph, c.threads, pool.get());
  peer::Buffer<std::uint8_t> work(static_cast<Index>(plan.work_size));
  plan.work_data = work.data();

  const auto call = [&] {
    if (ggml_graph_compute(graph, &plan) != GGML_STATUS_SUCCESS) throw std::runtime_error("compute failed");
  };
  if (fused)
    peer::report("ggml-flash", c, in, call, peer::heads_inside_rows(c, out.data()));
  else
    peer::report("ggml-unfused", c, in, call, peer::heads_outside_rows(c, out.data()));
}

}  // namespace

int main(int argc, char** argv) {
  const auto c = peer::parse(argc, argv);
  const Inputs in(c);
  ggml_cpu_init();
  constexpr std::pair<const char*, ggml_type> types[] = {
      {"f16", GGML_TYPE_F16}, {"bf16", GGML_TYPE_BF16}, {"q8", GGML_TYPE_Q8_0}, {"q4", GGML_TYPE_Q4_0}};
  for (const auto& [name, type] : types) {
    if (!c.stored_as(name)) continue;
    const ggml_type chosen = type;
    peer::attempt("ggml-flash", [&] { run(c, in, true, chosen); });
    return 0;
  }
  peer::attempt("ggml-flash", [&] { run(c, in, true); });
  if (c.N == 1) peer::attempt("ggml-unfused", [&] { run(c, in, false); });
}
