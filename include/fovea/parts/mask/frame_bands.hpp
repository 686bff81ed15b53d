// Frames of tokens, as in a video: a query sees the keys near its own place in each frame, the nearer the frame the
// more.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include <fovea/parts/mask/mask.hpp>

namespace fovea::inline FOVEA_ISA::mask {

struct FrameBandsOptions {
  Index frame = 0;                // tokens of a frame; required
  std::vector<Index> reach = {};  // by the distance of two frames: how far a key may lie from the query's place in its
                                  // frame, or -1 where the frame is not seen; a number for each distance
  bool first_frame = false;       // whether all keys of the first frame are seen
  Index others = 0;               // tokens behind the frames: they see every key, and every query sees them
};

class BoundFrameBands {
 public:
  BoundFrameBands(std::shared_ptr<const FrameBandsOptions> options, Index keys)
      : options_(std::move(options)), frame_(options_->frame), end_(keys - options_->others) {}

  std::uint64_t seen(Row row, Span keys) const {
    if (row.query >= end_) return low_bits(keys.size());
    const Index own = row.query / frame_, place = row.query - own * frame_;
    std::uint64_t bits = bits_of({end_, keys.last}, keys);
    Index other = keys.first / frame_;
    for (Index begin = other * frame_; begin < std::min(keys.last, end_); begin += frame_, ++other) {
      const Index far = reach(own, other);
      if (far >= 0) bits |= bits_of({begin + std::max<Index>(place - far, 0), begin + end(place, far)}, keys);
    }
    return bits;
  }

  Cover cover(const Region& region) const {
    if (region.heads.empty() || region.queries.empty() || region.keys.empty()) return Cover::none;
    bool some = region.queries.last > end_ || region.keys.last > end_, all = true;
    const Span queries = intersect(region.queries, {0, end_}), keys = intersect(region.keys, {0, end_});
    if (queries.empty() || keys.empty()) return Cover::full;  // tokens behind the frames
    for (Index own = queries.first / frame_; own * frame_ < queries.last; ++own) {
      const Span rows = piece(queries, own);
      for (Index other = keys.first / frame_; other * frame_ < keys.last; ++other) {
        const Span columns = piece(keys, other);
        // Distances of places run from the nearest to the farthest without a gap.
        const Index nearest = std::max({rows.first - columns.last + 1, columns.first - rows.last + 1, Index{0}});
        const Index farthest = std::max(rows.last - 1 - columns.first, columns.last - 1 - rows.first);
        const Index far = reach(own, other);
        some = some || nearest <= far;
        all = all && farthest <= far;
        if (some && !all) return Cover::part;
      }
    }
    return all ? Cover::full : Cover::none;
  }

 private:
  Index reach(Index own, Index other) const {
    if (options_->first_frame && other == 0) return frame_;
    return options_->reach[std::size_t(own < other ? other - own : own - other)];
  }
  Index end(Index place, Index far) const { return far < frame_ - place ? place + far + 1 : frame_; }

  // What of a span lies in a frame, counted from the begin of the frame.
  Span piece(Span span, Index number) const {
    const Span inside = intersect(span, {number * frame_, (number + 1) * frame_});
    return {inside.first - number * frame_, inside.last - number * frame_};
  }

  std::shared_ptr<const FrameBandsOptions> options_;
  Index frame_;
  Index end_;  // tokens of all frames
};

struct FrameBands {
  std::shared_ptr<const FrameBandsOptions> options;

  BoundFrameBands bind(const char* where, const Shape& shape) const {
    const FrameBandsOptions& o = *options;
    check(o.frame > 0, where, "a frame must have tokens, got ", o.frame);
    check(shape.queries == shape.keys, where, "frames need as many queries as keys, got ", shape.queries, " and ",
          shape.keys);
    check(o.others >= 0 && o.others <= shape.keys, where, "the tokens behind the frames must be at most ", shape.keys,
          ", got ", o.others);
    const Index tokens = shape.keys - o.others;
    check(tokens % o.frame == 0, where, "frames must be whole, wanted a multiple of ", o.frame, " tokens, got ",
          tokens);
    check(Index(o.reach.size()) >= tokens / o.frame, where,
          "there must be a reach for each distance of frames, wanted ", tokens / o.frame, ", got ", o.reach.size());
    return {options, shape.keys};
  }
};

// Frame a holds the tokens [a frame, (a + 1) frame). The query at place k of frame a sees the key at place l of frame c
// when |k - l| <= reach[|a - c|].
inline FrameBands frame_bands(FrameBandsOptions options) {
  return {std::make_shared<const FrameBandsOptions>(std::move(options))};
}

}  // namespace fovea::inline FOVEA_ISA::mask
