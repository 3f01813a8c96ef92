// The policy's action distribution (moto_pl/ops/action.py) and normal draws, in scalar code: there are few actions.
#pragma once

#include "moto/rollout.h"

namespace moto::cpu {

template <typename T>
struct ActionRows {
  Action kind;
  T min_std;
  PhiloxKey key;
  int64_t actions;  // A
  int64_t first;    // the first row's number: action a of row b draws number (first + b) * A + a
  const T* raw;     // [B, 2A]
  // Forward.
  T* action;   // [B, A]
  T* entropy;  // [B]
  // Backward.
  const T* grad_action;   // [B, A] or null
  const T* grad_entropy;  // [B] or null
  T* grad_raw;            // [B, 2A]
};

template <typename T>
void sample_actions(const ActionRows<T>& x, int64_t begin, int64_t end);

template <typename T>
void sample_actions_backward(const ActionRows<T>& x, int64_t begin, int64_t end);

// Numbers [first, first + count) of the latent stream: uniform, or standard normal by inversion in double.
template <typename T>
void latent_noise(Latent kind, PhiloxKey key, int64_t first, int64_t count, T* out);

}  // namespace moto::cpu
