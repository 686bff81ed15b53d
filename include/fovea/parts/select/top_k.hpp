// A choice of keys by their scores, as a value: how many for each query, and whose scores choose.
#pragma once

#include <fovea/core/problem.hpp>

namespace fovea::inline FOVEA_ISA::select {

// Whose scores choose: each query head's its own keys, or the query heads of a kv head the same keys by the largest or
// the sum of their scores.
enum class Heads { each, kv_max, kv_sum };

struct TopK {
  Index k = 0;  // keys of a query
  Heads heads = Heads::each;
  bool keep_mass = false;  // chosen keys keep their weights of the softmax over all visible keys

  // Heads that have lists of their own.
  Index lists(const Shape& shape) const { return heads == Heads::each ? shape.heads : shape.kv_heads; }

  void check_for(const char* where, const Shape& shape) const {
    check(k > 0, where, "top_k must be positive, got ", k);
    check(shape.keys < (Index(1) << 31), where, "there must be fewer than 2^31 keys, got ", shape.keys);
  }
};

}  // namespace fovea::inline FOVEA_ISA::select
