// What caches of one sequence accept.
#pragma once

#include <type_traits>

#include <fovea/core/check.hpp>
#include <fovea/core/eigen.hpp>

namespace fovea::inline FOVEA_ISA::cache {

inline void check_extents(const char* where, Index kv_heads, Index key_dim, Index value_dim) {
  constexpr Index most = Index{1} << 20;  // sizes in bytes cannot overflow
  const auto one = [&](Index extent, const char* name) {
    check(extent > 0 && extent <= most, where, name, " must be between 1 and ", most, ", got ", extent);
  };
  one(kv_heads, "kv_heads");
  one(key_dim, "key_dim");
  one(value_dim, "value_dim");
}

// Tokens that are to be appended: [G,n,D], or [n,D] of one head, of float or double.
template <class X>
auto appended(const X& x) {
  const auto rows = view(x);
  using T = std::remove_const_t<std::remove_pointer_t<decltype(rows.data)>>;
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>,
                "fovea: caches take keys and values as float or double");
  return View<const T>(rows);
}

inline void check_appended(const char* where, const Extents& k, const Extents& v, Index kv_heads, Index key_dim,
                           Index value_dim) {
  check(k.batch == 1 && v.batch == 1, where, "k and v must be of one sequence, got a batch of ", k.batch, " and of ",
        v.batch);
  check(k.heads == kv_heads && k.dim == key_dim, where, "k must have the heads and the width of the cache, wanted [",
        kv_heads, ", n, ", key_dim, "], got [", k.heads, ", ", k.length, ", ", k.dim, "]");
  check(v.heads == kv_heads && v.dim == value_dim, where, "v must have the heads and the width of the cache, wanted [",
        kv_heads, ", n, ", value_dim, "], got [", v.heads, ", ", v.length, ", ", v.dim, "]");
  check(v.length == k.length, where, "v must have the length of k, wanted ", k.length, ", got ", v.length);
}

}  // namespace fovea::inline FOVEA_ISA::cache
