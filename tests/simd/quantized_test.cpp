#include <fovea/simd/quantized.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fovea/simd/encode.hpp>
#include <random>
#include <vector>

#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Index;
namespace simd = fovea::simd;

namespace {

// Random codes of all sizes with metadata of about one, as blocks of keys (64 tokens) or of values (64 channels).
template <int bits>
struct Blocks {
  std::vector<std::uint8_t> memory;
  simd::KeyBlocks<bits> keys{};
  simd::ValueBlocks<bits> values{};

  explicit Blocks(Index size) : memory(std::size_t(size)) {
    std::mt19937 engine(17);
    for (auto& byte : memory) byte = std::uint8_t(engine());
  }
  void metadata(Index at, Index count) {
    const auto x = support::uniform<float>(19, count, -1, 1);
    for (Index i = 0; i < count; ++i) {
      const Eigen::half value(x[std::size_t(i)]);
      std::memcpy(memory.data() + at + 2 * i, &value, 2);
    }
  }
  static Blocks of_keys(Index depth) {
    simd::KeyBlocks<bits> layout{nullptr, 32, depth};
    Blocks blocks(2 * layout.bytes());
    for (Index b = 0; b < 2; ++b) blocks.metadata(b * layout.bytes() + layout.codes_bytes(), 2 * depth);
    layout.data = blocks.memory.data();
    blocks.keys = layout;
    return blocks;
  }
  static Blocks of_values() {
    simd::ValueBlocks<bits> layout{nullptr, 32, 4, 2};
    Blocks blocks(2 * layout.bytes());
    for (Index b = 0; b < 2; ++b) blocks.metadata(b * layout.bytes() + layout.codes_bytes(), 4 * simd::coded_tokens);
    layout.data = blocks.memory.data();
    blocks.values = layout;
    return blocks;
  }
};

constexpr Index dim = 48, tokens = 64, width = 64;

template <int bits, class T>
std::vector<T> scores(const Blocks<bits>& blocks, const std::vector<T>& q, Index first, Index count) {
  const Index queries = Index(q.size()) / dim;
  std::vector<T> result(std::size_t(queries * count)), scratch(std::size_t(simd::dot_coded_scratch<T>(dim)));
  simd::dot_coded(queries, q.data(), dim, dim, blocks.keys, first, count, result.data(), count, scratch.data());
  return result;
}

// `weights` [rows][tokens]
template <int bits, class T>
void add(const Blocks<bits>& blocks, const std::vector<T>& weights, Index first, Index count, std::vector<T>& out) {
  std::vector<T> scratch(std::size_t(simd::add_coded_scratch<T>(4)));
  simd::add_coded(Index(weights.size()) / tokens, weights.data() + first, tokens, blocks.values, first, count,
                  out.data(), width, static_cast<const T*>(nullptr), scratch.data());
}

}  // namespace

TEST_CASE("codes lie where the header says", "[simd][quantized]") {
  std::vector<std::uint8_t> eight(2 * 64, 0), four(2 * 64, 0);
  simd::Codes<8>::set(eight.data(), 3, 6, 201);
  CHECK(eight[64 + 4 * 3 + 2] == 201);
  CHECK(simd::Codes<8>::get(eight.data(), 3, 6) == 201);
  simd::Codes<4>::set(four.data(), 5, 9, 11);
  simd::Codes<4>::set(four.data(), 5, 13, 6);
  CHECK(four[64 + 4 * 5 + 1] == (11 | 6 << 4));
  CHECK(simd::Codes<4>::get(four.data(), 5, 9) == 11);
  CHECK(simd::Codes<4>::get(four.data(), 5, 13) == 6);
  CHECK(simd::Codes<4>::place(5) == 12);
}

TEMPLATE_TEST_CASE("a product with coded keys does not depend on what is computed beside it", "[simd][quantized]",
                   float, double) {
  const auto eight = Blocks<8>::of_keys(dim);
  const auto four = Blocks<4>::of_keys(dim);
  const auto q = support::uniform<TestType>(23, 7 * dim);
  const auto all8 = scores(eight, q, 0, tokens), all4 = scores(four, q, 0, tokens);
  int wrong = 0;
  for (Index i = 0; i < 7; ++i) {
    const std::vector<TestType> own(q.begin() + i * dim, q.begin() + (i + 1) * dim);
    for (Index j = 0; j < tokens; ++j) {
      wrong += support::bits(scores(eight, own, j, 1)[0]) != support::bits(all8[std::size_t(i * tokens + j)]);
      wrong += support::bits(scores(four, own, j, 1)[0]) != support::bits(all4[std::size_t(i * tokens + j)]);
    }
  }
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("a sum of coded values depends neither on the rows beside it nor on cuts between blocks",
                   "[simd][quantized]", float, double) {
  const auto blocks = Blocks<4>::of_values();
  const auto weights = support::uniform<TestType>(29, 7 * tokens, 0, 1);
  std::vector<TestType> all(7 * width, TestType(1)), cut = all;
  add(blocks, weights, 0, tokens, all);
  add(blocks, weights, 0, 32, cut);
  add(blocks, weights, 32, 32, cut);
  CHECK(support::same_bits(all.data(), cut.data(), Index(all.size())));
  int wrong = 0;
  for (Index r = 0; r < 7; ++r) {
    const std::vector<TestType> own(weights.begin() + r * tokens, weights.begin() + (r + 1) * tokens);
    std::vector<TestType> one(width, TestType(1));
    add(blocks, own, 0, tokens, one);
    wrong += !support::same_bits(one.data(), all.data() + r * width, width);
  }
  CHECK(wrong == 0);
}

TEMPLATE_TEST_CASE("values of weight zero leave no trace, whatever their codes", "[simd][quantized]", float, double) {
  auto blocks = Blocks<8>::of_values();
  std::vector<TestType> weights(2 * tokens, TestType(0));
  weights[5] = TestType(0.75);
  std::vector<TestType> out(2 * width, TestType(3)), again = out;
  add(blocks, weights, 0, tokens, out);
  // Another token's codes, and its metadata.
  for (Index e = 0; e < width; ++e)
    simd::Codes<8>::set(blocks.memory.data() + e / 16 * simd::ValueBlocks<8>::panel_bytes, e % 16, 9, int(e));
  const Eigen::half large(60000.0f);
  std::memcpy(blocks.memory.data() + blocks.values.codes_bytes() + 2 * 9, &large, 2);
  add(blocks, weights, 0, tokens, again);
  CHECK(support::same_bits(out.data(), again.data(), 2 * width));
  CHECK(std::count(out.begin() + width, out.end(), TestType(3)) == width);
}

TEMPLATE_TEST_CASE("a NaN or an infinity in a query or a weight spoils its row alone", "[simd][quantized]", float,
                   double) {
  const auto keys = Blocks<8>::of_keys(dim);
  const auto values = Blocks<8>::of_values();
  for (const TestType bad : {support::nan<TestType>, simd::infinity<TestType>}) {
    auto q = support::uniform<TestType>(31, 6 * dim);
    q[2 * dim + 7] = bad;
    const auto products = scores(keys, q, 0, tokens);
    auto weights = support::uniform<TestType>(37, 6 * tokens, 0, 1);
    weights[4 * tokens + 40] = bad;
    std::vector<TestType> out(6 * width, TestType(0));
    add(values, weights, 0, tokens, out);
    int wrong = 0;
    for (Index i = 0; i < 6; ++i) {
      for (Index j = 0; j < tokens; ++j) wrong += std::isfinite(products[std::size_t(i * tokens + j)]) != (i != 2);
      for (Index e = 0; e < width; ++e) wrong += std::isfinite(out[std::size_t(i * width + e)]) != (i != 4);
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("products of very small and very large queries keep their digits", "[simd][quantized]") {
  const auto blocks = Blocks<8>::of_keys(dim);
  const auto q = support::uniform<float>(41, dim);
  const auto wanted = scores(blocks, q, 0, tokens);
  for (const float size : {0x1p-80f, 0x1p-20f, 0x1p60f}) {
    auto scaled = q;
    for (float& x : scaled) x *= size;
    const auto got = scores(blocks, scaled, 0, tokens);
    double error = 0, sum = 0;
    for (Index j = 0; j < tokens; ++j) {
      const double x = double(wanted[std::size_t(j)]);
      error += std::pow(double(got[std::size_t(j)]) / double(size) - x, 2);
      sum += x * x;
    }
    CAPTURE(size);
    CHECK(std::sqrt(error / sum) < 4 * support::epsilon<float>);
  }
}
