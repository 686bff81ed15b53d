// Block-sparse attention: for each block of queries a list of blocks of keys. The executor of methods that choose
// blocks. Child et al., "Generating Long Sequences with Sparse Transformers", 2019, arXiv:1904.10509, for the idea; the
// table is the user's.
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j   over   { j : block(j) in list(block(i)), and j <= i + M - N when
//   causal }
//
// Exact for its table; equals dense attention when every block is listed. Cost O(kept pairs (D + E)).
#pragma once

#include <optional>

#include <fovea/engine/by_key_block.hpp>

namespace fovea::inline FOVEA_ISA {

using mask::BlockTable;

struct BlockSparseOptions {
  Alignment alignment = Alignment::bottom_right;  // where the queries stand when causal and N != M
  bool causal = false;                            // of the listed blocks a query sees the keys up to its own position
  std::optional<double> scale = {};               // 1 / sqrt(D) when empty
};

// q [B,H,N,D], k [B,G,M,D], v [B,G,M,E], out [B,H,N,E]; the table's lists by query block, shared or for each batch and
// head.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void block_sparse(const Q& q, const K& k, const V& v, Out&& out, const BlockTable& table,
                  const BlockSparseOptions& options = {}, const Exec& executor = {}) {
  const auto problem = make_problem("fovea::block_sparse", q, k, v, out);
  engine::attend_blocks(problem, options.scale, table, options.causal, options.alignment, executor);
}

}  // namespace fovea::inline FOVEA_ISA
