// A recipe run on inputs, output and log-sums from NaN.
#pragma once

#include <fovea/engine/attend.hpp>

#include "support/attention.hpp"

namespace fovea::test {

template <class T, class Recipe, class Exec = exec::Serial>
Result<T> attention(const Inputs<T>& x, const Recipe& recipe, const Exec& executor = {}) {
  auto got = blank<T>(x.sizes());
  fovea::attend(x.q, x.k, x.v, got.both(), recipe, executor);
  return got;
}

}  // namespace fovea::test
