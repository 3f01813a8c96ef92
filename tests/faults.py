"""Callbacks that bring a fault upon their own process at a chosen point of a run."""

from __future__ import annotations

import atexit
import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning as L

from moto_pl.callbacks.evaluation import EvaluateEpisodes
from moto_pl.checkpoints import LAST, DurableCheckpointIO
from power import acknowledge


class FaultAt(L.Callback):
    """Sends ``signal_name`` to this process when gradient step ``step`` is reached at ``point``.

    Args:
        step: gradient steps taken.
        point: ``batch_end``; ``round_start`` (before the round's episode is collected); ``first_batch`` (after it).
        signal_name: ``SIGKILL``, ``SIGTERM`` or ``SIGUSR1``.
        rank: the process that it happens to. Of processes that torchrun starts again it happens to the first alone.
    """

    def __init__(self, step: int, point: str = "batch_end", signal_name: str = "SIGKILL", rank: int = 0) -> None:
        self.step, self.point, self.number, self.rank = step, point, signal.Signals[signal_name], rank

    def _at(self, trainer: L.Trainer, point: str) -> None:
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        if (trainer.global_step, trainer.global_rank, point) == (self.step, self.rank, self.point) and not again:
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


class NetworkDownAt(L.Callback):
    """Takes this machine's network away when gradient step ``step`` has been taken, and notes it in ``network_down``.

    Args:
        step: gradient steps taken.
        link: the network device.
        rank: the process that does it.
    """

    def __init__(self, step: int, link: str, rank: int = 0) -> None:
        self.step, self.link, self.rank = step, link, rank

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            subprocess.run(["ip", "link", "set", self.link, "down"], check=True)
            (Path(trainer.default_root_dir) / "network_down").touch()


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


class WatchedFile:
    """An open file whose writes are seen by ``wrap``, and reach the system at once.

    Args:
        file: the file, opened to be written.
        wrap: makes of the plain write the one that is called.
    """

    def __init__(self, file: Any, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self._file, self.write = file, wrap(self._write)

    def _write(self, data: Any) -> int:
        count: int = self._file.write(data)
        self._file.flush()
        return count

    def writelines(self, parts: Iterable[Any]) -> None:
        for part in parts:
            self.write(part)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> WatchedFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


class AtWrite(L.Callback):
    """Does something at the n-th of the calls by which files are written whole: ``write``, ``fsync``, ``replace``.

    Args:
        call: which call, from 1; 0 is none.
        action: ``kill`` this process, or ``full``: the disk is.
        count: a file to which the number of calls, and the seconds of processor time, are written as the process ends.
    """

    def __init__(self, call: int = 0, action: str = "kill", count: str | None = None) -> None:
        self.calls = 0

        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                self.calls += 1
                if self.calls == call:
                    if action == "full":
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*args, **kwargs)

            return wrapped

        opened: Callable[..., Any] = os.fdopen
        os.fsync, os.replace = wrap(os.fsync), wrap(os.replace)  # type: ignore[assignment]
        os.fdopen = lambda *args, **kwargs: WatchedFile(opened(*args, **kwargs), wrap)  # type: ignore[assignment]
        if count is not None:
            atexit.register(lambda: Path(count).write_text(f"{self.calls} {time.process_time()}"))


class ClockBack(L.Callback):
    """From gradient step ``step`` on, all clocks are a day behind, and run backwards."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step:
            for name in ("time", "monotonic", "perf_counter"):
                original = getattr(time, name)
                begin = original()
                setattr(time, name, lambda original=original, begin=begin: 2 * begin - original() - 86400.0)


class Acknowledge(L.Callback):
    """Notes in the recording of tests/power.py which checkpoints and evaluations are said to be kept.

    Args:
        directory: name of the recorded directory.
    """

    def __init__(self, directory: str) -> None:
        def noted(owner: type, name: str, what: Callable[..., str]) -> None:
            original = getattr(owner, name)

            def then_noted(*args: Any, **kwargs: Any) -> None:
                original(*args, **kwargs)
                acknowledge(f"{directory}/{what(*args)}")

            setattr(owner, name, then_noted)

        def saved(io: Any, checkpoint: dict[str, Any], path: Any, *rest: Any) -> str:
            # A run goes on from the last one; the best may be ahead of it for a moment.
            prefix = "" if Path(path).name == LAST else f"{Path(path).name} "
            return f"{prefix}{checkpoint['global_step']}"

        noted(DurableCheckpointIO, "save_checkpoint", saved)
        noted(EvaluateEpisodes, "_write", lambda recorder, trainer, *rest: f"evaluation {trainer.global_step}")
