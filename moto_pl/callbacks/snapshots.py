"""Weights along a run, for the analyses."""

from __future__ import annotations

from pathlib import Path

import lightning as L

from moto_pl.checkpoints import DurableCheckpointIO

from .run import fitting, run_agent

DIRECTORY = "snapshots"


class Snapshots(L.Callback):
    """Keeps ``snapshots/step_<n>.ckpt``, the weights alone, at each evaluation.

    ``moto analyze bound`` looks at a run's policies and models one after another. Checkpoints keep the newest only.
    """

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the weights that act and predict now."""
        if not trainer.is_global_zero or not fitting(trainer):
            return
        agent = run_agent(pl_module)
        content = {
            "agent": agent.description(),
            "state_dict": agent.state_dict(),
            "average": dict(agent.average.weights),
            "global_step": agent.trained_steps,
        }
        path = Path(trainer.default_root_dir) / DIRECTORY / f"step_{agent.trained_steps:07d}.ckpt"
        DurableCheckpointIO().save_checkpoint(content, path)
