"""One progress bar for a whole run."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .run import run_agent

#: Seconds between two looks at the figures for a bar: each is read back from its device, which waits for it.
_LOOKS_S = 0.1
_SHOWN = ("loss", "online/success", "eval/return", "eval/success", "eval/success_last", "updates/s")


class RunProgress(ProgressBar):
    """Gradient steps of the run, its phase, and the latest loss, returns and success.

    Where the output is no terminal, a line is printed every ``interval_s`` seconds instead. By hand, on purpose:
    Lightning's bars count the batches of an epoch, of which a run has many short ones.

    Args:
        interval_s: seconds between lines.
    """

    def __init__(self, interval_s: float = 30.0) -> None:
        super().__init__()
        self.interval_s = interval_s
        self._console = Console(stderr=True)
        self._progress: Progress | None = None
        self._enabled = True
        self._shown = 0.0

    def disable(self) -> None:
        """Lightning calls this on all ranks but the first."""
        self._enabled = False

    def enable(self) -> None:
        """The opposite of :meth:`disable`."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Prints above the bar."""
        if self._enabled:
            (self._progress.console if self._progress else self._console).print(*args)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the bar where the run stands."""
        if self._enabled and sys.stderr.isatty():
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}"),
                console=self._console,
            )
            total = run_agent(pl_module).schedule.total_steps
            self._task = self._progress.add_task("", total=total, figures="")
            self._progress.start()
        self._show(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Says what the round begins with."""
        self._show(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar, no oftener than it is drawn."""
        if self._progress is None or time.monotonic() - self._shown >= _LOOKS_S:
            self._show(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Says how the evaluation went."""
        metrics = trainer.callback_metrics
        if self._enabled and "eval/success" in metrics:
            agent = run_agent(pl_module)
            step = agent.trained_steps
            phase = agent.schedule.phase(step)
            self.print(
                f"evaluation after {step} steps ({phase}): success {float(metrics['eval/success']):.2f}, "
                f"at the last step {float(metrics['eval/success_last']):.2f}, "
                f"{float(metrics['eval/success_steps']):.1f} steps in success, "
                f"return {float(metrics['eval/return']):.1f}"
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes the bar down, which has come to its end."""
        self._show(trainer, pl_module)
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Takes the bar down."""
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _show(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._enabled:
            return
        step = trainer.global_step
        now = time.monotonic()
        if self._progress is None and now - self._shown < self.interval_s:
            return
        self._shown = now
        schedule = run_agent(pl_module).schedule
        phase = schedule.describe_step(step)
        metrics = trainer.progress_bar_metrics
        figures = "  ".join(f"{name} {float(metrics[name]):.3g}" for name in _SHOWN if name in metrics)
        if self._progress is not None:
            self._progress.update(self._task, completed=step, description=phase, figures=figures)
        else:
            self._console.print(f"{phase} {step}/{schedule.total_steps}  {figures}", highlight=False)
