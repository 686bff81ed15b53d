#include "support/catch.hpp"

#include <algorithm>
#include <cmath>
#include <fovea/parts/score/bias.hpp>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

#include "support/parts.hpp"

using fovea::Alignment;
using fovea::Index;
using fovea::Shape;
using fovea::Site;
using fovea::View;
namespace score = fovea::score;

namespace {

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr Index batches = 2, heads = 3, queries = 4, keys = 41;
constexpr Shape shape{batches, heads, 1, queries, keys};

// One rounding of the sum.
template <class T, class Score, class Table>
std::string difference(const Score& s, const Shape& of, const Table& table) {
  return support::score_difference<T>(
      s, of, [&](double x, Site at) { return x + double(table(at)); },
      [&](double x, Site at) { return 0.5 * support::epsilon<T> * (std::fabs(x) + std::fabs(double(table(at)))); });
}

}  // namespace

TEMPLATE_TEST_CASE("bias adds a table that broadcasts along any of batch, heads and queries", "[parts][score][bias]",
                   float, double) {
  using T = TestType;
  for (int pattern = 0; pattern < 8; ++pattern) {
    const Index b = pattern & 1 ? 1 : batches, h = pattern & 2 ? 1 : heads, n = pattern & 4 ? 1 : queries;
    const auto memory = support::uniform<T>(11, b * h * n * keys);
    const auto table = fovea::view(memory.data(), {b, h, n, keys});
    CAPTURE(b, h, n);
    CHECK(difference<T>(score::bias(table), shape, [&](Site at) {
            const Index row = ((at.batch % b) * h + at.head % h) * n + at.query % n;
            return memory[std::size_t(row * keys + at.key)];
          }) == "");
  }
}

TEMPLATE_TEST_CASE("bias takes tensors, matrices and strided maps", "[parts][score][bias]", float, double) {
  using T = TestType;
  Eigen::Tensor<T, 4, Eigen::RowMajor> tensor(batches, heads, queries, keys);
  const auto memory = support::uniform<T>(12, tensor.size());
  std::copy(memory.begin(), memory.end(), tensor.data());
  CHECK(difference<T>(score::bias(tensor), shape,
                      [&](Site at) { return tensor(at.batch, at.head, at.query, at.key); }) == "");
  const Matrix<T> matrix = Eigen::Map<const Matrix<T>>(memory.data(), queries, keys);
  CHECK(difference<T>(score::bias(matrix), shape, [&](Site at) { return matrix(at.query, at.key); }) == "");
  const Eigen::Map<const Matrix<T>, 0, Eigen::OuterStride<>> strided(memory.data(), queries, keys,
                                                                     Eigen::OuterStride<>(keys + 3));
  CHECK(difference<T>(score::bias(strided), shape, [&](Site at) { return strided(at.query, at.key); }) == "");
}

TEST_CASE("a bias of the wrong shape is refused", "[parts][score][bias]") {
  const std::vector<float> memory(4000);
  const auto said = [&](fovea::Extents e) {
    return support::refusal([&] { score::bias(fovea::view(memory.data(), e)).bind<float>("f", shape); });
  };
  CHECK(said({batches, heads, queries, keys}) == "accepted");
  CHECK(said({batches, heads, queries, 1}) ==
        "f: a bias must have the shape of the scores or broadcast to it, wanted [2 or 1, 3 or 1, 4 or 1, 41], got "
        "[2, 3, 4, 1]");
  CHECK(said({3, heads, queries, keys}) != "accepted");
  CHECK(said({batches, 2, queries, keys}) != "accepted");
  CHECK(said({batches, heads, 5, keys}) != "accepted");
  CHECK(said({0, heads, queries, keys}) != "accepted");
}

TEMPLATE_TEST_CASE("key_bias adds a vector to every row", "[parts][score][bias]", float, double) {
  using T = TestType;
  const auto memory = support::uniform<T>(13, keys);
  const Eigen::Matrix<T, Eigen::Dynamic, 1> vector =
      Eigen::Map<const Eigen::Matrix<T, Eigen::Dynamic, 1>>(memory.data(), keys);
  const auto table = [&](Site at) { return memory[std::size_t(at.key)]; };
  CHECK(difference<T>(score::key_bias(vector), shape, table) == "");
  const Eigen::Matrix<T, 1, Eigen::Dynamic> row = vector.transpose();
  CHECK(difference<T>(score::key_bias(row), shape, table) == "");
  Eigen::Tensor<T, 1, Eigen::RowMajor> tensor(keys);
  std::copy(memory.begin(), memory.end(), tensor.data());
  CHECK(difference<T>(score::key_bias(tensor), shape, table) == "");
}

TEMPLATE_TEST_CASE("key_bias adds a row of a matrix to each batch", "[parts][score][bias]", float, double) {
  using T = TestType;
  const auto memory = support::uniform<T>(14, batches * keys);
  const Matrix<T> matrix = Eigen::Map<const Matrix<T>>(memory.data(), batches, keys);
  const auto table = [&](Site at) { return matrix(at.batch, at.key); };
  CHECK(difference<T>(score::key_bias(matrix), shape, table) == "");
  Eigen::Tensor<T, 2, Eigen::RowMajor> tensor(batches, keys);
  std::copy(memory.begin(), memory.end(), tensor.data());
  CHECK(difference<T>(score::key_bias(tensor), shape, table) == "");
}

TEST_CASE("a key bias of the wrong shape is refused", "[parts][score][bias]") {
  const auto said = [&](const auto& table) {
    return support::refusal([&] { score::key_bias(table).template bind<float>("f", shape); });
  };
  CHECK(said(Eigen::VectorXf(Eigen::VectorXf::Zero(keys))) == "accepted");
  CHECK(said(Eigen::VectorXf(Eigen::VectorXf::Zero(keys + 1))) != "accepted");
  CHECK(said(Matrix<float>(Matrix<float>::Zero(batches + 1, keys))) != "accepted");
  CHECK(said(Matrix<float>(Matrix<float>::Zero(batches, keys - 1))) != "accepted");
}

TEST_CASE("a key bias with axes it does not have is refused", "[parts][score][bias]") {
  Eigen::Tensor<float, 3, Eigen::RowMajor> table(2, 1, keys);  // not [B, M]
  table.setZero();
  CHECK(support::refusal([&] { score::key_bias(table).bind<float>("f", shape); }) != "accepted");
}

TEMPLATE_TEST_CASE("relative_bias looks up clamp(p - j + R, 0, 2R), clamped on both sides", "[parts][score][bias]",
                   float, double) {
  using T = TestType;
  for (const Index radius : {0, 1, 3, 50}) {
    for (const Index rows : {Index{1}, heads}) {
      for (const Alignment alignment : {Alignment::bottom_right, Alignment::top_left}) {
        const auto memory = support::uniform<T>(15, rows * (2 * radius + 1));
        const Matrix<T> table = Eigen::Map<const Matrix<T>>(memory.data(), rows, 2 * radius + 1);
        for (const Index n : {Index{4}, Index{50}}) {
          const Shape of{1, heads, 1, n, keys};
          const Index offset = alignment == Alignment::bottom_right ? keys - n : 0;
          CAPTURE(radius, rows, offset, n);
          CHECK(difference<T>(score::relative_bias(table, alignment), of, [&](Site at) {
                  const Index distance = at.query + offset - at.key;
                  return table(rows == 1 ? 0 : at.head, std::min(std::max(distance + radius, Index{0}), 2 * radius));
                }) == "");
        }
      }
    }
  }
}

TEST_CASE("relative_bias reads strided tables", "[parts][score][bias]") {
  const auto memory = support::uniform<float>(16, heads * 9);
  const Eigen::Map<const Matrix<float>, 0, Eigen::OuterStride<>> table(memory.data(), heads, 5,
                                                                       Eigen::OuterStride<>(9));
  CHECK(difference<float>(score::relative_bias(table), Shape{1, heads, 1, keys, keys}, [&](Site at) {
          return table(at.head, std::clamp<Index>(at.query - at.key + 2, 0, 4));
        }) == "");
}

TEST_CASE("a relative bias of the wrong shape is refused", "[parts][score][bias]") {
  const auto said = [&](Index rows, Index width) {
    const Matrix<float> table = Matrix<float>::Zero(rows, width);
    return support::refusal([&] { score::relative_bias(table).bind<float>("f", shape); });
  };
  CHECK(said(heads, 5) == "accepted");
  CHECK(said(1, 5) == "accepted");
  CHECK(said(heads, 4) ==
        "f: a relative bias needs an odd number of distances for each head or for all, wanted [3 or 1, 2 R + 1], got "
        "[3, 4]");
  CHECK(said(heads, 0) != "accepted");
  CHECK(said(2, 5) != "accepted");
}

TEST_CASE("a relative bias with axes it does not have is refused", "[parts][score][bias]") {
  Eigen::Tensor<float, 3, Eigen::RowMajor> table(heads, 1, 5);  // not [H, 2 R + 1]
  table.setZero();
  CHECK(support::refusal([&] { score::relative_bias(table).bind<float>("f", shape); }) != "accepted");
}
