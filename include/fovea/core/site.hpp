// Places in the grid of queries and keys.
#pragma once

#include <fovea/core/config.hpp>

namespace fovea::inline FOVEA_ISA {

// A query of one head.
struct Row {
  Index batch = 0;
  Index head = 0;
  Index query = 0;
};

// A query of one head and a key.
struct Site {
  Index batch = 0;
  Index head = 0;
  Index query = 0;
  Index key = 0;
};

}  // namespace fovea::inline FOVEA_ISA
