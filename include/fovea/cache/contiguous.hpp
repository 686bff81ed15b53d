// The keys and values of one sequence in one piece of memory.
//
//   cache::Contiguous<Eigen::bfloat16> cache({.kv_heads = 8, .key_dim = 128, .value_dim = 128, .reserve = 4096});
//   cache.append(k, v);                                        k [G,n,D], v [G,n,E]: the prompt, then token by token
//   fovea::attend(q, cache, out, recipe);                      q [1,H,N,D] are the last N tokens
//
// Memory is [G, capacity] keys and then as many values, in the formats of K and V. It grows by doubling, or not at all.
// A cache is moved, and copied by fork() alone. What source() gives is valid until the cache changes or moves.
#pragma once

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include <fovea/cache/appended.hpp>
#include <fovea/cache/file.hpp>
#include <fovea/cache/memory.hpp>
#include <fovea/cache/side.hpp>

namespace fovea::inline FOVEA_ISA::cache {

struct ContiguousOptions {
  Index kv_heads = 0;  // required, as are the widths
  Index key_dim = 0;
  Index value_dim = 0;
  Index reserve = 0;           // tokens for which there is room from the start
  bool may_grow = true;        // beyond the reserve; otherwise append() refuses
  bool rotated = true;         // whether keys are given rotated by their positions; kept in files
  kv::Grouping grouping = {};  // of quantised formats
};

// K and V: float, double, Eigen::bfloat16, Eigen::half, kv::Int8 or kv::Int4.
template <class K, class V = K>
class Contiguous {
 public:
  using Keys = kv::KeyFormat<K>;
  using Values = kv::ValueFormat<V>;

  // Throws ArgumentError for extents or groups that are not legal.
  explicit Contiguous(const ContiguousOptions& options)
      : options_(checked(options)),
        keys_(kv::Formats<K>::keys(name, options.key_dim, options.grouping), options.kv_heads),
        values_(kv::Formats<V>::values(name, options.value_dim, options.grouping), options.kv_heads) {
    reserve(options.reserve);
  }
  // What is left is empty and refuses tokens.
  Contiguous(Contiguous&& other) noexcept
      : options_(other.options_),
        keys_(std::move(other.keys_)),
        values_(std::move(other.values_)),
        length_(std::exchange(other.length_, 0)),
        capacity_(std::exchange(other.capacity_, 0)),
        memory_(std::move(other.memory_)) {
    other.options_.kv_heads = 0;
  }
  Contiguous& operator=(Contiguous&& other) noexcept {
    Contiguous moved(std::move(other));
    swap(moved);
    return *this;
  }

  const ContiguousOptions& options() const { return options_; }
  Index length() const { return length_; }
  Index capacity() const { return capacity_; }  // tokens for which there is room
  bool rotated() const { return options_.rotated; }

  // Makes room for `tokens` tokens in all, also where the cache may not grow by itself.
  void reserve(Index tokens) {
    constexpr auto where = "fovea::cache::Contiguous::reserve";
    check_whole(where);
    check(tokens >= 0 && tokens <= most_tokens(), where, "the tokens must be between 0 and ", most_tokens(), ", got ",
          tokens);
    if (tokens > capacity_) move_to(tokens, *this);
  }

  // Tokens that follow: k [G,n,D] and v [G,n,E], or matrices [n,D] and [n,E] when there is one head; float or double.
  // Throws ArgumentError, and leaves the cache as it was, when they do not fit it, when there is no room and the cache
  // may not grow, or when the format cannot store a number.
  template <class Tk, class Tv>
  void append(const Tk& k, const Tv& v) {
    constexpr auto where = "fovea::cache::Contiguous::append";
    const auto keys = appended(k);
    const auto values = appended(v);
    check_whole(where);
    check_appended(where, keys.extents(), values.extents(), options_.kv_heads, options_.key_dim, options_.value_dim);
    const Index more = keys.length;
    check(options_.may_grow || more <= capacity_ - length_, where, "the cache may not grow, it has room for ",
          capacity_ - length_, " tokens, got ", more);
    check(more <= most_tokens() - length_, where, "there is no room for ", more, " tokens behind ", length_);
    keys_.check_storable(where, "k", keys);
    values_.check_storable(where, "v", values);
    if (more == 0) return;
    if (more > capacity_ - length_)
      move_to(std::max({length_ + more, std::min(2 * capacity_, most_tokens()), Index{16}}), *this);
    keys_.append(places().k, keys, length_);
    values_.append(places().v, values, length_);
    length_ += more;
  }

  // Only the first `tokens` tokens stay (speculative ones that were rejected go). Of quantised formats up to `residual`
  // tokens go without a trace; when more do, the last tokens that stay come back into full precision as rounded.
  void truncate(Index tokens) {
    constexpr auto where = "fovea::cache::Contiguous::truncate";
    check(tokens >= 0 && tokens <= length_, where, "the tokens that stay must be between 0 and ", length_, ", got ",
          tokens);
    keys_.truncate(places().k, length_, tokens);
    values_.truncate(places().v, length_, tokens);
    length_ = tokens;
  }
  void clear() { truncate(0); }

  // A copy with a memory of its own.
  Contiguous fork() const {
    constexpr auto where = "fovea::cache::Contiguous::fork";
    check_whole(where);
    return Contiguous(*this);
  }

  // Writes the sequence (docs/cache_format.md). Throws FormatError when the stream fails.
  void save(std::ostream& to) const {
    constexpr auto where = "fovea::cache::Contiguous::save";
    check_whole(where);
    detail::write_sequence(where, to, detail::file_header<K, V>(options_), keys_, values_, places(), length_);
  }
  // Reads what a cache of the same types, heads, widths and groups has written, Contiguous or Paged, and takes it in
  // place of what was there. Memory is taken as tokens arrive, whatever the file promises. Throws FormatError, and
  // leaves the cache as it was, when the file is not such a one or when the cache may not grow and has no room for it.
  void load(std::istream& from) {
    constexpr auto where = "fovea::cache::Contiguous::load";
    check_whole(where);
    ContiguousOptions options = options_;
    options.reserve = capacity_;
    Contiguous fresh(options);
    Index written = 0;
    const auto begin = [&](Index length) {
      detail::check_file(options_.may_grow || length <= capacity_, where, "the cache may not grow, it has room for ",
                         capacity_, " tokens, the file has ", length);
    };
    const auto make_room = [&](Index tokens) {
      if (tokens > fresh.capacity_) fresh.move_to(std::max(tokens, 2 * fresh.capacity_), fresh, written, written);
      written = tokens;
      return fresh.places();
    };
    const Index length = detail::read_sequence(where, from, detail::file_header<K, V>(options_), fresh.keys_,
                                               fresh.values_, begin, make_room);
    if (length > fresh.capacity_) fresh.move_to(length, fresh, written, written);
    fresh.length_ = length;
    fresh.options_ = options_;
    swap(fresh);
  }

  // What the engine reads (parts/kv/contiguous.hpp).
  kv::Stored<Keys, Values> source() const {
    return {keys_.tokens(places().k, length_), values_.tokens(places().v, length_), options_.kv_heads};
  }

 private:
  static constexpr auto name = "fovea::cache::Contiguous";

  Contiguous(const Contiguous& other)
      : options_(other.options_), keys_(other.keys_), values_(other.values_), length_(other.length_) {
    move_to(other.capacity_, other);
  }

  static const ContiguousOptions& checked(const ContiguousOptions& options) {
    check_extents(name, options.kv_heads, options.key_dim, options.value_dim);
    check(options.reserve >= 0, name, "reserve must not be negative, got ", options.reserve);
    return options;
  }
  void check_whole(const char* where) const { check(options_.kv_heads > 0, where, "the cache was moved from"); }

  void swap(Contiguous& other) noexcept {
    std::swap(options_, other.options_);
    std::swap(keys_, other.keys_);
    std::swap(values_, other.values_);
    std::swap(length_, other.length_);
    std::swap(capacity_, other.capacity_);
    std::swap(memory_, other.memory_);
  }

  Index block() const { return std::lcm(keys_.format().block(), values_.format().block()); }
  Index bytes(Index tokens) const {
    return options_.kv_heads * (keys_.format().bytes(tokens) + values_.format().bytes(tokens));
  }
  Index most_tokens() const { return (Index{1} << 62) / bytes(block()); }
  Places places_in(const Memory& memory, Index capacity) const {
    const Index key_bytes = keys_.format().bytes(capacity), value_bytes = values_.format().bytes(capacity);
    return {{memory.address(), capacity, 0, key_bytes},
            {memory.address(), capacity, options_.kv_heads * key_bytes, value_bytes}};
  }

  Places places() const { return places_in(memory_, capacity_); }

  // Takes a memory for at least so many tokens and copies what `other`, itself or one like it, has written in its own.
  void move_to(Index tokens, const Contiguous& other) {
    move_to(tokens, other, keys_.format().settled(length_), values_.format().settled(length_));
  }
  void move_to(Index tokens, const Contiguous& other, Index keys, Index values) {
    const Index capacity = (tokens + block() - 1) / block() * block();
    Memory memory(bytes(capacity));
    const Places from = other.places(), to = places_in(memory, capacity);
    keys_.copy(from.k, to.k, keys);
    values_.copy(from.v, to.v, values);
    std::swap(memory_, memory);
    capacity_ = capacity;
  }

  ContiguousOptions options_;
  Side<Keys> keys_;
  Side<Values> values_;
  Index length_ = 0, capacity_ = 0;
  Memory memory_;
};

}  // namespace fovea::inline FOVEA_ISA::cache
