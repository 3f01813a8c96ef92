"""Behaviour cloning from pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moto_pl.behaviour.filters import EpisodeFilter
from moto_pl.behaviour.gaussian import BoundedNormal
from moto_pl.nn.image import PixelEncoder
from moto_pl.ops import Key

from .base import Batch, ParamGroup
from .model_free import Head, ModelFreeAgent, PixelConfig, TDConfig


class BC(ModelFreeAgent):
    """Maximises ln pi(a | s) on the data; online, on what it has collected too.

    The policy is a normal with a learned std that is the same in all states, as in the public IQL code; the source does
    not say what BC's is.

    Args:
        pixels: frames, encoder and heads.
        td: batch and optimiser; it has no temporal differences.
        filter: which episodes are cloned; the paper's BC clones all.
        seed: keys initial weights and noise.
    """

    def __init__(
        self,
        pixels: PixelConfig | None = None,
        td: TDConfig | None = None,
        filter: EpisodeFilter = "none",
        seed: int = 0,
    ) -> None:
        super().__init__(pixels or PixelConfig(), td or TDConfig(), seed, {"filter": filter}, filter)

    def build(self, action_size: int) -> None:
        """Encoder and policy."""
        self.encoder = PixelEncoder(3 * self.pixels.frame_stack, self.pixels.channels)
        self.actor = Head(self.encoder.out_features, action_size, self.pixels)
        self.log_std = LogStd(action_size)

    def param_groups(self) -> list[ParamGroup]:
        """All of it is the policy."""
        return [self.group("actor", self.encoder, self.actor, self.log_std)]

    def policy(self, image: Tensor) -> BoundedNormal:
        """See :meth:`ModelFreeAgent.policy`."""
        return BoundedNormal(self.actor(self.encoder(image)), self.log_std())

    def losses(self, batch: Batch, key: Key) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The negative log-likelihood of the data's actions."""
        data = self.transitions(batch, key)
        dist = self.policy(data.image)
        metrics = {
            "actor/std": dist.log_std.detach().exp().mean(),
            "actor/error": (dist.mean.detach() - data.action).abs().mean(),
        }
        return {"actor/clone": -dist.log_prob(data.action).mean()}, metrics


class LogStd(nn.Module):
    """A log-std for each action dimension, 0 at first."""

    def __init__(self, action_size: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(action_size))

    def forward(self) -> Tensor:
        """[A]."""
        return self.value
