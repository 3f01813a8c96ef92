// What layers do behind and around their products. Compiled once for each instruction set: see cpu/isa/elementary.h.
#include "cpu/isa/elementary.h"
#include "cpu/tables.h"

namespace moto::cpu {
namespace {

template <typename T, typename S>
void bias_elu(S* values, const T* bias, int64_t units, int64_t batch, Rows rows) {
  for (int64_t b = rows.begin; b < rows.end; ++b) {
    S* row = values + b * units;
    const T* own = bias + b / batch * units;
#pragma omp simd
    for (int64_t u = 0; u < units; ++u) store(row + u, elu<T>(load(row + u) + own[u]));
  }
}

template <typename T, typename S>
inline void elu_backward_row(S* grad, const S* values, int64_t units) {
#pragma omp simd
  for (int64_t u = 0; u < units; ++u) store(grad + u, static_cast<T>(load(grad + u)) * elu_slope<T>(load(values + u)));
}

template <typename T, typename S>
void elu_backward(S* grad, const S* values, int64_t units, Rows rows) {
  for (int64_t b = rows.begin; b < rows.end; ++b) elu_backward_row<T, S>(grad + b * units, values + b * units, units);
}

template <typename T, typename S>
void column_sums(const S* values, int64_t rows, int64_t stride, T* out, Rows columns) {
  for (int64_t j = columns.begin; j < columns.end; ++j) out[j] = T(0);
  for (int64_t b = 0; b < rows; ++b) {
    const S* row = values + b * stride;
#pragma omp simd
    for (int64_t j = columns.begin; j < columns.end; ++j) out[j] += load(row + j);
  }
}

template <typename T, typename S>
void gather_layer(const GatherLayer<T, S>& layer, Rows rows) {
  constexpr int64_t kBlock = 128;  // columns whose sums stay in registers or the nearest cache
  for (int64_t b = rows.begin; b < rows.end; ++b) {
    S* out = layer.out + b * layer.stride;
    for (int64_t first = 0; first < layer.units; first += kBlock) {
      const int64_t width = layer.units - first < kBlock ? layer.units - first : kBlock;
      T sum[kBlock];
#pragma omp simd
      for (int64_t u = 0; u < width; ++u) sum[u] = layer.bias ? layer.bias[first + u] : T(0);
      const bool forgets = layer.is_first && layer.is_first[b];
      if (layer.product && !forgets) {
        const S* row = layer.product + b * layer.units + first;
#pragma omp simd
        for (int64_t u = 0; u < width; ++u) sum[u] += load(row + u);
      }
      if (layer.addend) {
        const T* row = layer.addend + b * layer.units + first;
#pragma omp simd
        for (int64_t u = 0; u < width; ++u) sum[u] += row[u];
      }
      for (int64_t a = 0; layer.action && a < layer.actions; ++a) {
        const T value = layer.action[b * layer.actions + a];
        const T* row = layer.action_table + a * layer.units + first;
#pragma omp simd
        for (int64_t u = 0; u < width; ++u) sum[u] += value * row[u];
      }
      const bool gathers = layer.index && !forgets;
      for (int64_t s = 0; gathers && s < layer.stoch; ++s) {
        const S* row = layer.table + layer.index[b * layer.stoch + s] * layer.units + first;
        if (width == kBlock) {
#pragma omp simd
          for (int64_t u = 0; u < kBlock; ++u) sum[u] += load(row + u);
        } else {
#pragma omp simd
          for (int64_t u = 0; u < width; ++u) sum[u] += load(row + u);
        }
      }
#pragma omp simd
      for (int64_t u = 0; u < width; ++u) store(out + first + u, elu<T>(sum[u]));
    }
  }
}

template <typename T, typename S>
void input_backward(const InputGrad<T, S>& x, Rows rows) {
  const int64_t width = x.units + x.deter;
  for (int64_t b = rows.begin; b < rows.end; ++b) {
    elu_backward_row<T, S>(x.grad + b * width, x.inputs + b * width, x.units);
    if (!x.grad_deter || (x.is_first && x.is_first[b])) continue;
    const S* from = x.grad + b * width + x.units;
    T* to = x.grad_deter + b * x.deter;
#pragma omp simd
    for (int64_t j = 0; j < x.deter; ++j) to[j] += load(from + j);
  }
}

template <typename T, typename S>
constexpr LayerKernels<T, S> kTable = {gather_layer<T, S>, input_backward<T, S>, bias_elu<T, S>, elu_backward<T, S>,
                                       column_sums<T, S>};

}  // namespace

namespace MOTO_ISA {
extern const LayerKernels<float, float> layers_float = kTable<float, float>;
extern const LayerKernels<float, BFloat16> layers_bfloat16 = kTable<float, BFloat16>;
extern const LayerKernels<double, double> layers_double = kTable<double, double>;
}  // namespace MOTO_ISA

}  // namespace moto::cpu
