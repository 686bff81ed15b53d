// The pages of a pool (paged.hpp): memory that is made many pages at a time, and who refers to which.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <vector>

#include <fovea/cache/memory.hpp>
#include <fovea/core/check.hpp>

namespace fovea::inline FOVEA_ISA::cache {

// Pages of one size with the number of sequences that refer to each.
//
// Memory is read at half its speed when every page is somewhere else, since the processor fetches ahead what lies
// behind a page and not what follows in the sequence; at four fifths in stretches of eight pages of 8 KB, and nearly
// as fast as in one piece in stretches of 64. So a sequence takes the page behind its last one where that is free, and
// begins where there is room for others of its own: at the start of 64 free pages, or in the middle of fewer, whose
// first half is left to the sequence before them.
class Pages {
 public:
  struct Sizes {
    Index heads, key_bytes, value_bytes;  // bytes of a page for one head, of its keys and of its values

    Index page() const { return heads * (key_bytes + value_bytes); }
  };

  static constexpr Index none = -1;

  Pages(const Sizes& sizes, Index at_a_time, bool may_grow)
      : sizes_(sizes),
        step_(at_a_time > 0 ? at_a_time : std::max<Index>(1, (Index{4} << 20) / sizes.page())),
        may_grow_(may_grow) {}

  bool may_grow() const { return may_grow_; }
  Index page_bytes() const { return sizes_.page(); }
  Index count() const { return Index(references_.size()); }
  Index free() const { return free_count_; }
  Index references(Index page) const { return references_[std::size_t(page)]; }

  // The keys, the values of kv head 0, and how far those of the next head are.
  std::byte* keys(Index page) const { return slab(page) + page % step_ * sizes_.key_bytes; }
  std::byte* values(Index page) const {
    return slab(page) + sizes_.heads * key_stride() + page % step_ * sizes_.value_bytes;
  }
  Index key_stride() const { return step_ * sizes_.key_bytes; }
  Index value_stride() const { return step_ * sizes_.value_bytes; }

  // Makes sure that `wanted` pages are free.
  void provide(const char* where, Index wanted) {
    if (wanted <= free()) return;
    check(may_grow_, where, "the pool may not grow, it has ", free(), " free pages, wanted ", wanted);
    grow(std::max(wanted - free(), count() / 2));  // room for stretches
  }
  // At least so many more.
  void grow(Index more) {
    for (Index n = 0; n < more; n += step_) add_slab();
  }

  // One of the free pages, of which there must be one, referred to once: the one behind page `last` of its sequence
  // where that is free; `last` is none for the first page.
  Index take(Index last = none) {
    const Index behind = last + 1;
    const Index page = last != none && behind < count() && references(behind) == 0 ? behind : roomy();
    references_[std::size_t(page)] = 1;
    group(page) ^= bit(page);
    --free_count_;
    return page;
  }
  void refer(Index page) { ++references_[std::size_t(page)]; }
  void give(Index page) {
    if (--references_[std::size_t(page)] > 0) return;
    group(page) ^= bit(page);
    ++free_count_;
  }
  void copy(Index from, Index to) {
    for (Index h = 0; h < sizes_.heads; ++h) {
      std::memcpy(keys(to) + h * key_stride(), keys(from) + h * key_stride(), std::size_t(sizes_.key_bytes));
      std::memcpy(values(to) + h * value_stride(), values(from) + h * value_stride(), std::size_t(sizes_.value_bytes));
    }
  }

 private:
  using Group = std::uint64_t;  // which of so many pages are free
  static constexpr Index group_size = 64;

  struct Stretch {
    Index first = 0, size = 0;
  };

  std::byte* slab(Index page) const { return slabs_[std::size_t(page / step_)].data(); }
  Group& group(Index page) { return free_[std::size_t(page / group_size)]; }
  static Group bit(Index page) { return Group{1} << page % group_size; }

  // Where a sequence begins: in the longest stretch of free pages that a group has.
  Index roomy() const {
    Stretch best;
    Index base = 0;
    for (Index g = 0; g < Index(free_.size()) && best.size < group_size; ++g) {
      if (std::popcount(free_[std::size_t(g)]) <= best.size) continue;
      if (const Stretch found = longest(free_[std::size_t(g)]); found.size > best.size) {
        best = found;
        base = g * group_size;
      }
    }
    return base + best.first + (best.first > 0 ? best.size / 2 : 0);
  }
  static Stretch longest(Group free) {
    Stretch best;
    for (Index at = 0; at < group_size;) {
      const Group left = free >> at;
      if (left == 0) break;
      at += std::countr_zero(left);
      const Index size = std::countr_one(free >> at);
      if (size > best.size) best = {at, size};
      at += size;
    }
    return best;
  }

  void add_slab() {
    const Index first = count();
    const auto pages = std::size_t(first + step_);
    if (references_.capacity() < pages) references_.reserve(std::max(pages, 2 * references_.size()));
    free_.resize((pages + group_size - 1) / group_size, 0);
    slabs_.emplace_back(step_ * page_bytes());
    references_.resize(pages, 0);
    for (Index page = first; page < count(); ++page) group(page) |= bit(page);
    free_count_ += step_;
  }

  Sizes sizes_;
  Index step_;
  bool may_grow_;
  std::vector<Memory> slabs_{};  // each of `step_` pages
  std::vector<Index> references_{};
  std::vector<Group> free_{};
  Index free_count_ = 0;
};

}  // namespace fovea::inline FOVEA_ISA::cache
