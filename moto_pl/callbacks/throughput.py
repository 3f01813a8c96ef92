"""How fast a run goes, and how much of its time it waits for data."""

from __future__ import annotations

import time
from typing import Any

import lightning as L

from .run import run_data


class Throughput(L.Callback):
    """Logs ``speed/updates_per_s`` and ``speed/data_wait``, which count training time alone.

    The latter is a share (0 to 1): of training time spent waiting for batches. :class:`CollectEpisodes` logs how fast
    collecting goes.
    """

    def __init__(self) -> None:
        self._begun: float | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The clock starts at the round's first batch; what comes before is collecting."""
        if self._begun is None:
            self._begun, self._step = time.perf_counter(), trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the time of the last step's end: validation must not count as training."""
        self._ended = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs the round's figures."""
        if self._begun is None:
            return
        seconds = max(self._ended - self._begun, 1e-9)
        figures = {
            "speed/updates_per_s": (trainer.global_step - self._step) / seconds,
            "speed/data_wait": min(1.0, run_data(trainer).round_wait_seconds / seconds),
        }
        pl_module.log_dict(figures)
        pl_module.log("updates/s", figures["speed/updates_per_s"], prog_bar=True, logger=False)
        self._begun = None
