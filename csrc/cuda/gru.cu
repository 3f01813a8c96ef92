// The recurrent cell, one block a row of the batch, and its LayerNorm's gradient, one thread a column.
#include "cuda/cuda_kernels.h"
#include "cuda/gru.cuh"
#include "cuda/launch.cuh"

namespace moto::cuda {
namespace {

template <typename T, typename S>
__global__ void gru_kernel(Gru<T, S> cell) {
  gru_row(cell, blockIdx.x, block_memory<T>());
}

template <typename T, typename S>
__global__ void gru_backward_kernel(Gru<T, S> cell) {
  gru_backward_row(cell, blockIdx.x, block_memory<T>());
}

// One thread a column.
template <typename T, typename S>
__global__ void norm_grad_kernel(NormGrad<T, S> norm) {
  const int64_t j = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (j >= norm.width) return;
  T weight = 0, bias = 0;
  for (int64_t b = 0; b < norm.rows; ++b) {
    const T grad = norm.grad[b * norm.width + j];
    weight += grad * (load(norm.parts + b * norm.width + j) - norm.stats[2 * b]) * norm.stats[2 * b + 1];
    bias += grad;
  }
  norm.weight[j] = weight;
  norm.bias[j] = bias;
}

}  // namespace

template <typename T, typename S>
cudaError_t gru(const Gru<T, S>& x, int64_t rows, cudaStream_t stream) {
  return launch(gru_kernel<T, S>, rows, kThreads, kWarp * sizeof(T), false, stream, x);
}

template <typename T, typename S>
cudaError_t gru_backward(const Gru<T, S>& x, int64_t rows, cudaStream_t stream) {
  return launch(gru_backward_kernel<T, S>, rows, kThreads, kWarp * sizeof(T), false, stream, x);
}

template <typename T, typename S>
cudaError_t norm_grad(const NormGrad<T, S>& x, cudaStream_t stream) {
  return launch(norm_grad_kernel<T, S>, blocks(x.width), kThreads, 0, false, stream, x);
}

#define MOTO_INSTANTIATE(T, S)                                                \
  template cudaError_t gru(const Gru<T, S>&, int64_t, cudaStream_t);          \
  template cudaError_t gru_backward(const Gru<T, S>&, int64_t, cudaStream_t); \
  template cudaError_t norm_grad(const NormGrad<T, S>&, cudaStream_t);
MOTO_INSTANTIATE(float, float)
MOTO_INSTANTIATE(float, BFloat16)
MOTO_INSTANTIATE(double, double)
#undef MOTO_INSTANTIATE

}  // namespace moto::cuda
