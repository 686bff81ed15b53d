#include "support/catch.hpp"

#include <cmath>
#include <fovea/simd/row.hpp>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "support/parts.hpp"

using fovea::Index;
using fovea::simd::lanes;
namespace simd = fovea::simd;

namespace {

template <class T>
constexpr Index longest = 4 * lanes<T> + 3;

// Runs change(x, y, n) on rows of every length: once right before a page that may not be touched, which also takes the
// rows through every alignment, and once with NaN behind the row, which must stay. Then x must be wanted(x_j, y_j, j)
// within allowed(x_j, y_j, j). Gives the first failure, or "".
template <class T, class Change, class Wanted, class Allowed>
std::string difference(Change&& change, Wanted&& wanted, Allowed&& allowed) {
  const auto given = support::uniform<T>(1, longest<T>, -3, 3), other = support::uniform<T>(2, longest<T>, -3, 3);
  const support::Guarded<T> page(2 * longest<T>), page_of_y(2 * longest<T>);
  for (Index n = 0; n <= longest<T>; ++n) {
    for (const Index offset : {Index{-1}, Index{0}, Index{1}, Index{3}}) {
      const auto name = "n " + std::to_string(n) + " offset " + std::to_string(offset);
      T* const x = offset < 0 ? page.at_end(n) : page.at_begin() + offset;
      T* const y = offset < 0 ? page_of_y.at_end(n) : page_of_y.at_begin() + (3 - offset);
      for (Index j = 0; j < n; ++j) x[j] = given[std::size_t(j)];
      for (Index j = 0; j < n; ++j) y[j] = other[std::size_t(j)];
      const Index behind = offset < 0 ? 0 : lanes<T>;
      for (Index j = n; j < n + behind; ++j) x[j] = y[j] = support::nan<T>;
      change(x, static_cast<const T*>(y), n);
      for (Index j = 0; j < n; ++j) {
        const T a = given[std::size_t(j)], b = other[std::size_t(j)];
        const volatile auto value = wanted(a, b, j);  // rounded here, not fused with the difference below
        if (!(std::fabs(double(x[j] - value)) <= double(allowed(a, b, j))))
          return name + " element " + std::to_string(j) + " got " + std::to_string(x[j]);
      }
      for (Index j = n; j < n + behind; ++j)
        if (support::bits(x[j]) != support::bits(support::nan<T>)) return name + " wrote behind the row";
    }
  }
  return "";
}

constexpr auto exact = [](auto, auto, Index) { return 0.0; };

}  // namespace

TEMPLATE_TEST_CASE("transform hands out every element with its index", "[simd][row]", float, double) {
  using T = TestType;
  CHECK(difference<T>(
            [](T* x, const T*, Index n) {
              simd::transform(x, n, [](auto v, Index j) { return v + (simd::Pack<T>(T(j)) + simd::ramp<T>()); });
            },
            [](T a, T, Index j) { return a + T(j); }, exact) == "");
}

TEMPLATE_TEST_CASE("combine pairs the elements of two rows", "[simd][row]", float, double) {
  using T = TestType;
  CHECK(difference<T>([](T* x, const T* y, Index n) { simd::combine(x, y, n, [](auto a, auto b) { return a - b; }); },
                      [](T a, T b, Index) { return a - b; }, exact) == "");
}

TEMPLATE_TEST_CASE("scale", "[simd][row]", float, double) {
  using T = TestType;
  CHECK(difference<T>([](T* x, const T*, Index n) { simd::scale(x, n, T(0.7)); },
                      [](T a, T, Index) { return a * T(0.7); }, exact) == "");
}

TEMPLATE_TEST_CASE("shift", "[simd][row]", float, double) {
  using T = TestType;
  CHECK(difference<T>([](T* x, const T*, Index n) { simd::shift(x, n, T(0.7)); },
                      [](T a, T, Index) { return a + T(0.7); }, exact) == "");
}

TEMPLATE_TEST_CASE("add", "[simd][row]", float, double) {
  using T = TestType;
  CHECK(difference<T>([](T* x, const T* y, Index n) { simd::add(x, y, n); }, [](T a, T b, Index) { return a + b; },
                      exact) == "");
}

TEMPLATE_TEST_CASE("add_scaled", "[simd][row]", float, double) {
  // One rounding of the sum, at most one more of the product: half an epsilon of each.
  using T = TestType;
  CHECK(difference<T>([](T* x, const T* y, Index n) { simd::add_scaled(x, T(0.7), y, n); },
                      [](T a, T b, Index) { return (long double)a + (long double)T(0.7) * b; },
                      [](T a, T b, Index) {
                        return support::epsilon<T> * (std::fabs(double(a)) + std::fabs(0.7 * double(b)));
                      }) == "");
}

TEMPLATE_TEST_CASE("add_distance", "[simd][row]", float, double) {
  // Distances of small numbers are exact; the rest is as in add_scaled.
  using T = TestType;
  for (const int center : {-40, -1, 0, 5, 17, 100}) {
    CAPTURE(center);
    CHECK(difference<T>(
              [&](T* x, const T*, Index n) { simd::add_distance(x, n, T(-0.7), T(center)); },
              [&](T a, T, Index j) { return (long double)a + (long double)T(-0.7) * std::abs(center - int(j)); },
              [&](T a, T, Index j) {
                return support::epsilon<T> * (std::fabs(double(a)) + 0.7 * std::abs(center - int(j)));
              }) == "");
  }
}

TEMPLATE_TEST_CASE("soft_cap", "[simd][row]", float, double) {
  // Half an epsilon each from 1 / cap, from x / cap and from the product, and 4 epsilon from tanh, which does not
  // enlarge the relative error of its argument: less than 6 epsilon of the result.
  using T = TestType;
  for (const double cap : {0.5, 2.0, 50.0}) {
    CAPTURE(cap);
    const auto wanted = [&](T a) { return (long double)cap * std::tanh((long double)a / (long double)cap); };
    CHECK(difference<T>([&](T* x, const T*, Index n) { simd::soft_cap(x, n, T(cap)); },
                        [&](T a, T, Index) { return wanted(a); },
                        [&](T a, T, Index) { return 6 * support::epsilon<T> * std::fabs(wanted(a)); }) == "");
  }
}

TEMPLATE_TEST_CASE("copy", "[simd][row]", float, double) {
  using T = TestType;
  CHECK(difference<T>([](T* x, const T* y, Index n) { simd::copy(x, y, n); }, [](T, T b, Index) { return b; }, exact) ==
        "");
}

TEMPLATE_TEST_CASE("copy_scaled to another row and in place", "[simd][row]", float, double) {
  using T = TestType;
  CHECK(difference<T>([](T* x, const T* y, Index n) { simd::copy_scaled(x, y, n, T(0.7)); },
                      [](T, T b, Index) { return b * T(0.7); }, exact) == "");
  CHECK(difference<T>([](T* x, const T*, Index n) { simd::copy_scaled(x, static_cast<const T*>(x), n, T(0.7)); },
                      [](T a, T, Index) { return a * T(0.7); }, exact) == "");
}

TEMPLATE_TEST_CASE("copy_divided", "[simd][row]", float, double) {
  using T = TestType;
  CHECK(difference<T>([](T* x, const T* y, Index n) { simd::copy_divided(x, y, n, T(0.7)); },
                      [](T, T b, Index) { return b / T(0.7); }, exact) == "");
}

TEMPLATE_TEST_CASE("hide hides the clear bits at every length up to a word", "[simd][row]", float, double) {
  using T = TestType;
  std::mt19937_64 engine(3);
  const auto given = support::uniform<T>(4, 64, -3, 3);
  const support::Guarded<T> memory(65);
  int wrong = 0;
  for (Index n = 0; n <= 64; ++n) {
    for (int round = 0; round < 20; ++round) {
      const std::uint64_t seen = round == 0 ? 0 : round == 1 ? ~std::uint64_t{0} : engine();
      T* const x = memory.at_end(n);
      for (Index j = 0; j < n; ++j) x[j] = given[std::size_t(j)];
      simd::hide(x, n, seen);
      for (Index j = 0; j < n; ++j) wrong += x[j] != ((seen >> j) & 1 ? given[std::size_t(j)] : -simd::infinity<T>);
    }
  }
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("hide removes NaN and infinity and leaves what is behind the row", "[simd][row]", float, double) {
  using T = TestType;
  for (Index n = 0; n < 64; ++n) {
    std::vector<T> x(std::size_t(n + lanes<T>), support::nan<T>);
    for (Index j = 0; j < n; j += 2) x[std::size_t(j)] = simd::infinity<T>;
    simd::hide(x.data(), n, std::uint64_t{0});
    int wrong = 0;
    for (Index j = 0; j < n; ++j) wrong += x[std::size_t(j)] != -simd::infinity<T>;
    for (Index j = n; j < n + lanes<T>; ++j) wrong += !std::isnan(x[std::size_t(j)]);
    CAPTURE(n);
    CHECK(wrong == 0);
  }
}

TEMPLATE_TEST_CASE("all_finite finds an infinity or NaN wherever it stands", "[simd][row]", float, double) {
  using T = TestType;
  const support::Guarded<T> memory(longest<T> + 1);
  int missed = 0, invented = 0;
  for (Index n = 0; n <= longest<T>; ++n) {
    T* const x = memory.at_end(n);
    for (Index j = 0; j < n; ++j) x[j] = j % 2 ? std::numeric_limits<T>::max() : std::numeric_limits<T>::lowest();
    invented += !simd::all_finite(x, n);
    for (Index j = 0; j < n; ++j) {
      const T kept = x[j];
      for (const T bad : {simd::infinity<T>, -simd::infinity<T>, support::nan<T>}) {
        x[j] = bad;
        missed += simd::all_finite(x, n);
      }
      x[j] = kept;
    }
  }
  CHECK(missed == 0);
  CHECK(invented == 0);
}

TEMPLATE_TEST_CASE("all_finite takes denormals for finite and does not see what is behind the row", "[simd][row]",
                   float, double) {
  using T = TestType;
  for (Index n = 0; n <= longest<T>; ++n) {
    std::vector<T> x(std::size_t(n + lanes<T>), support::nan<T>);
    std::fill(x.begin(), x.begin() + n, std::numeric_limits<T>::denorm_min());
    CAPTURE(n);
    CHECK(simd::all_finite(x.data(), n));
  }
}
