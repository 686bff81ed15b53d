// The choice of indices by score: the k largest, the largest that hold a share of the mass, those above a threshold.
//
// One order holds everywhere: larger scores first, equal scores by the lower index (-0 equals +0), NaN counts as
// -infinity, and -infinity is never chosen. A choice is therefore unique and may be smaller than asked for.
#pragma once

#include <span>
#include <vector>

#include <fovea/parts/select/streaming_top_k.hpp>

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
    if (k >= count) return at_least(scores, count, lowest);
    const bool few = count <= counted || k > count / 4;
    return few || count > farthest ? by_threshold(scores, count, k) : by_collecting(scores, count, k);
  }

  // The largest of `count` weights (not negative; they need not sum up to one) that hold the share p of their sum.
  // Sums are taken in double.
  std::span<const Index> top_p(const T* weights, Index count, double p, TopP rule = TopP::inclusive) {
    chosen_.clear();
    ranked_.clear();
    for (Index i = 0; i < count; ++i) {
      if (weights[i] > lowest) ranked_.push_back({weights[i], i});
    }
    std::sort(ranked_.begin(), ranked_.end(), [](const Ranked& a, const Ranked& b) {
      return a.score > b.score || (a.score == b.score && a.index < b.index);
    });
    double mass = 0;
    for (const Ranked& next : ranked_) mass += double(next.score);
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
    each_bits(scores, count, [&](simd::Pack<T> x, Index first) {
      append(first, simd::bits_reaching(x, simd::Pack<T>(threshold)) & simd::bits_above(x, simd::Pack<T>(lowest)));
    });
    return chosen_;
  }

 private:
  static constexpr T lowest = -simd::infinity<T>;
  static constexpr Index counted = 1024;             // so many are gone over several times rather than collected
  static constexpr Index farthest = Index(1) << 31;  // keys of a StreamingTopK

  struct Ranked {
    T score;
    Index index;
  };

  // f(vector, index of its first lane); behind the last score stands -infinity.
  template <class F>
  static void each_bits(const T* scores, Index count, F&& f) {
    constexpr Index step = simd::lanes<T>;
    Index i = 0;
    for (; i + step <= count; i += step) f(simd::load(scores + i), i);
    if (i < count) f(simd::load_some(scores + i, count - i, lowest), i);
  }

  void append(Index first, std::uint64_t bits) {
    for (; bits != 0; bits &= bits - 1) chosen_.push_back(first + Index(std::countr_zero(bits)));
  }

  std::span<const Index> by_threshold(const T* scores, Index count, Index k) {
    if (detail::count_above(scores, count, lowest) <= k) return at_least(scores, count, lowest);
    const Threshold<T> threshold = threshold_of(scores, count, k);
    const simd::Pack<T> least(threshold.least);
    Index ties = threshold.ties;
    each_bits(scores, count, [&](simd::Pack<T> x, Index first) {
      std::uint64_t bits = simd::bits_reaching(x, least);
      if (bits == 0) return;
      std::uint64_t equal = bits & ~simd::bits_above(x, least);
      for (; equal != 0; equal &= equal - 1) {
        if (ties-- <= 0) bits &= ~(equal & -equal);
      }
      append(first, bits);
    });
    return chosen_;
  }

  std::span<const Index> by_collecting(const T* scores, Index count, Index k) {
    const std::size_t room = std::size_t(StreamingTopK<T>::room(k, count));
    values_.resize(room);
    keys_.resize(room);
    StreamingTopK<T> collected(k, count, values_.data(), keys_.data());
    collected.begin();
    collected.take(scores, count, 0);
    const Chosen<T> best = collected.finish();
    chosen_.assign(best.keys, best.keys + best.count);
    return chosen_;
  }

  std::vector<T> values_;
  std::vector<typename StreamingTopK<T>::Key> keys_;
  std::vector<Ranked> ranked_;
  std::vector<Index> chosen_;
};

}  // namespace fovea::inline FOVEA_ISA::select
