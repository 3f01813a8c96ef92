// What a block's threads compute together, and elementwise functions.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstring>

#include "kernels/types.h"

namespace moto::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kThreads = 256;  // of a block
constexpr unsigned kAll = 0xFFFFFFFFu;

// Blocks with a thread for each of `count`.
inline int64_t blocks(int64_t count) { return (count + kThreads - 1) / kThreads; }

// bfloat16 is a float's upper half, rounded to nearest even.
__device__ inline float load(const float* p) { return *p; }
__device__ inline double load(const double* p) { return *p; }
__device__ inline float load(const BFloat16* p) {
  const uint32_t bits = uint32_t{p->bits} << 16;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
__device__ inline void store(float* p, float x) { *p = x; }
__device__ inline void store(double* p, double x) { *p = x; }
__device__ inline void store(BFloat16* p, float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  p->bits = static_cast<uint16_t>(x != x ? 0x7FC0u : (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

template <typename T>
__device__ inline T elu(T x) {
  return x > T(0) ? x : std::expm1(x);
}

template <typename T>
__device__ inline T elu_slope(T result) {
  return result > T(0) ? T(1) : result + T(1);
}

template <typename T>
__device__ inline T sigmoid(T x) {
  return T(1) / (T(1) + std::exp(-x));
}

template <typename T>
__device__ inline T warp_sum(T x) {
  for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAll, x, step);
  return x;
}

template <typename T>
__device__ inline T warp_max(T x) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const T other = __shfl_xor_sync(kAll, x, step);
    x = other > x ? other : x;
  }
  return x;
}

// Sum over the block, the same to all its threads; `memory`: kWarp elements. All threads of the block must call it.
template <typename T>
__device__ inline T block_sum(T x, T* memory) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = (blockDim.x + kWarp - 1) / kWarp;
  x = warp_sum(x);
  if (lane == 0) memory[warp] = x;
  __syncthreads();
  T total = 0;
  for (int w = 0; w < warps; ++w) total += memory[w];
  __syncthreads();  // `memory` may be used again
  return total;
}

}  // namespace
}  // namespace moto::cuda
