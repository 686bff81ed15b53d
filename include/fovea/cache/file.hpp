// Sequences in files: what Contiguous and Paged write and read. docs/cache_format.md describes every byte.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <istream>
#include <numeric>
#include <ostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <fovea/cache/side.hpp>

namespace fovea::inline FOVEA_ISA::cache {

// A file that is damaged, cut short, of another version, or of another kind of cache than the one that reads it. what()
// is "function: what is wrong, wanted ... got ...".
class FormatError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace detail {

template <class... Parts>
void check_file(bool holds, const char* where, const Parts&... parts) {
  if (holds) return;
  std::string message = std::string(where) + ": ";
  (fovea::detail::append(message, parts), ...);
  throw FormatError(message);
}

using ChecksumTables = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr ChecksumTables make_checksum_tables() {
  ChecksumTables t{};
  for (std::uint32_t n = 0; n < 256; ++n) {
    std::uint32_t x = n;
    for (int bit = 0; bit < 8; ++bit) x = x >> 1 ^ ((x & 1) != 0 ? 0xedb88320u : 0u);
    t[0][n] = x;
  }
  for (std::size_t i = 1; i < 8; ++i) {
    for (std::size_t n = 0; n < 256; ++n) t[i][n] = t[i - 1][n] >> 8 ^ t[0][t[i - 1][n] & 255];
  }
  return t;
}

// The cyclic redundancy check of zlib, gzip and PNG (reflected polynomial 0xedb88320), eight bytes at a time.
class Checksum {
 public:
  void add(const void* data, std::size_t size) {
    const auto* p = static_cast<const unsigned char*>(data);
    for (; size >= 8; size -= 8, p += 8) {
      std::uint64_t word;
      std::memcpy(&word, p, sizeof word);
      word ^= state_;
      state_ = 0;
      for (std::size_t i = 0; i < 8; ++i) state_ ^= tables[7 - i][(word >> 8 * i) & 255];
    }
    for (; size > 0; --size) state_ = state_ >> 8 ^ tables[0][(state_ ^ *p++) & 255];
  }
  std::uint32_t value() const { return ~state_; }

 private:
  static constexpr ChecksumTables tables = make_checksum_tables();

  std::uint32_t state_ = ~std::uint32_t{0};
};

inline std::string storage_name(std::uint32_t code) {
  constexpr const char* names[] = {"float", "double", "bfloat16", "half", "int8", "int4"};
  return code >= 1 && code <= 6 ? names[code - 1] : "number " + std::to_string(code);
}

// What stands in front of the tokens.
struct FileHeader {
  static constexpr std::size_t size = 96;  // and its checksum behind it
  static constexpr std::uint32_t version = 1;
  static constexpr char magic[9] = "fovea-kv";

  std::uint32_t rotated = 0;  // 0 or 1
  std::uint32_t key_type = 0, value_type = 0;
  Index kv_heads = 0, key_dim = 0, value_dim = 0;
  Index group = 0, residual = 0;  // 0 when neither type is quantised
  Index length = 0;
  Index key_held = 0, value_held = 0;  // the first token that is there in full precision as well

  std::array<char, size> bytes() const {
    std::array<char, size> to{};
    std::memcpy(to.data(), magic, 8);
    std::memcpy(to.data() + 8, &version, 4);
    const std::uint32_t words[] = {rotated, key_type, value_type};
    std::memcpy(to.data() + 12, words, sizeof words);
    const Index numbers[] = {kv_heads, key_dim, value_dim, group, residual, length, key_held, value_held};
    std::memcpy(to.data() + 24, numbers, sizeof numbers);
    return to;
  }
  static FileHeader from(const std::array<char, size>& bytes) {
    std::uint32_t words[3];
    Index numbers[8];
    std::memcpy(words, bytes.data() + 12, sizeof words);
    std::memcpy(numbers, bytes.data() + 24, sizeof numbers);
    return {words[0],   words[1],   words[2],   numbers[0], numbers[1], numbers[2],
            numbers[3], numbers[4], numbers[5], numbers[6], numbers[7]};
  }
};

class Writer {
 public:
  Writer(const char* where, std::ostream& to) : where_(where), to_(&to) {}

  void write(const void* data, std::size_t size) {
    to_->write(static_cast<const char*>(data), std::streamsize(size));
    check_file(!to_->fail(), where_, "the stream does not take what is written");
    sum_.add(data, size);
  }
  // What was written since the last one.
  void write_checksum() {
    const std::uint32_t sum = sum_.value();
    write(&sum, sizeof sum);
    sum_ = {};
  }

 private:
  const char* where_;
  std::ostream* to_;
  Checksum sum_;
};

class Reader {
 public:
  Reader(const char* where, std::istream& from) : where_(where), from_(&from) {}

  void read(void* data, std::size_t size) {
    from_->read(static_cast<char*>(data), std::streamsize(size));
    check_file(!from_->fail() && std::size_t(from_->gcount()) == size, where_,
               "the file ends too early, or cannot be read");
    sum_.add(data, size);
  }
  void check_sum(const char* of) {
    const std::uint32_t wanted = sum_.value();
    std::uint32_t sum = 0;
    read(&sum, sizeof sum);
    check_file(sum == wanted, where_, "the file is damaged, the checksum of its ", of, " is wrong");
    sum_ = {};
  }

 private:
  const char* where_;
  std::istream* from_;
  Checksum sum_;
};

// Tokens that lie together in a file: keys of each head, then values of each head.
template <class Keys, class Values>
Index file_chunk(const Keys& k, const Values& v) {
  const Index block = std::lcm(k.block(), v.block());
  return (64 + block - 1) / block * block;
}

template <class K, class V, class Options>
FileHeader file_header(const Options& o) {
  constexpr bool grouped = kv::KeyFormat<K>::late || kv::ValueFormat<V>::late;
  return {o.rotated ? 1u : 0u,
          kv::Formats<K>::code,
          kv::Formats<V>::code,
          o.kv_heads,
          o.key_dim,
          o.value_dim,
          grouped ? o.grouping.group : 0,
          grouped ? o.grouping.residual : 0,
          0,
          0,
          0};
}

template <class Format>
Index settled_in(const Side<Format>& side, Index length, Span chunk) {
  return std::clamp(side.format().settled(length), chunk.first, chunk.last);
}

// header: as file_header() gives it.
template <class Keys, class Values>
void write_sequence(const char* where, std::ostream& to, FileHeader header, const Side<Keys>& k, const Side<Values>& v,
                    const Places& places, Index length) {
  Writer writer(where, to);
  header.length = length;
  header.key_held = k.held(length);
  header.value_held = v.held(length);
  const auto bytes = header.bytes();
  writer.write(bytes.data(), bytes.size());
  writer.write_checksum();

  const Index step = file_chunk(k.format(), v.format());
  std::vector<std::byte> last;
  const auto put_pieces = [&](const auto& side, const Place& place, Span tokens) {
    const auto& format = side.format();
    side.each_piece(place, tokens, [&](const std::byte* data, Index size, Index count) {
      const Index block = format.block(), rest = count % block, whole = format.packed(count - rest);
      writer.write(data, std::size_t(whole));
      if (rest == 0) return;
      // Places for tokens that are not there are zero, whatever was there.
      last.assign(data + whole, data + size);
      const std::vector<float> zero(std::size_t((block - rest) * format.dim), 0.0f);
      format.write(last.data(), rest, block - rest, zero.data(), format.dim);
      writer.write(last.data(), last.size());
    });
  };
  for (Index first = 0; first < length; first += step) {
    const Span chunk{first, std::min(length, first + step)};
    put_pieces(k, places.k, {first, settled_in(k, length, chunk)});
    put_pieces(v, places.v, {first, settled_in(v, length, chunk)});
  }
  const auto put_recent = [&](const auto& side) {
    for (Index h = 0; h < header.kv_heads; ++h) {
      for (Index t = side.held(length); t < length; ++t)
        writer.write(side.recent(h, t), std::size_t(side.format().dim) * sizeof(float));
    }
  };
  put_recent(k);
  put_recent(v);
  writer.write_checksum();
  to.flush();
  check_file(!to.fail(), where, "the stream does not take what is written");
}

// Reads into sides that are empty. `begin(length)` is told what comes; `make_room(tokens)` makes pages for so many
// tokens and gives their places. `wanted` is the header of the cache. Returns the length.
template <class Keys, class Values, class Begin, class MakeRoom>
Index read_sequence(const char* where, std::istream& from, const FileHeader& wanted, Side<Keys>& k, Side<Values>& v,
                    const Begin& begin, const MakeRoom& make_room) {
  Reader reader(where, from);
  std::array<char, FileHeader::size> bytes;
  reader.read(bytes.data(), bytes.size());
  check_file(std::memcmp(bytes.data(), FileHeader::magic, 8) == 0, where, "this is not the file of a cache");
  std::uint32_t version;
  std::memcpy(&version, bytes.data() + 8, sizeof version);
  check_file(version == FileHeader::version, where, "unknown version of the file, wanted ", FileHeader::version,
             ", got ", version);
  reader.check_sum("header");

  const FileHeader header = FileHeader::from(bytes);
  const auto same = [&](const char* what, Index got, Index want) {
    check_file(got == want, where, what, " of the file must be that of the cache, wanted ", want, ", got ", got);
  };
  const auto same_type = [&](const char* what, std::uint32_t got, std::uint32_t want) {
    check_file(got == want, where, what, " of the file must be that of the cache, wanted ", storage_name(want),
               ", got ", storage_name(got));
  };
  same_type("the storage type of the keys", header.key_type, wanted.key_type);
  same_type("the storage type of the values", header.value_type, wanted.value_type);
  same("the number of kv heads", header.kv_heads, wanted.kv_heads);
  same("the width of the keys", header.key_dim, wanted.key_dim);
  same("the width of the values", header.value_dim, wanted.value_dim);
  same("the group", header.group, wanted.group);
  same("the residual", header.residual, wanted.residual);
  check_file(header.rotated == wanted.rotated, where, "keys of the cache are stored ",
             wanted.rotated != 0 ? "after" : "before", " their rotation, those of the file are not");
  const Index length = header.length, most = Index{1} << 56;
  check_file(length >= 0 && length <= most, where, "the length of the file must be between 0 and ", most, ", got ",
             length);
  const auto check_held = [&](const auto& side, Index held) {
    const Index settled = side.format().settled(length);
    check_file(side.can_hold_from(held, length), where, "tokens in full precision must begin between ",
               std::max<Index>(0, length - side.ring()), " and ", settled, ", got ", held);
  };
  check_held(k, header.key_held);
  check_held(v, header.value_held);
  begin(length);

  const auto get = [&](std::byte* data, Index size, Index) { reader.read(data, std::size_t(size)); };
  const Index step = file_chunk(k.format(), v.format());
  std::vector<float> row;
  const auto check_finite = [&](const auto& side, const Place& place, Span tokens) {
    using Format = std::remove_cvref_t<decltype(side.format())>;
    if constexpr (Format::late) {
      row.resize(std::size_t(side.format().dim));
      for (Index h = 0; h < wanted.kv_heads; ++h) {
        side.stored(place, tokens.last).each_run(h, tokens, [&](Span part, const auto& run) {
          for (Index t = part.first; t < part.last; ++t) {
            run.read(t - part.first, 1, row.data(), Index(row.size()));
            check_file(std::all_of(row.begin(), row.end(), [](float x) { return std::isfinite(x); }), where,
                       "the file holds quantised numbers that are not finite");
          }
        });
      }
    }
  };
  for (Index first = 0; first < length; first += step) {
    const Span chunk{first, std::min(length, first + step)};
    const Span keys{first, settled_in(k, length, chunk)}, values{first, settled_in(v, length, chunk)};
    if (keys.empty() && values.empty()) break;
    const Places places = make_room(std::max(keys.last, values.last));
    k.each_piece(places.k, keys, get);
    v.each_piece(places.v, values, get);
    check_finite(k, places.k, keys);
    check_finite(v, places.v, values);
  }
  const auto get_recent = [&](auto& side, Index held) {
    for (Index h = 0; h < wanted.kv_heads; ++h) {
      for (Index t = held; t < length; ++t) {
        float* const x = side.recent(h, t);
        reader.read(x, std::size_t(side.format().dim) * sizeof(float));
        check_file(side.is_storable(x), where, "the file holds numbers in full precision that its types cannot store");
      }
    }
    side.hold_from(held);
  };
  get_recent(k, header.key_held);
  get_recent(v, header.value_held);
  reader.check_sum("tokens");
  return length;
}

}  // namespace detail
}  // namespace fovea::inline FOVEA_ISA::cache
