"""Minari datasets of others (HDF5 or Arrow), any of whose cameras may be taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from minari.dataset.minari_storage import METADATA_FILE_NAME, MinariStorage

from moto_pl.datasets.formats.hdf5 import checked
from moto_pl.datasets.formats.recorded import MAX_PIXELS, Camera, Recorded, Source, damaged, reading
from moto_pl.datasets.minari_files import READ_ERRORS, read_metadata
from moto_pl.datasets.minari_io import DATA_FILE
from moto_pl.datasets.offered import is_image, is_vector, leaves, observed
from moto_pl.datasets.raw_episode import column, step_rows
from moto_pl.envs.actions import SUCCESS_KEYS, ActionScale
from moto_pl.errors import MachineError, SettingError


class MinariSource(Source):
    """A Minari dataset's folder; see :class:`~moto_pl.datasets.formats.recorded.Source`."""

    columns = ("rewards",)
    reward = "rewards"

    def __init__(self, path: Path) -> None:
        self.path, self._data = path, path / "data"
        metadata = read_metadata(self._data / METADATA_FILE_NAME)
        if metadata["data_format"] == "hdf5":
            checked(self._data / DATA_FILE)
        try:
            self._storage = MinariStorage.read(self._data)
        except ImportError as error:
            fix = 'Install what reads it: pip install "moto_pl[lerobot]".'
            raise MachineError("source", f"{path} in the format {metadata['data_format']}", fix) from error
        except READ_ERRORS as error:
            raise damaged(path, error) from error
        found = dict(leaves(self._storage.observation_space))
        self.cameras = tuple(name or "observation" for name, space in found.items() if _is_camera(space))
        self._keys = {name or "observation": name for name in found}
        self.vectors = tuple(name or "observation" for name, space in found.items() if is_vector(space))
        space = self._storage.action_space
        #: What the dataset declares; of a Box without bounds nothing.
        self.actions = ActionScale.of_box(space) if isinstance(space, spaces.Box) and len(space.shape) == 1 else None
        self._episodes = int(metadata["total_episodes"])

    def __len__(self) -> int:
        return self._episodes

    def read(self, index: int) -> Recorded:
        """One episode."""
        place = f"episode {index} of {self.path}"
        with reading(self.path, READ_ERRORS, f"episode {index}"):
            raw = next(iter(self._storage.get_episodes([index])))
            names = (*self.cameras, *self.vectors)
            seen = {name: np.asarray(observed(raw["observations"], self._keys[name])) for name in names}
            action = np.asarray(raw["actions"], np.float32)
            steps = len(action)
            rewards = column(np.asarray(raw["rewards"], np.float32))
            terminations = np.asarray(raw["terminations"], bool).reshape(-1)
            infos = raw["infos"] or {}
            extras = {name: rows for name, values in infos.items() if (rows := step_rows(values, steps)) is not None}
        flags = [column(extras.pop(name)) for name in SUCCESS_KEYS if name in extras]
        if terminations[:-1].any():
            found = f"a termination before the last step in {place}"
            raise SettingError("source", found, "Make what follows another episode, and write it again.")
        return Recorded(
            place=place,
            cameras={name: Camera.of(seen[name]) for name in self.cameras},
            vectors={name: seen[name] for name in self.vectors},
            action=action,
            columns={"rewards": rewards},
            success=flags[0] > 0 if flags and flags[0].ndim == 1 else None,
            terminated=bool(terminations[-1:].any()),
            extras=extras,
            info={"source": f"{self.path.name}/{index}"},
        )


def recognises(path: Path) -> bool:
    """Whether a path is a Minari dataset's folder."""
    return (path / "data" / METADATA_FILE_NAME).is_file()


def _is_camera(space: spaces.Space[Any]) -> bool:
    return is_image(space) and space.shape[0] * space.shape[1] <= MAX_PIXELS
