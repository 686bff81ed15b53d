// Attention sinks as parameters: learned sink logits, softmax-off-by-one, and a learned extra key and value.
// Sink logits: OpenAI, "gpt-oss-120b & gpt-oss-20b Model Card", 2025, arXiv:2508.10925; softmax-off-by-one: Miller,
// "Attention Is Off By One", 2023; extra key and value: Gu et al., "When Attention Sink Emerges in Language Models",
// 2024, arXiv:2410.10781.
//
//   sink_logits      o_i = sum_j exp(s_ij) v_j / (exp(c_h) + sum_j exp(s_ij)),   s_ij = scale q_i . k_j
//   sink_key_value   o_i = (exp(s_i*) v*_h + sum_j exp(s_ij) v_j) / (exp(s_i*) + sum_j exp(s_ij)),
//                    s_i* = scale q_i . k*_h
//
// over all keys j, over j <= p when causal, or over p - window < j <= p, with p = i + M - N. c_h is neither scaled nor
// masked; the extra key is seen by every query.
//
// Exact; c_h = -infinity is plain attention, and the extra key and value 0 are the logit 0. Cost that of attention and
// an exponential for each query, for sink_key_value O(N (D + E)) and, unless log-sums are asked for, a number for each
// query.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include <fovea/engine/attend.hpp>
#include <fovea/parts/combine/extra_key.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <fovea/parts/mask/window.hpp>

namespace fovea::inline FOVEA_ISA {

struct SinkLogitsOptions {
  std::vector<double> sink_logits = {};           // [H], of each query head; finite, or -infinity for no sink
  bool off_by_one = false;                        // every logit is 0; sink_logits stay empty
  Alignment alignment = Alignment::bottom_right;  // where the queries stand when causal and N != M
  bool causal = false;                            // a query sees its own position and those before it
  std::optional<Index> window = {};               // of which so many, its own included; all when empty
  std::optional<double> scale = {};               // 1 / sqrt(D) when empty
};

struct SinkKeyValueOptions {
  Alignment alignment = Alignment::bottom_right;  // where the queries stand when causal and N != M
  bool causal = false;                            // a query sees its own position and those before it
  std::optional<Index> window = {};               // of which so many, its own included; all when empty
  std::optional<double> scale = {};               // 1 / sqrt(D) when empty
};

namespace detail {

// Softmax over the keys that the options let a query see.
template <class T, class Options, exec::Executor Exec>
void attend_with_sinks(const Problem<T>& problem, const Options& options, const Recipe<>& softmax,
                       const Exec& executor) {
  check(!options.window || options.causal, problem.where, "a window needs causal attention");
  if (options.window) {
    const auto seen = mask::causal(options.alignment) & mask::window(*options.window, options.alignment);
    engine::attend(problem, softmax.mask(seen), executor);
  } else {
    engine::attend(problem, softmax.mask(mask::causal_if(options.causal, options.alignment)), executor);
  }
}

}  // namespace detail

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; or matrices [N,D], [M,D], [M,E], [N,E].
// Log-sums do not count the sink; combine::add_sink does the same to a result that is there.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void sink_logits(const Q& q, const K& k, const V& v, Out&& out, const SinkLogitsOptions& options,
                 const Exec& executor = {}) {
  constexpr auto where = "fovea::sink_logits";
  const auto problem = make_problem(where, q, k, v, out);
  check(options.off_by_one || Index(options.sink_logits.size()) == problem.q.heads, where,
        "sink logits need one number for each head, wanted ", problem.q.heads, ", got ", options.sink_logits.size());
  check(!options.off_by_one || options.sink_logits.empty(), where, "off_by_one has no sink logits, got ",
        options.sink_logits.size());

  const auto logits = options.off_by_one ? std::vector<double>(std::size_t(problem.q.heads), 0.0) : options.sink_logits;
  detail::attend_with_sinks(problem, options, softmax(options.scale).sink_logits(logits), executor);
}

// As above, with sink_key [H,D] and sink_value [H,E], or [1,D] and [1,E] for all heads, of the type of q: a row for
// each query head. They carry no position: a rotation of q and k leaves sink_key alone. A sink_value of zeros is a key
// bias. Log-sums count the extra key.
template <class Q, class K, class V, class SinkKey, class SinkValue, class Out, exec::Executor Exec = exec::Serial>
void sink_key_value(const Q& q, const K& k, const V& v, const SinkKey& sink_key, const SinkValue& sink_value, Out&& out,
                    const SinkKeyValueOptions& options = {}, const Exec& executor = {}) {
  constexpr auto where = "fovea::sink_key_value";
  auto problem = make_problem(where, q, k, v, out);
  using T = std::remove_pointer_t<decltype(problem.out.data)>;
  const auto recipe = softmax(options.scale);
  const combine::ExtraKey<T> extra(where, view(sink_key), view(sink_value), problem.q.extents(), problem.v.dim,
                                   recipe.normalizer.scale_for(problem.q.dim));
  std::vector<T> log_sums;
  if (problem.log_sum.data == nullptr) {
    log_sums.resize(std::size_t(problem.q.batch * problem.q.heads * problem.q.length));
    problem.log_sum = view(log_sums.data(), {problem.q.batch, problem.q.heads, problem.q.length, 1});
  }

  detail::attend_with_sinks(problem, options, recipe, executor);
  extra.merge_into(problem.q, problem.out, problem.log_sum, executor);
}

}  // namespace fovea::inline FOVEA_ISA
