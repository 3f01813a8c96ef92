#include <cuda_bf16.h>

#include "lambda_return.h"

namespace moto::cuda {
namespace {

constexpr int kThreads = 128;

// bfloat16 has 8 bits of mantissa: sums run in float and are rounded once, when stored.
template <typename T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};

// One thread a column: neighbouring threads read neighbouring addresses, and each column's steps stay in its registers.
template <typename T>
__global__ void forward_kernel(const T* __restrict__ reward, const T* __restrict__ value, const T* __restrict__ discount,
                               T* __restrict__ returns, LambdaReturnShape shape) {
  using A = typename Accumulator<T>::type;
  const int64_t column = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= shape.batch) return;
  const A longer = A(shape.lambda), shorter = A(1 - shape.lambda);
  A running = A(value[shape.steps * shape.batch + column]);
  for (int64_t i = shape.steps - 1; i >= 0; --i) {
    const int64_t at = i * shape.batch + column;
    running = A(reward[at]) + A(discount[at]) * (shorter * A(value[at + shape.batch]) + longer * running);
    returns[at] = T(running);
  }
}

template <typename T>
__global__ void backward_kernel(const T* __restrict__ grad, const T* __restrict__ value, const T* __restrict__ discount,
                                const T* __restrict__ returns, T* __restrict__ grad_reward, T* __restrict__ grad_value,
                                T* __restrict__ grad_discount, LambdaReturnShape shape) {
  using A = typename Accumulator<T>::type;
  const int64_t column = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= shape.batch) return;
  const A longer = A(shape.lambda), shorter = A(1 - shape.lambda);
  A carried = A(0);
  grad_value[column] = T(A(0));  // the first state's value enters no return
  for (int64_t i = 0; i < shape.steps; ++i) {
    const int64_t at = i * shape.batch + column, next = at + shape.batch;
    const bool final_step = i + 1 == shape.steps;
    const A target = A(final_step ? value[next] : returns[next]);
    const A total = A(grad[at]) + carried;
    const A through = total * A(discount[at]);
    carried = longer * through;
    grad_reward[at] = T(total);
    grad_discount[at] = T(total * (shorter * A(value[next]) + longer * target));
    grad_value[next] = T(shorter * through + (final_step ? carried : A(0)));
  }
}

unsigned blocks(const LambdaReturnShape& shape) { return unsigned((shape.batch + kThreads - 1) / kThreads); }

}  // namespace

template <typename T>
cudaError_t lambda_return(const T* reward, const T* value, const T* discount, T* returns, const LambdaReturnShape& shape,
                          cudaStream_t stream) {
  if (shape.batch == 0) return cudaSuccess;  // an empty grid is a launch error
  forward_kernel<T><<<blocks(shape), kThreads, 0, stream>>>(reward, value, discount, returns, shape);
  return cudaGetLastError();
}

template <typename T>
cudaError_t lambda_return_backward(const T* grad, const T* value, const T* discount, const T* returns, T* grad_reward,
                                   T* grad_value, T* grad_discount, const LambdaReturnShape& shape, cudaStream_t stream) {
  if (shape.batch == 0) return cudaSuccess;
  backward_kernel<T>
      <<<blocks(shape), kThreads, 0, stream>>>(grad, value, discount, returns, grad_reward, grad_value, grad_discount, shape);
  return cudaGetLastError();
}

#define MOTO_INSTANTIATE(T)                                                                                            \
  template cudaError_t lambda_return<T>(const T*, const T*, const T*, T*, const LambdaReturnShape&, cudaStream_t);     \
  template cudaError_t lambda_return_backward<T>(const T*, const T*, const T*, const T*, T*, T*, T*,                   \
                                                 const LambdaReturnShape&, cudaStream_t);
MOTO_INSTANTIATE(float)
MOTO_INSTANTIATE(double)
MOTO_INSTANTIATE(__nv_bfloat16)
#undef MOTO_INSTANTIATE

}  // namespace moto::cuda
