#include <fovea/exec/pool.hpp>
#include <fovea/parts/combine/depthwise.hpp>

#include "support/attention.hpp"
#include "support/parts.hpp"
#include "window/kept.hpp"

using fovea::Index;
using fovea::combine::add_depthwise;
using fovea::combine::DepthwiseKernel;
using namespace fovea::test;

namespace {

DepthwiseKernel some_kernel(Index channels, Index size, bool with_bias) {
  DepthwiseKernel kernel{size, support::uniform<double>(3, channels * size * size), {}};
  for (double& w : kernel.weights) w = double(float(w));
  if (with_bias) kernel.bias = support::uniform<double>(4, channels);
  for (double& b : kernel.bias) b = double(float(b));
  return kernel;
}

// By the definition, from zero.
template <class T>
Tensor4<Exact<T>> convolution(const Tensor4<T>& v, Index heads, Index height, Index width, const DepthwiseKernel& k) {
  using Real = Exact<T>;
  const Index batch = v.dimension(0), group = heads / v.dimension(1), dim = v.dimension(3), r = k.size / 2;
  Tensor4<Real> result(batch, heads, height * width, dim);
  for (Index b = 0; b < batch; ++b) {
    for (Index h = 0; h < heads; ++h) {
      for (Index i = 0; i < height * width; ++i) {
        for (Index e = 0; e < dim; ++e) {
          const Index c = h * dim + e;
          Real sum = k.bias.empty() ? Real(0) : Real(k.bias[std::size_t(c)]);
          for (Index u = 0; u < k.size; ++u) {
            for (Index w = 0; w < k.size; ++w) {
              const Index y = i / width + u - r, x = i % width + w - r;
              if (y < 0 || y >= height || x < 0 || x >= width) continue;
              sum += Real(k.weights[std::size_t((c * k.size + u) * k.size + w)]) *
                     Real(row(v, b, h / group, y * width + x)[e]);
            }
          }
          row(result, b, h, i)[e] = sum;
        }
      }
    }
  }
  return result;
}

template <class T>
Tensor4<T> values(Index batch, Index heads, Index tokens, Index dim, unsigned seed = 1) {
  Tensor4<T> v(batch, heads, tokens, dim);
  fill_gaussian(v, seed);
  return v;
}

}  // namespace

TEMPLATE_TEST_CASE("a depthwise convolution is its definition", "[parts][combine]", float, double) {
  using T = TestType;
  struct Case {
    Index batch, heads, kv_heads, height, width, dim, size;
  };
  for (const Case& c :
       {Case{1, 1, 1, 1, 1, 1, 3}, Case{2, 4, 2, 5, 7, 19, 3}, Case{1, 2, 2, 9, 23, 32, 5}, Case{1, 2, 1, 3, 40, 5, 7},
        Case{1, 1, 1, 2, 2, 8, 5}, Case{1, 3, 3, 4, 11, 16, 1}, Case{2, 1, 1, 12, 1, 33, 5}}) {
    for (const bool with_bias : {false, true}) {
      CAPTURE(c.height, c.width, c.dim, c.size, with_bias);
      const auto kernel = some_kernel(c.heads * c.dim, c.size, with_bias);
      const auto v = values<T>(c.batch, c.kv_heads, c.height * c.width, c.dim);
      Tensor4<T> out(c.batch, c.heads, c.height * c.width, c.dim);
      out.setZero();
      add_depthwise(v, out, c.height, c.width, kernel);
      // Sums of at most 50 terms in one chain.
      CHECK(relative_rms(out, convolution(v, c.heads, c.height, c.width, kernel)) < 4 * double(epsilon<T>));
    }
  }
}

TEST_CASE("a depthwise convolution is added to what is there", "[parts][combine]") {
  const auto v = values<double>(1, 2, 30, 6);
  auto out = values<double>(1, 2, 30, 6, 2), zero = out;
  const auto before = out;
  zero.setZero();
  const auto kernel = some_kernel(12, 3, true);
  add_depthwise(v, out, 5, 6, kernel);
  add_depthwise(v, zero, 5, 6, kernel);
  for (Index n = 0; n < out.size(); ++n) REQUIRE(out.data()[n] == before.data()[n] + zero.data()[n]);
}

TEST_CASE("a kernel that is one at its centre adds the values, and none changes nothing", "[parts][combine]") {
  const auto v = values<float>(1, 1, 12, 20);
  Tensor4<float> out(1, 1, 12, 20);
  out.setZero();
  DepthwiseKernel centre{3, std::vector<double>(20 * 9, 0.0), {}};
  for (std::size_t c = 0; c < 20; ++c) centre.weights[c * 9 + 4] = 1;
  add_depthwise(v, out, 3, 4, centre);
  CHECK(same_bits(out, v));
  add_depthwise(v, out, 3, 4, {});
  CHECK(same_bits(out, v));
}

TEST_CASE("a depthwise convolution of strided arrays, on a pool, has the same bits", "[parts][combine]") {
  const auto v = values<float>(2, 3, 35, 19);
  const auto kernel = some_kernel(57, 5, true);
  auto out = values<float>(2, 3, 35, 19, 2);
  const auto v_bthd = swap_axes(v);
  auto out_bthd = swap_axes(out), pooled = out;
  add_depthwise(v, out, 7, 5, kernel);
  add_depthwise(v, pooled, 7, 5, kernel, fovea::exec::Pool(3));
  CHECK(same_bits(pooled, out));
  add_depthwise(fovea::bthd(v_bthd), fovea::bthd(out_bthd), 7, 5, kernel);
  CHECK(same_bits(swap_axes(out_bthd), out));
}

TEST_CASE("NaN among the values reaches the kernel's neighbourhood and no further", "[parts][combine]") {
  auto v = values<float>(1, 1, 49, 4);
  row(v, 0, 0, 3 * 7 + 2)[1] = not_a_number<float>;
  Tensor4<float> out(1, 1, 49, 4);
  out.setZero();
  add_depthwise(v, out, 7, 7, some_kernel(4, 3, false));
  for (Index i = 0; i < 49; ++i) {
    for (Index e = 0; e < 4; ++e) {
      const bool near = std::abs(i / 7 - 3) <= 1 && std::abs(i % 7 - 2) <= 1 && e == 1;
      REQUIRE(std::isnan(row(out, 0, 0, i)[e]) == near);
    }
  }
}

TEST_CASE("a depthwise kernel or grid that does not fit is refused and nothing is touched", "[parts][combine]") {
  const auto v = values<float>(1, 1, 12, 2);
  Tensor4<float> out(1, 2, 12, 2);
  out.setConstant(7);
  const auto said = [&](Index height, Index width, const DepthwiseKernel& kernel) {
    return support::refusal([&] { add_depthwise(v, out, height, width, kernel); });
  };
  const std::string name = "fovea::combine::add_depthwise: ";
  const auto good = some_kernel(4, 3, false);
  CHECK(said(3, 5, good) == name + "the grid must hold the tokens, wanted 12, got 3 times 5");
  CHECK(said(-3, -4, good) == name + "the grid must hold the tokens, wanted 12, got -3 times -4");
  CHECK(said(3, 4, some_kernel(4, 2, false)) == name + "the size of a depthwise kernel must be odd, got 2");
  CHECK(said(3, 4, some_kernel(2, 3, false)) ==
        name + "a depthwise kernel needs size x size weights for each channel, wanted 36, got 18");
  CHECK(said(3, 4, {3, good.weights, {1, 2}}) ==
        name + "a depthwise kernel needs a bias for each channel or none, wanted 4, got 2");
  const auto other = values<float>(1, 1, 12, 3);
  CHECK(support::refusal([&] { add_depthwise(other, out, 3, 4, good); }) ==
        name + "v must have the batch, tokens and width of out, wanted [1, 12, 2], got [1, 12, 3]");
  CHECK(std::all_of(out.data(), out.data() + out.size(), [](float x) { return x == 7; }));
  CHECK(said(3, 4, good) == "accepted");
}
