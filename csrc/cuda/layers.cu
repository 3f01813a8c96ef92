// One block a row of the batch, unless said otherwise: a step's kernels are short, and what counts is that they are few.
#include "cuda/cuda_kernels.h"
#include "cuda/launch.cuh"
#include "cuda/layers.cuh"

namespace moto::cuda {
namespace {

template <typename T, typename S>
__global__ void gather_layer_kernel(GatherLayer<T, S> layer) {
  gather_row(layer, blockIdx.x);
}

template <typename T, typename S>
__global__ void bias_elu_kernel(S* values, const T* bias, int64_t units, int64_t batch) {
  S* row = values + blockIdx.x * units;
  const T* own = bias + blockIdx.x / batch * units;
  for (int64_t u = threadIdx.x; u < units; u += blockDim.x) store(row + u, elu(load(row + u) + own[u]));
}

template <typename T, typename S>
__global__ void elu_backward_kernel(S* grad, const S* values, int64_t units) {
  S* g = grad + blockIdx.x * units;
  const S* v = values + blockIdx.x * units;
  for (int64_t u = threadIdx.x; u < units; u += blockDim.x) store(g + u, load(g + u) * elu_slope<T>(load(v + u)));
}

template <typename T, typename S>
__global__ void input_backward_kernel(InputGrad<T, S> x) {
  const int64_t b = blockIdx.x, width = x.units + x.deter;
  S* grad = x.grad + b * width;
  const bool seen = x.grad_deter && !(x.is_first && x.is_first[b]);
  for (int64_t j = threadIdx.x; j < width; j += blockDim.x) {
    if (j < x.units) {
      store(grad + j, load(grad + j) * elu_slope<T>(load(x.inputs + b * width + j)));
    } else if (seen) {
      x.grad_deter[b * x.deter + j - x.units] += load(grad + j);
    }
  }
}

}  // namespace

template <typename T, typename S>
cudaError_t gather_layer(const GatherLayer<T, S>& x, int64_t rows, cudaStream_t stream) {
  return launch(gather_layer_kernel<T, S>, rows, kThreads, 0, false, stream, x);
}

template <typename T, typename S>
cudaError_t bias_elu(S* values, const T* bias, int64_t units, int64_t batch, int64_t rows, cudaStream_t stream) {
  return launch(bias_elu_kernel<T, S>, rows, kThreads, 0, false, stream, values, bias, units, batch);
}

template <typename T, typename S>
cudaError_t elu_backward(S* grad, const S* values, int64_t units, int64_t rows, cudaStream_t stream) {
  return launch(elu_backward_kernel<T, S>, rows, kThreads, 0, false, stream, grad, values, units);
}

template <typename T, typename S>
cudaError_t input_backward(const InputGrad<T, S>& x, int64_t rows, cudaStream_t stream) {
  return launch(input_backward_kernel<T, S>, rows, kThreads, 0, false, stream, x);
}

#define MOTO_INSTANTIATE(T, S)                                                           \
  template cudaError_t gather_layer(const GatherLayer<T, S>&, int64_t, cudaStream_t);    \
  template cudaError_t bias_elu(S*, const T*, int64_t, int64_t, int64_t, cudaStream_t);  \
  template cudaError_t elu_backward<T, S>(S*, const S*, int64_t, int64_t, cudaStream_t); \
  template cudaError_t input_backward(const InputGrad<T, S>&, int64_t, cudaStream_t);
MOTO_INSTANTIATE(float, float)
MOTO_INSTANTIATE(float, BFloat16)
MOTO_INSTANTIATE(double, double)
#undef MOTO_INSTANTIATE

}  // namespace moto::cuda
