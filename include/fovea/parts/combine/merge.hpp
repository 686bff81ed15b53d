// Attention over two disjoint sets of keys from the results over each: merging by log-sum.
//
//   L = ln(e^La + e^Lb),   o = e^(La - L) a + e^(Lb - L) b
//
// Associative and commutative up to rounding; the empty result (0, -infinity) changes nothing, bit for bit.
#pragma once

#include <cmath>
#include <cstring>

#include <fovea/core/problem.hpp>
#include <fovea/exec/serial.hpp>
#include <fovea/simd/row.hpp>

namespace fovea::inline FOVEA_ISA::combine {

namespace detail {

template <class T>
void merge_row(const T* a, T log_sum_a, const T* b, T log_sum_b, T* out, T& log_sum, Index dim) {
  constexpr T none = -simd::infinity<T>;
  if (log_sum_b == none || log_sum_a == none) {
    const T* const only = log_sum_b == none ? a : b;
    log_sum = log_sum_b == none ? log_sum_a : log_sum_b;
    if (only != out && dim > 0) std::memmove(out, only, std::size_t(dim) * sizeof(T));
    return;
  }
  const T most = log_sum_a > log_sum_b ? log_sum_a : log_sum_b;
  const T weight_a = std::exp(log_sum_a - most), weight_b = std::exp(log_sum_b - most), total = weight_a + weight_b;
  log_sum = most + std::log(total);
  for (Index e = 0; e < dim; ++e) out[e] = (weight_a * a[e] + weight_b * b[e]) / total;
}

}  // namespace detail

// out, log_sum = the merge of (a, log_sum_a) and (b, log_sum_b); all [B,H,N,E] and [B,H,N] as in with_log_sum. The
// result may be one of the two.
template <class A, class LogA, class B, class LogB, class Out, class LogOut, exec::Executor Exec = exec::Serial>
void merge(const WithLogSum<A, LogA>& a, const WithLogSum<B, LogB>& b, const WithLogSum<Out, LogOut>& result,
           const Exec& executor = {}) {
  constexpr auto where = "fovea::combine::merge";
  const auto av = view(a.out);
  const auto bv = view(b.out);
  const auto al = row_values(a.log_sum);
  const auto bl = row_values(b.log_sum);
  const auto out = view(result.out);
  const auto log_sum = row_values(result.log_sum);
  using T = std::remove_pointer_t<decltype(out.data)>;
  static_assert(!std::is_const_v<T>, "fovea: the output must not be const");
  const auto same = [&](const auto& x, Index dim) {
    return x.batch == out.batch && x.heads == out.heads && x.length == out.length && x.dim == dim;
  };
  check(same(av, out.dim) && same(bv, out.dim), where, "both parts must have the shape of the result, wanted [",
        out.batch, ", ", out.heads, ", ", out.length, ", ", out.dim, "], got [", av.batch, ", ", av.heads, ", ",
        av.length, ", ", av.dim, "] and [", bv.batch, ", ", bv.heads, ", ", bv.length, ", ", bv.dim, "]");
  check(same(al, 1) && same(bl, 1) && same(log_sum, 1), where,
        "every log_sum must have one number for each query, wanted [", out.batch, ", ", out.heads, ", ", out.length,
        "], got lengths ", al.length, ", ", bl.length, " and ", log_sum.length);
  executor.parallel_for(out.batch * out.heads, 6.0 * double(out.length * out.dim), [&](Index begin, Index end) {
    for (Index item = begin; item < end; ++item) {
      const Index batch = item / out.heads, head = item % out.heads;
      for (Index i = 0; i < out.length; ++i) {
        detail::merge_row<T>(av.row(batch, head, i), *al.row(batch, head, i), bv.row(batch, head, i),
                             *bl.row(batch, head, i), out.row(batch, head, i), *log_sum.row(batch, head, i), out.dim);
      }
    }
  });
}

}  // namespace fovea::inline FOVEA_ISA::combine
