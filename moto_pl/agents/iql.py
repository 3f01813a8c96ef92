"""Implicit Q-learning from pixels (Kostrikov et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from moto_pl.errors import SettingError, check_above_zero, check_least
from moto_pl.nn.gaussian import BoundedNormal
from moto_pl.nn.image import Seen
from moto_pl.ops import Key, full

from .base import Batch, ParamGroup
from .bc import LogStd, NormalConfig, normal_policy
from .model_free import PixelConfig, TDConfig, TwinCriticAgent, td_loss
from .presets import Preset, Values


@dataclass
class AdvantageConfig:
    """IQL's two numbers (paper, appendix C.4).

    Attributes:
        expectile: the expectile of the critics' values that V regresses to, in (0, 1); null is the preset's.
        temperature: inverse temperature of the advantage weights, 0 or more.
        max_weight: largest advantage weight, above 0.
    """

    expectile: float | None = None
    temperature: float = 3.0
    max_weight: float = 100.0

    def __post_init__(self) -> None:
        if self.expectile is not None and not 0 < self.expectile < 1:
            raise SettingError("advantage.expectile", self.expectile, "Give a number in (0, 1).")
        check_least("advantage", self, temperature=0)
        check_above_zero("advantage", self, "max_weight")


class IQL(TwinCriticAgent):
    """V by expectile regression, Q by V, and a policy cloned with weights that grow with the advantage.

    Args:
        pixels: frames, encoder and heads.
        td: batch, optimiser and temporal differences.
        normal: the policy.
        advantage: expectile and weights.
        preset: what settings that are null become.
        seed: keys initial weights and noise.
    """

    _BOTH: ClassVar[Values] = {
        "pixels.share_encoder": False,
        "pixels.init": "orthogonal",
        "td.actor_lr": "cosine",
        "td.target_value": "min",
        "normal.std": 1.0,
        "normal.mean": "linear",
    }
    PRESETS: ClassVar[dict[Preset, Values]] = {
        "paper": {**_BOTH, "advantage.expectile": 0.5},
        "jaxrl2": {**_BOTH, "advantage.expectile": 0.7},
    }

    def __init__(
        self,
        pixels: PixelConfig | None = None,
        td: TDConfig | None = None,
        normal: NormalConfig | None = None,
        advantage: AdvantageConfig | None = None,
        preset: Preset = "paper",
        seed: int = 0,
    ) -> None:
        settings = {"pixels": pixels or PixelConfig(), "td": td or TDConfig(), "normal": normal or NormalConfig()}
        super().__init__(preset, {**settings, "advantage": advantage or AdvantageConfig(), "seed": seed})
        self.normal: NormalConfig = self.settings["normal"]
        self.advantage: AdvantageConfig = self.settings["advantage"]

    def build(self, action_size: int) -> None:
        """Critics, value and policy."""
        super().build(action_size)
        self.value = self.head(1)
        self.actor = self.head(action_size)
        self.log_std = LogStd(action_size, self.normal)

    def param_groups(self) -> list[ParamGroup]:
        """Critics, value and policy, each with its encoder; a shared one is the critics'."""
        return [
            self.group("critic", self.critic),
            self.group("value", self.value),
            self.group("actor", self.actor, self.log_std),
        ]

    def policy(self, image: Seen, features: Tensor | None = None) -> BoundedNormal:
        """See :meth:`ModelFreeAgent.policy` and, for ``features``, :meth:`TwinCriticAgent.read`."""
        return normal_policy(self.read(self.actor, image, features), self.log_std, self.normal)

    def state_value(self, image: Seen, features: Tensor | None = None) -> Tensor:
        """V of stacked frames: [B]; for ``features`` see :meth:`TwinCriticAgent.read`."""
        return full(self.read(self.value, image, features).squeeze(-1))

    def losses(self, batch: Batch, key: Key) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Value, critics, policy."""
        data, config = self.transitions(batch, key), self.advantage
        features = self.critic.encoder(data.image)  # [B, F]
        target_q = self.target_q(data.image, data.action)  # [B]
        value = self.state_value(data.image, features)
        advantage = (target_q - value).detach()
        weight = advantage_weight(advantage, config.temperature, config.max_weight)
        q = self.critic(features, data.action)
        with torch.no_grad():
            target = self.td_target(data, self.state_value(data.next_image))
        losses = {
            "value/expectile": expectile_loss(target_q - value, cast(float, config.expectile)),
            "critic/td": td_loss(q, target),
            "actor/clone": -(weight * self.policy(data.image, features).log_prob(data.action)).mean(),
        }
        metrics = {
            "critic/value": q.detach().mean(),
            "value/value": value.detach().mean(),
            "actor/advantage": advantage.mean(),
            "actor/weight": weight.mean(),
        }
        return losses, metrics


def expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """Mean of ``|expectile - 1(error < 0)| * error^2`` (IQL, equation 5), for errors of Q - V."""
    weight = (expectile - (error.detach() < 0).to(error)).abs()
    return (weight * error.square()).mean()


def advantage_weight(advantage: Tensor, temperature: float, max_weight: float) -> Tensor:
    """``exp(temperature * advantage)``, at most ``max_weight`` (IQL, equation 7)."""
    return (temperature * advantage).exp().clamp(max=max_weight)
