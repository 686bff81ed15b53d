// One log decay for each kv head, the same for every token: S_t = gamma_h S_{t-1} + ..., gamma_h = e^g_h.
#pragma once

#include <cmath>
#include <utility>
#include <vector>

#include <fovea/parts/decay/decay.hpp>

namespace fovea::inline FOVEA_ISA::decay {

template <class T>
struct BoundPerHead {
  static constexpr Kind kind = Kind::per_head;

  std::vector<double> log_decays;  // of every kv head, or of all

  double log_decay(Index kv_head) const { return log_decays[log_decays.size() == 1 ? 0 : std::size_t(kv_head)]; }
};

struct PerHead {
  std::vector<double> log_decays;

  template <class T>
  BoundPerHead<T> bind(const char* where, const Shape& shape, Index /*width*/) const {
    check(log_decays.size() == 1 || Index(log_decays.size()) == shape.kv_heads, where,
          "log decays must be one number for each kv head or one for all, wanted ", shape.kv_heads, ", got ",
          Index(log_decays.size()));
    for (const double g : log_decays) check(g <= 0, where, "log decays must not be positive, got ", g);
    return {log_decays};
  }
};

// log_decays [G], or one number for all heads.
inline PerHead per_head(std::vector<double> log_decays) { return {std::move(log_decays)}; }

// The decays of retention, gamma_h = 1 - 2^(-5 - h).
inline std::vector<double> retention(Index kv_heads) {
  std::vector<double> log_decays;
  for (Index h = 0; h < kv_heads; ++h) log_decays.push_back(std::log1p(-std::exp2(-5 - double(h))));
  return log_decays;
}

}  // namespace fovea::inline FOVEA_ISA::decay
