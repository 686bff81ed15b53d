// Scaled dot-product attention against the reference: golden numbers and a table of odd shapes.
#include <fovea/dense/scaled_dot_product.hpp>

#include "support/attention.hpp"
#include "support/catch.hpp"

using namespace fovea::test;
using fovea::Alignment;
using fovea::Index;

namespace {

// Shapes that do not fit tiles and vectors, for prefill and decode.
const std::vector<Sizes> odd_shapes = {
    // B  H  G    N     M    D    E
    {1, 1, 1, 1, 1, 1, 1},          // one of everything
    {1, 1, 1, 1, 1, 64, 64},        // one token
    {1, 1, 1, 3, 3, 16, 16},        // fewer tokens than a vector has lanes
    {1, 1, 1, 5, 7, 1, 1},          // one channel
    {2, 3, 3, 17, 17, 15, 15},      // a lane short of a vector
    {1, 2, 2, 33, 65, 33, 33},      // one more than whole vectors
    {1, 2, 1, 100, 100, 64, 64},    // not whole tiles
    {1, 1, 1, 197, 197, 64, 64},    // image patches and a class token
    {1, 2, 2, 260, 515, 128, 128},  // several tiles
    {1, 1, 1, 70, 130, 200, 200},   // wide heads
    {3, 2, 2, 20, 41, 16, 16},      // batch
    {1, 1, 1, 50, 90, 16, 33},      // values wider than keys
    {1, 1, 1, 50, 90, 64, 15},      // values narrower than keys
    {1, 1, 1, 9, 40, 200, 1},       // one value channel
    {2, 6, 6, 31, 31, 15, 16},      // multi-head
    {2, 6, 3, 31, 45, 33, 33},      // groups of two
    {1, 6, 2, 31, 45, 16, 64},      // groups of three
    {1, 6, 1, 45, 45, 33, 15},      // multi-query
    {1, 8, 2, 29, 63, 64, 64},      // groups of four, which do not divide a band of rows
    {1, 5, 1, 13, 64, 32, 32},      // groups of five
    {1, 14, 2, 11, 77, 16, 16},     // groups of seven
    {1, 2, 2, 300, 40, 33, 33},     // more queries than keys
    {1, 1, 1, 64, 1, 16, 16},       // one key
    {1, 1, 1, 1, 1000, 64, 64},     // decode
    {1, 4, 4, 1, 5000, 33, 15},     // decode with a long cache
    {2, 8, 2, 1, 1000, 128, 128},   // decode, grouped
    {1, 6, 1, 1, 777, 15, 33},      // decode, multi-query
    {1, 3, 1, 2, 5000, 16, 16},     // two speculative tokens
    {1, 8, 2, 4, 600, 64, 64},      // four speculative tokens
    {3, 2, 1, 7, 130, 64, 32},      // few queries, batch
};

struct Call {
  const char* name;
  bool causal;
  Alignment alignment;
};

const std::vector<Call> calls = {{"full", false, Alignment::bottom_right},
                                 {"causal, bottom right", true, Alignment::bottom_right},
                                 {"causal, top left", true, Alignment::top_left}};

template <class T>
Model<T> model_of(const Call& call, const Sizes& sizes) {
  if (!call.causal) return {};
  const Index offset = call.alignment == Alignment::bottom_right ? sizes.keys - sizes.queries : 0;
  return {.visible = [=](fovea::Site at) { return at.key <= at.query + offset; }};
}

// The fixture of the golden numbers: val(s, a, b) = ((7 s + 5 a + 3 b + 2 a b) mod 13 - 6) / 4.
template <class T>
Inputs<T> fixture() {
  const auto val = [](Index s, Index a, Index b) { return T((7 * s + 5 * a + 3 * b + 2 * a * b) % 13 - 6) / T(4); };
  Inputs<T> x{Tensor4<T>(1, 1, 4, 3), Tensor4<T>(1, 1, 4, 3), Tensor4<T>(1, 1, 4, 2)};
  for (Index a = 0; a < 4; ++a) {
    for (Index b = 0; b < 3; ++b) x.q(0, 0, a, b) = val(1, a, b), x.k(0, 0, a, b) = val(2, a, b);
    for (Index b = 0; b < 2; ++b) x.v(0, 0, a, b) = val(3, a, b);
  }
  return x;
}

template <class T>
void check_golden(const Result<T>& got, const std::vector<double>& out, const std::vector<double>& log_sum) {
  for (std::size_t n = 0; n < out.size(); ++n) CHECK(std::abs(double(got.out.data()[n]) - out[n]) < 1e-6);
  for (std::size_t n = 0; n < log_sum.size(); ++n) CHECK(std::abs(double(got.log_sum.data()[n]) - log_sum[n]) < 1e-6);
}

}  // namespace

TEMPLATE_TEST_CASE("the golden numbers of dense attention", "", float, double) {
  auto x = fixture<TestType>();
  auto got = blank<TestType>(x.sizes());
  fovea::scaled_dot_product(x.q, x.k, x.v, got.both());
  check_golden(got, {-0.711126, 0.011281, -0.219996, 1.281921, -0.045355, 0.161008, -0.551526, 0.404367},
               {1.809993, 2.006294, 2.026885, 1.087196});
}

TEMPLATE_TEST_CASE("the golden numbers of causal attention", "", float, double) {
  auto x = fixture<TestType>();
  auto got = blank<TestType>(x.sizes());
  fovea::scaled_dot_product(x.q, x.k, x.v, got.both(), {.causal = true});
  check_golden(got, {0.5, 1.25, -0.572044, 0.445967, -0.898305, 0.292381, -0.551526, 0.404367},
               {-0.685603, -0.062023, 1.430279, 1.087196});
}

TEMPLATE_TEST_CASE("odd shapes equal the reference", "", float, double) {
  for (const Sizes& sizes : odd_shapes) {
    const auto x = gaussian<TestType>(sizes);
    for (const Call& call : calls) {
      INFO(sizes << ", " << call.name);
      auto got = blank<TestType>(sizes);
      fovea::scaled_dot_product(x.q, x.k, x.v, got.both(), {.alignment = call.alignment, .causal = call.causal});
      CHECK(is_exact(got, x, model_of<TestType>(call, sizes)));
    }
  }
}

TEMPLATE_TEST_CASE("sharp scores equal the reference", "", float, double) {
  for (const Sizes& sizes : {Sizes{1, 2, 1, 150, 150, 64, 64}, Sizes{1, 4, 2, 1, 3000, 64, 64}}) {
    const auto x = gaussian<TestType>(sizes, 5, 4);
    INFO(sizes);
    auto got = blank<TestType>(sizes);
    fovea::scaled_dot_product(x.q, x.k, x.v, got.both());
    CHECK(is_exact(got, x));
  }
}

TEMPLATE_TEST_CASE("a scale that is given replaces 1 / sqrt(D)", "", float, double) {
  const Sizes sizes{1, 2, 2, 40, 50, 16, 16};
  const auto x = gaussian<TestType>(sizes);
  for (const double scale : {0.0, 0.1, -0.3, 1.0}) {
    INFO("scale " << scale);
    auto got = blank<TestType>(sizes);
    fovea::scaled_dot_product(x.q, x.k, x.v, got.both(), {.scale = scale});
    CHECK(is_exact(got, x, {.scale = scale}));
  }
}

TEMPLATE_TEST_CASE("the output is the same with and without log-sums", "", float, double) {
  for (const Sizes& sizes : {Sizes{2, 4, 2, 70, 90, 33, 33}, Sizes{2, 4, 2, 1, 900, 33, 33}}) {
    const auto x = gaussian<TestType>(sizes);
    auto with = blank<TestType>(sizes), without = blank<TestType>(sizes);
    fovea::scaled_dot_product(x.q, x.k, x.v, with.both(), {.causal = true});
    fovea::scaled_dot_product(x.q, x.k, x.v, without.out, {.causal = true});
    CHECK(same_bits(with.out, without.out));
  }
}
