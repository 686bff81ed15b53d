#include <fovea/exec/pool.hpp>
#include <fovea/parts/combine/token_convolution.hpp>

#include "low_rank/nystrom.hpp"
#include "support/attention.hpp"
#include "support/parts.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::combine::add_token_convolution;
using fovea::combine::TokenKernel;

namespace {

TokenKernel kernel(Index heads, Index size) { return {size, support::uniform<double>(4, heads * size)}; }

template <class T>
Tensor4<T> random(unsigned seed, Index batch, Index heads, Index tokens, Index dim) {
  Tensor4<T> x(batch, heads, tokens, dim);
  fill_gaussian(x, seed);
  return x;
}

}  // namespace

TEMPLATE_TEST_CASE("a convolution along the tokens is its reference, any width and kernel", "[parts][combine]", float,
                   double) {
  using T = TestType;
  using Real = Exact<T>;
  for (const Index dim : {1, 5, 16, 37, 64}) {
    for (const auto& [tokens, size] : {std::pair<Index, Index>{1, 1}, {1, 9}, {7, 3}, {20, 35}, {101, 35}, {97, 5}}) {
      const auto v = random<T>(1, 2, 2, tokens, dim), start = random<T>(2, 2, 4, tokens, dim);
      const auto taps = kernel(4, size);
      auto out = start;
      add_token_convolution(v, out, taps);
      Tensor4<Real> wanted = start.template cast<Real>();
      for (Index b = 0; b < 2; ++b) {
        for (Index h = 0; h < 4; ++h) {
          fovea::reference::Vector<Real> w(size);
          for (Index t = 0; t < size; ++t) w(t) = Real(T(taps.weights[std::size_t(h * size + t)]));
          const auto one = fovea::reference::convolve_tokens<Real>(head(v, b, h / 2).template cast<Real>(), w);
          for (Index n = 0; n < one.size(); ++n) row(wanted, b, h, 0)[n] += one.data()[n];
        }
      }
      INFO(tokens << " tokens of " << dim << ", kernel of " << size);
      CHECK(relative_rms(out, wanted) < 8 * double(epsilon<T>));
      auto again = start;
      add_token_convolution(v, again, taps, fovea::exec::Pool(3));
      CHECK(same_bits(out, again));
    }
  }
}

TEST_CASE("a NaN spoils the tokens that see it and no other bit", "[parts][combine]") {
  auto v = random<float>(1, 1, 1, 60, 20);
  auto clean = random<float>(2, 1, 1, 60, 20), out = clean;
  const auto taps = kernel(1, 7);
  add_token_convolution(v, clean, taps);
  row(v, 0, 0, 31)[2] = not_a_number<float>;
  add_token_convolution(v, out, taps);
  for (Index i = 0; i < 60; ++i) {
    for (Index e = 0; e < 20; ++e) {
      const float got = row(out, 0, 0, i)[e];
      CHECK((std::abs(i - 31) <= 3 && e == 2 ? std::isnan(got) : got == row(clean, 0, 0, i)[e]));
    }
  }
}

TEST_CASE("what a convolution along the tokens refuses", "[parts][combine]") {
  const auto v = random<float>(1, 1, 2, 6, 4);
  auto out = random<float>(1, 1, 4, 6, 4), other = random<float>(1, 1, 3, 6, 4), longer = random<float>(1, 1, 4, 7, 4);
  const std::string where = "fovea::combine::add_token_convolution: ";
  const auto refusal = [&](auto& to, const TokenKernel& taps) {
    return support::refusal([&] { add_token_convolution(v, to, taps); });
  };
  CHECK(refusal(out, {2, std::vector<double>(8)}) == where + "the size of a token kernel must be odd, got 2");
  CHECK(refusal(out, {3, std::vector<double>(11)}) ==
        where + "a token kernel needs size weights for each head, wanted 12, got 11");
  CHECK(refusal(other, kernel(3, 3)) ==
        where + "the heads of out must be a multiple of those of v, wanted a multiple of 2, got 3");
  CHECK(refusal(longer, kernel(4, 3)).rfind(where + "v must have", 0) == 0);
  CHECK(refusal(out, {}) == "accepted");
}
