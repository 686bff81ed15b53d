#include <fovea/simd/range.hpp>

#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Index;
namespace simd = fovea::simd;

TEMPLATE_TEST_CASE("one element out of bounds is found at every place of every length", "[simd]", float, double) {
  using T = TestType;
  constexpr Index longest = 4 * simd::lanes<T> + 3;
  const support::Guarded<T> memory(longest + 1);
  Index wrong = 0;
  for (Index n = 0; n <= longest; ++n) {
    T* const x = memory.at_end(n);
    std::fill_n(x, n, T(1));
    wrong += !simd::within(x, n, T(1), T(1));
    for (Index j = 0; j < n; ++j) {
      x[j] = T(0.5);
      wrong += simd::within(x, n, T(1), T(1));
      x[j] = T(1.5);
      wrong += simd::within(x, n, T(1), T(1));
      x[j] = support::nan<T>;
      wrong += !simd::within(x, n, T(1), T(1));
      x[j] = T(1);
    }
  }
  CHECK(wrong == 0);
}
