// The keys that a method kept for each query of one input.
#pragma once

#include <algorithm>
#include <concepts>
#include <functional>
#include <iterator>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <fovea/parts/mask/mask.hpp>

#include "shapes.hpp"

namespace bench {

class Kept {
 public:
  // Of a rule: bool(Row, Index key).
  template <class F>
  requires std::is_invocable_r_v<bool, const F&, const Row&, Index> Kept(F rule)
      : restrict_([rule = std::move(rule)](const Row& row, std::vector<char>& seen) {
          for (std::size_t j = 0; j < seen.size(); ++j) seen[j] = seen[j] && rule(row, Index(j));
        }) {}

  // Of lists: a range of key indices for each Row, in any order.
  template <class F>
  requires std::is_convertible_v<decltype(*std::begin(std::declval<const F&>()(Row{}))), Index> Kept(F list)
      : restrict_([list = std::move(list)](const Row& row, std::vector<char>& seen) {
          std::vector<char> listed(seen.size(), 0);
          for (const auto key : list(row)) listed.at(std::size_t(key)) = 1;
          for (std::size_t j = 0; j < seen.size(); ++j) seen[j] = seen[j] && listed[j];
        }) {}

  // Of the mask that the method attends with: mask::blocks(table), mask::spans(table), joined with others or not.
  template <fovea::mask::Mask M>
  Kept(const M& mask, const Shape& s)
      : restrict_([bound = mask.bind("bench::Kept", {s.batch, s.heads, s.kv_heads, s.queries, s.keys})](
                      const Row& row, std::vector<char>& seen) {
          const Index keys = Index(seen.size());
          for (Index first = 0; first < keys; first += fovea::mask::word) {
            const Index last = std::min(first + fovea::mask::word, keys);
            const auto bits = bound.seen(row, {first, last});
            for (Index j = first; j < last; ++j) {
              if ((bits >> (j - first) & 1) == 0) seen[std::size_t(j)] = 0;
            }
          }
        }) {}

  // Unmarks what was not kept.
  void restrict(const Row& row, std::vector<char>& seen) const { restrict_(row, seen); }

 private:
  std::function<void(const Row&, std::vector<char>&)> restrict_;
};

}  // namespace bench
