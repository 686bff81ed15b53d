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
    Index first = tokens.first;
    const Index last = std::min(tokens.last, stored);
    if (first < last) {
      const Index at = offset + kv_head * head_bytes, page_bytes = format.packed(page);
      const std::byte* const* next = pages + first / page;
      Index in_page = first % page;
      while (true) {
        auto run = format.run(*next + at, in_page);
        Index end = std::min(last, first + (page - in_page)), room = page;
        // Pages that follow one another in memory are one run.
        while (end < last && next[1] == next[0] + page_bytes) {
          end = std::min(last, end + page);
          room += page;
          ++next;
        }
        if constexpr (requires { run.long_run = true; }) run.long_run = room * format.dim >= 2 * run.far;
        if (end == last) {
          f(Span{first, end}, run);
          break;
        }
        ++next;
        constexpr Index ahead = Format::Run::piece;
        format.run(*next + at, 0).prefetch(0, std::min({ahead, page, last - end}));
        f(Span{first, end}, run);
        first = end;
        in_page = 0;
      }
      first = last;
    }
    if constexpr (Format::late) {
      const float* const slots = waiting + kv_head * ring * format.dim;
      while (first < tokens.last) {
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
