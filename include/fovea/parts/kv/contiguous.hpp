// Keys and values as plain arrays [B,G,M,D] and [B,G,M,E].
//
// What a source of keys and values gives the engines: how many there are, and the rows of a span of one kv head as they
// lie in memory.
#pragma once

#include <fovea/core/problem.hpp>
#include <fovea/core/span.hpp>

namespace fovea::inline FOVEA_ISA::kv {

// Rows in memory: row j begins at data + j * stride.
template <class T>
struct Rows {
  const T* data = nullptr;
  Index stride = 0;

  const T* operator[](Index j) const { return data + j * stride; }
};

template <class T>
struct Contiguous {
  View<const T> k;
  View<const T> v;

  Index length() const { return k.length; }
  Index key_dim() const { return k.dim; }
  Index value_dim() const { return v.dim; }
  Rows<T> keys(Index batch, Index kv_head, Span span) const {
    return {k.row(batch, kv_head, span.first), k.length_stride};
  }
  Rows<T> values(Index batch, Index kv_head, Span span) const {
    return {v.row(batch, kv_head, span.first), v.length_stride};
  }
};

}  // namespace fovea::inline FOVEA_ISA::kv
