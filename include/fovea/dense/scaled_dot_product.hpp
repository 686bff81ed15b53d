// Scaled dot-product attention: multi-head, multi-query and grouped-query, self and cross.
// Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762; multi-query: Shazeer 2019, arXiv:1911.02150;
// grouped-query: Ainslie et al. 2023, arXiv:2305.13245.
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j   over all keys j, or over j <= i + M - N when causal
//
// Exact. Cost O(N M (D + E)) for each head. Memory beside the arrays does not grow with N or M, but for few queries a
// row of E + 2 numbers for each query and 512 keys.
#pragma once

#include <optional>

#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/causal.hpp>

namespace fovea::inline FOVEA_ISA {

struct ScaledDotProductOptions {
  Alignment alignment = Alignment::bottom_right;  // where the queries stand when causal and N != M
  bool causal = false;                            // a query sees its own position and those before it
  std::optional<double> scale = {};               // 1 / sqrt(D) when empty
};

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E], H a multiple of G; or matrices [N,D], [M,D], [M,E], [N,E].
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void scaled_dot_product(const Q& q, const K& k, const V& v, Out&& out, const ScaledDotProductOptions& options = {},
                        const Exec& executor = {}) {
  const auto problem = make_problem("fovea::scaled_dot_product", q, k, v, out);
  const auto seen = mask::causal_if(options.causal, options.alignment);
  engine::attend(problem, softmax(options.scale).mask(seen), executor);
}

}  // namespace fovea::inline FOVEA_ISA
