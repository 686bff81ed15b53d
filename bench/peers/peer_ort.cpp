// ONNX Runtime's CPU kernels, each as a model of one node built through its C interface:
//   ort-mha        com.microsoft MultiHeadAttention, [B, N, H D]; equal head counts
//   ort-attention  ai.onnx Attention, opset 23, [B, H, N, D]; a window as an added matrix
//   ort-gqa        com.microsoft GroupQueryAttention, always causal: prefill, with a window or without, or one token
//   after a
//                  shared cache
//   ort-linear     com.microsoft LinearAttention, [B, N, H D], its four rules
#include <onnxruntime_c_api.h>

#include <cstring>
#include <stdexcept>

#include "peer.hpp"

namespace {

using peer::Buffer;
using peer::Case;
using peer::Index;
using peer::Inputs;

const OrtApi* api = nullptr;

void ok(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  throw std::runtime_error(message);
}

struct Tensor {
  const char* name;
  void* data;
  std::vector<Index> shape;
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
};

struct Attribute {
  const char* name;
  Index value;
  const char* text = nullptr;  // in place of the value
};

// The program ends after a handful of nodes, so nothing of them is released.
class Node {
 public:
  Node(int threads, const char* op, const char* domain, const std::vector<Attribute>& attributes,
       const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs) {
    const auto* editor = api->GetModelEditorApi();
    if (editor == nullptr) throw std::runtime_error("this build has no model editor");

    std::vector<OrtOpAttr*> settings;
    for (const auto& a : attributes) {
      auto** const setting = &settings.emplace_back();
      if (a.text != nullptr) {
        ok(api->CreateOpAttr(a.name, a.text, static_cast<int>(std::strlen(a.text)), ORT_OP_ATTR_STRING, setting));
      } else {
        ok(api->CreateOpAttr(a.name, &a.value, 1, ORT_OP_ATTR_INT, setting));
      }
    }
    std::vector<OrtValueInfo*> input_infos, output_infos;
    for (const auto& t : inputs) bind(t, input_names_, input_values_, input_infos);
    for (const auto& t : outputs) bind(t, output_names_, output_values_, output_infos);

    OrtNode* node = nullptr;
    ok(editor->CreateNode(op, domain, "node", input_names_.data(), input_names_.size(), output_names_.data(),
                          output_names_.size(), settings.data(), settings.size(), &node));
    OrtGraph* graph = nullptr;
    ok(editor->CreateGraph(&graph));
    ok(editor->SetGraphInputs(graph, input_infos.data(), input_infos.size()));
    ok(editor->SetGraphOutputs(graph, output_infos.data(), output_infos.size()));
    ok(editor->AddNodeToGraph(graph, node));
    const char* domains[] = {"", "com.microsoft"};
    const int opsets[] = {23, 1};
    OrtModel* model = nullptr;
    ok(editor->CreateModel(domains, opsets, 2, &model));
    ok(editor->AddGraphToModel(model, graph));

    OrtEnv* env = nullptr;
    ok(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "peer", &env));
    ok(api->DisableTelemetryEvents(env));
    OrtSessionOptions* options = nullptr;
    ok(api->CreateSessionOptions(&options));
    ok(api->SetIntraOpNumThreads(options, threads));
    ok(editor->CreateSessionFromModel(env, model, options, &session_));
  }

  void run() {
    ok(api->Run(session_, nullptr, input_names_.data(), input_values_.data(), input_values_.size(),
                output_names_.data(), output_values_.size(), output_values_.data()));
  }

 private:
  static void bind(const Tensor& t, std::vector<const char*>& names, std::vector<OrtValue*>& values,
                   std::vector<OrtValueInfo*>& infos) {
    OrtTensorTypeAndShapeInfo* shape = nullptr;
    ok(api->CreateTensorTypeAndShapeInfo(&shape));
    ok(api->SetTensorElementType(shape, t.type));
    ok(api->SetDimensions(shape, t.shape.data(), t.shape.size()));
    OrtTypeInfo* type = nullptr;
    ok(api->GetModelEditorApi()->CreateTensorTypeInfo(shape, &type));
    ok(api->GetModelEditorApi()->CreateValueInfo(t.name, type, &infos.emplace_back()));

    OrtMemoryInfo* memory = nullptr;
    ok(api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
    std::size_t bytes = 4;  // float and int32 alike
    for (const auto extent : t.shape) bytes *= static_cast<std::size_t>(extent);
    names.push_back(t.name);
    ok(api->CreateTensorWithDataAsOrtValue(memory, t.data, bytes, t.shape.data(), t.shape.size(), t.type,
                                           &values.emplace_back()));
  }

  OrtSession* session_ = nullptr;
  std::vector<const char*> input_names_, output_names_;
  std::vector<OrtValue*> input_values_, output_values_;
};

void multi_head_attention(const Case& c, const Inputs& in) {
  const Buffer<float> q(in.q.size()), k(in.k.size()), v(in.v.size()), out(in.q.size());
  peer::heads_inside(in.q.data(), q.data(), c.B, c.H, c.N, c.D);
  peer::heads_inside(in.k.data(), k.data(), c.B, c.H, c.M, c.D);
  peer::heads_inside(in.v.data(), v.data(), c.B, c.H, c.M, c.D);
  const std::vector<Index> queries = {c.B, c.N, c.H * c.D}, keys = {c.B, c.M, c.H * c.D};
  Node node(c.threads, "MultiHeadAttention", "com.microsoft", {{"num_heads", c.H}, {"unidirectional", c.causal()}},
            {{"q", q.data(), queries}, {"k", k.data(), keys}, {"v", v.data(), keys}}, {{"y", out.data(), queries}});
  peer::report(
      "ort-mha", c, in, [&] { node.run(); }, peer::heads_inside_rows(c, out.data()));
}

void attention(const Case& c, const Inputs& in) {
  const Buffer<float> out(in.q.size());
  const std::vector<Index> queries = {c.B, c.H, c.N, c.D}, keys = {c.B, c.G, c.M, c.D};
  const Buffer<float> mask(c.window() > 0 ? c.N * c.M : 0);
  for (Index i = 0; i < mask.size(); ++i)
    mask[i] = c.sees(i / c.M, i % c.M) ? 0 : -std::numeric_limits<float>::infinity();
  std::vector<Tensor> inputs = {{"q", in.q.data(), queries}, {"k", in.k.data(), keys}, {"v", in.v.data(), keys}};
  if (mask.size() > 0) inputs.push_back({"mask", mask.data(), {c.N, c.M}});
  Node node(c.threads, "Attention", "", {{"is_causal", c.causal() && c.window() == 0}}, inputs,
            {{"y", out.data(), queries}});
  peer::report(
      "ort-attention", c, in, [&] { node.run(); }, peer::heads_outside_rows(c, out.data()));
}

// The last N tokens of k and v are handed over as new; those before them, for decode, lie in a cache of length M that
// input and output share.
void group_query_attention(const Case& c, const Inputs& in) {
  const Buffer<float> q(in.q.size()), k(c.B * c.N * c.G * c.D), v(k.size()), out(in.q.size());
  const Buffer<float> k_cache(in.k.size()), v_cache(in.v.size());
  peer::heads_inside(in.q.data(), q.data(), c.B, c.H, c.N, c.D);
  for (Index head = 0; head < c.B * c.G; ++head)
    for (Index n = 0; n < c.N; ++n) {
      const auto from = (head * c.M + c.M - c.N + n) * c.D, to = ((head / c.G * c.N + n) * c.G + head % c.G) * c.D;
      std::copy_n(in.k.data() + from, c.D, k.data() + to);
      std::copy_n(in.v.data() + from, c.D, v.data() + to);
    }
  if (c.N < c.M) {
    std::copy_n(in.k.data(), in.k.size(), k_cache.data());
    std::copy_n(in.v.data(), in.v.size(), v_cache.data());
  }
  std::vector<std::int32_t> last(c.B, static_cast<std::int32_t>(c.M - 1));
  std::int32_t total = static_cast<std::int32_t>(c.M);

  constexpr auto int32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
  const std::vector<Index> queries = {c.B, c.N, c.H * c.D}, fresh = {c.B, c.N, c.G * c.D}, cache = {c.B, c.G, c.M, c.D};
  std::vector<Attribute> settings = {{"num_heads", c.H}, {"kv_num_heads", c.G}};
  if (c.window() > 0) settings.push_back({"local_window_size", c.window()});
  Node node(c.threads, "GroupQueryAttention", "com.microsoft", settings,
            {{"q", q.data(), queries},
             {"k", k.data(), fresh},
             {"v", v.data(), fresh},
             {"past_k", k_cache.data(), cache},
             {"past_v", v_cache.data(), cache},
             {"last", last.data(), {c.B}, int32},
             {"total", &total, {1}, int32}},
            {{"y", out.data(), queries}, {"present_k", k_cache.data(), cache}, {"present_v", v_cache.data(), cache}});
  peer::report(
      "ort-gqa", c, in, [&] { node.run(); }, peer::heads_inside_rows(c, out.data()));
}

// Gates and strengths with the heads inside; the state before the first token is all zeros.
void linear_attention(const Case& c, const Inputs& in) {
  const Index gate_dim = c.by_channel() ? c.D : 1, state_size = c.B * c.G * c.D * c.D;
  const Buffer<float> q(in.q.size()), k(in.k.size()), v(in.v.size()), out(in.q.size());
  const Buffer<float> gate(c.B * c.G * c.N * gate_dim), beta(c.B * c.G * c.N), past(state_size), present(state_size);
  peer::heads_inside(in.q.data(), q.data(), c.B, c.H, c.N, c.D);
  peer::heads_inside(in.k.data(), k.data(), c.B, c.G, c.N, c.D);
  peer::heads_inside(in.v.data(), v.data(), c.B, c.G, c.N, c.D);
  peer::heads_inside(in.beta.data(), beta.data(), c.B, c.G, c.N, 1);
  if (c.gated()) peer::heads_inside(in.gate.data(), gate.data(), c.B, c.G, c.N, gate_dim);
  const std::vector<Index> queries = {c.B, c.N, c.H * c.D}, keys = {c.B, c.N, c.G * c.D}, state = {c.B, c.G, c.D, c.D};
  std::vector<Tensor> inputs = {
      {"q", q.data(), queries}, {"k", k.data(), keys}, {"v", v.data(), keys}, {"past", past.data(), state}};
  if (c.gated() || c.delta()) inputs.push_back({"gate", gate.data(), {c.B, c.N, c.G * gate_dim}});
  if (c.delta()) inputs.push_back({"beta", beta.data(), {c.B, c.N, c.G}});
  const char* const rule = c.gated() ? c.delta() ? "gated_delta" : "gated" : c.delta() ? "delta" : "linear";
  Node node(c.threads, "LinearAttention", "com.microsoft",
            {{"q_num_heads", c.H}, {"kv_num_heads", c.G}, {"update_rule", 0, rule}}, inputs,
            {{"y", out.data(), queries}, {"present", present.data(), state}});
  peer::report(
      "ort-linear", c, in, [&] { node.run(); }, peer::heads_inside_rows(c, out.data()));
}

}  // namespace

int main(int argc, char** argv) {
  const auto c = peer::parse(argc, argv);
  api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    std::fprintf(stderr, "ort: the library is older than its header\n");
    return 1;
  }
  const Inputs in(c);
  if (c.linear()) {
    peer::attempt("ort-linear", [&] { linear_attention(c, in); });
    return 0;
  }
  // With N != M the first two align causal queries with the first keys, not the last.
  const bool square = !c.causal() || c.N == c.M;
  if (square && c.H == c.G && c.window() == 0) peer::attempt("ort-mha", [&] { multi_head_attention(c, in); });
  if (square) peer::attempt("ort-attention", [&] { attention(c, in); });
  if (c.N == 1 || (c.causal() && c.N == c.M)) peer::attempt("ort-gqa", [&] { group_query_attention(c, in); });
}
