"""``observe``: the sequential part of the posterior over a sequence, in plain PyTorch (the definition of right)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .latent import LatentSpec, draw_noise, sample
from .philox import Key


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
        key: names the draws; the noise of row t, batch b, variable s is number (t * B + b) * S + s.

    Returns:
        deter [T, B, D], stoch [T, B, Z], and the posterior's parameters [T, B, P].
    """
    dtype = deter.dtype
    noise = draw_noise(latent, key, tuple(is_first.shape), deter)  # [T, B, S]
    keep = (~is_first).to(dtype).unsqueeze(-1)  # [T, B, 1]
    stoch_weight, action_weight = cell.input_weight.split((latent.size, action.shape[-1]), -1)
    deter_weight, embed_weight = posterior.hidden_weight.split((deter.shape[-1], embed.shape[-1]), -1)
    from_action = F.linear(action * keep, action_weight, cell.input_bias)  # [T, B, U]
    from_embed = F.linear(embed, embed_weight, posterior.hidden_bias)  # [T, B, U]
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
