// What a bench is run on: Gaussian numbers from fixed seeds, structured ones (synthetic.hpp), or tensors of trained
// models read from NPY files.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <unsupported/Eigen/CXX11/Tensor>

#include "shapes.hpp"

namespace bench {

template <class T>
using Tensor = Eigen::Tensor<T, 4, Eigen::RowMajor>;  // [batch, heads, length, dim]
template <class T>
using LogSums = Eigen::Tensor<T, 3, Eigen::RowMajor>;  // [batch, heads, length]

// Tensors that are made elsewhere.
struct Given {
  std::shared_ptr<const Tensor<float>> q, k, v;
  std::shared_ptr<const LogSums<float>> strengths = {};  // [B,G,M], where tokens are written with a strength
};

// Shared by the benches of one shape and kept between them.
template <class T>
struct Input {
  const Shape& shape;
  std::shared_ptr<const Tensor<T>> q_data, k_data, v_data;
  const Tensor<T>& q = *q_data;  // [B, H, N, D]
  const Tensor<T>& k = *k_data;  // [B, G, M, D]
  const Tensor<T>& v = *v_data;  // [B, G, M, E]
  Tensor<T> expected = {};       // stored results in double precision, where there are any
  LogSums<T> expected_log_sum = {};
};

template <class T>
Input<T> make_input(const Shape& shape);

// q and k of the first tokens of stored tensors, of the user's or of synthetic ones, their first query heads, each with
// the keys that it reads; [1, heads, tokens, D] or fewer. No values.
Given leading_tokens(const Shape& shape, Index heads, Index tokens);

// Standard normal numbers, for what a method takes beside q, k and v. Seeds 1 to 3 are those of q, k and v.
template <class T>
std::shared_ptr<const Tensor<T>> gaussian(unsigned seed, const std::array<Index, 4>& extents);

// Where the stored tensors <stem>_{q,k,v,o,lse}.npy are.
void set_data_folder(const std::string& folder);

// Three files of the user as the shape `user`; their types may be float16, float32 or float64.
Shape user_shape(const std::string& q, const std::string& k, const std::string& v);

}  // namespace bench
