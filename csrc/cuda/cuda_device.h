// Runs the kernels on the current CUDA stream.
#pragma once

#include <ATen/ops/sum.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "cuda/cuda_kernels.h"
#include "cuda/scan.h"
#include "ops/tensors.h"

namespace moto::cuda {

template <typename T, typename S>
class Device {
 public:
  using Full = T;
  using Storage = S;
  static constexpr bool kMultipliesInAct = true;               // one launch less
  static constexpr bool kReadsKeys = true;                     // in its own memory, where they are given there
  static constexpr bool kKeepsGradNorm = false;                // computed twice rather than kept in memory
  static constexpr bool kScans = std::is_same_v<S, BFloat16>;  // all steps of observe in one launch, where scan_blocks finds room

  Device(const LatentShape&, int64_t, int64_t, const Tensor&) : stream_(c10::cuda::getCurrentCUDAStream().stream()) {}

  void draw_members(const Tensor& member, PhiloxKey key, int64_t members, bool by_row) const {
    C10_CUDA_CHECK(cuda::draw_members(data<int64_t>(member), member.size(0), member.size(1), key, members, by_row, stream_));
  }
  void gather_layer(const GatherLayer<T, S>& x, int64_t rows) const { C10_CUDA_CHECK(cuda::gather_layer(x, rows, stream_)); }
  void bias_elu(S* values, const T* bias, int64_t units, int64_t batch, int64_t rows) const {
    C10_CUDA_CHECK(cuda::bias_elu(values, bias, units, batch, rows, stream_));
  }
  void elu_backward(S* grad, const S* values, int64_t units, int64_t rows) const {
    C10_CUDA_CHECK(cuda::elu_backward<T>(grad, values, units, rows, stream_));
  }
  void input_backward(const InputGrad<T, S>& x, int64_t rows) const { C10_CUDA_CHECK(cuda::input_backward(x, rows, stream_)); }
  void gru(const Gru<T, S>& x, int64_t rows) const { C10_CUDA_CHECK(cuda::gru(x, rows, stream_)); }
  void gru_backward(const Gru<T, S>& x, int64_t rows) const { C10_CUDA_CHECK(cuda::gru_backward(x, rows, stream_)); }
  void sample(const Sample<T, S>& x, const GatherLayer<T, S>* layer) const { C10_CUDA_CHECK(cuda::sample(x, layer, stream_)); }
  void sample_backward(const Sample<T, S>& x) const { C10_CUDA_CHECK(cuda::sample_backward(x, stream_)); }
  void act(const Act<T, S>& x, const GatherLayer<T, S>* layer, int64_t rows) const {
    C10_CUDA_CHECK(cuda::act(x, layer, rows, stream_));
  }
  void act_backward(const Act<T, S>& x, int64_t rows) const { C10_CUDA_CHECK(cuda::act_backward(x, rows, stream_)); }
  void weight_product(const Tensor& out, const Tensor& grad, const Tensor& operand) const { product(out, grad.t(), operand); }
  void norm_grad(const NormGrad<T, S>& x) const { C10_CUDA_CHECK(cuda::norm_grad(x, stream_)); }
  void column_sums(const Tensor& values, const Tensor& out) const {
    Tensor target = out;
    at::sum_out(target, values, at::IntArrayRef{0}, false, out.scalar_type());
  }

  int64_t scan_blocks(const ScanShape& shape, bool backward) const { return cuda::scan_blocks(shape, backward); }
  void scan(const Scan& x, int64_t blocks) const { C10_CUDA_CHECK(cuda::scan(x, blocks, stream_)); }
  void scan(const ScanBackward& x, int64_t blocks) const { C10_CUDA_CHECK(cuda::scan_backward(x, blocks, stream_)); }

 private:
  cudaStream_t stream_;
};

}  // namespace moto::cuda
