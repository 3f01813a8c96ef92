// The kernels of moto/rollout_kernels.h on rows [begin, end), in one thread.
#pragma once

#include "moto/rollout_kernels.h"

namespace moto::cpu {

// Rows [begin, end) of B.
struct Rows {
  int64_t begin, end;
};

// What a thread has of its own in `sample` and `sample_backward`.
template <typename T>
struct Workspace {
  const T* noise;  // [B, S]
  T* scratch;      // sample_scratch() elements
};

inline int64_t sample_scratch(const LatentShape& latent, int64_t members) {
  return members * (latent.params() + latent.size() + 1) + 4 * latent.params();
}

template <typename T, typename S>
struct Kernels {
  void (*gather_layer)(const GatherLayer<T, S>&, Rows);
  void (*gru)(const Gru<T, S>&, Rows);
  void (*gru_backward)(const Gru<T, S>&, Rows);
  void (*input_backward)(const InputGrad<T, S>&, Rows);
  void (*norm_grad)(const NormGrad<T, S>&, Rows columns);
  void (*sample)(const Sample<T, S>&, const Workspace<T>&, Rows);
  void (*sample_backward)(const Sample<T, S>&, const Workspace<T>&, Rows);
  // values = ELU(values + bias): values [N, units], of which each `batch` rows share one of bias [N / batch, units].
  void (*bias_elu)(S* values, const T* bias, int64_t units, int64_t batch, Rows);
  // grad *= ELU'(.) where `values` are ELU's results; both [N, units].
  void (*elu_backward)(S* grad, const S* values, int64_t units, Rows);
  // out[j] = the sum of column j of values [rows, stride], in the rows' order, for columns [begin, end).
  void (*column_sums)(const S* values, int64_t rows, int64_t stride, T* out, Rows columns);
};

// The kernels for the widest vectors that this processor has.
template <typename T, typename S>
const Kernels<T, S>& kernels();

}  // namespace moto::cpu
