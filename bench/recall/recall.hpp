// The task of associative recall (mqar.hpp), done by every method that takes a whole causal prompt, or one without
// order.
#pragma once

#include <string>

#include "bench.hpp"

namespace bench {

// Writes a JSON file with a line for each method and setting. Returns whether no method crashed.
bool run_recall(const std::string& path, const Selection& selection);

}  // namespace bench
