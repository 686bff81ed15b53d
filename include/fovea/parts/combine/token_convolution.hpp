// A convolution of the values along the tokens, one kernel for each head and the same for all its channels, added to a
// finished result. The values are zero before the first token and behind the last.
//
//   o_i += sum_t w_h,t v_(i + t - r)   over 0 <= t < size,   r = (size - 1) / 2
#pragma once

#include <algorithm>
#include <vector>

#include <fovea/core/problem.hpp>
#include <fovea/core/span.hpp>
#include <fovea/exec/serial.hpp>
#include <fovea/simd/row.hpp>
#include <fovea/simd/tile.hpp>

namespace fovea::inline FOVEA_ISA::combine {

// The learned numbers, of any type: {.size = 35, .weights = {w.data(), w.data() + w.size()}}.
struct TokenKernel {
  Index size = 0;                 // odd; zero is no convolution at all
  std::vector<double> weights{};  // [heads, size]

  bool empty() const { return size == 0; }

  void check_for(const char* where, Index heads) const {
    check(size >= 0 && (size % 2 == 1 || size == 0), where, "the size of a token kernel must be odd, got ", size);
    check(Index(weights.size()) == heads * size, where, "a token kernel needs size weights for each head, wanted ",
          heads * size, ", got ", weights.size());
  }
};

namespace detail {

// One head. The kernel is a band of a matrix whose rows are the kernel, each a column further to the right: rows of a
// register tile that overlap in memory, tile_rows - 1 zeros on either side of them.
template <class T>
class TokenConvolution {
 public:
  explicit TokenConvolution(const double* weights, Index size)
      : size_(size), padded_(std::size_t(size + 2 * margin), T(0)) {
    for (Index t = 0; t < size; ++t) padded_[std::size_t(margin + t)] = T(weights[t]);
  }

  // Rows [first, last) of out; v and out are head 0 of the only batch.
  void add(const View<const T>& v, const View<T>& out, Index first, Index last) const {
    // An infinity or NaN must not meet the zeros beside the kernel.
    const bool all = finite(v, around(first, last, v.length));
    for (Index i = first; i < last; i += simd::tile_rows) {
      const Index end = std::min<Index>(i + simd::tile_rows, last);
      const Span seen = around(i, end, v.length);
      if (end == i + simd::tile_rows && (all || finite(v, seen))) {
        add_rows<simd::tile_rows>(v, out, i, seen);
      } else {
        for (Index r = i; r < end; ++r) add_rows<1>(v, out, r, around(r, r + 1, v.length));
      }
    }
  }

 private:
  static constexpr Index margin = simd::tile_rows - 1, lanes = simd::lanes<T>;

  Span around(Index first, Index last, Index tokens) const {
    return intersect({first - size_ / 2, last + size_ / 2}, {0, tokens});
  }

  static bool finite(const View<const T>& v, Span tokens) {
    if (v.length_stride == v.dim) return simd::all_finite(v.row(0, 0, tokens.first), tokens.size() * v.dim);
    bool all = true;
    for (Index j = tokens.first; all && j < tokens.last; ++j) all = simd::all_finite(v.row(0, 0, j), v.dim);
    return all;
  }

  template <int rows>
  void add_rows(const View<const T>& v, const View<T>& out, Index first, Span seen) const {
    const T* const kernel = padded_.data() + margin + (seen.first - (first - size_ / 2));
    const Index whole = v.dim / lanes * lanes, rest = v.dim - whole;
    const T* const from = v.row(0, 0, seen.first);
    T* const to = out.row(0, 0, first);
    simd::multiply_rows<rows, simd::Onto::sum>(whole, seen.size(), kernel, -1, from, v.length_stride, to,
                                               out.length_stride);
    if (rest == 0) return;
    if (v.dim >= lanes) {
      alignas(64) T last[std::size_t(rows * lanes)];
      simd::multiply_rows<rows, simd::Onto::nothing>(lanes, seen.size(), kernel, -1, from + v.dim - lanes,
                                                     v.length_stride, last, lanes);
      for (Index r = 0; r < rows; ++r) {
        for (Index e = 0; e < rest; ++e) to[r * out.length_stride + whole + e] += last[(r + 1) * lanes - rest + e];
      }
    } else {
      for (Index r = 0; r < rows; ++r) {
        for (Index e = 0; e < rest; ++e) {
          T sum = T(0);
          for (Index j = 0; j < seen.size(); ++j) sum += kernel[j - r] * from[j * v.length_stride + e];
          to[r * out.length_stride + e] += sum;
        }
      }
    }
  }

  Index size_;
  std::vector<T> padded_;
};

// A head of an array as an array.
template <class T>
View<T> head_of(const View<T>& x, Index batch, Index head) {
  return {x.row(batch, head, 0), 1, 1, x.length, x.dim, 0, 0, x.length_stride};
}

}  // namespace detail

// Adds the convolution of v [B,G,N,E] to out [B,H,N,E], H a multiple of G; head h reads v's head h / (H / G). The two
// must not overlap.
template <class V, class Out, exec::Executor Exec = exec::Serial>
void add_token_convolution(const V& values, Out&& result, const TokenKernel& kernel, const Exec& executor = {}) {
  constexpr auto where = "fovea::combine::add_token_convolution";
  const auto out = view(result);
  using T = std::remove_pointer_t<decltype(out.data)>;
  static_assert(!std::is_const_v<T>, "fovea: the output must not be const");
  const View<const T> v = view(values);
  check(v.batch == out.batch && v.length == out.length && v.dim == out.dim, where,
        "v must have the batch, tokens and width of out, wanted [", out.batch, ", ", out.length, ", ", out.dim,
        "], got [", v.batch, ", ", v.length, ", ", v.dim, "]");
  check(out.heads == 0 || (v.heads > 0 && out.heads % v.heads == 0), where,
        "the heads of out must be a multiple of those of v, wanted a multiple of ", v.heads, ", got ", out.heads);
  kernel.check_for(where, out.heads);
  if (kernel.empty() || out.batch * out.heads * out.length * out.dim == 0) return;

  std::vector<detail::TokenConvolution<T>> heads;
  for (Index h = 0; h < out.heads; ++h) heads.emplace_back(kernel.weights.data() + h * kernel.size, kernel.size);
  constexpr Index rows = 16 * simd::tile_rows;
  const Index pieces = (out.length + rows - 1) / rows, group = out.heads / v.heads;
  executor.parallel_for(
      out.batch * out.heads * pieces, double(2 * kernel.size * rows * out.dim), [&](Index begin, Index end) {
        for (Index item = begin; item < end; ++item) {
          const Index b = item / pieces / out.heads, h = item / pieces % out.heads, first = item % pieces * rows;
          heads[std::size_t(h)].add(detail::head_of(v, b, h / group), detail::head_of(out, b, h), first,
                                    std::min(first + rows, out.length));
        }
      });
}

}  // namespace fovea::inline FOVEA_ISA::combine
