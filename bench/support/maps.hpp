// Attention maps: the weight that each query really gives each key. Whatever a method does to the values is linear in
// them, so with the identity for values, as wide as there are keys, its output is that matrix.
#pragma once

#include <string>

#include "bench.hpp"

namespace bench {

// Writes into a folder: for each method the map of one head, for each input and pattern the map of dense attention, as
// NPY files, and index.json, which lists them. Returns whether no method crashed.
bool make_maps(const std::string& folder, const Selection& selection);

// Of the shapes under which a method is registered, how well one shows what the method is about: tensors of trained
// models before drawn ones before Gaussian numbers.
int telling(const Shape& shape);

}  // namespace bench
