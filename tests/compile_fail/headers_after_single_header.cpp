// expect: fovea: include its single header, or headers of include/fovea, and not both
// clang-format off
#include "../../single_include/fovea.hpp"
#include <fovea/core/view.hpp>

int main() {}
