"""DreamerV2 (Hafner et al., 2021), as MOTO is measured against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moto_pl.errors import SettingError
from moto_pl.nn import WorldModelConfig
from moto_pl.ops import Ops

from .moto import MOTO
from .settings import BatchConfig, BehaviourConfig, OptimConfig


@dataclass
class DreamerBehaviourConfig(BehaviourConfig):
    """MOTO's behaviour without penalty and without cloning, with DreamerV2's single state value.

    Attributes:
        critic: ``v``.
        disagreement_scale: 0.
        clone_scale: 0.
    """

    critic: Literal["q_ensemble", "v"] = "v"
    disagreement_scale: float = 0.0
    clone_scale: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, theirs in (("critic", "v"), ("disagreement_scale", 0.0), ("clone_scale", 0.0)):
            if getattr(self, name) != theirs:
                fix = f"DreamerV2 has {theirs}; leave it out, or train moto_pl.agents.MOTO."
                raise SettingError(f"behaviour.{name}", getattr(self, name), fix)


class DreamerV2(MOTO):
    """MOTO's model and hyperparameters; imagined returns without penalty, a single state value, nothing cloned.

    It also learns from scratch: ``--data.dataset null --data.offline_steps 0``.

    Args:
        world_model: sizes and losses of the world model.
        behaviour: actor, critic, imagination.
        batch: sizes of a training batch; nothing is cloned.
        optim: learning rates and clipping.
        ops: as in MOTO.
        seed: keys initial weights and noise.
    """

    def __init__(
        self,
        world_model: WorldModelConfig | None = None,
        behaviour: DreamerBehaviourConfig | None = None,
        batch: BatchConfig | None = None,
        optim: OptimConfig | None = None,
        ops: Ops = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__(world_model, behaviour or DreamerBehaviourConfig(), batch, optim, ops, seed)
