// The recurrent cell. Compiled once for each instruction set: see cpu/isa/elementary.h.
#include "cpu/isa/elementary.h"
#include "cpu/tables.h"

namespace moto::cpu {
namespace {

template <typename T, typename S>
void gru(const Gru<T, S>& cell, Rows rows) {
  const int64_t D = cell.deter, width = 3 * D;
  const T *w = cell.norm_weight, *c = cell.norm_bias;
  for (int64_t b = rows.begin; b < rows.end; ++b) {
    const S* parts = cell.parts + b * width;
    T total = 0, squares = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t j = 0; j < width; ++j) total += load(parts + j);
    const T mean = total / static_cast<T>(width);
#pragma omp simd reduction(+ : squares)
    for (int64_t j = 0; j < width; ++j) {
      const T centred = load(parts + j) - mean;
      squares += centred * centred;
    }
    const T scale = T(1) / sqrt(squares / static_cast<T>(width) + T(1e-3));
    cell.stats[2 * b] = mean;
    cell.stats[2 * b + 1] = scale;
    const T keep = cell.is_first && cell.is_first[b] ? T(0) : T(1);
    const T* previous = cell.previous + b * D;
    T* out = cell.out + b * D;
#pragma omp simd
    for (int64_t j = 0; j < D; ++j) {
      const T reset = (load(parts + j) - mean) * scale * w[j] + c[j];
      const T candidate = (load(parts + D + j) - mean) * scale * w[D + j] + c[D + j];
      const T update = sigmoid<T>((load(parts + 2 * D + j) - mean) * scale * w[2 * D + j] + c[2 * D + j] - T(1));
      out[j] = update * tanh<T>(sigmoid<T>(reset) * candidate) + (T(1) - update) * (keep * previous[j]);
    }
    if (cell.operand) {
      S* operand = cell.operand + b * cell.stride;
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) store(operand + j, out[j]);
    }
    if (cell.next) {
      S* next = cell.next + b * cell.next_stride;
      const T seen = cell.next_first && cell.next_first[b] ? T(0) : T(1);
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) store(next + j, seen * out[j]);
    }
  }
}

template <typename T, typename S>
void gru_backward(const Gru<T, S>& cell, Rows rows) {
  const int64_t D = cell.deter, width = 3 * D;
  const T *w = cell.norm_weight, *c = cell.norm_bias;
  for (int64_t b = rows.begin; b < rows.end; ++b) {
    const S* parts = cell.parts + b * width;
    S* grad_parts = cell.grad_parts + b * width;
    T *grad = cell.grad + b * D, *norm = cell.grad_norm + b * width;
    const T mean = cell.stats[2 * b], scale = cell.stats[2 * b + 1];
    const T keep = cell.is_first && cell.is_first[b] ? T(0) : T(1);
    const T* previous = cell.previous + b * D;
    for (int64_t k = 0; k < cell.heads; ++k) {
      const S* head = cell.grad_heads + (k * cell.batch + b) * D;
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) grad[j] += load(head + j);
    }
    if (cell.grad_extra) {
      const T* extra = cell.grad_extra + b * D;
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) grad[j] += extra[j];
    }
    // Two passes: the gradient of the normalised values needs its own mean and its mean with the values.
    T total = 0, with_values = 0;
#pragma omp simd reduction(+ : total, with_values)
    for (int64_t j = 0; j < D; ++j) {
      const T normal_r = (load(parts + j) - mean) * scale, normal_c = (load(parts + D + j) - mean) * scale;
      const T normal_u = (load(parts + 2 * D + j) - mean) * scale;
      const T reset = sigmoid<T>(normal_r * w[j] + c[j]), candidate = normal_c * w[D + j] + c[D + j];
      const T update = sigmoid<T>(normal_u * w[2 * D + j] + c[2 * D + j] - T(1)), proposal = tanh<T>(reset * candidate);
      const T g = grad[j], inner = g * update * (T(1) - proposal * proposal);
      const T to_reset = inner * candidate * reset * (T(1) - reset), to_candidate = inner * reset;
      const T to_update = g * (proposal - keep * previous[j]) * update * (T(1) - update);
      const T r = to_reset * w[j], k = to_candidate * w[D + j], u = to_update * w[2 * D + j];
      total += r + k + u;
      with_values += r * normal_r + k * normal_c + u * normal_u;
      norm[j] = to_reset;
      norm[D + j] = to_candidate;
      norm[2 * D + j] = to_update;
      grad[j] = keep * g * (T(1) - update);
    }
    const T average = total / static_cast<T>(width), projection = with_values / static_cast<T>(width);
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) {
      const T normal = (load(parts + j) - mean) * scale;
      store(grad_parts + j, scale * (norm[j] * w[j] - average - normal * projection));
    }
  }
}

template <typename T, typename S>
void norm_grad(const NormGrad<T, S>& norm, Rows columns) {
  for (int64_t j = columns.begin; j < columns.end; ++j) norm.weight[j] = norm.bias[j] = T(0);
  for (int64_t b = 0; b < norm.rows; ++b) {
    const T mean = norm.stats[2 * b], scale = norm.stats[2 * b + 1];
    const S* parts = norm.parts + b * norm.width;
    const T* grad = norm.grad + b * norm.width;
#pragma omp simd
    for (int64_t j = columns.begin; j < columns.end; ++j) {
      norm.weight[j] += grad[j] * (load(parts + j) - mean) * scale;
      norm.bias[j] += grad[j];
    }
  }
}

template <typename T, typename S>
constexpr GruKernels<T, S> kTable = {gru<T, S>, gru_backward<T, S>, norm_grad<T, S>};

}  // namespace

namespace MOTO_ISA {
extern const GruKernels<float, float> gru_float = kTable<float, float>;
extern const GruKernels<float, BFloat16> gru_bfloat16 = kTable<float, BFloat16>;
extern const GruKernels<double, double> gru_double = kTable<double, double>;
}  // namespace MOTO_ISA

}  // namespace moto::cpu
