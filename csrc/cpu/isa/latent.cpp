// The latent's sample and the ensemble's disagreement, forward and backward. Compiled once for each instruction set: see
// cpu/isa/elementary.h.
#include "cpu/isa/elementary.h"
#include "cpu/tables.h"

namespace moto::cpu {
namespace {

// out = params + bias.
template <typename T, typename S>
inline void biased(const S* params, const T* bias, int64_t count, T* out) {
#pragma omp simd
  for (int64_t j = 0; j < count; ++j) out[j] = load(params + j) + bias[j];
}

template <typename T, typename S>
inline void keep(const T* values, int64_t count, S* out) {
#pragma omp simd
  for (int64_t j = 0; j < count; ++j) store(out + j, values[j]);
}

template <typename T, typename S>
inline void take(const S* values, int64_t count, T* out) {
#pragma omp simd
  for (int64_t j = 0; j < count; ++j) out[j] = load(values + j);
}

// Calls body with the number of classes: as a constant where it is a usual one, for loops without remainders.
template <int64_t C>
struct Constant {
  constexpr operator int64_t() const { return C; }
};

template <typename Body>
inline void with_classes(int64_t classes, const Body& body) {
  if (classes == 32) return body(Constant<32>{});
  if (classes == 16) return body(Constant<16>{});
  body(classes);
}

// S softmaxes over C classes of params + bias into x, and into `kept` unless that is null.
template <typename T, typename S>
inline void softmax(const S* params, const T* bias, int64_t stoch, int64_t count, T* x, S* kept = nullptr) {
  constexpr int64_t kBlock = 64;
  T top = load(params) + bias[0], low = top;
#pragma omp simd reduction(max : top) reduction(min : low)
  for (int64_t j = 0; j < stoch * count; ++j) {
    const T logit = load(params + j) + bias[j];
    x[j] = logit;
    top = logit > top ? logit : top;
    low = logit < low ? logit : low;
  }
  with_classes(count, [&](auto classes) {
    // One maximum serves all variables, without a search in each, unless one of them could then vanish.
    const bool one_top = top - low < T(80);
    for (int64_t first = 0; first < stoch; first += kBlock) {
      const int64_t width = stoch - first < kBlock ? stoch - first : kBlock;
      T* block = x + first * classes;
      T scale[kBlock];
      for (int64_t s = 0; s < width; ++s) {
        T* row = block + s * classes;
        T own = top;
        if (!one_top) {
          own = row[0];
#pragma omp simd reduction(max : own)
          for (int64_t j = 0; j < classes; ++j) own = row[j] > own ? row[j] : own;
        }
        T total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t j = 0; j < classes; ++j) {
          const T e = exp(row[j] - own);
          row[j] = e;
          total += e;
        }
        scale[s] = total;
      }
#pragma omp simd
      for (int64_t s = 0; s < width; ++s) scale[s] = T(1) / scale[s];
      for (int64_t s = 0; s < width; ++s) {
        T* row = block + s * classes;
        if (kept) {
          S* out = kept + (first + s) * classes;
#pragma omp simd
          for (int64_t j = 0; j < classes; ++j) {
            const T p = row[j] * scale[s];
            row[j] = p;
            store(out + j, p);
          }
        } else {
#pragma omp simd
          for (int64_t j = 0; j < classes; ++j) row[j] *= scale[s];
        }
      }
    }
  });
}

// Per variable: x -> x - logsumexp(x), in place.
template <typename T>
inline void log_softmax(T* x, int64_t stoch, int64_t classes) {
  for (int64_t s = 0; s < stoch; ++s) {
    T* row = x + s * classes;
    T top = row[0];
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < classes; ++j) top = row[j] > top ? row[j] : top;
    T total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < classes; ++j) total += exp(row[j] - top);
    const T shift = top + log(total);
#pragma omp simd
    for (int64_t j = 0; j < classes; ++j) row[j] -= shift;
  }
}

template <typename T>
inline T gaussian_std(T raw) {
  return T(2) * sigmoid<T>(raw * T(0.5)) + T(0.1);
}

// Mean and population variance over the members of values [K, stride], elements [0, count).
template <typename T>
inline void moments(const T* values, int64_t members, int64_t stride, int64_t count, T* mean, T* variance) {
  constexpr int64_t kBlock = 32;  // elements whose sums stay in registers
  const T share = T(1) / static_cast<T>(members);
  const auto block = [&](int64_t first, auto width) __attribute__((always_inline)) {
    T sum[kBlock], squares[kBlock];
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) sum[j] = squares[j] = T(0);
    for (int64_t k = 0; k < members; ++k) {
      const T* v = values + k * stride + first;
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) sum[j] += v[j];
    }
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) sum[j] *= share;
    for (int64_t k = 0; k < members; ++k) {
      const T* v = values + k * stride + first;
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) squares[j] += (v[j] - sum[j]) * (v[j] - sum[j]);
    }
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) mean[first + j] = sum[j], variance[first + j] = squares[j] * share;
  };
  int64_t first = 0;
  for (; first + kBlock <= count; first += kBlock) block(first, Constant<kBlock>{});
  if (first < count) block(first, count - first);
}

// The floor of the reference's _spread.
template <typename T>
constexpr T kLeastVariance = T(1e-12);

template <typename T>
inline T spread_mean(const T* variance, int64_t count) {
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t j = 0; j < count; ++j) total += sqrt(variance[j] > kLeastVariance<T> ? variance[j] : kLeastVariance<T>);
  return total / static_cast<T>(count);
}

// The members' values that their disagreement is about, for row b: [K, P] into `values`. For log_prob, [K] into `likelihood`.
// `values` then holds what backward needs: class probabilities (mean), raw parameters (logit, Gaussians) or log-probabilities.
template <typename T, typename S>
inline void member_values(const Sample<T, S>& x, int64_t b, const T* z, T* values, T* likelihood) {
  const int64_t P = x.latent.params(), stoch = x.latent.stoch, classes = x.latent.classes;
  const bool categorical = x.latent.kind == Latent::categorical;
  for (int64_t k = 0; k < x.members; ++k) {
    T* v = values + k * P;
    const S* params = x.params + (k * x.batch + b) * P;
    if (x.kind == Spread::mean && categorical) {
      softmax(params, x.bias + k * P, stoch, classes, v, x.keep_probs ? x.keep_probs + (k * x.batch + b) * P : nullptr);
      continue;
    }
    biased(params, x.bias + k * P, P, v);
    if (x.kind != Spread::log_prob) continue;
    T total = 0;
    if (categorical) {
      log_softmax(v, stoch, classes);
#pragma omp simd reduction(+ : total)
      for (int64_t j = 0; j < P; ++j) total += v[j] * z[j];
    } else {
      for (int64_t s = 0; s < stoch; ++s) {
        const T std = gaussian_std(v[stoch + s]), distance = (z[s] - v[s]) / std;
        total += T(-0.5) * distance * distance - log(std) - T(0.9189385332046727);
      }
    }
    likelihood[k] = total;
  }
}

template <typename T>
inline T largest_norm(const T* values, int64_t members, int64_t stoch, T* norms) {
  T top = 0;
  for (int64_t k = 0; k < members; ++k) {
    T total = 0;
    for (int64_t s = 0; s < stoch; ++s) {
      const T std = gaussian_std(values[k * 2 * stoch + stoch + s]);
      total += std * std;
    }
    norms[k] = sqrt(total);
    top = norms[k] > top ? norms[k] : top;
  }
  return top;
}

template <typename T, typename S>
void sample(const Sample<T, S>& x, const Workspace<T>& space, Rows rows) {
  const int64_t P = x.latent.params(), Z = x.latent.size(), stoch = x.latent.stoch, classes = x.latent.classes;
  const bool categorical = x.latent.kind == Latent::categorical;
  T *values = space.scratch, *mean = values + x.members * P, *variance = mean + P, *own = variance + P, *likelihood = own + P;
  for (int64_t b = rows.begin; b < rows.end; ++b) {
    const int64_t chosen = x.member ? x.member[b] : 0;
    T* z = x.z + b * Z;
    // The class probabilities of all members serve the sample too.
    const bool shared = x.spread && categorical && x.kind == Spread::mean;
    if (shared) member_values(x, b, z, values, likelihood);
    const T* params = values + chosen * P;
    if (!shared) {
      const S* products = x.params + (chosen * x.batch + b) * P;
      if (x.full) biased(products, x.bias + chosen * P, P, x.full + b * P);
      if (categorical) {
        softmax(products, x.bias + chosen * P, stoch, classes, own);
      } else {
        biased(products, x.bias + chosen * P, P, own);
      }
      params = own;
    }
    const T* noise = space.noise + b * stoch;
    if (categorical) {
#pragma omp simd
      for (int64_t j = 0; j < Z; ++j) z[j] = T(0);
      for (int64_t s = 0; s < stoch; ++s) {
        // Inversion of the cumulative sum, summed as torch.cumsum sums it.
        double running = 0;
        int64_t index = 0;
        for (; index < classes - 1; ++index) {
          running += static_cast<double>(params[s * classes + index]);
          if (!(static_cast<T>(running) < noise[s])) break;
        }
        z[s * classes + index] = T(1);
        x.index[b * stoch + s] = static_cast<int32_t>(s * classes + index);
      }
    } else {
      for (int64_t s = 0; s < stoch; ++s) z[s] = params[s] + gaussian_std(params[stoch + s]) * noise[s];
    }
    if (x.operand) {
      keep(z, Z, x.operand + b * Z);
    }
    if (!x.spread) continue;
    if (!shared) member_values(x, b, z, values, likelihood);
    if (x.kind == Spread::max_var) {
      x.spread[b] = largest_norm(values, x.members, stoch, likelihood);
    } else if (x.kind == Spread::log_prob) {
      moments(likelihood, x.members, 1, 1, mean, variance);
      x.spread[b] = spread_mean(variance, 1);
    } else {
      moments(values, x.members, P, Z, mean, variance);  // of a Gaussian's parameters, the first half: the means
      x.spread[b] = spread_mean(variance, Z);
    }
  }
}

// Adds to `out` the gradient of logits from that of probabilities, per variable.
template <typename T>
inline void softmax_backward(const T* probs, const T* grad, int64_t stoch, int64_t count, T* out) {
  with_classes(count, [&](auto classes) {
    for (int64_t s = 0; s < stoch; ++s) {
      const T *p = probs + s * classes, *g = grad + s * classes;
      T* o = out + s * classes;
      T total = 0;
#pragma omp simd reduction(+ : total)
      for (int64_t j = 0; j < classes; ++j) total += p[j] * g[j];
#pragma omp simd
      for (int64_t j = 0; j < classes; ++j) o[j] += p[j] * (g[j] - total);
    }
  });
}

// The gradient of row b's sample.
template <typename T, typename S>
inline void latent_grad(const Sample<T, S>& x, int64_t b, T* grad) {
  const int64_t Z = x.latent.size();
  if (x.grad_z && !(x.forgotten && x.forgotten[b])) {
    take(x.grad_z + b * Z, Z, grad);
  } else {
#pragma omp simd
    for (int64_t j = 0; j < Z; ++j) grad[j] = T(0);
  }
  if (x.grad_extra) {
    const T* extra = x.grad_extra + b * Z;
#pragma omp simd
    for (int64_t j = 0; j < Z; ++j) grad[j] += extra[j];
  }
}

// Variances become what a member's distance from the mean is multiplied by: the slope of the mean over `count` elements of their
// standard deviations over the members.
template <typename T>
inline void spread_slopes(T* variance, int64_t members, int64_t count, T to_spread) {
  const T each = to_spread / static_cast<T>(members * count);
#pragma omp simd
  for (int64_t j = 0; j < count; ++j) {
    const T least = kLeastVariance<T>, root = sqrt(variance[j] > least ? variance[j] : least);
    variance[j] = variance[j] < least ? T(0) : each / root;
  }
}

// Row b where the members disagree about class probabilities, the default: the sample's gradient and the disagreement's are both of
// probabilities and go through the softmax together.
template <typename T, typename S>
inline void probs_backward(const Sample<T, S>& x, int64_t b, int64_t chosen, const Workspace<T>& space) {
  const int64_t Z = x.latent.size(), stoch = x.latent.stoch, K = x.members;
  T *values = space.scratch, *mean = values + K * Z, *slope = mean + Z, *grad = slope + Z, *grad_z = grad + Z;
  latent_grad(x, b, grad_z);
  const T* probs = values;
  int64_t stride = Z;
  if (!x.probs) {
    member_values<T, S>(x, b, nullptr, values, nullptr);
  } else if constexpr (__is_same(T, S)) {
    probs = x.params + b * Z, stride = x.batch * Z;
  }
  moments(probs, K, stride, Z, mean, slope);
  spread_slopes(slope, K, Z, x.grad_spread[b]);
  with_classes(x.latent.classes, [&](auto classes) {
    for (int64_t k = 0; k < K; ++k) {
      S* out = x.grad_params + (k * x.batch + b) * Z;
      for (int64_t first = 0; first < stoch * classes; first += classes) {
        const T *p = probs + k * stride + first, *m = mean + first, *scale = slope + first, *sampled = grad_z + first;
        const T own = k == chosen ? T(1) : T(0);
        T total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t j = 0; j < classes; ++j) {
          grad[j] = scale[j] * (p[j] - m[j]) + own * sampled[j];
          total += p[j] * grad[j];
        }
#pragma omp simd
        for (int64_t j = 0; j < classes; ++j) store(out + first + j, p[j] * (grad[j] - total));
      }
    }
  });
}

template <typename T, typename S>
void sample_backward(const Sample<T, S>& x, const Workspace<T>& space, Rows rows) {
  const int64_t P = x.latent.params(), Z = x.latent.size(), stoch = x.latent.stoch, classes = x.latent.classes, K = x.members;
  const bool categorical = x.latent.kind == Latent::categorical;
  T *values = space.scratch, *mean = values + K * P, *slope = mean + P, *own = slope + P, *grad_z = own + P,
    *likelihood = grad_z + P;
  for (int64_t b = rows.begin; b < rows.end; ++b) {
    const int64_t chosen = x.member ? x.member[b] : 0;
    const T* z = x.z + b * Z;
    if (x.grad_spread && categorical && x.kind == Spread::mean) {
      probs_backward(x, b, chosen, space);
      continue;
    }
    latent_grad(x, b, grad_z);
    const T to_spread = x.grad_spread ? x.grad_spread[b] : T(0);
    if (x.grad_spread) {
      member_values(x, b, z, values, likelihood);
      if (x.kind == Spread::max_var) {
        const T top = largest_norm(values, K, stoch, likelihood);
        T ties = 0;
        for (int64_t k = 0; k < K; ++k) ties += likelihood[k] == top ? T(1) : T(0);
        for (int64_t k = 0; k < K; ++k) likelihood[k] = likelihood[k] == top ? to_spread / (ties * top) : T(0);
      } else if (x.kind == Spread::log_prob) {
        moments(likelihood, K, 1, 1, mean, slope);
        const T each = slope[0] < kLeastVariance<T> ? T(0) : to_spread / (static_cast<T>(K) * sqrt(slope[0]));
        for (int64_t k = 0; k < K; ++k) {
          likelihood[k] = each * (likelihood[k] - mean[0]);
          const T* v = values + k * P;
          for (int64_t j = 0; j < Z; ++j) {
            if (categorical) {
              grad_z[j] += likelihood[k] * v[j];
            } else {
              const T std = gaussian_std(v[stoch + j]);
              grad_z[j] -= likelihood[k] * (z[j] - v[j]) / (std * std);
            }
          }
        }
      } else {
        moments(values, K, P, Z, mean, slope);
        spread_slopes(slope, K, Z, to_spread);
      }
    }
    for (int64_t k = 0; k < K; ++k) {
      S* out = x.grad_params + (k * x.batch + b) * P;
      T* v = values + k * P;
      if (!x.grad_spread && k != chosen) {
#pragma omp simd
        for (int64_t j = 0; j < P; ++j) store(out + j, T(0));
        continue;
      }
      // In place: from what the disagreement is about to the gradient of the parameters.
      if (!x.grad_spread) {
#pragma omp simd
        for (int64_t j = 0; j < P; ++j) v[j] = T(0);
      } else if (x.kind == Spread::max_var) {
        for (int64_t s = 0; s < stoch; ++s) {
          const T gate = sigmoid<T>(v[stoch + s] * T(0.5)), std = T(2) * gate + T(0.1);
          v[s] = T(0);
          v[stoch + s] = likelihood[k] * std * gate * (T(1) - gate);
        }
      } else if (x.kind == Spread::log_prob) {
        if (categorical) {
          for (int64_t j = 0; j < Z; ++j) v[j] = likelihood[k] * (z[j] - exp(v[j]));
        } else {
          for (int64_t s = 0; s < stoch; ++s) {
            const T gate = sigmoid<T>(v[stoch + s] * T(0.5)), std = T(2) * gate + T(0.1), distance = (z[s] - v[s]) / std;
            v[s] = likelihood[k] * distance / std;
            v[stoch + s] = likelihood[k] * (distance * distance - T(1)) / std * gate * (T(1) - gate);
          }
        }
      } else {
#pragma omp simd
        for (int64_t j = 0; j < Z; ++j) v[j] = slope[j] * (v[j] - mean[j]);
        for (int64_t j = Z; j < P; ++j) v[j] = T(0);
      }
      if (k == chosen) {
        const S* params = x.params + (k * x.batch + b) * P;
        if (x.probs) {
          take(params, P, own);
        } else if (categorical) {
          softmax(params, x.bias + k * P, stoch, classes, own);
        } else {
          biased(params, x.bias + k * P, P, own);
        }
        if (categorical) {
          softmax_backward(own, grad_z, stoch, classes, v);
        } else {
          const T* noise = space.noise + b * stoch;
          for (int64_t s = 0; s < stoch; ++s) {
            const T gate = sigmoid<T>(own[stoch + s] * T(0.5));
            v[s] += grad_z[s];
            v[stoch + s] += grad_z[s] * noise[s] * gate * (T(1) - gate);
          }
        }
      }
      if (x.grad_full) {
#pragma omp simd
        for (int64_t j = 0; j < P; ++j) v[j] += x.grad_full[b * P + j];
      }
      keep(v, P, out);
    }
  }
}

template <typename T, typename S>
constexpr LatentKernels<T, S> kTable = {sample<T, S>, sample_backward<T, S>};

}  // namespace

namespace MOTO_ISA {
extern const LatentKernels<float, float> latent_float = kTable<float, float>;
extern const LatentKernels<float, BFloat16> latent_bfloat16 = kTable<float, BFloat16>;
extern const LatentKernels<double, double> latent_double = kTable<double, double>;
}  // namespace MOTO_ISA

}  // namespace moto::cpu
