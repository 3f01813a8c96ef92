#include "kernels/action.h"

#include <ATen/native/Math.h>
#include <c10/util/BFloat16.h>

#include "cpu/cpu_kernels.h"

namespace moto::cpu {
namespace {

struct Normal {
  template <typename T>
  static T quantile(T p) {
    return calc_ndtri(p);
  }
};

template <typename T, typename S>
T load(const S* p) {
  if constexpr (std::is_same_v<S, BFloat16>) {
    return c10::detail::f32_from_bits(p->bits);
  } else {
    return *p;
  }
}

}  // namespace

template <typename T, typename S>
void act(const Act<T, S>& x, int64_t begin, int64_t end) {
  const int64_t A = x.actions;
  for (int64_t i = 2 * begin * A; i < 2 * end * A; ++i) x.raw[i] = load<T>(x.product + i) + x.bias[i % (2 * A)];
  for (int64_t b = begin; b < end; ++b) {
    T total = 0;
    for (int64_t a = 0; a < A; ++a) {
      const auto d = draw_action<Normal>(x, b, a);
      x.action[b * A + a] = d.action;
      total += d.entropy();
    }
    x.entropy[b] = total;
  }
}

template <typename T, typename S>
void act_backward(const Act<T, S>& x, int64_t begin, int64_t end) {
  const int64_t A = x.actions;
  for (int64_t b = begin; b < end; ++b) {
    T* grad_raw = x.grad_raw + 2 * b * A;
    for (int64_t a = 0; a < A; ++a) {
      const T grad = x.grad_action ? x.grad_action[b * A + a] : T(0);
      draw_action<Normal>(x, b, a).backward(grad, x.grad_entropy ? x.grad_entropy[b] : T(0), grad_raw[a], grad_raw[A + a]);
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

#define MOTO_INSTANTIATE(T, S)                                 \
  template void act<T, S>(const Act<T, S>&, int64_t, int64_t); \
  template void act_backward<T, S>(const Act<T, S>&, int64_t, int64_t);
MOTO_INSTANTIATE(float, float)
MOTO_INSTANTIATE(float, BFloat16)
MOTO_INSTANTIATE(double, double)
#undef MOTO_INSTANTIATE
template void latent_noise<float>(Latent, PhiloxKey, int64_t, int64_t, float*);
template void latent_noise<double>(Latent, PhiloxKey, int64_t, int64_t, double*);

}  // namespace moto::cpu
