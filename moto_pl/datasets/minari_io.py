"""Minari datasets by their names, and any local one with an image observation read as episodes.

Nothing here uses the network, and nothing in a dataset is executed or unpickled: spaces are JSON, arrays are HDF5.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium import spaces
from minari.dataset.minari_dataset import DATASET_ID_RE
from minari.dataset.minari_storage import METADATA_FILE_NAME, MinariStorage
from minari.serialization import deserialize_space
from minari.storage.datasets_root_dir import get_dataset_path

import moto_pl.envs
from moto_pl.datasets.hdf5_check import check_hdf5
from moto_pl.datasets.minari_files import READ_ERRORS, damaged, read_metadata
from moto_pl.datasets.offered import (
    drawn_here,
    everything,
    find_cameras,
    is_vector,
    leaves,
    observed,
    one_size,
    vector_sizes,
)
from moto_pl.datasets.raw_episode import RawEpisode
from moto_pl.envs.actions import ActionScale
from moto_pl.envs.observation import Observation, ObservationConfig, joined, stacked
from moto_pl.envs.resizing import resize
from moto_pl.errors import SettingError
from moto_pl.files import check_can_write
from moto_pl.replay.episode import Episode

NAMESPACE = "moto_pl"
"""Namespace of the datasets that this package builds, and the key of its own part of a dataset's metadata."""
DATA_FILE = "main_data.hdf5"


def datasets_root() -> Path:
    """The directory of the local Minari datasets: ``$MINARI_DATASETS_PATH``, else ``~/.minari/datasets``."""
    return get_dataset_path()


def default_id(name: str) -> str:
    """Dataset id of a buildable name: ``metaworld/door-open`` becomes ``moto_pl/metaworld/door-open-v0``."""
    return f"{NAMESPACE}/{name}-v0"


def buildable_names() -> list[str]:
    """The names that ``moto data build`` takes: ``reach``, the kitchen's, and ``metaworld/<task>`` for each task."""
    kitchen = ("kitchen/mixed", "kitchen/partial", "kitchen/replay")
    return ["reach", *kitchen, *(f"metaworld/{task}" for task in moto_pl.envs.METAWORLD_TASKS)]


def short_name(name: str) -> str:
    """The inverse of ``default_id``; other names stay as they are."""
    return re.sub(r"-v\d+$", "", name.removeprefix(f"{NAMESPACE}/"))


def list_datasets() -> list[str]:
    """Ids of the local Minari datasets, sorted; directories whose name begins with a dot are skipped."""
    root = datasets_root()
    found = (path.parent.parent.relative_to(root) for path in root.rglob(f"data/{METADATA_FILE_NAME}"))
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))


class DatasetReader:
    """A local Minari dataset with an image observation, read one episode at a time.

    Minari stores T+1 observations and T actions, as ``Episode`` does. Success per step is, in this order:
    ``infos["success"]`` or ``infos["is_success"]`` (one entry stands for the whole episode, and counts for its last
    step); ``infos["completed"]`` with all objects completed; else a reward greater than zero. Infos may have T rows or,
    as Minari's collector writes them, T+1 with the reset's first, which is dropped. Flat numeric infos without NaN
    become ``Episode.extras``; the episode's attributes, ``Episode.info``.

    Args:
        path: the dataset's directory, holding ``data/metadata.json``, or that ``data`` directory itself.
        image_key: which observation is the image, ``a/b`` for a nested one; None finds it.
        wanted: what is read of its observations; None: of a dataset that this package wrote all cameras, of another's
            the image.
        image_size: height and width to which images are resized that were not drawn by this package; None takes all as
            they are.

    Attributes:
        cameras: the observation that is each camera's image.
        image_shape: height, width, channels of all cameras' images, stacked.
        resized: which cameras' images are resized, and from what, in words; empty where none is.
        observation: what is read, with the sizes of state vectors.

    Raises:
        SettingError: the dataset has no (or no single) image, none of the state vectors, no flat action box, no
            episodes, or cannot be read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        image_key: str | None = None,
        wanted: ObservationConfig | None = None,
        image_size: int | None = None,
    ) -> None:
        path = Path(path)
        self.path = path.parent if path.name == "data" and (path / METADATA_FILE_NAME).is_file() else path
        self.data_path = self.path / "data"
        self.metadata = read_metadata(self.data_path / METADATA_FILE_NAME)
        self.id = str(self.metadata.get("dataset_id", self.path.name))
        self._label = f"dataset {self.id}"
        if not self.data_file.exists():
            raise SettingError(self._label, f"no file {self.data_file}", "Copy or build the dataset again.")
        try:
            self._storage = MinariStorage.read(self.data_path)
        except ImportError as error:
            found = f"the format {self.metadata['data_format']}"
            raise SettingError(self._label, found, 'Run: pip install "minari[arrow]".') from error
        except READ_ERRORS as error:
            raise damaged(self._label, self.data_path / METADATA_FILE_NAME, error) from error
        space = self._storage.observation_space
        self.cameras, sizes = find_cameras(self._label, space, wanted, image_key, NAMESPACE in self.metadata)
        wanted = wanted or ObservationConfig(tuple(self.cameras))
        # What we draw ourselves is drawn in the size that is wanted: resized it would not look like that.
        self._image_size = None if drawn_here(self.own) else image_size
        size = one_size(self._label, sizes, self._image_size)
        self.resized = ", ".join(f"'{name}' of {own[0]}x{own[1]}" for name, own in sizes.items() if own != size)
        self.observation = Observation.of(wanted, vector_sizes(self._label, space, wanted), size[0])
        self.image_shape: tuple[int, int, int] = (*size, self.observation.channels)
        action_space = self._storage.action_space
        if not isinstance(action_space, spaces.Box) or len(action_space.shape) != 1:
            raise SettingError(self._label, f"the action space {action_space}", "Use one with a flat Box of actions.")
        self.action_size = int(action_space.shape[0])
        bounds = ActionScale.of_box(action_space)
        #: Whether the Box of its actions has bounds.
        self.bounded = bounds is not None
        #: What actions in [-1, 1] stand for; of a Box without bounds themselves.
        self.scale = bounds or ActionScale.within(1.0, self.action_size)
        #: Whether an action beyond that counts as its end, rather than being refused.
        self.clips = False
        self._length: int = self.metadata["total_episodes"]
        if self._length < 1:
            raise SettingError(self._label, "no episodes", "Use a dataset with at least one.")
        self._said_rounded = False
        self._check_file()

    @property
    def own(self) -> dict[str, Any]:
        """What this package wrote about the dataset it built (environment, versions, seed, ...); empty for others."""
        own = self.metadata.get(NAMESPACE, {})
        return own if isinstance(own, dict) else {}

    @property
    def vectors(self) -> dict[str, int]:
        """The state vectors among its observations, whether they are read or not, and how many numbers each has."""
        found = leaves(self._storage.observation_space)
        return {key: int(leaf.shape[0]) for key, leaf in found if key and is_vector(leaf)}  # type: ignore[index]

    @property
    def transitions(self) -> int:
        """Steps in all, as the metadata says; 0 where it does not."""
        try:
            return int(self.metadata["total_steps"])
        except READ_ERRORS:
            return 0

    @property
    def longest(self) -> int | None:
        """Steps of the longest episode, as the metadata says; None where it does not."""
        try:
            return max(int(found["total_steps"]) for found in self._storage.get_episode_metadata(range(len(self))))
        except READ_ERRORS:
            return None

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(path.stat().st_size for path in self.data_path.rglob("*") if path.is_file())

    @property
    def data_file(self) -> Path:
        """The file (HDF5) or directory (Arrow) that holds the arrays."""
        return self.data_path / DATA_FILE if self.metadata.get("data_format") == "hdf5" else self.data_path

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Episode]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Episode:
        """Read one episode.

        Raises:
            IndexError: there is no such episode.
            SettingError: the file is damaged, the episode goes on after its end, or a value is not finite or out of
                range (``moto_pl.datasets.raw_episode``).
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            raw = next(iter(self._storage.get_episodes([index])))
            attributes = next(iter(self._storage.get_episode_metadata([index])))
            images = [np.asarray(observed(raw["observations"], key)) for key in self.cameras.values()]
            vectors = [observed(raw["observations"], name) for name in self.observation.state]
            if self.resized and self._image_size is not None:
                images = [np.stack([resize(frame, self._image_size) for frame in image]) for image in images]
            image, action = stacked(images), np.asarray(raw["actions"], np.float32)
            reward = np.asarray(raw["rewards"], np.float32)
            terminations, truncations = np.asarray(raw["terminations"], bool), np.asarray(raw["truncations"], bool)
            infos = raw["infos"] or {}
            vector = joined(vectors)
        except READ_ERRORS as error:
            raise damaged(self._label, self.data_file, error, index) from error
        raw_episode = RawEpisode(
            self._label,
            f"episode {index} of {self.data_file}",
            image,
            action,
            reward,
            terminations,
            truncations,
            infos,
            vector,
            self.scale,
            self.clips,
        )
        if raw_episode.rounded and not self._said_rounded:
            self._said_rounded = True
            warnings.warn(f"{self._label}: actions exceed [-1, 1] by rounding and are clipped", stacklevel=2)
        return raw_episode.episode(self.image_shape, self.action_size, self._info(attributes))

    def own_actions(self) -> np.ndarray:
        """All actions in the dataset's own numbers: float32 [steps, A].

        Raises:
            SettingError: the file is damaged, or a number is not finite.
        """
        found = []
        for index in range(len(self)):
            try:
                found.append(np.asarray(next(iter(self._storage.get_episodes([index])))["actions"], np.float32))
            except READ_ERRORS as error:
                raise damaged(self._label, self.data_file, error, index) from error
            if found[-1].ndim != 2 or found[-1].shape[1] != self.action_size or not np.isfinite(found[-1]).all():
                wrong = f"actions {found[-1].shape}, or one that is not finite, in episode {index} of {self.data_file}"
                raise SettingError(self._label, wrong, f"Expected finite [steps, {self.action_size}]: build it again.")
        return np.concatenate(found)

    def fingerprint(self) -> str:
        """A digest of all that the dataset's files hold: it changes with any byte.

        Reads them once: 3 seconds a gigabyte on a busy core, far less than decoding the images takes.
        """
        digest = hashlib.sha256()
        try:
            for path in sorted(path for path in self.data_path.rglob("*") if path.is_file()):
                with open(path, "rb") as file:
                    content = hashlib.file_digest(file, "sha256").digest()
                digest.update(path.relative_to(self.data_path).as_posix().encode() + b"\0" + content)
        except OSError as error:
            raise damaged(self._label, self.data_path, error) from error
        return digest.hexdigest()

    def check(self, image_size: int | None = None, action_size: int | None = None) -> list[int]:
        """Read the whole dataset and check it against what will be trained, before training.

        Args:
            image_size: expected height and width in pixels; None takes any.
            action_size: expected number of action dimensions; None takes any.

        Returns:
            The length in steps of each episode.

        Raises:
            SettingError: other image or action size, an action outside [-1, 1] or NaN, or a damaged file.
        """
        height, width, _ = self.image_shape
        if image_size is not None and (height, width) != (image_size, image_size):
            fix = f"Build or render the dataset at {image_size}x{image_size}, or set data.image_size to what it has."
            raise SettingError(self._label, f"images of {height}x{width}, not {image_size}x{image_size}", fix)
        if action_size is not None and self.action_size != action_size:
            found = f"actions of {self.action_size} dimensions, not {action_size}"
            raise SettingError(self._label, found, "Use a dataset and an environment of the same task.")
        return [episode.length for episode in self]

    def _info(self, attributes: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
        info: dict[str, str | int | float | bool] = {"source": self.id}
        if "env_id" in self.own:
            info["env_id"] = str(self.own["env_id"])
        for key, value in attributes.items():
            value = value.item() if isinstance(value, np.generic) else value
            plain = isinstance(value, (str, int, bool)) or (isinstance(value, float) and np.isfinite(value))
            if key not in ("id", "total_steps") and plain:
                info[key] = value
        return info

    def _check_file(self) -> None:
        """Notice at opening, not in mid-training, that the file is cut short, or is not what it claims to be."""
        if self.metadata.get("data_format") != "hdf5":
            return
        try:
            check_hdf5(self.data_file)
            with h5py.File(self.data_file, "r") as file:
                if len(self) > len(file):  # before all that the metadata claims are gone through
                    raise ValueError(f"{len(file):,} of the {len(self):,} episodes that the metadata claims")
                missing = [i for i in range(len(self)) if f"episode_{i}" not in file]
        except SettingError:
            raise
        except READ_ERRORS as error:
            raise damaged(self._label, self.data_file, error) from error
        if missing:
            found = f"{len(self) - len(missing)} of {len(self)} episodes in {self.data_file}"
            raise SettingError(self._label, found, "The file is incomplete: copy or build the dataset again.")


def open_dataset(
    name: str | os.PathLike[str],
    image_key: str | None = None,
    wanted: ObservationConfig | None = None,
    image_size: int | None = None,
) -> DatasetReader:
    """Open a local Minari dataset.

    Args:
        name: a Minari dataset id (``moto_pl/metaworld/door-open-v0``), the short name it was built by
            (``metaworld/door-open``), or the path of a directory.
        image_key: which observation is the image; None finds it.
        wanted: what is read of its observations; None as for :class:`DatasetReader`.
        image_size: to which images are resized; as for :class:`DatasetReader`.

    Raises:
        SettingError: no such dataset (the message says what is near and how to build it), or it cannot be read.
    """
    return DatasetReader(locate(name), image_key, wanted, image_size)


def offered(name: str | os.PathLike[str]) -> ObservationConfig:
    """All images and state vectors among the observations of a local Minari dataset.

    Raises:
        SettingError: no such dataset, or one that cannot be read or has no image.
    """
    path = locate(name)
    file = path / ("" if path.name == "data" else "data") / METADATA_FILE_NAME
    try:
        return everything(str(name), deserialize_space(read_metadata(file)["observation_space"]))
    except READ_ERRORS as error:
        if isinstance(error, SettingError):
            raise
        raise damaged("dataset", file, error) from error


def locate(name: str | os.PathLike[str]) -> Path:
    """The directory of an existing dataset; see ``open_dataset`` for ``name`` and the error."""
    path = _find(name)
    if path is None:
        raise _unknown(str(name))
    return path


def exists(name: str | os.PathLike[str]) -> bool:
    """Whether there is a dataset of this name; see ``open_dataset`` for ``name``."""
    return _find(name) is not None


def _find(name: str | os.PathLike[str]) -> Path | None:
    candidates = [Path(name).expanduser()]
    if not _is_path(name):
        root = datasets_root()
        candidates = [root / str(name), root / default_id(str(name)), *candidates]
    found = (path for path in candidates if (path / "data").is_dir() or (path.name == "data" and path.is_dir()))
    return next(found, None)


def target_path(target: str | os.PathLike[str]) -> tuple[Path, str]:
    """Directory and dataset id under which ``write_dataset(target)`` writes.

    Raises:
        SettingError: ``target`` is no valid Minari id of the form ``namespace/name-v0``, nor a path.
    """
    if _is_path(target):
        path = Path(target).expanduser().absolute()
        stem = re.sub(r"[^-\w]", "-", path.name)
        return path, stem if re.search(r"-v\d+$", stem) else f"{stem}-v0"
    match = DATASET_ID_RE.fullmatch(str(target))
    if match is None or match.group("version") is None:
        raise SettingError(
            "output",
            repr(str(target)),
            "Use the form namespace/name-v0 (a namespace of two letters or more), or a path that begins with / or ./.",
        )
    return datasets_root() / str(target), str(target)


def check_target(target: str | os.PathLike[str], overwrite: bool) -> None:
    """Refuses a place for a dataset before anything is made.

    Raises:
        SettingError: ``target`` exists and may not be replaced, is something else than a dataset, or lies where nothing
            can be written.
    """
    path, _ = target_path(target)
    check_can_write("output" if _is_path(target) else "MINARI_DATASETS_PATH", path, file=True)
    if not path.exists():
        return
    if not overwrite:
        raise SettingError(
            "dataset", f"{target}, which is already there", "Choose another name, or overwrite it: --overwrite."
        )
    if not (path / "data" / METADATA_FILE_NAME).is_file() and (not path.is_dir() or any(path.iterdir())):
        raise SettingError("dataset", f"{path}, which is not a dataset", "Choose another name: it is not overwritten.")


def _is_path(name: str | os.PathLike[str]) -> bool:
    return not isinstance(name, str) or name.startswith(("/", ".", "~"))


def _unknown(name: str) -> SettingError:
    if _is_path(name):
        return SettingError("dataset", f"no dataset at {name}", "Give a directory that holds data/metadata.json.")
    names, short = buildable_names(), short_name(name)
    local = list_datasets()
    near = difflib.get_close_matches(name, local, n=3) or difflib.get_close_matches(default_id(short), local, n=3)
    hint = f"Near it, here: {', '.join(near)}. " if near else ""
    if short in names:
        fix = f"Build it with: moto data build {short}"
    elif guesses := difflib.get_close_matches(short, names, n=1, cutoff=0.75):
        fix = f"Did you mean to build: moto data build {guesses[0]}"
    else:
        fix = "List what is there with: moto data list"
    return SettingError("dataset", f"{name!r}, which is not in {datasets_root()}", hint + fix)
