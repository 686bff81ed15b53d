// The same numbers in any layout that a call accepts give the same bits.
#include <fovea/dense/scaled_dot_product.hpp>

#include "support/attention.hpp"

using namespace fovea::test;
using fovea::Index;
using fovea::View;

namespace {

const std::vector<Sizes> shapes = {{2, 4, 2, 45, 70, 33, 15}, {2, 4, 2, 1, 700, 64, 64}};

template <class T>
Result<T> contiguous(const Inputs<T>& x) {
  auto got = blank<T>(x.sizes());
  fovea::scaled_dot_product(x.q, x.k, x.v, got.both(), {.causal = true});
  return got;
}

// A copy of a tensor with free room around rows, heads and batches, and a first element that is not aligned. The room
// holds NaN.
template <class T>
struct Strided {
  std::vector<T> memory;
  View<T> view;

  explicit Strided(const Tensor4<T>& x, Index gap = 5) {
    const Index rows = x.dimension(3) + gap, heads = rows * x.dimension(2) + 3, batch = heads * x.dimension(1) + 7;
    memory.assign(std::size_t(batch * x.dimension(0) + 1), not_a_number<T>);
    view = {memory.data() + 1, x.dimension(0), x.dimension(1), x.dimension(2), x.dimension(3), batch, heads, rows};
    for (Index b = 0; b < view.batch; ++b) {
      for (Index h = 0; h < view.heads; ++h) {
        for (Index i = 0; i < view.length; ++i) std::copy_n(row(x, b, h, i), view.dim, view.row(b, h, i));
      }
    }
  }

  // The elements, and whether the room around them is still NaN.
  Tensor4<T> content(bool& untouched) const {
    Tensor4<T> x(view.batch, view.heads, view.length, view.dim);
    std::size_t numbers = 0;
    for (const T value : memory) numbers += std::isnan(value) ? 0 : 1;
    untouched = numbers == std::size_t(x.size());
    for (Index b = 0; b < view.batch; ++b) {
      for (Index h = 0; h < view.heads; ++h) {
        for (Index i = 0; i < view.length; ++i) std::copy_n(view.row(b, h, i), view.dim, row(x, b, h, i));
      }
    }
    return x;
  }
};

template <class T>
Tensor4<T> swap_heads_and_length(const Tensor4<T>& x) {
  Tensor4<T> swapped(x.dimension(0), x.dimension(2), x.dimension(1), x.dimension(3));
  for (Index b = 0; b < x.dimension(0); ++b) {
    for (Index h = 0; h < x.dimension(1); ++h) {
      for (Index i = 0; i < x.dimension(2); ++i) std::copy_n(row(x, b, h, i), x.dimension(3), row(swapped, b, i, h));
    }
  }
  return swapped;
}

}  // namespace

TEMPLATE_TEST_CASE("tensors [B,T,H,D]", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const auto q = swap_heads_and_length(x.q), k = swap_heads_and_length(x.k), v = swap_heads_and_length(x.v);
    Tensor4<TestType> out(s.batch, s.queries, s.heads, s.value_dim);
    out.setConstant(not_a_number<TestType>);
    fovea::scaled_dot_product(fovea::bthd(q), fovea::bthd(k), fovea::bthd(v), fovea::bthd(out), {.causal = true});
    CHECK(same_bits(swap_heads_and_length(out), contiguous(x).out));
  }
}

TEMPLATE_TEST_CASE("column-major tensors [D,T,H,B]", "", float, double) {
  using ColMajor = Eigen::Tensor<TestType, 4>;
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const auto turn = [](const Tensor4<TestType>& t) {
      ColMajor turned(t.dimension(3), t.dimension(2), t.dimension(1), t.dimension(0));
      std::copy_n(t.data(), t.size(), turned.data());
      return turned;
    };
    const ColMajor q = turn(x.q), k = turn(x.k), v = turn(x.v);
    ColMajor out(s.value_dim, s.queries, s.heads, s.batch);
    out.setConstant(not_a_number<TestType>);
    fovea::scaled_dot_product(fovea::dthb(q), fovea::dthb(k), fovea::dthb(v), fovea::dthb(out), {.causal = true});
    CHECK(same_bits(out, contiguous(x).out));
  }
}

TEMPLATE_TEST_CASE("tensor maps and tensors of rank 3", "", float, double) {
  const Sizes s{1, 4, 2, 45, 70, 33, 15};
  const auto x = gaussian<TestType>(s);
  using Map = Eigen::TensorMap<const Tensor3<TestType>>;
  const Map q(x.q.data(), s.heads, s.queries, s.dim), k(x.k.data(), s.kv_heads, s.keys, s.dim);
  const Map v(x.v.data(), s.kv_heads, s.keys, s.value_dim);
  Tensor3<TestType> out(s.heads, s.queries, s.value_dim);
  out.setConstant(not_a_number<TestType>);
  fovea::scaled_dot_product(q, k, v, out, {.causal = true});
  CHECK(same_bits(out, contiguous(x).out));
}

TEMPLATE_TEST_CASE("matrices, maps and blocks", "", float, double) {
  for (const Sizes& s : {Sizes{1, 1, 1, 45, 70, 33, 15}, Sizes{1, 1, 1, 1, 700, 64, 64}}) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const auto wanted = contiguous(x);
    const Matrix<TestType> q = head(x.q, 0, 0), k = head(x.k, 0, 0), v = head(x.v, 0, 0);
    Matrix<TestType> out = Matrix<TestType>::Constant(s.queries, s.value_dim, not_a_number<TestType>);
    Eigen::Matrix<TestType, Eigen::Dynamic, 1> log_sum(s.queries);
    fovea::scaled_dot_product(q, k, v, fovea::with_log_sum(out, log_sum), {.causal = true});
    CHECK(same_bits(out, wanted.out));
    CHECK(same_bits(log_sum, wanted.log_sum));

    out.setConstant(not_a_number<TestType>);
    fovea::scaled_dot_product(head(x.q, 0, 0), head(x.k, 0, 0), head(x.v, 0, 0),
                              Eigen::Map<Matrix<TestType>>(out.data(), out.rows(), out.cols()), {.causal = true});
    CHECK(same_bits(out, wanted.out));

    // q, k and v side by side, as one product with the weights leaves them; the output in the middle of a larger one.
    Matrix<TestType> packed = Matrix<TestType>::Constant(s.keys, 2 * s.dim + s.value_dim, not_a_number<TestType>);
    packed.topLeftCorner(s.queries, s.dim) = q;
    packed.middleCols(s.dim, s.dim) = k;
    packed.rightCols(s.value_dim) = v;
    Matrix<TestType> around = Matrix<TestType>::Constant(s.queries + 2, s.value_dim + 3, not_a_number<TestType>);
    fovea::scaled_dot_product(packed.topLeftCorner(s.queries, s.dim), packed.middleCols(s.dim, s.dim),
                              packed.rightCols(s.value_dim), around.block(1, 2, s.queries, s.value_dim),
                              {.causal = true});
    const Matrix<TestType> middle = around.block(1, 2, s.queries, s.value_dim);
    CHECK(same_bits(middle, wanted.out));
    around.block(1, 2, s.queries, s.value_dim).setConstant(not_a_number<TestType>);
    CHECK(all_nan(around.data(), around.size()));
  }
}

TEMPLATE_TEST_CASE("strided and unaligned views, the room between rows untouched", "", float, double) {
  for (const Sizes& s : shapes) {
    INFO(s);
    const auto x = gaussian<TestType>(s);
    const auto wanted = contiguous(x);
    const Strided<TestType> q(x.q), k(x.k), v(x.v);
    Strided<TestType> out(blank<TestType>(s).out, 2);
    fovea::scaled_dot_product(q.view, k.view, v.view, out.view, {.causal = true});
    bool untouched = false;
    CHECK(same_bits(out.content(untouched), wanted.out));
    CHECK(untouched);
  }
}

TEMPLATE_TEST_CASE("every misalignment of the pointers", "", float, double) {
  for (const Sizes& s : {Sizes{1, 2, 1, 19, 35, 33, 15}, Sizes{1, 2, 1, 1, 600, 16, 16}}) {
    const auto x = gaussian<TestType>(s);
    const auto wanted = contiguous(x);
    const auto moved = [](const Tensor4<TestType>& t, std::vector<TestType>& memory, Index by) {
      memory.assign(std::size_t(t.size() + by), not_a_number<TestType>);
      std::copy_n(t.data(), t.size(), memory.data() + by);
      return fovea::view(memory.data() + by, {t.dimension(0), t.dimension(1), t.dimension(2), t.dimension(3)});
    };
    for (Index by = 0; by < 16; ++by) {
      INFO(s << ", " << by << " elements off");
      std::vector<TestType> mq, mk, mv, mo;
      const auto q = moved(x.q, mq, by), k = moved(x.k, mk, (by * 3) % 16), v = moved(x.v, mv, (by * 5) % 16);
      const auto out = moved(blank<TestType>(s).out, mo, (by * 7) % 16);
      fovea::scaled_dot_product(q, k, v, out, {.causal = true});
      CHECK(std::memcmp(out.data, wanted.out.data(), std::size_t(wanted.out.size()) * sizeof(TestType)) == 0);
    }
  }
}

TEMPLATE_TEST_CASE("a view may repeat memory with strides of zero", "", float, double) {
  // One key head for all batches, and the same query for every batch.
  const Sizes s{3, 2, 1, 20, 50, 33, 15};
  auto x = gaussian<TestType>(s);
  for (Index b = 1; b < s.batch; ++b) {
    std::copy_n(row(x.q, 0, 0, 0), s.heads * s.queries * s.dim, row(x.q, b, 0, 0));
    std::copy_n(row(x.k, 0, 0, 0), s.keys * s.dim, row(x.k, b, 0, 0));
    std::copy_n(row(x.v, 0, 0, 0), s.keys * s.value_dim, row(x.v, b, 0, 0));
  }
  auto q = fovea::view(x.q), k = fovea::view(x.k), v = fovea::view(x.v);
  q.batch_stride = k.batch_stride = v.batch_stride = 0;
  auto out = blank<TestType>(s);
  fovea::scaled_dot_product(q, k, v, out.out, {.causal = true});
  CHECK(same_bits(out.out, contiguous(x).out));
}

TEMPLATE_TEST_CASE("output_for has the shape of the queries and the width of the values", "", float, double) {
  const auto x = gaussian<TestType>({2, 4, 2, 5, 7, 3, 9});
  const auto out = fovea::output_for(x.q, x.v);
  CHECK((out.dimension(0) == 2 && out.dimension(1) == 4 && out.dimension(2) == 5 && out.dimension(3) == 9));
  const Matrix<TestType> q(5, 3), v(7, 9);
  const auto matrix = fovea::output_for(q, v);
  CHECK((matrix.rows() == 5 && matrix.cols() == 9));
}
