// Rounding to narrower types: what Eigen's own types do, at every boundary.
#include <fovea/simd/narrow.hpp>

#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Index;

namespace {

// Floats around every number of S and halfway between it and the next, and some in between.
template <class S>
std::vector<float> floats() {
  std::vector<float> x;
  for (std::uint32_t raw = 0; raw < 0x10000; ++raw) {
    const auto narrow = Eigen::numext::bit_cast<S>(std::uint16_t(raw));
    const float at = static_cast<float>(narrow);
    const auto bits = support::bits(at);
    for (const std::uint32_t step : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xfffu, 0x1000u, 0x1001u, 0x3000u})
      x.push_back(support::from_bits<float>(bits + step));
  }
  for (std::uint32_t n = 0; n < 100000; ++n) x.push_back(support::from_bits<float>(n * 42949u));
  return x;
}

template <class S, class T>
Index differences() {
  const auto wide = floats<S>();
  std::vector<T> x(wide.begin(), wide.end());
  std::vector<S> got(x.size());
  fovea::simd::copy_rounded(got.data(), x.data(), Index(x.size()));
  Index different = 0;
  for (std::size_t n = 0; n < x.size(); ++n) {
    const S wanted = static_cast<S>(wide[n]);
    if (std::isnan(wide[n])) {
      different += !(Eigen::numext::isnan)(got[n]);
    } else {
      different += Eigen::numext::bit_cast<std::uint16_t>(got[n]) != Eigen::numext::bit_cast<std::uint16_t>(wanted);
    }
  }
  return different;
}

}  // namespace

TEST_CASE("Numbers round as Eigen rounds them") {
  CHECK(differences<Eigen::bfloat16, float>() == 0);
  CHECK(differences<Eigen::half, float>() == 0);
  CHECK(differences<Eigen::bfloat16, double>() == 0);
  CHECK(differences<Eigen::half, double>() == 0);
}

TEST_CASE("Ties go to the even neighbour and large numbers to infinity") {
  const auto half = [](float x) {
    Eigen::half to;
    fovea::simd::copy_rounded(&to, &x, 1);
    return static_cast<float>(to);
  };
  CHECK(half(2049) == 2048);
  CHECK(half(2051) == 2052);
  CHECK(half(65519) == 65504);
  CHECK(half(65520) == std::numeric_limits<float>::infinity());
  CHECK(half(-1e30f) == -std::numeric_limits<float>::infinity());
  CHECK(half(0x1p-24f) == 0x1p-24f);
  CHECK(half(0x1p-25f) == 0);
  CHECK(half(0x3p-25f) == 0x1p-23f);
  CHECK(std::signbit(half(-0.0f)));
}

TEST_CASE("Nothing outside of a row is read or written") {
  const support::Guarded<double> from(40);
  const support::Guarded<Eigen::half> to(40);
  for (Index n = 0; n <= 40; ++n) {
    double* const x = from.at_end(n);
    for (Index j = 0; j < n; ++j) x[j] = double(j) / 8;
    fovea::simd::copy_rounded(to.at_end(n), x, n);
    for (Index j = 0; j < n; ++j) CHECK(static_cast<float>(to.at_end(n)[j]) == float(j) / 8);
  }
}
