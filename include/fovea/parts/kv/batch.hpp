// Several sequences in one call, each of its own length.
//
//   std::vector<cache::Paged<float>> sequences;
//   fovea::attend(q, kv::batch(sequences), out, recipe, executor);       q [B,H,N,D], B sequences
#pragma once

#include <algorithm>
#include <iterator>
#include <ranges>
#include <type_traits>

#include <fovea/core/check.hpp>
#include <fovea/core/span.hpp>

namespace fovea::inline FOVEA_ISA::kv {

namespace detail {

// What has a source(): the item, or what it points to.
template <class Item>
const auto& sequence_of(const Item& item) {
  if constexpr (requires { item.source(); }) {
    return item;
  } else {
    return *item;
  }
}

}  // namespace detail

// The source (contiguous.hpp) of the sequences that an iterator leads to: objects with source(), or pointers to them.
// Each is asked when it is read, and nothing is copied: the objects must stay where they are.
template <class Iterator>
class Batch {
 public:
  Batch(Iterator first, Index size) : first_(first), size_(size) {}

  Index length(Index batch) const { return of(batch).length(0); }
  Index longest() const {
    Index most = 0;
    for (Index b = 0; b < size_; ++b) most = std::max(most, length(b));
    return most;
  }
  Index batch() const { return size_; }
  // Of a batch of none, nothing is known.
  Index kv_heads() const { return size_ == 0 ? 0 : of(0).kv_heads(); }
  Index key_dim() const { return size_ == 0 ? 0 : of(0).key_dim(); }
  Index value_dim() const { return size_ == 0 ? 0 : of(0).value_dim(); }

  template <class F>
  [[gnu::always_inline]] void each_keys(Index batch, Index kv_head, Span tokens, F&& f) const {
    of(batch).each_keys(0, kv_head, tokens, f);
  }
  template <class F>
  [[gnu::always_inline]] void each_values(Index batch, Index kv_head, Span tokens, F&& f) const {
    of(batch).each_values(0, kv_head, tokens, f);
  }
  template <class T>
  Index scratch_size(Index rows) const {
    Index most = 0;
    for (Index b = 0; b < size_; ++b) most = std::max(most, of(b).template scratch_size<T>(rows));
    return most;
  }

 private:
  auto of(Index batch) const { return detail::sequence_of(first_[std::iter_difference_t<Iterator>(batch)]).source(); }

  Iterator first_;
  Index size_;
};

// The source of a range of caches, or of pointers to them: a vector, an array, a span. Throws ArgumentError when a
// pointer is null or when they differ in their heads or widths.
template <std::ranges::random_access_range Range>
auto batch(const Range& caches) {
  constexpr auto where = "fovea::kv::batch";
  using Iterator = std::ranges::iterator_t<const Range>;
  const Batch<Iterator> all(std::ranges::begin(caches), Index(std::ranges::size(caches)));
  Index n = 0, heads = 0, key_dim = 0, value_dim = 0;
  for (const auto& item : caches) {
    if constexpr (requires { item == nullptr; }) check(item != nullptr, where, "sequence ", n, " is a null pointer");
    const auto source = detail::sequence_of(item).source();
    check(source.batch() == 1, where, "each must be one sequence, the batch of number ", n, " is ", source.batch());
    if (n == 0) {
      heads = source.kv_heads();
      key_dim = source.key_dim();
      value_dim = source.value_dim();
    }
    check(source.kv_heads() == heads && source.key_dim() == key_dim && source.value_dim() == value_dim, where,
          "sequences must have the same kv heads and widths, wanted ", heads, " heads, ", key_dim, " and ", value_dim,
          ", sequence ", n, " has ", source.kv_heads(), ", ", source.key_dim(), " and ", source.value_dim());
    ++n;
  }
  return all;
}

}  // namespace fovea::inline FOVEA_ISA::kv
