#include <fovea/parts/normalizer/feature_sum.hpp>

#include "support/catch.hpp"
#include "support/parts.hpp"

namespace normalizer = fovea::normalizer;

TEST_CASE("divisors from the sum of weights", "[normalizer]") {
  CHECK(!normalizer::none().divides());
  CHECK(normalizer::sum_eps(0.5).divisor(2.0) == 2.5);
  CHECK(normalizer::sum_eps().divisor(0.0) == 1e-6);
  CHECK(normalizer::clamp(0.5).divisor(2.0) == 2);
  CHECK(normalizer::clamp(0.5).divisor(0.25) == 0.5);
  CHECK(std::isnan(normalizer::clamp(0.5).divisor(support::nan<double>)));
}

TEST_CASE("bounds of a divisor", "[normalizer]") {
  const auto refused = [](double bound) { return support::refusal([&] { normalizer::clamp(bound).check_for("f"); }); };
  CHECK(refused(0) == "accepted");
  CHECK(refused(-1) == "f: the bound of the divisor must be finite and not negative, got -1");
  CHECK(refused(HUGE_VAL) == "f: the bound of the divisor must be finite and not negative, got inf");
  CHECK(refused(support::nan<double>) == "f: the bound of the divisor must be finite and not negative, got nan");
}
