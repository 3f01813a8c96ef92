// Helpers of the operators' drivers: what is the same on every device.
#pragma once

// Not <ATen/ATen.h>, which takes as long to compile as all the rest.
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "kernels/arguments.h"

namespace moto {

using at::Tensor;
using at::TensorList;
using OptionalTensor = std::optional<Tensor>;

template <typename T>
T* data(const Tensor& tensor) {
  return tensor.numel() ? static_cast<T*>(tensor.data_ptr()) : nullptr;
}

template <typename T>
T* data_if(const Tensor& tensor) {
  return tensor.defined() ? data<T>(tensor) : nullptr;
}

template <typename S>
constexpr at::ScalarType kStorage = std::is_same_v<S, BFloat16> ? at::kBFloat16
                                    : std::is_same_v<S, double> ? at::kDouble
                                                                : at::kFloat;

// From LatentSpec.codes of moto_pl/ops/latent.py.
inline LatentShape latent_shape(at::IntArrayRef latent) {
  return {static_cast<Latent>(latent[0]), latent[1], latent[0] == 0 ? latent[2] : 1};
}

// The key of moto_pl/ops/philox.py. `words`, int64 [2], hold it where it lies in the device's memory: a kernel of Device reads them
// there, so that a captured graph draws anew at each replay; on the CPU they are read here.
template <typename Device>
PhiloxKey philox_key(int64_t seed, int64_t offset, const OptionalTensor& words, int64_t first_row = 0, int64_t rows = 0) {
  if (!words || !words->defined()) return {static_cast<uint64_t>(seed), static_cast<uint64_t>(offset), first_row, rows, nullptr};
  TORCH_CHECK(words->scalar_type() == at::kLong && words->dim() == 1 && words->numel() == 2 && words->is_contiguous(),
              "moto: key must be int64 [2], found ", words->scalar_type(), " ", words->sizes());
  const int64_t* read = words->const_data_ptr<int64_t>();
  if (Device::kReadsKeys) return {0, 0, first_row, rows, read};
  return {static_cast<uint64_t>(read[0]), static_cast<uint64_t>(read[1]), first_row, rows, nullptr};
}

// A gradient as backward gets it, contiguous; undefined where there is none.
inline Tensor given(const OptionalTensor& grad) { return grad && grad->defined() ? grad->contiguous() : Tensor(); }

// out = a b, or out += a b; in a's dtype, whatever out's.
inline void product(const Tensor& out, const Tensor& a, const Tensor& b, bool add = false) {
  Tensor target = out;
  if (out.scalar_type() != a.scalar_type()) {
    target.copy_(at::mm(a, b));
  } else if (add) {
    at::addmm_out(target, target, a, b);
  } else {
    at::mm_out(target, a, b);
  }
}

inline void batched_product(const Tensor& out, const Tensor& a, const Tensor& b) {
  Tensor target = out;
  at::bmm_out(target, a, b);
}

// Calls body(T{}, S{}) with the kernels' types.
template <typename Body>
void with_types(const Tensor& tensor, bool bfloat16, const Body& body) {
  if (tensor.scalar_type() == at::kDouble) return body(double{}, double{});
  if (bfloat16) return body(float{}, BFloat16{});
  body(float{}, float{});
}

}  // namespace moto
