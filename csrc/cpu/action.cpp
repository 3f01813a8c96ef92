#include "cpu/action.h"

#include <ATen/native/Math.h>

#include <algorithm>
#include <cmath>

#include "moto/philox.h"

namespace moto::cpu {
namespace {

constexpr double kLogSqrt2Pi = 0.91893853320467274178;
constexpr double kSqrt2Pi = 2.50662827463100050242;
constexpr double kEdge = 1e-4;      // log_prob keeps this far from tanh's edges
constexpr double kQuantile = 1e-6;  // keeps the quantile finite

template <typename T>
T cdf(T x) {
  return T(0.5) * std::erfc(-x / T(1.41421356237309504880));
}

template <typename T>
T pdf(T x) {
  return std::exp(T(-0.5) * x * x - T(kLogSqrt2Pi));
}

template <typename T>
T sigmoid(T x) {
  return T(1) / (T(1) + std::exp(-x));
}

// One action's distribution and draw.
template <typename T>
struct Draw {
  T mean, std, gate;            // gate: sigmoid(s / 2)
  T low, high, at_low, at_high;  // standardised bounds and their cdf (trunc_normal)
  T quantile, normal;           // unclamped quantile (trunc_normal); standard normal draw
  T unclamped, action;

  Draw(Action kind, T raw_mean, T raw_std, T min_std, T noise) {
    gate = sigmoid(raw_std / 2);
    std = 2 * gate + min_std;
    if (kind == Action::tanh_normal) {
      mean = 5 * std::tanh(raw_mean / 5);
      normal = calc_ndtri(noise);
      unclamped = mean + std * normal;
      action = std::tanh(unclamped);
      return;
    }
    mean = std::tanh(raw_mean);
    low = (-1 - mean) / std, high = (1 - mean) / std;
    at_low = cdf(low), at_high = cdf(high);
    quantile = at_low + noise * (at_high - at_low);
    normal = calc_ndtri(std::clamp(quantile, T(kQuantile), T(1 - kQuantile)));
    unclamped = mean + std * normal;
    action = std::clamp(unclamped, T(-1), T(1));
  }
};

template <typename T>
T uniform(const ActionRows<T>& x, int64_t b, int64_t a) {
  return philox_uniform<T>(philox_word(x.key, Stream::action, static_cast<uint64_t>((x.first + b) * x.actions + a)));
}

}  // namespace

template <typename T>
void sample_actions(const ActionRows<T>& x, int64_t begin, int64_t end) {
  for (int64_t b = begin; b < end; ++b) {
    const T* raw = x.raw + 2 * b * x.actions;
    T total = 0;
    for (int64_t a = 0; a < x.actions; ++a) {
      const Draw<T> d(x.kind, raw[a], raw[x.actions + a], x.min_std, uniform(x, b, a));
      x.action[b * x.actions + a] = d.action;
      if (x.kind == Action::tanh_normal) {
        const T y = std::atanh(std::clamp(d.action, T(-1 + kEdge), T(1 - kEdge))), distance = (y - d.mean) / d.std;
        const T squash = 2 * (T(0.69314718055994530942) - y - std::log1p(std::exp(-2 * y)));
        total += T(0.5) * distance * distance + std::log(d.std) + T(kLogSqrt2Pi) + squash;
      } else {
        const T mass = d.at_high - d.at_low;
        const T edge = (d.low * pdf(d.low) - d.high * pdf(d.high)) / (2 * mass);
        total += T(kLogSqrt2Pi) + T(0.5) + std::log(d.std) + std::log(mass) + edge;
      }
    }
    x.entropy[b] = total;
  }
}

template <typename T>
void sample_actions_backward(const ActionRows<T>& x, int64_t begin, int64_t end) {
  for (int64_t b = begin; b < end; ++b) {
    const T* raw = x.raw + 2 * b * x.actions;
    T* grad_raw = x.grad_raw + 2 * b * x.actions;
    const T to_entropy = x.grad_entropy ? x.grad_entropy[b] : T(0);
    for (int64_t a = 0; a < x.actions; ++a) {
      const T noise = uniform(x, b, a);
      const Draw<T> d(x.kind, raw[a], raw[x.actions + a], x.min_std, noise);
      T grad = x.grad_action ? x.grad_action[b * x.actions + a] : T(0);
      T to_mean = 0, to_std = 0;
      if (x.kind == Action::tanh_normal) {
        const T limited = std::clamp(d.action, T(-1 + kEdge), T(1 - kEdge));
        const T y = std::atanh(limited), distance = (y - d.mean) / d.std;
        // entropy = -ln p(action): through the mean, the std and the action itself.
        to_mean -= to_entropy * distance / d.std;
        to_std += to_entropy * (T(1) - distance * distance) / d.std;
        const T to_y = to_entropy * (distance / d.std + 2 * (2 * sigmoid(-2 * y) - 1));
        if (limited == d.action) grad += to_y / (1 - limited * limited);
        grad *= 1 - d.action * d.action;
        to_mean += grad;
        to_std += grad * d.normal;
        const T slope = d.mean / 5;
        grad_raw[a] = to_mean * (1 - slope * slope);
      } else {
        const T at_low = pdf(d.low), at_high = pdf(d.high), mass = d.at_high - d.at_low;
        T to_low = 0, to_high = 0;
        if (d.unclamped >= -1 && d.unclamped <= 1) {
          to_mean += grad;
          to_std += grad * d.normal;
          if (d.quantile >= T(kQuantile) && d.quantile <= T(1 - kQuantile)) {
            const T to_quantile = grad * d.std * T(kSqrt2Pi) * std::exp(T(0.5) * d.normal * d.normal);
            to_low += to_quantile * (1 - noise) * at_low;
            to_high += to_quantile * noise * at_high;
          }
        }
        const T edge = (d.low * at_low - d.high * at_high) / (2 * mass);
        to_low += to_entropy * at_low / mass * (T(-1) + (1 - d.low * d.low) / 2 + edge);
        to_high += to_entropy * at_high / mass * (T(1) - (1 - d.high * d.high) / 2 - edge);
        to_std += (to_entropy - to_low * d.low - to_high * d.high) / d.std;
        to_mean -= (to_low + to_high) / d.std;
        grad_raw[a] = to_mean * (1 - d.mean * d.mean);
      }
      grad_raw[x.actions + a] = to_std * d.gate * (1 - d.gate);
    }
  }
}

template <typename T>
void latent_noise(Latent kind, PhiloxKey key, int64_t first, int64_t count, T* out) {
  if (kind == Latent::categorical) return philox_fill(key, Stream::latent, static_cast<uint64_t>(first), count, out);
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t word = philox_word(key, Stream::latent, static_cast<uint64_t>(first + i));
    out[i] = static_cast<T>(calc_ndtri(philox_uniform<double>(word)));
  }
}

#define MOTO_INSTANTIATE(T)                                                        \
  template void sample_actions<T>(const ActionRows<T>&, int64_t, int64_t);          \
  template void sample_actions_backward<T>(const ActionRows<T>&, int64_t, int64_t); \
  template void latent_noise<T>(Latent, PhiloxKey, int64_t, int64_t, T*);
MOTO_INSTANTIATE(float)
MOTO_INSTANTIATE(double)
#undef MOTO_INSTANTIATE

}  // namespace moto::cpu
