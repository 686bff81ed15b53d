#include <fovea/parts/position/angles.hpp>

#include <fovea/parts/position/rotary.hpp>
#include <random>
#include <vector>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Index;
namespace position = fovea::position;
using position::Angles;
using position::RotaryOptions;

namespace {

// The largest error of cosines and sines at some positions, beyond what long double knows of an angle: half an epsilon
// of the power and of the product, at each position.
template <class T>
double largest_error(Index dim, double base, const std::vector<Index>& positions) {
  const Angles angles(dim, {.base = base});
  T cosine[std::size_t(Angles::block)], sine[std::size_t(Angles::block)];
  double most = 0;
  for (const Index p : positions) {
    for (Index first = 0; first < angles.pairs(); first += Angles::block) {
      const Index n = std::min(Angles::block, angles.pairs() - first);
      angles.of(p, first, n, cosine, sine);
      for (Index k = 0; k < n; ++k) {
        const long double angle =
            (long double)p * std::pow((long double)base, -2.0L * (long double)(first + k) / (long double)dim);
        const double unknown = 2 * std::fabs(double(angle)) * double(std::numeric_limits<long double>::epsilon());
        const double c = std::fabs(double((long double)cosine[k] - std::cos(angle)));
        const double s = std::fabs(double((long double)sine[k] - std::sin(angle)));
        most = std::max(most, std::max(c, s) - unknown);
      }
    }
  }
  return most;
}

std::vector<Index> some_positions(Index most) {
  std::vector<Index> positions{0, 1, 2, 3, 4, 5, 6, 7, 100, -1, -2, -3, -100, most, -most};
  std::mt19937_64 random(1);
  for (int n = 0; n < 200; ++n) positions.push_back(Index(random() % std::uint64_t(2 * most)) - most);
  return positions;
}

}  // namespace

// In epsilons: the sums of the parts 0.4 + 0.2, pi / 2 and the product with it 0.15 + 0.25, the series 0.4. Where long
// double has 64 bits it does not know the angles of far positions well enough to show them; where it has 113 it does.
TEST_CASE("angles are exact to one and a half epsilons, near and far, forwards and backwards", "[parts][position]") {
  for (const Index dim : {2, 30, 128, 256}) {
    for (const double base : {100.0, 10000.0, 500000.0}) {
      CAPTURE(dim, base);
      CHECK(largest_error<double>(dim, base, some_positions(4000)) < 1.5 * support::epsilon<double>);
      CHECK(largest_error<double>(dim, base, some_positions(Index{1} << 27)) < 1.5 * support::epsilon<double>);
      CHECK(largest_error<float>(dim, base, some_positions(Index{1} << 27)) < support::epsilon<float>);
    }
  }
}

TEST_CASE("the angle of position 0 is nothing, and positions behind it mirror those before", "[parts][position]") {
  const Angles angles(64);
  double c[64], s[64], back_c[64], back_s[64];
  angles.of(0, 0, 32, c, s);
  for (int k = 0; k < 32; ++k) {
    CHECK(c[k] == 1);
    CHECK(s[k] == 0);
  }
  for (const Index p : {1, 17, 123456}) {
    angles.of(p, 0, 32, c, s);
    angles.of(-p, 0, 32, back_c, back_s);
    for (int k = 0; k < 32; ++k) {
      CHECK(c[k] == back_c[k]);
      CHECK(s[k] == -back_s[k]);
    }
  }
}

TEST_CASE("angles that are made once give the bits of a call that makes its own, and allocate nothing",
          "[parts][position]") {
  const std::vector<Index> positions{3, 100000, -7};
  const auto given = support::uniform<float>(1, 2 * 3 * 158);
  for (const Index rotated : {0, 158, 20}) {
    const RotaryOptions options{.base = 500, .rotated = rotated};
    auto own = given, kept = given;
    const fovea::Extents extents{1, 2, 3, 158};
    position::rotary(fovea::view(own.data(), extents), positions, fovea::view(own.data(), extents), options);
    const Angles angles(158, options);
    const auto x = fovea::view(kept.data(), extents);
    const long before = fovea::test::allocations;
    position::rotary(x, positions, x, angles);
    CHECK(fovea::test::allocations == before);
    CHECK(support::same_bits(own.data(), kept.data(), Index(own.size())));
  }
}

TEST_CASE("consecutive positions are those of a list", "[parts][position]") {
  const auto given = support::uniform<double>(1, 5 * 6);
  auto listed = given, counted = given;
  const fovea::Extents extents{1, 1, 5, 6};
  const auto a = fovea::view(listed.data(), extents), b = fovea::view(counted.data(), extents);
  position::rotary(a, std::vector<Index>{-2, -1, 0, 1, 2}, a);
  position::rotary(b, position::Consecutive{-2, 5}, b);
  CHECK(support::same_bits(listed.data(), counted.data(), 30));
}

TEST_CASE("angles refuse what does not fit", "[parts][position]") {
  CHECK(support::refusal([] { Angles(7); }) ==
        "fovea::position::Angles: the rotated channels must be even and at most the width 7, got 7");
  CHECK(support::refusal([] { Angles(8, {.base = -1}); }) ==
        "fovea::position::Angles: the base must be positive and finite, got -1");
  std::vector<float> x(8, support::nan<float>);
  const auto all = fovea::view(x.data(), {1, 1, 1, 8});
  CHECK(support::refusal([&] {
          position::rotary(all, position::Consecutive{0, 1}, all, Angles(6));
        }) == "fovea::position::rotary: the angles must be for the width of x, wanted 8, got 6");
}
