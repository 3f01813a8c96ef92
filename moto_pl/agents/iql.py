"""Implicit Q-learning from pixels (Kostrikov et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moto_pl.behaviour.gaussian import BoundedNormal
from moto_pl.errors import SettingError
from moto_pl.ops import Key

from .base import Batch, ParamGroup
from .bc import LogStd
from .model_free import Head, PixelConfig, TDConfig, TwinCriticAgent, td_loss


@dataclass
class AdvantageConfig:
    """IQL's two numbers (paper, appendix C.4).

    Attributes:
        expectile: of the critics' values that V regresses to, in (0, 1).
        temperature: inverse temperature of the advantage weights, 0 or more.
        max_weight: largest advantage weight.
    """

    expectile: float = 0.5
    temperature: float = 3.0
    max_weight: float = 100.0

    def __post_init__(self) -> None:
        if not 0 < self.expectile < 1:
            raise SettingError("advantage.expectile", self.expectile, "Give a number in (0, 1).")
        if self.temperature < 0:
            raise SettingError("advantage.temperature", self.temperature, "Give 0 or more.")
        if not self.max_weight > 0:
            raise SettingError("advantage.max_weight", self.max_weight, "Give a number above 0.")


class IQL(TwinCriticAgent):
    """V by expectile regression, Q by V, and a policy cloned with weights that grow with the advantage.

    The policy is a normal with a learned std that is the same in all states, as in the authors' code. V and the policy
    read the critics' encoder without moving it.

    Args:
        pixels: frames, encoder and heads.
        td: batch, optimiser and temporal differences.
        advantage: expectile and weights.
        seed: keys initial weights and noise.
    """

    def __init__(
        self,
        pixels: PixelConfig | None = None,
        td: TDConfig | None = None,
        advantage: AdvantageConfig | None = None,
        seed: int = 0,
    ) -> None:
        self.advantage = advantage or AdvantageConfig()
        super().__init__(pixels or PixelConfig(), td or TDConfig(), seed, {"advantage": self.advantage})

    def build(self, action_size: int) -> None:
        """Critics, value and policy."""
        super().build(action_size)
        features = self.critic.encoder.out_features
        self.value = Head(features, 1, self.pixels)
        self.actor = Head(features, action_size, self.pixels)
        self.log_std = LogStd(action_size)

    def param_groups(self) -> list[ParamGroup]:
        """Critics with the encoder, value, policy."""
        return [
            self.group("critic", self.critic),
            self.group("value", self.value),
            self.group("actor", self.actor, self.log_std),
        ]

    def policy(self, image: Tensor) -> BoundedNormal:
        """See :meth:`ModelFreeAgent.policy`."""
        return self.actor_dist(self.critic.encoder(image))

    def actor_dist(self, features: Tensor) -> BoundedNormal:
        """The policy on the encoder's features [B, E], without gradient to them."""
        return BoundedNormal(self.actor(features.detach()), self.log_std())

    def state_value(self, features: Tensor) -> Tensor:
        """V on the encoder's features [B, E], without gradient to them: [B]."""
        value: Tensor = self.value(features.detach())
        return value.squeeze(-1).float()

    def losses(self, batch: Batch, key: Key) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Value, critics, policy."""
        data, config = self.transitions(batch, key), self.advantage
        features = self.critic.encoder(data.image)  # [B, E]
        target_q = self.target_q(data.image, data.action)  # [B]
        value = self.state_value(features)
        advantage = (target_q - value).detach()
        weight = advantage_weight(advantage, config.temperature, config.max_weight)
        q = self.critic(features, data.action)
        with torch.no_grad():
            target = self.td_target(data, self.state_value(self.critic.encoder(data.next_image)))
        losses = {
            "value/expectile": expectile_loss(target_q - value, config.expectile),
            "critic/td": td_loss(q, target),
            "actor/clone": -(weight * self.actor_dist(features).log_prob(data.action)).mean(),
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
    weight = (expectile - (error.detach() < 0).float()).abs()
    return (weight * error.square()).mean()


def advantage_weight(advantage: Tensor, temperature: float, max_weight: float) -> Tensor:
    """``exp(temperature * advantage)``, at most ``max_weight`` (IQL, equation 7)."""
    return (temperature * advantage).exp().clamp(max=max_weight)
