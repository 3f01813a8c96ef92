"""``moto data import``: others' episodes become a Minari dataset, one at a time, by several processes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.progress import track

from moto_pl.datasets.formats.convert import convert
from moto_pl.datasets.formats.hub import local
from moto_pl.datasets.formats.options import Labels, Selection, Words, select
from moto_pl.datasets.formats.recorded import Damaged
from moto_pl.datasets.formats.table import Unit, find_units, open_unit
from moto_pl.datasets.minari_io import check_target, default_id
from moto_pl.datasets.minari_write import write_dataset
from moto_pl.datasets.own_actions import OwnActions, as_recorded
from moto_pl.datasets.parallel import in_processes
from moto_pl.datasets.raw_episode import ROUNDING, clip_rounding
from moto_pl.datasets.recording import versions
from moto_pl.datasets.unfinished import unfinished
from moto_pl.envs import list_envs, task_objects, unknown_name
from moto_pl.envs.actions import ActionScale
from moto_pl.envs.observation import Observation, ObservationConfig
from moto_pl.errors import SettingError
from moto_pl.replay.episode import Episode

# Of the store, which imports torch, no type is named here: jsonargparse imports the types of a module that has a verb.


TIMEOUT_S = 1800.0
"""The most that one episode may take."""


@dataclass(frozen=True)
class Imported:
    """What came of an import.

    Attributes:
        path: the dataset's directory.
        format: the name of the source's format.
        episodes: how many it holds.
        resumed: of these, those that an earlier call had read.
        left_out: episodes that could not be read, and those behind the first of them.
        reason: why they could not be read; empty where all could.
        bounds: of the dataset's actions.
    """

    path: Path
    format: str
    episodes: int
    resumed: int
    left_out: int
    reason: str
    bounds: ActionScale


@dataclass(frozen=True)
class Job:
    """One episode to read: the source that holds it, its number there and among all, and what is wanted of it."""

    unit: Unit
    index: int
    number: int
    selection: Selection
    labels: Labels | None
    keep: bool


def import_dataset(
    source: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    env: str | None = None,
    counted_in_order: bool = False,
    cameras: Sequence[str] = (),
    state: Sequence[str] = (),
    action_bounds: Sequence[float] = (),
    reward: str | None = None,
    success_reward: float | None = None,
    fps: float | None = None,
    merge_actions: Literal["last", "mean"] = "last",
    trim_start: int = 0,
    trim_end: int = 0,
    image_size: int = 64,
    keep_whole_episodes: bool = False,
    workers: int = 2,
    overwrite: bool = False,
) -> Imported:
    """Turn a dataset of another format into a Minari dataset of its cameras' frames, vectors, actions and rewards.

    What was read is kept in a hidden folder beside the target: the same call goes on where a killed one stopped.

    Args:
        source: a folder or files: what they are is found out (docs/formats.md); or the id of a LeRobot dataset on the
            hub, or of a local Minari dataset.
        output: dataset id or path; None is ``moto_pl/import/<name>-v0``.
        env: the environment that the episodes came from, kept in the dataset.
        counted_in_order: as in :func:`~moto_pl.datasets.npz_import.read_rows`, of the objects of ``env``.
        cameras: those to keep, as ``NAME=CAMERA``: your name for it, and the source's.
        state: state vectors to keep beside them, as ``NAME=VECTOR``; none by default.
        action_bounds: lowest and highest action, of all numbers or of each; none: the format's own, else the data's.
        reward: a column of the source's; ``success-at-end``: 1 at the last step of an episode that succeeded; or a .csv
            of labels. None is the format's own.
        success_reward: reward from which a step is a success; None is what the source says, else any above 0.
        fps: steps a second that are kept, a whole part of the recorded rate: rewards of merged steps are added.
        merge_actions: the action of merged steps: the ``last`` (positions to go to), or the ``mean`` (velocities).
        trim_start: steps left out at the start of each episode.
        trim_end: steps left out at its end.
        image_size: height and width to which frames are resized.
        keep_whole_episodes: of a source that was cut short, keep the episodes before the first that cannot be read.
        workers: processes that decode; 1 decodes in this one.
        overwrite: replace a dataset that is there.

    Raises:
        SettingError: an unknown format, a bad file or choice, or a dataset that exists.
    """
    if workers < 1:
        raise SettingError("workers", workers, "Use 1 or more.")
    units = _units(source, env, counted_in_order)
    target = output or default_id(f"import/{_name(source[0])}")
    check_target(target, overwrite)
    trim, bounds = (trim_start, trim_end), tuple(action_bounds)
    words = Words(cameras, state, bounds, reward, success_reward, fps, merge_actions, trim, image_size)
    selection, labels = _selected(units, words)
    seen = ObservationConfig(tuple(selection.cameras), tuple(selection.sizes))
    observation = Observation.of(seen, selection.sizes, selection.image_size)
    jobs = list(_jobs(units, selection, labels, keep_whole_episodes))
    settings = _settings(units, selection, labels, len(jobs), keep_whole_episodes)
    with unfinished(target, settings, "import", "imported") as store:
        resumed = len(store)
        stop, reason = _read_all(store, jobs, workers)
        actions = _own_actions(selection.bounds, [store[index] for index in range(stop)])
        metadata = {
            "env_kwargs": {},
            "source": units[0].format,
            "episodes": stop,
            "cameras": selection.cameras,
            "state": selection.state,
            "selection": asdict(selection),
            "versions": versions("minari", "numpy", "pillow"),
        }
        episodes = (store[index].as_episode() for index in range(stop))
        written = write_dataset(target, episodes, env, metadata, overwrite, observation, actions)
    left_out = len(jobs) - stop
    return Imported(written, units[0].format, stop, min(resumed, stop), left_out, reason, actions.bounds)


def _units(source: Sequence[str | os.PathLike[str]], env: str | None, counted_in_order: bool) -> list[Unit]:
    """The sources to read."""
    if env is not None and env not in gym.registry:
        raise unknown_name("env", env, list_envs())
    open_unit.cache_clear()  # a file may have changed since an earlier call of this process
    units = find_units([local(str(path)) for path in source])
    objects = _objects(units[0].format, env, counted_in_order)
    return [replace(unit, objects=objects, counted_in_order=counted_in_order) for unit in units]


def _selected(units: Sequence[Unit], words: Words) -> tuple[Selection, Labels | None]:
    """What the user's words mean for the first of the sources that has an episode: the others have to be like it."""
    first = next((opened for opened in map(open_unit, units) if len(opened)), None)
    if first is None:
        raise SettingError("source", f"no episodes in {units[0].path}", "Give a source with at least one.")
    if words.success_reward is None and units[0].objects:
        words = words._replace(success_reward=float(len(units[0].objects)))
    return select(first, words)


def _own_actions(bounds: ActionScale | None, episodes: Sequence[Any]) -> OwnActions:
    """Actions as they were recorded, in a Box: the one that was chosen, else [-1, 1], else from the least to the most.

    Args:
        bounds: of the Box that was chosen.
        episodes: views of all episodes.

    Raises:
        SettingError: their actions are of several sizes.
    """
    if len(sizes := sorted({episode.action.shape[1] for episode in episodes})) > 1:
        found = f"episodes of several action sizes ({', '.join(map(str, sizes))})"
        raise SettingError("source", found, "Import those of one robot, each under its own --output.")
    low = np.min([as_recorded(episode).min(0) for episode in episodes], axis=0)
    high = np.max([as_recorded(episode).max(0) for episode in episodes], axis=0)
    if bounds is None and max(-low.min(), high.max()) > 1 + ROUNDING:
        bounds = ActionScale.of(low, high)
    if bounds is None or bounds.identity:
        return OwnActions(ActionScale.within(1.0, len(low)), lambda episode: clip_rounding(as_recorded(episode)))
    return OwnActions(bounds, as_recorded)


def read_job(job: Job) -> Episode | str:
    """One episode, in whatever process; where damaged ones may be left out, what is wrong with it."""
    try:
        return convert(open_unit(job.unit).read(job.index), job.selection, job.labels, job.number)
    except Damaged as error:
        if not job.keep:
            raise
        return str(error.found)


def _read_all(store: Any, jobs: Sequence[Job], workers: int) -> tuple[int, str]:
    """Reads what the store does not have yet; returns how many episodes there are, and what ended them."""
    todo = jobs[len(store) :]
    done: Iterator[tuple[int, Episode | str]] = enumerate(map(read_job, todo))
    if workers > 1:
        done = in_processes(read_job, todo, workers, TIMEOUT_S, False)
    stop, reason, waiting = len(jobs), "", set(range(len(store), len(jobs)))
    for place, episode in track(done, "importing", total=len(todo), transient=True, console=Console(stderr=True)):
        number = todo[place].number
        waiting.discard(number)
        if isinstance(episode, str):
            if number < stop:
                stop, reason = number, episode
        elif number < stop:
            store.append(episode, number)
        if not waiting or min(waiting) >= stop:
            break
    if stop == 0:
        raise SettingError("source", f"no whole episode: {reason}", "Copy it again.")
    store.refresh(stop)
    return stop, reason


def _objects(format: str, env: str | None, counted_in_order: bool) -> tuple[str, ...]:
    """The objects of a kitchen task, of which npz episodes may tell each; none for any other source."""
    objects = tuple(task_objects(env, {})) if env is not None and format == "dreamer" else ()
    if counted_in_order and not objects:
        found = (
            f"the environment {env}, which has no objects" if format == "dreamer" else f"a source in {format}'s format"
        )
        fix = "Say whose objects the reward of npz episodes counts: --env moto_pl/Kitchen-mixed-v0, for instance."
        raise SettingError("counted_in_order", found, fix)
    return objects


def _jobs(units: Sequence[Unit], selection: Selection, labels: Labels | None, keep: bool) -> Iterator[Job]:
    number = 0
    for unit in units:
        try:
            count = len(open_unit(unit))
        except Damaged:
            if not keep or number == 0:
                raise
            count = 1  # which will be found damaged, and end the import
        for index in range(count):
            yield Job(unit, index, number, selection, labels, keep)
            number += 1


def _settings(
    units: Sequence[Unit], selection: Selection, labels: Labels | None, episodes: int, keep: bool
) -> dict[str, Any]:
    """What a half import must have in common with the one that goes on with it."""
    digest = hashlib.sha256()
    for unit in units:
        files = sorted(unit.path.rglob("*")) if unit.path.is_dir() else [unit.path]
        for file in filter(Path.exists, files):  # a link may lead to nothing
            status = file.stat()
            digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    if labels is not None:
        digest.update(json.dumps([labels.last, labels.steps, labels.success], sort_keys=True).encode())
    own = {"source": digest.hexdigest(), "episodes": episodes, "keep_whole_episodes": keep}
    return own | asdict(selection)


def _name(source: str | os.PathLike[str]) -> str:
    stem = Path(source).expanduser().absolute().stem
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in stem)
