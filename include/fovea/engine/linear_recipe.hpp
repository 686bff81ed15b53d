// The recipe of a linear method. linear(scale).feature(phi).decay(d).write(w).normalizer(n) reads
//
//   S_t = w(d_t S_{t-1}, phi(k_t), v_t)      o_t = scale S_t^T phi(q_t)      divided as n says
//
// without features the identity, without a decay nothing is forgotten, the write is the outer product, the divisor one.
#pragma once

#include <optional>

#include <fovea/parts/decay/decay.hpp>
#include <fovea/parts/feature/identity.hpp>
#include <fovea/parts/normalizer/feature_sum.hpp>
#include <fovea/parts/write/write.hpp>

namespace fovea::inline FOVEA_ISA {

template <class Feature = feature::Identity, class Decay = decay::None, class Write = write::OuterProduct>
struct LinearRecipe {
  std::optional<double> factor = {};
  Feature features = {};
  Decay forgetting = {};
  Write writing = {};
  normalizer::FeatureSum division = {};

  // Maps queries and keys first.
  template <class F>
  LinearRecipe<F, Decay, Write> feature(const F& phi) const {
    return {factor, phi, forgetting, writing, division};
  }

  // What a token leaves of the state before it.
  template <class D>
  LinearRecipe<Feature, D, Write> decay(const D& d) const {
    return {factor, features, d, writing, division};
  }

  // How a token changes what is left.
  template <class W>
  LinearRecipe<Feature, Decay, W> write(const W& w) const {
    return {factor, features, forgetting, w, division};
  }

  // What outputs are divided by; the features should not be negative then.
  LinearRecipe normalizer(const normalizer::FeatureSum& n) const {
    LinearRecipe result = *this;
    result.division = n;
    return result;
  }
};

// The scale multiplies the features of the queries. When empty it is 1 / sqrt(D), or 1 where outputs are divided.
inline LinearRecipe<> linear(std::optional<double> scale = {}) { return {scale, {}, {}, {}, {}}; }

}  // namespace fovea::inline FOVEA_ISA
