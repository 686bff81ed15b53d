// A byte-level language model: a causal transformer with rotary positions, root-mean-square norms, grouped key and
// value heads and a gated feed-forward layer, as Llama has them. data/README.md describes the one that is here.
//
//   x_0 = E[token];   x += W_o attention(rotary(W_q h), rotary(W_k h), W_v h),   h = norm(x)
//                     x += W_down (silu(W_gate h) * (W_up h)),                   h = norm(x)
//   logits = E norm(x)
#pragma once

#include <cmath>
#include <fovea/core/view.hpp>
#include <fovea/parts/position/rotary.hpp>
#include <span>

#include "decode/safetensors.hpp"

namespace decode {

using fovea::Index;

using Token = unsigned char;  // an ASCII byte

// Queries, keys and values of one layer, [sequences, heads, tokens, head_dim] and [sequences, kv_heads, tokens,
// head_dim], rotated; and where the result goes.
struct Heads {
  fovea::View<const float> q, k, v;
  fovea::View<float> out;
};

class Model {
 public:
  Index layers, width, heads, kv_heads, head_dim, feed_forward, vocabulary;
  double rope_base, epsilon;

  explicit Model(const Safetensors& file)
      : layers(count(file, "layers")),
        width(count(file, "width")),
        heads(count(file, "heads")),
        kv_heads(count(file, "kv_heads")),
        head_dim(count(file, "head_dim")),
        feed_forward(count(file, "feed_forward")),
        vocabulary(count(file, "vocabulary")),
        rope_base(file.number("rope_base")),
        epsilon(file.number("rms_epsilon")),
        embedding_(file.matrix("embedding.weight", vocabulary, width)),
        norm_(file.matrix("norm.weight", 1, width)) {
    if (heads % kv_heads != 0 || head_dim % 2 != 0 || vocabulary > 256)
      throw std::runtime_error("the model's heads or its vocabulary are not of a kind that is known here");
    for (Index l = 0; l < layers; ++l) {
      const std::string name = "layers." + std::to_string(l) + ".";
      const auto matrix = [&](const char* what, Index rows, Index columns) {
        return file.matrix(name + what + ".weight", rows, columns);
      };
      Layer& layer = layers_.emplace_back();
      layer.attention_norm = matrix("attention_norm", 1, width);
      layer.feed_forward_norm = matrix("feed_forward_norm", 1, width);
      layer.heads.resize((heads + 2 * kv_heads) * head_dim, width);
      layer.heads << matrix("attention.query", heads * head_dim, width),
          matrix("attention.key", kv_heads * head_dim, width), matrix("attention.value", kv_heads * head_dim, width);
      layer.output = matrix("attention.output", width, heads * head_dim);
      layer.gate_up.resize(2 * feed_forward, width);
      layer.gate_up << matrix("feed_forward.gate", feed_forward, width), matrix("feed_forward.up", feed_forward, width);
      layer.down = matrix("feed_forward.down", width, feed_forward);
    }
  }

  // The logits [sequences * tokens, vocabulary] behind each token of tokens [sequences, tokens]. Those of sequence b
  // stand at positions first[b], first[b] + 1, ... attention(layer, heads) appends keys and values to what it keeps of
  // the layer and attends over all of it.
  template <class Attention>
  Matrix logits(std::span<const Token> tokens, std::span<const Index> first, Attention&& attention) const {
    const Index rows = Index(tokens.size()), sequences = Index(first.size()), n = rows / sequences;
    const Index rotated = heads + kv_heads;
    std::vector<Index> positions(tokens.size());
    Matrix x(rows, width);
    for (Index i = 0; i < rows; ++i) {
      if (tokens[std::size_t(i)] >= vocabulary) throw std::runtime_error("the text holds a byte that is not ASCII");
      x.row(i) = embedding_.row(tokens[std::size_t(i)]);
      positions[std::size_t(i)] = first[std::size_t(i / n)] + i % n;
    }
    Matrix normed(rows, width), projected(rows, (rotated + kv_heads) * head_dim), attended(rows, heads * head_dim);
    Matrix gate_up(rows, 2 * feed_forward), inner(rows, feed_forward);
    const auto of = [&](Matrix& all, Index head, Index number) {
      const Index stride = all.cols();
      return fovea::View<float>{
          all.data() + head * head_dim, sequences, number, n, head_dim, n * stride, head_dim, stride};
    };
    for (Index l = 0; l < layers; ++l) {
      const Layer& layer = layers_[std::size_t(l)];
      normalize(x, layer.attention_norm, normed);
      projected.noalias() = normed * layer.heads.transpose();
      fovea::position::rotary(of(projected, 0, rotated), positions, of(projected, 0, rotated), {.base = rope_base});
      attention(l, Heads{of(projected, 0, heads), of(projected, heads, kv_heads), of(projected, rotated, kv_heads),
                         of(attended, 0, heads)});
      x.noalias() += attended * layer.output.transpose();

      normalize(x, layer.feed_forward_norm, normed);
      gate_up.noalias() = normed * layer.gate_up.transpose();
      const auto gate = gate_up.leftCols(feed_forward).array();
      inner = gate / (1 + (-gate).exp()) * gate_up.rightCols(feed_forward).array();
      x.noalias() += inner * layer.down.transpose();
    }
    normalize(x, norm_, normed);
    return normed * embedding_.transpose();
  }

 private:
  struct Layer {
    Matrix attention_norm, feed_forward_norm;
    Matrix heads;    // W_q, W_k and W_v one below the other
    Matrix gate_up;  // W_gate and W_up
    Matrix output, down;
  };

  static Index count(const Safetensors& file, const char* key) {
    const double value = file.number(key);
    if (!(value >= 1 && value <= 1 << 20 && value == std::floor(value)))
      throw std::runtime_error(std::string("the model's ") + key + " must be a positive number");
    return Index(value);
  }

  void normalize(const Matrix& x, const Matrix& weight, Matrix& out) const {
    for (Index i = 0; i < x.rows(); ++i) {
      const float scale = 1 / std::sqrt(x.row(i).squaredNorm() / float(width) + float(epsilon));
      out.row(i) = scale * x.row(i).cwiseProduct(weight.row(0));
    }
  }

  Matrix embedding_, norm_;
  std::vector<Layer> layers_;
};

}  // namespace decode
