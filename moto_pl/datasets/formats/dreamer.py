"""Dreamer's npz files: an episode a file (V2), or chunks of a stream of steps (V3's replay).

In V2, row t holds the action that led to frame t. In V3, row t holds the action that was taken at frame t.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from moto_pl.datasets.formats.recorded import Camera, Recorded, Source, reading
from moto_pl.datasets.npz_import import READ_ERRORS, NpzRows, check_members, is_camera, is_vector, read_rows
from moto_pl.errors import SettingError

CHUNK = re.compile(r"(?P<time>\d{8}T\d{6}F\d+)-(?P<own>\w+)-(?P<next>\w+)-\d+\.npz")
"""Name of a chunk: when it was begun, its own mark, that of the chunk that follows, its rows."""


class Npz(Source):
    """An episode of DreamerV2's; see :class:`~moto_pl.datasets.formats.recorded.Source`.

    Args:
        path: the file. It is read when something is asked of it, as there may be thousands.
        objects: as in :func:`~moto_pl.datasets.npz_import.read_rows`.
        counted_in_order: the same.
    """

    columns = ("reward",)
    reward = "reward"

    def __init__(self, path: Path, objects: Sequence[str] = (), counted_in_order: bool = False) -> None:
        self.path, self._objects, self._counted = path, tuple(objects), counted_in_order

    @cached_property
    def _rows(self) -> NpzRows:
        return read_rows(self.path, self._objects, self._counted)

    @cached_property
    def cameras(self) -> tuple[str, ...]:  # type: ignore[override]
        """``image``, and other frames."""
        return tuple(name for name, array in self._rows.seen.items() if name == "image" or is_camera(array))

    @cached_property
    def vectors(self) -> tuple[str, ...]:  # type: ignore[override]
        """Arrays of one vector a frame."""
        return tuple(name for name, array in self._rows.seen.items() if is_vector(array))

    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> Recorded:
        """The episode."""
        rows, cameras, vectors = self._rows, self.cameras, self.vectors
        del self._rows  # it is read once, and takes memory
        return Recorded(
            place=str(self.path),
            cameras={name: Camera.of(rows.seen[name]) for name in cameras},
            vectors={name: rows.seen[name] for name in vectors},
            action=rows.action,
            columns={"reward": rows.reward},
            terminated=rows.terminated,
            extras=rows.extras,
            info={"source": self.path.name},
        )


class Chunks(Source):
    """A replay folder of DreamerV3's; see :class:`~moto_pl.datasets.formats.recorded.Source`.

    Episodes whose first or last row is in no chunk are left out.

    Args:
        path: the folder.
    """

    columns = ("reward",)
    reward = "reward"

    def __init__(self, path: Path) -> None:
        self.path = path
        files = {match["own"]: (file, match["next"]) for file, match in _chunks(path)}
        followed = {after for _, after in files.values()}
        self._episodes: list[list[tuple[Path, int, int]]] = []
        for own in files:
            if own not in followed:  # a stream's first chunk
                self._follow(own, files)
        if not self._episodes:
            raise SettingError("source", f"no whole episode in {path}", "Use a replay with one at least.")
        arrays = _load(self._episodes[0][0][0])
        self.cameras = tuple(name for name, array in arrays.items() if is_camera(array))
        self.vectors = tuple(name for name, array in arrays.items() if is_vector(array) and name != "action")

    def _follow(self, own: str, files: dict[str, tuple[Path, str]]) -> None:
        """Cuts a stream, chunk after chunk, into its episodes."""
        begun: list[tuple[Path, int, int]] | None = None
        seen: set[str] = set()
        while own in files and own not in seen:
            seen.add(own)
            path, own = files[own]
            flags = _load(path, ("is_first", "is_last"))
            start = 0
            for row in range(len(flags["is_first"])):
                if flags["is_first"][row]:
                    begun, start = [], row
                if flags["is_last"][row] and begun is not None:
                    self._episodes.append([*begun, (path, start, row + 1)])
                    begun = None
            if begun is not None:
                begun.append((path, start, len(flags["is_first"])))

    def __len__(self) -> int:
        return len(self._episodes)

    def read(self, index: int) -> Recorded:
        """One episode, of one chunk or several."""
        parts = self._episodes[index]
        place = f"episode {index} of {self.path}"
        names = ("action", "reward", "is_terminal", *self.cameras, *self.vectors)
        found = [{name: rows[start:stop] for name, rows in _load(path, names).items()} for path, start, stop in parts]
        with reading(self.path, (ValueError,), f"episode {index}"):  # chunks of different shapes
            arrays = {name: np.concatenate([part[name] for part in found]) for name in names}
        if arrays["action"].ndim != 2 or arrays["reward"].ndim != 1 or arrays["is_terminal"].ndim != 1:
            shapes = f"action {arrays['action'].shape}, reward {arrays['reward'].shape}"
            raise SettingError("source", f"{shapes} in {place}", "Expected a flat action and one reward a row.")
        return Recorded(
            place=place,
            cameras={name: Camera.of(arrays[name]) for name in self.cameras},
            vectors={name: arrays[name] for name in self.vectors},
            action=arrays["action"][:-1].astype(np.float32),
            columns={"reward": arrays["reward"][1:].astype(np.float32)},
            terminated=bool(arrays["is_terminal"][-1]),
            info={"source": f"{self.path.name}/{index}"},
        )


def recognises(path: Path) -> bool:
    """Whether a path is an episode's file."""
    return path.suffix == ".npz" and path.is_file()


def recognises_chunks(path: Path) -> bool:
    """Whether a path is a folder of chunks."""
    return path.is_dir() and any(True for _ in _chunks(path))


def _chunks(path: Path) -> list[tuple[Path, re.Match[str]]]:
    matches = ((file, CHUNK.fullmatch(file.name)) for file in sorted(path.glob("*.npz")))
    return [(file, match) for file, match in matches if match is not None]


@lru_cache(maxsize=2)
def _load(path: Path, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """A chunk's arrays, of one number of rows."""
    needed = names or ("action", "reward", "is_first", "is_last", "is_terminal")
    with reading(path, READ_ERRORS):
        check_members(path)
        with np.load(path, allow_pickle=False) as file:
            if missing := [name for name in needed if name not in file.files]:
                raise SettingError("source", f"no {', '.join(missing)} in {path}", "Each chunk of a replay has them.")
            arrays = {name: np.asarray(file[name]) for name in names or file.files}
    if len({array.shape[:1] for array in arrays.values()}) != 1:
        raise SettingError("source", f"arrays of different lengths in {path}", "A chunk has as many rows of each.")
    return arrays
