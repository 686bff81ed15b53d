// Blocks of keys ranked for blocks of queries: pooled rows against pooled rows, and a rule that chooses.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <optional>

#include <fovea/parts/mask/blocks.hpp>
#include <fovea/parts/select/pool.hpp>
#include <fovea/parts/select/ranking.hpp>
#include <fovea/simd/dots.hpp>
#include <fovea/simd/tile.hpp>
#include <fovea/simd/transpose.hpp>

namespace fovea::inline FOVEA_ISA::select {

// Who chooses: each query head for itself, or the heads of a kv head together, by the largest or by the sum of their
// scores.
enum class Sharing { none, max, sum };

// Which blocks a query block takes; exactly one of top_k, top_p and threshold.
struct BlockRule {
  Index top_k = 0;                       // the largest scores
  std::optional<double> top_p = {};      // the largest weights softmax(scale score) that hold this share, in (0, 1]
  TopP top_p_rule = TopP::inclusive;     // what becomes of the weight that crosses top_p
  std::optional<double> threshold = {};  // the blocks whose scale score reaches it
  double scale = 1;                      // for top_p and threshold; positive
  Index first_blocks = 0;                // leading blocks that are always taken
  bool own_blocks = true;                // the blocks in which the positions of the query block lie are always taken
  bool extra = false;                    // they come on top of top_k instead of counting towards it
  Sharing sharing = Sharing::none;

  void check_for(std::string_view where) const {
    check(top_k >= 0, where, "top_k must be positive, got ", top_k);
    check(int(top_k > 0) + int(top_p.has_value()) + int(threshold.has_value()) == 1, where,
          "exactly one of top_k, top_p and threshold must be given, got top_k ", top_k, top_p ? ", top_p" : "",
          threshold ? ", threshold" : "");
    check(!top_p || (*top_p > 0 && *top_p <= 1), where, "top_p must lie in (0, 1], got ", top_p.value_or(0));
    check(!threshold || *threshold == *threshold, where, "the threshold must be a number, got ", threshold.value_or(0));
    check(scale > 0 && scale < HUGE_VAL, where, "the scale must be positive and finite, got ", scale);
    check(first_blocks >= 0, where, "first_blocks must not be negative, got ", first_blocks);
  }
};

// The blocks of a call, in tokens.
struct BlockGrid {
  Index query_block = 0;
  Index key_block = 0;
  Index queries = 0;
  Index keys = 0;
  Index offset = 0;     // position of query 0 on the axis of the keys
  bool causal = false;  // blocks that begin behind the last query of a query block are no choice

  Index query_blocks() const { return (queries + query_block - 1) / query_block; }
  Index key_blocks() const { return (keys + key_block - 1) / key_block; }

  // The key blocks where the positions of query block a lie.
  Span own(Index a) const {
    const Index first = offset + a * query_block, last = offset + std::min((a + 1) * query_block, queries);
    if (last <= 0) return {};
    return intersect({std::max<Index>(first, 0) / key_block, (last - 1) / key_block + 1}, {0, key_blocks()});
  }
  // How many key blocks, from the first, query block a may choose from.
  Index choices(Index a) const {
    if (!causal) return key_blocks();
    const Index last = offset + std::min((a + 1) * query_block, queries);
    return last <= 0 ? 0 : std::min((last - 1) / key_block + 1, key_blocks());
  }
};

namespace detail {

template <class T>
class RankBlocks {
 public:
  RankBlocks(const View<const T>& queries, const View<const T>& keys, const BlockGrid& grid, const BlockRule& rule)
      : queries_(queries),
        keys_(keys),
        grid_(grid),
        rule_(rule),
        group_(keys.heads == 0 ? 1 : queries.heads / keys.heads),
        depth_(simd::whole<T>(keys.dim)),
        columns_(simd::whole<T>(keys.length)),
        power_((long double)(rule.scale) * simd::log2_e) {
    // As many query blocks at once as their scores fit the second-level cache; but enough to lay keys out for.
    constexpr Index most = 96, least = 2 * simd::tile_rows, budget = 256 * 1024;
    const Index fit = std::clamp<Index>(budget / Index(sizeof(T)) / std::max<Index>(columns_, 1), least, most);
    step_ = std::clamp<Index>(fit / group_, 1, std::max<Index>(queries.length, 1));
    rows_ = simd::whole_rows(step_ * group_);
  }

  template <class Exec>
  mask::BlockTable run(const Exec& executor) {
    const Index heads = rule_.sharing == Sharing::none ? queries_.heads : keys_.heads;
    mask::BlockTable table{grid_.query_block,
                           grid_.key_block,
                           std::max<Index>(queries_.batch, 1),
                           std::max<Index>(heads, 1),
                           queries_.length,
                           {},
                           {}};
    const Index lists = table.batch * table.heads * table.query_blocks;
    words_ = (keys_.length + mask::word - 1) / mask::word;
    taken_.assign(std::size_t(lists * words_), 0);
    const Index chunks = (queries_.length + step_ - 1) / step_;
    const Index items = queries_.batch * keys_.heads * chunks;
    if (queries_.heads > 0 && words_ > 0 && items > 0) {
      const double flops = 2.0 * double(rows_) * double(columns_) * double(depth_ + 16);
      const double share = std::min(flops * double(items) / worthwhile_flops, double(items));
      const Index workers = std::clamp<Index>(Index(share), 1, std::max<Index>(exec::concurrency(executor), 1));
      std::vector<Worker> scratch(static_cast<std::size_t>(workers), Worker(*this));
      executor.parallel_for(workers, flops * double(items) / double(workers), [&](Index begin, Index end) {
        for (Index worker = begin; worker < end; ++worker) {
          // The last query blocks first: when causal they have most to do.
          for (Index item = worker; item < items; item += workers)
            chunk(item / chunks, chunks - 1 - item % chunks, scratch[std::size_t(worker)]);
        }
      });
    }
    gather(table, lists);
    return table;
  }

 private:
  static constexpr Index tile = 256;               // key blocks laid out at a time
  static constexpr double worthwhile_flops = 1e6;  // what a further worker must find to do

  struct Worker {
    std::vector<T> q, panel, scores;
    Ranking<T> ranking;

    explicit Worker(const RankBlocks& r)
        : q(std::size_t(r.rows_ * r.depth_)),
          panel(std::size_t(r.depth_ * std::min(r.columns_, tile))),
          scores(std::size_t(r.rows_ * r.columns_)) {}
  };

  // The choices of one chunk of the query blocks of all heads of a kv head; row h step + i is query block i of head h.
  void chunk(Index head, Index at, Worker& worker) {
    const Index batch = head / keys_.heads, kv_head = head % keys_.heads;
    const Span blocks{at * step_, std::min((at + 1) * step_, queries_.length)};
    const Index count = blocks.size(), choices = grid_.choices(blocks.last - 1);
    for (Index h = 0; h < group_; ++h) {
      for (Index i = 0; i < count; ++i)
        load_query(queries_.row(batch, kv_head * group_ + h, blocks.first + i), row(worker.q, h * count + i, depth_));
    }
    score(group_ * count, choices, keys_.row(batch, kv_head, 0), worker);
    if (rule_.sharing == Sharing::none) {
      for (Index h = 0; h < group_; ++h) {
        for (Index i = 0; i < count; ++i)
          choose(batch * queries_.heads + kv_head * group_ + h, blocks.first + i,
                 row(worker.scores, h * count + i, columns_), worker.ranking);
      }
    } else {
      for (Index i = 0; i < count; ++i) {
        T* const shared = row(worker.scores, i, columns_);
        for (Index h = 1; h < group_; ++h) join(shared, row(worker.scores, h * count + i, columns_), choices);
        choose(batch * keys_.heads + kv_head, blocks.first + i, shared, worker.ranking);
      }
    }
  }

  static T* row(std::vector<T>& x, Index r, Index stride) { return x.data() + r * stride; }

  void load_query(const T* from, T* to) const {
    if (keys_.dim == queries_.dim) {
      simd::copy(to, from, keys_.dim);
    } else {
      bound_query(from, queries_.dim, to);
    }
    std::fill(to + keys_.dim, to + depth_, T(0));
  }

  // scores = the products of the rows of q with the first `choices` key rows.
  void score(Index rows, Index choices, const T* keys, Worker& worker) const {
    const Index stride = keys_.length_stride;
    if (rows < simd::tile_rows) {
      simd::dot_rows(rows, worker.q.data(), depth_, choices, keys, stride, keys_.dim, worker.scores.data(), columns_);
      return;
    }
    const Index padded = simd::whole_rows(rows);
    std::fill(row(worker.q, rows, depth_), row(worker.q, padded, depth_), T(0));
    for (Index first = 0; first < choices; first += tile) {
      const Index width = std::min(tile, choices - first), columns = simd::whole<T>(width);
      simd::transpose(width, keys_.dim, keys + first * stride, stride, worker.panel.data(), columns);
      for (Index r = 0; r < padded; r += simd::tile_rows)
        simd::multiply_rows<simd::tile_rows, simd::Onto::nothing>(columns, keys_.dim, row(worker.q, r, depth_), depth_,
                                                                  worker.panel.data(), columns,
                                                                  row(worker.scores, r, columns_) + first, columns_);
    }
  }

  void join(T* scores, const T* others, Index count) const {
    if (rule_.sharing == Sharing::sum) {
      simd::add(scores, others, count);
    } else {
      simd::combine(scores, others, count, larger<T>);
    }
  }

  void choose(Index head, Index a, T* scores, Ranking<T>& ranking) {
    std::uint64_t* const taken = taken_.data() + (head * queries_.length + a) * words_;
    const auto take = [taken](Index b) { taken[b / mask::word] |= std::uint64_t{1} << (b % mask::word); };
    const Index count = grid_.choices(a);
    const Span first{0, std::min(rule_.first_blocks, count)};
    const Span own = rule_.own_blocks ? intersect(grid_.own(a), {0, count}) : Span{};
    const auto forced = [&](auto&& f) {
      for (Index b = first.first; b < first.last; ++b) f(b);
      for (Index b = std::max(own.first, first.last); b < own.last; ++b) f(b);
    };
    forced(take);
    std::span<const Index> chosen;
    if (rule_.top_k >= count) {
      for (Index b = 0; b < count; ++b) take(b);
    } else if (rule_.top_k > 0) {
      Index places = rule_.top_k;
      if (!rule_.extra) {
        // Forced blocks take places; what is left of them goes to the others.
        forced([&](Index b) {
          scores[b] = -simd::infinity<T>;
          --places;
        });
      }
      chosen = ranking.top_k(scores, count, std::max<Index>(places, 0));
    } else if (rule_.threshold) {
      simd::scale(scores, count, T(rule_.scale));
      chosen = ranking.at_least(scores, count, T(*rule_.threshold));
    } else if (*rule_.top_p == 1) {
      chosen = ranking.at_least(scores, count, std::numeric_limits<T>::lowest());
    } else {
      weigh(scores, count);
      chosen = ranking.top_p(scores, count, *rule_.top_p, rule_.top_p_rule);
    }
    for (const Index b : chosen) take(b);
  }

  // Scores into weights, exp(scale (score - largest)); those that are no choice stay so.
  void weigh(T* scores, Index count) const {
    using simd::Pack;
    T most = -simd::infinity<T>;
    for (Index b = 0; b < count; ++b) most = scores[b] > most ? scores[b] : most;
    const Pack<T> none(-simd::infinity<T>), top(most);
    simd::transform(scores, count, [&](Pack<T> s, Index) {
      return xsimd::select(s > none, simd::exp2_weight(s - top, power_), none);
    });
  }

  // The bits of all lists into the table.
  void gather(mask::BlockTable& table, Index lists) const {
    table.begin.resize(std::size_t(lists) + 1);
    Index total = 0;
    for (Index list = 0; list < lists; ++list) {
      table.begin[std::size_t(list)] = total;
      for (Index w = 0; w < words_; ++w) total += std::popcount(taken_[std::size_t(list * words_ + w)]);
    }
    table.begin[std::size_t(lists)] = total;
    table.blocks.resize(std::size_t(total));
    Index* next = table.blocks.data();
    for (Index list = 0; list < lists; ++list) {
      for (Index w = 0; w < words_; ++w) {
        for (std::uint64_t bits = taken_[std::size_t(list * words_ + w)]; bits != 0; bits &= bits - 1)
          *next++ = w * mask::word + Index(std::countr_zero(bits));
      }
    }
  }

  const View<const T> queries_, keys_;
  const BlockGrid grid_;
  const BlockRule rule_;
  const Index group_, depth_, columns_;
  const simd::PowerUnit<T> power_;
  Index step_, rows_;
  Index words_ = 0;
  std::vector<std::uint64_t> taken_{};  // [lists x words]
};

}  // namespace detail

// The table of the blocks that each query block takes. queries [B,H,query blocks,D] and keys [B,G,key blocks,D] hold a
// row for each block; keys of twice the width of the queries are bounds. Larger scores first, equal ones by the lower
// block; a block whose score is NaN or -infinity is taken only when it is forced, or top_k leaves no choice.
template <class T, exec::Executor Exec = exec::Serial>
mask::BlockTable rank_blocks(const View<const T>& queries, const View<const T>& keys, const BlockGrid& grid,
                             const BlockRule& rule, const Exec& executor = {}) {
  constexpr auto where = "fovea::select::rank_blocks";
  check(grid.query_block > 0 && grid.key_block > 0, where, "blocks must have a positive size, got ", grid.query_block,
        " and ", grid.key_block);
  rule.check_for(where);
  check(queries.length == grid.query_blocks() && keys.length == grid.key_blocks(), where,
        "there must be a row for each block, wanted ", grid.query_blocks(), " and ", grid.key_blocks(), ", got ",
        queries.length, " and ", keys.length);
  check(queries.batch == keys.batch && (keys.dim == queries.dim || keys.dim == 2 * queries.dim), where,
        "pooled keys must have the batch and the width of pooled queries (bounds twice the width), wanted ",
        queries.batch, " and ", queries.dim, ", got ", keys.batch, " and ", keys.dim);
  check(keys.heads > 0 ? queries.heads % keys.heads == 0 : queries.heads == 0, where,
        "the heads of the queries must be a multiple of those of the keys, wanted a multiple of ", keys.heads, ", got ",
        queries.heads);
  return detail::RankBlocks<T>(queries, keys, grid, rule).run(executor);
}

}  // namespace fovea::inline FOVEA_ISA::select
