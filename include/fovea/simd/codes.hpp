// Numbers stored as codes of 8 or 4 bits in groups, x = low + scale code with one scale and one low (halfs) for each
// group: how the keys and values of one head lie in memory (parts/kv/quantized.hpp says which numbers make a group).
//
// Codes lie in panels of 16 lanes by a depth over which products are summed, a whole number of steps. A step is 64
// bytes: one 32-bit word for each lane, with the codes of 4 (8 bits) or 8 (4 bits) consecutive depths. Code k of a step
// is byte k, or in words of 4 bits the low half of byte k for k < 4 and the high half of byte k - 4 for the others.
// Keys have tokens in the lanes and channels in the depth, values the other way round.
#pragma once

#include <cstdint>

#include <fovea/core/eigen.hpp>

namespace fovea::inline FOVEA_ISA::simd {

inline constexpr Index panel_lanes = 16;
inline constexpr Index coded_tokens = 32;  // depth of a panel of values

template <int bits>
struct Codes {
  static_assert(bits == 4 || bits == 8);
  static constexpr int levels = (1 << bits) - 1;  // the largest code
  static constexpr int center = 1 << (bits - 1);  // about the middle one
  static constexpr int in_step = 32 / bits;       // depths of a step
  static constexpr Index step_bytes = 4 * panel_lanes;

  static constexpr Index panel_bytes(Index depth) { return depth / in_step * step_bytes; }
  // Where code k of a word begins, in bits.
  static constexpr int place(int k) { return k < 4 ? 8 * k : 8 * (k - 4) + 4; }
  static constexpr Index byte(Index lane, Index depth) { return depth / in_step * step_bytes + 4 * lane + depth % 4; }

  static int get(const std::uint8_t* panel, Index lane, Index depth) {
    const int stored = panel[byte(lane, depth)];
    return bits == 8 ? stored : depth % in_step < 4 ? stored & 15 : stored >> 4;
  }
  static void set(std::uint8_t* panel, Index lane, Index depth, int code) {
    std::uint8_t& stored = panel[byte(lane, depth)];
    if constexpr (bits == 8) {
      stored = std::uint8_t(code);
    } else if (depth % in_step < 4) {
      stored = std::uint8_t((stored & 0xf0) | code);
    } else {
      stored = std::uint8_t((stored & 15) | code << 4);
    }
  }
};

// Keys: blocks of `group` tokens. Of a block: group / 16 panels of 16 tokens by `depth` channels, the width of a token
// rounded up to a multiple of 16; scale[depth]; low[depth].
template <int bits>
struct KeyBlocks {
  const std::uint8_t* data = nullptr;
  Index group = 0, depth = 0;

  Index panel_bytes() const { return Codes<bits>::panel_bytes(depth); }
  Index codes_bytes() const { return group / panel_lanes * panel_bytes(); }
  Index bytes() const { return codes_bytes() + 4 * depth; }

  const std::uint8_t* codes(Index block) const { return data + block * bytes(); }
  const Eigen::half* scale(Index block) const {
    return reinterpret_cast<const Eigen::half*>(codes(block) + codes_bytes());
  }
  const Eigen::half* low(Index block) const { return scale(block) + depth; }
};

// Values: blocks of coded_tokens tokens. Of a block: `panels` panels of 16 channels by coded_tokens tokens; then
// scale[groups][coded_tokens] and low[groups][coded_tokens], for groups of `group` channels.
template <int bits>
struct ValueBlocks {
  static constexpr Index panel_bytes = Codes<bits>::panel_bytes(coded_tokens);

  const std::uint8_t* data = nullptr;
  Index group = 0, panels = 0, groups = 0;

  Index codes_bytes() const { return panels * panel_bytes; }
  Index bytes() const { return codes_bytes() + 4 * groups * coded_tokens; }

  const std::uint8_t* codes(Index block) const { return data + block * bytes(); }
  const Eigen::half* scale(Index block) const {
    return reinterpret_cast<const Eigen::half*>(codes(block) + codes_bytes());
  }
  const Eigen::half* low(Index block) const { return scale(block) + groups * coded_tokens; }
};

}  // namespace fovea::inline FOVEA_ISA::simd
