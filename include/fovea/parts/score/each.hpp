// Any rule of the user's: a function of a score and where it stands.
#pragma once

#include <type_traits>
#include <utility>

#include <fovea/parts/score/score.hpp>

namespace fovea::inline FOVEA_ISA::score {

template <class F>
struct Each {
  F f;

  template <class T>
  auto bind(const char*, const Shape&) const {
    static_assert(std::is_invocable_r_v<T, const F&, T, Site>,
                  "fovea: score::each takes a function callable as T(T score, fovea::Site)");
    return [f = f](T* scores, Row row, Span keys) {
      for (Index j = 0; j < keys.size(); ++j)
        scores[j] = f(scores[j], Site{row.batch, row.head, row.query, keys.first + j});
    };
  }
};

// f(score, Site{batch, head, query, key}) gives the new score. It is called from several threads.
template <class F>
Each<F> each(F f) {
  return {std::move(f)};
}

}  // namespace fovea::inline FOVEA_ISA::score
