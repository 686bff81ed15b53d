// One more key and value for each head, seen by every query, merged into a finished result.
//
//   s_i = scale q_i . k*_h,   w_i = sigmoid(L_i - s_i),   o'_i = w_i o_i + (1 - w_i) v*_h,   L'_i = ln(e^L_i + e^s_i)
//
// A row that saw no key becomes v*_h.
#pragma once

#include <algorithm>
#include <vector>

#include <fovea/parts/combine/merge.hpp>
#include <fovea/simd/dots.hpp>

namespace fovea::inline FOVEA_ISA::combine {

// The keys and values, checked: all that can be refused is refused here. Values are not copied.
template <class T>
class ExtraKey {
 public:
  // key [H,D] and value [H,E]; [1,D] and [1,E] are shared by all heads.
  ExtraKey(const char* where, View<const T> key, View<const T> value, const Extents& q, Index value_dim, double scale)
      : heads_(q.heads),
        dim_(q.dim),
        width_(simd::whole<T>(q.dim)),
        value_(value),
        value_stride_(value.length == 1 ? 0 : value.length_stride) {
    check_rows(where, "key", key, q.dim);
    check_rows(where, "value", value, value_dim);
    check(std::isfinite(scale), where, "the scale must be finite, got ", scale);
    keys_.assign(std::size_t(heads_ * width_), T(0));
    for (Index h = 0; h < heads_; ++h)
      std::copy_n(key.row(0, 0, key.length == 1 ? 0 : h), dim_, keys_.data() + h * width_);
    scale_ = T(scale);
  }

  // q [B,H,N,D] are the queries of the result out [B,H,N,E], log_sum [B,H,N,1].
  template <exec::Executor Exec>
  void merge_into(View<const T> q, View<T> out, View<T> log_sum, const Exec& executor) const {
    executor.parallel_for(out.batch * out.heads, double(out.length * (2 * dim_ + 6 * out.dim)),
                          [&](Index begin, Index end) {
                            for (Index item = begin; item < end; ++item) {
                              const Index batch = item / out.heads, head = item % out.heads;
                              const T* const value = value_.data + head * value_stride_;
                              constexpr Index most = 64;
                              T scores[most];
                              for (Index first = 0; first < out.length; first += most) {
                                const Index count = std::min(most, out.length - first);
                                simd::dot_rows(1, keys_.data() + head * width_, width_, count,
                                               q.row(batch, head, first), q.length_stride, dim_, scores, most);
                                for (Index i = 0; i < count; ++i) {
                                  T* const row = out.row(batch, head, first + i);
                                  T& sum = *log_sum.row(batch, head, first + i);
                                  detail::merge_row<T>(row, sum, value, scale_ * scores[i], row, sum, out.dim);
                                }
                              }
                            }
                          });
  }

 private:
  void check_rows(const char* where, const char* name, const View<const T>& x, Index dim) const {
    check(x.batch == 1 && x.heads == 1 && (x.length == heads_ || x.length == 1) && x.dim == dim, where, "the extra ",
          name, " must have a row for each query head or one for all, wanted [", heads_, ", ", dim, "], got [",
          x.length, ", ", x.dim, "]");
  }

  Index heads_, dim_, width_;
  View<const T> value_;
  Index value_stride_;
  std::vector<T> keys_;  // [H x width], zero behind dim
  T scale_ = T(0);
};

}  // namespace fovea::inline FOVEA_ISA::combine
