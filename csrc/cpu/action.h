// The policy's actions and normal draws, in scalar code: there are few actions.
#pragma once

#include "moto/rollout_kernels.h"

namespace moto::cpu {

// Rows [begin, end). Forward needs `product`.
template <typename T, typename S>
void act(const Act<T, S>& x, int64_t begin, int64_t end);

template <typename T, typename S>
void act_backward(const Act<T, S>& x, int64_t begin, int64_t end);

// Numbers [first, first + count) of the latent stream: uniform, or standard normal by inversion in double.
template <typename T>
void latent_noise(Latent kind, PhiloxKey key, int64_t first, int64_t count, T* out);

}  // namespace moto::cpu
