// expect: fovea: mask::where takes a predicate callable as bool\(fovea::Site\)
#include <fovea/parts/mask/where.hpp>

void refused() {
  fovea::mask::where([](int) { return true; });
}
