"""D4RL's HDF5: the steps of all episodes one after another, ``terminals`` and ``timeouts`` where one ends.

Row t holds what was seen, the action taken then and its reward; ``next_observations``, where it is, what came of it.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from moto_pl.datasets.formats.hdf5 import READ_ERRORS, camera, checked, holds, is_camera, is_vector, numbers, vector
from moto_pl.datasets.formats.recorded import MAX_STEPS, Recorded, Source, reading
from moto_pl.errors import SettingError

OWN = ("actions", "rewards", "terminals", "timeouts")


class D4RL(Source):
    """A file of D4RL's; see :class:`~moto_pl.datasets.formats.recorded.Source`."""

    def __init__(self, path: Path) -> None:
        self.path = checked(path)
        with reading(path, READ_ERRORS):
            with h5py.File(path, "r") as file:
                self._seen = _observations(file)
                self.cameras = tuple(name for name, place in self._seen.items() if is_camera(file[place]))
                self.vectors = tuple(name for name, place in self._seen.items() if is_vector(file[place]))
                # Numbers a step take little memory, whatever the frames take.
                steps = len(numbers(file, "rewards", 1))
                ends = np.zeros(steps, bool)
                for name in ("terminals", "timeouts"):
                    if name in file:
                        flags = numbers(file, name, 1)
                        if len(flags) != steps:
                            raise SettingError(
                                "source", f"{len(flags)} {name} for {steps} rewards in {path}", "Mend it."
                            )
                        ends |= flags > 0
        if not self.cameras and self._seen:
            fix = "Frames are needed: `moto data render` draws the kitchen's states."
            raise SettingError("source", f"no frames in {path}: states and actions alone", fix)
        ends[-1:] = True
        stops = (np.flatnonzero(ends) + 1).tolist()
        self._spans = [range(start, stop) for start, stop in zip([0, *stops], stops, strict=False)]
        self.columns = ("rewards",)
        self.reward = "rewards"

    def __len__(self) -> int:
        return len(self._spans)

    def read(self, index: int) -> Recorded:
        """One episode."""
        span = self._spans[index]
        place = f"episode {index} of {self.path}"
        if len(span) > MAX_STEPS:
            raise SettingError(
                "source", f"{len(span):,} steps in {place}", "Mark where episodes end: terminals, timeouts."
            )
        with reading(self.path, READ_ERRORS, f"episode {index}"):
            with h5py.File(self.path, "r") as file:
                return self._recorded(file, span, place, index)

    def _recorded(self, file: h5py.File, span: range, place: str, index: int) -> Recorded:
        rows = slice(span.start, span.stop)
        after = {name: f"next_{item}" for name, item in self._seen.items() if f"next_{item}" in file}
        cameras, vectors = {}, {}
        for name, item in self._seen.items():
            held = range(span.start, min(span.stop, len(file[item])))
            if name in self.cameras:
                last = (after[name], span.stop - 1) if name in after else None
                cameras[name] = camera(self.path, item, held, last)
            elif name in self.vectors:
                ended = file[after[name]][span.stop - 1 : span.stop] if name in after else None
                vectors[name] = vector(file[item], rows, ended)
        terminals = file.get("terminals")
        return Recorded(
            place=place,
            cameras=cameras,
            vectors=vectors,
            action=np.asarray(numbers(file, "actions", 2)[rows], np.float32),
            columns={"rewards": numbers(file, "rewards", 1)[rows].astype(np.float32)},
            terminated=terminals is not None and bool(terminals[span.stop - 1]),
            info={"source": f"{self.path.name}/{index}"},
        )


def recognises(path: Path) -> bool:
    """Whether a path is a file of D4RL's."""
    return holds(path, "actions", "rewards")


def _observations(file: h5py.File) -> dict[str, str]:
    """By name, the entries that were seen at each step: ``observations`` itself, what is in it, other frames."""
    found = {}
    seen = file.get("observations")
    if isinstance(seen, h5py.Dataset):
        found["observations"] = "observations"
    elif isinstance(seen, h5py.Group):
        found = {name: f"observations/{name}" for name in seen if isinstance(seen[name], h5py.Dataset)}
    for name, item in file.items():
        if name not in (*OWN, "observations") and not name.startswith("next_") and is_camera(item):
            found[name] = name
    infos = file.get("infos")  # MuJoCo's positions and velocities
    if isinstance(infos, h5py.Group):
        found |= {f"infos/{name}": f"infos/{name}" for name in infos if is_vector(infos[name])}
    return found
