// What the tests of streaming caches share: tokens decoded one by one, and the reference over batch and heads.
#pragma once

#include <fovea/sink/streaming.hpp>

#include "sink/streaming.hpp"
#include "support/attention.hpp"
#include "window/kept.hpp"

namespace fovea::test {

// Tokens [first, last) of one sequence, [H,n,D].
template <class T>
Tensor3<T> of_sequence(const Tensor4<T>& x, Index batch, Index first, Index last) {
  Tensor3<T> some(x.dimension(1), last - first, x.dimension(3));
  for (Index h = 0; h < x.dimension(1); ++h)
    std::copy_n(row(x, batch, h, first), (last - first) * x.dimension(3),
                some.data() + h * (last - first) * x.dimension(3));
  return some;
}

// A cache for each sequence. The first `prompt` tokens enter at once, each of the others before its query; `rejected`
// tokens that are not of the sequence come before that and are taken back.
template <class T, class Stored = T, class Exec = fovea::exec::Serial>
Result<T> decoded(const Inputs<T>& x, Index prompt, const StreamingOptions& options, const Exec& executor = {},
                  Index rejected = 0) {
  const Sizes s = x.sizes();
  auto all = blank<T>(s);
  std::vector<StreamingCache<Stored>> caches;
  for (Index b = 0; b < s.batch; ++b) {
    caches.emplace_back(s.kv_heads, s.dim, s.value_dim, options, rejected);
    caches.back().append(of_sequence(x.k, b, 0, prompt), of_sequence(x.v, b, 0, prompt));
  }
  std::vector<const StreamingCache<Stored>*> pointers;
  for (const auto& cache : caches) pointers.push_back(&cache);
  for (Index t = prompt; t < s.keys; ++t) {
    for (Index b = 0; b < s.batch; ++b) {
      auto& cache = caches[std::size_t(b)];
      cache.append(of_sequence(x.k, b, 0, rejected), of_sequence(x.v, b, 0, rejected));
      cache.truncate(t);
      cache.append(of_sequence(x.k, b, t, t + 1), of_sequence(x.v, b, t, t + 1));
    }
    auto one = blank<T>({s.batch, s.heads, s.kv_heads, 1, 1, s.dim, s.value_dim});
    fovea::streaming(tokens(x.q, t, t + 1), pointers, one.both(), executor);
    for (Index b = 0; b < s.batch; ++b) {
      for (Index h = 0; h < s.heads; ++h) {
        std::copy_n(row(one.out, b, h, 0), s.value_dim, row(all.out, b, h, t));
        all.log_sum(b, h, t) = one.log_sum(b, h, 0);
      }
    }
  }
  return all;
}

template <class Real, class T>
Tensor4<Real> by_reference(const Inputs<T>& x, const StreamingOptions& options) {
  const Sizes s = x.sizes();
  Tensor4<Real> wanted(s.batch, s.heads, s.queries, s.value_dim);
  for (Index b = 0; b < s.batch; ++b) {
    for (Index h = 0; h < s.heads; ++h) {
      const Index g = h * s.kv_heads / s.heads;
      const auto one = fovea::reference::streaming<Real>(
          head(x.q, b, h).template cast<Real>(), head(x.k, b, g).template cast<Real>(),
          head(x.v, b, g).template cast<Real>(), options.window, options.sink_tokens, Real(options.rotary.base));
      std::copy_n(one.data(), one.size(), row(wanted, b, h, 0));
    }
  }
  return wanted;
}

}  // namespace fovea::test
