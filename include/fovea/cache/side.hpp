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

template <class Format>
class Side {
 public:
  Side(const Format& format, Index heads)
      : format_(format), heads_(heads), recent_(std::size_t(heads * 2 * format.residual() * format.dim)) {}

  const Format& format() const { return format_; }

  // Refuses numbers that the format cannot store.
  template <class T>
  void check_storable(const char* where, const char* name, const View<const T>& rows) const {
    if constexpr (Format::late) {
      for (Index h = 0; h < rows.heads; ++h) {
        for (Index i = 0; i < rows.length; ++i) {
          const T* const row = rows.row(0, h, i);
          bool fits = true;
          for (Index d = 0; d < rows.dim; ++d) fits = fits && std::fabs(row[d]) <= T(Format::largest);
          check(fits, where, name, " must be finite and at most ", double(Format::largest),
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

  // What is written of `length` tokens, from one place of one page to another one.
  void copy(const Place& from, const Place& to, Index length) const {
    const Index block = format_.block(), bytes = format_.bytes((format_.settled(length) + block - 1) / block * block);
    if (bytes == 0) return;
    for (Index h = 0; h < heads_; ++h) std::memcpy(stretch(to, h, 0), stretch(from, h, 0), std::size_t(bytes));
  }

  // Of `length` tokens the first `left` stay. To be called while the pages are still there.
  void truncate(const Place& place, Index length, Index left) {
    if constexpr (Format::late) {
      const Index waiting = format_.settled(left);
      if (waiting >= held_) return;
      const Span lost{waiting, std::min(held_, left)};
      const auto all = tokens(place, length);
      for (Index h = 0; h < heads_; ++h) {
        all.each_run(h, lost, [&](Span part, const auto& run) {
          for (Index t = part.first; t < part.last; ++t) run.read(t - part.first, 1, recent(h, t), format_.dim);
        });
      }
      held_ = waiting;
    }
  }

  kv::Tokens<Format> tokens(const Place& place, Index length) const {
    return {format_, place.pages,    place.page, place.offset, place.head_bytes, format_.settled(length),
            length,  recent_.data(), ring()};
  }

  // The first token that is held in full precision, all up to the last are, where the format waits.
  Index held() const { return held_; }
  void hold_from(Index token) { held_ = token; }
  Index ring() const { return 2 * format_.residual(); }
  // Token t of them.
  float* recent(Index head, Index t) { return recent_.data() + (head * ring() + t % ring()) * format_.dim; }
  const float* recent(Index head, Index t) const { return const_cast<Side*>(this)->recent(head, t); }

  static std::byte* stretch(const Place& place, Index head, Index token) {
    return place.pages[token / place.page] + place.offset + head * place.head_bytes;
  }

 private:
  void settle(const Place& place, Span tokens) {
    for (Index t = tokens.first; t < tokens.last;) {
      const Index in_page = t % place.page;
      const Index some = std::min({tokens.last - t, place.page - in_page, ring() - t % ring()});
      for (Index h = 0; h < heads_; ++h) format_.write(stretch(place, h, t), in_page, some, recent(h, t), format_.dim);
      t += some;
    }
  }

  Format format_;
  Index heads_;
  Index held_ = 0;
  std::vector<float> recent_;  // [heads, ring, dim], token t in slot t % ring
};

}  // namespace fovea::inline FOVEA_ISA::cache
