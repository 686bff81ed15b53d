// The shapes that benches share, so that two methods are always measured on the same problem.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <fovea/core/config.hpp>

namespace bench {

using fovea::Index;

// Which keys a query sees. The label goes into the benchmark's name.
struct Pattern {
  std::string label = "full";
  std::function<bool(Index query, Index key)> sees = {};  // empty: every key
  std::vector<Index> documents = {};                      // borders of packed sequences, when the pattern has them
  Index window = 0;  // keys a query sees, its own included, when the pattern has one
};

Pattern full();
Pattern causal(Index queries, Index keys);               // the queries are the last tokens of the keys
Pattern window(Index queries, Index keys, Index width);  // causal, the last `width` keys
Pattern document(const std::vector<Index>& borders,
                 bool causal = false);  // packed sequences: 0, end of the first, ..., total

struct Shape {
  std::string table;  // heading under which the report prints it: prefill, decode, small, mask, real
  Pattern pattern = {};
  Index batch = 1, heads = 1, kv_heads = 1;
  Index queries = 0, keys = 0;
  Index key_dim = 0, value_dim = 0;
  std::string data = {};     // stem of stored tensors; empty: Gaussian numbers
  std::string type = "f32";  // or f64
  bool quick = false;        // part of a quick run
  Index threads = 1;

  std::string name() const;  // f32/full/B:1/H:8/G:8/N:2048/M:2048/d:64/threads:1
  double pairs() const;      // (query, key) pairs that the pattern keeps, over the whole batch and all heads
  double all_pairs() const { return double(batch) * double(heads) * double(queries) * double(keys); }
  double flops() const { return pairs() * 2 * double(key_dim + value_dim); }
  double kv_bytes() const;                                                // K and V read once
  bool few_queries() const { return queries * (heads / kv_heads) <= 8; }  // bound by memory, not by arithmetic
};

std::vector<Shape> prefill_shapes();  // full and causal: square from 512 to 8192, a vision transformer, cross attention
std::vector<Shape> decode_shapes();   // one query, up to 32k keys
std::vector<Shape> small_shapes();    // many problems of 16 to 64 tokens
std::vector<Shape> real_shapes();     // tensors of trained models, bench/data
std::vector<Shape> mask_shapes();     // window and packed documents at 4096 tokens, and the dense problem beside
std::vector<Shape> dense_shapes();    // all of these but the masks

}  // namespace bench
