// Equal rectangles of an image as blocks of tokens, one behind the other.
#pragma once

#include <fovea/core/problem.hpp>
#include <fovea/core/span.hpp>
#include <fovea/parts/permute/grid.hpp>

namespace fovea::inline FOVEA_ISA::permute {

// An image of height x width tokens in per_axis x per_axis regions of rows() x columns() places. Where they do not
// divide it, regions at the lower and right edges reach beyond it; some may have no token.
struct Regions {
  Index height = 1, width = 1, per_axis = 1;

  Index rows() const { return (height + per_axis - 1) / per_axis; }
  Index columns() const { return (width + per_axis - 1) / per_axis; }
  Index count() const { return per_axis * per_axis; }
  Index places() const { return rows() * columns(); }

  // The rows, and columns, of the image that a region holds.
  Span rows_of(Index region) const {
    const Index first = region / per_axis * rows();
    return intersect({first, first + rows()}, {0, height});
  }
  Span columns_of(Index region) const {
    const Index first = region % per_axis * columns();
    return intersect({first, first + columns()}, {0, width});
  }
  Index tokens_of(Index region) const { return rows_of(region).size() * columns_of(region).size(); }

  // Region by region; in each the tokens come first, then the places without one.
  Order order() const {
    Order order(std::size_t(count() * places()), -1);
    for (Index region = 0; region < count(); ++region) {
      Index next = region * places();
      for (Index y = rows_of(region).first; y < rows_of(region).last; ++y) {
        for (Index x = columns_of(region).first; x < columns_of(region).last; ++x)
          order[std::size_t(next++)] = y * width + x;
      }
    }
    return order;
  }
};

// A problem in the order of regions, with as many heads of q as of k, turned so that the regions are its batch and what
// was its batch are its heads, of one head each. A region still finds the keys and values of all.
template <class T>
Problem<T> regions_apart(const Problem<T>& problem, const Regions& regions) {
  const auto turned = [&](const auto& x, bool queries) {
    auto y = x;
    y.batch = regions.count();
    y.heads = x.batch;
    y.batch_stride = queries ? regions.places() * x.length_stride : 0;
    y.head_stride = x.batch_stride;
    if (queries) y.length = regions.places();
    return y;
  };
  Problem<T> result = problem;
  result.q = turned(problem.q, true);
  result.k = turned(problem.k, false);
  result.v = turned(problem.v, false);
  result.out = turned(problem.out, true);
  if (problem.log_sum.data != nullptr) result.log_sum = turned(problem.log_sum, true);
  return result;
}

}  // namespace fovea::inline FOVEA_ISA::permute
