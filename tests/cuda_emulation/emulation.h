// Runs CUDA kernels on the CPU, to test their logic where there is no GPU. Each CUDA thread is a fiber; barriers and shuffles
// switch between fibers, in an order that is shuffled every round so that a missing barrier shows. Shared memory starts as NaNs.
// What it cannot show: speed, and what a real memory system reorders.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

namespace emulation {

struct Index {
  unsigned x = 1, y = 1, z = 1;
};

struct Now {
  Index thread_index, block_index, block_size, grid_size;
};

// The running fiber's.
const Now& now();
int lane();
void* memory();
void yield();
void block_barrier();
void warp_barrier();
// Each lane shows 8 bytes and sees those of `source`.
uint64_t exchange_bits(uint64_t bits, int source);

template <typename T>
T exchange(T x, int source) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &x, sizeof x);
  bits = exchange_bits(bits, source);
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Runs body in each thread of the grid: block after block, or all blocks at once where `together`.
void run(int64_t blocks, int threads, size_t bytes, bool together, const std::function<void()>& body);

}  // namespace emulation
