"""Episodes in DreamerV2's npz files: one file an episode, one row a frame."""

from __future__ import annotations

import math
import os
import re
import zipfile
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from moto_pl.datasets.formats.recorded import MAX_PIXELS, damaged
from moto_pl.datasets.raw_episode import clip_rounding
from moto_pl.envs import KITCHEN_OBJECTS
from moto_pl.errors import SettingError
from moto_pl.reading import open_regular
from moto_pl.replay.episode import Episode

KEYS = ("image", "action", "reward", "is_first", "is_last", "is_terminal")
OBJECT_KEY = re.compile(r"reward[ _/](.+)")
"""Name of an array that says whether one object of the kitchen is in place, such as ``reward bottom burner``."""
READ_ERRORS = (
    *(OSError, ValueError, KeyError, EOFError, OverflowError, MemoryError, RecursionError),
    *(RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error),
)
MAX_NPZ = 1 << 32
"""Bytes that an episode's arrays may come to."""


def read_npz(path: str | os.PathLike[str], objects: Sequence[str] = ()) -> Episode:
    """Read and validate one episode; a step with a reward above 0 is a success.

    Row t of each array holds the action that led to frame t and the reward received with it; row 0 is the reset.

    Kitchen episodes may hold an array ``reward <object>`` [T + 1] for an object, above 0 in the rows in which it is in
    place. Those of all seven become the extra ``in_place``; those of the task's objects become ``completed``, and their
    number is the reward, whatever task ``reward`` was of.

    Args:
        path: an npz file with ``image`` uint8 [T + 1, H, W, 3], ``action`` float [T + 1, A] in [-1, 1], ``reward``
            float [T + 1] (unless the task's objects have theirs), and bool ``is_first``, ``is_last``, ``is_terminal``
            [T + 1]; other arrays are left unread.
        objects: the task's objects in the task's order; none for a task without.

    Raises:
        SettingError: the file cannot be read, an array is missing or has another shape, type or range, the first row is
            no reset, or there are several episodes in the file.
    """
    path = Path(path)
    rows = read_rows(path, objects)
    try:
        return Episode(
            image=rows.seen["image"],
            action=clip_rounding(rows.action),
            reward=rows.reward,
            terminated=rows.terminated,
            truncated=not rows.terminated,
            success=rows.reward > 0,
            extras=rows.extras,
            info={"source": path.name},
        )
    except SettingError as error:
        raise SettingError(f"{path}: {error.setting}", error.found, error.fix) from error


class NpzRows(NamedTuple):
    """An episode's file, looked through.

    Attributes:
        seen: frames uint8 [T + 1, H, W, 3], ``image`` among them, and vectors float [T + 1, D], by their names.
        action: float32 [T, A], as it is in the file.
        reward: float32 [T].
        terminated: whether the task ended.
        extras: as in :class:`~moto_pl.replay.episode.Episode`.
    """

    seen: dict[str, np.ndarray]
    action: np.ndarray
    reward: np.ndarray
    terminated: bool
    extras: dict[str, np.ndarray]


def read_rows(path: Path, objects: Sequence[str] = (), counted_in_order: bool = False) -> NpzRows:
    """Reads and validates one episode; see :func:`read_npz`, but actions may have any size.

    Args:
        path: an npz file.
        objects: the task's objects in the task's order; none for a task without.
        counted_in_order: where there is no array for each object, take the task's i-th object to be in place wherever
            ``reward`` is i or more: right for episodes whose reward counts the task's objects and that complete them in
            the task's order.

    Raises:
        SettingError: as :func:`read_npz`, or ``reward`` is no count of the task's objects.
    """
    arrays, of_objects, seen = _read_arrays(path, objects)
    _check_rows(path, arrays)
    states = {name: arrays[key][1:] > 0 for name, key in of_objects.items()}
    if counted_in_order and "reward" in arrays:
        states = _counted(path, arrays["reward"][1:], objects)
    extras = {}
    if set(KITCHEN_OBJECTS) <= states.keys():
        extras["in_place"] = np.stack([states[name] for name in KITCHEN_OBJECTS], axis=1)
    if objects and set(objects) <= states.keys():
        extras["completed"] = np.stack([states[name] for name in objects], axis=1)
    reward = arrays["reward"][1:] if "reward" in arrays else extras["completed"].sum(axis=1)
    return NpzRows(
        {"image": arrays["image"], **seen},
        arrays["action"][1:].astype(np.float32),
        reward.astype(np.float32),
        bool(arrays["is_terminal"][-1]),
        extras,
    )


def is_camera(array: np.ndarray) -> bool:
    """Whether an array holds a frame a row: uint8 [N, H, W, 3]."""
    frames = array.dtype == np.uint8 and array.ndim == 4 and array.shape[3] == 3
    return frames and 0 < array.shape[1] * array.shape[2] <= MAX_PIXELS


def is_vector(array: np.ndarray) -> bool:
    """Whether an array holds a vector of numbers a row: float [N, D]."""
    return array.dtype.kind == "f" and array.ndim == 2 and array.shape[1] > 0


def _read_arrays(
    path: Path, objects: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, str], dict[str, np.ndarray]]:
    """An episode's arrays, by object the key of its own, and what else was seen in each row.

    There is no ``reward`` where all the task's objects have theirs.
    """
    try:
        # Without pickle, an array of objects is refused and nothing in the file is executed.
        check_members(path)
        with np.load(path, allow_pickle=False) as file:
            of_objects = _object_keys(file.files)
            keys = [key for key in KEYS if key != "reward" or not objects or not set(objects) <= of_objects.keys()]
            missing = [key for key in keys if key not in file.files]
            if missing:
                raise SettingError(str(path), f"no {', '.join(missing)}", f"An episode has {', '.join(KEYS)}.")
            arrays = {key: file[key] for key in (*keys, *of_objects.values())}
            seen = dict(_others(file, {*arrays, *KEYS}, arrays["image"]))
            if odd := [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]:
                raise ValueError(f"{odd[0]} is no array")
    except SettingError:
        raise
    except FileNotFoundError:
        raise SettingError(str(path), "no such file", "Give npz files, or a directory that holds some.") from None
    except READ_ERRORS as error:
        raise damaged(path, f"{error}; object arrays are not read") from error
    return arrays, of_objects, seen


def _others(file: Mapping[str, Any], known: Container[str], image: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Further frames, and vectors of as many rows as ``image`` has; all else is left alone, arrays of objects too."""
    for key in file:
        if key in known:
            continue
        with suppress(ValueError):  # of objects
            array = file[key]
            if isinstance(array, np.ndarray) and (
                is_camera(array) or (is_vector(array) and array.shape[:1] == image.shape[:1])
            ):
                yield key, array


def check_members(path: Path) -> None:
    """Raises a ValueError where the members claim more than they hold, before any is unpacked."""
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        for entry in entries:
            if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{entry.filename} is encrypted, or compressed in a way that NumPy does not write")
        if sum(entry.file_size for entry in entries) > MAX_NPZ:
            raise ValueError(f"arrays of more than {MAX_NPZ:,} bytes")
        for entry in entries:
            with archive.open(entry) as member:
                _check_header(member, entry)


def _check_header(member: IO[bytes], entry: zipfile.ZipInfo) -> None:
    """Holds the shape that an array claims against the bytes of its member."""
    version = np.lib.format.read_magic(member)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"{entry.filename} is of a later format")
    try:
        shape, _, dtype = read(member)
    except Exception as error:  # NumPy reads it as Python's own text, which is wrong in many ways
        raise ValueError(f"{entry.filename} has no header ({type(error).__name__})") from None
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize != entry.file_size - member.tell():
        raise ValueError(f"{entry.filename} claims another shape than it holds")


def _object_keys(keys: Iterable[str]) -> dict[str, str]:
    """By object of the kitchen, the key of the array that says when it is in place."""
    matches = ((OBJECT_KEY.fullmatch(key), key) for key in keys)
    named = {match[1].replace("_", " "): key for match, key in matches if match}
    return {name: key for name, key in named.items() if name in KITCHEN_OBJECTS}


def _counted(path: Path, reward: np.ndarray, objects: Sequence[str]) -> dict[str, np.ndarray]:
    """When each of the task's objects is in place [T], of a reward [T] that counts them in the task's order."""
    wrong = np.flatnonzero(~np.isin(reward, np.arange(len(objects) + 1)))
    if len(wrong):
        fix = f"--counted_in_order is for rewards that count the task's {len(objects)} objects: leave it out."
        raise SettingError(f"{path}: reward", f"{reward[wrong[0]]} in row {wrong[0] + 1}", fix)
    return {name: reward > place for place, name in enumerate(objects)}


def _check_rows(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    rows = len(arrays["image"]) if arrays["image"].ndim else 0
    layout = {"image": (4, "u"), "action": (2, "f"), "is_first": (1, "b"), "is_last": (1, "b"), "is_terminal": (1, "b")}
    for key, array in arrays.items():
        ndim, kinds = layout.get(key, (1, "fiu" if key == "reward" else "bfiu"))
        if array.ndim != ndim or len(array) != rows or array.dtype.kind not in kinds:
            kind = {"u": "uint8", "f": "float", "b": "bool"}.get(kinds, "numbers")
            fix = f"Expected {kind} with {ndim} dimensions, the first of {rows} as in image."
            raise SettingError(f"{path}: {key}", f"{array.dtype} {array.shape}", fix)
        if kinds == "bfiu" and np.isnan(array).any():
            raise SettingError(f"{path}: {key}", "NaN", "Give 0 in the rows in which the object is not in place.")
    if rows < 2:
        raise SettingError(f"{path}: image", f"{rows} frames", "An episode has two or more.")
    for key, allowed, where in (("is_first", 0, "first"), ("is_last", rows - 1, "last"), ("is_terminal", -1, "last")):
        wrong = np.flatnonzero(arrays[key])
        wrong = wrong[wrong != allowed % rows]
        if len(wrong):
            raise SettingError(f"{path}: {key}", f"true in row {wrong[0]}", f"Only the {where} row may have it true.")
    if not arrays["is_first"][0]:
        raise SettingError(f"{path}: is_first", "false in row 0", "The first row is the reset: write whole episodes.")
    if np.any(arrays["action"][0] != 0):
        raise SettingError(
            f"{path}: action", "an action in row 0", "Row t holds the action that led to frame t; row 0 has none: zero."
        )
