// Launchers of the persistent kernels of observe: all T steps in one launch, with the recurrent weights on chip. For categorical
// latents with products in bfloat16. They need only the CUDA toolkit.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/types.h"

namespace moto::cuda {

struct ScanShape {
  int64_t steps;   // T
  int64_t batch;   // B
  int64_t deter;   // D
  int64_t units;   // V
  int64_t hidden;  // U
  LatentShape latent;
};

// Arrays are contiguous, weights [out, in]. What one block writes for another has a place of its own for each step: a plain load
// then never finds an older value in its cache.
struct Scan {
  ScanShape shape;
  PhiloxKey key;
  const BFloat16* first_product;  // [B, V] of the latent before step 0
  const float* from_action;       // [T, B, V]
  const float* from_embed;        // [T, B, U]
  const bool* is_first;           // [T, B]
  const float* start_deter;       // [B, D]
  const BFloat16* stoch_weight;   // [Z, V], transposed: rows are gathered
  const BFloat16* gru_weight;     // [3D, V + D]
  const BFloat16* deter_weight;   // [U, D]
  const BFloat16* out_weight;     // [P, U]
  const float *norm_weight, *norm_bias, *out_bias;
  // Results; of inputs [T, B, V + D], the last D columns of step 0 are given.
  float *deter, *stoch, *params, *stats;
  BFloat16 *inputs, *parts, *hidden;
  // Scratch.
  int32_t* index;     // [B, S]
  BFloat16* state;    // [T, B, D]
  BFloat16* logits;   // [T, B, P]
  unsigned* arrived;  // zero
};

struct ScanBackward {
  ScanShape shape;
  const bool* is_first;
  const float *start_deter, *deter, *stoch, *stats, *norm_weight, *norm_bias;
  const float* no_bias;    // [P] zeros
  const BFloat16* params;  // [T, B, P]
  const BFloat16 *inputs, *parts, *hidden;
  const BFloat16* out_weight;                                                  // [U, P], transposed, like all weights here
  const BFloat16* deter_weight;                                                // [D, U]
  const BFloat16* gru_weight;                                                  // [V + D, 3D]
  const BFloat16* stoch_weight;                                                // [Z, V]
  const float *to_deter, *to_stoch, *to_params;                                // gradients of the results, or null
  float* grad_deter;                                                           // [B, D] zero; becomes the start's
  BFloat16* grad_z;                                                            // [T, B, Z]; the first row becomes the start's
  BFloat16 *grad_logits, *grad_hidden, *grad_head, *grad_parts, *grad_inputs;  // [T, B, .]
  float* grad_norm;                                                            // [T, B, 3D]
  unsigned* arrived;                                                           // zero
};

// How many blocks of the current device share a scan, or 0 where it has to be done step by step: sizes that do
// not suit it, or weights for which the device's shared memory is too small.
int64_t scan_blocks(const ScanShape& shape, bool backward);

cudaError_t scan(const Scan& x, int64_t blocks, cudaStream_t stream);
cudaError_t scan_backward(const ScanBackward& x, int64_t blocks, cudaStream_t stream);

}  // namespace moto::cuda
