// Radial Attention of one head, as the rules read, and the pixel picture by which its blocks are chosen.
#pragma once

#include <cmath>
#include <vector>

#include "dense/scaled_dot_product.hpp"

namespace fovea::reference {

struct RadialRule {
  Eigen::Index frame = 1, text = 0;
  bool first_frame = true;
  bool released = false;
  double decay = 1;
  Eigen::Index least = 128;
};

// Whether the tokens i and j of a sequence of `tokens` see each other.
inline bool radial_sees(const RadialRule& rule, Eigen::Index tokens, Eigen::Index i, Eigen::Index j) {
  using Eigen::Index;
  const Index S = rule.frame;
  if (i >= tokens - rule.text || j >= tokens - rule.text) return true;
  const Index a = i / S, k = i % S, c = j / S, l = j % S, d = std::abs(a - c), apart = std::abs(k - l);
  if (rule.first_frame && c == 0) return true;
  if (!rule.released) {
    const double p = std::exp2(std::floor(std::log2(double(std::max<Index>(d, 1)))));
    if (p <= double(S)) return double(apart + 1) <= double(S) / p;
    return apart == 0 && d % Index(std::ceil(p / double(S))) == 0;
  }
  const auto bits = [](Index x) { return x == 0 ? 0.0 : std::floor(std::log2(double(x))) + 1; };
  const double D = std::exp2(bits(S)) / std::exp2(bits(d)), least = double(rule.least);
  const bool near = d <= 1 || double(apart) <= std::max(D * rule.decay, least);
  return near && (D >= least || d % Index(std::floor(least / D)) == 0);
}

// q, k [T x D], v [T x E].
template <class Real>
Attention<Real> radial(const Matrix<Real>& q, const Matrix<Real>& k, const Matrix<Real>& v, Real scale,
                       const RadialRule& rule) {
  const Eigen::Index tokens = q.rows();
  return scaled_dot_product<Real>(
      q, k, v, scale, {.visible = [=](Eigen::Index i, Eigen::Index j) { return radial_sees(rule, tokens, i, j); }});
}

// Which blocks are kept, [blocks x blocks]: for each pair of frames a picture of its pairs, laid over the blocks it
// touches, and of each block the columns that have a pixel at all; those with a third of the block's rows count.
inline Matrix<double> radial_blocks(const RadialRule& rule, Eigen::Index frames, Eigen::Index block,
                                    bool released_tail = false) {
  using Eigen::Index;
  const Index S = rule.frame, video = frames * S, tokens = video + rule.text;
  const auto ceil = [&](Index n) { return (n + block - 1) / block; };
  Matrix<double> kept = Matrix<double>::Zero(ceil(tokens), ceil(tokens));
  for (Index a = 0; a < frames; ++a) {
    for (Index c = 0; c < frames; ++c) {
      const Index top = a * S % block, left = c * S % block;
      const Index high = released_tail ? ceil(S) : ceil(top + S), wide = released_tail ? ceil(S) : ceil(left + S);
      Matrix<double> canvas = Matrix<double>::Zero(ceil(top + S) * block, ceil(left + S) * block);
      for (Index k = 0; k < S; ++k) {
        for (Index l = 0; l < S; ++l) canvas(top + k, left + l) = radial_sees(rule, tokens, a * S + k, c * S + l);
      }
      for (Index y = 0; y < high; ++y) {
        for (Index x = 0; x < wide; ++x) {
          const Vector<double> density =
              canvas.block(y * block, x * block, block, block).colwise().sum().transpose() / double(block);
          const auto touched = double((density.array() > 0).count());
          const auto dense = double((density.array() > 1.0 / 3).count());
          if (touched > 0 && dense / touched > 0.6) kept(a * S / block + y, c * S / block + x) = 1;
        }
      }
    }
  }
  if (rule.text > 0) {
    kept.rightCols(kept.cols() - video / block).setOnes();
    kept.bottomRows(kept.rows() - video / block).setOnes();
  }
  return kept;
}

}  // namespace fovea::reference
