// What the tests of kernelised attention share: the golden tokens of linear methods, outputs and states of calls, the
// reference over batch and heads.
#pragma once

#include <fovea/parts/state/shifted_state.hpp>

#include "linear/linear.hpp"
#include "support/attention.hpp"

namespace fovea::test {

// Four tokens, D = 2, E = 1.
inline Inputs<double> golden_tokens() {
  Inputs<double> x{Tensor4<double>(1, 1, 4, 2), Tensor4<double>(1, 1, 4, 2), Tensor4<double>(1, 1, 4, 1)};
  const double q[] = {1, 0, 0, 1, 1, 1, 1, -1}, k[] = {1, 0, 0, 1, 1, 1, -1, 1}, v[] = {1, 2, 3, 4};
  std::copy_n(q, 8, x.q.data());
  std::copy_n(k, 8, x.k.data());
  std::copy_n(v, 4, x.v.data());
  return x;
}

template <class X>
bool is_golden(const X& got, const std::vector<double>& wanted) {
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (!(std::abs(got.data()[i] - wanted[i]) < 1e-12)) return false;
  }
  return std::size_t(got.size()) == wanted.size();
}

// The output of call(q, k, v, out), NaN before.
template <class T, class Call>
Tensor4<T> output_of(const Inputs<T>& x, const Call& call) {
  const Sizes s = x.sizes();
  Tensor4<T> out(s.batch, s.heads, s.queries, s.value_dim);
  out.setConstant(not_a_number<T>);
  call(x.q, x.k, x.v, out);
  return out;
}

// [B,H,N,D] as [B,N,H,D].
template <class T>
Tensor4<T> swapped(const Tensor4<T>& x) {
  return x.shuffle(Eigen::array<int, 4>{0, 2, 1, 3});
}

// The same with arrays [B,N,H,D].
template <class T, class Call>
Tensor4<T> output_of_bthd(const Inputs<T>& x, const Call& call) {
  const Sizes s = x.sizes();
  const Tensor4<T> q = swapped(x.q), k = swapped(x.k), v = swapped(x.v);
  Tensor4<T> out(s.batch, s.queries, s.heads, s.value_dim);
  out.setConstant(not_a_number<T>);
  call(bthd(q), bthd(k), bthd(v), bthd(out));
  return swapped(out);
}

// Tokens [first, last) of x.
template <class T>
Tensor4<T> tokens(const Tensor4<T>& x, Index first, Index last) {
  return x.slice(Eigen::array<Index, 4>{0, 0, first, 0},
                 Eigen::array<Index, 4>{x.dimension(0), x.dimension(1), last - first, x.dimension(3)});
}
template <class T>
Inputs<T> tokens(const Inputs<T>& x, Index first, Index last) {
  return {tokens(x.q, first, last), tokens(x.k, first, last), tokens(x.v, first, last)};
}

// one(q, k, v, head, kv_head) in Real for every batch and head.
template <class Real, class T, class F>
Tensor4<Real> over_heads(const Inputs<T>& x, const F& one) {
  const Sizes s = x.sizes();
  Tensor4<Real> result(s.batch, s.heads, s.queries, s.value_dim);
  for (Index b = 0; b < s.batch; ++b) {
    for (Index h = 0; h < s.heads; ++h) {
      const Index g = h * s.kv_heads / s.heads;
      const Matrix<Real> out =
          one(Matrix<Real>(head(x.q, b, h).template cast<Real>()), Matrix<Real>(head(x.k, b, g).template cast<Real>()),
              Matrix<Real>(head(x.v, b, g).template cast<Real>()), h, g);
      std::copy_n(out.data(), out.size(), row(result, b, h, 0));
    }
  }
  return result;
}

// Whether `got` is within 8 epsilons of the reference, or twice as far as the reference is in the type itself.
// reference(q, k, v, head, kv_head) takes matrices of any scalar.
template <class T, class Reference>
bool is_near(const Tensor4<T>& got, const Inputs<T>& x, const Reference& reference) {
  const auto wanted = over_heads<Exact<T>>(x, reference);
  const double distance = relative_rms(got, wanted) / double(epsilon<T>);
  if (distance < 8) return true;
  const double naive = relative_rms(over_heads<T>(x, reference), wanted) / double(epsilon<T>);
  if (distance <= 2 * naive) return true;
  UNSCOPED_INFO("distance " << distance << " epsilons, naive " << naive);
  return false;
}

// Whether two results of the same sums in another order are near.
template <class T>
bool is_near(const Tensor4<T>& a, const Tensor4<T>& b, double epsilons) {
  const double distance = relative_rms(a, b) / double(epsilon<T>);
  if (distance < epsilons) return true;
  UNSCOPED_INFO("distance " << distance << " epsilons");
  return false;
}

template <class T>
bool same_state(const MatrixState<T>& a, const MatrixState<T>& b) {
  if (a.empty() || b.empty()) return a.empty() == b.empty();
  for (Index n = 0; n < a.batch(); ++n) {
    for (Index h = 0; h < a.heads(); ++h) {
      for (Index i = 0; i < a.key_dim(); ++i) {
        if (std::memcmp(a.view().row(n, h, i), b.view().row(n, h, i), std::size_t(a.view().dim) * sizeof(T)) != 0)
          return false;
      }
    }
  }
  return true;
}

}  // namespace fovea::test
