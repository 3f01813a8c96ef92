"""``imagine``: rolls the policy through the ensemble RSSM. Compiled operator and plain-PyTorch reference."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SettingError
from .action import ActionDist, ActionKind
from .extension import Ops, check_tensors, compiled_products
from .latent import Disagreement, LatentSpec, check_disagreement, disagreement, draw_noise, sample
from .observe import CellWeights, transition
from .philox import Key, Stream, integers, operator_key, uniform

MemberChoice = Literal["step", "row"]


class PriorWeights(NamedTuple):
    """K prior heads p_k(z | deter), one hidden layer each, stacked: weights are [K, in, out]."""

    hidden_weight: Tensor  # [K, D, U]
    hidden_bias: Tensor  # [K, 1, U]
    out_weight: Tensor  # [K, U, P]
    out_bias: Tensor  # [K, 1, P]


class Imagined(NamedTuple):
    """An imagined rollout of H steps from B states."""

    deter: Tensor  # [H + 1, B, D], the start state first
    stoch: Tensor  # [H + 1, B, Z]
    action: Tensor  # [H + 1, B, A], action i taken in state i
    entropy: Tensor  # [H + 1, B], the policy's entropy in state i
    disagreement: Tensor  # [H, B], u(s_i, a_i)


def priors(deter: Tensor, weights: PriorWeights) -> Tensor:
    """All K members' parameters of the next latent, as batched products: [B, D] -> [K, B, P]."""
    return _heads(deter.expand(weights.hidden_weight.shape[0], *deter.shape), weights)


def _heads(deter: Tensor, weights: PriorWeights) -> Tensor:
    """Each member's parameters of rows of its own: [K, B, D] -> [K, B, P]."""
    hidden = F.elu(torch.baddbmm(weights.hidden_bias, deter, weights.hidden_weight))
    return torch.baddbmm(weights.out_bias, hidden, weights.out_weight).to(deter.dtype)


def choose(params: Tensor, member: Tensor) -> Tensor:
    """Picks a member's parameters: [K, B, P] with member [] (for all) or [B] (for each row) -> [B, P]."""
    if member.dim() == 0:
        return params.index_select(0, member.reshape(1)).squeeze(0)  # params[member] would wait for the device
    return params[member, torch.arange(params.shape[1], device=params.device)]


def in_turn(deter: Tensor, weights: PriorWeights, turn: Tensor) -> Tensor:
    """Row n's parameters by member (n + turn) % K, for a K-th of the work of :func:`priors`: [B, D], [] -> [B, P]."""
    members, rows = weights.hidden_weight.shape[0], deter.shape[0]
    order = (torch.arange(members, device=deter.device) - turn) % members  # member k has the rows from order[k] on
    filled = F.pad(deter, (0, 0, 0, -rows % members)).unflatten(0, (-1, members)).transpose(0, 1)  # [K, B / K, D]
    back = (torch.arange(members, device=deter.device) + turn) % members
    return _heads(filled[order], weights)[back].transpose(0, 1).flatten(0, 1)[:rows]


def mlp(x: Tensor, weights: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Layers of ``(weight [out, in], bias [out])``; ELU between, none after the last."""
    for weight, bias in weights[:-1]:
        x = F.elu(F.linear(x, weight, bias))
    return F.linear(x, *weights[-1])


def _check(
    deter: Tensor,
    stoch: Tensor,
    actor: list[tuple[Tensor, Tensor]],
    cell: CellWeights,
    prior: PriorWeights,
    latent: LatentSpec,
    steps: int,
    disagreement_kind: Disagreement,
) -> None:
    if any(weight.requires_grad for weight in (*cell, *prior)):
        raise ValueError("imagine: a world-model weight requires grad; pass it detached (they get no gradient here)")
    check_disagreement(disagreement_kind, latent.kind)
    if steps < 0:
        raise SettingError("steps", steps, "Give at least 0.")
    if deter.dim() != 2:
        raise SettingError("deter", f"shape {tuple(deter.shape)}", "Give it as [batch, deter].")
    batch, size = deter.shape
    units, hidden, members = cell.input_bias.shape[0], prior.hidden_weight.shape[-1], prior.hidden_weight.shape[0]
    actions, width = actor[-1][1].shape[0] // 2, size + latent.size
    expected: list[tuple[str, Tensor, tuple[int, ...]]] = [("stoch", stoch, (batch, latent.size))]
    for index, (weight, bias) in enumerate(actor):
        out = 2 * actions if index == len(actor) - 1 else weight.shape[0]
        expected += [(f"actor[{index}].weight", weight, (out, width)), (f"actor[{index}].bias", bias, (out,))]
        width = out
    expected += [
        ("cell.input_weight", cell.input_weight, (units, latent.size + actions)),
        ("cell.input_bias", cell.input_bias, (units,)),
        ("cell.gru_weight", cell.gru_weight, (3 * size, units + size)),
        ("cell.norm_weight", cell.norm_weight, (3 * size,)),
        ("cell.norm_bias", cell.norm_bias, (3 * size,)),
        ("prior.hidden_weight", prior.hidden_weight, (members, size, hidden)),
        ("prior.hidden_bias", prior.hidden_bias, (members, 1, hidden)),
        ("prior.out_weight", prior.out_weight, (members, hidden, latent.params)),
        ("prior.out_bias", prior.out_bias, (members, 1, latent.params)),
    ]
    check_tensors("deter", deter, expected)


def imagine_ref(
    deter: Tensor,
    stoch: Tensor,
    actor: list[tuple[Tensor, Tensor]],
    cell: CellWeights,
    prior: PriorWeights,
    latent: LatentSpec,
    key: Key,
    steps: int,
    *,
    action_kind: ActionKind = "trunc_normal",
    min_std: float = 0.1,
    member_choice: MemberChoice = "step",
    disagreement_kind: Disagreement = "mean",
) -> Imagined:
    """The definition of :func:`imagine`, one PyTorch operation at a time. Same arguments and result."""
    _check(deter, stoch, actor, cell, prior, latent, steps, disagreement_kind)
    rows, actions_dim = deter.shape[0], actor[-1][1].shape[0] // 2
    members = prior.hidden_weight.shape[0]
    action_noise = uniform(key, Stream.ACTION, (steps + 1, rows, actions_dim), deter.device, deter.dtype, rows=1)
    latent_noise = draw_noise(latent, key, (steps, rows), deter)
    by_step = member_choice == "step"
    member_shape = (steps,) if by_step else (steps, rows)
    member = integers(key, Stream.MEMBER, members, member_shape, deter.device, None if by_step else 1)

    deters, stochs, actions, entropies, spreads = [deter], [stoch], [], [], []
    for i in range(steps + 1):
        dist = ActionDist(mlp(torch.cat((deter, stoch), -1).detach(), actor), action_kind, min_std)
        action = dist.sample(action_noise[i])
        actions.append(action)
        entropies.append(dist.entropy(action_noise[i]))
        if i == steps:
            break
        deter = transition(deter, stoch, action, cell)
        params = priors(deter, prior)  # [K, B, P]
        stoch = sample(latent, choose(params, member[i]), latent_noise[i])
        spreads.append(disagreement(latent, params, stoch, disagreement_kind))
        deters.append(deter)
        stochs.append(stoch)
    spread = torch.stack(spreads) if spreads else deter.new_zeros(0, rows)
    return Imagined(torch.stack(deters), torch.stack(stochs), torch.stack(actions), torch.stack(entropies), spread)


def imagine(
    deter: Tensor,
    stoch: Tensor,
    actor: list[tuple[Tensor, Tensor]],
    cell: CellWeights,
    prior: PriorWeights,
    latent: LatentSpec,
    key: Key,
    steps: int,
    *,
    action_kind: ActionKind = "trunc_normal",
    min_std: float = 0.1,
    member_choice: MemberChoice = "step",
    disagreement_kind: Disagreement = "mean",
    ops: Ops = "auto",
) -> Imagined:
    """Imagines ``steps`` transitions from each of B start states.

    The actor sees states without gradient; the gradient of what the rollout earns reaches it through actions, latents
    and disagreement. The world model's weights are constants here: pass them detached (``imagine`` refuses others).

    Args:
        deter: [B, D], start states.
        stoch: [B, Z].
        actor: the actor's layers, the last one with 2A outputs.
        cell: input layer and GRU, without gradient.
        prior: the K prior heads, without gradient.
        latent: kind and sizes of z.
        key: names the draws: actions [H + 1, B, A], latents [H, B, S], members [H] or [H, B].
        steps: H >= 0.
        action_kind: the actor's distribution.
        min_std: its smallest std.
        member_choice: one member a step for the whole batch, or one a row.
        disagreement_kind: the estimator of u.
        ops: ``compiled``, ``reference``, or ``auto``: the compiled operator where it was built for this device, takes
            this dtype (float32, under bfloat16 autocast too, and float64) and knows the latent's std (``sigmoid2``).

    Returns:
        The rollout.

    Raises:
        ValueError: where a weight of the world model requires a gradient.
        SettingError: naming the argument whose shape, dtype, device or value is wrong, or ``ops`` where it is
            ``compiled`` and there is no operator for this.
    """
    if (bfloat16 := compiled_products("imagine", ops, deter, latent.uncompiled)) is None:
        return imagine_ref(
            deter,
            stoch,
            actor,
            cell,
            prior,
            latent,
            key,
            steps,
            action_kind=action_kind,
            min_std=min_std,
            member_choice=member_choice,
            disagreement_kind=disagreement_kind,
        )
    _check(deter, stoch, actor, cell, prior, latent, steps, disagreement_kind)
    layers = [tensor for layer in actor for tensor in layer]
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (deter, stoch, *layers))
    outputs = torch.ops.moto.imagine(
        deter,
        stoch,
        layers,
        list(cell),
        list(prior),
        latent.codes,
        *operator_key(key, deter.shape[0]),
        steps,
        get_args(ActionKind).index(action_kind),
        min_std,
        member_choice == "row",
        get_args(Disagreement).index(disagreement_kind),
        bfloat16,
        save,
    )
    return Imagined(*outputs[:5])
