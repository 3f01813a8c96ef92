"""The report of a run that goes on, written again and again by a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from moto_pl.errors import SettingError


class ReportWriter:
    """Starts ``moto report`` for a run, one at a time, with low priority; what it says of a failure is a warning.

    A process of its own, because drawing takes seconds in which training would wait, and because a page that cannot be
    drawn must not end a run.

    Args:
        run: its directory.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    @property
    def busy(self) -> bool:
        """Whether one is at work."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts one, unless one is at work."""
        if self.busy:
            return
        self._said()
        command = [sys.executable, "-c", _CODE, "report", str(self.run)]
        # A file: a pipe that nobody reads meanwhile would stop it once it is full.
        self._errors = TemporaryFile()
        # In a session of its own: Ctrl-C in the run's terminal is not meant for it.
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=self._errors, start_new_session=True
        )

    def finish(self, timeout_s: float = 120.0) -> None:
        """Waits for the one that is at work; one that takes too long is ended."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._said()

    def _said(self) -> None:
        """Warns of what went wrong in the one that has ended."""
        if self._process is None or self._errors is None:
            return
        with self._errors as file:
            if self._process.wait():
                file.seek(0)
                last = (file.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
                rank_zero_warn(f"The report could not be written ({last}); training goes on.")
        self._process = self._errors = None


#: Of lower priority than training.
_CODE = "import os, runpy; os.nice(10); runpy.run_module('moto_pl.cli', run_name='__main__', alter_sys=True)"


class LiveReport(L.Callback):
    """Writes ``report.html`` again every so many minutes: ``--report_every``.

    The last page, which no longer loads itself again, is written once the run's directory is free: by ``moto fit``.

    Args:
        every_min: minutes between two pages; 0 writes none.
    """

    def __init__(self, every_min: float = 0.0) -> None:
        if not 0 <= every_min < float("inf"):
            raise SettingError("report_every", every_min, "Give minutes, or 0 for no report while the run goes on.")
        self.every_min = every_min
        self._next = 0.0
        self._writer: ReportWriter | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes one where it is time."""
        self._when_due(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes one where it is time."""
        self._when_due(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Waits for the one that is at work, so that an older page does not follow a newer one."""
        if self._writer is not None:
            self._writer.finish()

    def _when_due(self, trainer: L.Trainer) -> None:
        if not self.every_min or not trainer.is_global_zero or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 60 * self.every_min
        self._writer = self._writer or ReportWriter(Path(trainer.default_root_dir))
        self._writer.start()
