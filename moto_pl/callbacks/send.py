"""What trackers are told beside the metrics: settings, films, pictures and the table of evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from moto_pl.evaluations import read_evaluations
from moto_pl.reading import is_inside, parse_yaml, read_text

from .run import fitting, run_agent
from .trackers import RemoteTracker, TensorBoardTracker

#: Frames of a film that its picture shows.
SHEET = 4
COLUMNS = ["seeds", "step", "phase", "episodes", "success", "success_last", "success_steps", "return"]


class SendToTrackers(L.Callback):
    """Tells a run's trackers what its directory holds. Each film and table is sent once; a failure is a warning.

    Lightning calls callbacks in their order: this one comes after those that write films.
    """

    def __init__(self) -> None:
        self._told = False  # the settings, in this process

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Opens the trackers before anything expensive starts, and tells them what was asked for."""
        root = Path(trainer.default_root_dir)
        if self._told or not trainer.is_global_zero:
            return
        self._told = True
        for tracker in trackers(trainer):
            tracker.open()
            if stage == "fit" or (root / "config.yaml").is_file():
                tracker.log_settings(_settings(root))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Says at which step an evaluation is.

        Within training Lightning says it: the index, from 0, of the last step that was taken.
        """
        for tracker in trackers(trainer):
            tracker.at = None if fitting(trainer) else max(0, run_agent(pl_module).trained_steps - 1)

    on_test_start = on_validation_start

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leaves the steps to Lightning."""
        for tracker in trackers(trainer):
            tracker.at = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sends the evaluation's films."""
        self._films(trainer, run_agent(pl_module).trained_steps, ("eval", "open_loop"))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sends the film, and the table with the test in it."""
        step = run_agent(pl_module).trained_steps
        self._films(trainer, step, ("test",))
        self._table(trainer, step, "tests")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sends the table of all evaluations."""
        self._table(trainer, trainer.global_step, "evaluations")

    def _films(self, trainer: L.Trainer, step: int, names: tuple[str, ...]) -> None:
        root = Path(trainer.default_root_dir)
        for name in names:
            path = root / "videos" / f"{name}_{step:07d}.mp4"
            for tracker in trackers(trainer) if trainer.is_global_zero and is_inside(path, root) else ():
                if tracker.sent.take([f"videos/{name}"], step):
                    with _warning(str(path)):
                        frames = _small(path)
                        tracker.log_film(f"videos/{name}", path, _sheet(frames), frames, step)

    def _table(self, trainer: L.Trainer, step: int, name: str) -> None:
        rows = list(_rows(Path(trainer.default_root_dir)))
        for tracker in trackers(trainer) if trainer.is_global_zero and rows else ():
            if tracker.sent.take([name], step):
                with _warning(f"The table of {name}"):
                    tracker.log_table(name, COLUMNS, rows, step)


def trackers(trainer: L.Trainer) -> list[RemoteTracker | TensorBoardTracker]:
    """Those of a trainer's loggers that are told more than numbers."""
    return [logger for logger in trainer.loggers if isinstance(logger, RemoteTracker | TensorBoardTracker)]


@contextmanager
def _warning(what: str) -> Iterator[None]:
    """Whatever fails in here is a warning that says what was not sent."""
    try:
        yield
    except Exception as error:  # of decoders and of trackers
        rank_zero_warn(f"{what} could not be sent to a tracker ({error}); the run goes on.")


def _settings(root: Path) -> dict[str, Any]:
    """The run's ``config.yaml``."""
    found = parse_yaml(read_text(root / "config.yaml"))
    return found if isinstance(found, dict) else {}


def _rows(root: Path) -> Iterator[list[Any]]:
    for record in read_evaluations(root):
        success = record.get("success", [])
        if not success:
            continue

        def mean(name: str, record: dict[str, Any] = record) -> float | None:
            values = record.get(name)
            return round(float(np.mean(values)), 4) if values else None

        figures = [mean(name) for name in COLUMNS[4:]]
        yield [record["stage"], record["step"], record.get("phase", ""), len(success), *figures]


def _small(path: Path) -> np.ndarray:
    """A film's frames at half its width and height: uint8 [T, H, W, 3]."""
    reader: Any = imageio.get_reader(path)
    with reader:
        return np.stack([frame[::2, ::2] for frame in reader.iter_data()])


def _sheet(frames: np.ndarray) -> np.ndarray:
    """A few frames of a film, from its first to its last, below each other."""
    chosen = np.linspace(0, len(frames) - 1, min(SHEET, len(frames))).round().astype(int)
    return np.concatenate(list(frames[chosen]))
