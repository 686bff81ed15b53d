// Plain formats: what is written is read again, where it lies, and that stretches begin alike.
#include <fovea/parts/kv/format.hpp>
#include <fovea/parts/kv/quantized.hpp>

#include "support/catch.hpp"
#include "support/parts.hpp"

using fovea::Index;
namespace kv = fovea::kv;

static_assert(kv::Format<kv::Plain<float>> && kv::Format<kv::Plain<double>>);
static_assert(kv::Format<kv::Plain<Eigen::bfloat16>> && kv::Format<kv::Plain<Eigen::half>>);
static_assert(kv::Format<kv::KeyFormat<kv::Int8>> && kv::Format<kv::ValueFormat<kv::Int4>>);

namespace {

template <class S, class T>
void check_rows(Index dim) {
  const auto format = kv::Formats<S>::keys("test", dim, {});
  const Index tokens = 7, stride = dim + 3;
  const auto x = support::uniform<T>(1, tokens * stride);
  const support::Guarded<S> memory(tokens * dim);
  auto* const stretch = reinterpret_cast<std::byte*>(memory.at_end(tokens * dim));
  format.write(stretch, 0, 2, x.data(), stride);
  format.write(stretch, 2, 5, x.data() + 2 * stride, stride);
  const auto run = format.run(stretch, 1);
  Index different = 0;
  for (Index t = 1; t < tokens; ++t) {
    for (Index d = 0; d < dim; ++d)
      different += double(run[t - 1][d]) != double(static_cast<S>(x[std::size_t(t * stride + d)]));
  }
  CHECK(different == 0);
  CHECK(format.settled(99) == 99);
  CHECK(format.block() == 1);
  CHECK(format.packed(tokens) == tokens * dim * Index(sizeof(S)));
}

}  // namespace

TEST_CASE("Plain formats keep rows of their type") {
  for (const Index dim : {1, 8, 13, 64}) {
    check_rows<float, float>(dim);
    check_rows<float, double>(dim);
    check_rows<double, float>(dim);
    check_rows<Eigen::bfloat16, float>(dim);
    check_rows<Eigen::half, double>(dim);
  }
}

TEST_CASE("Rows without gaps are written as rows with gaps are") {
  const kv::Plain<Eigen::half> format{5};
  const auto x = support::uniform<float>(1, 50);
  Eigen::half a[50], b[50];
  format.write(reinterpret_cast<std::byte*>(a), 0, 10, x.data(), 5);
  for (Index t = 0; t < 10; ++t) format.write(reinterpret_cast<std::byte*>(b), t, 1, x.data() + 5 * t, 999);
  CHECK(std::memcmp(a, b, sizeof a) == 0);
}

TEST_CASE("Stretches take multiples of 64 bytes") {
  for (const Index dim : {1, 3, 16, 100}) {
    for (Index tokens = 0; tokens < 40; ++tokens) {
      const Index bytes = kv::Plain<float>{dim}.bytes(tokens);
      CHECK((bytes % 64 == 0 && bytes >= tokens * dim * 4 && bytes < tokens * dim * 4 + 64));
    }
  }
}
