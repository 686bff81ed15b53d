// The k largest of a row of scores that comes piece by piece, in memory that does not grow with the row.
//
// Scores that pass a threshold are collected together with their keys; whenever the room for about 2k of them is used
// up, the threshold rises and those below are dropped. Keys come in ascending order and a later equal score loses, so
// that "above the threshold" is exact as soon as k scores reach it. Same order as Ranking: equal scores by the lower
// key, NaN counts as -infinity, -infinity is never chosen.
#pragma once

#include <fovea/parts/select/threshold.hpp>

namespace fovea::inline FOVEA_ISA::select {

// The chosen keys in ascending order, and their scores.
template <class T>
struct Chosen {
  const simd::Bits<T>* keys;
  T* scores;
  Index count;
};

// One row; the memory is the caller's.
template <class T>
class StreamingTopK {
 public:
  using Key = simd::Bits<T>;  // float: fewer than 2^31 keys

  // Scores (and keys) that a row of at most `most` scores needs room for.
  static constexpr Index room(Index k, Index most) {
    const Index kept = std::min(k, most);
    return simd::whole<T>(std::min(kept + std::max(kept, least_slack), most)) + run;
  }

  StreamingTopK() = default;

  // scores and keys [room(k, most)]
  StreamingTopK(Index k, Index most, T* scores, Key* keys)
      : k_(k), full_(room(k, most)), scores_(scores), keys_(keys) {}

  void begin() {
    count_ = 0;
    threshold_ = -simd::infinity<T>;
  }

  // Takes the scores of `count` keys from `first` on; keys ascend from call to call.
  [[gnu::always_inline]] void take(const T* scores, Index count, Index first) {
    using namespace simd;
    Index j = 0;
    for (; j + run <= count; j += run) {
      const std::uint64_t bits = bits_of_run(scores + j);
      if (bits != 0) [[unlikely]]
        add_run(scores + j, bits, first + j);
    }
    if (j < count) add_rest(scores + j, count - j, first + j);
  }

  // Takes what another selector has chosen among keys that follow.
  void take(const Chosen<T>& chosen) {
    using namespace simd;
    for (Index j = 0; j < chosen.count; j += lanes<T>) {
      const Index some = std::min(lanes<T>, chosen.count - j);
      const Pack<T> x = some == lanes<T> ? load(chosen.scores + j) : load_some(chosen.scores + j, some, -infinity<T>);
      const Pack<Key> keys = some == lanes<T> ? load(chosen.keys + j) : load_some(chosen.keys + j, some);
      add(x, bits_above(x, Pack<T>(threshold_)), keys);
    }
  }

  // The largest min(k, scores above -infinity) of all that were taken; valid until the next begin().
  Chosen<T> finish() {
    if (count_ > k_) keep(threshold_of(scores_, fill_up(), k_));
    return {keys_, scores_, count_};
  }

 private:
  static constexpr Index least_slack = 256;

  static constexpr Index run = 4 * simd::lanes<T>;

  // Which scores of a run are above the threshold.
  [[gnu::always_inline]] std::uint64_t bits_of_run(const T* scores) const {
    using namespace simd;
    const Pack<T> limit(threshold_);
    std::uint64_t bits = 0;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) bits |= bits_above(load(scores + i * lanes<T>), limit) << (i * lanes<T>);
    return bits;
  }

  [[gnu::noinline]] void add_run(const T* scores, std::uint64_t bits, Index first) {
    using namespace simd;
    constexpr std::uint64_t one = (std::uint64_t{1} << lanes<T>)-1;
    if (full_ - count_ < run) [[unlikely]] {
      rise();
      bits = bits_of_run(scores);
    }
    Index count = count_;
    Pack<Key> keys = ramp<Key>() + Pack<Key>(Key(first));
    for (; bits != 0; bits >>= lanes<T>) {
      pack_lanes(scores_ + count, load(scores), bits & one);
      count += pack_lanes(keys_ + count, keys, bits & one);
      scores += lanes<T>;
      keys = keys + Pack<Key>(Key(lanes<T>));
    }
    count_ = count;
  }

  [[gnu::noinline]] void add_rest(const T* scores, Index count, Index first) {
    using namespace simd;
    for (Index j = 0; j < count; j += lanes<T>) {
      const Pack<T> x = j + lanes<T> <= count ? load(scores + j) : load_some(scores + j, count - j, -infinity<T>);
      add(x, bits_above(x, Pack<T>(threshold_)), ramp<Key>() + Pack<Key>(Key(first + j)));
    }
  }

  [[gnu::always_inline]] void add(simd::Pack<T> x, std::uint64_t bits, simd::Pack<Key> keys) {
    if (full_ - count_ < simd::lanes<T>) [[unlikely]] {
      rise();
      bits = simd::bits_above(x, simd::Pack<T>(threshold_));
    }
    simd::pack_lanes(scores_ + count_, x, bits);
    count_ += simd::pack_lanes(keys_ + count_, keys, bits);
  }

  // Makes whole vectors of what is collected and gives their length.
  Index fill_up() {
    const Index whole = simd::whole<T>(count_);
    std::fill(scores_ + count_, scores_ + whole, -simd::infinity<T>);
    return whole;
  }

  [[gnu::noinline]] void rise() {
    if (count_ <= k_) return;
    const auto t = threshold_of(scores_, fill_up(), k_, k_ / 4);
    keep(t);
    threshold_ = t.least;
  }

  // Drops what is below; those that stay keep their order.
  void keep(Threshold<T> t) {
    using namespace simd;
    const Pack<T> least(t.least);
    Index kept = 0;
    for (Index j = 0; j < count_; j += lanes<T>) {
      const Pack<T> x = load(scores_ + j);
      std::uint64_t bits = bits_reaching(x, least);
      if (j + lanes < T >> count_) bits &= (std::uint64_t{1} << (count_ - j)) - 1;
      if (t.ties < count_) {
        std::uint64_t equal = bits & ~bits_above(x, least);
        for (; equal != 0; equal &= equal - 1) {
          if (t.ties-- <= 0) bits &= ~(equal & -equal);
        }
      }
      pack_lanes(scores_ + kept, x, bits);
      kept += pack_lanes(keys_ + kept, load(keys_ + j), bits);
    }
    count_ = kept;
  }

  Index k_ = 0, full_ = 0, count_ = 0;
  T threshold_ = -simd::infinity<T>;
  T* scores_ = nullptr;
  Key* keys_ = nullptr;
};

}  // namespace fovea::inline FOVEA_ISA::select
