// The policy's action distribution (moto_pl/ops/action.py), one action at a time, on any device. `Normal` has the device's
// quantile(p) of the standard normal.
#pragma once

#include <cmath>

#include "kernels/arguments.h"
#include "kernels/philox.h"

namespace moto {
// Unnamed, so that no device shares a copy with another.
namespace {

constexpr double kLogSqrt2Pi = 0.91893853320467274178;
constexpr double kSqrt2Pi = 2.50662827463100050242;
constexpr double kEdge = 1e-4;      // log_prob keeps this far from tanh's edges
constexpr double kQuantile = 1e-6;  // keeps the quantile finite

template <typename T>
MOTO_DEVICE inline T limit(T x, T low, T high) {
  return x < low ? low : x > high ? high : x;
}

template <typename T>
MOTO_DEVICE inline T normal_cdf(T x) {
  return T(0.5) * std::erfc(-x / T(1.41421356237309504880));
}

template <typename T>
MOTO_DEVICE inline T normal_pdf(T x) {
  return std::exp(T(-0.5) * x * x - T(kLogSqrt2Pi));
}

template <typename T>
MOTO_DEVICE inline T logistic(T x) {
  return T(1) / (T(1) + std::exp(-x));
}

// One action's distribution and draw.
template <typename T, typename Normal>
struct ActionDraw {
  Action kind;
  T noise;                       // uniform
  T mean, std, gate;             // gate: sigmoid(s / 2)
  T low, high, at_low, at_high;  // standardised bounds and their cdf (trunc_normal)
  T quantile, normal;            // unclamped quantile (trunc_normal); standard normal draw
  T unclamped, action;

  MOTO_DEVICE ActionDraw(Action kind_, T raw_mean, T raw_std, T min_std, T noise_) : kind(kind_), noise(noise_) {
    gate = logistic(raw_std / 2);
    std = 2 * gate + min_std;
    if (kind == Action::tanh_normal) {
      mean = 5 * std::tanh(raw_mean / 5);
      normal = Normal::quantile(noise);
      unclamped = mean + std * normal;
      action = std::tanh(unclamped);
      return;
    }
    mean = std::tanh(raw_mean);
    low = (-1 - mean) / std, high = (1 - mean) / std;
    at_low = normal_cdf(low), at_high = normal_cdf(high);
    quantile = at_low + noise * (at_high - at_low);
    normal = Normal::quantile(limit(quantile, T(kQuantile), T(1 - kQuantile)));
    unclamped = mean + std * normal;
    action = limit(unclamped, T(-1), T(1));
  }

  MOTO_DEVICE T entropy() const {
    if (kind == Action::tanh_normal) {
      const T y = std::atanh(limit(action, T(-1 + kEdge), T(1 - kEdge))), distance = (y - mean) / std;
      const T squash = 2 * (T(0.69314718055994530942) - y - std::log1p(std::exp(-2 * y)));
      return T(0.5) * distance * distance + std::log(std) + T(kLogSqrt2Pi) + squash;
    }
    const T mass = at_high - at_low;
    const T edge = (low * normal_pdf(low) - high * normal_pdf(high)) / (2 * mass);
    return T(kLogSqrt2Pi) + T(0.5) + std::log(std) + std::log(mass) + edge;
  }

  // From the gradients of the action and of the entropy to those of the raw mean and std.
  MOTO_DEVICE void backward(T grad, T to_entropy, T& grad_mean, T& grad_std) const {
    T to_mean = 0, to_std = 0;
    if (kind == Action::tanh_normal) {
      const T limited = limit(action, T(-1 + kEdge), T(1 - kEdge));
      const T y = std::atanh(limited), distance = (y - mean) / std;
      // entropy = -ln p(action): through the mean, the std and the action itself.
      to_mean -= to_entropy * distance / std;
      to_std += to_entropy * (T(1) - distance * distance) / std;
      const T to_y = to_entropy * (distance / std + 2 * (2 * logistic(-2 * y) - 1));
      if (limited == action) grad += to_y / (1 - limited * limited);
      grad *= 1 - action * action;
      to_mean += grad;
      to_std += grad * normal;
      const T slope = mean / 5;
      grad_mean = to_mean * (1 - slope * slope);
    } else {
      const T pdf_low = normal_pdf(low), pdf_high = normal_pdf(high), mass = at_high - at_low;
      T to_low = 0, to_high = 0;
      if (unclamped >= -1 && unclamped <= 1) {
        to_mean += grad;
        to_std += grad * normal;
        if (quantile >= T(kQuantile) && quantile <= T(1 - kQuantile)) {
          const T to_quantile = grad * std * T(kSqrt2Pi) * std::exp(T(0.5) * normal * normal);
          to_low += to_quantile * (1 - noise) * pdf_low;
          to_high += to_quantile * noise * pdf_high;
        }
      }
      const T edge = (low * pdf_low - high * pdf_high) / (2 * mass);
      to_low += to_entropy * pdf_low / mass * (T(-1) + (1 - low * low) / 2 + edge);
      to_high += to_entropy * pdf_high / mass * (T(1) - (1 - high * high) / 2 - edge);
      to_std += (to_entropy - to_low * low - to_high * high) / std;
      to_mean -= (to_low + to_high) / std;
      grad_mean = to_mean * (1 - mean * mean);
    }
    grad_std = to_std * gate * (1 - gate);
  }
};

// Row b's action a.
template <typename Normal, typename T, typename S>
MOTO_DEVICE inline ActionDraw<T, Normal> draw_action(const Act<T, S>& x, int64_t b, int64_t a) {
  const T* raw = x.raw + 2 * b * x.actions;
  const uint32_t word = philox_word(x.key, Stream::action, static_cast<uint64_t>((x.first + b) * x.actions + a));
  return {x.kind, raw[a], raw[x.actions + a], x.min_std, philox_uniform<T>(word)};
}

}  // namespace
}  // namespace moto
