"""How fast a run goes, and how much of its time it waits for data."""

from __future__ import annotations

import time
from typing import Any

import lightning as L


class Throughput(L.Callback):
    """Logs ``speed/updates_per_s``, ``speed/env_steps_per_s``, ``speed/data_wait`` and ``speed/exchange``.

    Updates per second count training time alone, env steps per second collecting time alone, over all processes. The
    last two are shares (0 to 1): of training time spent waiting for batches, and of collecting time spent waiting for
    other processes.
    """

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Notes where the counters stand; runs before the agent's own hook collects."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._collect, self._exchange, self._env_steps = data.collect_seconds, data.exchange_seconds, data.env_steps
        self._begun: float | None = None

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The clock starts at the round's first batch; what comes before is collecting."""
        if getattr(self, "_begun", None) is None:
            self._begun, self._step, self._wait = time.perf_counter(), trainer.global_step, 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the time of the last step's end: validation must not count as training."""
        self._ended = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs the round's figures."""
        if getattr(self, "_begun", None) is None:
            return
        assert self._begun is not None
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        seconds = max(self._ended - self._begun, 1e-9)
        figures = {
            "speed/updates_per_s": (trainer.global_step - self._step) / seconds,
            "speed/data_wait": min(1.0, data.round_wait_seconds / seconds),
        }
        collected = data.collect_seconds - getattr(self, "_collect", data.collect_seconds)
        if collected > 0:
            figures["speed/env_steps_per_s"] = (data.env_steps - self._env_steps) / collected
            figures["speed/exchange"] = min(1.0, (data.exchange_seconds - self._exchange) / collected)
        pl_module.log_dict(figures)
        pl_module.log("updates/s", figures["speed/updates_per_s"], prog_bar=True, logger=False)
        self._begun = None
