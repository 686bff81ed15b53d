#include "support/catch.hpp"

#include <cstdint>
#include <fovea/parts/mask/mask.hpp>
#include <limits>

#include "support/parts.hpp"

using fovea::Index;
using fovea::Span;
namespace mask = fovea::mask;

TEST_CASE("low_bits sets the lowest n bits, none and all included", "[parts][mask]") {
  CHECK(mask::low_bits(0) == 0);
  CHECK(mask::low_bits(1) == 1);
  CHECK(mask::low_bits(63) == ~std::uint64_t{0} >> 1);
  CHECK(mask::low_bits(64) == ~std::uint64_t{0});
}

TEST_CASE("bits_of sets the bits of the keys inside the interval", "[parts][mask]") {
  int wrong = 0;
  for (Index first = -3; first <= 70; first += 1) {
    for (Index last = first - 2; last <= 75; last += 3) {
      for (const Span keys : {Span{0, 64}, Span{3, 67}, Span{5, 5}, Span{7, 8}, Span{60, 70}}) {
        std::uint64_t wanted = 0;
        for (Index j = keys.first; j < keys.last; ++j)
          wanted |= std::uint64_t{j >= first && j < last} << (j - keys.first);
        wrong += mask::bits_of({first, last}, keys) != wanted;
      }
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("bits_of takes intervals without end and keys past 2^31", "[parts][mask]") {
  constexpr Index end = std::numeric_limits<Index>::max();
  const Index far = Index{5} << 32;
  CHECK(mask::bits_of({-far, end}, {far, far + 64}) == ~std::uint64_t{0});
  CHECK(mask::bits_of({far + 3, end}, {far, far + 5}) == 0b11000);
  CHECK(mask::bits_of({0, far + 3}, {far, far + 5}) == 0b00111);
}

TEST_CASE("Everything sees every key and is full", "[parts][mask]") {
  CHECK(support::mask_difference_everywhere(
            12, mask::Everything{}, [](auto) { return [](fovea::Site) { return true; }; }, true) == "");
}

TEST_CASE("sees asks a bound mask about one pair", "[parts][mask]") {
  const auto everything = mask::Everything{}.bind("test", {});
  CHECK(mask::sees(everything, {0, 0, 5, 1000}));
}
