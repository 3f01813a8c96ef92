// A row of the batch by one block: the recurrent cell. Shared memory: kWarp elements.
#pragma once

#include "cuda/block.cuh"
#include "kernels/arguments.h"

namespace moto::cuda {
namespace {

template <typename T, typename S>
__device__ void gru_row(const Gru<T, S>& cell, int64_t b, T* memory) {
  const int64_t D = cell.deter, width = 3 * D;
  const T *w = cell.norm_weight, *c = cell.norm_bias;
  const S* parts = cell.parts + b * width;
  T total = 0, squares = 0;
  for (int64_t j = threadIdx.x; j < width; j += blockDim.x) total += load(parts + j);
  const T mean = block_sum(total, memory) / static_cast<T>(width);
  for (int64_t j = threadIdx.x; j < width; j += blockDim.x) {
    const T centred = load(parts + j) - mean;
    squares += centred * centred;
  }
  const T scale = T(1) / std::sqrt(block_sum(squares, memory) / static_cast<T>(width) + T(1e-3));
  if (threadIdx.x == 0) cell.stats[2 * b] = mean, cell.stats[2 * b + 1] = scale;
  const bool forgets = cell.is_first && cell.is_first[b], next_forgets = cell.next_first && cell.next_first[b];
  for (int64_t j = threadIdx.x; j < D; j += blockDim.x) {
    const T reset = sigmoid((load(parts + j) - mean) * scale * w[j] + c[j]);
    const T candidate = (load(parts + D + j) - mean) * scale * w[D + j] + c[D + j];
    const T update = sigmoid((load(parts + 2 * D + j) - mean) * scale * w[2 * D + j] + c[2 * D + j] - T(1));
    const T previous = forgets ? T(0) : cell.previous[b * D + j];
    const T now = update * std::tanh(reset * candidate) + (T(1) - update) * previous;
    cell.out[b * D + j] = now;
    if (cell.operand) store(cell.operand + b * cell.stride + j, now);
    if (cell.next) store(cell.next + b * cell.next_stride + j, next_forgets ? T(0) : now);
  }
}

template <typename T, typename S>
__device__ void gru_backward_row(const Gru<T, S>& cell, int64_t b, T* memory) {
  const int64_t D = cell.deter, width = 3 * D;
  const T *w = cell.norm_weight, *c = cell.norm_bias;
  const S* parts = cell.parts + b * width;
  const T mean = cell.stats[2 * b], scale = cell.stats[2 * b + 1];
  const bool forgets = cell.is_first && cell.is_first[b];
  T total = 0, with_values = 0;
  // Two passes: the gradient of the normalised values needs its own mean and its mean with the values.
  for (int pass = 0; pass < 2; ++pass) {
    const T average = total / static_cast<T>(width), projection = with_values / static_cast<T>(width);
    for (int64_t j = threadIdx.x; j < D; j += blockDim.x) {
      const T normal_r = (load(parts + j) - mean) * scale, normal_c = (load(parts + D + j) - mean) * scale;
      const T normal_u = (load(parts + 2 * D + j) - mean) * scale;
      const T reset = sigmoid(normal_r * w[j] + c[j]), candidate = normal_c * w[D + j] + c[D + j];
      const T update = sigmoid(normal_u * w[2 * D + j] + c[2 * D + j] - T(1)), proposal = std::tanh(reset * candidate);
      T g = cell.grad[b * D + j];
      for (int64_t k = 0; k < cell.heads; ++k) g += load(cell.grad_heads + (k * cell.batch + b) * D + j);
      if (cell.grad_extra) g += cell.grad_extra[b * D + j];
      const T previous = forgets ? T(0) : cell.previous[b * D + j], inner = g * update * (T(1) - proposal * proposal);
      const T to_reset = inner * candidate * reset * (T(1) - reset), to_candidate = inner * reset;
      const T to_update = g * (proposal - previous) * update * (T(1) - update);
      const T r = to_reset * w[j], k = to_candidate * w[D + j], u = to_update * w[2 * D + j];
      if (pass == 0) {
        total += r + k + u;
        with_values += r * normal_r + k * normal_c + u * normal_u;
        if (cell.grad_norm) {
          T* norm = cell.grad_norm + b * width;
          norm[j] = to_reset, norm[D + j] = to_candidate, norm[2 * D + j] = to_update;
        }
      } else {
        S* grad_parts = cell.grad_parts + b * width;
        store(grad_parts + j, scale * (r - average - normal_r * projection));
        store(grad_parts + D + j, scale * (k - average - normal_c * projection));
        store(grad_parts + 2 * D + j, scale * (u - average - normal_u * projection));
        cell.grad[b * D + j] = forgets ? T(0) : g * (T(1) - update);
      }
    }
    if (pass == 0) total = block_sum(total, memory), with_values = block_sum(with_values, memory);
  }
}

}  // namespace
}  // namespace moto::cuda
