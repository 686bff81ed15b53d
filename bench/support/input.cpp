#include "input.hpp"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <list>
#include <random>
#include <stdexcept>
#include <type_traits>
#include <vector>

#if __has_include(<xtensor/io/xnpy.hpp>)
#include <xtensor/io/xnpy.hpp>
#else
#include <xtensor/xnpy.hpp>
#endif

#include "synthetic.hpp"

namespace bench {
namespace {

std::string& data_folder() {
  static std::string folder = FOVEA_BENCH_DATA;
  return folder;
}

std::array<std::string, 3>& user_files() {
  static std::array<std::string, 3> files;
  return files;
}

struct Array {
  std::vector<Index> extents;
  std::vector<double> values;
};

// The type that the header of an NPY file names, for instance "<f2".
std::string npy_type(std::istream& file) {
  unsigned char major = 0, minor = 0;
  xt::detail::read_magic(file, &major, &minor);
  const std::string header = major == 1 ? xt::detail::read_header_1_0(file) : xt::detail::read_header_2_0(file);
  std::string type;
  bool fortran_order = false;
  std::vector<std::size_t> extents;
  xt::detail::parse_header(header, type, &fortran_order, extents);
  if (fortran_order) throw std::runtime_error("the array must be in C order");
  return type;
}

template <class Stored, class Widen>
Array read_as(std::istream& file, const Widen& widen) {
  const auto array = xt::detail::load_npy_file(file).cast<Stored>(false);
  Array result;
  result.extents.assign(array.shape().begin(), array.shape().end());
  result.values.resize(array.size());
  std::transform(array.data(), array.data() + array.size(), result.values.begin(), widen);
  return result;
}

Array read(const std::string& path) {
  try {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot be opened");
    const std::string type = npy_type(file);
    file.seekg(0);
    const auto same = [](auto x) { return double(x); };
    if (type == "<f4") return read_as<float>(file, same);
    if (type == "<f8") return read_as<double>(file, same);
    if (type == "<f2") {
      return read_as<std::uint16_t>(
          file, [](std::uint16_t bits) { return double(float(Eigen::numext::bit_cast<Eigen::half>(bits))); });
    }
    throw std::runtime_error("its type is " + type + ", wanted <f2, <f4 or <f8");
  } catch (const std::exception& error) {
    throw std::runtime_error(path + ": " + error.what());
  }
}

// [length, dim] and [heads, length, dim] get the missing axes in front.
std::array<Index, 4> four(const std::string& path, std::vector<Index> extents) {
  if (extents.size() < 2 || extents.size() > 4) throw std::runtime_error(path + ": wanted two to four axes");
  extents.insert(extents.begin(), 4 - extents.size(), 1);
  return {extents[0], extents[1], extents[2], extents[3]};
}

template <class T>
Tensor<T> read_tensor(const std::string& path, const std::array<Index, 4>& wanted) {
  const Array array = read(path);
  if (four(path, array.extents) != wanted) throw std::runtime_error(path + ": its shape is not that of the bench");
  Tensor<T> tensor(wanted);
  std::transform(array.values.begin(), array.values.end(), tensor.data(), [](double x) { return T(x); });
  return tensor;
}

template <class T>
using Three = std::array<std::shared_ptr<const Tensor<T>>, 3>;

// The last tensors are kept, because the benches of one shape come back to them in any order.
template <class T, class Make>
std::shared_ptr<const Tensor<T>> kept(const std::string& name, const Make& make) {
  struct Named {
    std::string name;
    std::shared_ptr<const Tensor<T>> tensor;
  };
  static std::list<Named> all;
  constexpr std::size_t most_bytes = std::size_t{1} << 30;
  const auto found = std::find_if(all.begin(), all.end(), [&](const Named& n) { return n.name == name; });
  if (found != all.end()) {
    all.splice(all.begin(), all, found);
    return all.front().tensor;
  }
  const auto tensor = make();
  all.push_front({name, tensor});
  std::size_t bytes = 0;
  all.remove_if([&](const Named& n) { return (bytes += std::size_t(n.tensor->size()) * sizeof(T)) > most_bytes; });
  return tensor;
}

std::string extents_text(const std::array<Index, 4>& extents) {
  std::string text;
  for (const Index extent : extents) text.append(1, ' ').append(std::to_string(extent));
  return text;
}

template <class T>
std::shared_ptr<const Tensor<T>> from_file(const std::string& path, const std::array<Index, 4>& wanted) {
  return kept<T>(path + extents_text(wanted),
                 [&] { return std::make_shared<const Tensor<T>>(read_tensor<T>(path, wanted)); });
}

// The last query of every head: what decoding its token asks.
template <class T>
std::shared_ptr<const Tensor<T>> last_query(const std::string& path, const std::array<Index, 4>& all) {
  return kept<T>(path + extents_text(all) + " last", [&] {
    const auto queries = from_file<T>(path, all);
    auto last = std::make_shared<Tensor<T>>(all[0], all[1], Index{1}, all[3]);
    for (Index head = 0; head < all[0] * all[1]; ++head)
      std::copy_n(queries->data() + ((head + 1) * all[2] - 1) * all[3], all[3], last->data() + head * all[3]);
    return std::shared_ptr<const Tensor<T>>(last);
  });
}

template <class T>
Three<T> from_synthetic(const Shape& shape) {
  const auto name = [&](const char* what) {
    return shape.data + extents_text({shape.batch, shape.heads, shape.kv_heads, shape.queries}) +
           extents_text({shape.keys, shape.key_dim, shape.value_dim, 0}) + what;
  };
  std::shared_ptr<const Synthetic> made;
  const auto one = [&](const char* what, const auto member) {
    return kept<T>(name(what), [&] {
      if (!made) made = std::make_shared<const Synthetic>(synthetic(shape));
      return std::make_shared<const Tensor<T>>((*made.*member).template cast<T>());
    });
  };
  return {one("q", &Synthetic::q), one("k", &Synthetic::k), one("v", &Synthetic::v)};
}

}  // namespace

void set_data_folder(const std::string& folder) { data_folder() = folder; }

template <class T>
std::shared_ptr<const Tensor<T>> gaussian(unsigned seed, const std::array<Index, 4>& extents) {
  return kept<T>("gaussian " + std::to_string(seed) + extents_text(extents), [&] {
    auto tensor = std::make_shared<Tensor<T>>(extents);
    std::mt19937_64 engine(seed);
    std::normal_distribution<T> normal;
    std::generate_n(tensor->data(), tensor->size(), [&] { return normal(engine); });
    return std::shared_ptr<const Tensor<T>>(tensor);
  });
}

template std::shared_ptr<const Tensor<float>> gaussian(unsigned, const std::array<Index, 4>&);
template std::shared_ptr<const Tensor<double>> gaussian(unsigned, const std::array<Index, 4>&);

template <class T>
Input<T> make_input(const Shape& s) {
  const std::array<Index, 4> q = {s.batch, s.heads, s.queries, s.key_dim}, k = {s.batch, s.kv_heads, s.keys, s.key_dim},
                             v = {s.batch, s.kv_heads, s.keys, s.value_dim},
                             out = {s.batch, s.heads, s.queries, s.value_dim};
  if (s.given) {
    const auto cast = [](const std::shared_ptr<const Tensor<float>>& tensor) {
      if constexpr (std::is_same_v<T, float>) {
        return tensor;
      } else {
        return std::make_shared<const Tensor<T>>(tensor->template cast<T>());
      }
    };
    return {s, cast(s.given->q), cast(s.given->k), cast(s.given->v)};
  }
  if (s.data.empty() || s.data == "gaussian") return {s, gaussian<T>(1, q), gaussian<T>(2, k), gaussian<T>(3, v)};
  if (s.data == "user") {
    const auto& files = user_files();
    return {s, from_file<T>(files[0], q), from_file<T>(files[1], k), from_file<T>(files[2], v)};
  }
  if (is_synthetic(s.data)) {
    const auto [q_data, k_data, v_data] = from_synthetic<T>(s);
    return {s, q_data, k_data, v_data};
  }
  const std::string stem = data_folder() + "/" + s.data + "_";
  if (s.queries == 1 && s.keys > 1) {
    const std::array<Index, 4> all = {s.batch, s.heads, s.keys, s.key_dim};
    return {s, last_query<T>(stem + "q.npy", all), from_file<T>(stem + "k.npy", k), from_file<T>(stem + "v.npy", v)};
  }
  Input<T> input{s, from_file<T>(stem + "q.npy", q), from_file<T>(stem + "k.npy", k), from_file<T>(stem + "v.npy", v)};
  if (!s.pattern.sees && std::filesystem::exists(stem + "o.npy")) input.expected = read_tensor<T>(stem + "o.npy", out);
  if (!s.pattern.sees && std::filesystem::exists(stem + "lse.npy")) {
    const Array array = read(stem + "lse.npy");
    input.expected_log_sum.resize(s.batch, s.heads, s.queries);
    if (Index(array.values.size()) != input.expected_log_sum.size())
      throw std::runtime_error(stem + "lse.npy: wrong size");
    std::transform(array.values.begin(), array.values.end(), input.expected_log_sum.data(),
                   [](double x) { return T(x); });
  }
  return input;
}

template Input<float> make_input(const Shape&);
template Input<double> make_input(const Shape&);

Given leading_tokens(const Shape& shape, Index heads, Index tokens) {
  const Input<float> in = make_input<float>(shape);
  heads = std::min(heads, shape.heads);
  const auto take = [&](const Tensor<float>& from, Index length, Index group) {
    length = std::min(length, tokens);
    const Index dim = from.dimension(3);
    auto to = std::make_shared<Tensor<float>>(Index{1}, heads, length, dim);
    for (Index h = 0; h < heads; ++h) std::copy_n(&from(0, h / group, 0, 0), length * dim, &(*to)(0, h, 0, 0));
    return to;
  };
  return {take(in.q, shape.queries, 1), take(in.k, shape.keys, shape.heads / shape.kv_heads), nullptr};
}

Shape user_shape(const std::string& q, const std::string& k, const std::string& v) {
  user_files() = {q, k, v};
  const auto queries = four(q, read(q).extents), keys = four(k, read(k).extents), values = four(v, read(v).extents);
  const bool fits = keys[0] == queries[0] && values[0] == keys[0] && values[1] == keys[1] && values[2] == keys[2] &&
                    keys[3] == queries[3] && keys[1] > 0 && queries[1] % keys[1] == 0;
  if (!fits)
    throw std::runtime_error(
        "the shapes of q, k and v do not fit: wanted [B,H,N,D], [B,G,M,D] and [B,G,M,E], G divides H");
  return {.table = "user",
          .batch = queries[0],
          .heads = queries[1],
          .kv_heads = keys[1],
          .queries = queries[2],
          .keys = keys[2],
          .key_dim = queries[3],
          .value_dim = values[3],
          .data = "user",
          .quick = true};
}

}  // namespace bench
