// Arrays of NPY files that the model's results are compared with.
#pragma once

#include <string>
#include <vector>
#if __has_include(<xtensor/io/xnpy.hpp>)
#include <xtensor/io/xnpy.hpp>
#else
#include <xtensor/xnpy.hpp>
#endif

#include "decode/model.hpp"

namespace decode {

inline std::vector<Token> stored_tokens(const std::string& path) {
  const auto numbers = xt::load_npy<int>(path);
  return {numbers.begin(), numbers.end()};
}

// [tokens, vocabulary]
inline Matrix stored_logits(const std::string& path) {
  const auto logits = xt::load_npy<float>(path);
  return Eigen::Map<const Matrix>(logits.data(), Index(logits.shape()[0]), Index(logits.shape()[1]));
}

}  // namespace decode
