// What the tests of caches share: tokens to append, and a plain list of tokens that a cache must agree with.
#pragma once

#include <cstring>
#include <fovea/core/eigen.hpp>
#include <fovea/core/span.hpp>
#include <random>
#include <string>
#include <unsupported/Eigen/CXX11/Tensor>
#include <vector>

namespace fovea::test {

template <class T>
using Tensor3 = Eigen::Tensor<T, 3, Eigen::RowMajor>;

struct Widths {
  Index heads = 2, key_dim = 5, value_dim = 3;
};

// Keys [G,n,D] and values [G,n,E].
template <class T>
struct Appended {
  Tensor3<T> k, v;

  Index length() const { return k.dimension(1); }
  // Tokens first to last - 1.
  Appended part(Span tokens) const {
    const auto cut = [&](const Tensor3<T>& x) {
      Tensor3<T> y(x.dimension(0), tokens.size(), x.dimension(2));
      for (Index h = 0; h < x.dimension(0); ++h) {
        for (Index t = 0; t < tokens.size(); ++t) {
          for (Index d = 0; d < x.dimension(2); ++d) y(h, t, d) = x(h, tokens.first + t, d);
        }
      }
      return y;
    };
    return {cut(k), cut(v)};
  }
};

template <class T>
Appended<T> random_tokens(const Widths& w, Index length, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  Appended<T> x{Tensor3<T>(w.heads, length, w.key_dim), Tensor3<T>(w.heads, length, w.value_dim)};
  for (Index n = 0; n < x.k.size(); ++n) x.k.data()[n] = T(normal(random));
  for (Index n = 0; n < x.v.size(); ++n) x.v.data()[n] = T(normal(random));
  return x;
}

// A sequence as a list: the numbers of each token, those of its keys of all heads and then those of its values.
using List = std::vector<std::vector<double>>;

// Appends tokens as K and V round them.
template <class K, class V, class T>
void append_to(List& list, const Appended<T>& x) {
  for (Index t = 0; t < x.length(); ++t) {
    std::vector<double> token;
    for (Index h = 0; h < x.k.dimension(0); ++h) {
      for (Index d = 0; d < x.k.dimension(2); ++d) token.push_back(double(static_cast<K>(x.k(h, t, d))));
    }
    for (Index h = 0; h < x.v.dimension(0); ++h) {
      for (Index d = 0; d < x.v.dimension(2); ++d) token.push_back(double(static_cast<V>(x.v(h, t, d))));
    }
    list.push_back(token);
  }
}

// What a source hands out as `T` of the tokens in `span`; "" in `trouble` unless its parts do not make up the span.
template <class T, class Source>
List read(const Source& source, Index batch, Span span, std::string& trouble) {
  List list(std::size_t(span.size()));
  const auto add = [&](Index dim, Index& at) {
    return [&, dim](Span part, const auto& run) {
      if (part.first != at || part.empty() || part.last > span.last) trouble = "parts do not follow each other";
      at = part.last;
      std::vector<T> row(std::size_t(dim), T(0));
      for (Index t = part.first; t < part.last; ++t) {
        run.read(t - part.first, 1, row.data(), dim);
        for (const T x : row) list[std::size_t(t - span.first)].push_back(double(x));
      }
    };
  };
  for (Index h = 0; h < source.kv_heads(); ++h) {
    Index at = span.first;
    source.each_keys(batch, h, span, add(source.key_dim(), at));
    if (at != span.last) trouble = "keys are missing";
  }
  for (Index h = 0; h < source.kv_heads(); ++h) {
    Index at = span.first;
    source.each_values(batch, h, span, add(source.value_dim(), at));
    if (at != span.last) trouble = "values are missing";
  }
  return list;
}

// The first difference between a source and a list, or "".
template <class Source>
std::string difference(const Source& source, const List& wanted, Index batch = 0) {
  std::string trouble;
  const Index length = Index(wanted.size());
  if (source.length(batch) != length)
    return "length " + std::to_string(source.length(batch)) + ", not " + std::to_string(length);
  const List got = read<double>(source, batch, {0, length}, trouble);
  if (!trouble.empty()) return trouble;
  for (Index t = 0; t < length; ++t) {
    if (got[std::size_t(t)] != wanted[std::size_t(t)])
      return "token " + std::to_string(t) + " of " + std::to_string(length);
  }
  // Any part of it, too.
  for (const Span span : {Span{length / 3, length}, Span{length / 2, length - length / 5}, Span{0, length / 4}}) {
    const List part = read<double>(source, batch, span, trouble);
    if (!trouble.empty()) return trouble;
    if (!std::equal(part.begin(), part.end(), wanted.begin() + span.first)) return "a part of the tokens";
  }
  return "";
}

}  // namespace fovea::test
