// Memory of caches: bytes at addresses that are multiples of 64. Much of it is asked for in large pages where the
// system has them (Linux, 2 MiB): reading a long cache then walks far fewer page tables, which a quarter of the time of
// decoding can go into otherwise, above all on virtual machines.
#pragma once

#include <cstddef>
#include <new>
#include <utility>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <fovea/core/config.hpp>

namespace fovea::inline FOVEA_ISA::cache {

// Owned and not initialised; moved, never copied.
class Memory {
 public:
  Memory() = default;
  explicit Memory(Index bytes) : size_(std::size_t(bytes)) {
    if (size_ == 0) return;
    data_ = static_cast<std::byte*>(::operator new(size_, alignment()));
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (size_ >= large) madvise(data_, size_ / page * page, MADV_HUGEPAGE);  // a wish; nothing depends on it
#endif
  }
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Memory() { ::operator delete(data_, alignment()); }

  std::byte* data() const { return data_; }
  std::byte* const* address() const { return &data_; }  // a table of one page

 private:
  static constexpr std::size_t page = std::size_t{2} << 20, large = 4 * page;

  std::align_val_t alignment() const { return std::align_val_t(size_ >= large ? page : 64); }
  void swap(Memory& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace fovea::inline FOVEA_ISA::cache
