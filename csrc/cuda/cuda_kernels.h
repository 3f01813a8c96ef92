// The CUDA kernels' launchers on a stream. They need only the CUDA toolkit and return the launch's error.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/arguments.h"
#include "kernels/lambda_return.h"

namespace moto::cuda {

// Instantiated for (T, S) of (float, float), (float, BFloat16) and (double, double).
template <typename T, typename S>
cudaError_t gather_layer(const GatherLayer<T, S>& x, int64_t rows, cudaStream_t stream);
// values = ELU(values + bias): values [rows, units], of which each `batch` share one of bias [rows / batch, units].
template <typename T, typename S>
cudaError_t bias_elu(S* values, const T* bias, int64_t units, int64_t batch, int64_t rows, cudaStream_t stream);
// grad *= ELU'(.) where `values` are ELU's results; both [rows, units].
template <typename T, typename S>
cudaError_t elu_backward(S* grad, const S* values, int64_t units, int64_t rows, cudaStream_t stream);
template <typename T, typename S>
cudaError_t input_backward(const InputGrad<T, S>& x, int64_t rows, cudaStream_t stream);
template <typename T, typename S>
cudaError_t gru(const Gru<T, S>& x, int64_t rows, cudaStream_t stream);
template <typename T, typename S>
cudaError_t gru_backward(const Gru<T, S>& x, int64_t rows, cudaStream_t stream);
// Samples, and computes the layer on the sample if there is one.
template <typename T, typename S>
cudaError_t sample(const Sample<T, S>& x, const GatherLayer<T, S>* layer, cudaStream_t stream);
template <typename T, typename S>
cudaError_t sample_backward(const Sample<T, S>& x, cudaStream_t stream);
// Acts, and computes the layer on the actions if there is one.
template <typename T, typename S>
cudaError_t act(const Act<T, S>& x, const GatherLayer<T, S>* layer, int64_t rows, cudaStream_t stream);
template <typename T, typename S>
cudaError_t act_backward(const Act<T, S>& x, int64_t rows, cudaStream_t stream);
template <typename T, typename S>
cudaError_t norm_grad(const NormGrad<T, S>& x, cudaStream_t stream);
// One member a row of member [steps, batch].
cudaError_t draw_members(int64_t* member, int64_t steps, int64_t batch, PhiloxKey key, int64_t members, bool by_row,
                         cudaStream_t stream);

// out [count]: a stream's random words (int64_t), or uniform numbers in (0, 1).
template <typename T>
cudaError_t philox(PhiloxKey key, Stream name, int64_t count, T* out, cudaStream_t stream);

// Instantiated for float, double and BFloat16; meaning as in cpu/cpu_kernels.h.
template <typename T>
cudaError_t lambda_return(const T* reward, const T* value, const T* discount, T* returns, const LambdaReturnShape& shape,
                          cudaStream_t stream);

template <typename T>
cudaError_t lambda_return_backward(const T* grad, const T* value, const T* discount, const T* returns, T* grad_reward,
                                   T* grad_value, T* grad_discount, const LambdaReturnShape& shape, cudaStream_t stream);

}  // namespace moto::cuda
