#include "support/catch.hpp"

#include <fovea/core/eigen.hpp>
#include <numeric>
#include <type_traits>
#include <unsupported/Eigen/CXX11/Tensor>
#include <utility>
#include <vector>

using fovea::Extents;
using fovea::Index;

namespace {

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T>
using ColMatrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;
template <class T, int rank>
using Tensor = Eigen::Tensor<T, rank, Eigen::RowMajor>;
template <class T, int rank>
using ColTensor = Eigen::Tensor<T, rank>;

// Every element is its own number, so that a view that reads a wrong one is found.
template <class X>
void number(X& x) {
  std::iota(x.data(), x.data() + x.size(), typename X::Scalar(1));
}

// How many elements of the view differ from at(b, h, i, d).
template <class View, class At>
int wrong_elements(const View& x, const Extents& wanted, At&& at) {
  if (!(x.extents() == wanted)) return -1;
  int wrong = 0;
  for (Index b = 0; b < wanted.batch; ++b)
    for (Index h = 0; h < wanted.heads; ++h)
      for (Index i = 0; i < wanted.length; ++i)
        for (Index d = 0; d < wanted.dim; ++d) wrong += x.row(b, h, i)[d] != at(b, h, i, d);
  return wrong;
}

}  // namespace

TEMPLATE_TEST_CASE("view of RowMajor tensors of rank 4, 3 and 2", "[core][eigen]", float, double) {
  Tensor<TestType, 4> x(2, 3, 5, 7);
  number(x);
  CHECK(wrong_elements(fovea::view(x), {2, 3, 5, 7},
                       [&](Index b, Index h, Index i, Index d) { return x(b, h, i, d); }) == 0);
  Tensor<TestType, 3> y(3, 5, 7);
  number(y);
  CHECK(wrong_elements(fovea::view(y), {1, 3, 5, 7}, [&](Index, Index h, Index i, Index d) { return y(h, i, d); }) ==
        0);
  Tensor<TestType, 2> z(5, 7);
  number(z);
  CHECK(wrong_elements(fovea::view(z), {1, 1, 5, 7}, [&](Index, Index, Index i, Index d) { return z(i, d); }) == 0);
}

TEST_CASE("view of a tensor map", "[core][eigen]") {
  std::vector<float> memory(2 * 3 * 5 * 7);
  std::iota(memory.begin(), memory.end(), 1.f);
  const Eigen::TensorMap<Tensor<float, 4>> x(memory.data(), 2, 3, 5, 7);
  CHECK(wrong_elements(fovea::view(x), {2, 3, 5, 7},
                       [&](Index b, Index h, Index i, Index d) { return x(b, h, i, d); }) == 0);
}

TEST_CASE("view of a tensor map of const", "[core][eigen]") {
  std::vector<float> memory(5 * 7, 1.f);
  const Eigen::TensorMap<const Tensor<float, 2>> x(memory.data(), 5, 7);
  const auto v = fovea::view(x);
  CHECK(v.data == memory.data());
  CHECK(std::is_same_v<decltype(v), const fovea::View<const float>>);
}

TEST_CASE("view of a tensor of fixed size", "[core][eigen]") {
  Eigen::TensorFixedSize<float, Eigen::Sizes<3, 5>, Eigen::RowMajor> x;
  number(x);
  CHECK(wrong_elements(fovea::view(x), {1, 1, 3, 5}, [&](Index, Index, Index i, Index d) { return x(i, d); }) == 0);
}

TEST_CASE("view keeps const and leaves the rest writable", "[core][eigen]") {
  Tensor<float, 2> x(5, 7);
  Matrix<double> m(5, 7);
  CHECK(std::is_same_v<decltype(fovea::view(x)), fovea::View<float>>);
  CHECK(std::is_same_v<decltype(fovea::view(std::as_const(x))), fovea::View<const float>>);
  CHECK(std::is_same_v<decltype(fovea::view(m)), fovea::View<double>>);
  CHECK(std::is_same_v<decltype(fovea::view(std::as_const(m))), fovea::View<const double>>);
  fovea::view(m).row(0, 0, 4)[6] = 42;
  CHECK(m(4, 6) == 42);
}

TEST_CASE("a view is its own view", "[core][eigen]") {
  float memory[1];
  const fovea::View<float> x{memory, 2, 3, 4, 5, 6, 7, 8};
  const auto y = fovea::view(x);
  CHECK(y.data == memory);
  CHECK(y.extents() == x.extents());
  CHECK(y.batch_stride == 6);
  CHECK(y.head_stride == 7);
  CHECK(y.length_stride == 8);
}

TEMPLATE_TEST_CASE("view of a RowMajor matrix", "[core][eigen]", float, double) {
  Matrix<TestType> x(5, 7);
  number(x);
  CHECK(wrong_elements(fovea::view(x), {1, 1, 5, 7}, [&](Index, Index, Index i, Index d) { return x(i, d); }) == 0);
}

TEST_CASE("view of a matrix of fixed size", "[core][eigen]") {
  Eigen::Matrix<float, 3, 5, Eigen::RowMajor> x;
  number(x);
  CHECK(wrong_elements(fovea::view(x), {1, 1, 3, 5}, [&](Index, Index, Index i, Index d) { return x(i, d); }) == 0);
}

TEST_CASE("view of a RowMajor array", "[core][eigen]") {
  Eigen::Array<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> x(3, 5);
  number(x);
  CHECK(wrong_elements(fovea::view(x), {1, 1, 3, 5}, [&](Index, Index, Index i, Index d) { return x(i, d); }) == 0);
}

TEST_CASE("view of blocks of rows, of columns and of both", "[core][eigen]") {
  Matrix<float> x(9, 11);
  number(x);
  const auto rows = x.middleRows(2, 5);
  CHECK(wrong_elements(fovea::view(rows), {1, 1, 5, 11}, [&](Index, Index, Index i, Index d) { return x(i + 2, d); }) ==
        0);
  const auto columns = x.middleCols(3, 7);
  CHECK(wrong_elements(fovea::view(columns), {1, 1, 9, 7},
                       [&](Index, Index, Index i, Index d) { return x(i, d + 3); }) == 0);
  auto block = x.block(1, 2, 4, 3);
  CHECK(wrong_elements(fovea::view(block), {1, 1, 4, 3},
                       [&](Index, Index, Index i, Index d) { return x(i + 1, d + 2); }) == 0);
}

TEST_CASE("view of a map with an outer stride", "[core][eigen]") {
  std::vector<double> memory(5 * 9);
  std::iota(memory.begin(), memory.end(), 1.);
  const Eigen::Map<Matrix<double>, 0, Eigen::OuterStride<>> x(memory.data(), 5, 7, Eigen::OuterStride<>(9));
  const auto v = fovea::view(x);
  CHECK(v.length_stride == 9);
  CHECK(wrong_elements(v, {1, 1, 5, 7},
                       [&](Index, Index, Index i, Index d) { return memory[std::size_t(i * 9 + d)]; }) == 0);
}

TEST_CASE("view of a map of const memory and of a reference to const", "[core][eigen]") {
  std::vector<float> memory(5 * 7);
  std::iota(memory.begin(), memory.end(), 1.f);
  const Eigen::Map<const Matrix<float>> x(memory.data(), 5, 7);
  CHECK(std::is_same_v<decltype(fovea::view(x)), fovea::View<const float>>);
  CHECK(fovea::view(x).row(0, 0, 4)[6] == 35);
  const Eigen::Ref<const Matrix<float>> y(x);
  CHECK(fovea::view(y).row(0, 0, 4)[6] == 35);
}

TEST_CASE("view of a column vector has width one", "[core][eigen]") {
  Eigen::VectorXf x(5);
  number(x);
  CHECK(wrong_elements(fovea::view(x), {1, 1, 5, 1}, [&](Index, Index, Index i, Index) { return x(i); }) == 0);
}

TEST_CASE("view of a row vector has length one", "[core][eigen]") {
  Eigen::RowVectorXf x(5);
  number(x);
  CHECK(wrong_elements(fovea::view(x), {1, 1, 1, 5}, [&](Index, Index, Index, Index d) { return x(d); }) == 0);
}

TEST_CASE("bthd of tensors of rank 4 and 3", "[core][eigen]") {
  Tensor<float, 4> x(2, 5, 3, 7);
  number(x);
  CHECK(wrong_elements(fovea::bthd(x), {2, 3, 5, 7},
                       [&](Index b, Index h, Index i, Index d) { return x(b, i, h, d); }) == 0);
  Tensor<double, 3> y(5, 3, 7);
  number(y);
  CHECK(wrong_elements(fovea::bthd(y), {1, 3, 5, 7}, [&](Index, Index h, Index i, Index d) { return y(i, h, d); }) ==
        0);
}

TEST_CASE("dthb of ColMajor tensors of rank 4, 3 and 2", "[core][eigen]") {
  ColTensor<float, 4> x(7, 5, 3, 2);
  number(x);
  CHECK(wrong_elements(fovea::dthb(x), {2, 3, 5, 7},
                       [&](Index b, Index h, Index i, Index d) { return x(d, i, h, b); }) == 0);
  ColTensor<double, 3> y(7, 5, 3);
  number(y);
  CHECK(wrong_elements(fovea::dthb(y), {1, 3, 5, 7}, [&](Index, Index h, Index i, Index d) { return y(d, i, h); }) ==
        0);
  ColTensor<double, 2> z(7, 5);
  number(z);
  CHECK(wrong_elements(fovea::dthb(z), {1, 1, 5, 7}, [&](Index, Index, Index i, Index d) { return z(d, i); }) == 0);
}

TEST_CASE("dthb of a ColMajor matrix and of its blocks", "[core][eigen]") {
  ColMatrix<float> x(7, 5);
  number(x);
  CHECK(wrong_elements(fovea::dthb(x), {1, 1, 5, 7}, [&](Index, Index, Index i, Index d) { return x(d, i); }) == 0);
  const auto block = x.block(2, 1, 4, 3);
  CHECK(wrong_elements(fovea::dthb(block), {1, 1, 3, 4},
                       [&](Index, Index, Index i, Index d) { return x(d + 2, i + 1); }) == 0);
}

TEST_CASE("views of tensors without elements have their extents", "[core][eigen]") {
  Tensor<float, 4> x(2, 0, 5, 7);
  CHECK(fovea::view(x).extents() == Extents{2, 0, 5, 7});
  Matrix<float> m(0, 7);
  CHECK(fovea::view(m).extents() == Extents{1, 1, 0, 7});
}

TEST_CASE("row values of tensors of rank 3, 2 and 1", "[core][eigen]") {
  Tensor<float, 3> x(2, 3, 5);
  number(x);
  CHECK(wrong_elements(fovea::row_values(x), {2, 3, 5, 1},
                       [&](Index b, Index h, Index i, Index) { return x(b, h, i); }) == 0);
  Tensor<double, 2> y(3, 5);
  number(y);
  CHECK(wrong_elements(fovea::row_values(y), {1, 3, 5, 1}, [&](Index, Index h, Index i, Index) { return y(h, i); }) ==
        0);
  Tensor<double, 1> z(5);
  number(z);
  CHECK(wrong_elements(fovea::row_values(z), {1, 1, 5, 1}, [&](Index, Index, Index i, Index) { return z(i); }) == 0);
}

TEST_CASE("row values of vectors, also of a column of a RowMajor matrix", "[core][eigen]") {
  Eigen::VectorXd x(5);
  number(x);
  CHECK(wrong_elements(fovea::row_values(x), {1, 1, 5, 1}, [&](Index, Index, Index i, Index) { return x(i); }) == 0);
  Eigen::RowVectorXf y(5);
  number(y);
  CHECK(wrong_elements(fovea::row_values(y), {1, 1, 5, 1}, [&](Index, Index, Index i, Index) { return y(i); }) == 0);
  Matrix<float> m(5, 7);
  number(m);
  auto column = m.col(2);
  CHECK(wrong_elements(fovea::row_values(column), {1, 1, 5, 1},
                       [&](Index, Index, Index i, Index) { return m(i, 2); }) == 0);
  const Eigen::VectorXf longer = Eigen::VectorXf::LinSpaced(9, 1, 9);
  const auto part = longer.segment(2, 5);
  CHECK(wrong_elements(fovea::row_values(part), {1, 1, 5, 1},
                       [&](Index, Index, Index i, Index) { return longer(2 + i); }) == 0);
}

TEST_CASE("output_for tensors has the shape of q and the width of v", "[core][eigen]") {
  const Tensor<float, 4> q(2, 6, 5, 7), v(2, 3, 9, 4);
  const auto out = fovea::output_for(q, v);
  CHECK(std::is_same_v<std::remove_const_t<decltype(out)>, Tensor<float, 4>>);
  CHECK(fovea::view(out).extents() == Extents{2, 6, 5, 4});
  const Tensor<double, 2> q2(5, 7), v2(9, 4);
  const auto out2 = fovea::output_for(q2, v2);
  CHECK(std::is_same_v<std::remove_const_t<decltype(out2)>, Tensor<double, 2>>);
  CHECK(fovea::view(out2).extents() == Extents{1, 1, 5, 4});
}

TEST_CASE("output_for maps of const tensors owns its memory", "[core][eigen]") {
  const std::vector<float> memory(3 * 5 * 7);
  const Eigen::TensorMap<const Tensor<float, 3>> q(memory.data(), 3, 5, 7), v(memory.data(), 3, 7, 4);
  auto out = fovea::output_for(q, v);
  CHECK(std::is_same_v<decltype(out), Tensor<float, 3>>);
  CHECK(fovea::view(out).extents() == Extents{1, 3, 5, 4});
  CHECK(out.data() != memory.data());

  const Eigen::TensorMap<Tensor<const float, 3>> q2(memory.data(), 3, 5, 7), v2(memory.data(), 3, 7, 4);
  CHECK(std::is_same_v<decltype(fovea::output_for(q2, v2)), Tensor<float, 3>>);
}

TEST_CASE("output_for matrices, maps and blocks is a RowMajor matrix", "[core][eigen]") {
  const Matrix<float> q(5, 7), v(9, 4);
  const auto out = fovea::output_for(q, v);
  CHECK(std::is_same_v<std::remove_const_t<decltype(out)>, Matrix<float>>);
  CHECK(out.rows() == 5);
  CHECK(out.cols() == 4);
  const std::vector<double> memory(5 * 7);
  const Eigen::Map<const Matrix<double>> map(memory.data(), 5, 7);
  const auto block = map.topRows(2);
  const auto out2 = fovea::output_for(block, map);
  CHECK(std::is_same_v<std::remove_const_t<decltype(out2)>, Matrix<double>>);
  CHECK(fovea::view(out2).extents() == Extents{1, 1, 2, 7});
}
