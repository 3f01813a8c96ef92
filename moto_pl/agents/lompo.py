"""LOMPO: offline model-based RL from images (Rafailov et al., 2021), as MOTO is measured against it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from moto_pl.errors import check_least
from moto_pl.ops import Disagreement, Ops, disagreement

from .latent_replay import LatentReplayAgent
from .settings import LatentBatchConfig, LatentBehaviourConfig, LatentModelConfig, LatentOptimConfig


@dataclass
class PenaltyConfig:
    """What an imagined reward is lessened by.

    Attributes:
        scale: lambda, the penalty's weight, 0 or more (paper: 5).
        disagreement: the estimator of u; LOMPO's is the spread of the members' log-probabilities of the drawn latent.
    """

    scale: float = 5.0
    disagreement: Disagreement = "log_prob"

    def __post_init__(self) -> None:
        check_least("penalty", self, scale=0)


class LOMPO(LatentReplayAgent):
    """Latent replay with penalised imagined rewards: r - lambda * u (LOMPO, section 4.2).

    Args:
        world_model: sizes and losses of the world model.
        behaviour: policy, critics, imagination.
        batch: sizes of a training batch and of the replay.
        optim: learning rates and clipping.
        penalty: the disagreement's weight and estimator.
        ops: ``compiled`` or ``reference`` operators for observation; ``auto``: compiled where they were built.
        seed: keys initial weights and noise.
    """

    def __init__(
        self,
        world_model: LatentModelConfig | None = None,
        behaviour: LatentBehaviourConfig | None = None,
        batch: LatentBatchConfig | None = None,
        optim: LatentOptimConfig | None = None,
        penalty: PenaltyConfig | None = None,
        ops: Ops = "auto",
        seed: int = 0,
    ) -> None:
        self.penalty_config = penalty or PenaltyConfig()
        super().__init__(world_model, behaviour, batch, optim, ops, seed, {"penalty": self.penalty_config})

    def penalty(self, prior: Tensor, stoch: Tensor) -> Tensor:
        """Lambda * u; see :func:`moto_pl.ops.disagreement`."""
        config = self.penalty_config
        return config.scale * disagreement(self.world_model.latent, prior, stoch, config.disagreement)
