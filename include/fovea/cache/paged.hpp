// Sequences whose keys and values lie in pages of one pool: they grow a page at a time, and share the pages of a
// prefix. The layout is that of block tables: Kwon et al., "Efficient Memory Management for Large Language Model
// Serving with PagedAttention", SOSP 2023, arXiv:2309.06180.
//
//   cache::Pool<float> pool({.kv_heads = 8, .key_dim = 128, .value_dim = 128, .page_tokens = 16, .pages = 4096});
//   cache::Paged<float> prompt(pool);
//   prompt.append(k, v);                                       k [G,n,D], v [G,n,E]
//   auto answer = prompt.fork();                               shares all pages; what is appended is its own
//   fovea::attend(q, answer, out, recipe);                     q [1,H,N,D] are its last N tokens
//
// Token t of a sequence is token t % page_tokens of page pages()[t / page_tokens]. The last tokens of quantised
// formats, which wait in full precision, are with the sequence. A page that several sequences share is never written:
// who appends to it copies it first.
//
// Pages are made many at a time: [G, pages, page_tokens] keys and then as many values, in the formats of K and V, so
// that pages with consecutive numbers are one piece of memory for each head. A sequence takes them in long stretches
// where there are such (pages.hpp).
//
// A pool lives as long as the last sequence on it. Neither is thread-safe: what changes one sequence (and the end of
// its life) may change the pool, so all sequences of a pool change on one thread at a time. Reading them changes
// nothing. What source() gives is valid until the sequence changes or moves.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include <fovea/cache/appended.hpp>
#include <fovea/cache/file.hpp>
#include <fovea/cache/pages.hpp>
#include <fovea/cache/side.hpp>

namespace fovea::inline FOVEA_ISA::cache {

struct PoolOptions {
  Index kv_heads = 0;  // required, as are the widths
  Index key_dim = 0;
  Index value_dim = 0;
  Index page_tokens = 16;      // of quantised formats a multiple of the group and of 32
  Index pages = 0;             // that there are from the start
  bool may_grow = true;        // by half, in pieces of as many (4 MiB when 0); else append() refuses when none is free
  bool rotated = true;         // whether keys are given rotated by their positions; kept in files
  kv::Grouping grouping = {};  // of quantised formats
};

template <class K, class V>
class Paged;

// Copies are the same pool. K and V: float, double, Eigen::bfloat16, Eigen::half, kv::Int8 or kv::Int4.
template <class K, class V = K>
class Pool {
 public:
  using Keys = kv::KeyFormat<K>;
  using Values = kv::ValueFormat<V>;

  // Throws ArgumentError for extents, pages or groups that are not legal.
  explicit Pool(const PoolOptions& options) : Pool(options, formats(options)) {}
  Pool(const Pool&) = default;
  Pool& operator=(const Pool&) = default;

  const PoolOptions& options() const { return options_; }
  Index page_tokens() const { return options_.page_tokens; }
  Index pages() const { return pages_->count(); }
  Index free_pages() const { return pages_->free(); }
  bool rotated() const { return options_.rotated; }
  // Sequences that refer to a page; none when it is free.
  Index references(Index page) const {
    check(page >= 0 && page < pages(), "fovea::cache::Pool::references", "the page must be between 0 and ", pages() - 1,
          ", got ", page);
    return pages_->references(page);
  }
  // Makes sure that there are so many pages in all, or more, also where the pool may not grow by itself.
  void reserve(Index pages) {
    check(pages >= 0 && pages <= most_pages(), "fovea::cache::Pool::reserve", "the pages must be between 0 and ",
          most_pages(), ", got ", pages);
    if (pages > pages_->count()) pages_->grow(pages - pages_->count());
  }

 private:
  friend class Paged<K, V>;

  struct Both {
    Keys k;
    Values v;
  };

  static constexpr auto name = "fovea::cache::Pool";

  static Both formats(const PoolOptions& options) {
    check_extents(name, options.kv_heads, options.key_dim, options.value_dim);
    const Both both{kv::Formats<K>::keys(name, options.key_dim, options.grouping),
                    kv::Formats<V>::values(name, options.value_dim, options.grouping)};
    const Index block = std::lcm(both.k.block(), both.v.block()), most = Index{1} << 20;
    check(options.page_tokens > 0 && options.page_tokens <= most, name, "page_tokens must be between 1 and ", most,
          ", got ", options.page_tokens);
    check(options.page_tokens % block == 0, name, "page_tokens must be a multiple of the block of the format, ",
          "wanted a multiple of ", block, ", got ", options.page_tokens);
    return both;
  }
  Pool(const PoolOptions& options, const Both& both)
      : options_(options),
        formats_(both),
        pages_(std::make_shared<Pages>(
            Pages::Sizes{options.kv_heads, both.k.bytes(options.page_tokens), both.v.bytes(options.page_tokens)},
            options.pages, options.may_grow)) {
    check(options.pages >= 0 && options.pages <= most_pages(), name, "pages must be between 0 and ", most_pages(),
          ", got ", options.pages);
    if (options.pages > 0) pages_->grow(options.pages);
  }
  Index most_pages() const { return (Index{1} << 62) / pages_->page_bytes(); }

  PoolOptions options_;
  Both formats_;
  std::shared_ptr<Pages> pages_;
};

// A sequence. It is moved, and copied by fork() alone; what it was moved from refuses everything but its end.
template <class K, class V = K>
class Paged {
 public:
  using Keys = kv::KeyFormat<K>;
  using Values = kv::ValueFormat<V>;

  explicit Paged(const Pool<K, V>& pool)
      : pool_(pool), keys_(pool.formats_.k, pool.options_.kv_heads), values_(pool.formats_.v, pool.options_.kv_heads) {}

  // The first `length` tokens of pages that other sequences have written, with which it shares them. Plain formats.
  // Throws ArgumentError when a page is not one of the pool's or is free, or when there are too few.
  Paged(const Pool<K, V>& pool, std::span<const Index> pages, Index length) requires(!Keys::late && !Values::late)
      : Paged(pool) {
    constexpr auto where = "fovea::cache::Paged";
    check(length >= 0, where, "the length must not be negative, got ", length);
    const Index wanted = pages_for(length), page_count = pool.pages();
    check(Index(pages.size()) >= wanted, where, "the page table is shorter than the length, wanted ", wanted,
          " pages, got ", pages.size());
    for (Index p = 0; p < wanted; ++p) {
      const Index page = pages[std::size_t(p)];
      check(page >= 0 && page < page_count, where, "pages must be between 0 and ", page_count - 1, ", entry ", p,
            " is ", page);
      check(pool.references(page) > 0, where, "page ", page, " is free, no sequence has written it, entry ", p);
    }
    reserve_table(wanted);
    for (Index p = 0; p < wanted; ++p) share(pages[std::size_t(p)]);
    length_ = length;
  }
  Paged(Paged&& other) noexcept
      : pool_(other.pool_),
        keys_(std::move(other.keys_)),
        values_(std::move(other.values_)),
        length_(std::exchange(other.length_, 0)),
        numbers_(std::exchange(other.numbers_, {})),
        keys_of_(std::exchange(other.keys_of_, {})),
        values_of_(std::exchange(other.values_of_, {})) {
    other.pool_.pages_ = nullptr;
  }
  Paged& operator=(Paged&& other) noexcept {
    Paged moved(std::move(other));
    swap(moved);
    return *this;
  }
  ~Paged() { keep_pages(0); }

  Index length() const { return length_; }
  bool rotated() const { return pool_.rotated(); }
  std::span<const Index> pages() const { return numbers_; }  // the page table
  const Pool<K, V>& pool() const {
    check_whole("fovea::cache::Paged::pool");
    return pool_;
  }

  // Makes the page table long enough for so many tokens. It takes no pages: see Pool::reserve.
  void reserve(Index tokens) {
    constexpr auto where = "fovea::cache::Paged::reserve";
    check_whole(where);
    check(tokens >= 0 && tokens <= most_tokens, where, "the tokens must be between 0 and ", most_tokens, ", got ",
          tokens);
    make_table((tokens + page() - 1) / page());
  }

  // Tokens that follow: k [G,n,D] and v [G,n,E], or matrices [n,D] and [n,E] when there is one head; float or double.
  // Throws ArgumentError, and leaves the sequence and the pool as they were, when they do not fit, when there are too
  // few free pages in a pool that may not grow, or when the format cannot store a number.
  template <class Tk, class Tv>
  void append(const Tk& k, const Tv& v) {
    constexpr auto where = "fovea::cache::Paged::append";
    const auto keys = appended(k);
    const auto values = appended(v);
    check_whole(where);
    const PoolOptions& o = pool_.options_;
    check_appended(where, keys.extents(), values.extents(), o.kv_heads, o.key_dim, o.value_dim);
    check(keys.length <= most_tokens - length_, where, "there is no room for ", keys.length, " tokens behind ",
          length_);
    keys_.check_storable(where, "k", keys);
    values_.check_storable(where, "v", values);
    if (keys.length == 0) return;
    make_pages(where, length_ + keys.length);
    keys_.append(places().k, keys, length_);
    values_.append(places().v, values, length_);
    length_ += keys.length;
  }

  // Only the first `tokens` tokens stay (speculative ones that were rejected go), and pages that hold none of them are
  // given back. Of quantised formats up to `residual` tokens go without a trace; when more do, the last tokens that
  // stay come back into full precision as rounded.
  void truncate(Index tokens) {
    constexpr auto where = "fovea::cache::Paged::truncate";
    check_whole(where);
    check(tokens >= 0 && tokens <= length_, where, "the tokens that stay must be between 0 and ", length_, ", got ",
          tokens);
    keys_.truncate(places().k, length_, tokens);
    values_.truncate(places().v, length_, tokens);
    length_ = tokens;
    keep_pages(pages_for(tokens));
  }
  void clear() { truncate(0); }

  // A sequence that shares the pages of this one; only tokens that wait in full precision are copied.
  Paged fork() const { return fork(length_); }
  // The same of the first `tokens` tokens: what fork() and truncate(tokens) would leave.
  Paged fork(Index tokens) const {
    constexpr auto where = "fovea::cache::Paged::fork";
    check_whole(where);
    check(tokens >= 0 && tokens <= length_, where, "the tokens must be between 0 and ", length_, ", got ", tokens);
    Paged other(pool_);
    other.keys_ = keys_;
    other.values_ = values_;
    other.keys_.truncate(places().k, length_, tokens);
    other.values_.truncate(places().v, length_, tokens);
    const Index pages = pages_for(tokens);
    other.reserve_table(pages);
    for (Index p = 0; p < pages; ++p) other.share(numbers_[std::size_t(p)]);
    other.length_ = tokens;
    return other;
  }

  // Writes the sequence (docs/cache_format.md). Throws FormatError when the stream fails.
  void save(std::ostream& to) const {
    constexpr auto where = "fovea::cache::Paged::save";
    check_whole(where);
    detail::write_sequence(where, to, detail::file_header<K, V>(pool_.options_), keys_, values_, places(), length_);
  }
  // Reads what a cache of the same types, heads, widths and groups has written, Contiguous or Paged, and takes it in
  // place of what was there. Pages are taken as tokens arrive, whatever the file promises. Throws FormatError, and
  // leaves the sequence as it was, when the file is not such a one or when there are too few free pages in a pool that
  // may not grow (the old ones are in use until the end).
  void load(std::istream& from) {
    constexpr auto where = "fovea::cache::Paged::load";
    check_whole(where);
    Paged fresh(pool_);
    const auto begin = [&](Index length) {
      const Index wanted = pages_for(length), free = pool_.free_pages();
      detail::check_file(pool_.options_.may_grow || wanted <= free, where, "the pool may not grow, it has ", free,
                         " free pages, wanted ", wanted);
    };
    const auto make_room = [&](Index tokens) {
      const Index pages = (tokens + page() - 1) / page();
      fresh.reserve_table(pages);
      pool_.pages_->provide(where, pages - Index(fresh.numbers_.size()));
      while (Index(fresh.numbers_.size()) < pages) fresh.add_new();
      return fresh.places();
    };
    fresh.length_ = detail::read_sequence(where, from, detail::file_header<K, V>(pool_.options_), fresh.keys_,
                                          fresh.values_, begin, make_room);
    swap(fresh);
  }

  // What the engine reads (parts/kv/contiguous.hpp).
  kv::Stored<Keys, Values> source() const {
    check_whole("fovea::cache::Paged::source");
    return {keys_.tokens(places().k, length_), values_.tokens(places().v, length_), pool_.options_.kv_heads};
  }

 private:
  static constexpr Index most_tokens = Index{1} << 56;

  void check_whole(const char* where) const { check(pool_.pages_ != nullptr, where, "the sequence was moved from"); }

  void swap(Paged& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(keys_, other.keys_);
    std::swap(values_, other.values_);
    std::swap(length_, other.length_);
    std::swap(numbers_, other.numbers_);
    std::swap(keys_of_, other.keys_of_);
    std::swap(values_of_, other.values_of_);
  }

  Index page() const { return pool_.options_.page_tokens; }
  // Pages that hold what is written of `length` tokens.
  Index pages_for(Index length) const {
    const Index written = std::max(keys_.format().settled(length), values_.format().settled(length));
    return (written + page() - 1) / page();
  }
  Places places() const {
    const Pages& pool = *pool_.pages_;
    return {{keys_of_.data(), page(), 0, pool.key_stride()}, {values_of_.data(), page(), 0, pool.value_stride()}};
  }

  // Pages for what follows up to `length` tokens: new ones, and copies of those that are shared and will be written.
  void make_pages(const char* where, Index length) {
    Pages& pool = *pool_.pages_;
    const Index had = Index(numbers_.size()), wanted = pages_for(length);
    const Span keys{keys_.format().settled(length_), keys_.format().settled(length)};
    const Span values{values_.format().settled(length_), values_.format().settled(length)};
    const auto is_copied = [&](Index p) {
      const Span tokens{p * page(), (p + 1) * page()};
      return pool.references(numbers_[std::size_t(p)]) > 1 &&
             !(intersect(keys, tokens).empty() && intersect(values, tokens).empty());
    };
    const Index first = std::min({had, keys.first / page(), values.first / page()});
    Index fresh = wanted - had;
    for (Index p = first; p < had; ++p) fresh += is_copied(p);
    if (fresh == 0) return;
    reserve_table(wanted);
    pool.provide(where, fresh);
    for (Index p = first; p < had; ++p) {
      if (!is_copied(p)) continue;
      const Index copy = pool.take(p > 0 ? numbers_[std::size_t(p - 1)] : Pages::none),
                  shared = std::exchange(numbers_[std::size_t(p)], copy);
      pool.copy(shared, copy);
      keys_of_[std::size_t(p)] = pool.keys(copy);
      values_of_[std::size_t(p)] = pool.values(copy);
      pool.give(shared);
    }
    for (Index p = had; p < wanted; ++p) add_new();
  }

  void make_table(Index pages) {
    numbers_.reserve(std::size_t(pages));
    keys_of_.reserve(std::size_t(pages));
    values_of_.reserve(std::size_t(pages));
  }
  void reserve_table(Index pages) {
    if (pages > Index(std::min({numbers_.capacity(), keys_of_.capacity(), values_of_.capacity()})))
      make_table(std::max({pages, 2 * Index(numbers_.size()), Index{16}}));
  }
  void add(Index page) {
    numbers_.push_back(page);
    keys_of_.push_back(pool_.pages_->keys(page));
    values_of_.push_back(pool_.pages_->values(page));
  }
  void add_new() { add(pool_.pages_->take(numbers_.empty() ? Pages::none : numbers_.back())); }
  void share(Index page) {
    pool_.pages_->refer(page);
    add(page);
  }
  void keep_pages(Index pages) {
    while (Index(numbers_.size()) > pages) {
      pool_.pages_->give(numbers_.back());
      numbers_.pop_back();
      keys_of_.pop_back();
      values_of_.pop_back();
    }
  }

  Pool<K, V> pool_;
  Side<Keys> keys_;
  Side<Values> values_;
  Index length_ = 0;
  std::vector<Index> numbers_{};                     // the page table
  std::vector<std::byte*> keys_of_{}, values_of_{};  // where each page is
};

}  // namespace fovea::inline FOVEA_ISA::cache
