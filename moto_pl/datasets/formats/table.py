"""The formats that are read: how each is recognised, and what opens it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from moto_pl.datasets.formats import d4rl, dreamer, lerobot, minari_source, rlds, robomimic
from moto_pl.datasets.formats.recorded import Source
from moto_pl.errors import SettingError

MAX_FILES = 1_000_000
"""Files that a folder may hold."""


@dataclass(frozen=True)
class Unit:
    """A file or a folder that is one source of a format.

    Attributes:
        format: its name.
        path: where it is.
        objects: of npz episodes of the kitchen: the task's objects.
        counted_in_order: whether their reward counts these.
    """

    format: str
    path: Path
    objects: tuple[str, ...] = ()
    counted_in_order: bool = False


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        title: what it is called in a list.
        recognises: whether a file or a folder is of it; looks at little.
        open: its episodes, of a path.
    """

    title: str
    recognises: Callable[[Path], bool]
    open: Callable[..., Source]


FORMATS: dict[str, Format] = {
    "lerobot": Format("LeRobot v2 and v3 (a folder)", lerobot.recognises, lerobot.LeRobot),
    "robomimic": Format("robomimic, LIBERO (HDF5)", robomimic.recognises, robomimic.Robomimic),
    "minari": Format("Minari (a folder)", minari_source.recognises, minari_source.MinariSource),
    "d4rl": Format("D4RL (HDF5)", d4rl.recognises, d4rl.D4RL),
    "rlds": Format("RLDS (tfrecord)", rlds.recognises, rlds.RLDS),
    "dreamer": Format("DreamerV2 (npz)", dreamer.recognises, dreamer.Npz),
    "dreamerv3": Format("DreamerV3 (npz chunks)", dreamer.recognises_chunks, dreamer.Chunks),
}
"""By the word for each."""


def find_units(paths: Sequence[Path]) -> list[Unit]:
    """What is to be read: each path itself, or the files of one format in a folder, sorted.

    Raises:
        SettingError: a path is missing, of no known format, or they are of several.
    """
    units = [unit for path in paths for unit in _units(path)]
    formats = list(dict.fromkeys(unit.format for unit in units))
    if len(formats) > 1:
        found = f"files of several formats ({', '.join(formats)})"
        raise SettingError("source", found, "Import them one after another, each under its own --output.")
    return units


def _units(path: Path) -> list[Unit]:
    if not path.exists():
        raise SettingError("source", f"{path}, which is not there", "Give a file or a folder.")
    if (found := recognise(path)) is not None:
        return [Unit(found, path)]
    files = sorted(_files(path)) if path.is_dir() else []
    units = [Unit(name, file) for file in files if (name := recognise(file)) is not None]
    if not units:
        known = "; ".join(found.title for found in FORMATS.values())
        raise SettingError("source", f"{path}, which is of no known format", f"Known are: {known}.")
    return units


def recognise(path: Path) -> str | None:
    """The name of a path's format; None for none."""
    return next((name for name, found in FORMATS.items() if found.recognises(path)), None)


@lru_cache(maxsize=4)
def open_unit(unit: Unit) -> Source:
    """Opens a source; the last few stay open."""
    own = (unit.objects, unit.counted_in_order) if unit.format == "dreamer" else ()
    return FORMATS[unit.format].open(unit.path, *own)


def _files(folder: Path) -> Iterator[Path]:
    for number, path in enumerate(folder.rglob("*")):
        if number >= MAX_FILES:
            raise SettingError("source", f"{folder}, with more than {MAX_FILES:,} files", "Give a part of it.")
        if path.is_file() and not path.name.startswith("."):
            yield path
