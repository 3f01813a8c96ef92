"""Episodes in DreamerV2's npz files: one file an episode, one row a frame."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.progress import track

from moto_pl.data.minari_io import default_id, refuse_existing, write_dataset
from moto_pl.data.raw_episode import clip_rounding
from moto_pl.data.recording import versions
from moto_pl.envs import list_envs, unknown_name
from moto_pl.errors import SettingError
from moto_pl.replay.episode import Episode

KEYS = ("image", "action", "reward", "is_first", "is_last", "is_terminal")
_READ_ERRORS = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


def read_npz(path: str | os.PathLike[str], success_reward: float | None = None) -> Episode:
    """Read and validate one episode.

    Row t of each array holds the action that led to frame t and the reward received with it; row 0 is the reset.

    Args:
        path: an npz file with ``image`` uint8 [T + 1, H, W, 3], ``action`` float [T + 1, A] in [-1, 1], ``reward``
            float [T + 1], and bool ``is_first``, ``is_last``, ``is_terminal`` [T + 1]; other arrays are left unread.
        success_reward: a step with this reward or more is a success; None: any step with a reward above 0.

    Raises:
        SettingError: the file cannot be read, an array is missing or has another shape, type or range, the first row is
            no reset, or there are several episodes in the file.
    """
    path = Path(path)
    try:
        # Without pickle, an array of objects is refused and nothing in the file is executed.
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in KEYS if key not in file.files]
            if missing:
                raise SettingError(str(path), f"no {', '.join(missing)}", f"An episode has {', '.join(KEYS)}.")
            arrays = {key: file[key] for key in KEYS}
    except SettingError:
        raise
    except FileNotFoundError:
        raise SettingError(str(path), "no such file", "Give npz files, or a directory that holds some.") from None
    except _READ_ERRORS as error:
        found = f"a file that cannot be read ({' '.join(str(error).split())})"
        raise SettingError(str(path), found, "Copy it again; object arrays are not read.") from error
    _check_rows(path, arrays)
    reward = arrays["reward"][1:].astype(np.float32)
    terminated = bool(arrays["is_terminal"][-1])
    try:
        return Episode(
            image=arrays["image"],
            action=clip_rounding(arrays["action"][1:].astype(np.float32)),
            reward=reward,
            terminated=terminated,
            truncated=not terminated,
            success=reward > 0 if success_reward is None else reward >= success_reward,
            info={"source": path.name},
        )
    except SettingError as error:
        raise SettingError(f"{path}: {error.setting}", error.found, error.fix) from error


def _check_rows(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    rows = len(arrays["image"]) if arrays["image"].ndim else 0
    for key, ndim, kinds in (
        ("image", 4, "u"),
        ("action", 2, "f"),
        ("reward", 1, "fiu"),
        ("is_first", 1, "b"),
        ("is_last", 1, "b"),
        ("is_terminal", 1, "b"),
    ):
        array = arrays[key]
        if array.ndim != ndim or len(array) != rows or array.dtype.kind not in kinds:
            kind = {"u": "uint8", "f": "float", "fiu": "numbers", "b": "bool"}[kinds]
            fix = f"Expected {kind} with {ndim} dimensions, the first of {rows} as in image."
            raise SettingError(f"{path}: {key}", f"{array.dtype} {array.shape}", fix)
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


def find_npz(sources: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The npz files among ``sources`` and in the directories among them, sorted within each.

    Raises:
        SettingError: a source that is not there, or a directory without an npz file.
    """
    found: list[Path] = []
    for source in map(Path, sources):
        files = sorted(source.glob("*.npz")) if source.is_dir() else [source]
        if not files or not files[0].is_file():
            what = "a directory without npz files" if source.is_dir() else "no such file"
            raise SettingError("npz", f"{source}: {what}", "Give npz files, or a directory that holds some.")
        found += files
    if not found:
        raise SettingError("npz", "nothing", "Give npz files, or a directory that holds some.")
    return found


def import_npz(
    sources: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    env_id: str | None = None,
    success_reward: float | None = None,
    overwrite: bool = False,
) -> Path:
    """Turn DreamerV2's npz episodes into a Minari dataset; every array is validated before anything is in place.

    Args:
        sources: npz files, and directories of them.
        output: dataset id or path; None is named after the first source.
        env_id: the environment that the episodes came from, kept in the dataset; None if unknown.
        success_reward: as in :func:`read_npz`; None in a kitchen task is the number of its objects.
        overwrite: replace a dataset that is there already.

    Returns:
        The dataset's directory.

    Raises:
        SettingError: an unknown environment or one of other actions, a bad file, or a dataset that exists.
    """
    files = find_npz(sources)
    kwargs: dict[str, Any] = {}
    if env_id is not None:
        if env_id not in gym.registry:
            raise unknown_name("env", env_id, list_envs())
        kwargs = dict(gym.spec(env_id).kwargs)
    if success_reward is None and "objects" in kwargs:
        success_reward = float(len(kwargs["objects"]))
    first = Path(sources[0])
    target = output or default_id(f"import/{first.absolute().stem.replace('.', '-')}")
    refuse_existing(target, overwrite)

    def episodes() -> Iterator[Episode]:
        for file in track(files, "importing", transient=True, console=Console(stderr=True)):
            yield read_npz(file, success_reward)

    metadata = {"source": "npz", "episodes": len(files), "versions": versions("minari", "numpy"), "env_kwargs": {}}
    return write_dataset(target, episodes(), env_id, metadata, overwrite)
