"""How much of a source of others' is whole: every number and every frame is read, from the first episode on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from moto_pl.datasets.formats.recorded import Damaged, Recorded
from moto_pl.datasets.formats.table import FORMATS, find_units, open_unit, recognise
from moto_pl.datasets.minari_io import exists
from moto_pl.errors import MachineError, SettingError


@dataclass(frozen=True)
class Whole:
    """What was read.

    Attributes:
        path: the source.
        title: of its format; empty where that cannot be told.
        episodes: the longest run of whole episodes from the first on.
        reason: what is wrong with the one behind them; empty where there is none.
        cut: whether it was damaged on its way, and not recorded wrongly: an import can then keep what is before it.
    """

    path: Path
    title: str
    episodes: int
    reason: str = ""
    cut: bool = False

    def lines(self) -> Iterator[str]:
        """The report."""
        yield f"{self.path}: {self.episodes} episodes {f'of {self.title} ' if self.title else ''}are whole"
        if not self.reason:
            return
        yield f"behind them: {self.reason}"
        if self.episodes and self.cut:
            yield f"nothing was changed: moto data import {self.path} --keep_whole_episodes takes the {self.episodes}"
        else:
            yield "nothing was changed: copy it again, or leave that out"


def is_source(path: Path) -> bool:
    """Whether a path holds others' episodes, rather than a dataset of Minari's or nothing at all."""
    if not path.exists():
        return False
    try:
        found = recognise(path)
    except Damaged:
        return True
    return found not in (None, "minari") or (found is None and not exists(path))


def look_at_source(path: Path) -> Whole:
    """Reads a source as far as it is whole; nothing is changed.

    Raises:
        SettingError: it is of no known format, or what is wrong does not lie in it.
    """
    open_unit.cache_clear()
    count, title = 0, ""
    try:
        units = find_units([path])
        title = FORMATS[units[0].format].title
        for unit in units:
            source = open_unit(unit)
            for index in track(range(len(source)), "reading", transient=True, console=Console(stderr=True)):
                _read(source.read(index))
                count += 1
    except SettingError as error:
        if isinstance(error, MachineError) or (not title and not isinstance(error, Damaged)):
            raise
        return Whole(path, title, count, str(error.found), isinstance(error, Damaged))
    return Whole(path, title, count)


def _read(recorded: Recorded) -> None:
    """Decodes every frame of an episode, whose numbers were looked at as it was read."""
    for name, camera in recorded.cameras.items():
        found = sum(1 for _ in camera.frames())
        if found != camera.count:
            raise Damaged(f"{name} with {found} frames for its {camera.count} rows in {recorded.place}")
