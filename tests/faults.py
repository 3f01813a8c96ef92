"""A callback that kills or signals its own process at a chosen point of a run; named in a test's configuration."""

from __future__ import annotations

import os
import signal
from typing import Any

import lightning as L


class FaultAt(L.Callback):
    """Sends ``signal_name`` to this process when gradient step ``step`` is reached at ``point``.

    Args:
        step: gradient steps taken.
        point: ``batch_end``; ``round_start`` (before the round's episode is collected); ``first_batch`` (after it).
        signal_name: ``SIGKILL``, ``SIGTERM`` or ``SIGUSR1``.
        rank: the process that it happens to.
    """

    def __init__(self, step: int, point: str = "batch_end", signal_name: str = "SIGKILL", rank: int = 0) -> None:
        self.step, self.point, self.number, self.rank = step, point, signal.Signals[signal_name], rank

    def _at(self, trainer: L.Trainer, point: str) -> None:
        if (trainer.global_step, trainer.global_rank, point) == (self.step, self.rank, self.point):
            os.kill(os.getpid(), self.number)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._at(trainer, "round_start")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._at(trainer, "first_batch")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._at(trainer, "batch_end")


class NaNAt(L.Callback):
    """Makes the rewards of these gradient steps' batches NaN."""

    def __init__(self, steps: list[int]) -> None:
        self.steps = steps

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step in self.steps:
            for part in batch.values():
                part.reward.fill_(float("nan"))
