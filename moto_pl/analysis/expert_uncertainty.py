"""The model's uncertainty about an expert, while it trains."""

from __future__ import annotations

from typing import Any

import lightning as L

from moto_pl.analysis.bound import expert_uncertainty
from moto_pl.analysis.episodes import load_episodes
from moto_pl.errors import SettingError
from moto_pl.ops import Disagreement, Key
from moto_pl.replay.episode import Episode


class ExpertUncertainty(L.Callback):
    """Logs ``bound/expert_uncertainty``, eps_u(pi*) (MOTO, Eq. 12), at each evaluation.

    Args:
        episodes: a dataset of expert episodes.
        horizon: H, steps that the expert's actions are rolled.
        disagreement: the estimator of u.
        max_episodes: the first so many of them are used.
    """

    def __init__(
        self, episodes: str, horizon: int = 15, disagreement: Disagreement = "mean", max_episodes: int = 10
    ) -> None:
        if horizon < 1:
            raise SettingError("horizon", horizon, "Give at least 1 step.")
        if max_episodes < 1:
            raise SettingError("max_episodes", max_episodes, "Give at least 1.")
        self.episodes, self.max_episodes = episodes, max_episodes
        self.horizon, self.disagreement = horizon, disagreement
        self._loaded: list[Episode] = []
        self._as_seen = False  # whether they were read as the agent sees them, which it knows once it is built

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Reads the episodes before anything expensive starts."""
        self._loaded = load_episodes(self.episodes, self.max_episodes, self.horizon + 1)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuses an agent without a world model."""
        if not hasattr(pl_module, "world_model"):
            fix = "Leave the callback out: this agent has no world model."
            raise SettingError("trainer.callbacks", f"ExpertUncertainty for {type(pl_module).__name__}", fix)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs the mean over the episodes."""
        agent: Any = pl_module
        if not self._as_seen:
            self._loaded = load_episodes(self.episodes, self.max_episodes, self.horizon + 1, agent)
            self._as_seen = True
        with agent.acting_weights():
            found = [
                expert_uncertainty(agent.world_model, episode, self.horizon, self.disagreement, Key(0, i))
                for i, episode in enumerate(self._loaded)
            ]
        pl_module.log("bound/expert_uncertainty", sum(found) / len(found), rank_zero_only=True)
