// A file of named arrays: eight bytes of length, so many bytes of JSON that tell type, shape and place of each array,
// and the arrays behind it, little-endian. https://github.com/huggingface/safetensors, "Format".
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace decode {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be opened");
  return {std::istreambuf_iterator<char>(file), {}};
}

class Safetensors {
 public:
  // `name` is for messages. Throws std::runtime_error when the bytes are not such a file, whole: every array must have
  // the bytes that its type and shape want, inside the file, and nothing may follow the last one.
  Safetensors(std::string bytes, const std::string& name) : bytes_(std::move(bytes)), name_(name) {
    static_assert(std::endian::native == std::endian::little);
    std::uint64_t length = 0;
    require(bytes_.size() >= sizeof(length), "is shorter than its eight bytes of length");
    std::memcpy(&length, bytes_.data(), sizeof(length));
    require(length <= bytes_.size() - sizeof(length),
            "says that its header has " + std::to_string(length) + " bytes, which is more than there are");
    begin_ = sizeof(length) + std::size_t(length);

    const auto header =
        nlohmann::json::parse(bytes_.begin() + sizeof(length), bytes_.begin() + std::ptrdiff_t(begin_), nullptr, false);
    require(header.is_object(), "has a header that is not a JSON object");
    std::size_t end = 0;
    for (const auto& [key, entry] : header.items()) {
      if (key == "__metadata__") {
        metadata_ = entry;
        continue;
      }
      arrays_.push_back(array(key, entry));
      end = std::max(end, arrays_.back().end);
    }
    require(end == bytes_.size() - begin_, "has arrays of " + std::to_string(end) + " bytes, and " +
                                               std::to_string(bytes_.size() - begin_) + " bytes behind its header");
  }

  static Safetensors open(const std::string& path) { return {read_file(path), path}; }

  // The number that the file's own notes give for `key`.
  double number(const std::string& key) const {
    const auto found = metadata_.find(key);
    require(found != metadata_.end() && found->is_string(), "has no note \"" + key + "\"");
    const auto text = found->get<std::string>();
    std::size_t used = 0;
    double value = 0;
    try {
      value = std::stod(text, &used);
    } catch (const std::exception&) {
      used = 0;
    }
    require(used == text.size() && used > 0, "has the note \"" + key + "\" = \"" + text + "\", which is no number");
    return value;
  }

  // The array `name` of half-precision numbers [rows, columns], or [columns] where rows is 1.
  Matrix matrix(const std::string& name, Eigen::Index rows, Eigen::Index columns) const {
    for (const Array& array : arrays_) {
      if (array.name != name) continue;
      require(array.type == "F16", "holds " + name + " as " + array.type + ", wanted F16");
      const bool fits = array.shape.size() == 2 ? array.shape[0] == rows && array.shape[1] == columns
                                                : array.shape.size() == 1 && rows == 1 && array.shape[0] == columns;
      require(fits, "holds " + name + " in another shape than [" + std::to_string(rows) + ", " +
                        std::to_string(columns) + "]");
      std::vector<Eigen::half> stored(std::size_t(rows * columns));
      std::memcpy(static_cast<void*>(stored.data()), bytes_.data() + begin_ + array.begin, array.end - array.begin);
      using Stored = Eigen::Matrix<Eigen::half, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
      return Eigen::Map<const Stored>(stored.data(), rows, columns).cast<float>();
    }
    require(false, "holds no array " + name);
    return {};
  }

 private:
  struct Array {
    std::string name, type;
    std::vector<Eigen::Index> shape;
    std::size_t begin = 0, end = 0;  // bytes behind the header
  };

  void require(bool holds, const std::string& otherwise) const {
    if (!holds) throw std::runtime_error(name_ + " " + otherwise);
  }

  static std::size_t width_of(const std::string& type) {
    if (type == "F64" || type == "I64" || type == "U64") return 8;
    if (type == "F32" || type == "I32" || type == "U32") return 4;
    if (type == "F16" || type == "BF16" || type == "I16" || type == "U16") return 2;
    return type == "I8" || type == "U8" || type == "BOOL" ? 1 : 0;
  }

  Array array(const std::string& name, const nlohmann::json& entry) const {
    const auto size = bytes_.size() - begin_;
    const auto is_count = [](const nlohmann::json& x) { return x.is_number_unsigned(); };
    require(entry.is_object() && entry.contains("dtype") && entry.contains("shape") && entry.contains("data_offsets"),
            "does not say type, shape and place of " + name);
    const auto &type = entry["dtype"], &shape = entry["shape"], &place = entry["data_offsets"];
    require(type.is_string() && width_of(type.get<std::string>()) > 0, "has a type of " + name + " that is not known");
    require(shape.is_array() && std::all_of(shape.begin(), shape.end(), is_count), "has no shape of " + name);
    require(place.is_array() && place.size() == 2 && is_count(place[0]) && is_count(place[1]),
            "has no place of " + name);

    Array result{name, type.get<std::string>(), {}, 0, 0};
    const auto first = place[0].get<std::uint64_t>(), last = place[1].get<std::uint64_t>();
    require(first <= last && last <= size, "ends before " + name + " does: it is cut off, or its header is wrong");
    std::uint64_t wanted = width_of(result.type);
    for (const auto& extent : shape) {
      const auto count = extent.get<std::uint64_t>();
      require(count == 0 || wanted <= size / count, "has a shape of " + name + " that does not fit into the file");
      wanted *= count;
      result.shape.push_back(Eigen::Index(count));
    }
    require(wanted == last - first,
            "gives " + name + " " + std::to_string(last - first) + " bytes, wanted " + std::to_string(wanted));
    result.begin = std::size_t(first);
    result.end = std::size_t(last);
    return result;
  }

  std::string bytes_, name_;
  std::size_t begin_ = 0;  // of the arrays
  nlohmann::json metadata_ = nlohmann::json::object();
  std::vector<Array> arrays_;
};

}  // namespace decode
