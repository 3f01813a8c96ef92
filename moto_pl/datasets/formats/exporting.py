"""``moto data export``: a dataset's episodes, or those that a run collected, in a format of others'."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import track

from moto_pl.datasets.formats.convert import as_episode
from moto_pl.datasets.formats.hdf5 import is_hdf5
from moto_pl.datasets.formats.write_lerobot import write_lerobot
from moto_pl.datasets.formats.write_robomimic import write_robomimic
from moto_pl.datasets.minari_io import DatasetReader, open_dataset, write_dataset
from moto_pl.datasets.staging import staged
from moto_pl.envs.observation import Observation
from moto_pl.errors import SettingError
from moto_pl.reading import read_json
from moto_pl.replay.episode import Episode

# Of the store, which imports torch, no type is named here: jsonargparse imports the types of a module that has a verb.


@dataclass(frozen=True)
class Exported:
    """What was written: where, and how many episodes."""

    path: Path
    episodes: int


@dataclass(frozen=True)
class _Held:
    """Episodes to write, and where they are from."""

    label: str
    env_id: str | None
    env_kwargs: dict[str, Any]
    episodes: DatasetReader | Sequence[Any]
    cameras: tuple[str, ...]


def export_dataset(
    source: str,
    output: str | os.PathLike[str],
    *,
    format: Literal["lerobot", "minari", "robomimic"],
    demonstrations: bool = False,
    fps: int = 20,
    task: str | None = None,
    lossless: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Write a dataset's episodes, or those that a run collected, in a format of others'.

    Everything is written under a hidden name beside the output, which is renamed at the end.

    Args:
        source: a run's directory, or a dataset's id, short name or path.
        output: the folder to write (lerobot), the file (robomimic), or a dataset id or path (minari).
        format: lerobot (v3), minari or robomimic (HDF5).
        demonstrations: of a run, also the episodes of the dataset that it began with.
        fps: steps a second, which LeRobot wants to know.
        task: what is done, in words, which LeRobot wants to know; None is the environment's name.
        lossless: frames of LeRobot as PNG rather than as video: exact, and larger.
        overwrite: replace an output of that format that is there.

    Raises:
        SettingError: no such run or dataset, nothing collected, an output that is there, or a missing package.
    """
    if not 1 <= fps <= 1000:
        raise SettingError("fps", fps, "Give steps a second, 1 to 1000.")
    if format != "lerobot":
        for name, given in (("lossless", lossless), ("task", task is not None), ("fps", fps != 20)):
            if given:
                raise SettingError(f"--{name}", f"it with --format {format}", "It is for lerobot: leave it out.")
    held = _run(Path(source).expanduser(), demonstrations) or _dataset(source, demonstrations)
    if format == "lerobot" and len(held.cameras) > 1:
        found = f"lerobot, and episodes of {', '.join(held.cameras)}"
        raise SettingError("--format", found, "Give minari or robomimic: LeRobot is written with one camera so far.")
    episodes = _shown(held)
    if format == "minari":
        metadata = {"env_kwargs": held.env_kwargs, "source": held.label, "episodes": len(held.episodes)}
        seen = Observation(held.cameras)
        written = write_dataset(output, episodes, held.env_id, metadata, overwrite, seen)
        return Exported(written, len(held.episodes))
    path = Path(output).expanduser().absolute()
    _refuse_output(path, format, overwrite)
    if format == "robomimic":
        path.parent.mkdir(parents=True, exist_ok=True)
        return Exported(path, write_robomimic(path, episodes, held.env_id or held.label, held.env_kwargs, held.cameras))
    with staged(path) as directory:
        count = write_lerobot(directory, episodes, fps, task or held.env_id or held.label, lossless)
    return Exported(path, count)


def _dataset(source: str, demonstrations: bool) -> _Held:
    reader = open_dataset(source)
    if demonstrations:
        raise SettingError("demonstrations", f"it with the dataset {reader.id}", "It is for a run: leave it out.")
    kwargs = reader.own.get("env_kwargs")
    env_id = reader.own.get("env_id")
    return _Held(
        reader.id, str(env_id) if env_id else None, kwargs if isinstance(kwargs, dict) else {}, reader, _names(reader)
    )


def _run(directory: Path, demonstrations: bool) -> _Held | None:
    """What a run's replay holds; None where the directory is no run's."""
    replay = directory if directory.name == "replay" else directory / "replay"
    if not (replay / "000000.safetensors").is_file():
        if replay.is_dir():
            raise SettingError("source", f"{replay}, which holds no episode yet", "Let the run go on first.")
        return None
    from moto_pl.replay.store import MARKER, EpisodeStore

    try:
        known = {"episodes": int, "observation?": {"cameras": list[str]}}
        marker: dict[str, Any] = read_json(replay / MARKER, known) if (replay / MARKER).exists() else {"episodes": 0}
    except (OSError, ValueError) as error:
        raise SettingError(
            "source", f"{replay / MARKER}, which cannot be read ({error})", "Let the run go on."
        ) from error
    store = EpisodeStore(replay)
    first = 0 if demonstrations else max(0, marker["episodes"])
    found = [store[number] for number in range(first, len(store))]
    if not found:
        fix = "Let it collect some, or take those too that it began with: --demonstrations."
        raise SettingError("source", f"{directory}, in which no episode was collected yet", fix)
    names, count = marker.get("observation", {"cameras": ["image"]})["cameras"], found[0].image_rows.shape[1] // 3
    if len(names) != count:  # a run that began without a dataset does not say what its cameras are called
        names = [f"camera{number}" for number in range(count)]
    return _Held(directory.absolute().name, None, {}, found, tuple(names))


def _names(reader: DatasetReader) -> tuple[str, ...]:
    """What a dataset's cameras are called; a single one is ``image``."""
    return tuple(reader.cameras) if len(reader.cameras) > 1 else ("image",)


def _refuse_output(path: Path, format: str, overwrite: bool) -> None:
    if not path.exists() and not path.is_symlink():
        return
    if not overwrite:
        raise SettingError("output", f"{path}, which is already there", "Choose another name, or give --overwrite.")
    same = is_hdf5(path) if format == "robomimic" else (path / "meta/info.json").is_file()
    if path.is_symlink() or not same:
        raise SettingError(
            "output", f"{path}, which is no {format} dataset", "Choose another name: it is not overwritten."
        )


def _shown(held: _Held) -> Iterator[Episode]:
    """The episodes one at a time, with a bar; views of files as episodes."""
    found: Iterable[Any] = (held.episodes[number] for number in range(len(held.episodes)))
    total, console = len(held.episodes), Console(stderr=True)
    for episode in track(found, "exporting", total=total, transient=True, console=console):
        yield episode if isinstance(episode, Episode) else as_episode(episode)
