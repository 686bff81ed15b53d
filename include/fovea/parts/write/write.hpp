// What a write is: how a token changes the decayed state S.
//
//   outer_product   S + k v^T                             add
//   delta           S + k (beta (v - S^T k))^T            replace what is stored under k
//
// A write is a small value; `bind<T>(where, shape)` checks it against a call and gives the bound write: whether it
// `corrects`, that is reads the state before it writes, and if it does the strength `T beta(batch, kv_head, token)`.
#pragma once

#include <fovea/core/problem.hpp>

namespace fovea::inline FOVEA_ISA::write {

template <class T>
struct BoundOuterProduct {
  static constexpr bool corrects = false;
};

struct OuterProduct {
  template <class T>
  BoundOuterProduct<T> bind(const char*, const Shape&) const {
    return {};
  }
};

// S_t = S + k_t v_t^T
inline OuterProduct outer_product() { return {}; }

}  // namespace fovea::inline FOVEA_ISA::write
