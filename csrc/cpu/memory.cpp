#include "cpu/memory.h"

#include <c10/core/CPUAllocator.h>

#include <list>
#include <mutex>

namespace moto::cpu {
namespace {

constexpr size_t kLarge = 4u << 20;  // smaller ones malloc itself keeps
constexpr size_t kMostBlocks = 16;   // more than a step of imagine and one of observe use

struct Block {
  c10::DataPtr memory;
  size_t bytes;
};

struct Pool {
  std::mutex mutex;
  std::list<Block> free;  // the last one freed first

  Block take(size_t bytes) {
    {
      const std::lock_guard lock(mutex);
      for (auto it = free.begin(); it != free.end(); ++it) {
        if (it->bytes >= bytes && it->bytes <= bytes + bytes / 4) {
          Block block = std::move(*it);
          free.erase(it);
          return block;
        }
      }
    }
    return {c10::GetCPUAllocator()->allocate(bytes), bytes};
  }
  void give(Block block) {
    const std::lock_guard lock(mutex);
    free.push_front(std::move(block));
    if (free.size() > kMostBlocks) free.pop_back();
  }
};

Pool& pool() {
  static Pool* const pool = new Pool;  // outlives tensors that are freed at exit
  return *pool;
}

}  // namespace

at::Tensor empty_again(at::IntArrayRef sizes, const at::TensorOptions& options) {
  const size_t bytes = static_cast<size_t>(c10::multiply_integers(sizes)) * options.dtype().itemsize();
  if (bytes < kLarge) return at::empty(sizes, options);
  auto* block = new Block(pool().take(bytes));
  return at::from_blob(
      block->memory.get(), sizes,
      [block](void*) {
        pool().give(std::move(*block));
        delete block;
      },
      options);
}

}  // namespace moto::cpu
