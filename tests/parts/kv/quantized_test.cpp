#include <cmath>
#include <cstring>
#include <fovea/parts/kv/quantized.hpp>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

#include "support/catch.hpp"
#include "support/parts.hpp"

using Eigen::half;
using fovea::Index;

namespace {

struct Free {
  void operator()(std::byte* p) const { ::operator delete(p, std::align_val_t(64)); }
};

// Memory of a format, all zero or all of one byte.
template <class Format>
std::unique_ptr<std::byte, Free> stretch(const Format& format, Index tokens, int fill = 0) {
  const auto size = std::size_t(format.bytes(tokens));
  auto* p = static_cast<std::byte*>(::operator new(size + 1, std::align_val_t(64)));
  std::memset(p, fill, size);
  return std::unique_ptr<std::byte, Free>(p);
}

template <class T>
std::vector<T> normal(unsigned seed, Index n) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> distribution;
  std::vector<T> x{};
  for (Index i = 0; i < n; ++i) x.push_back(T(distribution(engine)));
  return x;
}

// The tokens of a format in double: codes of 8 bits times halfs are exact there.
template <class Format>
std::vector<double> stored(const Format& format, const std::byte* memory, Index first, Index count) {
  std::vector<double> x(std::size_t(count * format.dim));
  format.run(memory, first).read(0, count, x.data(), format.dim);
  return x;
}

// The scale of element d of token j, read where the header says that it lies.
template <int bits>
double scale_of(const fovea::kv::QuantizedKeys<bits>& format, const std::byte* memory, Index j, Index d) {
  const Index p = (format.dim + 15) / 16 * 16, block = format.group * p * bits / 8 + 4 * p;
  half x;
  std::memcpy(&x, memory + j / format.group * block + format.group * p * bits / 8 + 2 * d, 2);
  return double(float(x));
}
template <int bits>
double scale_of(const fovea::kv::QuantizedValues<bits>& format, const std::byte* memory, Index j, Index d) {
  const Index p = (format.dim + 15) / 16 * 16, groups = (format.dim + format.group - 1) / format.group;
  half x;
  std::memcpy(&x, memory + j / 32 * (4 * p * bits + 128 * groups) + 4 * p * bits + 2 * (d / format.group * 32 + j % 32),
              2);
  return double(float(x));
}

constexpr Index tokens = 96, dim = 40;

}  // namespace

TEMPLATE_TEST_CASE("no stored number is further away than half a step of its group", "[kv][quantized]",
                   fovea::kv::QuantizedKeys<8>, fovea::kv::QuantizedKeys<4>, fovea::kv::QuantizedValues<8>,
                   fovea::kv::QuantizedValues<4>) {
  for (const double offset : {0.0, 5.0, -300.0}) {
    for (const double size : {1.0, 1e-4, 2000.0}) {
      const TestType format{dim, 32, 32};
      auto x = normal<double>(3, tokens * dim);
      for (auto& value : x) value = offset + size * value;
      const auto memory = stretch(format, tokens, 0x5a);
      REQUIRE(format.storable(x.data(), tokens, dim));
      format.write(memory.get(), 0, tokens, x.data(), dim);
      const auto got = stored(format, memory.get(), 0, tokens);
      int wrong = 0;
      double most = 0;
      for (Index j = 0; j < tokens; ++j) {
        for (Index d = 0; d < dim; ++d) {
          const double step = scale_of(format, memory.get(), j, d);
          const double error = std::fabs(got[std::size_t(j * dim + d)] - x[std::size_t(j * dim + d)]);
          wrong += !(error <= step / 2 * (1 + 1e-12));
          if (step > 0) most = std::max(most, error / step);
        }
      }
      CAPTURE(offset, size);
      CHECK(wrong == 0);
      // Where half precision has steps for the minimum that are finer than the range.
      if (size > 1e-3 * std::fabs(offset)) CHECK(most > 0.45);
    }
  }
}

TEMPLATE_TEST_CASE("numbers on the grid come back as they were", "[kv][quantized]", fovea::kv::QuantizedKeys<8>,
                   fovea::kv::QuantizedKeys<4>, fovea::kv::QuantizedValues<8>, fovea::kv::QuantizedValues<4>) {
  constexpr int levels = TestType::Run::Codes::levels;
  const TestType format{32, 32, 32};
  std::vector<float> x(32 * 32);
  // Every row and every column holds both ends.
  for (Index j = 0; j < 32; ++j)
    for (Index d = 0; d < 32; ++d)
      x[std::size_t(j * 32 + d)] = -1.5f + 0.0625f * float(j == d              ? 0
                                                           : (j + 1) % 32 == d ? levels
                                                                               : (7 * j + 11 * d) % (levels + 1));
  const auto memory = stretch(format, 32);
  format.write(memory.get(), 0, 32, x.data(), 32);
  std::vector<float> got(x.size());
  format.run(memory.get(), 0).read(0, 32, got.data(), 32);
  CHECK(got == x);
}

TEMPLATE_TEST_CASE("a group of one value has scale zero and gives it back", "[kv][quantized]",
                   fovea::kv::QuantizedKeys<8>, fovea::kv::QuantizedValues<4>) {
  const TestType format{32, 32, 32};
  const std::vector<float> x(32 * 32, -3.25f);
  const auto memory = stretch(format, 32);
  format.write(memory.get(), 0, 32, x.data(), 32);
  CHECK(scale_of(format, memory.get(), 5, 7) == 0);
  std::vector<float> got(x.size());
  format.run(memory.get(), 0).read(0, 32, got.data(), 32);
  CHECK(got == x);
}

TEMPLATE_TEST_CASE("codes are those of a plain quantiser, ties even", "[kv][quantized]", float, double) {
  // Round trips of 4 bits: codes are (x^ - low) / scale. Halves of steps are frequent.
  const fovea::kv::QuantizedKeys<4> format{dim, 16, 16};
  std::mt19937 engine(13);
  std::vector<TestType> x(16 * dim);
  for (auto& value : x) value = TestType(int(engine() % 31)) / 2;
  for (Index d = 0; d < dim; ++d) {
    x[std::size_t(d)] = 0;
    x[std::size_t(dim + d)] = 15;
  }
  const auto memory = stretch(format, 16);
  format.write(memory.get(), 0, 16, x.data(), dim);
  const auto got = stored(format, memory.get(), 0, 16);
  int wrong = 0, ties = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double exact = double(x[i]);
    const double below = std::floor(exact);
    const double code = exact - below != 0.5 ? exact : std::fmod(below, 2) == 0 ? below : below + 1;
    ties += exact - below == 0.5;
    wrong += got[i] != code;
  }
  CHECK(ties > 100);
  CHECK(wrong == 0);
}

TEST_CASE("what is stored of a group covers its range, closely", "[kv][quantized]") {
  const auto x = support::uniform<double>(5, 4000, -60000, 60000);
  int wrong = 0;
  for (std::size_t i = 0; i + 1 < x.size(); i += 2) {
    const double shrink = std::exp2(-double(i % 40)), least = std::min(x[i], x[i + 1]) * shrink,
                 most = std::max(x[i], x[i + 1]) * shrink;
    const fovea::simd::Grid<8> grid(least, most);
    const double low = double(float(grid.low)), scale = double(float(grid.scale));
    wrong += !(low <= least && low + 255 * scale >= most);
    // One unit in the last place of a half, 2^-10 of it and 2^-24 at least, for the minimum, for the scale too.
    const auto unit = [](double y) { return std::max(std::fabs(y) * std::exp2(-10), std::exp2(-24)); };
    wrong += !(least - low <= unit(least) && scale - (most - low) / 255 <= unit(scale));
  }
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("what can be stored", "[kv][quantized]", float, double) {
  const fovea::kv::QuantizedValues<8> format{3, 32, 32};
  std::vector<TestType> x{1, -65504, 65504, 7, 0, 0, 0, 9};
  CHECK(format.storable(x.data(), 2, 4));  // the rest of a row does not count
  for (const TestType bad :
       {TestType(65505), -TestType(65505), support::nan<TestType>, fovea::simd::infinity<TestType>}) {
    x[3] = bad;
    CHECK(format.storable(x.data(), 2, 4));
    x[6] = bad;
    CHECK(!format.storable(x.data(), 2, 4));
    x[6] = 0;
  }
}

TEST_CASE("of KIVI's residual keys leave together and values one by one", "[kv][quantized]") {
  const fovea::kv::QuantizedKeys<4> keys{8, 32, 64};
  const fovea::kv::QuantizedValues<4> values{8, 32, 64};
  CHECK(keys.settled(0) == 0);
  CHECK(keys.settled(63) == 0);
  CHECK(keys.settled(64) == 64);
  CHECK(keys.settled(127) == 64);
  CHECK(keys.settled(200) == 192);
  CHECK(values.settled(64) == 0);
  CHECK(values.settled(65) == 1);
  CHECK(values.settled(200) == 136);
  CHECK(keys.granule() == 32);
  CHECK(values.granule() == 1);
}

TEST_CASE("sizes are those that the header names", "[kv][quantized]") {
  const fovea::kv::QuantizedKeys<8> keys{80, 32, 32};
  CHECK(keys.packed(64) == 2 * (32 * 80 + 4 * 80));
  CHECK(keys.bytes(33) == keys.packed(64));
  const fovea::kv::QuantizedValues<4> values{33, 32, 32};
  CHECK(values.packed(32) == 4 * 48 * 4 + 128 * 2);
  CHECK(values.bytes(1) == values.packed(32));
}

TEST_CASE("groups and residuals that do not go together are refused", "[kv][quantized]") {
  using Formats = fovea::kv::Formats<fovea::kv::Int8>;
  CHECK(support::refusal([] { Formats::keys("f", 8, {.group = 24, .residual = 48}); }) ==
        "f: group must be a positive multiple of 16, got 24");
  CHECK(support::refusal([] { Formats::values("f", 8, {.group = 0, .residual = 48}); }) ==
        "f: group must be a positive multiple of 16, got 0");
  CHECK(support::refusal([] { Formats::keys("f", 8, {.group = 32, .residual = 48}); }) ==
        "f: residual must be a positive multiple of the group, 32, got 48");
  CHECK(support::refusal([] { Formats::values("f", 8, {.group = 32, .residual = 0}); }) ==
        "f: residual must be a positive multiple of the group, 32, got 0");
  CHECK(support::refusal([] { Formats::values("f", 65537, {}); }) ==
        "f: quantised tokens have at most 65536 numbers, got 65537");
  CHECK(support::refusal([] { Formats::keys("f", 8, {.group = 16, .residual = 48}); }) == "accepted");
}
