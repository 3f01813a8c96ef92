// What the kernels of this folder are made of. Each of its files is compiled once for each instruction set (CMakeLists.txt),
// MOTO_ISA naming it. Loops are plain so that the compiler vectorises them; `omp simd` allows it to reorder the sums. Everything is
// unnamed and of its file, and nothing of the standard library is called but inlined builtins: the linker must find no function
// here to share with code for older processors.
#pragma once

#include "kernels/types.h"

namespace moto::cpu {
namespace {

inline float bits_to_float(int32_t bits) { return __builtin_bit_cast(float, bits); }

// e^x - 1, to about two units in the last place. e^x = 2^n e^r with |r| <= ln(2) / 2.
inline float expm1(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269504088896341f + 12582912.0f;  // adding 1.5 * 2^23 rounds to an integer in the low bits
  const float n = shifted - 12582912.0f;
  float r = x - n * 0.693145751953125f;
  r = r - n * 1.42860682030941723e-6f;
  float p = 1.9841270e-4f;
  p = p * r + 1.3888889e-3f;
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r;
  const int32_t exponent = __builtin_bit_cast(int32_t, shifted) - 0x4B400000;
  const float scale = bits_to_float((exponent + 127) << 23);
  return scale * p + (scale - 1.0f);
}

inline float exp(float x) {
  // Split like expm1, without its last subtraction, which would lose what is far below 1.
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269504088896341f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  float r = x - n * 0.693145751953125f;
  r = r - n * 1.42860682030941723e-6f;
  float p = 1.9841270e-4f;
  p = p * r + 1.3888889e-3f;
  p = p * r + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  const int32_t exponent = __builtin_bit_cast(int32_t, shifted) - 0x4B400000;
  return p * bits_to_float((exponent + 127) << 23);
}

inline double expm1(double x) { return __builtin_expm1(x); }
inline double exp(double x) { return __builtin_exp(x); }
inline float log(float x) { return __builtin_logf(x); }
inline double log(double x) { return __builtin_log(x); }
inline float sqrt(float x) { return __builtin_sqrtf(x); }
inline double sqrt(double x) { return __builtin_sqrt(x); }

template <typename T>
inline T elu(T x) {
  const T below = expm1(x < T(0) ? x : T(0));
  return x > T(0) ? x : below;
}

template <typename T>
inline T elu_slope(T result) {
  return result > T(0) ? T(1) : result + T(1);
}

template <typename T>
inline T sigmoid(T x) {
  return T(1) / (T(1) + exp(-x));
}

template <typename T>
inline T tanh(T x) {
  // Clamped where the result rounds to one: the quotient of two huge numbers says nothing.
  T twice = x + x;
  twice = twice > T(40) ? T(40) : twice;
  twice = twice < T(-40) ? T(-40) : twice;
  const T e = expm1(twice);
  return e / (e + T(2));
}

// Loads and stores, rounding to nearest even where the storage is bfloat16.

inline float load(const float* p) { return *p; }
inline double load(const double* p) { return *p; }
inline float load(const BFloat16* p) { return bits_to_float(static_cast<int32_t>(static_cast<uint32_t>(p->bits) << 16)); }
inline void store(float* p, float x) { *p = x; }
inline void store(double* p, double x) { *p = x; }
inline void store(BFloat16* p, float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  p->bits = static_cast<uint16_t>(x != x ? 0x7FC0u : rounded);
}

}  // namespace
}  // namespace moto::cpu
