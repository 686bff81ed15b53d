// The choice of indices by score: the k largest, the largest that hold a share of the mass, those above a threshold.
//
// One order holds everywhere: larger scores first, equal scores by the lower index (-0 equals +0), NaN counts as
// -infinity, and -infinity is never chosen. A choice is therefore unique and may be smaller than asked for.
#pragma once

#include <algorithm>
#include <limits>
#include <span>
#include <vector>

#include <fovea/core/config.hpp>

namespace fovea::inline FOVEA_ISA::select {

// How many of the weights, in descending order and with c_r the share of the first r, hold a share p of the mass. The
// published rules differ by the weight that crosses p.
//   inclusive  the weights before which the share is below p: #{r : c_(r-1) < p} (XAttention)
//   one_more   one more than fit: #{r : c_r <= p} + 1 (FlexPrefill, Rectified SpaAttn)
//   fitting    those that fit, but at least one: max(1, #{r : c_r <= p}) (SpargeAttention)
enum class TopP { inclusive, one_more, fitting };

// Owns its scratch: one for each worker. The indices returned ascend and stay valid until the next call.
template <class T>
class Ranking {
 public:
  // The min(k, scores above -infinity) largest of `count` scores.
  std::span<const Index> top_k(const T* scores, Index count, Index k) {
    chosen_.clear();
    if (k <= 0) return chosen_;
    values_.clear();
    for (Index i = 0; i < count; ++i) {
      if (scores[i] > lowest) values_.push_back(scores[i]);
    }
    if (Index(values_.size()) <= k) return at_least(scores, count, lowest);
    const auto kth = values_.begin() + std::ptrdiff_t(k - 1);
    std::nth_element(values_.begin(), kth, values_.end(), [](T a, T b) { return a > b; });
    const T least = *kth;
    Index equal = k - Index(std::count_if(values_.begin(), values_.end(), [least](T x) { return x > least; }));
    for (Index i = 0; i < count; ++i) {
      if (scores[i] > least || (scores[i] == least && equal-- > 0)) chosen_.push_back(i);
    }
    return chosen_;
  }

  // The largest of `count` weights (not negative; they need not sum up to one) that hold the share p of their sum.
  // Sums are taken in double.
  std::span<const Index> top_p(const T* weights, Index count, double p, TopP rule = TopP::inclusive) {
    chosen_.clear();
    ranked_.clear();
    double mass = 0;
    for (Index i = 0; i < count; ++i) {
      if (!(weights[i] > lowest)) continue;
      ranked_.push_back({weights[i], i});
      mass += double(weights[i]);
    }
    std::sort(ranked_.begin(), ranked_.end(), [](const Ranked& a, const Ranked& b) {
      return a.score > b.score || (a.score == b.score && a.index < b.index);
    });
    const double limit = p * mass;
    Index fitting = 0, before = 0;  // #{c_r <= p}, #{c_(r-1) < p}
    double sum = 0;
    for (const Ranked& next : ranked_) {
      before += Index(sum < limit);
      sum += double(next.score);
      fitting += Index(sum <= limit);
    }
    const Index wanted = rule == TopP::inclusive  ? before
                         : rule == TopP::one_more ? fitting + 1
                                                  : std::max<Index>(fitting, 1);
    ranked_.resize(std::size_t(std::min(wanted, Index(ranked_.size()))));
    for (const Ranked& next : ranked_) chosen_.push_back(next.index);
    std::sort(chosen_.begin(), chosen_.end());
    return chosen_;
  }

  // All of `count` scores that reach the threshold.
  std::span<const Index> at_least(const T* scores, Index count, T threshold) {
    chosen_.clear();
    for (Index i = 0; i < count; ++i) {
      if (scores[i] >= threshold && scores[i] > lowest) chosen_.push_back(i);
    }
    return chosen_;
  }

 private:
  static constexpr T lowest = -std::numeric_limits<T>::infinity();

  struct Ranked {
    T score;
    Index index;
  };

  std::vector<T> values_;
  std::vector<Ranked> ranked_;
  std::vector<Index> chosen_;
};

}  // namespace fovea::inline FOVEA_ISA::select
