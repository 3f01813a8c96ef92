"""Trackers of experiments: TensorBoard, wandb and trackio, each told of a run as one curve, resumed or not.

A run that was killed goes on from its last checkpoint, and takes again the steps that it had taken after that. Trackers
only add: what they were sent stays. So each metric is sent up to a gradient step that is kept in the run's directory,
and what comes at that step or before it is not sent again. On a CPU it would be the same to the bit.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import threading
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from PIL import Image

from moto_pl.errors import SettingError
from moto_pl.files import make_directory, naming
from moto_pl.reading import read_json

DIRECTORY = "trackers"
"""Of a run's directory: what each tracker was sent, and the id that it knows the run by."""
PROJECT = "moto_pl"
Kind = Literal["wandb", "trackio"]


class Sent:
    """What a tracker was sent of a run.

    Args:
        path: where that is kept. It is read when it is first asked for: a run that begins anew moves it aside.
        anew: whether to begin another curve, because the run goes back to a checkpoint that the user has named.
    """

    def __init__(self, path: Path, anew: bool = False) -> None:
        self.path, self._anew = path, anew
        self._known: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        """What the tracker knows the run by."""
        return str(self._read()["id"])

    @property
    def rows(self) -> int:
        """How many rows it was sent."""
        return int(self._read()["rows"])

    @property
    def begun_anew(self) -> bool:
        """Whether this is not the run's first curve."""
        return bool(self._read().get("anew", False))

    def take(self, names: Sequence[str], step: int) -> list[str]:
        """The metrics that were not sent yet at this gradient step or a later one; they count as sent from now on."""
        steps = self._read()["steps"]
        new = [name for name in names if step > steps.get(name, -1)]
        if new:
            steps.update(dict.fromkeys(new, step))
            self._read()["rows"] += 1
            self._keep()
        return new

    def _read(self) -> dict[str, Any]:
        if self._known is None:
            found = self._found()
            self._known = found or {"id": uuid.uuid4().hex[:8], "rows": 0, "steps": {}, "anew": self._anew}
            if found is None:
                self._keep()
        return self._known

    def _found(self) -> dict[str, Any] | None:
        try:
            shape = {"id": str, "rows": int, "steps": dict[str, int], "anew?": bool}
            found: dict[str, Any] = read_json(self.path, shape)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            rank_zero_warn(f"{self.path} cannot be read ({error}): {self.path.stem} begins another curve.")
            self._anew = True
            return None
        if not self._anew:
            return found
        self.path.replace(self.path.with_name(f"{self.path.stem}_{found['id']}.json"))
        return None

    def _keep(self) -> None:
        """Before what it says is sent: a kill between the two loses a row, and no row is ever sent twice.

        It is not flushed to the disk, which takes longer than a gradient step may: a kill leaves it whole all the same.
        """
        make_directory(self.path.parent)
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        with naming(self.path):
            temporary.write_text(json.dumps(self._known))
        os.replace(temporary, self.path)


def _say_once() -> None:
    """Keeps TensorBoard's writing thread from showing where a disk refused it: the error is raised again, for a line.

    Python shows what ends a thread, whether or not somebody waits for it.
    """
    before = threading.excepthook
    if getattr(before, "is_ours", False):
        return

    def show(args: threading.ExceptHookArgs) -> None:
        if not (type(args.thread).__name__ == "_AsyncWriterThread" and isinstance(args.exc_value, OSError)):
            before(args)

    show.is_ours = True  # type: ignore[attr-defined]
    threading.excepthook = show


class TensorBoardTracker(TensorBoardLogger):
    """TensorBoard's files in ``<run>/tensorboard``; each metric once at each step."""

    def __init__(self, root: Path, anew: bool = False) -> None:
        super().__init__(root, name="tensorboard", version="")
        _say_once()
        self.sent = Sent(root / DIRECTORY / "tensorboard.json", anew)
        self.at: int | None = None

    @property
    def log_dir(self) -> str:
        """The run's files; of another curve of it, a directory below."""
        directory = Path(str(self.save_dir)) / "tensorboard"
        return str(directory / self.sent.id if self.sent.begun_anew else directory)

    def _writing(self) -> AbstractContextManager[None]:
        return naming(Path(self.log_dir))

    def open(self) -> None:
        """Begins, or goes on with, the run's curve."""
        with self._writing():
            self.experiment  # noqa: B018

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """As the base class, what is new alone, and at once in its file."""
        at = _step(self.at, step)
        if new := self.sent.take(list(metrics), at):
            with self._writing():
                try:
                    super().log_metrics({name: metrics[name] for name in new}, at)
                except ValueError as error:
                    if isinstance(error.__cause__, OSError):  # which Lightning takes for a value that is no number
                        raise error.__cause__ from None
                    raise
                self.experiment.flush()

    @rank_zero_only
    def log_settings(self, settings: dict[str, Any]) -> None:
        """Says what the run was asked for."""
        if self.sent.take(["settings"], 0):
            text = yaml.safe_dump(settings, sort_keys=False)
            with self._writing():
                self.experiment.add_text("settings", "".join(f"    {line}\n" for line in text.splitlines()), 0)

    @rank_zero_only
    def log_film(self, name: str, path: Path, sheet: np.ndarray, frames: np.ndarray, step: int) -> None:
        """Shows a film: its file, a picture of it, uint8 [H, W, 3], and its frames, uint8 [T, H, W, 3].

        TensorBoard plays animated GIFs.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        film = io.BytesIO()
        first, *others = (Image.fromarray(frame) for frame in frames)
        first.save(film, "GIF", save_all=True, append_images=others, duration=60, loop=0)
        height, width = frames.shape[1:3]
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=film.getvalue())
        with self._writing():
            writer = self.experiment._get_file_writer()
            writer.add_summary(Summary(value=[Summary.Value(tag=f"{name}_film", image=image)]), step)
            self.experiment.add_image(name, sheet, step, dataformats="HWC")
            self.experiment.flush()

    @rank_zero_only
    def log_table(self, name: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        """Shows a table."""
        lines = [columns, ["---"] * len(columns), *rows]
        text = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
        with self._writing():
            self.experiment.add_text(name, text, step)
            self.experiment.flush()

    @rank_zero_only
    def save(self) -> None:
        """As the base class."""
        with self._writing():
            super().save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """As the base class."""
        with self._writing():
            super().finalize(status)

    @rank_zero_only
    def close(self, failed: bool) -> None:
        """Ends, for this process."""
        with self._writing():
            self.experiment.close()


class RemoteTracker(Logger):
    """wandb or trackio, which is used in the same way. Their own variables say where it goes, and whether offline.

    Args:
        kind: which of them.
        root: the run's directory.
        anew: whether to begin another curve; see :class:`Sent`.
    """

    def __init__(self, kind: Kind, root: Path, anew: bool = False) -> None:
        super().__init__()
        self.kind, self.root = kind, root
        self.sent = Sent(root / DIRECTORY / f"{kind}.json", anew)
        self.at: int | None = None
        self._library: Any = None
        self._run: Any = None

    @property
    def name(self) -> str:
        """As the base class."""
        return self.kind

    @property
    def version(self) -> str:
        """As the base class."""
        return self.sent.id

    @rank_zero_only
    def open(self) -> None:
        """As :class:`TensorBoardTracker`.

        Raises:
            SettingError: it is not installed, or it cannot begin: without a network, say, or without an account.
        """
        if self._run is not None:
            return
        try:
            self._library = importlib.import_module(self.kind)
        except ImportError:
            raise missing(self.kind) from None
        name = self.root.resolve().name
        try:
            if self.kind == "wandb":
                self._run = self._library.init(
                    project=os.environ.get("WANDB_PROJECT", PROJECT),
                    **{"id": self.sent.id, "name": name, "resume": "allow", "dir": str(self.root)},
                )
                # Rows are counted, which must go up; curves are drawn over gradient steps.
                self._run.define_metric(_AXIS)
                self._run.define_metric("*", step_metric=_AXIS)
            else:
                # It knows a run by its name.
                self._run = self._library.init(
                    project=os.environ.get("TRACKIO_PROJECT", PROJECT),
                    **{"name": f"{name}-{self.sent.id}", "resume": "allow", "embed": False},
                    **{"auto_log_gpu": False, "auto_log_cpu": False},
                )
        except Exception as error:  # of its own kinds, and of whatever it talks through
            found = f"{self.kind}, which cannot begin ({' '.join(str(error).split())[:300]})"
            raise SettingError("--logger", found, _BEGIN[self.kind]) from None

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Settings of agents of one's own that save hyperparameters."""
        self.log_settings({"hparams": dict(params) if isinstance(params, Mapping) else vars(params)})

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Sends what is new."""
        at = _step(self.at, step)
        if new := self.sent.take(list(metrics), at):
            self._send({name: float(metrics[name]) for name in new}, at)

    @rank_zero_only
    def log_settings(self, settings: dict[str, Any]) -> None:
        """As :class:`TensorBoardTracker`."""
        self.open()
        if self.kind == "wandb":
            self._run.config.update(settings, allow_val_change=True)
        else:
            self._run.config.update(settings)

    @rank_zero_only
    def log_film(self, name: str, path: Path, sheet: np.ndarray, frames: np.ndarray, step: int) -> None:
        """As :class:`TensorBoardTracker`."""
        self.open()
        film = self._library.Video(str(path), format="mp4")
        self._send({f"{name}_film": film, name: self._library.Image(sheet)}, step)

    @rank_zero_only
    def log_table(self, name: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        """As :class:`TensorBoardTracker`."""
        self.open()
        self._send({name: self._library.Table(columns=columns, data=rows)}, step)

    def _send(self, row: dict[str, Any], step: int) -> None:
        self.open()
        if self.kind == "wandb":
            self._run.log({**row, _AXIS: step}, step=self.sent.rows)
        else:
            self._run.log(row, step=step)

    @rank_zero_only
    def close(self, failed: bool) -> None:
        """As :class:`TensorBoardTracker`."""
        if self._run is None:
            return
        if self.kind == "wandb":
            self._run.finish(exit_code=int(failed))
        else:
            self._run.finish()
        self._run = None


_AXIS = "trainer/global_step"
_BEGIN = {
    "wandb": "Log in with wandb login, or keep what it is told on the disk: WANDB_MODE=offline.",
    "trackio": "Without TRACKIO_SPACE_ID and TRACKIO_SERVER_URL it keeps what it is told on the disk.",
}


def missing(kind: str) -> SettingError:
    """The error for a library that is not installed."""
    return SettingError("--logger", f"{kind}, which is not installed", f"Install it: pip install 'moto_pl[{kind}]'.")


def _step(at: int | None, step: int | None) -> int:
    """The gradient step of a row: an evaluation outside of training is told by whoever evaluates."""
    return at if at is not None else int(step or 0)
