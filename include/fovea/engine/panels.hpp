// Keys laid out as columns once, for all the tiles of queries that read them.
#pragma once

#include <fovea/engine/key_tile.hpp>
#include <fovea/engine/work.hpp>
#include <fovea/simd/transpose.hpp>

namespace fovea::inline FOVEA_ISA::engine {

// The tiles of `step` keys of some kv heads, each [dim x step], one behind the other.
template <class T>
class Panels {
 public:
  template <exec::Executor Exec>
  Panels(const Exec& executor, Index heads, Index keys, Index dim, Index step)
      : keys_(keys),
        dim_(dim),
        step_(step),
        tiles_((keys + step - 1) / step),
        memory_(allocate_scratch<T>(executor, std::max<Index>(heads * tiles_ * dim * step, 1))) {}

  Index tiles() const { return tiles_; }
  T* panel(Index head, Index tile) const { return memory_.get() + (head * tiles_ + tile) * dim_ * step_; }

  Span tokens(Index tile) const { return {tile * step_, std::min((tile + 1) * step_, keys_)}; }

  // The panel that holds exactly the keys of a tile, or null.
  const T* find(Index head, const KeyTile& tile) const {
    const Index first = tile.first_run().first;
    const bool whole = tile.runs() == 1 && first % step_ == 0 && tile.size() == std::min(step_, keys_ - first);
    return whole ? panel(head, first / step_) : nullptr;
  }

 private:
  Index keys_, dim_, step_, tiles_;
  std::unique_ptr<T[], FreeScratch> memory_;
};

}  // namespace fovea::inline FOVEA_ISA::engine
