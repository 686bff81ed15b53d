// The shapes that benches share, so that two methods are always measured on the same problem.
#pragma once

#include <concepts>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <fovea/core/config.hpp>
#include <fovea/core/site.hpp>

namespace bench {

using fovea::Index;
using fovea::Row;

// A rule that says whether a query sees a key, of (query, key), or of (batch, head, query, key) where heads differ.
class Sees {
 public:
  Sees() = default;
  template <class F>
  requires std::is_invocable_r_v<bool, const F&, Index, Index> Sees(F rule)
      : rule_([rule = std::move(rule)](const Row& row, Index key) { return rule(row.query, key); }) {}
  template <class F>
  requires std::is_invocable_r_v<bool, const F&, Index, Index, Index, Index> Sees(F rule)
      : rule_(
            [rule = std::move(rule)](const Row& row, Index key) { return rule(row.batch, row.head, row.query, key); }),
        by_head_(true) {}

  explicit operator bool() const { return bool(rule_); }
  bool operator()(const Row& row, Index key) const { return rule_(row, key); }
  bool operator()(Index query, Index key) const { return rule_({0, 0, query}, key); }
  bool by_head() const { return by_head_; }

 private:
  std::function<bool(const Row&, Index)> rule_;
  bool by_head_ = false;
};

// Which keys a query sees. The label goes into the benchmark's name.
struct Pattern {
  std::string label = "full";
  Sees sees = {};                                // empty: every key
  std::vector<Index> documents = {};             // borders of packed sequences, when the pattern has them
  Index window = 0;                              // keys a query sees, its own included, when the pattern has one
  std::function<Index(Index query)> count = {};  // how many keys a query sees, when that is known without looking
};

Pattern full();
Pattern causal(Index queries, Index keys);               // the queries are the last tokens of the keys
Pattern window(Index queries, Index keys, Index width);  // causal, the last `width` keys
Pattern document(const std::vector<Index>& borders,
                 bool causal = false);  // packed sequences: 0, end of the first, ..., total

struct Given;  // input.hpp

struct Shape {
  std::string table;  // heading under which the report prints it: prefill, decode, small, mask, real, synthetic,
                      // growth, cache; map and recall for what is not timed
  Pattern pattern = {};
  Index batch = 1, heads = 1, kv_heads = 1;
  Index queries = 0, keys = 0;
  Index key_dim = 0, value_dim = 0;
  std::string data = {};     // stem of stored tensors, or a kind of input.hpp; empty: Gaussian numbers
  std::string type = "f32";  // or f64; of caches what they store: bf16, f16, int8, int4
  bool quick = false;        // part of a quick run
  bool alone = false;        // without dense attention beside it
  Index threads = 1;
  std::shared_ptr<const Given> given = {};  // tensors to run on, whatever `data` says

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

// For methods that approximate dense attention, which always stands beside: queries that see every key, or causal.
std::vector<Shape> approximate_shapes(bool causal = false);  // real_shapes() and synthetic ones
std::vector<Shape> growth_shapes(bool causal = false);       // one thread, two heads, 256 to 64k tokens

// Those up to 8192 tokens become part of quick runs too.
std::vector<Shape> quick_growth(std::vector<Shape> shapes);

// For forms of a method that are not timed and only recall: one causal shape.
std::vector<Shape> recall_shapes();

// The first tokens of a problem for which a plain loop over whole heads would take too long; else nothing.
std::optional<Shape> shortened(const Shape& shape);

}  // namespace bench
