// Blocks of keys and values multiplied by a weight for each pair of blocks: every query block becomes a sequence with
// copies of its own.
#pragma once

#include <algorithm>
#include <vector>

#include <fovea/core/problem.hpp>
#include <fovea/core/span.hpp>
#include <fovea/exec/executor.hpp>
#include <fovea/simd/row.hpp>

namespace fovea::inline FOVEA_ISA::permute {

// A block of keys and the factor of its keys and values.
struct WeightedBlock {
  Index block = 0;
  double weight = 1;
};

// Calls f(part, batch) on problems whose batch elements are the query blocks of one head of `problem`, each with its
// blocks of keys behind one another. list(batch, n) are the WeightedBlocks of query block n; what stands behind those
// of a short list is zero. Blocks of `block` tokens, of which q and k have a whole number; as many heads of q as of k.
template <class T, class List, exec::Executor Exec, class F>
void each_weighted(const Problem<T>& problem, Index block, Index most_listed, const List& list, const Exec& executor,
                   F&& f) {
  const Index blocks = problem.q.length / block, keys = most_listed * block;
  const Index dim = problem.k.dim, value_dim = problem.v.dim;
  std::vector<T> k(std::size_t(blocks * keys * dim)), v(std::size_t(blocks * keys * value_dim));
  for (Index b = 0; b < problem.q.batch; ++b) {
    for (Index h = 0; h < problem.q.heads; ++h) {
      executor.parallel_for(blocks, double(keys * (dim + value_dim)), [&](Index begin, Index end) {
        for (Index n = begin; n < end; ++n) {
          T* k_to = k.data() + n * keys * dim;
          T* v_to = v.data() + n * keys * value_dim;
          for (const WeightedBlock& from : list(b, n)) {
            for (Index j = from.block * block; j < (from.block + 1) * block; ++j, k_to += dim, v_to += value_dim) {
              simd::copy_scaled(k_to, problem.k.row(b, h, j), dim, T(from.weight));
              simd::copy_scaled(v_to, problem.v.row(b, h, j), value_dim, T(from.weight));
            }
          }
          std::fill(k_to, k.data() + (n + 1) * keys * dim, T(0));
          std::fill(v_to, v.data() + (n + 1) * keys * value_dim, T(0));
        }
      });
      const auto apart = [&](const auto& x) {
        auto one = x;
        one.data = x.row(b, h, 0);
        one.batch = blocks;
        one.heads = 1;
        one.length = block;
        one.batch_stride = block * x.length_stride;
        return one;
      };
      Problem<T> part = problem;
      part.q = apart(problem.q);
      part.out = apart(problem.out);
      if (problem.log_sum.data != nullptr) part.log_sum = apart(problem.log_sum);
      part.k = view<const T>(k.data(), {blocks, 1, keys, dim});
      part.v = view<const T>(v.data(), {blocks, 1, keys, value_dim});
      part.group = 1;
      f(std::as_const(part), b);
    }
  }
}

}  // namespace fovea::inline FOVEA_ISA::permute
