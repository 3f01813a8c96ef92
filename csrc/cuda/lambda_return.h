// Launchers of the CUDA lambda-return: raw device pointers and a stream, so that they need only the CUDA toolkit.
#pragma once

#include <cuda_runtime_api.h>

#include "moto/lambda_return.h"
#include "moto/rollout.h"

namespace moto::cuda {

// Instantiated for float, double and Half; bodies and meaning as in cpu/lambda_return.h. They return the launch's error.
template <typename T>
cudaError_t lambda_return(const T* reward, const T* value, const T* discount, T* returns, const LambdaReturnShape& shape,
                          cudaStream_t stream);

template <typename T>
cudaError_t lambda_return_backward(const T* grad, const T* value, const T* discount, const T* returns, T* grad_reward,
                                   T* grad_value, T* grad_discount, const LambdaReturnShape& shape, cudaStream_t stream);

}  // namespace moto::cuda
