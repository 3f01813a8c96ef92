// The tensor cores' product of bfloat16 tiles. tests/cuda_emulation has a stand-in for this header.
#pragma once

#include <cstdint>

namespace moto::cuda {
namespace {

// c [16, 8] += a [16, 16] b [16, 8] by a warp. Each register holds two neighbouring elements along the summed dimension. With
// g = lane / 4 and t = lane % 4: a has rows g and g + 8 at 2t, then the same at 2t + 8; b has column g at 2t, then at 2t + 8; c has
// columns 2t and 2t + 1 of row g, then of row g + 8 (PTX ISA, mma.m16n8k16).
__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace
}  // namespace moto::cuda
