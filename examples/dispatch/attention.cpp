// Compiled once for each instruction set, with ATTENTION the name of the function; dispatch.cpp has the rules.
#include "attention.hpp"

#include <fovea/dense/scaled_dot_product.hpp>

void ATTENTION(const float* q, const float* k, const float* v, float* out, int tokens, int width) {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using Input = Eigen::Map<const Matrix>;
  Eigen::Map<Matrix> result(out, tokens, width);
  fovea::scaled_dot_product(Input(q, tokens, width), Input(k, tokens, width), Input(v, tokens, width), result,
                            {.causal = true});
}
