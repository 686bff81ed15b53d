// Runs a linear recipe chunk by chunk: inside a chunk of tokens the recurrence is a few products of small matrices, and
// the state is read and written once for each chunk. With b_i the sum of the log decays of a chunk up to token i, k and
// q standing for their features, and S the state before the chunk:
//
//   P_ij = sum_d q_id k_jd e^(b_id - b_jd)            j <= i
//   U    = V, or for the delta rule the solution of  (I + A) U = beta (V - (k e^b) S)
//          with  A_ij = beta_i sum_d k_id k_jd e^(b_id - b_jd), j < i
//   O    = scale ((q e^b) S + P U)
//   S   <- e^(b_L) S + sum_j (k_j e^(b_L - b_j)) u_j^T
//
// Only decays from one token to a later one are formed, never e^(-b). Chunks of one decay for all channels weigh the
// scores; those of a decay for each channel work in blocks of a few tokens, with the scores between blocks as products
// of keys decayed up to the block and queries decayed from there on. Results do not depend on the number of workers.
//
// Retention: Sun et al. 2023, arXiv:2307.08621; gated: Yang et al. 2023, arXiv:2312.06635; delta: Yang et al. 2024,
// arXiv:2406.06484.
#pragma once

#include <type_traits>

#include <fovea/engine/linear_pass.hpp>
#include <fovea/exec/serial.hpp>
#include <fovea/simd/dots.hpp>
#include <fovea/simd/features.hpp>
#include <fovea/simd/small_matrix.hpp>
#include <fovea/simd/transpose.hpp>

namespace fovea::inline FOVEA_ISA::engine {

// Tokens of a chunk where nobody says otherwise: for widths of 64 and 128 the fastest or within a few percent of it,
// whatever the decay and the write. Longer chunks are larger products, but more of them.
inline constexpr Index default_chunk = 32;

template <class T, class Feature, class Decay, class Write>
class Chunks {
 public:
  Chunks(const LinearPass<T, Feature, Decay, Write>& pass, Index chunk, Index workers)
      : pass_(pass),
        length_(std::clamp<Index>(pass.problem.q.length, 1, chunk)),
        depth_(pass.key_dim),
        keys_(simd::whole<T>(length_)),
        row_(simd::whole<T>(depth_)),
        parts_(pass.parts(workers, grain)),
        divides_(pass.division.divides()) {
    for (Index p = 0; p < parts_; ++p) width_ = std::max(width_, simd::whole<T>(pass.part(p, parts_, grain).size()));
  }

  template <class Exec>
  void run(const Exec& executor) const {
    const double tokens = double(pass_.problem.q.length), group = double(pass_.problem.group);
    const double flops = tokens * (double(length_ * (depth_ + width_)) + 4 * double(depth_ * width_)) * (1 + group) / 2;
    distribute<T>(executor, pass_.heads() * parts_, flops, scratch_size(), [&](Index item, T* memory) {
      const Index head = item / parts_;
      Head(*this, pass_.batch_of(head), pass_.kv_head_of(head), pass_.part(item % parts_, parts_, grain), memory).run();
    });
  }

 private:
  static constexpr Index grain = 2 * simd::lanes<T>;  // value columns that make a piece worth its while
  static constexpr Index block = 16;                  // tokens whose decays of each channel are multiplied one by one
  static constexpr auto kind = Decay::kind;
  static constexpr bool by_channel = kind == decay::Kind::per_channel;
  static constexpr bool by_token = kind == decay::Kind::per_head || kind == decay::Kind::per_token;
  static constexpr bool identity = std::is_same_v<Feature, feature::BoundIdentity<T>>;

  // Keys are read where they lie when they are their own features; by channel, if they are whole vectors too.
  bool copies_keys() const { return !identity || (by_channel && depth_ != row_); }

  // Scratch of a worker.
  struct Memory {
    T* state;                    // [depth x width]
    T* sums;                     // of the features, when outputs are divided; zero behind the last [row]
    T* divisors;                 // of the rows of a chunk [keys]
    T* columns;                  // keys as columns, in the end decayed to the end of the chunk [depth x keys]
    T* keys;                     // features of the keys [length x row]
    T* queries;                  // those of the queries, scaled, of every head of the group [length x row]
    T* scores;                   // P of every head of the group [length x keys]
    T* corrections;              // -A [length x keys]
    T* values;                   // V or U [length x width]
    T* out;                      // [length x width]
    T* ones;                     // as many as rows of anything
    T* shrink;                   // e^(b_L) for every row of the state
    T* weights;                  // one decay for all: e^(b_i - b_j) [length x keys]
    T* from_start;               // e^(b_i) [keys]
    T* factors;                  // decays by channel: e^g [length x row]
    T* decayed_keys;             // k e^b [length x row]
    T *prefix, *decayed;         // of a block [block x row]
    T *log_sums, *start, *step;  // b up to a block, e^b, the decay over a block [row]
    T* moved;                    // keys of a block, decayed [block x row]
    T* dots;                     // two rows of scores of a block, in vectors
  };

  Memory carve(T* memory, Index* size = nullptr) const {
    const Index group = pass_.problem.group;
    Index used = 0;
    const auto piece = [&](bool wanted, Index n) -> T* {
      if (!wanted) return nullptr;
      T* const at = memory == nullptr ? nullptr : memory + used;
      used += whole_lines<T>(n);
      return at;
    };
    Memory m;
    m.state = piece(true, depth_ * width_);
    m.sums = piece(divides_, row_);
    m.divisors = piece(divides_, keys_);
    m.columns = piece(true, depth_ * keys_);
    m.keys = piece(copies_keys(), length_ * row_);
    m.queries = piece(true, group * length_ * row_);
    m.scores = piece(true, group * length_ * keys_);
    m.corrections = piece(Write::corrects, length_ * keys_);
    m.values = piece(true, length_ * width_);
    m.out = piece(true, length_ * width_);
    m.ones = piece(true, std::max(length_, depth_));
    m.shrink = piece(true, row_);
    m.weights = piece(by_token, length_ * keys_);
    m.from_start = piece(by_token, keys_);
    m.factors = piece(by_channel, length_ * row_);
    m.decayed_keys = piece(by_channel && Write::corrects, length_ * row_);
    m.prefix = piece(by_channel, block * row_);
    m.decayed = piece(by_channel, block * row_);
    m.log_sums = piece(by_channel, row_);
    m.start = piece(by_channel, row_);
    m.step = piece(by_channel, row_);
    m.moved = piece(by_channel, block * row_);
    m.dots = piece(by_channel, 2 * block * simd::lanes<T>);
    if (size != nullptr) *size = used;
    return m;
  }

  Index scratch_size() const {
    Index size = 0;
    carve(nullptr, &size);
    return size;
  }

  // The tokens of one (batch, kv head) and some value columns.
  class Head {
   public:
    Head(const Chunks& chunks, Index batch, Index kv_head, Span values, T* memory)
        : c_(chunks),
          pass_(chunks.pass_),
          p_(chunks.pass_.problem),
          m_(chunks.carve(memory)),
          batch_(batch),
          kv_head_(kv_head),
          part_(values),
          width_(simd::whole<T>(values.size())),
          direct_(values.size() == width_) {}

    void run() {
      std::fill_n(m_.ones, std::max(c_.length_, c_.depth_), T(1));
      std::fill_n(m_.shrink, c_.row_, T(1));
      read_state();
      if constexpr (kind == decay::Kind::per_head) power_weights();
      for (Index first = 0; first < p_.q.length; first += c_.length_)
        chunk({first, std::min(first + c_.length_, p_.q.length)});
      write_state();
    }

   private:
    void chunk(Span tokens) {
      const Index n = tokens.size();
      soon_ = {tokens.last, std::min(tokens.last + n, p_.q.length)};
      const T* k = p_.k.row(batch_, kv_head_, tokens.first);
      Index k_stride = p_.k.length_stride;
      if (c_.copies_keys()) {
        pass_.features.template operator()<feature::Side::key>(k, k_stride, n, m_.keys, c_.row_,
                                                               Row{batch_, kv_head_, tokens.first});
        if constexpr (by_channel) clear_ends(m_.keys, n);
        k = m_.keys;
        k_stride = c_.row_;
      }
      for (Index i = 0; i < p_.group; ++i) {
        const Index head = kv_head_ * p_.group + i;
        T* const q = queries(i);
        if constexpr (identity) {
          for (Index t = 0; t < n; ++t)
            simd::copy_scaled(q + t * c_.row_, p_.q.row(batch_, head, tokens.first + t), c_.depth_, pass_.scale);
          if constexpr (by_channel) clear_ends(q, n);
          continue;
        }
        pass_.features.template operator()<feature::Side::query>(
            p_.q.row(batch_, head, tokens.first), p_.q.length_stride, n, q, c_.row_, Row{batch_, head, tokens.first});
        for (Index t = 0; t < n; ++t) simd::scale(q + t * c_.row_, c_.depth_, pass_.scale);
        if constexpr (by_channel) clear_ends(q, n);
      }

      if constexpr (by_channel) {
        score_by_channel(tokens, k, k_stride);
      } else {
        if constexpr (kind == decay::Kind::per_token) sum_weights(tokens);
        score(n, k, k_stride);
      }

      const T* v = p_.v.row(batch_, kv_head_, tokens.first) + part_.first;
      Index v_stride = p_.v.length_stride;
      if constexpr (Write::corrects) {
        correct(tokens, by_channel ? m_.decayed_keys : k, by_channel ? c_.row_ : k_stride);
        v = m_.values;
        v_stride = width_;
      } else if (!direct_) {
        copy_values(v, v_stride, n);
        v = m_.values;
        v_stride = width_;
      }
      read(tokens, v, v_stride);
      remember(n, v, v_stride);
      if (c_.divides_) remember_sums(n, k, k_stride);
    }

    // Has some rows of the next chunk brought closer: a few at a time, since the core waits when too many are asked
    // for.
    void ask_for_more() {
      constexpr Index few = 2;
      const auto fetch = [](const T* row, Index n) {
        constexpr Index line = Index(scratch_alignment / sizeof(T));
        for (Index j = 0; j < n; j += line) __builtin_prefetch(row + j);
      };
      for (const Index last = std::min(soon_.first + few, soon_.last); soon_.first < last; ++soon_.first) {
        const Index t = soon_.first;
        fetch(p_.k.row(batch_, kv_head_, t), p_.k.dim);
        fetch(p_.v.row(batch_, kv_head_, t) + part_.first, part_.size());
        for (Index i = 0; i < p_.group; ++i) fetch(p_.q.row(batch_, kv_head_ * p_.group + i, t), p_.q.dim);
        if constexpr (by_channel) fetch(pass_.decay.log_gates(batch_, kv_head_, t), c_.depth_);
      }
    }

    T* queries(Index i) const { return m_.queries + i * c_.length_ * c_.row_; }
    T* scores(Index i) const { return m_.scores + i * c_.length_ * c_.keys_; }

    // Where a row of scores that the row i takes part in a product with may end.
    Index end(Index i) const { return std::min(simd::whole<T>(i + simd::tile_rows), c_.keys_); }

    // Zeros behind the features of every row.
    void clear_ends(T* rows, Index n) const {
      for (Index i = 0; c_.depth_ < c_.row_ && i < n; ++i)
        std::fill(rows + i * c_.row_ + c_.depth_, rows + (i + 1) * c_.row_, T(0));
    }

    // Weights e^((i - j) g) of the constant decay of a head, the powers in double.
    void power_weights() {
      const double g = pass_.decay.log_decay(kv_head_);
      for (Index i = 0; i < c_.length_; ++i) {
        T* const weights = m_.weights + i * c_.keys_;
        for (Index j = 0; j < i; ++j) weights[j] = m_.from_start[i - j - 1];
        weights[i] = T(1);
        m_.from_start[i] = T(std::exp(double(i + 1) * g));
      }
    }

    // Weights e^(b_i - b_j) from the log decays of a chunk: the sums over (j, i] are kept up, not subtracted.
    void sum_weights(Span tokens) {
      const Index n = tokens.size();
      T sum = 0;
      for (Index i = 0; i < n; ++i) {
        const T g = pass_.decay.log_gate(batch_, kv_head_, tokens.first + i);
        m_.from_start[i] = sum += g;
        T* const row = m_.weights + i * c_.keys_;
        for (Index j = 0; j < i; j += simd::lanes<T>)
          simd::store(row + j, simd::load(row - c_.keys_ + j) + simd::Pack<T>(g));
        std::fill(row + i, row + simd::whole<T>(i + 1), T(0));
      }
      std::fill(m_.from_start + n, m_.from_start + simd::whole<T>(n), T(0));
      const simd::PowerUnit<T> unit(simd::log2_e);
      for (Index i = 0; i <= n; ++i) {
        T* const row = i < n ? m_.weights + i * c_.keys_ : m_.from_start;
        for (Index j = 0; j <= std::min(i, n - 1); j += simd::lanes<T>)
          simd::store(row + j, simd::exp2_weight<T>(simd::load(row + j), unit));
      }
    }

    // P and A where every channel decays alike.
    void score(Index n, const T* k, Index k_stride) {
      simd::transpose(n, c_.depth_, k, k_stride, m_.columns, c_.keys_);
      const auto weigh = [&](T* s, Index i, Index seen, T factor) {
        simd::weigh_row(s + i * c_.keys_, seen, end(i), factor, by_token ? m_.weights + i * c_.keys_ : nullptr);
      };
      if constexpr (Write::corrects) {
        simd::multiply_to_lower(n, c_.depth_, k, k_stride, m_.columns, c_.keys_, m_.corrections, c_.keys_);
        for (Index i = 0; i < n; ++i) weigh(m_.corrections, i, i, T(-1));
      }
      for (Index h = 0; h < p_.group; ++h) {
        simd::multiply_to_lower(n, c_.depth_, queries(h), c_.row_, m_.columns, c_.keys_, scores(h), c_.keys_);
        for (Index i = 0; i < n; ++i) weigh(scores(h), i, i + 1, T(1));
      }
    }

    // P and A where every channel has its own decay; leaves decayed queries and keys behind.
    void score_by_channel(Span tokens, const T* k, Index k_stride) {
      const Index n = tokens.size(), row = c_.row_;
      const simd::PowerUnit<T> unit(simd::log2_e);
      std::fill_n(m_.log_sums, row, T(0));
      std::fill_n(m_.start, row, T(1));
      for (Index first = 0; first < n; first += block) {
        const Index count = std::min(block, n - first);
        // e^g, its products from the start of the block, and the sum of all of it.
        std::fill_n(m_.step, row, T(0));
        for (Index i = 0; i < count; ++i) {
          T* const factor = m_.factors + (first + i) * row;
          simd::copy(factor, pass_.decay.log_gates(batch_, kv_head_, tokens.first + first + i), c_.depth_);
          std::fill(factor + c_.depth_, factor + row, T(0));
          for (Index d = 0; d < row; d += simd::lanes<T>) {
            const auto g = simd::load(factor + d);
            simd::store(m_.step + d, simd::load(m_.step + d) + g);
            const auto power = simd::exp2_weight<T>(g, unit);
            simd::store(factor + d, power);
            simd::store(m_.prefix + i * row + d, i == 0 ? power : power * simd::load(m_.prefix + (i - 1) * row + d));
          }
        }

        score_inside(first, count, k, k_stride);
        if constexpr (Write::corrects) {
          score_before(first, count, k, k_stride, m_.decayed_keys, m_.corrections);
          for (Index i = first; i < first + count; ++i)
            simd::weigh_row<T>(m_.corrections + i * c_.keys_, i, simd::whole<T>(first + count), T(-1), nullptr);
        }
        for (Index h = 0; h < p_.group; ++h) score_before(first, count, queries(h), row, queries(h), scores(h));

        // The columns of earlier blocks decay over this one, its own to its end.
        for (Index d = 0; d < row; d += simd::lanes<T>) {
          const auto sum = simd::load(m_.log_sums + d) + simd::load(m_.step + d);
          simd::store(m_.log_sums + d, sum);
          simd::store(m_.start + d, simd::exp2_weight<T>(sum, unit));
          simd::store(m_.step + d, simd::exp2_weight<T>(simd::load(m_.step + d), unit));
        }
        for (Index d = 0; first > 0 && d < c_.depth_; ++d) simd::scale(m_.columns + d * c_.keys_, first, m_.step[d]);
        simd::transpose(count, c_.depth_, m_.moved, row, m_.columns + first, c_.keys_);
      }
      simd::copy(m_.shrink, m_.start, row);
    }

    // Scores of the queries, and of the keys if they correct, with the keys of their own block; leaves these keys
    // decayed to the end of the block.
    void score_inside(Index first, Index count, const T* k, Index k_stride) {
      constexpr Index before = Write::corrects ? 1 : 0;
      for (Index i = 0; i < count; ++i) {
        const T* const fade = m_.factors + (first + i) * c_.row_;
        simd::copy(m_.moved + i * c_.row_, k + (first + i) * k_stride, c_.row_);
        const auto row_of = [&](Index n) {
          return n < before ? k + (first + i) * k_stride : queries(n - before) + (first + i) * c_.row_;
        };
        const auto scores_of = [&](Index n) {
          return (n < before ? m_.corrections : scores(n - before)) + (first + i) * c_.keys_ + first;
        };
        const auto take = [&](Index n, auto rows, auto moves) {
          const T* const x[2] = {row_of(n), row_of(n + rows - 1)};
          T* const s[2] = {scores_of(n), scores_of(n + rows - 1)};
          simd::moved_scores<decltype(rows)::value, decltype(moves)::value>(i + 1, c_.row_, m_.moved, c_.row_, fade, x,
                                                                            s, m_.dots);
        };
        using One = std::integral_constant<int, 1>;
        using Two = std::integral_constant<int, 2>;
        const Index all = p_.group + before;
        Index n = std::min<Index>(all, 2);
        if (n == 2) {
          take(0, Two{}, std::true_type{});
        } else {
          take(0, One{}, std::true_type{});
        }
        for (; n + 2 <= all; n += 2) take(n, Two{}, std::false_type{});
        if (n < all) take(n, One{}, std::false_type{});
        for (n = before; n < all; ++n)
          std::fill(scores_of(n) + simd::whole<T>(i + 1), scores_of(n) + (end(first + i) - first), T(0));
      }
    }

    // Scores of the rows x of a block with the keys of earlier blocks; to = x e^b.
    void score_before(Index first, Index count, const T* x, Index x_stride, T* to, T* s) {
      const Index row = c_.row_;
      for (Index i = 0; i < count; ++i) {
        const T* const from = x + (first + i) * x_stride;
        for (Index d = 0; d < row; d += simd::lanes<T>) {
          const auto from_block = simd::load(from + d) * simd::load(m_.prefix + i * row + d);
          simd::store(m_.decayed + i * row + d, from_block);
          simd::store(to + (first + i) * row + d, from_block * simd::load(m_.start + d));
        }
      }
      if (first > 0)
        simd::multiply<simd::Onto::nothing>(count, first, c_.depth_, m_.decayed, row, m_.columns, c_.keys_,
                                            s + first * c_.keys_, c_.keys_);
    }

    void copy_values(const T* v, Index stride, Index n) {
      for (Index t = 0; t < n; ++t) {
        T* const to = m_.values + t * width_;
        simd::copy(to, v + t * stride, part_.size());
        std::fill(to + part_.size(), to + width_, T(0));
      }
    }

    // U in place of the values.
    void correct(Span tokens, const T* k, Index k_stride) {
      const Index n = tokens.size();
      T* const u = m_.values;
      simd::multiply<simd::Onto::nothing>(n, width_, c_.depth_, k, k_stride, m_.state, width_, u, width_);
      for (Index i = 0; i < n; ++i) {
        const T beta = pass_.write.beta(batch_, kv_head_, tokens.first + i);
        const simd::Pack<T> strength(beta), fade(by_token ? m_.from_start[i] : T(1));
        const T* const v = p_.v.row(batch_, kv_head_, tokens.first + i) + part_.first;
        T* const to = u + i * width_;
        const auto wanted = [&](Index c) {
          return c + simd::lanes<T> <= part_.size() ? simd::load(v + c) : simd::load_some(v + c, part_.size() - c);
        };
        for (Index c = 0; c < width_; c += simd::lanes<T>)
          simd::store(to + c, strength * (wanted(c) - fade * simd::load(to + c)));
        for (Index j = 0; j < i; ++j) m_.corrections[i * c_.keys_ + j] *= beta;
      }
      simd::solve_unit_lower(n, width_, m_.corrections, c_.keys_, u, width_, m_.ones);
    }

    // Outputs of a chunk.
    void read(Span tokens, const T* v, Index v_stride) {
      const Index n = tokens.size();
      const T* const shrink = by_token ? m_.from_start : m_.ones;
      for (Index h = 0; h < p_.group; ++h) {
        const Index head = kv_head_ * p_.group + h;
        T* const out = direct_ ? p_.out.row(batch_, head, tokens.first) + part_.first : m_.out;
        const Index stride = direct_ ? p_.out.length_stride : width_;
        const auto read_rows = [&](bool strict) {
          simd::each_band(n, [&](Index i, auto count) {
            ask_for_more();
            simd::multiply_rows<decltype(count)::value, simd::Onto::nothing>(
                width_, c_.depth_, queries(h) + i * c_.row_, c_.row_, m_.state, width_, out + i * stride, stride);
          });
          simd::multiply_lower(n, width_, scores(h), c_.keys_, v, v_stride, out, stride, shrink, strict);
        };
        read_rows(false);
        // The last row meets every value of the chunk. Unless it is finite, one of them may not be, and the rows before
        // that one must not meet it, not even with a weight of zero.
        if (!simd::all_finite(out + (n - 1) * stride, width_)) read_rows(true);
        if (c_.divides_) sum_weights_of(h, n);
        for (Index t = 0; (c_.divides_ || !direct_) && t < n; ++t) {
          pass_.finish(out + t * stride, part_.size(), c_.divides_ ? m_.divisors[t] : T(1),
                       p_.out.row(batch_, head, tokens.first + t) + part_.first);
        }
      }
    }

    // What the outputs of a head are divided by: shrink q . (sum of the features before) + the sum of a row of P.
    void sum_weights_of(Index h, Index n) {
      simd::dot_rows(1, m_.sums, c_.row_, n, queries(h), c_.row_, c_.depth_, m_.divisors, c_.keys_);
      for (Index i = 0; i < n; ++i) {
        const T* const row = scores(h) + i * c_.keys_;  // zero behind i
        m_.divisors[i] =
            (by_token ? m_.from_start[i] : T(1)) * m_.divisors[i] + simd::total(row, simd::whole<T>(i + 1));
      }
    }

    // The sums of the features after a chunk.
    void remember_sums(Index n, const T* k, Index k_stride) {
      if constexpr (by_channel || by_token) {
        for (Index d = 0; d < c_.depth_; ++d)  // the columns have decayed to the end of the chunk
          m_.sums[d] = m_.sums[d] * m_.shrink[d] + simd::total(m_.columns + d * c_.keys_, n);
      } else {
        simd::add_rows(n, c_.depth_, k, k_stride, m_.sums);
      }
    }

    // The state after a chunk.
    void remember(Index n, const T* v, Index v_stride) {
      if constexpr (by_token) {
        const T* const to_end = m_.weights + (n - 1) * c_.keys_;
        for (Index d = 0; d < c_.depth_; ++d) {
          T* const column = m_.columns + d * c_.keys_;
          for (Index j = 0; j < n; j += simd::lanes<T>)
            simd::store(column + j, simd::load(column + j) * simd::load(to_end + j));
        }
        std::fill_n(m_.shrink, c_.depth_, m_.from_start[n - 1]);
      }
      simd::each_band(c_.depth_, [&](Index d, auto count) {
        ask_for_more();
        simd::multiply_rows<decltype(count)::value, simd::Onto::shrunk_sum>(
            width_, n, m_.columns + d * c_.keys_, c_.keys_, v, v_stride, m_.state + d * width_, width_, m_.shrink + d);
      });
    }

    void read_state() {
      std::fill_n(m_.state, c_.depth_ * width_, T(0));
      if (c_.divides_) std::fill_n(m_.sums, c_.row_, T(0));
      if (pass_.state.data == nullptr) return;
      for (Index d = 0; d < c_.depth_; ++d) {
        const T* const from = pass_.state.row(batch_, kv_head_, d);
        simd::copy(m_.state + d * width_, from + part_.first, part_.size());
        if (c_.divides_) m_.sums[d] = from[pass_.value_dim];
      }
    }

    void write_state() {
      if (pass_.state.data == nullptr) return;
      for (Index d = 0; d < c_.depth_; ++d) {
        T* const to = pass_.state.row(batch_, kv_head_, d);
        simd::copy(to + part_.first, m_.state + d * width_, part_.size());
        if (c_.divides_ && part_.last == pass_.value_dim) to[pass_.value_dim] = m_.sums[d];
      }
    }

    const Chunks& c_;
    const LinearPass<T, Feature, Decay, Write>& pass_;
    const Problem<T>& p_;
    Memory m_;
    Index batch_, kv_head_;
    Span part_;    // value columns
    Index width_;  // of a row of values, in whole vectors
    bool direct_;  // values are read and outputs written where they lie
    Span soon_;    // tokens of the next chunk that are not asked for yet
  };

  const LinearPass<T, Feature, Decay, Write>& pass_;
  Index length_;  // tokens of a chunk
  Index depth_;   // rows of the state
  Index keys_;    // a row of scores
  Index row_;     // a row of features
  Index parts_;   // pieces of the value columns
  bool divides_;
  Index width_ = 0;  // the widest row of values
};

// q, k, v, out of the problem with N = M; the state may be null; chunk is 1 at least.
template <class T, class F, class D, class W, exec::Executor Exec = exec::Serial>
void chunk(const Problem<T>& problem, std::type_identity_t<MatrixState<T>>* state, const LinearRecipe<F, D, W>& recipe,
           Index chunk = default_chunk, const Exec& executor = {}) {
  check(chunk > 0, problem.where, "chunk must be positive, got ", chunk);
  const auto pass = bind_linear(problem, state, recipe);
  Chunks(pass, chunk, exec::concurrency(executor)).run(executor);
}

}  // namespace fovea::inline FOVEA_ISA::engine
