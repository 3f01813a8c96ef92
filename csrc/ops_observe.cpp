// moto::observe and its backward: schemas, checks, CPU implementation, registrations.
//
// The scan over T steps alone. What actions and embeddings contribute comes in as `from_action` and `from_embed`, products over all
// steps at once; weight gradients are products over all steps after the scan.
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <tuple>
#include <vector>

#include "cpu/rollout.h"

namespace moto {
namespace {

using at::Tensor;
using at::TensorList;
using OptionalTensor = std::optional<Tensor>;

// deter [T, B, D], stoch [T, B, Z], params [T, B, P]; then what backward needs (empty unless `save`): inputs [T, B, V + D], the GRU's
// operand; parts [T, B, 3D]; stats [T, B, 2]; hidden [T, B, U].
using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
// from_action, from_embed, deter, stoch, and the seven weights.
constexpr size_t kGradients = 11;
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

enum Weight { kStoch, kGru, kNormWeight, kNormBias, kDeter, kOut, kOutBias };

LatentShape latent_shape(at::IntArrayRef latent) {
  TORCH_CHECK(latent.size() == 3 && (latent[0] == 0 || latent[0] == 1) && latent[1] > 0 && latent[2] > 0,
              "moto::observe: latent must be [0 (categorical) or 1 (Gaussian), variables, classes], found ", latent);
  return {static_cast<Latent>(latent[0]), latent[1], latent[0] == 0 ? latent[2] : 1};
}

LatentShape check(const Tensor& from_action, const Tensor& from_embed, const Tensor& is_first, const Tensor& deter,
                  const Tensor& stoch, TensorList weights, at::IntArrayRef latent, bool half) {
  const auto dtype = deter.scalar_type();
  TORCH_CHECK(deter.dim() == 2, "moto::observe: deter must be [batch, deter], found shape ", deter.sym_sizes());
  TORCH_CHECK(dtype == at::kFloat || dtype == at::kDouble, "moto::observe: deter must be float32 or float64, found ", dtype);
  TORCH_CHECK(!half || dtype == at::kFloat, "moto::observe: half needs float32 states, found ", dtype);
  TORCH_CHECK(from_action.dim() == 3, "moto::observe: from_action must be [steps, batch, units], found shape ",
              from_action.sym_sizes());
  TORCH_CHECK(from_embed.dim() == 3, "moto::observe: from_embed must be [steps, batch, units], found shape ",
              from_embed.sym_sizes());
  TORCH_CHECK(weights.size() == 7, "moto::observe: weights must be 7 tensors, found ", weights.size());
  const LatentShape shape = latent_shape(latent);
  const auto expect = [&](const char* name, const Tensor& tensor, std::vector<c10::SymInt> sizes, at::ScalarType wanted) {
    TORCH_CHECK(tensor.sym_sizes() == c10::SymIntArrayRef(sizes), "moto::observe: ", name, " must have shape ",
                c10::SymIntArrayRef(sizes), ", found ", tensor.sym_sizes());
    TORCH_CHECK(tensor.scalar_type() == wanted, "moto::observe: ", name, " must have dtype ", wanted, ", found ",
                tensor.scalar_type());
    TORCH_CHECK(tensor.device() == deter.device(), "moto::observe: ", name, " must be on deter's device ", deter.device(),
                ", found ", tensor.device());
  };
  const c10::SymInt B = deter.sym_size(0), D = deter.sym_size(1), Z = shape.size(), P = shape.params();
  const c10::SymInt T = from_action.sym_size(0), V = from_action.sym_size(2), U = from_embed.sym_size(2);
  expect("from_action", from_action, {T, B, V}, dtype);
  expect("from_embed", from_embed, {T, B, U}, dtype);
  expect("is_first", is_first, {T, B}, at::kBool);
  expect("stoch", stoch, {B, Z}, dtype);
  expect("stoch_weight", weights[kStoch], {V, Z}, dtype);
  expect("gru_weight", weights[kGru], {3 * D, V + D}, dtype);
  expect("norm_weight", weights[kNormWeight], {3 * D}, dtype);
  expect("norm_bias", weights[kNormBias], {3 * D}, dtype);
  expect("deter_weight", weights[kDeter], {U, D}, dtype);
  expect("out_weight", weights[kOut], {P, U}, dtype);
  expect("out_bias", weights[kOutBias], {P}, dtype);
  return shape;
}

Outputs allocate(const Tensor& from_action, const Tensor& from_embed, const Tensor& deter, const LatentShape& latent, bool half,
                 bool save) {
  const auto options = deter.options(), storage = half ? options.dtype(at::kBFloat16) : options;
  const c10::SymInt T = from_action.sym_size(0), B = deter.sym_size(0), D = deter.sym_size(1);
  const c10::SymInt V = from_action.sym_size(2), U = from_embed.sym_size(2), S = save ? T : c10::SymInt(0);
  const auto make = [&](const at::TensorOptions& o, std::vector<c10::SymInt> sizes) { return at::empty_symint(sizes, o); };
  return {make(options, {T, B, D}),       make(options, {T, B, latent.size()}), make(options, {T, B, latent.params()}),
          make(storage, {S, B, V + D}), make(storage, {S, B, 3 * D}),         make(options, {S, B, 2}),
          make(storage, {S, B, U})};
}

Outputs observe_meta(const Tensor& from_action, const Tensor& from_embed, const Tensor& is_first, const Tensor& deter,
                     const Tensor& stoch, TensorList weights, at::IntArrayRef latent, int64_t seed, c10::SymInt offset,
                     bool half, bool save) {
  const LatentShape shape = check(from_action, from_embed, is_first, deter, stoch, weights, latent, half);
  return allocate(from_action, from_embed, deter, shape, half, save);
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
                                TensorList weights, at::IntArrayRef, int64_t, c10::SymInt, bool) {
  return empty_gradients(saved, weights);
}

template <typename T, typename S>
void forward(const Outputs& outputs, const Tensor& from_action, const Tensor& from_embed, const Tensor& is_first,
             const Tensor& start_deter, const Tensor& start_stoch, TensorList weights, const LatentShape& z_shape, int64_t seed,
             int64_t offset, bool save) {
  using namespace cpu;
  const auto& kernel = kernels<T, S>();
  const int64_t steps = from_action.size(0), B = start_deter.size(0), D = start_deter.size(1), P = z_shape.params();
  const int64_t V = from_action.size(2), U = from_embed.size(2);
  const bool categorical = z_shape.kind == Latent::categorical;
  const PhiloxKey key{static_cast<uint64_t>(seed), static_cast<uint64_t>(offset)};
  const auto full = start_deter.options(), storage = full.dtype(kStorage<S>);
  const auto& [deter, stoch, params, inputs_saved, parts_saved, stats_saved, hidden_saved] = outputs;
  const int64_t slots = save ? steps : 1;
  const Tensor inputs = save ? inputs_saved : at::empty({slots, B, V + D}, storage);
  const Tensor parts = save ? parts_saved : at::empty({slots, B, 3 * D}, storage);
  const Tensor stats = save ? stats_saved : at::empty({slots, B, 2}, full);
  const Tensor hidden = save ? hidden_saved : at::empty({slots, B, U}, storage);

  const auto cast = [&](const Tensor& weight) { return weight.to(kStorage<S>); };
  const Tensor stoch_weight = cast(weights[kStoch]).t().contiguous(), gru_t = cast(weights[kGru]).t();
  const Tensor deter_t = cast(weights[kDeter]).t(), out_t = cast(weights[kOut]).t();
  const Tensor norm_weight = weights[kNormWeight].contiguous(), norm_bias = weights[kNormBias].contiguous();
  const Tensor out_bias = weights[kOutBias].contiguous(), actions = from_action.contiguous(), embeds = from_embed.contiguous();
  const Tensor first = is_first.contiguous(), keep = first.logical_not().unsqueeze(-1);  // [T, B, 1]

  const Tensor index = at::empty({B, z_shape.stoch}, at::kInt), noise = at::empty({B, z_shape.stoch}, full);
  const Tensor member = at::zeros({B}, at::kLong), state = at::empty({B, D}, storage), product_x = at::empty({B, V}, storage);
  const Tensor product_hidden = at::empty({B, U}, storage), product_params = at::empty({B, P}, storage);
  const Tensor scratch = make_scratch<T>(z_shape, 1, start_deter);
  const Tensor before = start_deter.contiguous();
  for (int64_t t = 0; t < steps; ++t) {
    const int64_t slot = save ? t : 0;
    const bool dense = t == 0 || !categorical;
    const Tensor previous = t == 0 ? before : deter.select(0, t - 1), operand = inputs.select(0, slot);
    const bool* first_now = data<bool>(first.select(0, t));
    if (dense) product(product_x, cast((t == 0 ? start_stoch : stoch.select(0, t - 1)).mul(keep.select(0, t))), stoch_weight);
    GatherLayer<T, S> input{};
    input.product = dense ? data<S>(product_x) : nullptr, input.addend = data<T>(actions.select(0, t));
    input.out = data<S>(operand), input.stride = V + D, input.units = V, input.is_first = first_now;
    if (!dense) input.index = data<int32_t>(index), input.table = data<S>(stoch_weight), input.stoch = z_shape.stoch;
    for_rows(B, V * (dense ? 4 : z_shape.stoch), [&](int64_t b, int64_t e) { kernel.gather_layer(input, {b, e}); });
    operand.narrow(1, V, D).copy_(previous.mul(keep.select(0, t)));
    const Tensor parts_now = parts.select(0, slot), hidden_now = hidden.select(0, slot);
    product(parts_now, operand, gru_t);
    Gru<T, S> gru{};
    gru.parts = data<S>(parts_now), gru.norm_weight = data<T>(norm_weight), gru.norm_bias = data<T>(norm_bias);
    gru.previous = data<T>(previous), gru.is_first = first_now, gru.stats = data<T>(stats.select(0, slot)), gru.deter = D;
    gru.out = data<T>(deter.select(0, t)), gru.operand = data<S>(state), gru.stride = D;
    for_rows(B, D * 32, [&](int64_t b, int64_t e) { kernel.gru(gru, {b, e}); });

    product(product_hidden, state, deter_t);
    GatherLayer<T, S> head{};
    head.product = data<S>(product_hidden), head.addend = data<T>(embeds.select(0, t)), head.out = data<S>(hidden_now);
    head.stride = head.units = U;
    for_rows(B, U * 4, [&](int64_t b, int64_t e) { kernel.gather_layer(head, {b, e}); });
    product(product_params, hidden_now, out_t);
    latent_noise(z_shape.kind, key, t * B * z_shape.stoch, B * z_shape.stoch, data<T>(noise));
    Sample<T, S> draw{};
    draw.latent = z_shape, draw.members = 1, draw.batch = B, draw.params = data<S>(product_params), draw.bias = data<T>(out_bias);
    draw.member = data<int64_t>(member), draw.noise = data<T>(noise), draw.z = data<T>(stoch.select(0, t));
    draw.index = data<int32_t>(index), draw.full = data<T>(params.select(0, t));
    run_sample(draw, scratch, kernel.sample);
  }
}

template <typename T, typename S>
void backward(const OptionalTensor& grad_deter, const OptionalTensor& grad_stoch, const OptionalTensor& grad_params, TensorList saved,
              TensorList weights, const Gradients& gradients, const LatentShape& z_shape, int64_t seed, int64_t offset) {
  using namespace cpu;
  const auto& kernel = kernels<T, S>();
  const Tensor first = saved[0].contiguous(), start_deter = saved[1].contiguous(), start_stoch = saved[2], deter = saved[3],
               stoch = saved[4], params = saved[5].to(kStorage<S>), inputs = saved[6], parts = saved[7], stats = saved[8],
               hidden = saved[9];
  const int64_t steps = deter.size(0), B = deter.size(1), D = deter.size(2), Z = z_shape.size(), P = z_shape.params();
  const int64_t V = weights[kStoch].size(0), U = hidden.size(2), rows = steps * B;
  const PhiloxKey key{static_cast<uint64_t>(seed), static_cast<uint64_t>(offset)};
  const auto full = deter.options(), storage = full.dtype(kStorage<S>);
  const auto cast = [&](const Tensor& weight) { return weight.to(kStorage<S>); };
  const auto given = [](const OptionalTensor& grad) { return grad && grad->defined() ? grad->contiguous() : Tensor(); };
  const Tensor to_deter = given(grad_deter), to_stoch = given(grad_stoch), to_params = given(grad_params);
  const Tensor stoch_weight = cast(weights[kStoch]), gru_weight = cast(weights[kGru]), deter_weight = cast(weights[kDeter]),
               out_weight = cast(weights[kOut]);
  const Tensor norm_weight = weights[kNormWeight].contiguous(), norm_bias = weights[kNormBias].contiguous();
  const Tensor keep = first.logical_not().unsqueeze(-1), no_bias = at::zeros({P}, full), member = at::zeros({B}, at::kLong);
  const Tensor noise = at::empty({B, z_shape.stoch}, full), scratch = make_scratch<T>(z_shape, 1, deter);

  const Tensor grad_h = at::zeros({B, D}, full), grad_z = at::zeros({B, Z}, full);
  const Tensor grad_logits = at::empty({steps, B, P}, storage), grad_hidden = at::empty({steps, B, U}, storage);
  const Tensor grad_parts = at::empty({steps, B, 3 * D}, storage), grad_inputs = at::empty({steps, B, V + D}, storage);
  const Tensor grad_norm = at::empty({steps, B, 3 * D}, full);
  for (int64_t t = steps - 1; t >= 0; --t) {
    if (to_deter.defined()) Tensor(grad_h).add_(to_deter.select(0, t));
    if (to_stoch.defined()) Tensor(grad_z).add_(to_stoch.select(0, t));
    const Tensor logits_now = grad_logits.select(0, t), hidden_now = grad_hidden.select(0, t), inputs_now = grad_inputs.select(0, t);
    if (z_shape.kind == Latent::gaussian) latent_noise(z_shape.kind, key, t * B * z_shape.stoch, B * z_shape.stoch, data<T>(noise));
    Sample<T, S> draw{};
    draw.latent = z_shape, draw.members = 1, draw.batch = B, draw.params = data<S>(params.select(0, t));
    draw.bias = data<T>(no_bias), draw.member = data<int64_t>(member), draw.noise = data<T>(noise);
    draw.z = data<T>(stoch.select(0, t)), draw.grad_z = data<T>(grad_z), draw.grad_params = data<S>(logits_now);
    draw.grad_full = to_params.defined() ? data<T>(to_params.select(0, t)) : nullptr;
    run_sample(draw, scratch, kernel.sample_backward);
    product(hidden_now, logits_now, out_weight);
    for_rows(B, U * 2, [&](int64_t b, int64_t e) {
      kernel.elu_backward(data<S>(hidden_now), U, data<S>(hidden.select(0, t)), U, U, {b, e});
    });
    add_product(grad_h, hidden_now, deter_weight);
    Gru<T, S> gru{};
    gru.parts = data<S>(parts.select(0, t)), gru.norm_weight = data<T>(norm_weight), gru.norm_bias = data<T>(norm_bias);
    gru.previous = data<T>(t == 0 ? start_deter : deter.select(0, t - 1)), gru.is_first = data<bool>(first.select(0, t));
    gru.stats = data<T>(stats.select(0, t)), gru.deter = D, gru.grad = data<T>(grad_h);
    gru.grad_parts = data<S>(grad_parts.select(0, t)), gru.grad_norm = data<T>(grad_norm.select(0, t));
    for_rows(B, D * 96, [&](int64_t b, int64_t e) { kernel.gru_backward(gru, {b, e}); });
    product(inputs_now, grad_parts.select(0, t), gru_weight);
    for_rows(B, V * 2, [&](int64_t b, int64_t e) {
      kernel.elu_backward(data<S>(inputs_now), V + D, data<S>(inputs.select(0, t)), V + D, V, {b, e});
    });
    Tensor(grad_h).add_(inputs_now.narrow(1, V, D).mul(keep.select(0, t)));
    Tensor(grad_z).copy_(at::mm(inputs_now.narrow(1, 0, V), stoch_weight));
    Tensor(grad_z).mul_(keep.select(0, t));
  }

  const auto& [to_from_action, to_from_embed, to_start_deter, to_start_stoch, to_stoch_weight, to_gru, to_norm_weight,
               to_norm_bias, to_deter_weight, to_out, to_out_bias] = gradients;
  to_start_deter.copy_(grad_h);
  to_start_stoch.copy_(grad_z);
  const Tensor logits = grad_logits.view({rows, P}), heads = grad_hidden.view({rows, U}), gates = grad_parts.view({rows, 3 * D});
  const Tensor layer = grad_inputs.view({rows, V + D}).narrow(1, 0, V);
  to_from_action.view({rows, V}).copy_(layer);
  to_from_embed.view({rows, U}).copy_(heads);
  const auto weight_product = [&](const Tensor& out, const Tensor& grad, const Tensor& operand) {
    if (out.scalar_type() == kStorage<S>) {
      product(out, grad.t(), operand);
    } else {
      out.copy_(at::mm(grad.t(), operand));
    }
  };
  Tensor z_before = at::empty({steps, B, Z}, storage);
  if (steps > 0) {
    z_before.select(0, 0).copy_(start_stoch);
    z_before.narrow(0, 1, steps - 1).copy_(stoch.narrow(0, 0, steps - 1));
    z_before.mul_(keep);
  }
  weight_product(to_stoch_weight, layer, z_before.view({rows, Z}));
  weight_product(to_gru, gates, inputs.view({rows, V + D}));
  weight_product(to_deter_weight, heads, cast(deter.view({rows, D})));
  weight_product(to_out, logits, hidden.view({rows, U}));
  to_out_bias.copy_(column_sums<T, S>(logits, full.dtype().toScalarType()));
  NormGrad<T, S> norm{data<S>(parts), data<T>(stats), data<T>(grad_norm), rows, 3 * D, data<T>(to_norm_weight), data<T>(to_norm_bias)};
  for_rows(3 * D, rows * 4, [&](int64_t b, int64_t e) { kernel.norm_grad(norm, {b, e}); });
}

template <typename Body>
void with_types(const Tensor& tensor, bool half, const Body& body) {
  if (tensor.scalar_type() == at::kDouble) return body(double{}, double{});
  if (half) return body(float{}, cpu::Half{});
  body(float{}, float{});
}

Outputs observe_cpu(const Tensor& from_action, const Tensor& from_embed, const Tensor& is_first, const Tensor& deter,
                    const Tensor& stoch, TensorList weights, at::IntArrayRef latent, int64_t seed, int64_t offset, bool half,
                    bool save) {
  // Autocast has been settled by `half`: the products here are in the dtype that they are given in.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const LatentShape shape = check(from_action, from_embed, is_first, deter, stoch, weights, latent, half);
  const Outputs outputs = allocate(from_action, from_embed, deter, shape, half, save);
  std::apply([](const auto&... tensors) { (cpu::prefer_huge_pages(tensors), ...); }, outputs);
  with_types(deter, half, [&](auto t, auto s) {
    forward<decltype(t), decltype(s)>(outputs, from_action, from_embed, is_first, deter, stoch, weights, shape, seed, offset, save);
  });
  return outputs;
}

Gradients observe_backward_cpu(const OptionalTensor& grad_deter, const OptionalTensor& grad_stoch, const OptionalTensor& grad_params,
                               TensorList saved, TensorList weights, at::IntArrayRef latent, int64_t seed, int64_t offset, bool half) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const Gradients gradients = empty_gradients(saved, weights);
  with_types(saved[1], half, [&](auto t, auto s) {
    backward<decltype(t), decltype(s)>(grad_deter, grad_stoch, grad_params, saved, weights, gradients, latent_shape(latent), seed,
                                       offset);
  });
  return gradients;
}

using Forward = Outputs(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, TensorList, at::IntArrayRef, int64_t,
                        c10::SymInt, bool, bool);
using Backward = Gradients(const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, TensorList, TensorList, at::IntArrayRef,
                           int64_t, c10::SymInt, bool);

class Observe : public torch::autograd::Function<Observe> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const Tensor& from_action,
                                                const Tensor& from_embed, const Tensor& deter, const Tensor& stoch,
                                                TensorList weights, const Tensor& is_first, at::IntArrayRef latent, int64_t seed,
                                                c10::SymInt offset, bool half, bool save) {
    const at::AutoDispatchBelowADInplaceOrView below;
    static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("moto::observe", "").typed<Forward>();
    auto outputs = op.call(from_action, from_embed, is_first, deter, stoch, weights, latent, seed, offset, half, save);
    torch::autograd::variable_list all =
        std::apply([](auto&... tensors) { return torch::autograd::variable_list{tensors...}; }, outputs);
    context->mark_non_differentiable({all.begin() + 3, all.end()});
    context->set_materialize_grads(false);
    torch::autograd::variable_list kept{is_first, deter, stoch};
    kept.insert(kept.end(), all.begin(), all.end());
    kept.insert(kept.end(), weights.begin(), weights.end());
    context->save_for_backward(std::move(kept));
    auto& data = context->saved_data;
    data["latent"] = latent.vec(), data["seed"] = seed, data["offset"] = std::move(offset), data["half"] = half, data["save"] = save;
    return all;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    auto& data = context->saved_data;
    TORCH_CHECK(data["save"].toBool(), "moto::observe: save must be true where a gradient is wanted");
    const auto kept = context->get_saved_variables();
    const TensorList all(kept);
    const auto optional = [&](size_t i) { return grads[i].defined() ? OptionalTensor(grads[i]) : std::nullopt; };
    static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("moto::observe_backward", "").typed<Backward>();
    auto results = op.call(optional(0), optional(1), optional(2), all.slice(0, 10), all.slice(10, 7), data["latent"].toIntVector(),
                           data["seed"].toInt(), data["offset"].toSymInt(), data["half"].toBool());
    torch::autograd::variable_list result =
        std::apply([](auto&... tensors) { return torch::autograd::variable_list{tensors...}; }, results);
    result.resize(kGradients + 6);  // is_first and the options have no gradient
    return result;
  }
};

Outputs observe_autograd(const Tensor& from_action, const Tensor& from_embed, const Tensor& is_first, const Tensor& deter,
                         const Tensor& stoch, TensorList weights, at::IntArrayRef latent, int64_t seed, c10::SymInt offset,
                         bool half, bool save) {
  const auto all =
      Observe::apply(from_action, from_embed, deter, stoch, weights, is_first, latent, seed, std::move(offset), half, save);
  return {all[0], all[1], all[2], all[3], all[4], all[5], all[6]};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(moto, library) {
  library.def(
      "observe(Tensor from_action, Tensor from_embed, Tensor is_first, Tensor deter, Tensor stoch, Tensor[] weights, int[] latent,"
      " int seed, SymInt offset, bool half, bool save) -> (Tensor deter_out, Tensor stoch_out, Tensor params, Tensor inputs,"
      " Tensor parts, Tensor stats, Tensor hidden)",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "observe_backward(Tensor? grad_deter, Tensor? grad_stoch, Tensor? grad_params, Tensor[] saved, Tensor[] weights,"
      " int[] latent, int seed, SymInt offset, bool half) -> (Tensor from_action, Tensor from_embed, Tensor deter, Tensor stoch,"
      " Tensor stoch_weight, Tensor gru_weight, Tensor norm_weight, Tensor norm_bias, Tensor deter_weight, Tensor out_weight,"
      " Tensor out_bias)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(moto, CPU, library) {
  library.impl("observe", observe_cpu);
  library.impl("observe_backward", observe_backward_cpu);
}

TORCH_LIBRARY_IMPL(moto, Meta, library) {
  library.impl("observe", observe_meta);
  library.impl("observe_backward", observe_backward_meta);
}

TORCH_LIBRARY_IMPL(moto, Autograd, library) {
  library.impl("observe", observe_autograd);
  // A second derivative raises instead of being silently wrong.
  library.impl("observe_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace moto
