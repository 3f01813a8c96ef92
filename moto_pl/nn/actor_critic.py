"""The policy, the critics with their slow target copies, and small pieces of value expansion; all on latent states."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from moto_pl.nn.mlp import MLP, EnsembleMLP
from moto_pl.ops import ActionDist, ActionKind, Ops, Share, full, lambda_return, total

ActorValue = Literal["min", "mean", "max"]


class Actor(nn.Module):
    """An MLP to the parameters of an :class:`~moto_pl.ops.ActionDist`."""

    def __init__(
        self,
        features: int,
        action: int,
        layers: int,
        units: int,
        kind: ActionKind = "trunc_normal",
        min_std: float = 0.1,
    ) -> None:
        super().__init__()
        self.net = MLP(features, 2 * action, layers, units)
        self.kind: ActionKind = kind
        self.min_std = min_std

    def dist(self, features: Tensor) -> ActionDist:
        """The policy's distribution in states with ``features`` [..., F]."""
        return ActionDist(self.net(features), self.kind, self.min_std)


class QEnsemble(nn.Module):
    """Q critics Q_n(s, a) and their targets, which are copied from time to time."""

    def __init__(self, critics: int, features: int, action: int, layers: int, units: int) -> None:
        super().__init__()
        self.online = EnsembleMLP(critics, features + action, 1, layers, units)
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        """What all critics say, for training them: [..., F], [..., A] -> [Q, ...]."""
        return full(self.online(torch.cat((features, action), -1)).squeeze(-1))

    def actor_value(self, features: Tensor, action: Tensor, reduce: ActorValue) -> Tensor:
        """What the actor maximises: the critics' min, mean or max, with gradient to the inputs alone. [...]."""
        q = full(self.online(torch.cat((features, action), -1), frozen=True).squeeze(-1))
        reduced: Tensor = getattr(q, {"min": "amin", "mean": "mean", "max": "amax"}[reduce])(0)
        return reduced

    @torch.no_grad()
    def target_value(self, features: Tensor, action: Tensor, member: Tensor) -> Tensor:
        """The target copy of one critic (``member`` [1]), without gradient: [...]."""
        return full(self.target(torch.cat((features, action), -1), member=member)[0].squeeze(-1))

    @torch.no_grad()
    def target_min(self, features: Tensor, action: Tensor) -> Tensor:
        """The least of the targets: [...]."""
        return full(self.target(torch.cat((features, action), -1)).squeeze(-1)).amin(0)

    def update_target(self, share: float = 1.0) -> None:
        """Moves the targets towards the critics; see :func:`track`."""
        track(self.online, self.target, share)


class ValueCritic(nn.Module):
    """DreamerV2's single state value V(s) and its target."""

    def __init__(self, features: int, layers: int, units: int) -> None:
        super().__init__()
        self.online = MLP(features, 1, layers, units)
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        """V for training it: [..., F] -> [...]."""
        return full(self.online(features).squeeze(-1))

    def target_value(self, features: Tensor) -> Tensor:
        """The target's V, with gradient to the features alone: [...]."""
        return full(self.target(features, frozen=True).squeeze(-1))

    def update_target(self) -> None:
        """Copies the critic to its target."""
        track(self.online, self.target)


@torch.no_grad()
def track(source: nn.Module, target: nn.Module, share: float = 1.0) -> None:
    """Moves the target's parameters towards the source's by ``share`` of the difference; 1 copies them."""
    for theirs, ours in zip(source.parameters(), target.parameters(), strict=True):
        ours.lerp_(theirs, share)


def trajectory_weights(discount: Tensor, first: Tensor) -> Tensor:
    """w_i, how much step i of a rollout counts: ``first`` times the product of the discounts before it.

    Args:
        discount: of each step [H, B].
        first: [B], 1, or 0 where the rollout starts after an episode's end, so that nothing of it counts.

    Returns:
        [H + 1, B].
    """
    return torch.cat((first.unsqueeze(0), discount)).cumprod(0)


def expand(reward: Tensor, value: Tensor, discount: Tensor, lambda_: float, ops: Ops = "auto") -> tuple[Tensor, Tensor]:
    """Value expansion along a rollout of H states: what its rewards make of the values at them.

    G_{H-1} = v_{H-1}; G_i = r_{i+1} + d_{i+1} ((1 - lambda) v_{i+1} + lambda G_{i+1}).

    Args:
        reward: [H - 1, N].
        value: v_i of each state [H, N].
        discount: [H - 1, N].
        lambda_: weight of longer returns, in [0, 1].
        ops: which operator sums them.

    Returns:
        G_i, and (1 - lambda) v_i + lambda G_i; both [H, N].
    """
    returns = torch.cat((lambda_return(reward, value, discount, lambda_, ops=ops), value[-1:]))
    return returns, (1 - lambda_) * value + lambda_ * returns


def masked_mean(values: Tensor, mask: Tensor, share: Share) -> Tensor:
    """The mean of ``values`` [..., N] where ``mask`` [N], of any dimensions, is 1; 0 where it never is.

    The mask's ones are counted over the whole batch, of which these rows are the ``share``: the processes' mean of what
    this gives is the batch's.
    """
    count = total(mask.sum(), share).clamp(min=1)
    return share.times * (values * mask).sum() / (values.numel() // mask.numel() * count)
