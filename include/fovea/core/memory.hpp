// Memory that is aligned to cache lines. Much of it is asked for in large pages where the system has them (Linux, 2
// MiB): reading a long cache then walks far fewer page tables, which a quarter of the time of decoding can go into
// otherwise, and memory that is new is made hundreds of small pages at a time, both above all on virtual machines.
#pragma once

#include <cstddef>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <fovea/core/config.hpp>

namespace fovea::inline FOVEA_ISA {

inline constexpr std::size_t scratch_alignment = 64;

namespace detail {

inline constexpr std::size_t large_page = std::size_t{2} << 20, least_large = 2 * large_page;

inline std::align_val_t alignment_of(std::size_t bytes) {
  return std::align_val_t(bytes >= least_large ? large_page : scratch_alignment);
}

// Not initialised. Throws std::bad_alloc.
inline void* allocate(std::size_t bytes) {
  void* const memory = ::operator new(bytes, alignment_of(bytes));
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes >= least_large)
    madvise(memory, bytes / large_page * large_page, MADV_HUGEPAGE);  // a wish; nothing depends on it
#endif
  return memory;
}
// What allocate(bytes) gave, or null.
inline void release(void* memory, std::size_t bytes) { ::operator delete(memory, alignment_of(bytes)); }

}  // namespace detail
}  // namespace fovea::inline FOVEA_ISA
