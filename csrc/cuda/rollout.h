// Launchers of the kernels of moto/rollout_kernels.h on a stream. They need only the CUDA toolkit and return the launch's error.
// Instantiated for (T, S) of (float, float), (float, Half) and (double, double).
#pragma once

#include <cuda_runtime_api.h>

#include "moto/rollout_kernels.h"

namespace moto::cuda {

template <typename T, typename S>
struct Launch {
  cudaStream_t stream;

  cudaError_t gather_layer(const GatherLayer<T, S>& x, int64_t rows) const;
  // values = ELU(values + bias): values [rows, units], of which each `batch` share one of bias [rows / batch, units].
  cudaError_t bias_elu(S* values, const T* bias, int64_t units, int64_t batch, int64_t rows) const;
  // grad *= ELU'(.) where `values` are ELU's results; both [rows, units].
  cudaError_t elu_backward(S* grad, const S* values, int64_t units, int64_t rows) const;
  cudaError_t input_backward(const InputGrad<T, S>& x, int64_t rows) const;
  cudaError_t gru(const Gru<T, S>& x, int64_t rows) const;
  cudaError_t gru_backward(const Gru<T, S>& x, int64_t rows) const;
  // Samples, and computes the layer on the sample if there is one.
  cudaError_t sample(const Sample<T, S>& x, const GatherLayer<T, S>* layer) const;
  cudaError_t sample_backward(const Sample<T, S>& x) const;
  // Acts, and computes the layer on the actions if there is one.
  cudaError_t act(const Act<T, S>& x, const GatherLayer<T, S>* layer, int64_t rows) const;
  cudaError_t act_backward(const Act<T, S>& x, int64_t rows) const;
  cudaError_t norm_grad(const NormGrad<T, S>& x) const;
  // One member a row of member [steps, batch].
  cudaError_t draw_members(int64_t* member, int64_t steps, int64_t batch, PhiloxKey key, int64_t members, bool by_row) const;
};

}  // namespace moto::cuda
