"""Critics on latent states, each with its slow target copy."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from moto_pl.nn.mlp import MLP, EnsembleMLP

ActorValue = Literal["min", "mean", "max"]


class QEnsemble(nn.Module):
    """N critics Q_n(s, a) and their targets, which are copied from time to time."""

    def __init__(self, critics: int, features: int, action: int, layers: int, units: int) -> None:
        super().__init__()
        self.online = EnsembleMLP(critics, features + action, 1, layers, units)
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    def forward(self, features: Tensor, action: Tensor) -> Tensor:
        """Q of all critics, for training them: [..., D + Z], [..., A] -> [N, ...]."""
        return self.online(torch.cat((features, action), -1)).squeeze(-1).float()

    def actor_value(self, features: Tensor, action: Tensor, reduce: ActorValue) -> Tensor:
        """What the actor maximises: the critics' min, mean or max, with gradient to the inputs alone. [...]."""
        q = self.online(torch.cat((features, action), -1), frozen=True).squeeze(-1).float()
        return {"min": q.amin, "mean": q.mean, "max": q.amax}[reduce](0)

    @torch.no_grad()
    def target_value(self, features: Tensor, action: Tensor, member: Tensor) -> Tensor:
        """The target copy of one critic (``member`` [1]), without gradient: [...]."""
        return self.target(torch.cat((features, action), -1), member=member)[0].squeeze(-1).float()

    @torch.no_grad()
    def target_min(self, features: Tensor, action: Tensor) -> Tensor:
        """The least of the targets: [...]."""
        return self.target(torch.cat((features, action), -1)).squeeze(-1).float().amin(0)

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
        """V for training it: [..., D + Z] -> [...]."""
        return self.online(features).squeeze(-1).float()

    def target_value(self, features: Tensor) -> Tensor:
        """The target's V, with gradient to the features alone: [...]."""
        return self.target(features, frozen=True).squeeze(-1).float()

    def update_target(self) -> None:
        """Copies the critic to its target."""
        track(self.online, self.target)


@torch.no_grad()
def track(source: nn.Module, target: nn.Module, share: float = 1.0) -> None:
    """Moves the target's parameters towards the source's by ``share`` of the difference; 1 copies them."""
    for theirs, ours in zip(source.parameters(), target.parameters(), strict=True):
        ours.lerp_(theirs, share)
