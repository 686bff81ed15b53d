// Tree search for the key blocks of a few queries: every key block of a coarse grid stands for its neighbours, the best
// are kept, and the grid is refined around them.
//
// Lee et al., "HiP Attention: Sparse Sub-Quadratic Attention with Hierarchical Attention Pruning", 2024,
// arXiv:2406.09827. Approximate: a high key behind a low representative is missed. Exact when all keys are asked for,
// and, for halve(), when inside each of the first groups the scores never rise.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include <fovea/parts/select/ranking.hpp>
#include <fovea/simd/dots.hpp>
#include <fovea/simd/row.hpp>
#include <fovea/simd/tile.hpp>
#include <fovea/simd/transpose.hpp>

namespace fovea::inline FOVEA_ISA::select {

// The largest product of some rows of queries with the keys of a block, for blocks anywhere in the cache. Products that
// are NaN do not count. Owns its scratch; one for each worker.
template <class T>
class BlockScores {
 public:
  // Rows of queries, `stride` apart; row r may see the keys before first_limit + r limit_step.
  struct Queries {
    const T* rows = nullptr;
    Index stride = 0;
    Index count = 0;
    Index first_limit = std::numeric_limits<Index>::max() / 2;
    Index limit_step = 0;
  };

  // Key j at rows + j stride, `count` of them; block b is the keys from b block on, as many as there are.
  struct Keys {
    const T* rows = nullptr;
    Index stride = 0;
    Index count = 0;
    Index block = 1;
  };

  // For at most `most_rows` rows of queries and blocks of `block` keys.
  BlockScores(Index dim, Index most_rows, Index block)
      : dim_(dim),
        depth_(simd::whole<T>(dim)),
        step_(std::max<Index>(4 * tile / block, 1)),
        padded_((step_ * block + tile - 1) / tile * tile),
        queries_(std::size_t(std::max(simd::whole<T>(most_rows), few) * depth_)),
        gathered_(std::size_t(padded_ * depth_)),
        products_(std::size_t(padded_ * std::max(simd::whole<T>(most_rows), few))),
        keys_(std::size_t(padded_)) {}

  // Takes over the queries of the calls that follow.
  void begin(const Queries& q) {
    q_ = q;
    if (q.count <= few) {
      for (Index r = 0; r < q.count; ++r) {
        T* const row = queries_.data() + r * depth_;
        simd::copy(row, q.rows + r * q.stride, dim_);
        std::fill(row + dim_, row + depth_, T(0));
      }
    } else {  // as columns; the columns behind the last row repeat it
      columns_ = simd::whole<T>(q.count);
      simd::transpose(q.count, dim_, q.rows, q.stride, queries_.data(), columns_);
      for (Index d = 0; d < dim_; ++d) {
        T* const row = queries_.data() + d * columns_;
        std::fill(row + q.count, row + columns_, row[q.count - 1]);
      }
    }
  }

  // scores[i] = the score of blocks[i], -infinity for a block that no row may see.
  void operator()(const Keys& k, std::span<const Index> blocks, T* scores) {
    const Index count = Index(blocks.size());
    for (Index i = 0; i < count; i += step_) {
      const Index some = std::min(step_, count - i);
      gather(k, blocks.subspan(std::size_t(i), std::size_t(some)));
      multiply(some * k.block);
      for (Index n = 0; n < some; ++n) {
        const Index block = blocks[std::size_t(i + n)];
        if ((block + 1) * k.block > q_.first_limit) hide(k, block, n * k.block);
        scores[i + n] = largest(n * k.block, k.block);
      }
    }
  }

 private:
  static constexpr Index few = 4;                     // rows that are better not made columns
  static constexpr Index tile = 2 * simd::tile_rows;  // keys of a register tile of one vector
  static constexpr T lowest = -std::numeric_limits<T>::infinity();

  bool as_rows() const { return q_.count <= few; }

  // The keys of some blocks, where they lie or, for few rows, side by side; a block that the end cuts repeats its last.
  void gather(const Keys& k, std::span<const Index> blocks) {
    Index n = 0;
    for (const Index b : blocks) {
      for (Index j = b * k.block; j < (b + 1) * k.block; ++j, ++n) {
        const T* const key = k.rows + std::min(j, k.count - 1) * k.stride;
        if (as_rows()) {
          simd::copy(gathered_.data() + n * depth_, key, dim_);
        } else {
          keys_[std::size_t(n)] = key;
        }
      }
    }
    if (!as_rows()) std::fill(keys_.begin() + n, keys_.end(), keys_.front());
  }

  // Products of all rows with `count` gathered keys: [keys x columns], or [rows x padded keys] for few rows.
  void multiply(Index count) {
    if (as_rows()) {
      simd::dot_rows(q_.count, queries_.data(), depth_, count, gathered_.data(), depth_, depth_, products_.data(),
                     padded_);
      return;
    }
    for (Index c = 0; c < columns_; c += 2 * simd::lanes<T>) {
      if (c + simd::lanes<T> < columns_) {
        for (Index j = 0; j < count; j += simd::tile_rows) product_tile<simd::tile_rows, 2>(j, c);
      } else {
        for (Index j = 0; j < count; j += 2 * simd::tile_rows) product_tile<2 * simd::tile_rows, 1>(j, c);
      }
    }
  }

  // A register tile: the keys from `first` on, read where they lie, with the columns from `column` on.
  template <int keys, int vectors>
  void product_tile(Index first, Index column) {
    const T* key[keys];
    simd::Pack<T> sum[keys][vectors];
#pragma GCC unroll 16
    for (int i = 0; i < keys; ++i) {
      key[i] = keys_[std::size_t(first + i)];
#pragma GCC unroll 2
      for (int j = 0; j < vectors; ++j) sum[i][j] = simd::Pack<T>(T(0));
    }
#pragma GCC unroll 4
    for (Index d = 0; d < dim_; ++d) {
      const T* const q = queries_.data() + d * columns_ + column;
      simd::Pack<T> row[vectors];
#pragma GCC unroll 2
      for (int j = 0; j < vectors; ++j) row[j] = simd::load(q + j * simd::lanes<T>);
#pragma GCC unroll 16
      for (int i = 0; i < keys; ++i) {
        const simd::Pack<T> x(key[i][d]);
#pragma GCC unroll 2
        for (int j = 0; j < vectors; ++j) sum[i][j] = simd::fma(x, row[j], sum[i][j]);
      }
    }
    T* const to = products_.data() + first * columns_ + column;
#pragma GCC unroll 16
    for (int i = 0; i < keys; ++i) {
#pragma GCC unroll 2
      for (int j = 0; j < vectors; ++j) simd::store(to + i * columns_ + j * simd::lanes<T>, sum[i][j]);
    }
  }

  // Takes out the products of rows that may not see a key.
  void hide(const Keys& k, Index block, Index first) {
    for (Index j = 0; j < k.block; ++j) {
      const Index key = std::min(block * k.block + j, k.count - 1);
      Index hidden = 0;
      while (hidden < q_.count && q_.first_limit + hidden * q_.limit_step <= key) ++hidden;
      if (as_rows()) {
        for (Index r = 0; r < hidden; ++r) products_[std::size_t(r * padded_ + first + j)] = lowest;
      } else {
        T* const row = products_.data() + (first + j) * columns_;
        std::fill(row, row + (hidden == q_.count ? columns_ : hidden), lowest);
      }
    }
  }

  // The largest product of the gathered keys [first, first + count).
  T largest(Index first, Index count) const {
    T most = lowest;
    if (as_rows()) {
      for (Index r = 0; r < q_.count; ++r) {
        for (Index j = first; j < first + count; ++j) most = std::max(most, products_[std::size_t(r * padded_ + j)]);
      }
      return most;
    }
    const T* const p = products_.data() + first * columns_;
    simd::Pack<T> sum(lowest);
    for (Index n = 0; n < count * columns_; n += simd::lanes<T>) sum = simd::at_least(simd::load(p + n), sum);
    return simd::max_of_lanes<T>(sum);
  }

  Index dim_, depth_, step_, padded_, columns_ = 0;
  Queries q_;
  std::vector<T> queries_, gathered_, products_;
  std::vector<const T*> keys_;
};

// The search itself. Owns its scratch, O(most); one for each worker. The blocks returned ascend and stay valid until
// the next call.
template <class T>
class TreeSearch {
 public:
  using Queries = typename BlockScores<T>::Queries;
  using Keys = typename BlockScores<T>::Keys;

  TreeSearch(Index dim, Index most_rows, Index block) : score_(dim, most_rows, block) {}

  // At most `most` of the blocks [0, blocks). They are cut into `most` groups of as equal size as can be; until every
  // group is one block, each is halved, a half scores as its first block does, and the best halves stay: equal ones by
  // position. A left half begins where its group did, so that only right halves are new products.
  std::span<const Index> halve(const Queries& q, const Keys& k, Index blocks, Index most) {
    chosen_.clear();
    if (blocks <= most) return all_of(blocks);
    score_.begin(q);
    groups_.clear();
    places_.clear();
    for (Index g = 0; g < most; ++g) {
      const Index start = blocks * g / most;
      groups_.push_back({start, blocks * (g + 1) / most - start, T(0)});
      places_.push_back(start);
    }
    scores_.resize(std::size_t(2 * most));
    fresh_.resize(std::size_t(most));
    score_(k, places_, fresh_.data());
    for (std::size_t g = 0; g < groups_.size(); ++g) groups_[g].score = fresh_[g];

    for (Index finer = most; finer < blocks; finer *= 2) {
      places_.clear();
      for (const Group& group : groups_) {
        if (group.size > 1) places_.push_back(group.start + group.size / 2);
      }
      score_(k, places_, fresh_.data());
      const T* right = fresh_.data();
      for (std::size_t g = 0; g < groups_.size(); ++g) {
        const bool halved = groups_[g].size > 1;
        scores_[2 * g] = halved ? groups_[g].score : lowest;
        scores_[2 * g + 1] = halved ? *right++ : groups_[g].score;
      }
      halves_.clear();
      for (const Index half : ranking_.top_k(scores_.data(), Index(2 * groups_.size()), most)) {
        const Group& group = groups_[std::size_t(half / 2)];
        const Index left = group.size / 2;
        if (half % 2 == 0) {
          halves_.push_back({group.start, left, scores_[std::size_t(half)]});
        } else {
          halves_.push_back({group.start + left, group.size - left, scores_[std::size_t(half)]});
        }
      }
      groups_.swap(halves_);
    }
    for (const Group& group : groups_) chosen_.push_back(group.start);
    return chosen_;
  }

  // How widen() refines: the first grid has `first` places, each next one `factor` times as many (rounded, halves away
  // from zero), of which `most` keys' worth are kept, in an early grid less, but never fewer than `least`.
  struct Widening {
    Index first = 0;
    double factor = 2;
    Index most = 0;
    Index least = 0;
  };

  // The form of the code that was released with the paper: places are fractions of the length and grids are widened
  // until they have a place for each key. In the end places of `tokens` are rounded down, those of blocks up and pushed
  // apart. All divisions are those of that code, in its order.
  std::span<const Index> widen(const Queries& q, const Keys& k, const Widening& grid, bool tokens) {
    const auto blocks_of = [&](Index keys) { return (keys + k.block - 1) / k.block; };
    const Index length = k.count, blocks = blocks_of(length);
    chosen_.clear();
    if (length <= 0) return chosen_;
    Index width = std::min(length, grid.first);
    places_at_.clear();
    for (Index i = 0; i < blocks_of(width); ++i) places_at_.push_back(double(i) / double(blocks_of(width)));
    if (width < length) score_.begin(q);
    while (width < length) {
      const Index next = std::min(Index(std::round(double(width) * grid.factor)), length);
      const double old_places = double(blocks_of(width)), new_places = double(blocks_of(next));
      finer_at_.clear();
      for (const double at : places_at_) {
        const double place = std::floor(at * old_places);
        const double first = std::floor(place / old_places * new_places);
        const double last = std::floor((place + 1) / old_places * new_places);
        for (double x = first; x < last; ++x) finer_at_.push_back(x / new_places);
      }
      const double share = std::min(double(blocks_of(grid.most)) / double(blocks), 1.0);
      const Index kept = std::min(blocks, std::max(blocks_of(grid.least), Index(std::floor(share * new_places))));
      if (kept < Index(finer_at_.size())) {
        places_.clear();
        for (const double at : finer_at_) places_.push_back(Index(std::floor(at * double(length))) / k.block);
        scores_.resize(places_.size());
        score_(k, places_, scores_.data());
        places_at_.clear();
        for (const Index n : ranking_.top_k(scores_.data(), Index(places_.size()), kept))
          places_at_.push_back(finer_at_[std::size_t(n)]);
      } else {
        places_at_.swap(finer_at_);
      }
      width = next;
    }
    Index last = -1;
    for (const double at : places_at_) {
      const double place = at * double(width);
      last = tokens ? Index(std::floor(place)) : std::max(last + 1, Index(std::ceil(place / double(k.block))));
      if (last < blocks) chosen_.push_back(last);
    }
    if (tokens) chosen_.erase(std::unique(chosen_.begin(), chosen_.end()), chosen_.end());
    return chosen_;
  }

 private:
  static constexpr T lowest = -std::numeric_limits<T>::infinity();

  struct Group {
    Index start, size;
    T score;  // of the block `start`
  };

  std::span<const Index> all_of(Index blocks) {
    for (Index b = 0; b < blocks; ++b) chosen_.push_back(b);
    return chosen_;
  }

  BlockScores<T> score_;
  Ranking<T> ranking_;
  std::vector<Group> groups_, halves_;
  std::vector<double> places_at_, finer_at_;
  std::vector<Index> places_, chosen_;
  std::vector<T> scores_, fresh_;
};

}  // namespace fovea::inline FOVEA_ISA::select
