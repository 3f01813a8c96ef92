// A row of the batch by one block: the latent's sample and the ensemble's disagreement.
#pragma once

#include "cuda/layers.cuh"
#include "cuda/normal.cuh"
#include "kernels/action.h"

namespace moto::cuda {
namespace {

template <typename T>
constexpr T kLeastVariance = T(1e-12);  // the floor of the reference's _spread

template <typename T, typename S>
__device__ inline T param(const Sample<T, S>& x, int64_t k, int64_t b, int64_t j) {
  const int64_t P = x.latent.params();
  return load(x.params + (k * x.batch + b) * P + j) + x.bias[k * P + j];
}

template <typename T, typename S>
__device__ inline T latent_grad(const Sample<T, S>& x, int64_t b, int64_t j) {
  const int64_t at = b * x.latent.size() + j;
  T grad = 0;
  if (x.grad_z && !(x.forgotten && x.forgotten[b])) grad += load(x.grad_z + at);
  if (x.grad_extra) grad += x.grad_extra[at];
  return grad;
}

// Mean and population variance over the members of value(k).
template <typename T, typename Value>
__device__ inline void member_moments(int64_t members, const Value& value, T& mean, T& variance) {
  mean = variance = T(0);
  for (int64_t k = 0; k < members; ++k) mean += value(k);
  mean /= static_cast<T>(members);
  for (int64_t k = 0; k < members; ++k) {
    const T distance = value(k) - mean;
    variance += distance * distance;
  }
  variance /= static_cast<T>(members);
}

template <typename T>
__device__ inline T floored_root(T variance) {
  return std::sqrt(variance > kLeastVariance<T> ? variance : kLeastVariance<T>);
}

// Categorical latents: one warp a variable. In shared memory each warp has, of its variable, the members' largest logits and
// reciprocal sums, and in backward three rows of C.
template <typename T>
struct WarpMemory {
  T *top, *inverse;        // [K]
  T *grad, *mean, *slope;  // [C], backward
  T* likelihood;           // [K] ln p_k(z), summed over this warp's variables

  static __host__ __device__ int64_t elements(int64_t members, int64_t classes) { return 3 * members + 3 * classes; }
  __device__ WarpMemory(T* memory, int64_t members, int64_t classes) {
    top = memory + (threadIdx.x / kWarp) * elements(members, classes);
    inverse = top + members, likelihood = inverse + members, grad = likelihood + members;
    mean = grad + classes, slope = mean + classes;
  }
};

template <typename T, typename S>
__device__ inline void normalise(const Sample<T, S>& x, int64_t b, int64_t k, int64_t s, const WarpMemory<T>& own) {
  const int64_t C = x.latent.classes, lane = threadIdx.x % kWarp;
  T top = param(x, k, b, s * C), total = 0;
  for (int64_t c = lane; c < C; c += kWarp) {
    const T logit = param(x, k, b, s * C + c);
    top = logit > top ? logit : top;
  }
  top = warp_max(top);
  for (int64_t c = lane; c < C; c += kWarp) total += std::exp(param(x, k, b, s * C + c) - top);
  total = warp_sum(total);
  if (lane == 0) own.top[k] = top, own.inverse[k] = T(1) / total;
}

template <typename T, typename S>
__device__ inline T probability(const Sample<T, S>& x, int64_t b, int64_t k, int64_t j, const WarpMemory<T>& own) {
  if (x.probs) return load(x.params + (k * x.batch + b) * x.latent.params() + j);
  return std::exp(param(x, k, b, j) - own.top[k]) * own.inverse[k];
}

// Standard deviation over the members of what the warps' `likelihood` add up to, by one thread; `weight[k]` becomes its gradient.
template <typename T>
__device__ T likelihood_spread(const T* memory, int64_t members, int64_t classes, int warps, T to_spread, T* weight) {
  const auto value = [&](int64_t k) {
    T total = 0;
    for (int w = 0; w < warps; ++w) total += memory[w * WarpMemory<T>::elements(members, classes) + 2 * members + k];
    return total;
  };
  T mean, variance;
  member_moments(members, value, mean, variance);
  if (weight) {
    const T each = variance < kLeastVariance<T> ? T(0) : to_spread / (static_cast<T>(members) * std::sqrt(variance));
    for (int64_t k = 0; k < members; ++k) weight[k] = each * (value(k) - mean);
  }
  return floored_root(variance);
}

template <typename T, typename S>
__device__ void sample_categorical(const Sample<T, S>& x, int64_t b, T* memory) {
  const int64_t K = x.members, stoch = x.latent.stoch, C = x.latent.classes, Z = stoch * C;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const int64_t chosen = x.member ? x.member[b] : 0;
  const WarpMemory<T> own(memory + kWarp, K, C);
  const bool of_probs = x.spread && x.kind == Spread::mean, of_likelihood = x.spread && x.kind == Spread::log_prob;
  T spread = 0;
  for (int64_t k = lane; k < K; k += kWarp) own.likelihood[k] = T(0);
  for (int64_t s = warp; s < stoch; s += warps) {
    for (int64_t k = 0; k < K; ++k) {
      if (k == chosen || of_probs || of_likelihood) normalise(x, b, k, s, own);
    }
    __syncwarp();
    // Inversion of the cumulative sum, in double so that its order hardly matters.
    const T u = philox_uniform<T>(philox_word(x.key, Stream::latent, static_cast<uint64_t>(x.first + b * stoch + s)));
    double before = 0;
    int count = 0;
    for (int64_t from = 0; from < C; from += kWarp) {
      const int64_t c = from + lane;
      double sum = c < C ? static_cast<double>(probability(x, b, chosen, s * C + c, own)) : 0.0;
      for (int step = 1; step < kWarp; step *= 2) {
        const double left = __shfl_up_sync(kAll, sum, step);
        if (lane >= step) sum += left;
      }
      sum += before;
      count += __popc(__ballot_sync(kAll, c < C && static_cast<T>(sum) < u));
      before = __shfl_sync(kAll, sum, kWarp - 1);
    }
    const int64_t drawn = count < C - 1 ? count : C - 1;
    if (lane == 0) x.index[b * stoch + s] = static_cast<int32_t>(s * C + drawn);
    for (int64_t c = lane; c < C; c += kWarp) {
      const int64_t j = s * C + c;
      const T z = c == drawn ? T(1) : T(0);
      x.z[b * Z + j] = z;
      if (x.operand) store(x.operand + b * Z + j, z);
      if (x.full) x.full[b * Z + j] = param(x, chosen, b, j);
    }
    if (of_likelihood) {
      for (int64_t k = lane; k < K; k += kWarp) {
        own.likelihood[k] += param(x, k, b, s * C + drawn) - own.top[k] + std::log(own.inverse[k]);
      }
    } else if (x.spread) {
      for (int64_t c = lane; c < C; c += kWarp) {
        const int64_t j = s * C + c;
        T mean, variance;
        member_moments(K, [&](int64_t k) { return of_probs ? probability(x, b, k, j, own) : param(x, k, b, j); }, mean, variance);
        spread += floored_root(variance);
        // Behind all readers of these elements: `keep_probs` may be `params`.
        for (int64_t k = 0; x.keep_probs && k < K; ++k)
          store(x.keep_probs + (k * x.batch + b) * Z + j, probability(x, b, k, j, own));
      }
    }
    __syncwarp();
  }
  if (of_likelihood) {
    __syncthreads();
    if (threadIdx.x == 0) x.spread[b] = likelihood_spread<T>(memory + kWarp, K, C, warps, T(0), nullptr);
  } else if (x.spread) {
    spread = block_sum(spread, memory);
    if (threadIdx.x == 0) x.spread[b] = spread / static_cast<T>(Z);
  }
}

template <typename T, typename S>
__device__ void sample_categorical_backward(const Sample<T, S>& x, int64_t b, T* memory) {
  const int64_t K = x.members, stoch = x.latent.stoch, C = x.latent.classes, Z = stoch * C;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const int64_t chosen = x.member ? x.member[b] : 0;
  T* weight = memory + kWarp;  // [K] gradient of the members' likelihoods
  const WarpMemory<T> own(weight + K, K, C);
  const T to_spread = x.grad_spread ? x.grad_spread[b] : T(0);
  const bool of_likelihood = x.grad_spread && x.kind == Spread::log_prob, of_probs = x.grad_spread && x.kind == Spread::mean;
  const bool of_logits = x.grad_spread && x.kind == Spread::logit;
  if (of_likelihood) {
    for (int64_t k = lane; k < K; k += kWarp) own.likelihood[k] = T(0);
    for (int64_t s = warp; s < stoch; s += warps) {
      for (int64_t k = 0; k < K; ++k) {
        normalise(x, b, k, s, own);
        __syncwarp();
        T total = 0;
        for (int64_t c = lane; c < C; c += kWarp) {
          total += x.z[b * Z + s * C + c] * (param(x, k, b, s * C + c) - own.top[k] + std::log(own.inverse[k]));
        }
        total = warp_sum(total);
        if (lane == 0) own.likelihood[k] += total;
      }
    }
    __syncthreads();
    if (threadIdx.x == 0) likelihood_spread(weight + K, K, C, warps, to_spread, weight);
    __syncthreads();
  }
  for (int64_t s = warp; s < stoch; s += warps) {
    for (int64_t k = 0; k < K; ++k) {
      if (!x.probs && (k == chosen || of_probs || of_likelihood)) normalise(x, b, k, s, own);
    }
    __syncwarp();
    for (int64_t c = lane; c < C; c += kWarp) {
      const int64_t j = s * C + c;
      T grad = latent_grad(x, b, j);
      for (int64_t k = 0; of_likelihood && k < K; ++k) {
        grad += weight[k] * (param(x, k, b, j) - own.top[k] + std::log(own.inverse[k]));
      }
      own.grad[c] = grad;
      if (of_probs || of_logits) {
        T mean, variance;
        member_moments(K, [&](int64_t k) { return of_probs ? probability(x, b, k, j, own) : param(x, k, b, j); }, mean, variance);
        own.mean[c] = mean;
        own.slope[c] = variance < kLeastVariance<T> ? T(0) : to_spread / (static_cast<T>(Z * K) * std::sqrt(variance));
      }
    }
    // Each lane reads only what it wrote from here on.
    for (int64_t k = 0; k < K; ++k) {
      const bool to_probs = of_probs || k == chosen;
      // The gradient of a class's probability; it reaches the logits through the softmax.
      const auto prob_grad = [&](int64_t c, T p) {
        T grad = of_probs ? own.slope[c] * (p - own.mean[c]) : T(0);
        if (k == chosen) grad += own.grad[c];
        return grad;
      };
      T total = 0;
      for (int64_t c = lane; to_probs && c < C; c += kWarp) {
        const T p = probability(x, b, k, s * C + c, own);
        total += p * prob_grad(c, p);
      }
      total = warp_sum(total);
      for (int64_t c = lane; c < C; c += kWarp) {
        const int64_t j = s * C + c;
        T grad = x.grad_full ? x.grad_full[b * Z + j] : T(0);
        if (to_probs || of_likelihood) {
          const T p = probability(x, b, k, j, own);
          if (to_probs) grad += p * (prob_grad(c, p) - total);
          if (of_likelihood) grad += weight[k] * (x.z[b * Z + j] - p);
        }
        if (of_logits) grad += own.slope[c] * (param(x, k, b, j) - own.mean[c]);
        store(x.grad_params + (k * x.batch + b) * Z + j, grad);
      }
    }
    __syncwarp();
  }
}

// Gaussian latents: one thread a variable.

template <typename T>
struct GaussianStd {
  T gate, std;  // std = 2 sigmoid(raw / 2) + 0.1

  __device__ explicit GaussianStd(T raw) : gate(sigmoid(raw * T(0.5))), std(T(2) * gate + T(0.1)) {}
  __device__ T slope() const { return gate * (T(1) - gate); }
};

template <typename T, typename S>
__device__ inline T latent_normal(const Sample<T, S>& x, int64_t b, int64_t s) {
  const uint32_t word = philox_word(x.key, Stream::latent, static_cast<uint64_t>(x.first + b * x.latent.stoch + s));
  return static_cast<T>(Normal::quantile(philox_uniform<double>(word)));
}

// Of log_prob and max_var, each member's ln p_k(z) or norm of stds: into value [K], for all threads to see.
template <typename T, typename S>
__device__ void member_totals(const Sample<T, S>& x, int64_t b, T* memory, T* value) {
  const int64_t stoch = x.latent.stoch;
  for (int64_t k = 0; k < x.members; ++k) {
    T total = 0;
    for (int64_t s = threadIdx.x; s < stoch; s += blockDim.x) {
      const GaussianStd<T> g(param(x, k, b, stoch + s));
      const T distance = (x.z[b * stoch + s] - param(x, k, b, s)) / g.std;
      total += x.kind == Spread::max_var ? g.std * g.std : T(-0.5) * distance * distance - std::log(g.std) - T(kLogSqrt2Pi);
    }
    total = block_sum(total, memory);
    if (threadIdx.x == 0) value[k] = x.kind == Spread::max_var ? std::sqrt(total) : total;
  }
  __syncthreads();
}

template <typename T>
__device__ inline T largest(const T* value, int64_t count) {
  T top = value[0];
  for (int64_t k = 1; k < count; ++k) top = value[k] > top ? value[k] : top;
  return top;
}

template <typename T, typename S>
__device__ void sample_gaussian(const Sample<T, S>& x, int64_t b, T* memory) {
  const int64_t K = x.members, stoch = x.latent.stoch, chosen = x.member ? x.member[b] : 0;
  T* value = memory + kWarp;  // [K]
  T spread = 0;
  for (int64_t s = threadIdx.x; s < stoch; s += blockDim.x) {
    const T mean = param(x, chosen, b, s), raw = param(x, chosen, b, stoch + s);
    const T z = mean + GaussianStd<T>(raw).std * latent_normal(x, b, s);
    x.z[b * stoch + s] = z;
    if (x.operand) store(x.operand + b * stoch + s, z);
    if (x.full) x.full[2 * b * stoch + s] = mean, x.full[(2 * b + 1) * stoch + s] = raw;
    if (x.spread) {
      T average, variance;
      member_moments(K, [&](int64_t k) { return param(x, k, b, s); }, average, variance);
      spread += floored_root(variance);
    }
  }
  if (!x.spread) return;
  if (x.kind == Spread::log_prob || x.kind == Spread::max_var) {
    member_totals(x, b, memory, value);
    if (threadIdx.x == 0) {
      T mean, variance;
      member_moments(K, [&](int64_t k) { return value[k]; }, mean, variance);
      x.spread[b] = x.kind == Spread::max_var ? largest(value, K) : floored_root(variance);
    }
  } else {
    spread = block_sum(spread, memory);
    if (threadIdx.x == 0) x.spread[b] = spread / static_cast<T>(stoch);
  }
}

template <typename T, typename S>
__device__ void sample_gaussian_backward(const Sample<T, S>& x, int64_t b, T* memory) {
  const int64_t K = x.members, stoch = x.latent.stoch, chosen = x.member ? x.member[b] : 0;
  T* weight = memory + kWarp;  // [K] gradient of the members' likelihoods or, over the norm, of their norms
  const T to_spread = x.grad_spread ? x.grad_spread[b] : T(0);
  const bool of_likelihood = x.grad_spread && x.kind == Spread::log_prob, of_norm = x.grad_spread && x.kind == Spread::max_var;
  if (of_likelihood || of_norm) {
    member_totals(x, b, memory, weight);
    if (threadIdx.x == 0) {
      T mean, variance, ties = 0;
      member_moments(K, [&](int64_t k) { return weight[k]; }, mean, variance);
      const T top = largest(weight, K);
      for (int64_t k = 0; k < K; ++k) ties += weight[k] == top ? T(1) : T(0);
      const T each = variance < kLeastVariance<T> ? T(0) : to_spread / (static_cast<T>(K) * std::sqrt(variance));
      for (int64_t k = 0; k < K; ++k) {
        weight[k] = of_likelihood ? each * (weight[k] - mean) : weight[k] == top ? to_spread / (ties * top) : T(0);
      }
    }
    __syncthreads();
  }
  for (int64_t s = threadIdx.x; s < stoch; s += blockDim.x) {
    const T z = x.z[b * stoch + s];
    T grad = latent_grad(x, b, s), average = 0, slope = 0;
    if (of_likelihood) {
      for (int64_t k = 0; k < K; ++k) {
        const GaussianStd<T> g(param(x, k, b, stoch + s));
        grad -= weight[k] * (z - param(x, k, b, s)) / (g.std * g.std);
      }
    } else if (x.grad_spread && !of_norm) {
      T variance;
      member_moments(K, [&](int64_t k) { return param(x, k, b, s); }, average, variance);
      slope = variance < kLeastVariance<T> ? T(0) : to_spread / (static_cast<T>(stoch * K) * std::sqrt(variance));
    }
    for (int64_t k = 0; k < K; ++k) {
      const GaussianStd<T> g(param(x, k, b, stoch + s));
      T to_mean = slope * (param(x, k, b, s) - average), to_raw = 0;
      if (of_norm) to_raw += weight[k] * g.std * g.slope();
      if (of_likelihood) {
        const T distance = (z - param(x, k, b, s)) / g.std;
        to_mean += weight[k] * distance / g.std;
        to_raw += weight[k] * (distance * distance - T(1)) / g.std * g.slope();
      }
      if (k == chosen) {
        to_mean += grad;
        to_raw += grad * latent_normal(x, b, s) * g.slope();
      }
      if (x.grad_full) to_mean += x.grad_full[2 * b * stoch + s], to_raw += x.grad_full[(2 * b + 1) * stoch + s];
      S* out = x.grad_params + (k * x.batch + b) * 2 * stoch;
      store(out + s, to_mean);
      store(out + stoch + s, to_raw);
    }
  }
}

// Samples, and computes the layer on the sample if there is one.
template <typename T, typename S>
__device__ void sample_row(const Sample<T, S>& x, const GatherLayer<T, S>& layer, int64_t b, T* memory) {
  if (x.latent.kind == Latent::categorical) {
    sample_categorical(x, b, memory);
  } else {
    sample_gaussian(x, b, memory);
  }
  if (!layer.out) return;
  __syncthreads();  // the layer reads what was drawn
  gather_row(layer, b);
}

template <typename T, typename S>
__device__ void sample_backward_row(const Sample<T, S>& x, int64_t b, T* memory) {
  if (x.latent.kind == Latent::categorical) {
    sample_categorical_backward(x, b, memory);
  } else {
    sample_gaussian_backward(x, b, memory);
  }
}

// Elements of shared memory that a row of either takes with so many warps.
inline int64_t sample_memory(const LatentShape& latent, int64_t members, int warps) {
  return kWarp + members + warps * WarpMemory<char>::elements(members, latent.classes);
}

}  // namespace
}  // namespace moto::cuda
