"""``observe``: the sequential part of the posterior over a sequence. Compiled operator and plain-PyTorch reference."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SettingError
from .extension import Ops, check_tensors, compiled_products
from .latent import LatentSpec, draw_noise, sample
from .philox import Key, operator_key


class CellWeights(NamedTuple):
    """Input layer and LayerNorm GRU of the RSSM. Weights are [out, in], as ``torch.nn.Linear`` has them."""

    input_weight: Tensor  # [U, Z + A]
    input_bias: Tensor  # [U]
    gru_weight: Tensor  # [3D, U + D], no bias: the LayerNorm has one
    norm_weight: Tensor  # [3D]
    norm_bias: Tensor  # [3D]


class PosteriorWeights(NamedTuple):
    """The posterior head q(z | deter, embed): one hidden layer. Weights are [out, in]."""

    hidden_weight: Tensor  # [U, D + E]
    hidden_bias: Tensor  # [U]
    out_weight: Tensor  # [P, U]
    out_bias: Tensor  # [P]


def gru(x: Tensor, deter: Tensor, weights: CellWeights) -> Tensor:
    """DreamerV2's LayerNorm GRU: [B, U], [B, D] -> [B, D]. Update gates start nearly closed (bias -1)."""
    parts = F.linear(torch.cat((x, deter), -1), weights.gru_weight)
    parts = F.layer_norm(
        parts.to(weights.norm_weight.dtype), weights.norm_weight.shape, weights.norm_weight, weights.norm_bias, 1e-3
    )
    reset, candidate, update = parts.chunk(3, -1)
    update = torch.sigmoid(update - 1)
    return update * torch.tanh(torch.sigmoid(reset) * candidate) + (1 - update) * deter


def transition(deter: Tensor, stoch: Tensor, action: Tensor, weights: CellWeights) -> Tensor:
    """The deterministic state that an action leads to: [B, D], [B, Z], [B, A] -> [B, D]."""
    x = F.elu(F.linear(torch.cat((stoch, action), -1), weights.input_weight, weights.input_bias))
    return gru(x, deter, weights)


def _pieces(
    action: Tensor, embed: Tensor, is_first: Tensor, cell: CellWeights, posterior: PosteriorWeights, latent: LatentSpec
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What both forms start from: weights by what they multiply, and the products that need no state.

    Returns:
        Weights of z [U, Z] and of the state [U, D]; what comes of actions and of embeddings, both [T, B, U].
    """
    keep = (~is_first).to(action.dtype).unsqueeze(-1)  # [T, B, 1]
    stoch_weight, action_weight = cell.input_weight.split((latent.size, action.shape[-1]), -1)
    size = posterior.hidden_weight.shape[-1] - embed.shape[-1]
    deter_weight, embed_weight = posterior.hidden_weight.split((size, embed.shape[-1]), -1)
    from_action = F.linear(action * keep, action_weight, cell.input_bias)
    from_embed = F.linear(embed, embed_weight, posterior.hidden_bias)
    return stoch_weight, deter_weight, from_action, from_embed


def _check(
    action: Tensor,
    embed: Tensor,
    is_first: Tensor,
    deter: Tensor,
    stoch: Tensor,
    cell: CellWeights,
    posterior: PosteriorWeights,
    latent: LatentSpec,
) -> None:
    for name, tensor, form, dims in (
        ("action", action, "[steps, batch, action]", 3),
        ("embed", embed, "[steps, batch, embed]", 3),
        ("deter", deter, "[batch, deter]", 2),
    ):
        if tensor.dim() != dims:
            raise SettingError(name, f"shape {tuple(tensor.shape)}", f"Give it as {form}.")
    steps, (batch, size) = action.shape[0], deter.shape
    units, hidden = cell.input_bias.shape[0], posterior.hidden_bias.shape[0]
    expected: list[tuple[str, Tensor, tuple[int, ...]]] = [
        ("action", action, (steps, batch, action.shape[-1])),
        ("stoch", stoch, (batch, latent.size)),
        ("cell.input_weight", cell.input_weight, (units, latent.size + action.shape[-1])),
        ("cell.input_bias", cell.input_bias, (units,)),
        ("cell.gru_weight", cell.gru_weight, (3 * size, units + size)),
        ("cell.norm_weight", cell.norm_weight, (3 * size,)),
        ("cell.norm_bias", cell.norm_bias, (3 * size,)),
        ("posterior.hidden_weight", posterior.hidden_weight, (hidden, size + embed.shape[-1])),
        ("posterior.hidden_bias", posterior.hidden_bias, (hidden,)),
        ("posterior.out_weight", posterior.out_weight, (latent.params, hidden)),
        ("posterior.out_bias", posterior.out_bias, (latent.params,)),
    ]
    check_tensors("deter", deter, expected)
    # Under autocast the encoder's embeddings are in half precision.
    if not embed.is_floating_point():
        raise SettingError("embed", embed.dtype, "Use a floating-point dtype.")
    check_tensors("deter", deter, [("embed", embed.to(deter.dtype), (steps, batch, embed.shape[-1]))])
    check_tensors("is_first", is_first, [("is_first", is_first, (steps, batch))])
    if is_first.dtype != torch.bool:
        raise SettingError("is_first", is_first.dtype, "Use bool.")
    if is_first.device != deter.device:
        raise SettingError("is_first", f"device {is_first.device}", f"Put it on deter's device, {deter.device}.")


def observe_drawn(
    action: Tensor,
    embed: Tensor,
    is_first: Tensor,
    deter: Tensor,
    stoch: Tensor,
    cell: CellWeights,
    posterior: PosteriorWeights,
    latent: LatentSpec,
    noise: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`observe_ref`, with the draws [T, B, S] themselves in place of the key that names them."""
    dtype = deter.dtype
    keep = (~is_first).to(dtype).unsqueeze(-1)  # [T, B, 1]
    stoch_weight, deter_weight, from_action, from_embed = _pieces(action, embed, is_first, cell, posterior, latent)
    deters, stochs, params = [], [], []
    for t in range(action.shape[0]):
        x = F.elu(F.linear(stoch * keep[t], stoch_weight) + from_action[t])
        deter = gru(x, deter * keep[t], cell)
        hidden = F.elu(F.linear(deter, deter_weight) + from_embed[t])
        param = F.linear(hidden, posterior.out_weight, posterior.out_bias).to(dtype)
        stoch = sample(latent, param, noise[t])
        deters.append(deter)
        stochs.append(stoch)
        params.append(param)
    return torch.stack(deters), torch.stack(stochs), torch.stack(params)


def observe_ref(
    action: Tensor,
    embed: Tensor,
    is_first: Tensor,
    deter: Tensor,
    stoch: Tensor,
    cell: CellWeights,
    posterior: PosteriorWeights,
    latent: LatentSpec,
    key: Key,
) -> tuple[Tensor, Tensor, Tensor]:
    """The definition of :func:`observe`, one PyTorch operation at a time. Same arguments and result."""
    _check(action, embed, is_first, deter, stoch, cell, posterior, latent)
    noise = draw_noise(latent, key, tuple(is_first.shape), deter)  # [T, B, S]
    return observe_drawn(action, embed, is_first, deter, stoch, cell, posterior, latent, noise)


def observe(
    action: Tensor,
    embed: Tensor,
    is_first: Tensor,
    deter: Tensor,
    stoch: Tensor,
    cell: CellWeights,
    posterior: PosteriorWeights,
    latent: LatentSpec,
    key: Key,
    ops: Ops = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs GRU and posterior over T steps: h_t = GRU(h_{t-1}, z_{t-1}, a_{t-1}), z_t ~ q(z | h_t, e_t).

    The products of actions and embeddings with their weights do not depend on the state and are taken for all T steps
    at once; only what needs the previous state is in the loop.

    Args:
        action: [T, B, A], row t led to frame t.
        embed: [T, B, E], the frames' embeddings.
        is_first: [T, B] bool; where true, state and action before the row are taken as zero.
        deter: [B, D], the state before row 0.
        stoch: [B, Z].
        cell: input layer and GRU.
        posterior: posterior head.
        latent: kind and sizes of z.
        key: names the draws; the noise of row t, batch b, variable s is number (t * B + b) * S + s, of the
            common batch where the key's share is not all of it.
        ops: ``compiled``, ``reference``, or ``auto``: the compiled operator where it was built for this device, takes
            this dtype (float32, under bfloat16 autocast too, and float64) and knows the latent's std (``sigmoid2``).

    Returns:
        deter [T, B, D], stoch [T, B, Z], and the posterior's parameters [T, B, P].

    Raises:
        SettingError: naming the argument whose shape, dtype or device is wrong, or ``ops`` where it is ``compiled`` and
            there is no operator for this.
    """
    if (bfloat16 := compiled_products("observe", ops, deter, latent.uncompiled)) is None:
        return observe_ref(action, embed, is_first, deter, stoch, cell, posterior, latent, key)
    _check(action, embed, is_first, deter, stoch, cell, posterior, latent)
    dtype = deter.dtype
    stoch_weight, deter_weight, from_action, from_embed = _pieces(action, embed, is_first, cell, posterior, latent)
    weights = [
        stoch_weight,
        cell.gru_weight,
        cell.norm_weight,
        cell.norm_bias,
        deter_weight,
        posterior.out_weight,
        posterior.out_bias,
    ]
    inputs = (from_action.to(dtype), from_embed.to(dtype))
    save = torch.is_grad_enabled() and any(x.requires_grad for x in (*inputs, deter, stoch, *weights))
    named = operator_key(key, deter.shape[0])
    outputs = torch.ops.moto.observe(*inputs, is_first, deter, stoch, weights, latent.codes, *named, bfloat16, save)
    return outputs[0], outputs[1], outputs[2]
