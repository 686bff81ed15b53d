// Radial Attention over the frames of a video: the farther two frames, the narrower the band of places that see each
// other, until only every so manieth frame is left. Not causal.
// Li et al., "Radial Attention: O(n log n) Sparse Attention with Energy Decay for Long Video Generation", NeurIPS 2025,
// arXiv:2506.19852. (The released rule from its code; the published one from memory of the paper: verify.)
//
//   o_i = sum_j softmax_j(scale q_i . k_j) v_j,   i at place k of frame a, j at place l of frame c, d = |a - c|, S
//   places
//
//   published   p = 2^floor(log2 max(d, 1)):  |k - l| + 1 <= S / p   where p <= S,
//               k = l and d mod ceil(p / S) = 0                      where p > S
//   released    D = 2^bits(S) / 2^bits(d):  |k - l| <= max(decay D, least)  for d > 1, any k, l for d <= 1,
//               and where D < least only frames with d mod floor(least / D) = 0;  bits(x) = floor(log2 x) + 1, bits(0)
//               = 0
//
// Besides, the keys of the first frame are seen by all (a sink), and tokens of text behind the frames see and are seen
// by all. Self-attention only, N = M.
//
// Exact for its rule; equals dense attention with one or two frames. Kept pairs about 4 S N log2(F) of N^2.
#pragma once

#include <bit>
#include <cmath>
#include <optional>
#include <vector>

#include <fovea/engine/attend.hpp>
#include <fovea/parts/mask/blocks.hpp>
#include <fovea/parts/mask/frame_bands.hpp>

namespace fovea::inline FOVEA_ISA {

enum class RadialRule { published, released };

struct RadialOptions {
  Index frame = 0;  // places of a frame, S; required
  Index text = 0;   // tokens of text behind the frames
  RadialRule rule = RadialRule::published;
  bool first_frame = true;  // whether every query sees the first frame
  double decay = 1;         // released rule: narrows the bands
  Index least = 128;        // released rule: the narrowest band, the size of a block
  std::optional<double> scale = {};
};

namespace detail {

inline void check_radial(const char* where, const RadialOptions& options) {
  check(options.frame > 0, where, "frame must be positive, got ", options.frame);
  check(options.text >= 0, where, "text must not be negative, got ", options.text);
  check(options.decay > 0 && std::isfinite(options.decay), where, "decay must be positive and finite, got ",
        options.decay);
  check(options.least > 0, where, "least must be positive, got ", options.least);
}

// How far from the place of a query the keys of a frame at distance d may lie, -1 for a frame that is not seen.
inline Index radial_reach(Index d, const RadialOptions& options) {
  const auto bits = [](Index x) { return std::bit_width(std::uint64_t(x)); };
  if (options.rule == RadialRule::published) {
    const Index p = Index{1} << (bits(std::max<Index>(d, 1)) - 1);
    if (p <= options.frame) return options.frame / p - 1;
    return d % ((p + options.frame - 1) / options.frame) == 0 ? 0 : -1;
  }
  const double width = std::ldexp(1.0, bits(options.frame) - bits(d));
  if (width < double(options.least) && d % Index(double(options.least) / width) != 0) return -1;
  if (d <= 1) return options.frame;
  return Index(std::min(std::max(width * options.decay, double(options.least)), double(options.frame)));
}

inline mask::FrameBandsOptions radial_bands(Index frames, const RadialOptions& options) {
  mask::FrameBandsOptions bands{options.frame, {}, options.first_frame, options.text};
  for (Index d = 0; d < frames; ++d) bands.reach.push_back(radial_reach(d, options));
  return bands;
}

}  // namespace detail

// q [B,H,T,D], k [B,G,T,D], v [B,G,T,E], out [B,H,T,E], H a multiple of G; the tokens are whole frames, place by place,
// and the text behind them.
template <class Q, class K, class V, class Out, exec::Executor Exec = exec::Serial>
void radial(const Q& q, const K& k, const V& v, Out&& out, const RadialOptions& options, const Exec& executor = {}) {
  constexpr auto where = "fovea::radial";
  const auto problem = make_problem(where, q, k, v, out);
  detail::check_radial(where, options);
  const Index tokens = problem.q.length - options.text;
  check(tokens >= 0 && tokens % options.frame == 0, where, "the tokens must be whole frames of ", options.frame,
        " and text of ", options.text, ", got ", problem.q.length);
  const auto bands = mask::frame_bands(detail::radial_bands(tokens / options.frame, options));
  engine::attend(problem, softmax(options.scale).mask(bands), executor);
}

struct RadialBlocksOptions {
  Index block = 128;
  // The released code looks at no more than ceil(S / block) blocks from the one where a frame begins, and so forgets
  // the end of a frame that reaches into one more.
  bool released_tail = false;
};

// The same as a schedule of whole blocks, for block_sparse(): a block is kept when, for some pair of frames, more than
// 0.6 of its columns that the pair touches are each seen by more than a third of a block of rows. Kept blocks are seen
// whole, and so are those that hold text. A plan to be made once for a shape.
inline mask::BlockTable radial_blocks(Index frames, const RadialOptions& options,
                                      const RadialBlocksOptions& blocks = {}) {
  constexpr auto where = "fovea::radial_blocks";
  detail::check_radial(where, options);
  check(frames >= 0, where, "there cannot be ", frames, " frames");
  check(blocks.block > 0, where, "block must be positive, got ", blocks.block);
  const Index size = blocks.block, frame = options.frame, tokens = frames * frame;
  const Index count = (tokens + options.text + size - 1) / size, with_text = options.text > 0 ? tokens / size : count;
  const auto bands = detail::radial_bands(frames, options);

  // Whether the pair of frames that begin at `row` and `column` marks a block, given by its first row and column.
  const auto marks = [&](Index row, Index column, Index far, Index block_row, Index block_column) {
    const Span rows = intersect({block_row, block_row + size}, {row, row + frame});
    const Span columns = intersect({block_column, block_column + size}, {column, column + frame});
    Index touched = 0, dense = 0;
    for (Index j = columns.first; j < columns.last; ++j) {
      const Index place = j - column;
      const Index kept = intersect(rows, {row + place - far, row + place + far + 1}).size();
      touched += kept > 0;
      dense += 3 * kept > size;
    }
    return 10 * dense > 6 * touched;
  };

  std::vector<std::vector<bool>> kept(std::size_t(count), std::vector<bool>(std::size_t(count), false));
  for (Index a = 0; a < frames; ++a) {
    for (Index c = 0; c < frames; ++c) {
      const Index far = options.first_frame && c == 0 ? frame : bands.reach[std::size_t(std::abs(a - c))];
      if (far < 0) continue;
      const auto last_block = [&](Index begin) {
        const Index all = (begin + frame - 1) / size;
        return blocks.released_tail ? std::min(all, begin / size + (frame + size - 1) / size - 1) : all;
      };
      for (Index i = a * frame / size; i <= last_block(a * frame); ++i) {
        for (Index j = c * frame / size; j <= last_block(c * frame); ++j) {
          if (!kept[std::size_t(i)][std::size_t(j)])
            kept[std::size_t(i)][std::size_t(j)] = marks(a * frame, c * frame, far, i * size, j * size);
        }
      }
    }
  }
  mask::BlockTable table{size, size, 1, 1, count, {0}, {}};
  for (Index i = 0; i < count; ++i) {
    for (Index j = 0; j < count; ++j) {
      if (kept[std::size_t(i)][std::size_t(j)] || i >= with_text || j >= with_text) table.blocks.push_back(j);
    }
    table.begin.push_back(Index(table.blocks.size()));
  }
  return table;
}

}  // namespace fovea::inline FOVEA_ISA
