"""The policy pi(a | s) on latent states."""

from __future__ import annotations

from torch import Tensor, nn

from moto_pl.nn.mlp import MLP
from moto_pl.ops import ActionDist, ActionKind


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
        """The policy's distribution in states with ``features`` [..., D + Z]."""
        return ActionDist(self.net(features), self.kind, self.min_std)
