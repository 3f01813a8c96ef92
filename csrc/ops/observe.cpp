// moto::observe and its backward, for a `Device` (cpu/cpu_device.h, cuda/cuda_device.h). moto_pl/ops/observe.py has checked the
// arguments, moto_pl/ops/autograd.py joins the two.
//
// The scan over T steps alone. What actions and embeddings contribute comes in as `from_action` and `from_embed`, products over all
// steps at once; weight gradients are products over all steps after the scan.
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include <array>
#include <tuple>
#include <vector>

#include "cpu/cpu_device.h"
#ifdef MOTO_WITH_CUDA
#include "cuda/cuda_device.h"
#endif

namespace moto {
namespace {

// deter [T, B, D], stoch [T, B, Z], params [T, B, P]; then what backward needs (empty unless `save`): inputs [T, B, V + D], the
// GRU's operand; parts [T, B, 3D]; stats [T, B, 2]; hidden [T, B, U].
using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
// from_action, from_embed, deter, stoch, and the seven weights.
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

enum Weight { kStoch, kGru, kNormWeight, kNormBias, kDeter, kOut, kOutBias };

Outputs allocate(const Tensor& from_action, const Tensor& from_embed, const Tensor& deter, const LatentShape& latent, bool bfloat16,
                 bool save) {
  const auto options = deter.options(), storage = bfloat16 ? options.dtype(at::kBFloat16) : options;
  const c10::SymInt T = from_action.sym_size(0), B = deter.sym_size(0), D = deter.sym_size(1);
  const c10::SymInt V = from_action.sym_size(2), U = from_embed.sym_size(2), S = save ? T : c10::SymInt(0);
  const auto make = [&](const at::TensorOptions& o, std::vector<c10::SymInt> sizes) { return at::empty_symint(sizes, o); };
  return {make(options, {T, B, D}),     make(options, {T, B, latent.size()}), make(options, {T, B, latent.params()}),
          make(storage, {S, B, V + D}), make(storage, {S, B, 3 * D}),         make(options, {S, B, 2}),
          make(storage, {S, B, U})};
}

Outputs observe_meta(const Tensor& from_action, const Tensor& from_embed, const Tensor& is_first, const Tensor& deter,
                     const Tensor& stoch, TensorList weights, at::IntArrayRef latent, int64_t seed, c10::SymInt offset,
                     const OptionalTensor& words, int64_t first_row, int64_t rows, bool bfloat16, bool save) {
  const LatentShape shape = latent_shape(latent);
  return allocate(from_action, from_embed, deter, shape, bfloat16, save);
}

// `saved`: is_first, start deter, start stoch, then observe's outputs.
Gradients empty_gradients(TensorList saved, TensorList weights) {
  const Tensor &deter = saved[1], &rollout = saved[3], &hidden = saved[9];
  const c10::SymInt T = rollout.sym_size(0), B = rollout.sym_size(1), V = weights[kStoch].sym_size(0);
  const auto like = [](const Tensor& tensor) { return at::empty_symint(tensor.sym_sizes(), tensor.options()); };
  return {at::empty_symint({T, B, V}, deter.options()),
          at::empty_symint({T, B, hidden.sym_size(2)}, deter.options()),
          like(deter),
          like(saved[2]),
          like(weights[0]),
          like(weights[1]),
          like(weights[2]),
          like(weights[3]),
          like(weights[4]),
          like(weights[5]),
          like(weights[6])};
}

Gradients observe_backward_meta(const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, TensorList saved,
                                TensorList weights, at::IntArrayRef, int64_t, c10::SymInt, const OptionalTensor&, int64_t, int64_t,
                                bool) {
  return empty_gradients(saved, weights);
}

template <typename Device>
void forward(const Outputs& outputs, const Tensor& from_action, const Tensor& from_embed, const Tensor& is_first,
             const Tensor& start_deter, const Tensor& start_stoch, TensorList weights, const LatentShape& z_shape, PhiloxKey key,
             bool save) {
  using T = typename Device::Full;
  using S = typename Device::Storage;
  const int64_t steps = from_action.size(0), B = start_deter.size(0), D = start_deter.size(1), P = z_shape.params();
  const int64_t V = from_action.size(2), U = from_embed.size(2);
  if (steps == 0) return;
  const bool categorical = z_shape.kind == Latent::categorical;
  const auto full = start_deter.options(), storage = full.dtype(kStorage<S>);
  const bool copies = kStorage<S> != start_deter.scalar_type();  // the products' operands are copies
  const Device device(z_shape, 1, B, start_deter);
  const auto& [deter, stoch, params, inputs_saved, parts_saved, stats_saved, hidden_saved] = outputs;
  const int64_t slots = save ? steps : 1;
  const auto slot = [&](int64_t t) { return save ? t : 0; };
  const Tensor inputs = save ? inputs_saved : at::empty({slots, B, V + D}, storage);
  const Tensor parts = save ? parts_saved : at::empty({slots, B, 3 * D}, storage);
  const Tensor stats = save ? stats_saved : at::empty({slots, B, 2}, full);
  const Tensor hidden = save ? hidden_saved : at::empty({slots, B, U}, storage);

  const auto cast = [&](const Tensor& tensor) { return tensor.to(kStorage<S>); };
  const Tensor stoch_weight = cast(weights[kStoch]).t().contiguous(), gru_t = cast(weights[kGru]).t();
  const Tensor deter_t = cast(weights[kDeter]).t(), out_t = cast(weights[kOut]).t();
  const Tensor norm_weight = weights[kNormWeight].contiguous(), norm_bias = weights[kNormBias].contiguous();
  const Tensor out_bias = weights[kOutBias].contiguous(), actions = from_action.contiguous(), embeds = from_embed.contiguous();
  const Tensor first = is_first.contiguous(), before = start_deter.contiguous();

  const Tensor index = at::empty({B, z_shape.stoch}, full.dtype(at::kInt)), state = at::empty({copies ? B : 0, D}, storage);
  const Tensor product_x = at::empty({B, V}, storage), product_hidden = at::empty({B, U}, storage);
  const Tensor product_params = at::empty({B, P}, storage);
  const Tensor stoch_copy = at::empty({!categorical && copies ? B : 0, z_shape.size()}, storage);

  // The input layer of step t, behind its product where there is one; `gathers`: on a one-hot latent.
  const auto input_layer = [&](int64_t t, bool gathers) {
    GatherLayer<T, S> layer{};
    layer.product = gathers ? nullptr : data<S>(product_x), layer.addend = data<T>(actions.select(0, t));
    layer.out = data<S>(inputs.select(0, slot(t))), layer.stride = V + D, layer.units = V;
    layer.is_first = data<bool>(first.select(0, t));
    if (gathers) layer.index = data<int32_t>(index), layer.table = data<S>(stoch_weight), layer.stoch = z_shape.stoch;
    return layer;
  };

  inputs.select(0, 0).narrow(1, V, D).copy_(before.mul(first.select(0, 0).logical_not().unsqueeze(-1)));
#ifdef MOTO_WITH_CUDA
  if constexpr (Device::kScans) {
    const cuda::ScanShape shape{steps, B, D, V, U, z_shape};
    const int64_t blocks = save ? device.scan_blocks(shape, false) : 0;
    if (blocks > 0) {
      product(product_x, cast(start_stoch), stoch_weight);
      const Tensor states = at::empty({steps, B, D}, storage), logits = at::empty({steps, B, P}, storage);
      const Tensor gru_weight = cast(weights[kGru]).contiguous(), deter_weight = cast(weights[kDeter]).contiguous();
      const Tensor out_weight = cast(weights[kOut]).contiguous(), arrived = at::zeros({1}, full.dtype(at::kInt));
      device.scan(cuda::Scan{shape,
                             key,
                             data<S>(product_x),
                             data<T>(actions),
                             data<T>(embeds),
                             data<bool>(first),
                             data<T>(before),
                             data<S>(stoch_weight),
                             data<S>(gru_weight),
                             data<S>(deter_weight),
                             data<S>(out_weight),
                             data<T>(norm_weight),
                             data<T>(norm_bias),
                             data<T>(out_bias),
                             data<T>(deter),
                             data<T>(stoch),
                             data<T>(params),
                             data<T>(stats),
                             data<S>(inputs),
                             data<S>(parts),
                             data<S>(hidden),
                             data<int32_t>(index),
                             data<S>(states),
                             data<S>(logits),
                             data<unsigned>(arrived)},
                  blocks);
      return;
    }
  }
#endif
  for (int64_t t = 0; t < steps; ++t) {
    const Tensor operand = inputs.select(0, slot(t)), parts_now = parts.select(0, slot(t)), hidden_now = hidden.select(0, slot(t));
    if (t == 0 || !categorical) {
      product(product_x, t == 0 ? cast(start_stoch) : copies ? stoch_copy : stoch.select(0, t - 1), stoch_weight);
      device.gather_layer(input_layer(t, false), B);
    }
    product(parts_now, operand, gru_t);
    Gru<T, S> gru{};
    gru.parts = data<S>(parts_now), gru.norm_weight = data<T>(norm_weight), gru.norm_bias = data<T>(norm_bias);
    gru.previous = data<T>(t == 0 ? before : deter.select(0, t - 1)), gru.is_first = data<bool>(first.select(0, t));
    gru.stats = data<T>(stats.select(0, slot(t))), gru.deter = D, gru.out = data<T>(deter.select(0, t));
    gru.operand = data<S>(state), gru.stride = D;
    if (t + 1 < steps) {
      gru.next = data<S>(inputs.select(0, slot(t + 1))) + V, gru.next_stride = V + D;
      gru.next_first = data<bool>(first.select(0, t + 1));
    }
    device.gru(gru, B);

    product(product_hidden, copies ? state : deter.select(0, t), deter_t);
    GatherLayer<T, S> head{};
    head.product = data<S>(product_hidden), head.addend = data<T>(embeds.select(0, t)), head.out = data<S>(hidden_now);
    head.stride = head.units = U;
    device.gather_layer(head, B);
    product(product_params, hidden_now, out_t);
    Sample<T, S> draw{};
    draw.latent = z_shape, draw.members = 1, draw.batch = B, draw.params = data<S>(product_params), draw.bias = data<T>(out_bias);
    draw.key = key, draw.first = key.row(t, B) * z_shape.stoch, draw.z = data<T>(stoch.select(0, t)),
    draw.operand = data<S>(stoch_copy);
    draw.index = data<int32_t>(index), draw.full = data<T>(params.select(0, t));
    if (categorical && t + 1 < steps) {
      const GatherLayer<T, S> layer = input_layer(t + 1, true);
      device.sample(draw, &layer);
    } else {
      device.sample(draw, nullptr);
    }
  }
}

template <typename Device>
void backward(const OptionalTensor& grad_deter, const OptionalTensor& grad_stoch, const OptionalTensor& grad_params,
              TensorList saved, TensorList weights, const Gradients& gradients, const LatentShape& z_shape, PhiloxKey key) {
  using T = typename Device::Full;
  using S = typename Device::Storage;
  const auto cast = [&](const Tensor& tensor) { return tensor.to(kStorage<S>); };
  const Tensor first = saved[0].contiguous(), start_deter = saved[1].contiguous(), start_stoch = saved[2], deter = saved[3],
               stoch = saved[4], params = cast(saved[5]), inputs = saved[6], parts = saved[7], stats = saved[8], hidden = saved[9];
  const int64_t steps = deter.size(0), B = deter.size(1), D = deter.size(2), Z = z_shape.size(), P = z_shape.params();
  const int64_t V = weights[kStoch].size(0), U = hidden.size(2), rows = steps * B;
  const auto full = deter.options(), storage = full.dtype(kStorage<S>);
  const Device device(z_shape, 1, B, deter);
  const Tensor to_deter = given(grad_deter), to_stoch = given(grad_stoch), to_params = given(grad_params);
  const auto now = [](const Tensor& grad, int64_t t) { return grad.defined() ? data<T>(grad.select(0, t)) : nullptr; };
  const Tensor stoch_weight = cast(weights[kStoch]), gru_weight = cast(weights[kGru]), deter_weight = cast(weights[kDeter]),
               out_weight = cast(weights[kOut]);
  const Tensor norm_weight = weights[kNormWeight].contiguous(), norm_bias = weights[kNormBias].contiguous();
  const Tensor no_bias = at::zeros({P}, full);

  const Tensor grad_h = at::zeros({B, D}, full);
  Tensor grad_z = at::zeros({B, Z}, storage);
  const Tensor grad_logits = at::empty({steps, B, P}, storage), grad_hidden = at::empty({steps, B, U}, storage);
  const Tensor grad_parts = at::empty({steps, B, 3 * D}, storage), grad_inputs = at::empty({steps, B, V + D}, storage);
  const Tensor grad_norm = at::empty({steps, B, 3 * D}, full);
  int64_t blocks = 0;
#ifdef MOTO_WITH_CUDA
  if constexpr (Device::kScans) {
    const cuda::ScanShape shape{steps, B, D, V, U, z_shape};
    blocks = device.scan_blocks(shape, true);
    if (blocks > 0) {
      const Tensor all_z = at::empty({steps, B, Z}, storage), heads = at::empty({steps, B, D}, storage);
      const auto transposed = [](const Tensor& weight) { return weight.t().contiguous(); };
      const Tensor out_t = transposed(out_weight), deter_t = transposed(deter_weight), gru_t = transposed(gru_weight);
      const Tensor stoch_t = transposed(stoch_weight), arrived = at::zeros({1}, full.dtype(at::kInt));
      device.scan(cuda::ScanBackward{shape,
                                     data<bool>(first),
                                     data<T>(start_deter),
                                     data<T>(deter),
                                     data<T>(stoch),
                                     data<T>(stats),
                                     data<T>(norm_weight),
                                     data<T>(norm_bias),
                                     data<T>(no_bias),
                                     data<S>(params),
                                     data<S>(inputs),
                                     data<S>(parts),
                                     data<S>(hidden),
                                     data<S>(out_t),
                                     data<S>(deter_t),
                                     data<S>(gru_t),
                                     data<S>(stoch_t),
                                     data_if<T>(to_deter),
                                     data_if<T>(to_stoch),
                                     data_if<T>(to_params),
                                     data<T>(grad_h),
                                     data<S>(all_z),
                                     data<S>(grad_logits),
                                     data<S>(grad_hidden),
                                     data<S>(heads),
                                     data<S>(grad_parts),
                                     data<S>(grad_inputs),
                                     data<T>(grad_norm),
                                     data<unsigned>(arrived)},
                  blocks);
      grad_z = all_z.select(0, 0);
    }
  }
#endif
  const Tensor grad_head = at::empty({B, D}, storage);
  for (int64_t t = steps - 1; t >= 0 && blocks == 0; --t) {
    const Tensor logits_now = grad_logits.select(0, t), hidden_now = grad_hidden.select(0, t),
                 inputs_now = grad_inputs.select(0, t);
    const Tensor parts_now = grad_parts.select(0, t);
    Sample<T, S> draw{};
    draw.latent = z_shape, draw.members = 1, draw.batch = B, draw.params = data<S>(params.select(0, t)),
    draw.bias = data<T>(no_bias);
    draw.key = key, draw.first = key.row(t, B) * z_shape.stoch, draw.z = data<T>(stoch.select(0, t));
    draw.grad_z = data<S>(grad_z), draw.forgotten = t + 1 < steps ? data<bool>(first.select(0, t + 1)) : nullptr;
    draw.grad_extra = now(to_stoch, t), draw.grad_full = now(to_params, t), draw.grad_params = data<S>(logits_now);
    device.sample_backward(draw);
    product(hidden_now, logits_now, out_weight);
    device.elu_backward(data<S>(hidden_now), data<S>(hidden.select(0, t)), U, B);
    product(grad_head, hidden_now, deter_weight);
    Gru<T, S> gru{};
    gru.parts = data<S>(parts.select(0, t)), gru.norm_weight = data<T>(norm_weight), gru.norm_bias = data<T>(norm_bias);
    gru.previous = data<T>(t == 0 ? start_deter : deter.select(0, t - 1)), gru.is_first = data<bool>(first.select(0, t));
    gru.stats = data<T>(stats.select(0, t)), gru.deter = D, gru.grad = data<T>(grad_h);
    gru.grad_heads = data<S>(grad_head), gru.heads = 1, gru.batch = B, gru.grad_extra = now(to_deter, t);
    gru.grad_parts = data<S>(parts_now), gru.grad_norm = data<T>(grad_norm.select(0, t));
    device.gru_backward(gru, B);
    product(inputs_now, parts_now, gru_weight);
    InputGrad<T, S> input{};
    input.grad = data<S>(inputs_now), input.inputs = data<S>(inputs.select(0, t)), input.units = V, input.deter = D;
    input.grad_deter = data<T>(grad_h), input.is_first = gru.is_first;
    device.input_backward(input, B);
    product(grad_z, inputs_now.narrow(1, 0, V), stoch_weight);
  }

  const auto& [to_from_action, to_from_embed, to_start_deter, to_start_stoch, to_stoch_weight, to_gru, to_norm_weight, to_norm_bias,
               to_deter_weight, to_out, to_out_bias] = gradients;
  to_start_deter.copy_(grad_h);
  to_start_stoch.copy_(grad_z);
  const Tensor logits = grad_logits.view({rows, P}), heads = grad_hidden.view({rows, U}), gates = grad_parts.view({rows, 3 * D});
  const Tensor layer = grad_inputs.view({rows, V + D}).narrow(1, 0, V);
  to_from_action.view({rows, V}).copy_(layer);
  to_from_embed.view({rows, U}).copy_(heads);
  Tensor z_before = at::empty({steps, B, Z}, storage);
  if (steps > 0) {
    to_start_stoch.mul_(first.select(0, 0).logical_not().unsqueeze(-1));
    z_before.select(0, 0).copy_(start_stoch);
    z_before.narrow(0, 1, steps - 1).copy_(stoch.narrow(0, 0, steps - 1));
    z_before.mul_(first.logical_not().unsqueeze(-1));
  }
  device.weight_product(to_stoch_weight, layer, z_before.view({rows, Z}));
  device.weight_product(to_gru, gates, inputs.view({rows, V + D}));
  device.weight_product(to_deter_weight, heads, cast(deter.view({rows, D})));
  device.weight_product(to_out, logits, hidden.view({rows, U}));
  device.column_sums(logits, to_out_bias);
  device.norm_grad(
      {data<S>(parts), data<T>(stats), data<T>(grad_norm), rows, 3 * D, data<T>(to_norm_weight), data<T>(to_norm_bias)});
}

// The implementations of both operators for one kind of device.
template <template <typename, typename> typename Device>
Outputs observe_on(const Tensor& from_action, const Tensor& from_embed, const Tensor& is_first, const Tensor& deter,
                   const Tensor& stoch, TensorList weights, at::IntArrayRef latent, int64_t seed, int64_t offset,
                   const OptionalTensor& words, int64_t first_row, int64_t rows, bool bfloat16, bool save) {
  // Autocast has been settled by `bfloat16`: the products here are in the dtype that they are given in.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const c10::OptionalDeviceGuard guard(deter.device());
  const LatentShape shape = latent_shape(latent);
  const Outputs outputs = allocate(from_action, from_embed, deter, shape, bfloat16, save);
  with_types(deter, bfloat16, [&](auto t, auto s) {
    using On = Device<decltype(t), decltype(s)>;
    forward<On>(outputs, from_action, from_embed, is_first, deter, stoch, weights, shape,
                philox_key<On>(seed, offset, words, first_row, rows), save);
  });
  return outputs;
}

template <template <typename, typename> typename Device>
Gradients observe_backward_on(const OptionalTensor& grad_deter, const OptionalTensor& grad_stoch, const OptionalTensor& grad_params,
                              TensorList saved, TensorList weights, at::IntArrayRef latent, int64_t seed, int64_t offset,
                              const OptionalTensor& words, int64_t first_row, int64_t rows, bool bfloat16) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const c10::OptionalDeviceGuard guard(saved[1].device());
  const Gradients gradients = empty_gradients(saved, weights);
  with_types(saved[1], bfloat16, [&](auto t, auto s) {
    using On = Device<decltype(t), decltype(s)>;
    backward<On>(grad_deter, grad_stoch, grad_params, saved, weights, gradients, latent_shape(latent),
                 philox_key<On>(seed, offset, words, first_row, rows));
  });
  return gradients;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(moto, library) {
  library.def(
      "observe(Tensor from_action, Tensor from_embed, Tensor is_first, Tensor deter, Tensor stoch, Tensor[] weights, int[] latent,"
      " int seed, SymInt offset, Tensor? key, int first_row, int rows, bool bfloat16, bool save) -> (Tensor deter_out, Tensor "
      "stoch_out, Tensor params, "
      "Tensor inputs,"
      " Tensor parts, Tensor stats, Tensor hidden)",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "observe_backward(Tensor? grad_deter, Tensor? grad_stoch, Tensor? grad_params, Tensor[] saved, Tensor[] weights,"
      " int[] latent, int seed, SymInt offset, Tensor? key, int first_row, int rows, bool bfloat16) -> (Tensor from_action, Tensor "
      "from_embed, Tensor "
      "deter, Tensor "
      "stoch,"
      " Tensor stoch_weight, Tensor gru_weight, Tensor norm_weight, Tensor norm_bias, Tensor deter_weight, Tensor out_weight,"
      " Tensor out_bias)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(moto, CPU, library) {
  library.impl("observe", observe_on<cpu::Device>);
  library.impl("observe_backward", observe_backward_on<cpu::Device>);
}

#ifdef MOTO_WITH_CUDA
TORCH_LIBRARY_IMPL(moto, CUDA, library) {
  library.impl("observe", observe_on<cuda::Device>);
  library.impl("observe_backward", observe_backward_on<cuda::Device>);
}
#endif

TORCH_LIBRARY_IMPL(moto, Meta, library) {
  library.impl("observe", observe_meta);
  library.impl("observe_backward", observe_backward_meta);
}

TORCH_LIBRARY_IMPL(moto, Autograd, library) {
  // A second derivative raises instead of being silently wrong.
  library.impl("observe_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace moto
