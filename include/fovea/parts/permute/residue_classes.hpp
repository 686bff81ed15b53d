// The residue classes of a dilation as sequences of their own: token n of class r is token r + n dilation, so a class
// of T tokens has ceil((T - r) / dilation). What is dilated in the whole is contiguous in the class.
#pragma once

#include <algorithm>

#include <fovea/core/problem.hpp>
#include <fovea/core/span.hpp>

namespace fovea::inline FOVEA_ISA::permute {

// Classes [first, last), which must be equally long, of sequence `batch` as a batch. Nothing is moved.
template <class T>
View<T> residue_classes(const View<T>& x, Index batch, Span classes, Index dilation) {
  const Index length = (x.length - classes.first + dilation - 1) / dilation;
  return {x.row(batch, 0, classes.first), classes.size(), x.heads, length, x.dim, x.length_stride, x.head_stride,
          dilation * x.length_stride};
}

// Calls f(Problem) on problems that hold every class of every sequence once: two a sequence at most, since classes
// differ by one token at most and equally long ones are a batch. Of self-attention, N = M, with dilation > 0. A problem
// without tokens or batch is passed on as it is.
template <class T, class F>
void each_residue_class(const Problem<T>& problem, Index dilation, F&& f) {
  const Index length = problem.q.length;
  if (problem.q.batch == 0 || length == 0) return f(problem);
  const Index step = std::min(dilation, length);  // more classes would be empty
  const Index longer = length % step;             // the classes that have a token more than the others
  for (Index b = 0; b < problem.q.batch; ++b) {
    for (const Span classes : {Span{0, longer}, Span{longer, step}}) {
      if (classes.empty()) continue;
      Problem<T> part = problem;
      part.q = residue_classes(problem.q, b, classes, step);
      part.k = residue_classes(problem.k, b, classes, step);
      part.v = residue_classes(problem.v, b, classes, step);
      part.out = residue_classes(problem.out, b, classes, step);
      if (problem.log_sum.data != nullptr) part.log_sum = residue_classes(problem.log_sum, b, classes, step);
      f(part);
    }
  }
}

}  // namespace fovea::inline FOVEA_ISA::permute
