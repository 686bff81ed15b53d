// Memory of caches: bytes at addresses that are multiples of 64.
#pragma once

#include <cstddef>
#include <new>
#include <utility>

#include <fovea/core/config.hpp>

namespace fovea::inline FOVEA_ISA::cache {

// Owned and not initialised; moved, never copied.
class Memory {
 public:
  Memory() = default;
  explicit Memory(Index bytes)
      : data_(bytes == 0 ? nullptr : static_cast<std::byte*>(::operator new(std::size_t(bytes), alignment))) {}
  Memory(Memory&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~Memory() { ::operator delete(data_, alignment); }

  std::byte* data() const { return data_; }
  std::byte* const* address() const { return &data_; }  // a table of one page

 private:
  static constexpr auto alignment = std::align_val_t(64);

  std::byte* data_ = nullptr;
};

}  // namespace fovea::inline FOVEA_ISA::cache
