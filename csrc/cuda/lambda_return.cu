#include "cuda/block.cuh"
#include "cuda/cuda_kernels.h"
#include "cuda/launch.cuh"

namespace moto::cuda {
namespace {

constexpr int kColumns = 128;  // of a block, one a thread

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
  const int64_t column = int64_t(blockIdx.x) * kColumns + threadIdx.x;
  if (column >= shape.batch) return;
  const A longer = A(shape.lambda), shorter = A(1 - shape.lambda);
  A running = load(value + shape.steps * shape.batch + column);
  for (int64_t i = shape.steps - 1; i >= 0; --i) {
    const int64_t at = i * shape.batch + column;
    running = load(reward + at) + load(discount + at) * (shorter * load(value + at + shape.batch) + longer * running);
    store(returns + at, running);
  }
}

template <typename T>
__global__ void backward_kernel(const T* __restrict__ grad, const T* __restrict__ value, const T* __restrict__ discount,
                                const T* __restrict__ returns, T* __restrict__ grad_reward, T* __restrict__ grad_value,
                                T* __restrict__ grad_discount, LambdaReturnShape shape) {
  using A = typename Accumulator<T>::type;
  const int64_t column = int64_t(blockIdx.x) * kColumns + threadIdx.x;
  if (column >= shape.batch) return;
  const A longer = A(shape.lambda), shorter = A(1 - shape.lambda);
  A carried = A(0);
  store(grad_value + column, A(0));  // the first state's value enters no return
  for (int64_t i = 0; i < shape.steps; ++i) {
    const int64_t at = i * shape.batch + column, next = at + shape.batch;
    const bool final_step = i + 1 == shape.steps;
    const A target = load((final_step ? value : returns) + next);
    const A total = load(grad + at) + carried;
    const A through = total * load(discount + at);
    carried = longer * through;
    store(grad_reward + at, total);
    store(grad_discount + at, total * (shorter * load(value + next) + longer * target));
    store(grad_value + next, shorter * through + (final_step ? carried : A(0)));
  }
}

int64_t blocks(const LambdaReturnShape& shape) { return (shape.batch + kColumns - 1) / kColumns; }

}  // namespace

template <typename T>
cudaError_t lambda_return(const T* reward, const T* value, const T* discount, T* returns, const LambdaReturnShape& shape,
                          cudaStream_t stream) {
  return launch(forward_kernel<T>, blocks(shape), kColumns, 0, false, stream, reward, value, discount, returns, shape);
}

template <typename T>
cudaError_t lambda_return_backward(const T* grad, const T* value, const T* discount, const T* returns, T* grad_reward,
                                   T* grad_value, T* grad_discount, const LambdaReturnShape& shape, cudaStream_t stream) {
  return launch(backward_kernel<T>, blocks(shape), kColumns, 0, false, stream, grad, value, discount, returns, grad_reward,
                grad_value, grad_discount, shape);
}

#define MOTO_INSTANTIATE(T)                                                                                                    \
  template cudaError_t lambda_return<T>(const T*, const T*, const T*, T*, const LambdaReturnShape&, cudaStream_t);             \
  template cudaError_t lambda_return_backward<T>(const T*, const T*, const T*, const T*, T*, T*, T*, const LambdaReturnShape&, \
                                                 cudaStream_t);
MOTO_INSTANTIATE(float)
MOTO_INSTANTIATE(double)
MOTO_INSTANTIATE(BFloat16)
#undef MOTO_INSTANTIATE

}  // namespace moto::cuda
