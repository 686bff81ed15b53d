#include "support/catch.hpp"

#include <cmath>
#include <cstdint>
#include <fovea/simd/ops.hpp>
#include <limits>
#include <random>
#include <vector>

#include "support/parts.hpp"

using fovea::Index;
using fovea::simd::lanes;
using fovea::simd::Pack;
using support::bits;

namespace {

template <class T>
std::vector<T> lanes_of(Pack<T> x) {
  std::vector<T> lane(std::size_t(lanes<T>), T(0));
  fovea::simd::store(lane.data(), x);
  return lane;
}

template <class T>
Pack<T> pack_of(const std::vector<T>& lane) {
  return fovea::simd::load(lane.data());
}

}  // namespace

TEMPLATE_TEST_CASE("whole rounds up to whole vectors", "[simd][ops]", float, double) {
  constexpr Index step = lanes<TestType>;
  CHECK(fovea::simd::whole<TestType>(0) == 0);
  CHECK(fovea::simd::whole<TestType>(1) == step);
  CHECK(fovea::simd::whole<TestType>(step) == step);
  CHECK(fovea::simd::whole<TestType>(step + 1) == 2 * step);
  CHECK(fovea::simd::whole<TestType>((Index{1} << 40) - 1) == Index{1} << 40);
}

TEMPLATE_TEST_CASE("load and store at every alignment", "[simd][ops]", float, double) {
  using T = TestType;
  const auto x = support::uniform<T>(1, 3 * lanes<T>);
  for (Index at = 0; at <= 2 * lanes<T>; ++at) {
    std::vector<T> y(x.size(), T(0));
    fovea::simd::store(y.data() + at, fovea::simd::load(x.data() + at));
    CAPTURE(at);
    CHECK(support::same_bits(y.data() + at, x.data() + at, lanes<T>));
    CHECK(Index(std::count(y.begin(), y.end(), T(0))) == 2 * lanes<T>);
  }
}

TEMPLATE_TEST_CASE("load_some reads its elements alone and fills the rest", "[simd][ops]", float, double) {
  using T = TestType;
  const support::Guarded<T> memory(lanes<T>);
  for (Index n = 0; n < lanes<T>; ++n) {
    T* const p = memory.at_end(n);  // one element more would fault
    for (Index i = 0; i < n; ++i) p[i] = T(i + 1);
    const auto x = lanes_of(fovea::simd::load_some(p, n, T(-7)));
    const auto y = lanes_of(fovea::simd::load_some(p, n));
    int wrong = 0;
    for (Index i = 0; i < lanes<T>; ++i) {
      wrong += x[std::size_t(i)] != (i < n ? T(i + 1) : T(-7));
      wrong += y[std::size_t(i)] != (i < n ? T(i + 1) : T(0));
    }
    CAPTURE(n);
    CHECK(wrong == 0);
  }
}

TEMPLATE_TEST_CASE("store_some writes its elements alone", "[simd][ops]", float, double) {
  using T = TestType;
  const support::Guarded<T> memory(3 * lanes<T>);
  const auto x = support::uniform<T>(2, lanes<T>);
  for (Index n = 0; n < lanes<T>; ++n) {
    CAPTURE(n);
    T* const last = memory.at_end(n);  // one element more would fault
    fovea::simd::store_some(last, pack_of(x), n);
    CHECK(support::same_bits(last, x.data(), n));
    T* const inside = memory.at_begin();
    std::fill(inside, inside + lanes<T>, support::nan<T>);
    fovea::simd::store_some(inside, pack_of(x), n);
    CHECK(support::same_bits(inside, x.data(), n));
    int changed = 0;
    for (Index i = n; i < lanes<T>; ++i) changed += bits(inside[i]) != bits(support::nan<T>);
    CHECK(changed == 0);
  }
}

TEMPLATE_TEST_CASE("fma rounds once where the instruction set has it", "[simd][ops]", float, double) {
  using T = TestType;
  const auto a = support::uniform<T>(3, 64 * lanes<T>), b = support::uniform<T>(4, 64 * lanes<T>);
  int wrong = 0;
  for (Index i = 0; i < 64 * lanes<T>; i += lanes<T>) {
    // c close to -a b leaves what the rounding of the product would have cost.
    std::vector<T> c(std::size_t(lanes<T>), T(0));
    for (Index l = 0; l < lanes<T>; ++l) c[std::size_t(l)] = -a[std::size_t(i + l)] * b[std::size_t(i + l)];
    const auto got =
        lanes_of(fovea::simd::fma(fovea::simd::load(a.data() + i), fovea::simd::load(b.data() + i), pack_of(c)));
    for (Index l = 0; l < lanes<T>; ++l) {
      const auto at = std::size_t(i + l);
      const T once = std::fma(a[at], b[at], c[std::size_t(l)]);
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
      wrong += got[std::size_t(l)] != once;
#else
      wrong += got[std::size_t(l)] != once && got[std::size_t(l)] != T(0);
#endif
    }
  }
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("max takes the larger lane", "[simd][ops]", float, double) {
  using T = TestType;
  const auto a = support::uniform<T>(5, lanes<T>), b = support::uniform<T>(6, lanes<T>);
  const auto got = lanes_of(fovea::simd::max(pack_of(a), pack_of(b)));
  int wrong = 0;
  for (std::size_t i = 0; i < got.size(); ++i) wrong += got[i] != std::max(a[i], b[i]);
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("at_least and at_most clamp, infinities included", "[simd][ops]", float, double) {
  using T = TestType;
  constexpr T inf = fovea::simd::infinity<T>;
  for (const T x : {-inf, T(-3), T(-2), T(0), T(2), T(3), inf}) {
    CAPTURE(x);
    CHECK(lanes_of(fovea::simd::at_least(Pack<T>(T(-2)), Pack<T>(x)))[0] == std::max(T(-2), x));
    CHECK(lanes_of(fovea::simd::at_most(Pack<T>(T(2)), Pack<T>(x)))[0] == std::min(T(2), x));
  }
}

TEMPLATE_TEST_CASE("at_least and at_most keep NaN in its lane and out of the others", "[simd][ops]", float, double) {
  using T = TestType;
  for (Index at = 0; at < lanes<T>; ++at) {
    std::vector<T> x(std::size_t(lanes<T>), T(1));
    x[std::size_t(at)] = support::nan<T>;
    const auto low = lanes_of(fovea::simd::at_least(Pack<T>(T(-2)), pack_of(x)));
    const auto high = lanes_of(fovea::simd::at_most(Pack<T>(T(2)), pack_of(x)));
    int wrong = 0;
    for (Index i = 0; i < lanes<T>; ++i) {
      wrong += i == at ? !std::isnan(low[std::size_t(i)]) : low[std::size_t(i)] != T(1);
      wrong += i == at ? !std::isnan(high[std::size_t(i)]) : high[std::size_t(i)] != T(1);
    }
    CAPTURE(at);
    CHECK(wrong == 0);
  }
}

TEMPLATE_TEST_CASE("at_least and at_most pass over a bound that is NaN", "[simd][ops]", float, double) {
  using T = TestType;
  const Pack<T> none(support::nan<T>);
  for (const T x : {-fovea::simd::infinity<T>, T(-3), T(0), fovea::simd::infinity<T>}) {
    CHECK(lanes_of(fovea::simd::at_least(none, Pack<T>(x)))[0] == x);
    CHECK(lanes_of(fovea::simd::at_most(none, Pack<T>(x)))[0] == x);
  }
}

TEMPLATE_TEST_CASE("sum_of_lanes adds every lane once", "[simd][ops]", float, double) {
  using T = TestType;
  std::vector<T> x(std::size_t(lanes<T>), T(0));
  for (Index i = 0; i < lanes<T>; ++i) x[std::size_t(i)] = T(Index{1} << i);  // a sum of powers of two is exact
  CHECK(fovea::simd::sum_of_lanes(pack_of(x)) == T((Index{1} << lanes<T>)-1));
}

TEMPLATE_TEST_CASE("max_of_lanes finds the largest wherever it stands", "[simd][ops]", float, double) {
  using T = TestType;
  for (Index at = 0; at < lanes<T>; ++at) {
    std::vector<T> x(std::size_t(lanes<T>), T(-5));
    x[std::size_t(at)] = T(-4);
    CAPTURE(at);
    CHECK(fovea::simd::max_of_lanes(pack_of(x)) == T(-4));
  }
}

TEMPLATE_TEST_CASE("bits go to integers and back", "[simd][ops]", float, double) {
  using T = TestType;
  const std::vector<T> x(std::size_t(lanes<T>), T(-1.5));
  const auto integer = fovea::simd::as_bits(pack_of(x));
  fovea::simd::Bits<T> lane[std::size_t(lanes<T>)];
  integer.store_unaligned(lane);
  CHECK(support::Word<T>(lane[0]) == bits(T(-1.5)));
  CHECK(lanes_of(fovea::simd::from_bits<T>(integer)) == x);
}

TEMPLATE_TEST_CASE("shift_left drops the high bits", "[simd][ops]", float, double) {
  using I = fovea::simd::Bits<TestType>;
  constexpr int n = sizeof(I) == 4 ? 23 : 52;
  I lane[std::size_t(lanes<TestType>)];
  fovea::simd::shift_left<n, I>(Pack<I>(I(0x1234567))).store_unaligned(lane);
  using U = support::Word<TestType>;
  CHECK(U(lane[0]) == U(U(0x1234567) << n));
}

TEMPLATE_TEST_CASE("keep_bits chooses lane by lane", "[simd][ops]", float, double) {
  using T = TestType;
  std::mt19937_64 engine(7);
  const auto x = support::uniform<T>(8, lanes<T>);
  int wrong = 0;
  for (int round = 0; round < 1000; ++round) {
    const std::uint64_t seen = round == 0 ? 0 : round == 1 ? ~std::uint64_t{0} : engine();  // high bits must not matter
    const auto got = lanes_of(fovea::simd::keep_bits(seen, pack_of(x), Pack<T>(-fovea::simd::infinity<T>)));
    for (Index i = 0; i < lanes<T>; ++i)
      wrong += got[std::size_t(i)] != ((seen >> i) & 1 ? x[std::size_t(i)] : -fovea::simd::infinity<T>);
  }
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("keep_bits drops a NaN whose bit is clear and keeps one whose bit is set", "[simd][ops]", float,
                   double) {
  using T = TestType;
  const std::vector<T> x(std::size_t(lanes<T>), support::nan<T>);
  const auto got = lanes_of(fovea::simd::keep_bits(1, pack_of(x), Pack<T>(T(3))));
  CHECK(std::isnan(got[0]));
  for (std::size_t i = 1; i < got.size(); ++i) CHECK(got[i] == T(3));
}

TEMPLATE_TEST_CASE("ramp counts the lanes", "[simd][ops]", float, double) {
  const auto x = lanes_of(fovea::simd::ramp<TestType>());
  for (std::size_t i = 0; i < x.size(); ++i) CHECK(x[i] == TestType(i));
}
