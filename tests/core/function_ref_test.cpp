// References to callables: what is called, with what, and that nothing is copied.
#include <fovea/core/function_ref.hpp>

#include <memory>
#include <string>
#include <type_traits>

#include "support/catch.hpp"

using fovea::FunctionRef;

namespace {

int twice(int x) { return 2 * x; }

int at_three(FunctionRef<int(int)> f) { return f(3); }

struct Counting {
  int calls = 0;
  Counting() = default;
  Counting(const Counting&) = delete;
  int operator()(int x) { return x + ++calls; }
};

}  // namespace

TEST_CASE("lambdas, pointers to functions and objects are called with what is passed") {
  const int ten = 10;
  CHECK(at_three([&](int x) { return x + ten; }) == 13);
  CHECK(at_three(&twice) == 6);
  const auto constant = [](int x) { return x; };
  CHECK(at_three(constant) == 3);
}

TEST_CASE("the object itself is called, not a copy") {
  Counting counting;
  CHECK(at_three(counting) == 4);
  CHECK(at_three(counting) == 5);
  CHECK(counting.calls == 2);
}

TEST_CASE("a copy of a reference refers to the same object") {
  Counting counting;
  const FunctionRef<int(int)> first(counting);
  const FunctionRef<int(int)> second = first;
  CHECK(second(0) == 1);
  CHECK(first(0) == 2);
}

TEST_CASE("arguments are passed on as they are: moved, by reference, converted") {
  std::string text = "a";
  const auto append = [](std::string& to, std::unique_ptr<int> number) { to += std::to_string(*number); };
  const FunctionRef<void(std::string&, std::unique_ptr<int>)> appends(append);
  appends(text, std::make_unique<int>(7));
  CHECK(text == "a7");
  const auto half = [](int x) { return x / 2.0; };
  const FunctionRef<double(short)> halves(half);
  CHECK(halves(short(3)) == 1.5);
  int seen = 0;
  const auto returns = [&](int x) { return seen = x; };
  const FunctionRef<void(int)> ignores(returns);
  ignores(4);
  CHECK(seen == 4);
}

TEST_CASE("what cannot be called so is no argument") {
  CHECK_FALSE(std::is_constructible_v<FunctionRef<void(int)>, int (*)(std::string)>);
  CHECK_FALSE(std::is_constructible_v<FunctionRef<std::string(int)>, int (*)(int)>);
  CHECK_FALSE(std::is_constructible_v<FunctionRef<int(int)>, int>);
  CHECK_FALSE(std::is_constructible_v<FunctionRef<int(int)>, decltype((twice))>);  // its pointer is
  CHECK(std::is_constructible_v<FunctionRef<int(int)>, decltype(&twice)>);
}
