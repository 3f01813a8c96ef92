"""``moto data repair``: keeps what is whole of a dataset or of a run's replay, and moves aside what is not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from minari.dataset.minari_storage import METADATA_FILE_NAME
from minari.serialization import serialize_space

from moto_pl.datasets import salvage
from moto_pl.datasets.formats.whole import is_source, look_at_source
from moto_pl.datasets.hdf5_check import TIME_LIMIT_S, check_hdf5, no_process
from moto_pl.datasets.minari_io import DATA_FILE, DatasetReader, locate
from moto_pl.datasets.staging import staged
from moto_pl.errors import SettingError
from moto_pl.files import sync, write_whole


@dataclass
class DatasetRepair:
    """What is to be done about a dataset.

    Attributes:
        path: its directory.
        metadata: what its metadata say; None where they are damaged.
        problem: what is wrong with them, or with the file as a whole.
        whole: the steps of each episode that is whole, by its name in the file.
        damages: what is wrong with the others.
        arrays: type and shape of each array of the first whole episode.
    """

    path: Path
    metadata: dict[str, Any] | None = None
    problem: str = ""
    whole: dict[str, int] = field(default_factory=dict)
    damages: dict[str, str] = field(default_factory=dict)
    arrays: dict[str, tuple[str, list[int]]] = field(default_factory=dict)

    @property
    def needed(self) -> bool:
        """Whether anything is wrong."""
        return bool(self.problem or self.damages)

    @property
    def aside(self) -> Path:
        """Where the dataset goes as it is; ``moto data list`` does not see it there."""
        names = (f".{self.path.name}.damaged{f'-{number}' if number else ''}" for number in range(10**6))
        return next(path for path in map(self.path.with_name, names) if not path.exists())

    def apply(self) -> None:
        """Puts a dataset of the whole episodes in its place, and moves it aside as it is; nothing is deleted.

        Raises:
            SettingError: what is whole cannot be copied, or is no dataset.
        """
        if not self.whole:
            self._move_aside()
            return
        with staged(self.path) as directory:
            data = directory / "data"
            data.mkdir()
            source, target = self.path / "data" / DATA_FILE, data / DATA_FILE
            *_, last = _salvage(["copy", str(source), str(target), list(self.whole)], source) or [{}]
            if "done" not in last:
                found = f"episodes of {source} that cannot be copied ({last.get('failed', 'the HDF5 library crashed')})"
                raise SettingError("dataset", found, "Copy or build the dataset again; nothing was changed.")
            metadata = {**self._metadata(), "total_episodes": len(self.whole), "total_steps": sum(self.whole.values())}
            metadata["dataset_size"] = round(target.stat().st_size / 1e6, 1)  # as Minari counts
            write_whole(data / METADATA_FILE_NAME, json.dumps(metadata).encode())
            DatasetReader(directory)
            self._move_aside()

    def lines(self) -> Iterator[str]:
        """The report."""
        yield f"{self.path}: {len(self.whole)} episodes are whole, {len(self.damages)} are not"
        if self.problem:
            yield f"data: {self.problem}"
        for name, why in self.damages.items():
            yield f"{name}: {why}; left out"
        if self.needed:
            kept = f"a dataset of the {len(self.whole)} takes its place" if self.whole else "nothing takes its place"
            yield f"the dataset as it is goes to {self.aside}; {kept}"

    def _move_aside(self) -> None:
        self.path.rename(self.aside)
        sync(self.path.parent)

    def _metadata(self) -> dict[str, Any]:
        """The dataset's own; where they are damaged, those that its arrays say. What else they said is lost."""
        if self.metadata is not None:
            return self.metadata
        observations: dict[str, Any] = {}
        for name, (dtype, shape) in self.arrays.items():
            if name.split("/")[0] == "observations":
                *groups, leaf = name.split("/")[1:] or ["observations"]
                place = observations
                for group in groups:
                    place = place.setdefault(group, {})
                place[leaf] = _box(dtype, shape[1:])
        whole = observations.get("observations") or _dict(observations)
        dtype, shape = self.arrays["actions"]
        return {
            "dataset_id": f"{self.path.name}-v0",
            "data_format": "hdf5",
            "jpeg_encoding": False,
            "observation_space": serialize_space(whole),
            "action_space": serialize_space(spaces.Box(-1.0, 1.0, tuple(shape[1:]), np.dtype(dtype).type)),
        }


def _box(dtype: str, shape: list[int]) -> spaces.Box:
    kind = np.dtype(dtype)
    if kind.kind not in "fiu":
        raise SettingError(
            "dataset", f"observations of type {dtype}, and no metadata", "Copy it from its source again."
        )
    low, high = (-np.inf, np.inf) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
    return spaces.Box(low, high, tuple(shape), kind.type)


def _dict(parts: Mapping[str, Any]) -> spaces.Dict:
    return spaces.Dict({name: part if isinstance(part, spaces.Space) else _dict(part) for name, part in parts.items()})


def look_at_dataset(path: Path) -> DatasetRepair:
    """Reads every byte of a dataset; nothing is changed.

    Raises:
        SettingError: it is not of the format HDF5, or no process could look through it.
    """
    found = DatasetRepair(path.parent if path.name == "data" and not (path / "data").is_dir() else path)
    file = found.path / "data" / DATA_FILE
    try:
        metadata = json.loads((found.path / "data" / METADATA_FILE_NAME).read_bytes())
        claimed = int(metadata["total_episodes"])
        if not all(isinstance(metadata[name], str) for name in ("observation_space", "action_space", "data_format")):
            raise ValueError("not Minari's")
        found.metadata = metadata
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        found.problem, claimed = f"{METADATA_FILE_NAME} is damaged or missing ({error}), and made anew", 0
    if found.metadata is not None and found.metadata["data_format"] != "hdf5":
        raise SettingError("dataset", f"the format {found.metadata['data_format']}", "Only HDF5 can be repaired.")
    if not file.is_file():
        found.problem = f"no file {file}"
        return found
    # A file holds no more episodes than it has room for, whatever its metadata say.
    _look_through(found, file, min(claimed, file.stat().st_size // 100))
    try:
        check_hdf5(file)
    except SettingError:
        raise
    except (ValueError, OSError, RuntimeError) as error:
        found.problem = found.problem or f"{file.name}: {error}"
    if not found.problem and claimed != len(found.whole) + len(found.damages):
        found.problem = f"{METADATA_FILE_NAME} says {claimed} episodes"
    return found


def _look_through(found: DatasetRepair, file: Path, claimed: int) -> None:
    """Asks child processes about each episode; one that an episode makes crash is followed by another."""
    while True:
        begun = None
        said = _salvage(["look", str(file), claimed, [*found.whole, *found.damages]], file)
        for message in said:
            if "begun" in message:
                begun = message["begun"]
            elif "whole" in message:
                found.whole[message["whole"]] = int(message["steps"])
                found.arrays = found.arrays or message["arrays"]
                begun = None
            elif "damaged" in message:
                found.damages[message["damaged"]] = str(message["why"])
                begun = None
            elif "failed" in message:
                found.problem = f"{file.name} cannot be read ({message['failed']})"
            elif "done" in message:
                return
        if begun is None:
            found.problem = found.problem or f"{file.name} cannot be read (the HDF5 library crashed on it)"
            return
        found.damages[begun] = "the HDF5 library crashed on it, or did not get through it"


def _salvage(arguments: list[Any], file: Path) -> list[dict[str, Any]]:
    """What :mod:`moto_pl.datasets.salvage` says in a process of its own, as far as it gets.

    Raises:
        SettingError: there was no such process: the file may be sound.
    """
    limit = 2 * TIME_LIMIT_S + 60 * file.stat().st_size / 2**30
    command = [sys.executable, "-P", str(salvage.__file__), json.dumps(arguments)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=limit)
        if done.returncode > 0:  # a crash's is below 0, and else the child ends with 0
            raise no_process(file, " ".join(done.stderr.decode(errors="replace").split())[-300:])
        output = done.stdout
    except OSError as error:
        raise no_process(file, str(error.strerror)) from error
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
    lines = output[: output.rfind(b"\n") + 1].splitlines()
    return [json.loads(line) for line in lines if line.startswith(b"{")]


def repair(dataset: str, apply: bool = False) -> int:
    """Find what is whole in a damaged dataset, in a run's replay or in a source, and move aside what is not.

    Every byte is read. Without --apply nothing is changed; a source in another format is never changed.

    Args:
        dataset: a dataset id, short name or path; a run's directory, or its replay; or what moto data import takes.
        apply: do what the report says. What is damaged is moved, never deleted.
    """
    from moto_pl.replay.repair import is_replay, look_at_replay  # which reads checkpoints, and so imports torch

    path = Path(dataset).expanduser()
    if not is_replay(path) and is_source(path):
        return _repair_source(path, apply)
    found = look_at_replay(path) if is_replay(path) else look_at_dataset(locate(dataset))
    for line in found.lines():
        print(line)
    if not found.needed:
        print("all is whole: nothing to repair")
        return 0
    if not apply:
        print("nothing was changed: the same command with --apply does it")
        return 1
    found.apply()
    print("done")
    return 0


def _repair_source(path: Path, apply: bool) -> int:
    """Says what is whole of others' files, which stay as they are."""
    if apply:
        fix = "Leave it out: the report says what to import."
        raise SettingError("--apply", f"{path}, which is no dataset of Minari's", fix)
    found = look_at_source(path)
    for line in found.lines():
        print(line)
    if found.reason:
        return 1
    print("all is whole: nothing to repair")
    return 0
