// moto::imagine and its backward, for a `Device` (cpu/cpu_device.h, cuda/cuda_device.h). moto_pl/ops/imagine.py has checked the
// arguments, moto_pl/ops/autograd.py joins the two.
//
// Nothing is summed across rows but the actor's weight gradients, so rows are shared out. A one-hot latent is never
// multiplied: its product with a layer's weights is the sum of S of their rows, gathered.
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/library.h>

#include <tuple>
#include <vector>

#include "cpu/cpu_device.h"
#ifdef MOTO_WITH_CUDA
#include "cuda/cuda_device.h"
#endif

namespace moto {
namespace {

// deter [H + 1, B, D], stoch [H + 1, B, Z], action [H + 1, B, A], entropy [H + 1, B], disagreement [H, B]; then what backward needs
// (empty unless `save`): inputs [H + 1, B, V + D], the GRU's operand; parts [H, B, 3D]; stats [H, B, 2]; hidden [H, K, B, U];
// params [H, K, B, P], or class probabilities in their place (keeps_probs); actor_hidden, the layers' [H + 1, B, units] one after
// another; raw [H + 1, B, 2A].
using Outputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using Gradients = std::tuple<Tensor, Tensor, std::vector<Tensor>>;

#define MOTO_IMAGINE_OPTIONS                                                                                              \
  at::IntArrayRef latent, int64_t seed, c10::SymInt offset, const OptionalTensor &words, int64_t first_row, int64_t rows, \
      int64_t steps, int64_t action_kind, double min_std, bool by_row, int64_t spread, bool bfloat16
#define MOTO_IMAGINE_ARGUMENTS latent, seed, offset, words, first_row, rows, steps, action_kind, min_std, by_row, spread, bfloat16
#define MOTO_IMAGINE_SCHEMA                                                                                                      \
  "Tensor[] actor, Tensor[] cell, Tensor[] prior, int[] latent, int seed, SymInt offset, Tensor? key, int first_row, int rows, " \
  "int steps, int "                                                                                                              \
  "action_kind, "                                                                                                                \
  "float min_std, bool by_row, int spread, bool bfloat16"

// Symbolic sizes: the same code serves real and fake tensors.
Outputs allocate(const Tensor& deter, TensorList actor, TensorList cell, TensorList prior, const LatentShape& latent, int64_t steps,
                 bool bfloat16, bool save) {
  const auto options = deter.options();
  const auto storage = bfloat16 ? options.dtype(at::kBFloat16) : options;
  const c10::SymInt H = steps, B = deter.sym_size(0), D = deter.sym_size(1), Z = latent.size(), P = latent.params();
  const c10::SymInt K = prior[0].sym_size(0), U = prior[0].sym_size(2), V = cell[1].sym_size(0), A = actor.back().sym_size(0) / 2;
  c10::SymInt units = 0;
  for (size_t i = 0; i + 2 < actor.size(); i += 2) units += actor[i].sym_size(0);
  const auto make = [&](const at::TensorOptions& o, std::vector<c10::SymInt> sizes) { return at::empty_symint(sizes, o); };
  const auto saved = [&](const at::TensorOptions& o, std::vector<c10::SymInt> sizes) {
    if (!save) sizes[0] = 0;
    return make(o, std::move(sizes));
  };
  return {make(options, {H + 1, B, D}),
          make(options, {H + 1, B, Z}),
          make(options, {H + 1, B, A}),
          make(options, {H + 1, B}),
          make(options, {H, B}),
          saved(storage, {H + 1, B, V + D}),
          saved(storage, {H, B, 3 * D}),
          saved(options, {H, B, 2}),
          saved(storage, {H, K, B, U}),
          saved(storage, {H, K, B, P}),
          saved(storage, {(H + 1) * B * units}),
          saved(options, {H + 1, B, 2 * A})};
}

Outputs imagine_meta(const Tensor& deter, const Tensor& stoch, TensorList actor, TensorList cell, TensorList prior,
                     MOTO_IMAGINE_OPTIONS, bool save) {
  return allocate(deter, actor, cell, prior, latent_shape(latent), steps, bfloat16, save);
}

Gradients empty_gradients(const Tensor& deter, const Tensor& stoch, TensorList actor, bool to_start, bool to_actor) {
  // deter and stoch are rollouts here: their first rows are the start.
  const auto rows = [](const Tensor& rollout, bool wanted) {
    return wanted ? at::empty_symint({rollout.sym_size(1), rollout.sym_size(2)}, rollout.options())
                  : at::empty({0}, rollout.options());
  };
  std::vector<Tensor> weights;
  for (const Tensor& weight : actor)
    weights.push_back(to_actor ? at::empty_symint(weight.sym_sizes(), weight.options()) : at::empty({0}, weight.options()));
  return {rows(deter, to_start), rows(stoch, to_start), weights};
}

Gradients imagine_backward_meta(const OptionalTensor&, const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
                                const OptionalTensor&, TensorList saved, TensorList actor, TensorList, TensorList,
                                MOTO_IMAGINE_OPTIONS, bool to_start, bool to_actor) {
  return empty_gradients(saved[0], saved[1], actor, to_start, to_actor);
}

// Whether `params` become class probabilities, of which backward then needs no second softmax. In bfloat16 they stay logits: what
// rounding does to probabilities that nearly agree would be a gradient of its own.
template <typename T, typename S>
bool keeps_probs(const LatentShape& latent, Spread kind) {
  return std::is_same_v<T, S> && latent.kind == Latent::categorical && kind == Spread::mean;
}

template <typename Device>
void forward(const Outputs& outputs, const Tensor& start_deter, const Tensor& start_stoch, TensorList actor, TensorList cell,
             TensorList prior, MOTO_IMAGINE_OPTIONS, bool save) {
  using T = typename Device::Full;
  using S = typename Device::Storage;
  const LatentShape z_shape = latent_shape(latent);
  const int64_t B = start_deter.size(0), D = start_deter.size(1), Z = z_shape.size(), P = z_shape.params();
  const int64_t K = prior[0].size(0), U = prior[0].size(2), V = cell[1].size(0), A = actor.back().size(0) / 2;
  const bool categorical = z_shape.kind == Latent::categorical;
  const PhiloxKey key = philox_key<Device>(seed, offset.expect_int(), words, first_row, rows);
  const auto full = start_deter.options(), storage = full.dtype(kStorage<S>);
  const auto cast = [&](const Tensor& weight) { return weight.to(kStorage<S>); };
  const Device device(z_shape, K, B, start_deter);
  const auto [deter, stoch, action, entropy, disagreement, inputs_saved, parts_saved, stats_saved, hidden_saved, params_saved,
              actor_saved, raw_saved] = outputs;

  // Without saving, one slot serves all steps; the GRU's operand needs two.
  const int64_t slots = save ? steps : 1, states = save ? steps + 1 : 2;
  const auto slot = [&](int64_t i) { return save ? i : 0; };
  const Tensor inputs = save ? inputs_saved : at::empty({states, B, V + D}, storage);
  const Tensor parts = save ? parts_saved : at::empty({slots, B, 3 * D}, storage);
  const Tensor stats = save ? stats_saved : at::empty({slots, B, 2}, full);
  const Tensor hidden = save ? hidden_saved : at::empty({slots, K, B, U}, storage);
  const Tensor params = save ? params_saved : at::empty({slots, K, B, P}, storage);
  std::vector<Tensor> layers;  // the actor's hidden activations
  {
    int64_t units = 0, at = 0;
    for (size_t l = 0; l + 2 < actor.size(); l += 2) units += actor[l].size(0);
    const int64_t rows = save ? steps + 1 : 1;
    const Tensor all = save ? actor_saved : at::empty({rows * B * units}, storage);
    for (size_t l = 0; l + 2 < actor.size(); l += 2) {
      const int64_t width = actor[l].size(0);
      layers.push_back(all.narrow(0, at, rows * B * width).view({rows, B, width}));
      at += rows * B * width;
    }
  }
  const Tensor raw = save ? raw_saved : at::empty({1, B, 2 * A}, full);

  // Weights in the products' dtype, and transposed where rows are gathered.
  std::vector<Tensor> actor_t;
  for (size_t l = 0; l < actor.size(); l += 2) actor_t.push_back(cast(actor[l]).contiguous().t());
  const Tensor actor_deter = actor_t[0].narrow(0, 0, D), actor_stoch = actor_t[0].narrow(0, D, Z).contiguous();
  const Tensor input_t = cast(cell[0]).t(), input_stoch = input_t.narrow(0, 0, Z).contiguous();
  const Tensor input_action = cell[0].t().narrow(0, Z, A).contiguous();
  const Tensor gru_t = cast(cell[2]).t();
  const Tensor hidden_weight = cast(prior[0]), out_weight = cast(prior[2]);
  const Tensor hidden_bias = prior[1].contiguous(), out_bias = prior[3].contiguous();
  const Tensor input_bias = cell[1].contiguous(), norm_weight = cell[3].contiguous(), norm_bias = cell[4].contiguous();
  std::vector<Tensor> actor_bias;
  for (size_t l = 1; l < actor.size(); l += 2) actor_bias.push_back(actor[l].contiguous());

  const Tensor member = at::empty({steps, B}, full.dtype(at::kLong)), index = at::empty({B, z_shape.stoch}, full.dtype(at::kInt));
  device.draw_members(member, key, K, by_row);
  const bool linear = layers.empty();  // an actor without hidden layers
  const Tensor raw_product = at::empty({B, 2 * A}, storage), input_product = at::empty({B, V}, storage);
  const Tensor first_product = linear ? raw_product : at::empty({B, actor[0].size(0)}, storage);
  // The products' copy of z where z is multiplied: Gaussians, and the start, which need not be one-hot.
  const bool copies = kStorage<S> != start_deter.scalar_type();
  Tensor z_operand = cast(start_stoch).contiguous();

  // The actor's first layer in state i, behind its product; `gathers`: on a one-hot latent.
  const auto actor_layer = [&](int64_t i, bool gathers) {
    GatherLayer<T, S> layer{};
    layer.product = data<S>(first_product), layer.bias = data<T>(actor_bias[0]), layer.out = data<S>(layers[0].select(0, slot(i)));
    layer.stride = layer.units = layers[0].size(2);
    if (gathers) layer.index = data<int32_t>(index), layer.table = data<S>(actor_stoch), layer.stoch = z_shape.stoch;
    return layer;
  };

  deter.select(0, 0).copy_(start_deter);
  stoch.select(0, 0).copy_(start_stoch);
  inputs.select(0, 0).narrow(1, V, D).copy_(start_deter);
  if (save) inputs.select(0, steps).narrow(1, 0, V).zero_();  // no step is taken from the last state

  for (int64_t i = 0; i <= steps; ++i) {
    const bool dense = i == 0 || !categorical;
    const Tensor operand = inputs.select(0, i % states), state = operand.narrow(1, V, D), action_now = action.select(0, i);
    if (i > 0 && !categorical && !copies) z_operand = stoch.select(0, i);

    // The actor. Where it gathers, its first layer was computed with the sample.
    if (dense || linear) {
      if (!dense) z_operand = cast(stoch.select(0, i));
      product(first_product, state, actor_deter);
      product(first_product, z_operand, actor_stoch, true);
      if (!linear) device.gather_layer(actor_layer(i, false), B);
    }
    for (size_t l = 1; l < layers.size(); ++l) {
      const Tensor out = layers[l].select(0, slot(i));
      product(out, layers[l - 1].select(0, slot(i)), actor_t[l]);
      device.bias_elu(data<S>(out), data<T>(actor_bias[l]), out.size(1), B, B);
    }
    Act<T, S> act{};
    act.kind = static_cast<Action>(action_kind), act.min_std = static_cast<T>(min_std), act.key = key;
    act.actions = A, act.first = key.row(i, B), act.raw = data<T>(raw.select(0, slot(i))), act.bias = data<T>(actor_bias.back());
    if (linear || !Device::kMultipliesInAct) {
      if (!linear) product(raw_product, layers.back().select(0, slot(i)), actor_t.back());
      act.product = data<S>(raw_product);
    } else {
      act.hidden = data<S>(layers.back().select(0, slot(i))), act.weight = data<S>(actor_t.back());
      act.units = layers.back().size(2);
    }
    act.action = data<T>(action_now), act.entropy = data<T>(entropy.select(0, i));
    if (i == steps) {
      device.act(act, nullptr, B);
      break;
    }

    // Input layer and recurrent cell.
    if (dense) product(input_product, z_operand, input_stoch);
    GatherLayer<T, S> input{};
    input.product = dense ? data<S>(input_product) : nullptr;
    input.bias = data<T>(input_bias), input.action = data<T>(action_now), input.action_table = data<T>(input_action);
    input.actions = A, input.out = data<S>(operand), input.stride = V + D, input.units = V;
    if (!dense) input.index = data<int32_t>(index), input.table = data<S>(input_stoch), input.stoch = z_shape.stoch;
    device.act(act, &input, B);
    const Tensor parts_now = parts.select(0, slot(i));
    product(parts_now, operand, gru_t);
    const Tensor next_state = inputs.select(0, (i + 1) % states).narrow(1, V, D);
    Gru<T, S> gru{};
    gru.parts = data<S>(parts_now), gru.norm_weight = data<T>(norm_weight), gru.norm_bias = data<T>(norm_bias);
    gru.previous = data<T>(deter.select(0, i)), gru.stats = data<T>(stats.select(0, slot(i))), gru.deter = D;
    gru.out = data<T>(deter.select(0, i + 1)), gru.operand = data<S>(next_state), gru.stride = V + D;
    device.gru(gru, B);

    // Prior heads, sample, disagreement; on the sample, the actor's next first layer.
    const Tensor hidden_now = hidden.select(0, slot(i)), params_now = params.select(0, slot(i));
    batched_product(hidden_now, next_state.expand({K, B, D}), hidden_weight);
    device.bias_elu(data<S>(hidden_now), data<T>(hidden_bias), U, B, K * B);
    batched_product(params_now, hidden_now, out_weight);
    if (!categorical && copies) z_operand = at::empty({B, Z}, storage);
    Sample<T, S> draw{};
    draw.latent = z_shape, draw.members = K, draw.batch = B, draw.params = data<S>(params_now), draw.bias = data<T>(out_bias);
    draw.member = data<int64_t>(member.select(0, i)), draw.key = key, draw.first = key.row(i, B) * z_shape.stoch;
    draw.kind = static_cast<Spread>(spread), draw.z = data<T>(stoch.select(0, i + 1));
    draw.operand = !categorical && copies ? data<S>(z_operand) : nullptr;
    draw.index = data<int32_t>(index), draw.spread = data<T>(disagreement.select(0, i));
    if (keeps_probs<T, S>(z_shape, draw.kind)) draw.keep_probs = data<S>(params_now);
    if (categorical && !linear) {
      product(first_product, next_state, actor_deter);
      const GatherLayer<T, S> layer = actor_layer(i + 1, true);
      device.sample(draw, &layer);
    } else {
      device.sample(draw, nullptr);
    }
  }
}

template <typename Device>
void backward(const OptionalTensor& grad_deter, const OptionalTensor& grad_stoch, const OptionalTensor& grad_action,
              const OptionalTensor& grad_entropy, const OptionalTensor& grad_disagreement, TensorList saved, TensorList actor,
              TensorList cell, TensorList prior, const Gradients& gradients, MOTO_IMAGINE_OPTIONS, bool to_start, bool to_actor) {
  using T = typename Device::Full;
  using S = typename Device::Storage;
  const LatentShape z_shape = latent_shape(latent);
  const Tensor deter = saved[0], stoch = saved[1], inputs = saved[2], parts = saved[3], stats = saved[4], hidden = saved[5],
               params = saved[6], actor_hidden = saved[7], raw = saved[8];
  const int64_t B = deter.size(1), D = deter.size(2), Z = z_shape.size(), P = z_shape.params();
  const int64_t K = prior[0].size(0), U = prior[0].size(2), V = cell[1].size(0), A = actor.back().size(0) / 2;
  const PhiloxKey key = philox_key<Device>(seed, offset.expect_int(), words, first_row, rows);
  const auto full = deter.options(), storage = full.dtype(kStorage<S>);
  const auto cast = [&](const Tensor& weight) { return weight.to(kStorage<S>); };
  const Device device(z_shape, K, B, deter);
  const Tensor to_deter = given(grad_deter), to_stoch = given(grad_stoch), to_action = given(grad_action),
               to_entropy = given(grad_entropy), to_spread = given(grad_disagreement);
  const auto now = [](const Tensor& grad, int64_t i) { return grad.defined() ? data<T>(grad.select(0, i)) : nullptr; };

  // Gradient of the actions, by way of the states that they lead to; collected over the steps for one pass of the actor.
  Tensor actions_grad;
  const bool through_states = steps > 0 && (to_deter.defined() || to_stoch.defined() || to_spread.defined());
  const Tensor grad_h = at::zeros({B, D}, full);
  Tensor grad_z;  // [B, Z] by way of later states, once there is one
  if (through_states) {
    const Tensor input_weight = cast(cell[0]), input_stoch = input_weight.narrow(1, 0, Z), gru_weight = cast(cell[2]);
    const Tensor hidden_weight_t = cast(prior[0]).transpose(1, 2), out_weight_t = cast(prior[2]).transpose(1, 2);
    const Tensor out_bias = prior[3].contiguous();
    const Tensor norm_weight = cell[3].contiguous(), norm_bias = cell[4].contiguous();
    const Tensor member = at::empty({steps, B}, full.dtype(at::kLong));
    device.draw_members(member, key, K, by_row);
    const Tensor grad_params = at::empty({K, B, P}, storage), grad_hidden = at::empty({K, B, U}, storage);
    const Tensor grad_heads = at::empty({K, B, D}, storage), grad_parts = at::empty({B, 3 * D}, storage);
    const Tensor grad_inputs = at::empty({steps, B, V + D}, storage);
    const Tensor grad_norm = at::empty({Device::kKeepsGradNorm ? B : 0, 3 * D}, full);
    // Without a gradient of the disagreement, the sample's reaches a step's one member alone; which, the host cannot say of a key
    // that only the device reads.
    const bool one_member = !to_spread.defined() && !by_row && K > 1 && !key.words;
    for (int64_t i = steps - 1; i >= 0; --i) {
      Sample<T, S> draw{};
      draw.latent = z_shape, draw.members = K, draw.batch = B, draw.params = data<S>(params.select(0, i));
      draw.bias = data<T>(out_bias), draw.member = data<int64_t>(member.select(0, i)), draw.key = key;
      draw.first = key.row(i, B) * z_shape.stoch, draw.kind = static_cast<Spread>(spread), draw.z = data<T>(stoch.select(0, i + 1));
      draw.grad_z = data_if<S>(grad_z), draw.grad_extra = now(to_stoch, i + 1), draw.grad_spread = now(to_spread, i);
      draw.grad_params = data<S>(grad_params), draw.probs = keeps_probs<T, S>(z_shape, draw.kind);
      const Tensor hidden_now = hidden.select(0, i);
      if (one_member) {
        const int64_t k = philox_member(key, static_cast<uint64_t>(i), K);
        const Tensor grad_own = grad_hidden.select(0, 0);
        draw.params += k * B * P, draw.bias += k * P, draw.member = nullptr, draw.members = 1;
        device.sample_backward(draw);
        product(grad_own, grad_params.select(0, 0), out_weight_t.select(0, k));
        device.elu_backward(data<S>(grad_own), data<S>(hidden_now.select(0, k)), U, B);
        product(grad_heads.select(0, 0), grad_own, hidden_weight_t.select(0, k));
      } else {
        device.sample_backward(draw);
        batched_product(grad_hidden, grad_params, out_weight_t);
        device.elu_backward(data<S>(grad_hidden), data<S>(hidden_now), U, K * B);
        batched_product(grad_heads, grad_hidden, hidden_weight_t);
      }
      Gru<T, S> gru{};
      gru.parts = data<S>(parts.select(0, i)), gru.norm_weight = data<T>(norm_weight), gru.norm_bias = data<T>(norm_bias);
      gru.previous = data<T>(deter.select(0, i)), gru.stats = data<T>(stats.select(0, i)), gru.deter = D;
      gru.grad = data<T>(grad_h), gru.grad_heads = data<S>(grad_heads), gru.heads = one_member ? 1 : K, gru.batch = B;
      gru.grad_extra = now(to_deter, i + 1);
      gru.grad_parts = data<S>(grad_parts), gru.grad_norm = data<T>(grad_norm);
      device.gru_backward(gru, B);
      const bool go_on = i > 0 || to_start;  // to the state before
      const Tensor grad_now = grad_inputs.select(0, i), grad_x = grad_now.narrow(1, 0, V);
      product(go_on ? grad_now : grad_x, grad_parts, go_on ? gru_weight : gru_weight.narrow(1, 0, V));
      InputGrad<T, S> input{};
      input.grad = data<S>(grad_now), input.inputs = data<S>(inputs.select(0, i)), input.units = V, input.deter = D;
      input.grad_deter = go_on ? data<T>(grad_h) : nullptr;
      device.input_backward(input, B);
      if (!go_on) break;
      if (!grad_z.defined()) grad_z = at::empty({B, Z}, storage);
      product(grad_z, grad_x, input_stoch);
    }
    if (to_actor) {
      actions_grad = to_action.defined() ? to_action.clone() : at::zeros({steps + 1, B, A}, full);
      const Tensor grad_rows = grad_inputs.view({steps * B, V + D}).narrow(1, 0, V);
      actions_grad.narrow(0, 0, steps).view({steps * B, A}).add_(at::mm(grad_rows, input_weight.narrow(1, Z, A)));
    }
  } else {
    actions_grad = to_action;
  }
  const auto& [start_deter, start_stoch, weights] = gradients;
  if (to_start) {
    start_deter.copy_(to_deter.defined() ? grad_h.add(to_deter.select(0, 0)) : grad_h);
    start_stoch.zero_();
    if (grad_z.defined()) start_stoch.add_(grad_z);
    if (to_stoch.defined()) start_stoch.add_(to_stoch.select(0, 0));
  }
  if (!to_actor) return;

  // The actor saw states without gradient: one pass over all (H + 1) B rows.
  const int64_t all = (steps + 1) * B;
  const Tensor grad_raw = at::empty({all, 2 * A}, full);
  Act<T, S> act{};
  act.kind = static_cast<Action>(action_kind), act.min_std = static_cast<T>(min_std), act.key = key;
  act.actions = A, act.raw = data<T>(raw), act.grad_raw = data<T>(grad_raw);
  act.grad_action = data_if<T>(actions_grad), act.grad_entropy = data_if<T>(to_entropy);
  if (rows == 0) {
    device.act_backward(act, all);
  } else {
    for (int64_t i = 0; i <= steps; ++i) {  // between two steps' rows lie those of others
      act.first = key.row(i, B);
      device.act_backward(act, B);
      act.raw += 2 * A * B, act.grad_raw += 2 * A * B;
      if (act.grad_action) act.grad_action += A * B;
      if (act.grad_entropy) act.grad_entropy += B;
    }
  }
  Tensor grad = cast(grad_raw);
  int64_t end = actor_hidden.numel();
  for (size_t l = actor.size() / 2; l-- > 0;) {
    device.column_sums(grad, weights[2 * l + 1]);
    if (l == 0) {
      device.weight_product(weights[0].narrow(1, 0, D), grad, inputs.view({all, V + D}).narrow(1, V, D));
      device.weight_product(weights[0].narrow(1, D, Z), grad, cast(stoch.view({all, Z})));
      break;
    }
    const int64_t width = actor[2 * l].size(1);
    end -= all * width;
    const Tensor operand = actor_hidden.narrow(0, end, all * width).view({all, width});
    device.weight_product(weights[2 * l], grad, operand);
    const Tensor before = at::empty({all, width}, storage);
    product(before, grad, cast(actor[2 * l]));
    device.elu_backward(data<S>(before), data<S>(operand), width, all);
    grad = before;
  }
}

// The implementations of both operators for one kind of device.
template <template <typename, typename> typename Device>
Outputs imagine_on(const Tensor& deter, const Tensor& stoch, TensorList actor, TensorList cell, TensorList prior,
                   MOTO_IMAGINE_OPTIONS, bool save) {
  // Autocast has been settled by `bfloat16`: the products here are in the dtype that they are given in.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const c10::OptionalDeviceGuard guard(deter.device());
  const Outputs outputs = allocate(deter, actor, cell, prior, latent_shape(latent), steps, bfloat16, save);
  with_types(deter, bfloat16, [&](auto t, auto s) {
    forward<Device<decltype(t), decltype(s)>>(outputs, deter, stoch, actor, cell, prior, MOTO_IMAGINE_ARGUMENTS, save);
  });
  return outputs;
}

template <template <typename, typename> typename Device>
Gradients imagine_backward_on(const OptionalTensor& grad_deter, const OptionalTensor& grad_stoch, const OptionalTensor& grad_action,
                              const OptionalTensor& grad_entropy, const OptionalTensor& grad_disagreement, TensorList saved,
                              TensorList actor, TensorList cell, TensorList prior, MOTO_IMAGINE_OPTIONS, bool to_start,
                              bool to_actor) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const c10::OptionalDeviceGuard guard(saved[0].device());
  const Gradients gradients = empty_gradients(saved[0], saved[1], actor, to_start, to_actor);
  with_types(saved[0], bfloat16, [&](auto t, auto s) {
    backward<Device<decltype(t), decltype(s)>>(grad_deter, grad_stoch, grad_action, grad_entropy, grad_disagreement, saved, actor,
                                               cell, prior, gradients, MOTO_IMAGINE_ARGUMENTS, to_start, to_actor);
  });
  return gradients;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(moto, library) {
  library.def(
      "imagine(Tensor deter, Tensor stoch, " MOTO_IMAGINE_SCHEMA
      ", bool save) -> (Tensor deter_out, Tensor stoch_out, Tensor action, Tensor entropy, Tensor disagreement, Tensor inputs,"
      " Tensor parts, Tensor stats, Tensor hidden, Tensor params, Tensor actor_hidden, Tensor raw)",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "imagine_backward(Tensor? grad_deter, Tensor? grad_stoch, Tensor? grad_action, Tensor? grad_entropy,"
      " Tensor? grad_disagreement, Tensor[] saved, " MOTO_IMAGINE_SCHEMA
      ", bool to_start, bool to_actor) -> (Tensor deter, Tensor stoch, Tensor[] actor_out)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(moto, CPU, library) {
  library.impl("imagine", imagine_on<cpu::Device>);
  library.impl("imagine_backward", imagine_backward_on<cpu::Device>);
}

#ifdef MOTO_WITH_CUDA
TORCH_LIBRARY_IMPL(moto, CUDA, library) {
  library.impl("imagine", imagine_on<cuda::Device>);
  library.impl("imagine_backward", imagine_backward_on<cuda::Device>);
}
#endif

TORCH_LIBRARY_IMPL(moto, Meta, library) {
  library.impl("imagine", imagine_meta);
  library.impl("imagine_backward", imagine_backward_meta);
}

TORCH_LIBRARY_IMPL(moto, Autograd, library) {
  // A second derivative raises instead of being silently wrong.
  library.impl("imagine_backward", torch::autograd::autogradNotImplementedFallback());
}

}  // namespace moto
