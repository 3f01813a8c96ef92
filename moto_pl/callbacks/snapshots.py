"""Weights along a run, and the model's uncertainty about an expert, for the analyses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L

from moto_pl.errors import SettingError
from moto_pl.ops import Disagreement, Key

from .checkpoint import DurableCheckpointIO

if TYPE_CHECKING:
    from moto_pl.replay.episode import Episode

DIRECTORY = "snapshots"


class Snapshots(L.Callback):
    """Keeps ``snapshots/step_<n>.ckpt``, the weights alone, at each evaluation.

    ``moto analyze bound`` looks at a run's policies and models one after another. Checkpoints keep the newest only.
    """

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the weights that act and predict now."""
        if not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        agent: Any = pl_module
        content = {
            "agent": agent.description(),
            "state_dict": agent.state_dict(),
            "average": dict(agent._average),
            "global_step": data.trained_steps,
        }
        path = Path(trainer.default_root_dir) / DIRECTORY / f"step_{data.trained_steps:07d}.ckpt"
        DurableCheckpointIO().save_checkpoint(content, path)


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

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Reads the episodes before anything expensive starts."""
        from moto_pl.analysis.episodes import load_episodes

        self._loaded = load_episodes(self.episodes, self.max_episodes, self.horizon + 1)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuses an agent without a world model."""
        if not hasattr(pl_module, "world_model"):
            fix = "Leave the callback out: this agent has no world model."
            raise SettingError("trainer.callbacks", f"ExpertUncertainty for {type(pl_module).__name__}", fix)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs the mean over the episodes."""
        from moto_pl.analysis.bound import expert_uncertainty

        agent: Any = pl_module
        with agent.acting_weights():
            found = [
                expert_uncertainty(agent.world_model, episode, self.horizon, self.disagreement, Key(0, i))
                for i, episode in enumerate(self._loaded)
            ]
        pl_module.log("bound/expert_uncertainty", sum(found) / len(found), rank_zero_only=True)
