// Learned sink logits applied to a finished result: what a softmax with the logit c in its denominator would have
// given.
//
//   o'_i = sigmoid(L_i - c_h) o_i,   L_i the log-sum of row i without the sink
//
// Parts are merged first; the sink is added once, at the end.
#pragma once

#include <cmath>
#include <vector>

#include <fovea/core/problem.hpp>
#include <fovea/exec/serial.hpp>
#include <fovea/parts/normalizer/softmax.hpp>
#include <fovea/simd/row.hpp>

namespace fovea::inline FOVEA_ISA::combine {

// Changes out [B,H,N,E] in place by one logit for each head, [H]; -infinity is no sink. The log-sums stay as they are:
// they do not count the sink.
template <class Out, class LogSum, exec::Executor Exec = exec::Serial>
void add_sink(const WithLogSum<Out, LogSum>& result, const std::vector<double>& logits, const Exec& executor = {}) {
  constexpr auto where = "fovea::combine::add_sink";
  const auto out = view(result.out);
  const auto log_sum = row_values(result.log_sum);
  using T = std::remove_pointer_t<decltype(out.data)>;
  static_assert(!std::is_const_v<T>, "fovea: the output must not be const");
  check(log_sum.batch == out.batch && log_sum.heads == out.heads && log_sum.length == out.length && log_sum.dim == 1,
        where, "log_sum must have one number for each query, wanted [", out.batch, ", ", out.heads, ", ", out.length,
        "], got [", log_sum.batch, ", ", log_sum.heads, ", ", log_sum.length, "]");
  check(Index(logits.size()) == out.heads, where, "sink logits need one number for each head, wanted ", out.heads,
        ", got ", logits.size());
  normalizer::Softmax{{}, logits}.check_for(where, {out.batch, out.heads, out.heads, out.length, 0});

  executor.parallel_for(out.batch * out.heads, 2.0 * double(out.length * out.dim), [&](Index begin, Index end) {
    for (Index item = begin; item < end; ++item) {
      const Index batch = item / out.heads, head = item % out.heads;
      const double logit = logits[std::size_t(head)];
      if (logit == -HUGE_VAL) continue;
      for (Index i = 0; i < out.length; ++i) {
        const double keys = 1 / (1 + std::exp(logit - double(*log_sum.row(batch, head, i))));
        simd::scale(out.row(batch, head, i), out.dim, T(keys));
      }
    }
  });
}

}  // namespace fovea::inline FOVEA_ISA::combine
