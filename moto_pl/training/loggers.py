"""``moto fit --logger``: who is told of a run."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import Logger

from moto_pl.callbacks.trackers import Kind, RemoteTracker, TensorBoardTracker, missing
from moto_pl.errors import SettingError, did_you_mean

REMOTE: tuple[Kind, ...] = get_args(Kind)
#: What ``--logger`` takes. The CSV files are always written: report, compare and watch read them.
LOGGERS = ("csv", "tensorboard", *REMOTE)
_DEFAULT = ("csv", "tensorboard")


def chosen_loggers(given: str | Sequence[str] | None, trainers: object) -> tuple[str, ...]:
    """The names that ``--logger`` gives: a list, or words with commas between them.

    Args:
        given: the setting.
        trainers: ``trainer.logger``, which means Lightning's own kind.

    Raises:
        SettingError: a name that is not known or stands twice, one that is not installed, or both settings.
    """
    if given is None:
        return _DEFAULT
    names = [name.strip() for part in ([given] if isinstance(given, str) else given) for name in str(part).split(",")]
    if trainers not in (None, True):
        raise SettingError("--logger", ",".join(names), "Give it or trainer.logger, not both.")
    for name in names:
        if name not in LOGGERS:
            guess = did_you_mean(name, LOGGERS, n=1)
            raise SettingError("--logger", repr(name), f"{guess}Give some of {', '.join(LOGGERS)}.")
        if names.count(name) > 1:
            raise SettingError("--logger", f"{name}, twice", "Name each once.")
        if name in REMOTE and find_spec(name) is None:
            raise missing(name)
    return tuple(names)


def make_loggers(names: Sequence[str], root: Path, anew: bool) -> list[Logger]:
    """The loggers of a run; CSV files come first, whose directory is where Lightning's profilers write.

    Args:
        names: of ``LOGGERS``.
        root: the run's directory.
        anew: whether trackers begin another curve; see :class:`moto_pl.callbacks.trackers.Sent`.
    """
    loggers: list[Logger] = [CSVLogger(root, name="csv", flush_logs_every_n_steps=1)]
    if "tensorboard" in names:
        loggers.append(TensorBoardTracker(root, anew))
    return [*loggers, *(RemoteTracker(kind, root, anew) for kind in REMOTE if kind in names)]
