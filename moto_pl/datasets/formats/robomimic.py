"""robomimic's HDF5, which robosuite and LIBERO write too: ``data/demo_0/obs/<name>``, ``actions``, ``rewards``.

Row t of ``obs`` is what was seen before ``actions[t]``; ``next_obs``, where it is, ends with the frame after the last.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from moto_pl.datasets.formats.hdf5 import READ_ERRORS, camera, checked, holds, is_camera, is_vector, numbers, vector
from moto_pl.datasets.formats.recorded import Recorded, Source, reading
from moto_pl.errors import SettingError
from moto_pl.reading import parse_json


class Robomimic(Source):
    """A file of robomimic's; see :class:`~moto_pl.datasets.formats.recorded.Source`."""

    def __init__(self, path: Path) -> None:
        self.path = checked(path)
        with reading(path, READ_ERRORS):
            with h5py.File(path, "r") as file:
                data = file["data"]
                #: In the order in which they were recorded: demo_10 after demo_9.
                self.demos = sorted((name for name in data if isinstance(data[name], h5py.Group)), key=_number)
                self.fps = _control_rate(data.attrs.get("env_args"))
                first = data[self.demos[0]] if self.demos else {}
                seen = first.get("obs")
                if not isinstance(seen, h5py.Group):
                    fix = "Render its states first, with robomimic's own script."
                    raise SettingError("source", f"no obs in {path}: states and actions alone", fix)
                self.cameras = tuple(name for name in seen if is_camera(seen[name]))
                self.vectors = tuple(name for name in seen if is_vector(seen[name]))
                self.columns = tuple(name for name in ("rewards", "dones") if name in first)
        self.reward = "rewards" if "rewards" in self.columns else None

    def __len__(self) -> int:
        return len(self.demos)

    def read(self, index: int) -> Recorded:
        """One demonstration."""
        name = self.demos[index]
        with reading(self.path, READ_ERRORS, name):
            with h5py.File(self.path, "r") as file:
                return self._recorded(name, file["data"][name])

    def _recorded(self, name: str, demo: h5py.Group) -> Recorded:
        seen, after = demo["obs"], demo.get("next_obs", {})
        cameras, vectors = {}, {}
        for key, item in seen.items():
            ends = key in after and len(after[key]) == len(item)
            if is_camera(item):
                last = (f"data/{name}/next_obs/{key}", len(item) - 1) if ends else None
                cameras[key] = camera(self.path, f"data/{name}/obs/{key}", range(len(item)), last)
            elif is_vector(item):
                vectors[key] = vector(item, slice(None), after[key][-1:] if ends else None)
        return Recorded(
            place=f"{name} of {self.path}",
            cameras=cameras,
            vectors=vectors,
            action=np.asarray(numbers(demo, "actions", 2), np.float32),
            columns={key: numbers(demo, key, 1).astype(np.float32) for key in self.columns},
            info={"source": f"{self.path.name}/{name}"},
        )


def recognises(path: Path) -> bool:
    """Whether a path is a file of robomimic's."""
    return holds(path, "data") and not holds(path, "actions") and not holds(path, "episode_0")


def _number(name: str) -> tuple[int, str]:
    digits = re.search(r"\d{1,18}", name)
    return int(digits[0]) if digits else -1, name


def _control_rate(env_args: Any) -> float | None:
    """Steps a second, where robosuite's arguments say so."""
    try:
        found = parse_json(env_args, {"env_kwargs": {"control_freq": int | float}}) if env_args is not None else None
    except (ValueError, TypeError, json.JSONDecodeError):
        return None
    rate = float(found["env_kwargs"]["control_freq"]) if found else 0.0
    return rate if 0 < rate < 1e6 else None
