// Readers of files: saved caches, and the reader of named arrays in examples. Any bytes are taken or refused with the
// reader's own error; what was there before a refusal stays, and what is taken saves as it was read.
#include <fovea/cache/contiguous.hpp>
#include <fovea/cache/paged.hpp>
#include <fovea/parts/kv/quantized.hpp>
#include <sstream>

#include "decode/safetensors.hpp"
#include "fuzz/support/input.hpp"

using namespace fovea;
using namespace fovea::fuzz;

namespace {

constexpr Index heads = 2, key_dim = 5, value_dim = 3;
constexpr std::size_t header_size = cache::detail::FileHeader::size;

Array<float> numbers(Input& in, Index count, Index dim) {
  auto x = blank_array<float>(in, {1, heads, count, dim});
  Random random(in.between(0, 255));
  x.each([&](float& n) { n = float(random.normal()); });
  return x;
}

// Makes the checksums of a file right, so that what stands behind them is reached: that of the header, and that of all
// that follows it but the last four bytes.
void repair(std::string& file) {
  const auto put = [&](std::size_t first, std::size_t last) {
    cache::detail::Checksum sum;
    sum.add(file.data() + first, last - first);
    const std::uint32_t value = sum.value();
    std::memcpy(file.data() + last, &value, sizeof value);
  };
  if (file.size() >= header_size + 4) put(0, header_size);
  if (file.size() >= header_size + 8) put(header_size + 4, file.size() - 4);
}

// Bytes of a file that are other than they were, and fewer or more of them.
void damage(Input& in, std::string& file) {
  for (Index edits = in.between(0, 6); edits > 0 && !file.empty(); --edits) {
    const bool in_header = in.flag();
    const auto size = std::min(file.size(), in_header ? header_size : file.size());
    const auto at = std::size_t(in.between(0, Index(size) - 1));
    if (in.flag()) {
      const std::uint64_t number = std::uint64_t(in.one_of(
          std::array<Index, 8>{0, 1, -1, 64, 1000, Index{1} << 40, Index{1} << 56, std::numeric_limits<Index>::max()}));
      std::memcpy(file.data() + at, &number, std::min(sizeof number, file.size() - at));
    } else {
      file[at] = char(in.between(0, 255));
    }
  }
  if (in.one_in(4)) file.resize(std::size_t(in.between(0, Index(file.size()) + 20)));
}

template <class Cache>
std::string saved(const Cache& cache) {
  std::ostringstream to;
  cache.save(to);
  return to.str();
}

// Reads bytes into a cache that holds something.
template <class Cache>
void load(Input& in, Cache cache, const std::string& file) {
  const std::string before = saved(cache);
  std::istringstream from(file);
  try {
    cache.load(from);
  } catch (const cache::FormatError& error) {
    require(std::strncmp(error.what(), "fovea::", 7) == 0, "a refusal that names no function: ", error.what());
    require(saved(cache) == before, "a refused file has changed the cache");
    return;
  }
  // Zeros that the format asks for may have been something else.
  const std::string again = saved(cache);
  std::istringstream second(again);
  cache.clear();  // the pages of both may be more than there are
  cache.load(second);
  require(saved(cache) == again, "what was saved is not what was read");
  const Index length = cache.length();
  const auto x = numbers(in, 3, key_dim), y = numbers(in, 3, value_dim);
  refused([&] { cache.append(x.view, y.view); });  // when it may not grow
  cache.truncate(length);
  cache.truncate(length / 2);
}

template <class K, class V>
void caches(Input& in) {
  const kv::Grouping grouping{16, in.flag() ? 16 : 32};
  const bool may_grow = in.flag();
  cache::Contiguous<K, V> whole({.kv_heads = heads,
                                 .key_dim = key_dim,
                                 .value_dim = value_dim,
                                 .reserve = 70,
                                 .may_grow = may_grow,
                                 .grouping = grouping});
  const Index length = in.between(0, 70);
  const auto k = numbers(in, length, key_dim), v = numbers(in, length, value_dim);
  whole.append(k.view, v.view);
  std::string file = saved(whole);
  if (in.one_in(4)) {
    file = in.flag() ? file.substr(0, header_size + 4) : "";
    file += in.rest();
  } else {
    whole.truncate(in.between(0, length));
    damage(in, file);
  }
  if (!in.one_in(8)) repair(file);
  if (in.flag()) {
    whole.truncate(whole.length() / 3);
    if (!may_grow) whole.truncate(0);
    load(in, std::move(whole), file);
  } else {
    cache::Pool<K, V> pool({.kv_heads = heads,
                            .key_dim = key_dim,
                            .value_dim = value_dim,
                            .page_tokens = kv::PlainTag<K> ? 7 : 32,
                            .pages = 12,
                            .may_grow = may_grow,
                            .grouping = grouping});
    cache::Paged<K, V> paged(pool);
    paged.append(numbers(in, 3, key_dim).view, numbers(in, 3, value_dim).view);
    const Index free = pool.free_pages(), pages = pool.pages();
    {
      auto fork = paged.fork();
      load(in, std::move(fork), file);
    }
    require(pool.free_pages() - free == pool.pages() - pages, "pages are lost");
  }
}

// A header that is nearly right, its length, and bytes behind it.
void named_arrays(Input& in) {
  std::string file;
  if (in.flag()) {
    file = in.rest();
  } else {
    const auto number = [&] {
      return std::to_string(in.one_of(std::array<Index, 8>{0, 2, 4, 6, 8, 24, -2, Index{1} << 62}));
    };
    static const std::array<std::string, 6> types = {"F16", "F32", "BF16", "U8", "F64", "Q7"};
    std::string header = R"({"__metadata__":{"theta":"1e4","n":"x"})";
    for (Index n = in.between(0, 3); n > 0; --n) {
      header += ",\"" + std::string(1, char('a' + n)) + R"(":{"dtype":")" + types[std::size_t(in.between(0, 5))];
      header += R"(","shape":[)" + number() + (in.flag() ? "," + number() : "");
      header += R"(],"data_offsets":[)" + number() + "," + number() + "]}";
    }
    header += "}";
    if (in.one_in(4)) header[std::size_t(in.between(0, Index(header.size()) - 1))] = char(in.between(0, 255));
    const std::uint64_t length = header.size() + std::uint64_t(in.one_in(8) ? in.between(-3, 3) : 0);
    file.assign(reinterpret_cast<const char*>(&length), sizeof length);
    file += header + std::string(std::size_t(in.between(0, 24)), '\x3c');
  }
  const auto taken = [](const auto& f) {
    try {
      f();
    } catch (const std::runtime_error& error) {
      require(std::strncmp(error.what(), "harness ", 8) == 0, "a refusal that names no file: ", error.what());
    }
  };
  taken([&] {
    const decode::Safetensors arrays(file, "harness");
    for (const char* name : {"a", "b", "c", "d", ""}) {
      for (const Index rows : {1, 2, 4}) taken([&] { require(arrays.matrix(name, rows, 2).size() == 2 * rows, name); });
    }
    taken([&] { arrays.number("theta"); });
    taken([&] { arrays.number("n"); });
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, size);
  switch (in.between(0, 3)) {
    case 0:
      caches<float, Eigen::half>(in);
      break;
    case 1:
      caches<kv::Int8, kv::Int4>(in);
      break;
    case 2:
      caches<Eigen::bfloat16, double>(in);
      break;
    default:
      named_arrays(in);
  }
  return 0;
}
