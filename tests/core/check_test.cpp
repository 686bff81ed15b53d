#include "support/catch.hpp"

#include <fovea/core/check.hpp>
#include <stdexcept>
#include <string>
#include <string_view>

TEST_CASE("a check that holds says nothing", "[core][check]") {
  CHECK_NOTHROW(fovea::check(true, "fovea::f", "n must be positive, got ", 0));
}

TEST_CASE("an ArgumentError names function, rule, wanted and got", "[core][check]") {
  try {
    fovea::check(false, "fovea::f", "k must have the width of q, wanted ", fovea::Index{64}, ", got ", 48);
    FAIL("accepted");
  } catch (const fovea::ArgumentError& error) {
    CHECK(std::string(error.what()) == "fovea::f: k must have the width of q, wanted 64, got 48");
    CHECK(error.function() == "fovea::f");
  }
}

TEST_CASE("an ArgumentError is a std::invalid_argument", "[core][check]") {
  CHECK_THROWS_AS(fovea::check(false, "fovea::f", "no"), std::invalid_argument);
}

TEST_CASE("a message may be made of text, integers of every width and floating point numbers", "[core][check]") {
  const std::string axis = "queries";
  try {
    fovea::check(false, "f", axis, std::string_view(" "), std::size_t{18446744073709551615u}, " ", fovea::Index{-1},
                 " ", (short)7, " ", 0.5, " ", 0.25f, " ", -1.0 / 0.0);
    FAIL("accepted");
  } catch (const fovea::ArgumentError& error) {
    CHECK(std::string(error.what()) == "f: queries 18446744073709551615 -1 7 0.5 0.25 -inf");
  }
}
