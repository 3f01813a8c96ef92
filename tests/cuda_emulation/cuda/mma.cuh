// The stand-in for csrc/cuda/mma.cuh: each lane shows its registers to the others of its warp.
#pragma once

#include <cuda_runtime.h>

namespace moto::cuda {
namespace {

inline float element(uint32_t pair, int which) {
  const uint32_t bits = which ? pair & 0xFFFF0000u : pair << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  float left[16][16], right[16][8];  // whole tiles, put together from all lanes' registers
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const uint32_t pair = emulation::exchange(a[i], lane);
      for (int which = 0; which < 2; ++which) left[g + 8 * (i % 2)][2 * t + 8 * (i / 2) + which] = element(pair, which);
    }
    for (int i = 0; i < 2; ++i) {
      const uint32_t pair = emulation::exchange(b[i], lane);
      for (int which = 0; which < 2; ++which) right[2 * t + 8 * i + which][g] = element(pair, which);
    }
  }
  const int g = emulation::lane() / 4, t = emulation::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    for (int k = 0; k < 16; ++k) c[i] += left[g + 8 * (i / 2)][k] * right[k][2 * t + i % 2];
  }
}

}  // namespace
}  // namespace moto::cuda
