"""What ended a run, where another terminal finds it."""

from __future__ import annotations

import os
import traceback
from datetime import datetime
from pathlib import Path

import lightning as L

from moto_pl import signals
from moto_pl.errors import SettingError
from moto_pl.files import ERRORS, open_to_add


class ErrorLog(L.Callback):
    """Adds to ``errors.log`` what ends training or an evaluation, its last line with when and after which step.

    What stands there is for people: ``moto watch`` shows its last lines. A signal is no error. Every process writes to
    the file on its disk, because the one that failed is the one that knows.
    """

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Writes it down; a disk that refuses must not hide what happened."""
        if isinstance(exception, signals.Stopped | KeyboardInterrupt):
            return
        lines = [] if isinstance(exception, SettingError) else traceback.format_exception(exception)
        where = f"after gradient step {trainer.global_step}"
        if trainer.world_size > 1:
            where += f", process {trainer.global_rank}"
        said = " ".join(str(exception).split())
        when = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
        last = f"{when}, {where}: {type(exception).__name__}: {said}\n"
        try:
            with open_to_add(Path(trainer.default_root_dir) / ERRORS) as file:
                file.write("".join([*lines, last]).encode(errors="replace"))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            pass
