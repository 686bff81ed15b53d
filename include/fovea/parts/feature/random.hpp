// Random features of the softmax kernel: phi(x) . phi(y) is e^(scale x . y) on average.
// Choromanski et al., "Rethinking Attention with Performers", ICLR 2021, arXiv:2009.14794.
//
//   positive_random     phi_r = m^-1/2 (e^(w_r . z - |z|^2 / 2) + epsilon),             z = sqrt(scale) x,  F = m
//   hyperbolic_random   phi   = (2 m)^-1/2 e^(-|z|^2 / 2) ([e^(w_r . z), e^(-w_r . z)] + epsilon),          F = 2 m
//   relu_random         phi_r = max(w_r . z, 0) + epsilon,                                                  F = m
//
// w_r are the m rows of a matrix, drawn by orthogonal_directions or given. The exponentials have shifts that keep them
// in range (exponential.hpp); epsilon is added to what is shifted.
#pragma once

#include <cmath>
#include <optional>

#include <fovea/parts/feature/exponential.hpp>
#include <fovea/parts/feature/orthogonal.hpp>
#include <fovea/parts/feature/projection.hpp>

namespace fovea::inline FOVEA_ISA::feature {

struct RandomOptions {
  std::optional<double> scale = {};    // of the softmax that is imitated; 1 / sqrt(D) when empty
  std::optional<double> epsilon = {};  // 0 when empty, for relu_random 1e-3
};

namespace detail {

inline double root_of_scale(const char* where, const RandomOptions& options, Index dim) {
  const double scale = options.scale ? *options.scale : 1 / std::sqrt(double(dim));
  check(scale >= 0 && std::isfinite(scale), where, "the scale of random features must not be negative, got ", scale);
  return std::sqrt(scale);
}

inline double checked_epsilon(const char* where, const RandomOptions& options, double otherwise) {
  const double epsilon = options.epsilon ? *options.epsilon : otherwise;
  check(epsilon >= 0 && std::isfinite(epsilon), where, "the epsilon of random features must not be negative, got ",
        epsilon);
  return epsilon;
}

}  // namespace detail

// Exponents w_r . z - |z|^2 / 2, as w_r . x; with mirrored ones, of -w_r . x, behind them.
template <class T, bool mirrored>
struct BoundRandomExponents {
  BoundProjection<T> directions;
  T root = T(1);  // of the scale

  Index width() const { return (mirrored ? 2 : 1) * directions.out; }

  template <Side side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row first) const {
    directions.template operator()<side>(x, stride, count, to, to_stride, first);
    const Index n = directions.out;
    for (Index i = 0; mirrored && i < count; ++i)
      simd::mirror(to + i * to_stride, to + i * to_stride + n, n, T(1), T(0));
  }
  T unit() const { return root; }
  T offset(const T* x) const { return simd::square_norm(x, directions.in) * root * root / T(2); }
};

template <bool mirrored>
struct ExponentialRandom {
  static constexpr bool exponential = true;

  Projection directions;  // [m, D]
  RandomOptions options = {};

  template <class T>
  BoundExponential<T, BoundRandomExponents<T, mirrored>> bind(const char* where, const Shape& shape, Index dim) const {
    check(directions.heads() == 1, where, "random features have one matrix for all heads, got ", directions.heads());
    BoundExponential<T, BoundRandomExponents<T, mirrored>> bound;
    bound.exponents.directions = directions.bind<T>(where, shape.heads, dim);
    bound.exponents.root = T(detail::root_of_scale(where, options, dim));
    bound.factor = T(1 / std::sqrt(double(bound.width())));
    bound.added = T(detail::checked_epsilon(where, options, 0));
    return bound;
  }
};

template <class T>
struct BoundReluRandom {
  BoundProjection<T> directions;
  T root = T(1), epsilon = T(0);

  Index width() const { return directions.out; }

  template <Side side>
  void operator()(const T* x, Index stride, Index count, T* to, Index to_stride, Row first) const {
    directions.template operator()<side>(x, stride, count, to, to_stride, first);
    const simd::Pack<T> zero(T(0)), times(root), plus(epsilon);
    for (Index i = 0; i < count; ++i) {
      T* const row = to + i * to_stride;
      simd::map_row(row, width(), row, [=](simd::Pack<T> y) { return fma(simd::at_least(zero, y), times, plus); });
    }
  }
};

struct ReluRandom {
  Projection directions;  // [m, D]
  RandomOptions options = {};

  template <class T>
  BoundReluRandom<T> bind(const char* where, const Shape& shape, Index dim) const {
    check(directions.heads() == 1, where, "random features have one matrix for all heads, got ", directions.heads());
    return {directions.bind<T>(where, shape.heads, dim), T(detail::root_of_scale(where, options, dim)),
            T(detail::checked_epsilon(where, options, 1e-3))};
  }
};

// w: a view [1, 1, m, D], or directions that were drawn; copied.
template <class T>
ExponentialRandom<false> positive_random(View<const T> w, const RandomOptions& options = {}) {
  return {Projection(w), options};
}
inline ExponentialRandom<false> positive_random(const Directions& w, const RandomOptions& options = {}) {
  return {Projection(w.view()), options};
}

template <class T>
ExponentialRandom<true> hyperbolic_random(View<const T> w, const RandomOptions& options = {}) {
  return {Projection(w), options};
}
inline ExponentialRandom<true> hyperbolic_random(const Directions& w, const RandomOptions& options = {}) {
  return {Projection(w.view()), options};
}

template <class T>
ReluRandom relu_random(View<const T> w, const RandomOptions& options = {}) {
  return {Projection(w), options};
}
inline ReluRandom relu_random(const Directions& w, const RandomOptions& options = {}) {
  return {Projection(w.view()), options};
}

}  // namespace fovea::inline FOVEA_ISA::feature
