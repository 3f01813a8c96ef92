// CPU kernels of the lambda-return. Instantiated for float, double and c10::BFloat16.
#pragma once

#include "moto/lambda_return.h"

namespace moto::cpu {

// returns[i] = reward[i] + discount[i] * ((1 - lambda) * value[i + 1] + lambda * returns[i + 1]), from returns[N] = value[N] down.
template <typename T>
void lambda_return(const T* reward, const T* value, const T* discount, T* returns, const LambdaReturnShape& shape);

// Gradients of sum(grad * returns). `returns` is what the forward pass gave.
template <typename T>
void lambda_return_backward(const T* grad, const T* value, const T* discount, const T* returns, T* grad_reward, T* grad_value,
                            T* grad_discount, const LambdaReturnShape& shape);

}  // namespace moto::cpu
