// ALiBi: a penalty that grows with the distance. Press et al., ICLR 2022, arXiv:2108.12409.
//
//   s_ij - slope_h |p_i - j|,   p_i the position of query i
#pragma once

#include <cmath>
#include <utility>
#include <vector>

#include <fovea/parts/score/score.hpp>
#include <fovea/simd/row.hpp>

namespace fovea::inline FOVEA_ISA::score {

struct Alibi {
  std::vector<double> slopes;  // [H]
  Alignment alignment = Alignment::bottom_right;

  template <class T>
  auto bind(const char* where, const Shape& shape) const {
    check(Index(slopes.size()) == shape.heads, where, "alibi needs one slope for each head, wanted ", shape.heads,
          ", got ", slopes.size());
    return [slopes = std::vector<T>(slopes.begin(), slopes.end()), offset = shape.offset(alignment)](T* scores, Row row,
                                                                                                     Span keys) {
      simd::add_distance(scores, keys.size(), -slopes[std::size_t(row.head)], T(row.query + offset - keys.first));
    };
  }
};

inline Alibi alibi(std::vector<double> slopes, Alignment alignment = Alignment::bottom_right) {
  return {std::move(slopes), alignment};
}

// The slopes of the paper: 2^(-8 (h + 1) / H) for H a power of two; otherwise those of the next smaller power of two,
// followed by every second slope of the next larger one.
inline std::vector<double> alibi_slopes(Index heads) {
  check(heads >= 0, "fovea::score::alibi_slopes", "heads must not be negative, got ", heads);
  Index power = 1;
  while (2 * power <= heads) power *= 2;
  const auto slope = [](Index h, Index of) { return std::exp2(-8.0 * double(h + 1) / double(of)); };
  std::vector<double> slopes;
  for (Index h = 0; h < std::min(power, heads); ++h) slopes.push_back(slope(h, power));
  for (Index h = 0; Index(slopes.size()) < heads; h += 2) slopes.push_back(slope(h, 2 * power));
  return slopes;
}

}  // namespace fovea::inline FOVEA_ISA::score
