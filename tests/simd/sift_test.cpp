// Lanes chosen by a comparison: every pattern of bits, and what NaN does.
#include <fovea/simd/sift.hpp>

#include "support/catch.hpp"
#include "support/parts.hpp"

namespace simd = fovea::simd;
using fovea::Index;

TEMPLATE_TEST_CASE("pack_lanes puts the lanes of set bits side by side", "", float, double, std::int32_t,
                   std::int64_t) {
  using E = TestType;
  constexpr Index n = simd::lanes<E>;
  const auto x = simd::ramp<E>() + simd::Pack<E>(E(100));
  for (std::uint64_t bits = 0; bits < std::uint64_t{1} << n; ++bits) {
    std::vector<E> to(std::size_t(n + 2), E(7));
    const Index count = simd::pack_lanes(to.data() + 1, x, bits);
    Index at = 0;
    bool right = to[0] == E(7) && to[std::size_t(n + 1)] == E(7);
    for (Index i = 0; i < n; ++i) {
      if ((bits >> i & 1) != 0) right = right && to[std::size_t(++at)] == E(100 + i);
    }
    if (!right || at != count) FAIL("bits " << bits);
  }
  CHECK(simd::pack_lanes(std::vector<E>(std::size_t(n)).data(), x, 0) == 0);
}

TEMPLATE_TEST_CASE("comparisons give a bit a lane; NaN is above nothing and reaches nothing", "", float, double) {
  using T = TestType;
  constexpr Index n = simd::lanes<T>;
  const std::vector<T> values{0, 1, -1, -T(0), support::nan<T>, simd::infinity<T>, -simd::infinity<T>};
  for (std::size_t shift = 0; shift < values.size(); ++shift) {
    for (const T limit : values) {
      std::vector<T> x;
      for (Index i = 0; i < n; ++i) x.push_back(values[(std::size_t(i) + shift) % values.size()]);
      const auto above = simd::bits_above(simd::load(x.data()), simd::Pack<T>(limit));
      const auto reaching = simd::bits_reaching(simd::load(x.data()), simd::Pack<T>(limit));
      std::uint64_t wanted_above = 0, wanted_reaching = 0;
      for (Index i = 0; i < n; ++i) {
        wanted_above |= std::uint64_t(x[std::size_t(i)] > limit) << i;
        wanted_reaching |= std::uint64_t(x[std::size_t(i)] >= limit) << i;
      }
      CHECK(above == wanted_above);
      CHECK(reaching == wanted_reaching);
    }
  }
}
