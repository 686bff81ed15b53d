// Attention over a table in which neighbouring queries list different key blocks, so that a tile of queries would have
// to visit the blocks of all of them. Here the key blocks come first: the queries that list a block are gathered and
// attend to it alone, and what they get from their blocks is merged by log-sum. Pairs that the table does not list are
// computed only between a block and causal queries inside it. Lu et al., "MoBA: Mixture of Block Attention", 2025,
// arXiv:2502.13189, for the idea.
#pragma once

#include <cmath>
#include <memory>
#include <optional>

#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/blocks.hpp>
#include <fovea/parts/mask/causal.hpp>

namespace fovea::inline FOVEA_ISA::engine {

template <class T>
class ByKeyBlock {
 public:
  // The mask is the table's, and causal too when `position`, that of query 0, is given.
  ByKeyBlock(const Problem<T>& problem, std::optional<double> scale, const mask::BlockTable& table,
             std::optional<Index> position)
      : problem_(problem),
        softmax_(softmax(scale)),
        table_(table),
        position_(position),
        key_blocks_((problem.k.length + table.key_block - 1) / table.key_block),
        shared_(table.heads == 1 ? problem.q.heads : problem.q.heads / table.heads) {
    // Segments of so many queries that a block finds a full gathering among them, if the lists are alike.
    const Index lists = table.batch * table.heads * table.query_blocks;
    const double listed = std::max(double(table.entries()) / double(lists), 1.0);
    const double wanted = std::min(double(gathered) * double(key_blocks_) / listed, double(problem.q.length));
    const Index blocks = std::max<Index>(Index(wanted) / table.query_block, 1);
    segment_ = blocks * table.query_block;
    for (Index list = 0; list < lists; list += table.query_blocks) {
      for (Index a = 0; a < table.query_blocks; a += blocks) {
        const Index end = std::min(a + blocks, table.query_blocks);
        most_listed_ =
            std::max(most_listed_, table.begin[std::size_t(list + end)] - table.begin[std::size_t(list + a)]);
      }
    }
  }

  template <class Exec>
  void run(const Exec& executor) const {
    const auto& q = problem_.q;
    const Index segments = (q.length + segment_ - 1) / segment_;
    const double pairs = double(most_listed_) * double(table_.query_block) * double(table_.key_block);
    distribute<T>(executor, q.batch * q.heads * segments, 2 * pairs * double(q.dim + problem_.v.dim), scratch_size(),
                  [&](Index item, T* memory) {
                    // The last queries first: when causal they have most to do.
                    const Index s = segments - 1 - item % segments, head = item / segments % q.heads;
                    attend_segment(item / segments / q.heads, head,
                                   {s * segment_, std::min((s + 1) * segment_, q.length)}, memory);
                  });
  }

 private:
  static constexpr Index gathered = 384;  // queries of a gathering: what the tiles of the engine hold
  static constexpr Index ahead = 6;       // rows that are asked for before their turn

  static_assert(sizeof(Index) % sizeof(T) == 0);
  static constexpr Index per_index = Index(sizeof(Index) / sizeof(T));  // elements that an index takes up

  struct Scratch {
    T *q, *out, *log_sum;    // of a gathering
    T *reference, *total;    // of the queries of a segment: o_i = out_i / total_i, both relative to exp(reference_i)
    Index *begin, *queries;  // the queries that list each block
    Index* rows;             // the queries that list one block
  };

  Index scratch_size() const {
    return whole_lines<T>(gathered * problem_.q.dim) + whole_lines<T>(gathered * problem_.v.dim) +
           whole_lines<T>(gathered) + 2 * whole_lines<T>(segment_) + whole_lines<T>((key_blocks_ + 2) * per_index) +
           whole_lines<T>(most_listed_ * per_index) + whole_lines<T>(segment_ * per_index);
  }

  void attend_segment(Index batch, Index head, Span queries, T* memory) const {
    Carve<T> carve(memory);
    const auto indices = [&](Index n) { return reinterpret_cast<Index*>(carve(n * per_index)); };
    Scratch s{};
    s.q = carve(gathered * problem_.q.dim);
    s.out = carve(gathered * problem_.v.dim);
    s.log_sum = carve(gathered);
    s.reference = carve(segment_);
    s.total = carve(segment_);
    s.begin = indices(key_blocks_ + 2);
    s.queries = indices(most_listed_);
    s.rows = indices(segment_);
    sort(batch, head, queries, s);
    for (Index i = queries.first; i < queries.last; ++i) {
      s.reference[i - queries.first] = -simd::infinity<T>;
      s.total[i - queries.first] = T(0);
      std::fill_n(problem_.out.row(batch, head, i), problem_.v.dim, T(0));
    }
    for (Index b = 0; b < key_blocks_; ++b) attend_block(batch, head, queries, b, s);
    for (Index i = queries.first; i < queries.last; ++i) finish(batch, head, i, i - queries.first, s);
  }

  // The query blocks that list each key block, ascending: begin[b] to begin[b + 1].
  void sort(Index batch, Index head, Span queries, const Scratch& s) const {
    const Span blocks{queries.first / table_.query_block, (queries.last - 1) / table_.query_block + 1};
    const auto each = [&](auto&& f) {
      for (Index a = blocks.first; a < blocks.last; ++a) {
        const Span list = table_.list(table_.batch == 1 ? 0 : batch, head / shared_, a);
        for (Index n = list.first; n < list.last; ++n) f(table_.blocks[std::size_t(n)], a);
      }
    };
    std::fill_n(s.begin, key_blocks_ + 2, Index{0});
    each([&](Index b, Index) { ++s.begin[b + 2]; });
    for (Index b = 0; b < key_blocks_; ++b) s.begin[b + 2] += s.begin[b + 1];
    each([&](Index b, Index a) { s.queries[s.begin[b + 1]++] = a; });
  }

  void attend_block(Index batch, Index head, Span queries, Index b, const Scratch& s) const {
    const Span keys{b * table_.key_block, std::min((b + 1) * table_.key_block, problem_.k.length)};
    // The queries that list the block and do not stand before it; the first `inside` of them do not see all of it.
    Index count = 0, inside = 0;
    for (Index n = s.begin[b]; n < s.begin[b + 1]; ++n) {
      const Index a = s.queries[n] * table_.query_block;
      for (Index i = a; i < std::min(a + table_.query_block, problem_.q.length); ++i) {
        if (position_ && *position_ + i < keys.first) continue;
        inside += position_ && *position_ + i < keys.last - 1 ? 1 : 0;
        s.rows[count++] = i;
      }
    }
    for (Index first = 0, last = 0; first < inside; first = last) {
      while (last < inside && s.rows[last] - s.rows[first] < gathered) ++last;
      attend_inside(batch, head, {s.rows[first], s.rows[last - 1] + 1}, keys, s);
      for (Index n = first; n < last; ++n) merge(batch, head, queries.first, s.rows[n], s.rows[n] - s.rows[first], s);
    }
    const Index behind = count - inside, parts = (behind + gathered - 1) / gathered;
    for (Index part = 0; part < parts; ++part) {
      const Index first = inside + behind * part / parts, last = inside + behind * (part + 1) / parts;
      attend_behind(batch, head, s.rows + first, last - first, keys, s);
      for (Index n = first; n < last; ++n) {
        if (n + ahead < last) prefetch(problem_.out.row(batch, head, s.rows[n + ahead]), problem_.v.dim);
        merge(batch, head, queries.first, s.rows[n], n - first, s);
      }
    }
  }

  // Gathered queries that see the whole block.
  void attend_behind(Index batch, Index head, const Index* rows, Index count, Span keys, const Scratch& s) const {
    const Index dim = problem_.q.dim;
    for (Index r = 0; r < count; ++r) {
      if (r + ahead < count) prefetch(problem_.q.row(batch, head, rows[r + ahead]), dim);
      simd::copy(s.q + r * dim, problem_.q.row(batch, head, rows[r]), dim);
    }
    attend_part(part(batch, head, {s.q, 1, 1, count, dim, 0, 0, dim}, keys, s), mask::Everything{});
  }

  // A range of queries whose positions lie in the block. Those that do not list it are computed for nothing.
  void attend_inside(Index batch, Index head, Span queries, Span keys, const Scratch& s) const {
    const View<const T> q{problem_.q.row(batch, head, queries.first),
                          1,
                          1,
                          queries.size(),
                          problem_.q.dim,
                          0,
                          0,
                          problem_.q.length_stride};
    attend_part(part(batch, head, q, {keys.first, *position_ + queries.last}, s), mask::causal());
  }

  Problem<T> part(Index batch, Index head, const View<const T>& q, Span keys, const Scratch& s) const {
    const Index kv_head = head / problem_.group;
    const auto rows = [&](const View<const T>& x) {
      return View<const T>{x.row(batch, kv_head, keys.first), 1, 1, keys.size(), x.dim, 0, 0, x.length_stride};
    };
    const Index width = problem_.v.dim;
    return {q,
            rows(problem_.k),
            rows(problem_.v),
            {s.out, 1, 1, q.length, width, 0, 0, width},
            {s.log_sum, 1, 1, q.length, 1, 0, 0, 1},
            1,
            problem_.where};
  }

  // By tiles however few the queries are: their results must not depend on how many were gathered.
  template <class Mask>
  void attend_part(const Problem<T>& part, const Mask& mask) const {
    using Source = kv::Contiguous<T>;
    const auto bound = mask.bind(part.where, part.shape());
    const auto scores = softmax_.scores.template bind<T>(part.where, part.shape());
    const Source source{part.k, part.v};
    const Pass<T, Source, std::remove_const_t<decltype(bound)>, std::remove_const_t<decltype(scores)>> pass(
        part, part.shape(), source, softmax_.normalizer, bound, scores, false);
    OverTiles(pass, {0, part.q.batch}, 1).run(exec::Serial());
  }

  // Adds row r of the last part to the result of query i.
  void merge(Index batch, Index head, Index segment, Index i, Index r, const Scratch& s) const {
    using simd::Pack;
    const T log_sum = s.log_sum[r];
    if (log_sum == -simd::infinity<T>) return;
    T& reference = s.reference[i - segment];
    T& total = s.total[i - segment];
    T* const out = problem_.out.row(batch, head, i);
    const T* const more = s.out + r * problem_.v.dim;
    if (log_sum > reference) {
      const T shrink = std::exp(reference - log_sum);
      total = total * shrink + T(1);
      reference = log_sum;
      simd::combine(out, more, problem_.v.dim, [shrink](Pack<T> o, Pack<T> m) { return fma(o, Pack<T>(shrink), m); });
    } else {
      const T weight = std::exp(log_sum - reference);
      total += weight;
      simd::add_scaled(out, weight, more, problem_.v.dim);
    }
  }

  [[gnu::always_inline]] static void prefetch(const T* row, Index dim) {
    for (Index d = 0; d < dim; d += Index(scratch_alignment / sizeof(T))) __builtin_prefetch(row + d);
  }

  void finish(Index batch, Index head, Index i, Index at, const Scratch& s) const {
    const T total = s.total[at];
    T* const out = problem_.out.row(batch, head, i);
    if (total != T(0)) simd::copy_divided(out, out, problem_.v.dim, total);
    if (problem_.log_sum.data != nullptr)
      *problem_.log_sum.row(batch, head, i) = normalizer::log_sum(total, s.reference[at]);
  }

  const Problem<T>& problem_;
  const Recipe<> softmax_;
  const mask::BlockTable& table_;
  const std::optional<Index> position_;
  const Index key_blocks_, shared_;  // shared_: query heads of one list
  Index segment_ = 0;                // queries
  Index most_listed_ = 0;            // entries of the lists of a segment
};

// softmax(scale) over the blocks of a table, and causal when asked for: by key block where there are many query blocks
// so small that a tile would have to join their lists, else by the tiles of attend.
template <class T, exec::Executor Exec = exec::Serial>
void attend_blocks(const Problem<T>& problem, std::optional<double> scale, const mask::BlockTable& table, bool causal,
                   Alignment alignment = Alignment::bottom_right, const Exec& executor = {}) {
  constexpr Index least_block = 16, least_queries = 384;
  const Shape shape = problem.shape();
  // The table is not copied: it outlives the call.
  const mask::Blocks blocks{std::shared_ptr<const mask::BlockTable>(std::shared_ptr<void>(), &table)};
  if (table.query_block < least_block && table.query_blocks > 1 && shape.queries >= least_queries &&
      shape.keys > table.key_block) {
    softmax(scale).normalizer.check_for(problem.where, shape);
    blocks.bind(problem.where, shape);
    if (shape.batch == 0 || shape.heads == 0) return;
    const auto position = causal ? std::optional<Index>(shape.offset(alignment)) : std::nullopt;
    ByKeyBlock<T>(problem, scale, table, position).run(executor);
  } else {
    attend(problem, softmax(scale).mask(blocks & mask::causal_if(causal, alignment)), executor);
  }
}

}  // namespace fovea::inline FOVEA_ISA::engine
