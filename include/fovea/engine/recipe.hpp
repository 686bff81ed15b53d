// A recipe: the equation of a method as a value. softmax(scale).mask(m).score(s) reads
//
//   o_i = sum_j softmax_j( s(scale q_i . k_j) ) v_j  over the keys j that m lets query i see
#pragma once

#include <initializer_list>
#include <optional>
#include <utility>
#include <vector>

#include <fovea/parts/mask/combine.hpp>
#include <fovea/parts/normalizer/softmax.hpp>
#include <fovea/parts/score/score.hpp>

namespace fovea::inline FOVEA_ISA {

template <class Mask = mask::Everything, class Scores = score::Chain<>>
struct Recipe {
  normalizer::Softmax normalizer = {};
  Mask visible = {};
  Scores scores = {};
  bool tiles_only = false;

  // Hides keys; a second mask hides more.
  template <mask::Mask M>
  auto mask(const M& m) const {
    if constexpr (std::is_same_v<Mask, mask::Everything>) {
      return Recipe<M, Scores>{normalizer, m, scores, tiles_only};
    } else {
      return Recipe<mask::Both<Mask, M>, Scores>{normalizer, visible & m, scores, tiles_only};
    }
  }

  // Changes the scaled scores; several are applied left to right, before the mask.
  template <class S>
  auto score(const S& s) const {
    return Recipe<Mask, decltype(scores.then(s))>{normalizer, visible, scores.then(s), tiles_only};
  }

  // One learned logit per head, [H], that joins the denominator: exp(logit_h) + sum_j exp(s_ij).
  Recipe sink_logits(std::vector<double> logits) const {
    Recipe result = *this;
    result.normalizer.sink_logits = std::move(logits);
    return result;
  }

  // Takes the way of many queries for few as well. The two ways add up in different orders; with this a prompt that
  // goes into a cache in pieces gets the same bits however small the pieces are, at the price of speed for small ones.
  Recipe as_prefill() const {
    Recipe result = *this;
    result.tiles_only = true;
    return result;
  }
};

// Softmax over the visible keys of the scores scale q . k; scale is 1 / sqrt(D) when empty.
inline Recipe<> softmax(std::optional<double> scale = {}) { return {{scale, {}}, {}, {}, false}; }

}  // namespace fovea::inline FOVEA_ISA
