"""Behaviour cloning from pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from moto_pl.errors import SettingError
from moto_pl.nn.gaussian import BoundedNormal
from moto_pl.nn.image import Seen
from moto_pl.ops import Key, full
from moto_pl.replay.filters import EpisodeFilter

from .base import Batch, ParamGroup
from .model_free import Head, ModelFreeAgent, PixelConfig, TDConfig, pixel_encoder
from .presets import Preset, Values


@dataclass
class NormalConfig:
    """A policy that is a normal; null is the preset's value.

    Attributes:
        std: the policy's standard deviation, the same in all states: a number above 0, or ``learned``, one for each
            action dimension, 1 at first.
        mean: the policy's mean: ``tanh`` keeps it in (-1, 1); ``linear`` lets it be any number, and clips what acts.
    """

    std: Literal["learned"] | float | None = None
    mean: Literal["tanh", "linear"] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.std, float | int) and not 0 < self.std < math.inf:
            raise SettingError("normal.std", self.std, "Give a number above 0, or learned.")


class BC(ModelFreeAgent):
    """Maximises ln pi(a | s) on the data; online, on what it has collected too.

    Args:
        pixels: frames, encoder and heads.
        td: batch and optimiser; it has no temporal differences.
        normal: the policy.
        filter: which episodes are cloned; the paper's BC clones all.
        preset: what settings that are null become.
        seed: keys initial weights and noise.
    """

    _BOTH: ClassVar[Values] = {
        "pixels.init": "orthogonal",
        "td.actor_lr": "cosine",
        "normal.std": 1.0,
        "normal.mean": "tanh",
    }
    PRESETS: ClassVar[dict[Preset, Values]] = {"paper": _BOTH, "jaxrl2": _BOTH}

    def __init__(
        self,
        pixels: PixelConfig | None = None,
        td: TDConfig | None = None,
        normal: NormalConfig | None = None,
        filter: EpisodeFilter = "none",
        preset: Preset = "paper",
        seed: int = 0,
    ) -> None:
        pixels, td, normal = pixels or PixelConfig(), td or TDConfig(), normal or NormalConfig()
        if pixels.share_encoder is not None:
            raise SettingError("pixels.share_encoder", pixels.share_encoder, "BC has one encoder: leave it out.")
        for name, default in (("gamma", TDConfig.gamma), ("tau", TDConfig.tau), ("target_value", None)):
            if getattr(td, name) != default:
                raise SettingError(f"td.{name}", getattr(td, name), "BC has no critics: leave it out.")
        settings = {"pixels": pixels, "td": td, "normal": normal, "filter": filter, "seed": seed}
        super().__init__(preset, settings, filter)
        self.normal: NormalConfig = self.settings["normal"]

    def build(self, action_size: int) -> None:
        """Encoder and policy."""
        self.encoder = pixel_encoder(self.pixels, self.observation)
        self.actor = Head(action_size, self.pixels, self.encoder.out_features)
        self.log_std = LogStd(action_size, self.normal)

    def param_groups(self) -> list[ParamGroup]:
        """All of it is the policy."""
        return [self.group("actor", self.encoder, self.actor, self.log_std)]

    def policy(self, image: Seen) -> BoundedNormal:
        """See :meth:`ModelFreeAgent.policy`."""
        return normal_policy(self.actor(self.encoder(image)), self.log_std, self.normal)

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
    """A log-std for each action dimension: learned, 0 at first and kept in [-5, 2]; or fixed."""

    def __init__(self, action_size: int, config: NormalConfig) -> None:
        super().__init__()
        self.learned = config.std == "learned"
        if self.learned:
            self.value = nn.Parameter(torch.zeros(action_size))
        else:  # a setting, which weights need not hold
            assert isinstance(config.std, float | int)
            self.register_buffer("value", torch.full((action_size,), math.log(config.std)), persistent=False)

    def forward(self) -> Tensor:
        """[A]."""
        return self.value.clamp(-5.0, 2.0) if self.learned else self.value


def normal_policy(raw: Tensor, log_std: LogStd, config: NormalConfig) -> BoundedNormal:
    """The policy that a network's outputs [..., A] are the mean of, before ``tanh`` where it has one."""
    raw = full(raw)
    return BoundedNormal(torch.tanh(raw) if config.mean == "tanh" else raw, log_std())
