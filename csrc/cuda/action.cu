// The policy's actions.
#include "cuda/cuda_kernels.h"
#include "cuda/launch.cuh"
#include "cuda/layers.cuh"
#include "cuda/normal.cuh"
#include "kernels/action.h"

namespace moto::cuda {
namespace {

// The actor's last layer (a warp an output), the actions, and the layer that takes them.
template <typename T, typename S>
__global__ void act_kernel(Act<T, S> x, GatherLayer<T, S> layer) {
  T* memory = block_memory<T>();
  const int64_t b = blockIdx.x, A = x.actions;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  for (int64_t o = warp; o < 2 * A; o += warps) {
    T total = 0;
    if (x.product) {
      total = lane == 0 ? load(x.product + 2 * b * A + o) : T(0);
    } else {
      for (int64_t u = lane; u < x.units; u += kWarp) total += load(x.hidden + b * x.units + u) * load(x.weight + o * x.units + u);
      total = warp_sum(total);
    }
    if (lane == 0) x.raw[2 * b * A + o] = total + x.bias[o];
  }
  __syncthreads();
  T entropy = 0;
  for (int64_t a = threadIdx.x; a < A; a += blockDim.x) {
    const auto draw = draw_action<Normal>(x, b, a);
    x.action[b * A + a] = draw.action;
    entropy += draw.entropy();
  }
  entropy = block_sum(entropy, memory);
  if (threadIdx.x == 0) x.entropy[b] = entropy;
  if (!layer.out) return;
  __syncthreads();  // the layer reads the actions
  gather_row(layer, b);
}

// One thread an action.
template <typename T, typename S>
__global__ void act_backward_kernel(Act<T, S> x, int64_t rows) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x, A = x.actions;
  if (i >= rows * A) return;
  const int64_t b = i / A, a = i % A;
  T* grad_raw = x.grad_raw + 2 * b * A;
  const T grad = x.grad_action ? x.grad_action[i] : T(0);
  draw_action<Normal>(x, b, a).backward(grad, x.grad_entropy ? x.grad_entropy[b] : T(0), grad_raw[a], grad_raw[A + a]);
}

}  // namespace

template <typename T, typename S>
cudaError_t act(const Act<T, S>& x, const GatherLayer<T, S>* layer, int64_t rows, cudaStream_t stream) {
  return launch(act_kernel<T, S>, rows, kThreads, kWarp * sizeof(T), false, stream, x, layer ? *layer : GatherLayer<T, S>{});
}

template <typename T, typename S>
cudaError_t act_backward(const Act<T, S>& x, int64_t rows, cudaStream_t stream) {
  return launch(act_backward_kernel<T, S>, blocks(rows * x.actions), kThreads, 0, false, stream, x, rows);
}

#define MOTO_INSTANTIATE(T, S)                                                                 \
  template cudaError_t act(const Act<T, S>&, const GatherLayer<T, S>*, int64_t, cudaStream_t); \
  template cudaError_t act_backward(const Act<T, S>&, int64_t, cudaStream_t);
MOTO_INSTANTIATE(float, float)
MOTO_INSTANTIATE(float, BFloat16)
MOTO_INSTANTIATE(double, double)
#undef MOTO_INSTANTIATE

}  // namespace moto::cuda
