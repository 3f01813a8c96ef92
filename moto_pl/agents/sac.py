"""Soft actor-critic from pixels (Haarnoja et al., 2018), with DrQ's random shifts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from moto_pl.errors import check_above_zero
from moto_pl.nn.gaussian import SquashedNormal
from moto_pl.nn.image import Seen
from moto_pl.ops import Key

from .base import Batch, ParamGroup
from .model_free import (
    ACTOR,
    NEXT_ACTION,
    PixelConfig,
    Reduction,
    TDConfig,
    Transitions,
    TwinCriticAgent,
    reduced,
    td_loss,
)
from .presets import Preset, Values


@dataclass
class EntropyConfig:
    """How the policy's entropy is rewarded; null is the preset's value, but for ``target_entropy``.

    Attributes:
        temperature: initial weight of the entropy, above 0; it is tuned.
        target_entropy: the entropy, in nats, that tuning aims at; null is -A / 2, as in both presets' sources.
        backup: whether the target values count the next action's entropy.
    """

    temperature: float | None = None
    target_entropy: float | None = None
    backup: bool | None = None

    def __post_init__(self) -> None:
        check_above_zero("entropy", self, "temperature")


class Temperature(nn.Module):
    """The weight of the entropy, learned as its logarithm."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self) -> Tensor:
        """Above 0."""
        return self.log.exp()


class SAC(TwinCriticAgent):
    """Twin critics with the entropy in their targets, and an actor that maximises both.

    Args:
        pixels: frames, encoder and heads.
        td: batch, optimiser and temporal differences.
        entropy: the temperature and what it is tuned to.
        actor_value: which of the critics' two values the actor maximises; null is the preset's.
        preset: what settings that are null become.
        seed: keys initial weights and noise.
    """

    PRESETS: ClassVar[dict[Preset, Values]] = {
        "paper": {
            "pixels.share_encoder": False,
            "pixels.init": "orthogonal",
            "td.actor_lr": "cosine",
            "td.target_value": "min",
            "entropy.temperature": 1.0,
            "entropy.backup": False,
            "actor_value": "mean",
        },
        "jaxrl2": {
            "pixels.share_encoder": True,
            "pixels.init": "orthogonal",
            "td.actor_lr": "constant",
            "td.target_value": "mean",
            "entropy.temperature": 0.1,
            "entropy.backup": True,
            "actor_value": "mean",
        },
    }

    def __init__(
        self,
        pixels: PixelConfig | None = None,
        td: TDConfig | None = None,
        entropy: EntropyConfig | None = None,
        actor_value: Reduction | None = None,
        preset: Preset = "paper",
        seed: int = 0,
        **settings: Any,
    ) -> None:
        common = {"pixels": pixels or PixelConfig(), "td": td or TDConfig(), "entropy": entropy or EntropyConfig()}
        super().__init__(preset, {**common, "actor_value": actor_value, "seed": seed, **settings})
        self.entropy: EntropyConfig = self.settings["entropy"]
        self.actor_value: Reduction = self.settings["actor_value"]

    def build(self, action_size: int) -> None:
        """Critics, actor and temperature."""
        super().build(action_size)
        self.actor = self.head(2 * action_size)
        self.temperature = Temperature(cast(float, self.entropy.temperature))
        wanted = self.entropy.target_entropy
        self.target_entropy = -action_size / 2 if wanted is None else wanted

    def param_groups(self) -> list[ParamGroup]:
        """Critics and actor, each with its encoder (a shared one is the critics'), and the temperature."""
        return [
            self.group("critic", self.critic),
            self.group("actor", self.actor),
            self.group("temperature", self.temperature),
        ]

    def policy(self, image: Seen, features: Tensor | None = None) -> SquashedNormal:
        """See :meth:`ModelFreeAgent.policy` and, for ``features``, :meth:`TwinCriticAgent.read`."""
        return SquashedNormal(self.read(self.actor, image, features))

    def losses(self, batch: Batch, key: Key) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Critics, actor, temperature."""
        data = self.transitions(batch, key)
        features = self.critic.encoder(data.image)  # [B, F]
        losses, metrics = self.critic_losses(data, features, key)
        temperature = self.temperature()
        action, log_prob = self.policy(data.image, features).sample(self.noise(data.action, key.fold(ACTOR)))
        q = reduced(self.critic.frozen(features.detach(), action), self.actor_value)  # [B]
        losses["actor/value"] = (temperature.detach() * log_prob - q).mean()
        losses["temperature"] = temperature_loss(temperature, log_prob, self.target_entropy)
        metrics |= {"actor/entropy": -log_prob.detach().mean(), "actor/temperature": temperature.detach()}
        return losses, metrics

    def critic_losses(
        self, data: Transitions, features: Tensor, key: Key
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The critics' losses and metrics."""
        q = self.critic(features, data.action)  # [2, B]
        target = self.td_target(data, self.next_value(data, key))
        return {"critic/td": td_loss(q, target)}, {"critic/value": q.detach().mean(), "critic/target": target.mean()}

    @torch.no_grad()
    def next_value(self, data: Transitions, key: Key) -> Tensor:
        """The target critics' value of the policy's next action, with its entropy where ``backup``: [B]."""
        action, log_prob = self.policy(data.next_image).sample(self.noise(data.action, key.fold(NEXT_ACTION)))
        value = self.target_q(data.next_image, action)
        return value - self.temperature() * log_prob if self.entropy.backup else value


def temperature_loss(temperature: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Falls where the entropy is above its target: its gradient is entropy minus target, times the temperature."""
    return temperature * (-log_prob.detach().mean() - target_entropy)
