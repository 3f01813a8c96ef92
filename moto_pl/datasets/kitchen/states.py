"""Datasets of kitchen states, in the layouts in which they are published, as episodes of simulator states.

Three layouts are read: Minari's (``D4RL/kitchen/*-v2``: 59 numbers a state), the flat 60 numbers of the first D4RL (30
positions and a goal of 30), alone in a Minari dataset or as the three ``.npy`` files in which the demonstrations are
passed on, and the demonstrations' own MuJoCo logs (``kitchen_demos_multitask/*/*.mjl``).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from minari.dataset.minari_storage import METADATA_FILE_NAME, MinariStorage

from moto_pl.datasets.hdf5_check import check_hdf5
from moto_pl.datasets.minari_files import READ_ERRORS, read_metadata
from moto_pl.datasets.minari_io import DATA_FILE, datasets_root, exists, locate
from moto_pl.envs.kitchen import ACTION_SIZE, POSITIONS, STATE_SIZE, VELOCITIES
from moto_pl.errors import SettingError

STEP_S = 0.08
LOG_SKIP = 40
"""Log records, one a simulation step of 0.002 s, in one step of the environment."""
ACTION_SPEED = 2.0
"""Velocity that an action of 1 asks for, rad/s (m/s for the fingers)."""
ACTION_LIMIT = 0.999
"""Actions made from logged controls are clipped here, as in the published datasets."""
SEQUENCE_FILES = ("observations_seq.npy", "actions_seq.npy", "existence_mask.npy")


@dataclass(frozen=True)
class StateEpisode:
    """An episode of simulator states.

    Attributes:
        name: where it was found.
        positions: float64 [T + 1, 30].
        velocities: float64 [T + 1, 29]; where the dataset holds none, differences of the positions.
        action: float32 [T, 9] in [-1, 1].

    Raises:
        SettingError: wrong shapes, or a number that is not finite or not in range.
    """

    name: str
    positions: np.ndarray
    velocities: np.ndarray
    action: np.ndarray

    def __post_init__(self) -> None:
        steps = len(self.action)
        for key, array, shape in (
            ("positions", self.positions, (steps + 1, POSITIONS)),
            ("velocities", self.velocities, (steps + 1, VELOCITIES)),
            ("actions", self.action, (steps, ACTION_SIZE)),
        ):
            if steps < 1 or array.shape != shape:
                raise SettingError(self.name, f"{key} {array.shape}", f"Expected {shape}, and one step or more.")
        values = np.concatenate([self.positions, self.velocities], axis=1)
        # Far beyond anything in the kitchen, and far below what makes the simulator overflow.
        bad = ~(np.abs(values) < 1e3)
        if bad.any():
            step, place = np.argwhere(bad)[0]
            found = f"{values[step, place]} at number {place} of state {step}"
            raise SettingError(self.name, found, "States must be finite, in radians and metres.")
        wild = ~(np.abs(self.action) <= 1.0)
        if wild.any():
            step, place = np.argwhere(wild)[0]
            found = f"the action {self.action[step, place]} at step {step}"
            raise SettingError(self.name, found, "Actions must be finite and in [-1, 1].")


def split_state(numbers: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions [..., 30] and velocities [..., 29], if there are any, of published states of 59 or 60 numbers.

    59 are the robot's positions and velocities, then the objects'; 60 are all positions, then a goal.

    Raises:
        SettingError: states of another length.
    """
    numbers = np.asarray(numbers, np.float64)
    if numbers.shape[-1:] == (STATE_SIZE,):
        robot, robot_speed, objects, speed = np.split(numbers, [9, 18, 18 + POSITIONS - 9], axis=-1)
        return np.concatenate([robot, objects], axis=-1), np.concatenate([robot_speed, speed], axis=-1)
    if numbers.shape[-1:] == (2 * POSITIONS,):
        return numbers[..., :POSITIONS], None
    found = f"states of {numbers.shape[-1] if numbers.ndim else 0} numbers"
    raise SettingError(name, found, "A kitchen state has 59 numbers (Minari) or 60 (30 positions and a goal).")


def open_states(source: str | os.PathLike[str], download: bool = False) -> StateDataset:
    """Open a dataset of kitchen states.

    Args:
        source: a Minari dataset's id or directory; a directory with ``observations_seq.npy``, ``actions_seq.npy`` and
            ``existence_mask.npy``; or a directory that holds ``.mjl`` logs, at any depth.
        download: ask Minari's remote for an id that is not here.

    Raises:
        SettingError: no such dataset, or one of something else.
    """
    path = Path(source).expanduser()
    if path.is_dir() and all((path / name).is_file() for name in SEQUENCE_FILES):
        return SequenceStates(path)
    if path.is_dir() and not (path / "data").is_dir() and path.name != "data":
        logs = sorted(path.rglob("*.mjl"))
        if not logs:
            fix = f"Give a Minari dataset, a directory with {', '.join(SEQUENCE_FILES)}, or one with .mjl logs."
            raise SettingError("source", f"{path}, which holds no dataset of states", fix)
        return LogStates(path, logs)
    if path.suffix == ".mjl" and path.is_file():
        return LogStates(path, [path])
    if not exists(source):
        if not download:
            found = f"{str(source)!r}, which is not in {datasets_root()}"
            raise SettingError("source", found, "Give a path, or fetch it from Minari's remote with --download.")
        _download(str(source))
    return MinariStates(locate(source))


class StateDataset:
    """Episodes of kitchen states, read one at a time."""

    id: str

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> StateEpisode:
        raise NotImplementedError

    def __iter__(self) -> Iterator[StateEpisode]:
        return (self[index] for index in range(len(self)))


class MinariStates(StateDataset):
    """A Minari dataset whose observation, or whose observation ``observation``, is a kitchen state."""

    def __init__(self, path: Path) -> None:
        data = path if path.name == "data" else path / "data"
        metadata = read_metadata(data / METADATA_FILE_NAME)
        self.id = str(metadata.get("dataset_id", path.name))
        with _reading(self.id, "dataset"):
            self._storage = MinariStorage.read(data)
        space: Any = self._storage.observation_space
        self._key = "observation" if "observation" in getattr(space, "spaces", {}) else None
        leaf = space[self._key] if self._key else space
        shape = getattr(leaf, "shape", None) or (0,)
        action = getattr(self._storage.action_space, "shape", None)
        if len(shape) != 1 or action != (ACTION_SIZE,):
            found = f"observations {leaf} and actions {self._storage.action_space}"
            raise SettingError(self.id, found, "Use a dataset of Franka Kitchen: 59 or 60 numbers and 9 actions.")
        split_state(np.zeros(shape), self.id)
        self._length = int(metadata["total_episodes"])
        if self._length < 1:
            raise SettingError(self.id, "no episodes", "Use a dataset with at least one.")
        with _reading(self.id, "dataset"):
            check_hdf5(data / DATA_FILE)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> StateEpisode:
        name = f"{self.id}, episode {index}"
        with _reading(name, "episode"):
            raw = next(iter(self._storage.get_episodes([index])))
            numbers = raw["observations"][self._key] if self._key else raw["observations"]
            action = np.asarray(raw["actions"], np.float32)
        return _episode(name, np.asarray(numbers), action)


@contextmanager
def _reading(name: str, what: str) -> Iterator[None]:
    """Says what is damaged where Minari or HDF5 cannot read it; an error that says what to do stays as it is."""
    try:
        yield
    except SettingError:
        raise
    except READ_ERRORS as error:
        raise SettingError(name, f"a damaged {what} ({error})", "Copy or download it again.") from error


class SequenceStates(StateDataset):
    """The demonstrations as three arrays: states [T, N, 60], actions [T, N, 9] and a mask [T, N] of what exists."""

    def __init__(self, path: Path) -> None:
        self.id = path.name
        try:
            self._states, self._actions, self._mask = (
                np.load(path / name, mmap_mode="r", allow_pickle=False) for name in SEQUENCE_FILES
            )
        except (OSError, ValueError, EOFError) as error:
            raise SettingError(str(path), f"an array that cannot be read ({error})", "Copy it again.") from error
        shapes = self._states.shape, self._actions.shape, self._mask.shape
        if self._states.ndim != 3 or any(shape[:2] != shapes[0][:2] for shape in shapes) or self._mask.ndim != 2:
            raise SettingError(str(path), f"arrays {shapes}", "Expected [T, N, 60], [T, N, 9] and [T, N].")
        split_state(self._states[0, :0], self.id)

    def __len__(self) -> int:
        return int(self._mask.shape[1])

    def __getitem__(self, index: int) -> StateEpisode:
        length = int(np.asarray(self._mask[:, index]).astype(bool).sum())
        # The last action led nowhere that was recorded.
        action = np.asarray(self._actions[: max(length - 1, 0), index], np.float32)
        return _episode(f"{self.id}, episode {index}", np.asarray(self._states[:length, index]), action)


class LogStates(StateDataset):
    """MuJoCo logs (``.mjl``) of the demonstrations: an episode a file."""

    def __init__(self, path: Path, logs: Sequence[Path]) -> None:
        self.id, self._logs = path.stem, list(logs)

    def __len__(self) -> int:
        return len(self._logs)

    def __getitem__(self, index: int) -> StateEpisode:
        return read_log(self._logs[index])


def read_log(path: Path) -> StateEpisode:
    """Read one MuJoCo log: seven sizes, a name, then records of float32: time, positions, velocities, controls, rest.

    The controls are joint positions asked for; an action is the velocity that leads there in one step.

    Raises:
        SettingError: the file is cut short, cannot be read, or is a log of another model.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingError(str(path), f"a log that cannot be read ({error.strerror})", "Copy it again.") from error
    sizes = struct.unpack("<7i", content[:28]) if len(content) >= 28 else (0,) * 7
    nq, nv, nu, mocap, sensors, user, name = sizes
    if (nq, nv) != (POSITIONS, VELOCITIES) or nu < ACTION_SIZE or min(sizes) < 0:
        found = f"a log with {nq} positions, {nv} velocities and {nu} controls"
        raise SettingError(str(path), found, f"The kitchen has {POSITIONS}, {VELOCITIES} and {ACTION_SIZE}.")
    width = 1 + nq + nv + nu + 7 * mocap + sensors + user
    body = content[28 + name :]
    if not body or len(body) % (4 * width):
        raise SettingError(str(path), "a log that is cut short", "Copy it again.")
    records = np.frombuffer(body, "<f4").reshape(-1, width)[::LOG_SKIP].astype(np.float64)
    positions, velocities, controls = np.split(records[:, 1 : 1 + nq + nv + ACTION_SIZE], [nq, nq + nv], axis=1)
    action = (controls[:-1] - positions[:-1, :ACTION_SIZE]) / (STEP_S * ACTION_SPEED)
    action = np.clip(action, -ACTION_LIMIT, ACTION_LIMIT).astype(np.float32)
    return StateEpisode(path.name, positions, velocities, action)


def _episode(name: str, numbers: np.ndarray, action: np.ndarray) -> StateEpisode:
    positions, velocities = split_state(numbers, name)
    return StateEpisode(name, positions, _differences(positions) if velocities is None else velocities, action)


def _differences(positions: np.ndarray) -> np.ndarray:
    """Velocities [T + 1, 29] that led to each of the positions [T + 1, 30]; the kettle's turning is left at rest."""
    velocities = np.zeros((len(positions), VELOCITIES))
    simple = POSITIONS - 4  # before the quaternion
    velocities[1:, :simple] = np.diff(positions[:, :simple], axis=0) / STEP_S
    return velocities


def _download(dataset_id: str) -> None:
    import minari

    try:
        minari.download_dataset(dataset_id)
    except Exception as error:  # whatever the remote's client raises: the network, access, no such dataset
        found = f"{dataset_id}, which could not be fetched ({type(error).__name__}: {error})"
        raise SettingError(
            "source", found, "Check the id and the network, or copy it here and give its path."
        ) from error
