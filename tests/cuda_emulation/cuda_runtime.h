// A stand-in for the CUDA toolkit's header: the language's extensions, for kernels that run on the CPU (emulation.h).
#pragma once

#include <cuda_runtime_api.h>

#include <cmath>
#include <cstring>

#include "emulation.h"

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
#define threadIdx (::emulation::now().thread_index)
#define blockIdx (::emulation::now().block_index)
#define blockDim (::emulation::now().block_size)
#define gridDim (::emulation::now().grid_size)

inline void __syncthreads() { emulation::block_barrier(); }
inline void __syncwarp() { emulation::warp_barrier(); }
inline void __threadfence() {}
inline void __nanosleep(unsigned) { emulation::yield(); }

template <typename T>
T __shfl_sync(unsigned, T x, int source) {
  return emulation::exchange(x, source);
}
template <typename T>
T __shfl_xor_sync(unsigned, T x, int mask) {
  return emulation::exchange(x, emulation::lane() ^ mask);
}
template <typename T>
T __shfl_up_sync(unsigned, T x, int distance) {
  return emulation::exchange(x, emulation::lane() < distance ? emulation::lane() : emulation::lane() - distance);
}
inline unsigned __ballot_sync(unsigned, bool vote) {
  unsigned all = 0;
  for (int i = 0; i < 32; ++i) all |= static_cast<unsigned>(emulation::exchange(vote, i)) << i;
  return all;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }

template <typename T>
T atomicAdd(T* address, T value) {
  const T before = *address;
  *address += value;
  return before;
}

// The quantile of the standard normal: bisection, then Newton's method on the tail that keeps its digits.
inline double normcdfinv(double p) {
  const bool upper = p > 0.5;
  const double tail = upper ? 1 - p : p;
  double low = -40, high = 0;
  for (int i = 0; i < 60; ++i) {
    const double middle = 0.5 * (low + high);
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < tail ? low : high) = middle;
  }
  double x = 0.5 * (low + high);
  for (int i = 0; i < 2; ++i) {
    x -= (0.5 * std::erfc(-x / std::sqrt(2.0)) - tail) / (std::exp(-0.5 * x * x) / std::sqrt(2 * M_PI));
  }
  return upper ? -x : x;
}
inline float normcdfinvf(float p) { return static_cast<float>(normcdfinv(p)); }
