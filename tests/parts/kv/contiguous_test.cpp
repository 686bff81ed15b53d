#include "support/catch.hpp"

#include <fovea/parts/kv/contiguous.hpp>
#include <unsupported/Eigen/CXX11/Tensor>

using fovea::Index;

TEST_CASE("a contiguous source says how much it holds", "[parts][kv]") {
  float memory[1] = {};
  const fovea::kv::Contiguous<float> source{fovea::view(memory, {2, 3, 11, 5}), fovea::view(memory, {2, 3, 11, 7})};
  CHECK(source.length(0) == 11);
  CHECK(source.key_dim() == 5);
  CHECK(source.value_dim() == 7);
}

TEST_CASE("the rows of a span are those of its batch and kv head, whatever the layout", "[parts][kv]") {
  Eigen::Tensor<float, 4, Eigen::RowMajor> k(2, 3, 11, 5), v(2, 11, 3, 7);  // v: [B,T,H,D]
  const fovea::kv::Contiguous<float> source{fovea::view(k), fovea::bthd(v)};
  for (Index b = 0; b < 2; ++b) {
    for (Index g = 0; g < 3; ++g) {
      for (Index first = 0; first < 11; ++first) {
        const auto keys = source.keys(b, g, {first, 11});
        const auto values = source.values(b, g, {first, 11});
        for (Index j = 0; first + j < 11; ++j) {
          CHECK(keys[j] == &k(b, g, first + j, 0));
          CHECK(values[j] == &v(b, first + j, g, 0));
        }
      }
    }
  }
}

TEST_CASE("rows past 2^31 elements are found", "[parts][kv]") {
  double memory[1] = {};
  const Index length = Index{1} << 40;
  const fovea::View<const double> repeated{memory, 1, 1, length, 1, 0, 0, 0};
  const fovea::kv::Contiguous<double> source{repeated, repeated};
  CHECK(source.keys(0, 0, {length - 5, length})[4] == memory);
}
