// The keys and values of one sequence as a cache stores them: pages of equal size, and behind them the last tokens in
// full precision where the format asks for it (format.hpp). A contiguous cache is one page.
#pragma once

#include <algorithm>

#include <fovea/core/span.hpp>
#include <fovea/parts/kv/format.hpp>

namespace fovea::inline FOVEA_ISA::kv {

// The keys, or the values. Token t of kv head h, where it is below `stored`, is token t % page of the stretch at
// pages[t / page] + offset + h * head_bytes; tokens from there on wait as floats, token t in slot t % ring of
// waiting [kv_heads, ring, dim].
template <class Format>
struct Tokens {
  Format format;
  const std::byte* const* pages = nullptr;
  Index page = 1;    // tokens of one
  Index offset = 0;  // bytes, as is head_bytes
  Index head_bytes = 0;
  Index stored = 0;
  Index length = 0;
  const float* waiting = nullptr;
  Index ring = 0;

  // f(Span part, const Run& run) for ascending parts that make up `tokens`; run begins with token part.first.
  template <class F>
  [[gnu::always_inline]] void each_run(Index kv_head, Span tokens, F&& f) const {
    const Index last = std::min(tokens.last, stored);
    if (tokens.first < last) each_stored(kv_head, {tokens.first, last}, f);
    if constexpr (Format::late) {
      const float* const slots = waiting + kv_head * ring * format.dim;
      for (Index first = std::max(tokens.first, stored); first < tokens.last;) {
        const Index slot = first % ring, end = std::min(tokens.last, first + (ring - slot));
        f(Span{first, end}, Rows<float>{slots + slot * format.dim, format.dim, format.dim});
        first = end;
      }
    }
  }

  // Elements of T that its runs want as scratch for so many rows of queries.
  template <class T>
  Index scratch_size(Index rows) const {
    const Index some = Format::Run::template scratch_size<T>(rows, format.dim);
    return Format::late ? std::max(some, Rows<float>::scratch_size<T>(rows, format.dim)) : some;
  }

 private:
  // Pages are read in parts, each with its distance (bytes) to what is asked for while it is read: to what comes `far`
  // tokens later, in this page or in a later one, wherever that is. Parts that follow one another in memory and have
  // the same distance are one run.
  struct Part {
    Index end, later;  // the end is a token of the page
  };

  template <class F>
  [[gnu::always_inline]] void each_stored(Index kv_head, Span tokens, F&& f) const {
    const Index at = offset + kv_head * head_bytes, page_bytes = format.packed(page), far = far_tokens();
    const std::byte* const* next = pages + tokens.first / page;
    const std::byte* const* const last_page = pages + (stored - 1) / page;
    Index in_page = tokens.first % page;
    const auto part = [&]() __attribute__((always_inline)) {
      if (far >= page) return Part{page, next[std::min<Index>(far / page, last_page - next)] - next[0]};
      Part result{page, format.packed(far)};
      if (in_page + far < page)
        result.end = far == 0 ? page : page - far;
      else if (next != last_page)
        result.later += next[1] - next[0] - page_bytes;
      return result;
    };
    Part own = part();
    for (Index first = tokens.first; first < tokens.last;) {
      auto run = format.run(*next + at, in_page);
      run.long_run = own.later != 0;
      run.later = own.later * 8 / Format::number_bits;
      const Index later = own.later;
      Index end = first + (own.end - in_page);
      while (end < tokens.last) {
        bool follows = true;
        if (own.end == page) {
          follows = next[1] == next[0] + page_bytes;
          ++next;
        }
        in_page = own.end == page ? 0 : own.end;
        own = part();
        if (!follows || own.later != later) break;
        end += own.end - in_page;
      }
      end = std::min(end, tokens.last);
      f(Span{first, end}, run);
      first = end;
    }
  }

  // So many tokens after one that is read the next one is asked for: whole pages, or whole blocks where pages are
  // larger. None when all of a head is near in any case.
  Index far_tokens() const {
    constexpr Index much = Index{256} << 10;  // bytes
    const Index block = format.block(), block_bytes = format.packed(block), page_bytes = format.packed(page);
    if (stored / block * block_bytes < much) return 0;
    const Index far = Format::Run::far * Format::number_bits / 8;  // bytes
    return far >= page_bytes ? far / page_bytes * page : std::max<Index>(1, far / block_bytes) * block;
  }
};

// The source (contiguous.hpp) of one sequence.
template <class KeyFormat, class ValueFormat>
struct Stored {
  Tokens<KeyFormat> k;
  Tokens<ValueFormat> v;
  Index heads = 0;

  Index length(Index = 0) const { return k.length; }
  Index longest() const { return k.length; }
  Index batch() const { return 1; }
  Index kv_heads() const { return heads; }
  Index key_dim() const { return k.format.dim; }
  Index value_dim() const { return v.format.dim; }

  template <class F>
  [[gnu::always_inline]] void each_keys(Index, Index kv_head, Span tokens, F&& f) const {
    k.each_run(kv_head, tokens, f);
  }
  template <class F>
  [[gnu::always_inline]] void each_values(Index, Index kv_head, Span tokens, F&& f) const {
    v.each_run(kv_head, tokens, f);
  }
  template <class T>
  Index scratch_size(Index rows) const {
    return std::max(k.template scratch_size<T>(rows), v.template scratch_size<T>(rows));
  }
};

}  // namespace fovea::inline FOVEA_ISA::kv
