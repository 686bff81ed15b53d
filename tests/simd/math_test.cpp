#include "support/catch.hpp"

#include <algorithm>
#include <cmath>
#include <fovea/simd/math.hpp>
#include <limits>
#include <vector>

#include "support/parts.hpp"

using fovea::Index;
using fovea::simd::lanes;

namespace {

// The oracle's type: at least eleven bits more than T has.
template <class T>
using Wide = std::conditional_t<std::is_same_v<T, float>, double, long double>;

template <class T, class F>
std::vector<T> apply(F&& f, std::vector<T> x) {
  const std::size_t n = x.size();
  x.resize(std::size_t(fovea::simd::whole<T>(Index(n))), T(0));
  for (std::size_t i = 0; i < x.size(); i += std::size_t(lanes<T>))
    fovea::simd::store(x.data() + i, f(fovea::simd::load(x.data() + i)));
  x.resize(n);
  return x;
}

// 2^(unit x)
template <class T>
std::vector<T> powers_in_units(std::vector<T> x, long double unit) {
  const fovea::simd::PowerUnit<T> powers(unit);
  return apply<T>([&](auto v) { return fovea::simd::exp2_weight<T>(v, powers); }, std::move(x));
}

template <class T>
std::vector<T> powers(std::vector<T> x) {
  return powers_in_units(std::move(x), 1.0L);
}

template <class T>
std::vector<T> tangents(std::vector<T> x) {
  return apply<T>([](auto v) { return fovea::simd::tanh<T>(v); }, std::move(x));
}

// The largest distance of f from its oracle, in ulp.
template <class T, class F, class Oracle>
double worst(const std::vector<T>& x, F&& f, Oracle&& oracle) {
  const auto y = f(x);
  double most = 0;
  for (std::size_t i = 0; i < x.size(); ++i) most = std::max(most, support::ulps(y[i], oracle(Wide<T>(x[i]))));
  return most;
}

template <class T>
constexpr T lowest_exponent = T(std::numeric_limits<T>::min_exponent - 1);  // -126, -1022
template <class T>
constexpr T highest_exponent = T(std::numeric_limits<T>::max_exponent - 1);  // 127, 1023

// Two roundings instead of one in every step of the polynomial cost a little.
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
constexpr double power_ulps = 1;
#else
constexpr double power_ulps = 1.2;
#endif

// Quiet and signalling, of both signs, with empty and with full payloads.
template <class T>
std::vector<T> all_kinds_of_nan() {
  using U = support::Word<T>;
  const U infinity = support::bits(std::numeric_limits<T>::infinity());
  const U sign = U(1) << (sizeof(T) * 8 - 1), quiet = U(1) << (std::numeric_limits<T>::digits - 2);
  std::vector<T> x;
  for (const U payload :
       {U(1), U(2), U(0x12345), quiet - 1, quiet, U(quiet | 1), U(quiet | 0x12345), U(2 * quiet - 1)}) {
    x.push_back(support::from_bits<T>(infinity | payload));
    x.push_back(support::from_bits<T>(sign | infinity | payload));
  }
  return x;
}

}  // namespace

TEMPLATE_TEST_CASE("exp2_weight is within its ulps over all normal results", "[simd][math]", float, double) {
  using T = TestType;
  const auto x = support::uniform<T>(1, 1 << 20, double(lowest_exponent<T>), double(highest_exponent<T>));
  CHECK(worst<T>(x, powers<T>, [](auto v) { return std::exp2(v); }) <= power_ulps);
}

TEMPLATE_TEST_CASE("exp2_weight is within its ulps where weights lie most, in [-20, 0]", "[simd][math]", float,
                   double) {
  const auto x = support::uniform<TestType>(2, 1 << 20, -20, 0);
  CHECK(worst<TestType>(x, powers<TestType>, [](auto v) { return std::exp2(v); }) <= power_ulps);
}

TEMPLATE_TEST_CASE("exp2_weight is within its ulps on both sides of every half", "[simd][math]", float, double) {
  // Where the rounding to an integer jumps, the polynomial is at the ends of its range.
  using T = TestType;
  std::vector<T> x;
  for (T n = lowest_exponent<T>; n < highest_exponent<T>; n += 1) {
    const T half = n + T(0.5);
    x.insert(x.end(), {half, std::nextafter(half, T(0)), std::nextafter(half, T(2) * half), std::nextafter(n, half)});
  }
  CHECK(worst<T>(x, powers<T>, [](auto v) { return std::exp2(v); }) <= power_ulps);
}

#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
TEMPLATE_TEST_CASE("exp2_weight does not round the product with its unit", "[simd][math]", float, double) {
  using T = TestType;
  for (const T unit : {T(0.7213475), T(1.3), T(1e-3), T(40)}) {
    CAPTURE(unit);
    const auto x = support::uniform<T>(3, 1 << 16, -100.0 / double(unit), 100.0 / double(unit));
    const auto powers_of_unit = [&](const std::vector<T>& y) { return powers_in_units(y, unit); };
    CHECK(worst(x, powers_of_unit, [&](Wide<T> y) { return std::exp2(Wide<T>(unit) * y); }) <= power_ulps);
  }
}
#endif

TEMPLATE_TEST_CASE("exp2_weight is exact at integers", "[simd][math]", float, double) {
  using T = TestType;
  std::vector<T> x;
  for (T n = lowest_exponent<T>; n <= highest_exponent<T>; n += 1) x.push_back(n);
  const auto y = powers<T>(x);
  int wrong = 0;
  for (std::size_t i = 0; i < x.size(); ++i) wrong += y[i] != std::ldexp(T(1), int(x[i]));
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("exp2_weight of zero and of what is too small to matter is exactly one", "[simd][math]", float,
                   double) {
  using T = TestType;
  const T tiny = std::numeric_limits<T>::denorm_min(), small = std::numeric_limits<T>::min();
  for (const T y : powers<T>({T(0), T(-0.), tiny, -tiny, small, -small})) CHECK(y == T(1));
}

TEMPLATE_TEST_CASE("exp2_weight is exactly zero from half a unit below the smallest exponent on", "[simd][math]", float,
                   double) {
  using T = TestType;
  const T edge = lowest_exponent<T> - 1;
  for (const T y : powers<T>({edge, std::nextafter(edge, T(-1e30)), edge - T(0.5), edge - T(20), edge - T(30), T(-1e4),
                              T(-1e30), std::numeric_limits<T>::lowest(), -fovea::simd::infinity<T>})) {
    CHECK(support::bits(y) == 0);
  }
}

TEMPLATE_TEST_CASE("exp2_weight between the smallest exponent and zero is as small as it should be", "[simd][math]",
                   float, double) {
  using T = TestType;
  const auto x = support::uniform<T>(3, 10000, double(lowest_exponent<T>) - 1.5, double(lowest_exponent<T>));
  int wrong = 0;
  for (const T y : powers<T>(x)) wrong += !(y >= T(0) && y <= std::numeric_limits<T>::min());
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("exp2_weight never decreases in steps as wide as its error", "[simd][math]", float, double) {
  // 2^d grows by d ln 2, so a step of 8 eps max(|x|, 1) is more than two errors of 2 ulp.
  using T = TestType;
  std::vector<T> x;
  for (T v = -12; v < 0; v += T(0.0007) + T(8 * support::epsilon<T>) * std::fabs(v)) x.push_back(v);
  const auto y = powers<T>(x);
  CHECK(std::is_sorted(y.begin(), y.end()));
}

TEMPLATE_TEST_CASE("exp2_weight keeps every kind of NaN", "[simd][math]", float, double) {
  int lost = 0;
  for (const auto y : powers<TestType>(all_kinds_of_nan<TestType>())) lost += !std::isnan(y);
  CHECK(lost == 0);
}

TEMPLATE_TEST_CASE("exp2_weight keeps NaN in its lane", "[simd][math]", float, double) {
  using T = TestType;
  for (Index at = 0; at < lanes<T>; ++at) {
    std::vector<T> x(std::size_t(lanes<T>), T(-1));
    x[std::size_t(at)] = support::from_bits<T>(~support::Word<T>(0));
    const auto y = powers<T>(x);
    int wrong = 0;
    for (Index i = 0; i < lanes<T>; ++i)
      wrong += i == at ? !std::isnan(y[std::size_t(i)]) : y[std::size_t(i)] != T(0.5);
    CAPTURE(at);
    CHECK(wrong == 0);
  }
}

TEMPLATE_TEST_CASE("tanh is within 4 ulp from -30 to 30", "[simd][math]", float, double) {
  const auto x = support::uniform<TestType>(4, 1 << 20, -30, 30);
  CHECK(worst<TestType>(x, tangents<TestType>, [](auto v) { return std::tanh(v); }) <= 4);
}

TEMPLATE_TEST_CASE("tanh is within 4 ulp where it bends", "[simd][math]", float, double) {
  const auto x = support::uniform<TestType>(5, 1 << 20, -2, 2);
  CHECK(worst<TestType>(x, tangents<TestType>, [](auto v) { return std::tanh(v); }) <= 4);
}

TEMPLATE_TEST_CASE("tanh is within 4 ulp from 1 down to the denormals", "[simd][math]", float, double) {
  using T = TestType;
  auto x = support::uniform<T>(6, 1 << 18, double(lowest_exponent<T>) - std::numeric_limits<T>::digits, 0);
  auto sign = support::uniform<T>(7, Index(x.size()));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::copysign(std::exp2(x[i]), sign[i]);
  CHECK(worst<T>(x, tangents<T>, [](auto v) { return std::tanh(v); }) <= 4);
}

TEMPLATE_TEST_CASE("tanh of zero is zero of the same sign", "[simd][math]", float, double) {
  const auto y = tangents<TestType>({TestType(0), TestType(-0.)});
  CHECK(support::bits(y[0]) == support::bits(TestType(0)));
  CHECK(support::bits(y[1]) == support::bits(TestType(-0.)));
}

TEMPLATE_TEST_CASE("tanh saturates at one, infinities included, and is never beyond", "[simd][math]", float, double) {
  using T = TestType;
  const std::vector<T> x{
      T(20), T(22.5), T(23), T(44), T(45), T(100), T(1e30), std::numeric_limits<T>::max(), fovea::simd::infinity<T>};
  for (const T y : tangents<T>(x)) CHECK(y == T(1));
  int beyond = 0;
  for (const T y : tangents<T>(support::uniform<T>(8, 100000, 5, 30))) beyond += !(y <= T(1));
  CHECK(beyond == 0);
}

TEMPLATE_TEST_CASE("tanh is odd", "[simd][math]", float, double) {
  using T = TestType;
  auto x = support::uniform<T>(9, 10000, 0, 12);
  x.insert(x.end(), {T(0), std::numeric_limits<T>::denorm_min(), T(1e30), fovea::simd::infinity<T>});
  auto minus = x;
  for (T& v : minus) v = -v;
  const auto y = tangents<T>(x), z = tangents<T>(minus);
  int wrong = 0;
  for (std::size_t i = 0; i < x.size(); ++i) wrong += support::bits(y[i]) != support::bits(-z[i]);
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("tanh keeps every kind of NaN", "[simd][math]", float, double) {
  int lost = 0;
  for (const auto y : tangents<TestType>(all_kinds_of_nan<TestType>())) lost += !std::isnan(y);
  CHECK(lost == 0);
}
