"""``moto data export``: a dataset's episodes, or those that a run collected, in a format of others'."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import track

from moto_pl.datasets.formats.hdf5 import is_hdf5
from moto_pl.datasets.formats.write_lerobot import write_lerobot
from moto_pl.datasets.formats.write_robomimic import write_robomimic
from moto_pl.datasets.minari_io import DatasetReader, offered, open_dataset
from moto_pl.datasets.minari_write import write_dataset
from moto_pl.datasets.own_actions import ExactScale, OwnActions
from moto_pl.datasets.staging import staged
from moto_pl.envs.actions import ActionScale
from moto_pl.envs.observation import Observation
from moto_pl.errors import SettingError
from moto_pl.files import check_can_write
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
    observation: Observation
    actions: OwnActions | None = None


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
    episodes = _shown(held)
    if format == "minari":
        metadata = {"env_kwargs": held.env_kwargs, "source": held.label, "episodes": len(held.episodes)}
        written = write_dataset(output, episodes, held.env_id, metadata, overwrite, held.observation, held.actions)
        return Exported(written, len(held.episodes))
    path = Path(output).expanduser().absolute()
    _refuse_output(path, format, overwrite)
    name, seen = held.env_id or held.label, (held.observation, held.actions)
    if format == "robomimic":
        path.parent.mkdir(parents=True, exist_ok=True)
        return Exported(path, write_robomimic(path, episodes, name, held.env_kwargs, *seen))
    with staged(path) as directory:
        count = write_lerobot(directory, episodes, fps, task or name, lossless, *seen)
    return Exported(path, count)


def _dataset(source: str, demonstrations: bool) -> _Held:
    """All of a dataset: its cameras and vectors, and its actions in its own numbers, to the bit."""
    reader = open_dataset(source, wanted=offered(source))
    if demonstrations:
        raise SettingError("demonstrations", f"it with the dataset {reader.id}", "It is for a run: leave it out.")
    actions = None
    if not reader.scale.identity:
        exact = ExactScale.fitting(np.array([reader.scale.low, reader.scale.high]))
        actions, reader.scale = OwnActions.by(exact, reader.scale), exact
    kwargs = reader.own.get("env_kwargs")
    env_id = reader.own.get("env_id")
    kwargs = kwargs if isinstance(kwargs, dict) else {}
    # Names of others' datasets may be paths.
    names = [name.replace("/", ".") for name in reader.observation.cameras]
    state = {name.replace("/", "."): size for name, size in reader.observation.state.items()}
    seen = replace(reader.observation, cameras=tuple(names), state=state)
    return _Held(reader.id, str(env_id) if env_id else None, kwargs, reader, seen, actions)


def _run(directory: Path, demonstrations: bool) -> _Held | None:
    """What a run's replay holds; None where the directory is no run's."""
    replay = directory if directory.name == "replay" else directory / "replay"
    if not (replay / "000000.safetensors").is_file():
        if replay.is_dir():
            raise SettingError("source", f"{replay}, which holds no episode yet", "Let the run go on first.")
        return None
    from moto_pl.replay.store import EpisodeStore

    demonstrated, seen, scale = _said(replay)
    store = EpisodeStore(replay)
    first = 0 if demonstrations else max(0, demonstrated)
    found = [store[number] for number in range(first, len(store))]
    if not found:
        fix = "Let it collect some, or take those too that it began with: --demonstrations."
        raise SettingError("source", f"{directory}, in which no episode was collected yet", fix)
    channels, vector = found[0].image_rows.shape[1], found[0].vector
    size = 0 if vector is None else vector.shape[1]
    if (seen.channels, seen.vector_size) != (channels, size):  # nothing says what they are called
        cameras = [f"camera{number}" for number in range(channels // 3)] if channels > 3 else ["image"]
        seen = Observation(tuple(cameras), {"state": size} if size else {})
    actions = None if scale is None or scale.identity else OwnActions.by(scale)
    return _Held(directory.absolute().name, None, {}, found, seen, actions)


def _said(replay: Path) -> tuple[int, Observation, ActionScale | None]:
    """How many of a replay's episodes are demonstrations, what all of them hold, and what their actions stand for.

    A run that began without a dataset says the latter in its checkpoints alone.
    """
    from moto_pl.checkpoints import LAST, load_checkpoint
    from moto_pl.replay.store import MARKER

    marker, checkpoint = replay / MARKER, replay.parent / "checkpoints" / LAST
    path = marker if marker.exists() else checkpoint
    if not path.exists():
        return 0, Observation(), None
    try:
        if path == checkpoint:
            agent = load_checkpoint(path).get("agent", {})
            said = {"episodes": 0, "observed": agent.get("observation"), "action_scale": agent.get("action_scale")}
        else:
            known = {"episodes": int, "observation?": {"cameras": list[str]}, "observed?": dict, "action_scale?": dict}
            said = read_json(path, known)
        cameras = said.get("observation", {"cameras": ["image"]})["cameras"]
        observed = said.get("observed")
        seen = Observation(tuple(cameras)) if observed is None else Observation.from_plain(observed)
        return int(said["episodes"]), seen, ActionScale.from_plain(said.get("action_scale"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingError("source", f"{path}, which cannot be read ({error})", "Let the run go on.") from error


def _refuse_output(path: Path, format: str, overwrite: bool) -> None:
    check_can_write("output", path, file=True)
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
        yield episode if isinstance(episode, Episode) else episode.as_episode()
