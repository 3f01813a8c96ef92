// Schemas, checks and registrations of the moto:: operators.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <tuple>

#include "cpu/lambda_return.h"
#include "rollout.h"

#ifdef MOTO_WITH_CUDA
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "cuda/lambda_return.h"
#endif

namespace moto {
namespace {

using Gradients = std::tuple<Tensor, Tensor, Tensor>;

// Symbolic sizes throughout: the same checks serve real and fake tensors.
void check_like(const char* name, const Tensor& tensor, const char* other_name, const Tensor& other, const c10::SymInt& rows) {
  TORCH_CHECK(tensor.dim() == 2, "moto::lambda_return: ", name, " must be [steps, batch], found shape ", tensor.sym_sizes());
  TORCH_CHECK(tensor.scalar_type() == other.scalar_type(), "moto::lambda_return: ", name, " must have ", other_name, "'s dtype ",
              other.scalar_type(), ", found ", tensor.scalar_type());
  TORCH_CHECK(tensor.device() == other.device(), "moto::lambda_return: ", name, " must be on ", other_name, "'s device ",
              other.device(), ", found ", tensor.device());
  TORCH_CHECK(tensor.sym_size(0) == rows && tensor.sym_size(1) == other.sym_size(1), "moto::lambda_return: ", name,
              " must have shape [", rows, ", ", other.sym_size(1), "], found ", tensor.sym_sizes());
}

void check(const Tensor& reward, const Tensor& value, const Tensor& discount) {
  TORCH_CHECK(reward.dim() == 2, "moto::lambda_return: reward must be [steps, batch], found shape ", reward.sym_sizes());
  const auto dtype = reward.scalar_type();
  TORCH_CHECK(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16,
              "moto::lambda_return: reward must be float32, float64 or bfloat16, found ", dtype);
  check_like("value", value, "reward", reward, reward.sym_size(0) + 1);
  check_like("discount", discount, "reward", reward, reward.sym_size(0));
}

void check_backward(const Tensor& grad, const Tensor& value, const Tensor& discount, const Tensor& returns) {
  check(grad, value, discount);
  check_like("returns", returns, "grad", grad, grad.sym_size(0));
}

// Results are contiguous whatever the inputs' strides; the meta kernels must promise what the real ones give.
Tensor empty_rows(const Tensor& like) { return at::empty_like(like, at::MemoryFormat::Contiguous); }

Tensor lambda_return_meta(const Tensor& reward, const Tensor& value, const Tensor& discount, double lambda) {
  check(reward, value, discount);
  return empty_rows(reward);
}

Gradients lambda_return_backward_meta(const Tensor& grad, const Tensor& value, const Tensor& discount, const Tensor& returns,
                                      double lambda) {
  check_backward(grad, value, discount, returns);
  return {empty_rows(grad), empty_rows(value), empty_rows(discount)};
}

// Calls body(T{}) with the kernels' type T for the tensor's dtype, which check() has admitted.
template <typename BFloat16, typename Body>
void with_type(const Tensor& tensor, const Body& body) {
  switch (tensor.scalar_type()) {
    case at::kDouble:
      return body(double{});
    case at::kBFloat16:
      return body(BFloat16{});
    default:
      return body(float{});
  }
}

template <typename T>
const T* read(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* write(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// One body for both devices: `forward` and `backward` are the device's kernels, taking pointers and a shape.
template <typename BFloat16, typename Kernel>
Tensor run_forward(const Tensor& reward, const Tensor& value, const Tensor& discount, double lambda, const Kernel& kernel) {
  check(reward, value, discount);
  const Tensor r = reward.contiguous(), v = value.contiguous(), d = discount.contiguous(), returns = empty_rows(reward);
  const LambdaReturnShape shape{reward.size(0), reward.size(1), lambda};
  with_type<BFloat16>(r, [&](auto zero) {
    using T = decltype(zero);
    kernel(read<T>(r), read<T>(v), read<T>(d), write<T>(returns), shape);
  });
  return returns;
}

template <typename BFloat16, typename Kernel>
Gradients run_backward(const Tensor& grad, const Tensor& value, const Tensor& discount, const Tensor& returns, double lambda,
                       const Kernel& kernel) {
  check_backward(grad, value, discount, returns);
  const Tensor g = grad.contiguous(), v = value.contiguous(), d = discount.contiguous(), out = returns.contiguous();
  const Tensor to_reward = empty_rows(grad), to_value = empty_rows(value), to_discount = empty_rows(discount);
  const LambdaReturnShape shape{grad.size(0), grad.size(1), lambda};
  with_type<BFloat16>(g, [&](auto zero) {
    using T = decltype(zero);
    kernel(read<T>(g), read<T>(v), read<T>(d), read<T>(out), write<T>(to_reward), write<T>(to_value), write<T>(to_discount),
           shape);
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
  return run_forward<Half>(reward, value, discount, lambda, [](auto... arguments) {
    C10_CUDA_CHECK(cuda::lambda_return(arguments..., c10::cuda::getCurrentCUDAStream().stream()));
  });
}

Gradients lambda_return_backward_cuda(const Tensor& grad, const Tensor& value, const Tensor& discount, const Tensor& returns,
                                      double lambda) {
  const c10::cuda::CUDAGuard guard(grad.device());
  return run_backward<Half>(grad, value, discount, returns, lambda, [](auto... arguments) {
    C10_CUDA_CHECK(cuda::lambda_return_backward(arguments..., c10::cuda::getCurrentCUDAStream().stream()));
  });
}
#endif

Tensor call_forward(const Tensor& reward, const Tensor& value, const Tensor& discount, double lambda) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow(MOTO_OPERATOR("lambda_return"), "")
                             .typed<Tensor(const Tensor&, const Tensor&, const Tensor&, double)>();
  return op.call(reward, value, discount, lambda);
}

// Through the dispatcher, so that tracing and fake tensors see the backward pass as one operator.
Gradients call_backward(const Tensor& grad, const Tensor& value, const Tensor& discount, const Tensor& returns, double lambda) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow(MOTO_OPERATOR("lambda_return_backward"), "")
                             .typed<Gradients(const Tensor&, const Tensor&, const Tensor&, const Tensor&, double)>();
  return op.call(grad, value, discount, returns, lambda);
}

class LambdaReturn : public torch::autograd::Function<LambdaReturn> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& reward, const Tensor& value,
                        const Tensor& discount, double lambda) {
    const at::AutoDispatchBelowADInplaceOrView below;
    Tensor returns = call_forward(reward, value, discount, lambda);
    context->save_for_backward({value, discount, returns});
    context->saved_data["lambda"] = lambda;
    return returns;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = context->get_saved_variables();
    auto [reward, value, discount] =
        call_backward(grads[0], saved[0], saved[1], saved[2], context->saved_data["lambda"].toDouble());
    return {reward, value, discount, Tensor()};
  }
};

Tensor lambda_return_autograd(const Tensor& reward, const Tensor& value, const Tensor& discount, double lambda) {
  return LambdaReturn::apply(reward, value, discount, lambda);
}

}  // namespace

TORCH_LIBRARY(moto, library) {
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
  library.impl("lambda_return", lambda_return_autograd);
  // A second derivative raises instead of being silently wrong.
  library.impl("lambda_return_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace moto
