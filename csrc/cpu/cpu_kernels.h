// The CPU's kernels that are compiled once: the policy's actions and normal draws, of which there are few, and the lambda-return.
#pragma once

#include "kernels/arguments.h"
#include "kernels/lambda_return.h"

namespace moto::cpu {

// The policy's actions on rows [begin, end). Forward needs `product`.
template <typename T, typename S>
void act(const Act<T, S>& x, int64_t begin, int64_t end);

template <typename T, typename S>
void act_backward(const Act<T, S>& x, int64_t begin, int64_t end);

// Numbers [first, first + count) of the latent stream: uniform, or standard normal by inversion in double.
template <typename T>
void latent_noise(Latent kind, PhiloxKey key, int64_t first, int64_t count, T* out);

// Instantiated for float, double and c10::BFloat16.
// returns[i] = reward[i] + discount[i] * ((1 - lambda) * value[i + 1] + lambda * returns[i + 1]), from returns[H] = value[H] down.
template <typename T>
void lambda_return(const T* reward, const T* value, const T* discount, T* returns, const LambdaReturnShape& shape);

// Gradients of sum(grad * returns). `returns` is what the forward pass gave.
template <typename T>
void lambda_return_backward(const T* grad, const T* value, const T* discount, const T* returns, T* grad_reward, T* grad_value,
                            T* grad_discount, const LambdaReturnShape& shape);

}  // namespace moto::cpu
