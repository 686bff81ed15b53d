// What the tests of gathered sources share.
#pragma once

#include <algorithm>
#include <fovea/parts/kv/gathered.hpp>
#include <fovea/parts/mask/causal.hpp>
#include <numeric>
#include <random>
#include <vector>

#include "support/attend.hpp"

namespace fovea::test {

inline const auto recipe = softmax().mask(mask::causal());

template <class From>
Result<float> attend(const Inputs<float>& x, const From& from) {
  auto got = blank<float>(x.sizes());
  fovea::attend(x.q, from, got.both(), recipe);
  return got;
}

// The listed tokens in arrays of their own, of_head(b, h) being the list.
template <class Lists>
Inputs<float> copied(const Inputs<float>& x, Index count, const Lists& of_head) {
  const Sizes s = x.sizes();
  Inputs<float> y{x.q, Tensor4<float>(s.batch, s.kv_heads, count, s.dim),
                  Tensor4<float>(s.batch, s.kv_heads, count, s.value_dim)};
  for (Index b = 0; b < s.batch; ++b) {
    for (Index h = 0; h < s.kv_heads; ++h) {
      for (Index j = 0; j < count; ++j) {
        std::copy_n(row(x.k, b, h, Index(of_head(b, h)[j])), s.dim, row(y.k, b, h, j));
        std::copy_n(row(x.v, b, h, Index(of_head(b, h)[j])), s.value_dim, row(y.v, b, h, j));
      }
    }
  }
  return y;
}

// `count` of `tokens` tokens, ascending; in runs of about `run` neighbours.
inline std::vector<Index> some(unsigned seed, Index tokens, Index count, Index run) {
  std::vector<Index> begins(std::size_t(tokens / run)), list;
  std::iota(begins.begin(), begins.end(), Index{0});
  std::shuffle(begins.begin(), begins.end(), std::mt19937(seed));
  for (std::size_t n = 0; Index(list.size()) < count; ++n)
    for (Index j = 0; j < run; ++j) list.push_back(begins[n] * run + j);
  list.resize(std::size_t(count));
  std::sort(list.begin(), list.end());
  return list;
}

}  // namespace fovea::test
