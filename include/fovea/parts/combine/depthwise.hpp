// A depthwise convolution of the values on their grid, added to a finished result: each channel has a small kernel of
// its own. The values are zero beyond the edges of the grid.
//
//   o_(y,x),c += b_c + sum_u,w K_c,u,w v_(y + u - r, x + w - r),c   over 0 <= u, w < size,   r = (size - 1) / 2
//
// A correlation, as neural networks call convolution. Cost 2 size^2 operations for each number of the result.
#pragma once

#include <vector>

#include <fovea/core/problem.hpp>
#include <fovea/core/span.hpp>
#include <fovea/exec/serial.hpp>
#include <fovea/simd/ops.hpp>

namespace fovea::inline FOVEA_ISA::combine {

// The learned numbers, of any type: {.size = 3, .weights = {w.data(), w.data() + w.size()}}. Channel h E + e is number
// e of head h.
struct DepthwiseKernel {
  Index size = 0;                 // odd; zero is no convolution at all
  std::vector<double> weights{};  // [channels, size, size]
  std::vector<double> bias{};     // [channels], or empty

  bool empty() const { return size == 0; }

  void check_for(const char* where, Index channels) const {
    check(size >= 0 && (size % 2 == 1 || size == 0), where, "the size of a depthwise kernel must be odd, got ", size);
    check(Index(weights.size()) == channels * size * size, where,
          "a depthwise kernel needs size x size weights for each channel, wanted ", channels * size * size, ", got ",
          weights.size());
    check(bias.empty() || (size > 0 && Index(bias.size()) == channels), where,
          "a depthwise kernel needs a bias for each channel or none, wanted ", size > 0 ? channels : 0, ", got ",
          bias.size());
  }
};

namespace detail {

// `count` neighbouring tokens, one vector of channels (n of its lanes): rows and columns of the kernel that lie on the
// grid. v is the first token's, at the kernel's centre.
template <int count, bool whole, class T>
inline void convolve(const T* v, Index column_step, Index row_step, Index size, Span rows, Span columns, const T* taps,
                     Index width, const T* bias, T* out, Index out_step, Index n) {
  using namespace simd;
  const Index centre = size / 2;
  Pack<T> sum[count];
#pragma GCC unroll 8
  for (int i = 0; i < count; ++i) sum[i] = load(bias);
  for (Index u = rows.first; u < rows.last; ++u) {
    for (Index w = columns.first; w < columns.last; ++w) {
      const Pack<T> tap = load(taps + (u * size + w) * width);
      const T* const from = v + ((u - centre) * row_step + (w - centre) * column_step);
#pragma GCC unroll 8
      for (int i = 0; i < count; ++i)
        sum[i] = fma(tap, whole ? load(from + i * column_step) : load_some(from + i * column_step, n), sum[i]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < count; ++i) {
    T* const to = out + i * out_step;
    if constexpr (whole) {
      store(to, load(to) + sum[i]);
    } else {
      store_some(to, load_some(to, n) + sum[i], n);
    }
  }
}

}  // namespace detail

// Adds the convolution of v [B,G,height width,E] to out [B,H,height width,E], H a multiple of G, tokens row by row of
// the grid; head h reads v's head h / (H / G). The two must not overlap.
template <class V, class Out, exec::Executor Exec = exec::Serial>
void add_depthwise(const V& values, Out&& result, Index height, Index width, const DepthwiseKernel& kernel,
                   const Exec& executor = {}) {
  constexpr auto where = "fovea::combine::add_depthwise";
  const auto out = view(result);
  using T = std::remove_pointer_t<decltype(out.data)>;
  static_assert(!std::is_const_v<T>, "fovea: the output must not be const");
  const View<const T> v = view(values);
  check(height >= 0 && width >= 0 &&
            (width == 0 ? out.length == 0 : out.length % width == 0 && out.length / width == height),
        where, "the grid must hold the tokens, wanted ", out.length, ", got ", height, " times ", width);
  check(v.batch == out.batch && v.length == out.length && v.dim == out.dim, where,
        "v must have the batch, tokens and width of out, wanted [", out.batch, ", ", out.length, ", ", out.dim,
        "], got [", v.batch, ", ", v.length, ", ", v.dim, "]");
  check(out.heads == 0 || (v.heads > 0 && out.heads % v.heads == 0), where,
        "the heads of out must be a multiple of those of v, wanted a multiple of ", v.heads, ", got ", out.heads);
  kernel.check_for(where, out.heads * out.dim);
  if (kernel.empty() || out.batch * out.heads * out.length * out.dim == 0) return;

  // The kernel with its channels side by side, [H][size size + 1][whole vectors of E]; the bias comes last.
  const Index size = kernel.size, area = size * size, centre = size / 2, dim = simd::whole<T>(out.dim);
  std::vector<T> taps(std::size_t(out.heads * (area + 1) * dim), T(0));
  for (Index c = 0; c < out.heads * out.dim; ++c) {
    T* const to = taps.data() + c / out.dim * (area + 1) * dim + c % out.dim;
    for (Index a = 0; a < area; ++a) to[a * dim] = T(kernel.weights[std::size_t(c * area + a)]);
    if (!kernel.bias.empty()) to[area * dim] = T(kernel.bias[std::size_t(c)]);
  }

  const Index group = out.heads / v.heads;
  const auto on_grid = [&](Index at, Index extent) {  // of the kernel's rows, or columns, around place `at`
    return Span{std::max<Index>(centre - at, 0), std::min(size, extent - at + centre)};
  };
  const auto grid_row = [&](Index b, Index h, Index y) {
    const T* const kernel_of_head = taps.data() + h * (area + 1) * dim;
    const Span rows = on_grid(y, height);
    const auto tokens = [&](auto count, Index x) {
      const Span columns = count == 1 ? on_grid(x, width) : Span{0, size};
      const T* const from = v.row(b, h / group, y * width + x);
      T* const to = out.row(b, h, y * width + x);
      for (Index e = 0; e < out.dim; e += simd::lanes<T>) {
        const T* const tap = kernel_of_head + e;
        const auto vector = [&](auto whole) {
          detail::convolve<count, whole>(from + e, v.length_stride, width * v.length_stride, size, rows, columns, tap,
                                         dim, tap + area * dim, to + e, out.length_stride, out.dim - e);
        };
        if (e + simd::lanes<T> <= out.dim) {
          vector(std::true_type{});
        } else {
          vector(std::false_type{});
        }
      }
    };
    constexpr int most = simd::registers >= 32 ? 8 : 4;
    for (Index x = 0; x < width;) {
      const bool inner = x >= centre && x + most + centre <= width;
      if (inner) {
        tokens(std::integral_constant<int, most>{}, x);
      } else {
        tokens(std::integral_constant<int, 1>{}, x);
      }
      x += inner ? most : 1;
    }
  };
  executor.parallel_for(out.batch * out.heads * height, double(2 * area * width * dim), [&](Index begin, Index end) {
    for (Index item = begin; item < end; ++item)
      grid_row(item / (out.heads * height), item / height % out.heads, item % height);
  });
}

}  // namespace fovea::inline FOVEA_ISA::combine
