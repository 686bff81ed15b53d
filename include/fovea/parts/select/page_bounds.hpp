// Bounds of the keys of a growing cache, page by page.
#pragma once

#include <algorithm>
#include <vector>

#include <fovea/core/check.hpp>
#include <fovea/parts/select/pool.hpp>

namespace fovea::inline FOVEA_ISA::select {

// The largest and the smallest key of each page, element by element, for each batch and kv head; pages are counted from
// the first key and the last one may be shorter. A plain object of the caller's: append the keys that the cache gets,
// as they lie in it (behind rotary positions), and copy, keep or save it like the cache.
//
//   PageBounds<float> bounds{.batch = 1, .kv_heads = 8, .dim = 128};
//   bounds.append(k);   // the prompt [1,8,M,128], then the key of each step [1,8,1,128]
template <class T>
struct PageBounds {
  Index page = 16;  // keys of a page
  Index batch = 1;
  Index kv_heads = 1;
  Index dim = 0;
  Index length = 0;       // keys so far
  Index capacity = 0;     // pages that there is room for
  std::vector<T> rows{};  // [batch x kv_heads x capacity x 2 dim]: a page's largest elements, then its smallest

  Index pages() const { return (length + page - 1) / page; }

  // [batch, kv_heads, pages, 2 dim]
  View<const T> view() const {
    View<const T> all = fovea::view(rows.data(), {batch, kv_heads, capacity, 2 * dim});
    all.length = pages();
    return all;
  }

  // Throws ArgumentError unless these are the bounds of keys [batch, kv_heads, length, dim].
  void check_for(const char* where, const View<const T>& keys) const {
    check(page > 0, where, "the page of the bounds must be positive, got ", page);
    check(batch == keys.batch && kv_heads == keys.heads && dim == keys.dim, where,
          "page bounds must have the batch, heads and width of k, wanted [", keys.batch, ", ", keys.heads, ", ",
          keys.dim, "], got [", batch, ", ", kv_heads, ", ", dim, "]");
    check(length == keys.length, where, "page bounds must hold the keys of k, wanted ", keys.length, ", got ", length);
    check_rows(where);
  }

  // The next keys of the cache, [batch, kv_heads, n, dim].
  template <class K, exec::Executor Exec = exec::Serial>
  void append(const K& k, const Exec& executor = {}) {
    constexpr auto where = "fovea::select::PageBounds::append";
    const auto keys = fovea::view(k);
    check(page > 0 && length >= 0, where, "the page must be positive, got ", page);
    check(keys.batch == batch && keys.heads == kv_heads && keys.dim == dim, where,
          "the keys must have the batch, heads and width of the bounds, wanted [", batch, ", ", kv_heads, ", ", dim,
          "], got [", keys.batch, ", ", keys.heads, ", ", keys.dim, "]");
    check_rows(where);
    reserve((length + keys.length + page - 1) / page);
    executor.parallel_for(batch * kv_heads, double(2 * keys.length * dim), [&](Index begin, Index end) {
      for (Index head = begin; head < end; ++head) extend(head, keys);
    });
    length += keys.length;
  }

 private:
  void check_rows(const char* where) const {
    check(capacity >= pages() && Index(rows.size()) == batch * kv_heads * capacity * 2 * dim, where,
          "page bounds must have room for their pages, wanted ", batch * kv_heads * capacity * 2 * dim,
          " numbers and at least ", pages(), " pages, got ", rows.size(), " and ", capacity);
  }

  // Room for so many pages, at least doubled so that appending costs the same on the whole.
  void reserve(Index wanted) {
    if (wanted <= capacity) return;
    const Index next = std::max(wanted, 2 * capacity), size = 2 * dim;
    std::vector<T> larger(static_cast<std::size_t>(batch * kv_heads * next * size));
    for (Index head = 0; head < batch * kv_heads; ++head)
      std::copy_n(rows.data() + head * capacity * size, pages() * size, larger.data() + head * next * size);
    rows.swap(larger);
    capacity = next;
  }

  template <class Keys>
  void extend(Index head, const Keys& keys) {
    T* const bounds = rows.data() + head * capacity * 2 * dim;
    for (Index i = 0; i < keys.length;) {
      const Index at = length + i, within = at % page, count = std::min(page - within, keys.length - i);
      T* const high = bounds + at / page * 2 * dim;
      const T* const key = keys.row(head / kv_heads, head % kv_heads, i);
      if (within == 0) {
        pool_block<T>(Pooling::bounds, count, dim, key, keys.length_stride, high);
      } else {
        for (Index n = 0; n < count; ++n) {
          simd::combine(high, key + n * keys.length_stride, dim, detail::larger<T>);
          simd::combine(high + dim, key + n * keys.length_stride, dim, detail::smaller<T>);
        }
      }
      i += count;
    }
  }
};

}  // namespace fovea::inline FOVEA_ISA::select
