// One side of a sequence, its keys or its values, whatever holds its pages: tokens come in, are written as soon as
// their format settles them, and the last ones are kept in full precision where the format asks for it.
//
// What is written is a function of the length alone. A side keeps the last 2 R tokens (R = residual()) in full
// precision, although at most R of them wait: after truncate() by up to R tokens it is what it would be if it had never
// seen them. Beyond that, tokens that must wait again come back as they had been rounded.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include <fovea/core/check.hpp>
#include <fovea/core/view.hpp>
#include <fovea/parts/kv/tokens.hpp>

namespace fovea::inline FOVEA_ISA::cache {

// Where the stretches of a side lie: that of kv head h in page p at pages[p] + offset + h * head_bytes.
struct Place {
  std::byte* const* pages = nullptr;
  Index page = 1;    // tokens of one
  Index offset = 0;  // bytes, as is head_bytes
  Index head_bytes = 0;
};

struct Places {
  Place k, v;
};

template <class Format>
class Side {
 public:
  Side(const Format& format, Index heads)
      : format_(format), heads_(heads), recent_(std::size_t(heads * 2 * format.residual() * format.dim)) {}

  const Format& format() const { return format_; }

  // Whether the format can store the numbers of a token.
  template <class T>
  bool is_storable(const T* row) const {
    bool fits = true;
    if constexpr (Format::late) {
      for (Index d = 0; d < format_.dim; ++d) fits = fits && std::fabs(row[d]) <= T(Format::largest);
    }
    return fits;
  }
  // Refuses numbers that the format cannot store.
  template <class T>
  void check_storable(const char* where, const char* name, const View<const T>& rows) const {
    if constexpr (Format::late) {
      for (Index h = 0; h < rows.heads; ++h) {
        for (Index i = 0; i < rows.length; ++i) {
          check(is_storable(rows.row(0, h, i)), where, name, " must be finite and at most ", double(Format::largest),
                " in magnitude to be stored in this format, token ", i, " of head ", h, " is not");
        }
      }
    }
  }

  // rows [heads, n, dim] follow `length` tokens. Pages must be there for settled(length + n) tokens.
  template <class T>
  void append(const Place& place, const View<const T>& rows, Index length) {
    if constexpr (Format::late) {
      const Index residual = format_.residual();
      for (Index i = 0; i < rows.length;) {
        const Index some = std::min(rows.length - i, residual - length % residual);
        for (Index h = 0; h < heads_; ++h) {
          for (Index j = 0; j < some; ++j)
            simd::copy_rounded(recent(h, length + j), rows.row(0, h, i + j), format_.dim);
        }
        settle(place, {format_.settled(length), format_.settled(length + some)});
        length += some;
        i += some;
      }
      held_ = std::max(held_, length - ring());
    } else {
      for (Index i = 0; i < rows.length;) {
        const Index in_page = (length + i) % place.page, some = std::min(rows.length - i, place.page - in_page);
        for (Index h = 0; h < heads_; ++h)
          format_.write(stretch(place, h, length + i), in_page, some, rows.row(0, h, i), rows.length_stride);
        i += some;
      }
    }
  }

  // The first `written` tokens, from one place of one page to another one.
  void copy(const Place& from, const Place& to, Index written) const {
    const auto bytes = std::size_t(format_.packed(whole_blocks(written)));
    if (bytes == 0) return;
    for (Index h = 0; h < heads_; ++h) std::memcpy(stretch(to, h, 0), stretch(from, h, 0), bytes);
  }

  // f(bytes, size, tokens) for what is written of `tokens`, which begin with a block: head by head, a piece for each
  // page, whole blocks of which the last one may hold less.
  template <class F>
  void each_piece(const Place& place, Span tokens, F&& f) const {
    for (Index h = 0; h < heads_; ++h) {
      for (Index t = tokens.first; t < tokens.last;) {
        const Index in_page = t % place.page, some = std::min(tokens.last - t, place.page - in_page);
        f(stretch(place, h, t) + format_.packed(in_page), format_.packed(whole_blocks(some)), some);
        t += some;
      }
    }
  }

  // Of `length` tokens the first `left` stay. To be called while the pages are still there.
  void truncate(const Place& place, Index length, Index left) {
    if constexpr (Format::late) {
      const Index waiting = format_.settled(left);
      if (waiting >= held_) return;
      const Span lost{waiting, std::min(held_, left)};
      const auto all = stored(place, format_.settled(length));
      for (Index h = 0; h < heads_; ++h) {
        all.each_run(h, lost, [&](Span part, const auto& run) {
          for (Index t = part.first; t < part.last; ++t) run.read(t - part.first, 1, recent(h, t), format_.dim);
        });
      }
      held_ = waiting;
    }
  }

  // What the engine reads of `length` tokens.
  kv::Tokens<Format> tokens(const Place& place, Index length) const {
    auto all = stored(place, length);
    all.stored = format_.settled(length);
    return all;
  }
  // The first `written` tokens as they are written, which may be more than those that are settled so far.
  kv::Tokens<Format> stored(const Place& place, Index written) const {
    return {format_, place.pages, place.page, place.offset, place.head_bytes, written, written, recent_.data(), ring()};
  }

  // Of `length` tokens the first one that is held in full precision; so are all behind it.
  Index held(Index length) const { return Format::late ? held_ : length; }
  bool can_hold_from(Index token, Index length) const {
    if (!Format::late) return token == length;
    return token >= std::max<Index>(0, length - ring()) && token <= format_.settled(length);
  }
  void hold_from(Index token) { held_ = token; }
  Index ring() const { return 2 * format_.residual(); }
  // Token t of them.
  float* recent(Index head, Index t) { return recent_.data() + (head * ring() + t % ring()) * format_.dim; }
  const float* recent(Index head, Index t) const { return const_cast<Side*>(this)->recent(head, t); }

  static std::byte* stretch(const Place& place, Index head, Index token) {
    return place.pages[token / place.page] + place.offset + head * place.head_bytes;
  }

 private:
  Index whole_blocks(Index tokens) const {
    const Index block = format_.block();
    return (tokens + block - 1) / block * block;
  }

  void settle(const Place& place, Span tokens) {
    const Index block = format_.block();
    for (Index t = tokens.first; t < tokens.last;) {
      const Index in_page = t % place.page, in_block = in_page % block;
      const Index some = std::min({tokens.last - t, block - in_block, ring() - t % ring()});
      for (Index h = 0; h < heads_; ++h) {
        std::byte* const to = stretch(place, h, t);
        // What a format leaves as it was is zero, here and in files.
        if (in_block == 0) std::memset(to + format_.packed(in_page), 0, std::size_t(format_.packed(block)));
        format_.write(to, in_page, some, recent(h, t), format_.dim);
      }
      t += some;
    }
  }

  Format format_;
  Index heads_;
  Index held_ = 0;
  std::vector<float> recent_;  // [heads, ring, dim], token t in slot t % ring
};

}  // namespace fovea::inline FOVEA_ISA::cache
