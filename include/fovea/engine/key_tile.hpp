// The keys of a tile: mostly neighbours, or runs of neighbours where a mask lists scattered keys.
#pragma once

#include <algorithm>

#include <fovea/engine/visit.hpp>

namespace fovea::inline FOVEA_ISA::engine {

// A word of keys at most; column j of the tile is its j-th key. Runs ascend and are as long as they can be.
class KeyTile {
 public:
  Index size() const { return size_; }
  bool full() const { return full_; }  // every row of the tile sees every key
  Index runs() const { return runs_; }
  Span first_run() const { return keys_[0]; }
  Index last_key() const { return keys_[runs_ - 1].last - 1; }

  // Calls f(column, keys) for the runs, cut to columns [first, last).
  template <class F>
  [[gnu::always_inline]] void each_run(Index first, Index last, F&& f) const {
    Index i = std::upper_bound(columns_, columns_ + runs_, first) - columns_ - 1;
    for (; i < runs_ && columns_[i] < last; ++i) {
      const Index begin = std::max(first, columns_[i]), end = std::min(last, columns_[i] + keys_[i].size());
      f(begin, Span{keys_[i].first + (begin - columns_[i]), keys_[i].first + (end - columns_[i])});
    }
  }
  template <class F>
  [[gnu::always_inline]] void each_run(F&& f) const {
    for (Index i = 0; i < runs_; ++i) f(columns_[i], keys_[i]);
  }

  // The bits of the keys that a row sees.
  template <mask::BoundMask M>
  std::uint64_t seen(const M& mask, Row row) const {
    std::uint64_t bits = 0;
    each_run([&](Index column, Span keys) { bits |= mask.seen(row, keys) << column; });
    return bits;
  }

  void clear() {
    runs_ = size_ = 0;
    full_ = true;
  }

  // Keys behind those that are there; full: every row sees them.
  void add(Span keys, bool full) {
    if (runs_ > 0 && keys_[runs_ - 1].last == keys.first) {
      keys_[runs_ - 1].last = keys.last;
    } else {
      columns_[runs_] = size_;
      keys_[runs_++] = keys;
    }
    size_ += keys.size();
    full_ = full_ && full;
  }

 private:
  Index runs_ = 0, size_ = 0;
  bool full_ = true;
  Index columns_[std::size_t(mask::word)];
  Span keys_[std::size_t(mask::word)];
};

// Calls f(const KeyTile& tile, const KeyTile* next) for the tiles of at most `step` keys that some row of the region
// sees, in ascending order; next is the one that follows, for those who want to ask for it early. What a mask lists is
// gathered into whole tiles, else tiles begin at multiples of step.
template <mask::BoundMask M>
void each_tile(const M& mask, const mask::Region& region, Index step,
               FunctionRef<void(const KeyTile&, const KeyTile*)> f) {
  KeyTile tiles[2];
  int filling = 0;
  bool waiting = false;
  const auto close = [&] {
    if (tiles[filling].size() == 0) return;
    if (waiting) f(tiles[1 - filling], &tiles[filling]);
    waiting = true;
    filling = 1 - filling;
    tiles[filling].clear();
  };
  if constexpr (mask::Lists<M>) {
    mask.each_span(region, [&](Span span, bool full) {
      while (!span.empty()) {
        const Span part{span.first, std::min(span.last, span.first + step - tiles[filling].size())};
        tiles[filling].add(part, full);
        span.first = part.last;
        if (tiles[filling].size() == step) close();
      }
    });
  } else {
    visit_tiles(mask, region, step, [&](Span span, bool full) {
      tiles[filling].add(span, full);
      close();
    });
  }
  close();
  if (waiting) f(tiles[1 - filling], nullptr);
}

}  // namespace fovea::inline FOVEA_ISA::engine
