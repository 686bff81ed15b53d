// Memory of caches: bytes at addresses that are multiples of 64.
#pragma once

#include <utility>

#include <fovea/core/memory.hpp>

namespace fovea::inline FOVEA_ISA::cache {

// Owned and not initialised; moved, never copied.
class Memory {
 public:
  Memory() = default;
  explicit Memory(Index bytes) : size_(std::size_t(bytes)) {
    if (size_ > 0) data_ = static_cast<std::byte*>(fovea::detail::allocate(size_));
  }
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Memory() { fovea::detail::release(data_, size_); }

  std::byte* data() const { return data_; }
  std::byte* const* address() const { return &data_; }  // a table of one page

 private:
  void swap(Memory& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace fovea::inline FOVEA_ISA::cache
