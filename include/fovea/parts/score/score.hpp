// What a score modifier is: a rule that changes the scaled scores of a row before the mask hides some of them.
//
// A score is a small value. `bind<T>(where, shape)` checks it against the shape of a call and gives the bound score,
//
//   void operator()(T* scores, Row row, Span keys)   scores[j] belongs to key keys.first + j; changed in place
//
// It may be asked about keys that the mask hides afterwards. Scores are in natural units: scale q . k.
#pragma once

#include <tuple>
#include <utility>

#include <fovea/core/problem.hpp>
#include <fovea/core/site.hpp>
#include <fovea/core/span.hpp>

namespace fovea::inline FOVEA_ISA::score {

template <class S, class T>
concept BoundScore = requires(const S& s, T* scores, Row row, Span keys) {
  s(scores, row, keys);
};

template <class S, class T = float>
concept Score = requires(const S& s, const char* where, const Shape& shape) {
  { s.template bind<T>(where, shape) } -> BoundScore<T>;
};

// Modifiers applied left to right.
template <class... Parts>
struct Chain {
  static constexpr bool empty = sizeof...(Parts) == 0;

  std::tuple<Parts...> parts;

  template <class T>
  auto bind(const char* where, const Shape& shape) const {
    return std::apply(
        [&](const auto&... part) {
          auto all = std::make_tuple(part.template bind<T>(where, shape)...);
          return [all = std::move(all)](T* scores, Row row, Span keys) {
            std::apply([&](const auto&... bound) { (bound(scores, row, keys), ...); }, all);
          };
        },
        parts);
  }

  template <class Next>
  Chain<Parts..., Next> then(const Next& next) const {
    return {std::tuple_cat(parts, std::make_tuple(next))};
  }
};

}  // namespace fovea::inline FOVEA_ISA::score
