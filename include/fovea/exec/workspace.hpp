// Scratch memory that is kept between calls, so that calls which come again and again (decoding) allocate nothing.
//
//   fovea::Workspace workspace;
//   for (...) fovea::attend(q, cache, out, recipe, fovea::exec::reuse(workspace, pool));
//
// The first calls find out how much is wanted; after that nothing is allocated as long as the shapes do not grow.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>
#include <vector>

#include <fovea/core/memory.hpp>
#include <fovea/exec/serial.hpp>

namespace fovea::inline FOVEA_ISA {

// Memory handed out and taken back, mostly in reverse order. One call at a time uses it.
class Workspace {
 public:
  Workspace() = default;
  Workspace(Workspace&& other) noexcept { *this = std::move(other); }
  Workspace& operator=(Workspace&& other) noexcept {
    std::swap(blocks_, other.blocks_);
    std::swap(last_, other.last_);
    return *this;
  }
  ~Workspace() { release_blocks(); }

  // Bytes that it holds.
  std::size_t size() const {
    std::size_t all = 0;
    for (const Block& block : blocks_) all += block.size;
    return all;
  }

  void* take(std::size_t bytes) {
    const std::size_t size = sizeof(Piece) + (bytes + scratch_alignment - 1) / scratch_alignment * scratch_alignment;
    if (last_ == nullptr && blocks_.size() > 1) {  // what was wanted in pieces is wanted in one
      const std::size_t all = std::max(this->size(), size);
      release_blocks();
      add_block(all);
    }
    if (blocks_.empty() || blocks_.back().size - blocks_.back().used < size)
      add_block(std::max(size, 2 * this->size()));
    Block& block = blocks_.back();
    Piece* const piece = new (block.data + block.used) Piece{last_, blocks_.size() - 1, block.used, false};
    block.used += size;
    last_ = piece;
    return piece + 1;
  }

  void give(void* memory) {
    static_cast<Piece*>(memory)[-1].free = true;
    while (last_ != nullptr && last_->free) {
      for (std::size_t b = last_->block + 1; b < blocks_.size(); ++b) blocks_[b].used = 0;
      blocks_[last_->block].used = last_->begin;
      last_ = last_->before;
    }
  }

 private:
  struct alignas(scratch_alignment) Piece {
    Piece* before;
    std::size_t block, begin;
    bool free;
  };
  struct Block {
    std::byte* data;
    std::size_t size, used;
  };

  void add_block(std::size_t size) {
    blocks_.reserve(blocks_.size() + 1);
    blocks_.push_back({static_cast<std::byte*>(detail::allocate(size)), size, std::size_t{0}});
  }
  void release_blocks() {
    for (const Block& block : blocks_) detail::release(block.data, block.size);
    blocks_.clear();
  }

  std::vector<Block> blocks_{};
  Piece* last_ = nullptr;
};

namespace exec {

// An executor whose calls take their scratch memory from a workspace.
template <class Exec>
class Reusing {
 public:
  Reusing(Workspace& workspace, const Exec& executor) : workspace_(&workspace), executor_(&executor) {}

  Workspace& workspace() const { return *workspace_; }
  Index concurrency() const { return exec::concurrency(*executor_); }
  template <class F>
  void parallel_for(Index count, double flops, F&& f) const {
    executor_->parallel_for(count, flops, std::forward<F>(f));
  }

 private:
  Workspace* workspace_;
  const Exec* executor_;  // not owned
};

namespace detail {
inline constexpr Serial calling_thread{};
}  // namespace detail

// Both must outlive the executor.
template <Executor Exec>
Reusing<Exec> reuse(Workspace& workspace, const Exec& executor) {
  return {workspace, executor};
}
inline Reusing<Serial> reuse(Workspace& workspace) { return {workspace, detail::calling_thread}; }

}  // namespace exec
}  // namespace fovea::inline FOVEA_ISA
