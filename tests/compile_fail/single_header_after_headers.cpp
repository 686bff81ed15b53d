// expect: fovea: include its single header, or headers of include/fovea, and not both
#include <fovea/core/view.hpp>

#include "../../single_include/fovea.hpp"

int main() {}
