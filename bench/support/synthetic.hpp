// Inputs whose attention is known to have a certain structure, from fixed seeds.
//
//   needles          16 keys stand out; three queries in four look for one of those before them
//   vertical_slash   64 keys that every query looks at, and one distance at which each query looks back
//   clusters         queries and keys lie about 64 centres, in no order of their own
//   grid             tokens lie on a square, row after row, and look at their neighbours
//
// Each kv head has a structure of its own, which the query heads of its group share. A query on what it looks for gives
// it a score of 8 to 10 where the others lie about 0.
#pragma once

#include <string>

#include "shapes.hpp"

#include <unsupported/Eigen/CXX11/Tensor>

namespace bench {

bool is_synthetic(const std::string& kind);

// The tensors of a shape whose `data` is one of the kinds; q [B,H,N,D], k [B,G,M,D], v [B,G,M,E] in one.
struct Synthetic {
  Eigen::Tensor<double, 4, Eigen::RowMajor> q, k, v;
};
Synthetic synthetic(const Shape& shape);

}  // namespace bench
