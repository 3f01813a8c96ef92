// moto::lambda_return and its backward. moto_pl/ops/lambda_return.py has checked the arguments, moto_pl/ops/autograd.py joins the
// two.
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include <tuple>

#include "cpu/cpu_kernels.h"
#include "ops/tensors.h"

#ifdef MOTO_WITH_CUDA
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "cuda/cuda_kernels.h"
#endif

namespace moto {
namespace {

using Gradients = std::tuple<Tensor, Tensor, Tensor>;

// Results are contiguous whatever the inputs' strides; the meta kernels must promise what the real ones give.
Tensor empty_rows(const Tensor& like) { return at::empty_like(like, at::MemoryFormat::Contiguous); }

Tensor lambda_return_meta(const Tensor& reward, const Tensor& value, const Tensor& discount, double lambda) {
  return empty_rows(reward);
}

Gradients lambda_return_backward_meta(const Tensor& grad, const Tensor& value, const Tensor& discount, const Tensor& returns,
                                      double lambda) {
  return {empty_rows(grad), empty_rows(value), empty_rows(discount)};
}

// Calls body(T{}) with the kernels' type T for the tensor's dtype; `Narrow` is the device's bfloat16.
template <typename Narrow, typename Body>
void with_type(const Tensor& tensor, const Body& body) {
  switch (tensor.scalar_type()) {
    case at::kDouble:
      return body(double{});
    case at::kBFloat16:
      return body(Narrow{});
    default:
      return body(float{});
  }
}

// One body for both devices: `forward` and `backward` are the device's kernels, taking pointers and a shape.
template <typename Narrow, typename Kernel>
Tensor run_forward(const Tensor& reward, const Tensor& value, const Tensor& discount, double lambda, const Kernel& kernel) {
  const Tensor r = reward.contiguous(), v = value.contiguous(), d = discount.contiguous(), returns = empty_rows(reward);
  const LambdaReturnShape shape{reward.size(0), reward.size(1), lambda};
  with_type<Narrow>(r, [&](auto zero) {
    using T = decltype(zero);
    kernel(data<T>(r), data<T>(v), data<T>(d), data<T>(returns), shape);
  });
  return returns;
}

template <typename Narrow, typename Kernel>
Gradients run_backward(const Tensor& grad, const Tensor& value, const Tensor& discount, const Tensor& returns, double lambda,
                       const Kernel& kernel) {
  const Tensor g = grad.contiguous(), v = value.contiguous(), d = discount.contiguous(), out = returns.contiguous();
  const Tensor to_reward = empty_rows(grad), to_value = empty_rows(value), to_discount = empty_rows(discount);
  const LambdaReturnShape shape{grad.size(0), grad.size(1), lambda};
  with_type<Narrow>(g, [&](auto zero) {
    using T = decltype(zero);
    kernel(data<T>(g), data<T>(v), data<T>(d), data<T>(out), data<T>(to_reward), data<T>(to_value), data<T>(to_discount), shape);
  });
  return {to_reward, to_value, to_discount};
}

Tensor lambda_return_cpu(const Tensor& reward, const Tensor& value, const Tensor& discount, double lambda) {
  return run_forward<c10::BFloat16>(reward, value, discount, lambda, [](auto... arguments) { cpu::lambda_return(arguments...); });
}

Gradients lambda_return_backward_cpu(const Tensor& grad, const Tensor& value, const Tensor& discount, const Tensor& returns,
                                     double lambda) {
  return run_backward<c10::BFloat16>(grad, value, discount, returns, lambda,
                                     [](auto... arguments) { cpu::lambda_return_backward(arguments...); });
}

#ifdef MOTO_WITH_CUDA
Tensor lambda_return_cuda(const Tensor& reward, const Tensor& value, const Tensor& discount, double lambda) {
  const c10::cuda::CUDAGuard guard(reward.device());
  return run_forward<BFloat16>(reward, value, discount, lambda, [](auto... arguments) {
    C10_CUDA_CHECK(cuda::lambda_return(arguments..., c10::cuda::getCurrentCUDAStream().stream()));
  });
}

Gradients lambda_return_backward_cuda(const Tensor& grad, const Tensor& value, const Tensor& discount, const Tensor& returns,
                                      double lambda) {
  const c10::cuda::CUDAGuard guard(grad.device());
  return run_backward<BFloat16>(grad, value, discount, returns, lambda, [](auto... arguments) {
    C10_CUDA_CHECK(cuda::lambda_return_backward(arguments..., c10::cuda::getCurrentCUDAStream().stream()));
  });
}
#endif

}  // namespace

TORCH_LIBRARY_FRAGMENT(moto, library) {
  library.def("lambda_return(Tensor reward, Tensor value, Tensor discount, float lambda_) -> Tensor", {at::Tag::pt2_compliant_tag});
  library.def(
      "lambda_return_backward(Tensor grad, Tensor value, Tensor discount, Tensor returns, float lambda_)"
      " -> (Tensor, Tensor, Tensor)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(moto, CPU, library) {
  library.impl("lambda_return", lambda_return_cpu);
  library.impl("lambda_return_backward", lambda_return_backward_cpu);
}

#ifdef MOTO_WITH_CUDA
TORCH_LIBRARY_IMPL(moto, CUDA, library) {
  library.impl("lambda_return", lambda_return_cuda);
  library.impl("lambda_return_backward", lambda_return_backward_cuda);
}
#endif

TORCH_LIBRARY_IMPL(moto, Meta, library) {
  library.impl("lambda_return", lambda_return_meta);
  library.impl("lambda_return_backward", lambda_return_backward_meta);
}

TORCH_LIBRARY_IMPL(moto, Autograd, library) {
  // A second derivative raises instead of being silently wrong.
  library.impl("lambda_return_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace moto
