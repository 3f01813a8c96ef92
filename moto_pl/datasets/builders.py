"""Datasets by name: ``reach``, ``metaworld/<task>``, ``kitchen/mixed``, ``kitchen/partial`` and ``kitchen/replay``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import gymnasium as gym
from filelock import FileLock, Timeout
from gymnasium.envs.registration import load_env_creator

from moto_pl.datasets.kitchen.demonstrations import EARLIER, build_kitchen
from moto_pl.datasets.kitchen.orders import share_of_task
from moto_pl.datasets.kitchen.replay import build_replay
from moto_pl.datasets.metaworld import build_metaworld
from moto_pl.datasets.minari_io import (
    DatasetReader,
    buildable_names,
    check_target,
    default_id,
    exists,
    locate,
    open_dataset,
    short_name,
    target_path,
)
from moto_pl.datasets.minari_write import write_dataset
from moto_pl.datasets.recording import Built, Plan, environment_defaults, record, versions
from moto_pl.envs import KITCHEN_TASKS, check_given, kitchen_id, metaworld_id
from moto_pl.errors import SettingError, did_you_mean, tell
from moto_pl.files import make_directory

REACH_ENV_ID = "moto_pl/Reach-v0"


@dataclass(frozen=True)
class Builder:
    """What builds a dataset.

    Attributes:
        function: the builder; its signature is what may be asked of it.
        fixed: arguments that the dataset's name has settled.
        environment: the environment's class, whose further arguments the builder passes on.
    """

    function: Callable[..., Built]
    fixed: dict[str, str]
    environment: type

    def build(self, options: Mapping[str, Any]) -> Built:
        """Builds it with these options, which it takes."""
        return self.function(**self.fixed, **options)


def build_reach(
    episodes: int = 10,
    steps: int = 30,
    seed: int = 0,
    workers: int = 1,
    image_size: int = 64,
    noise: float = 0.0,
    action_repeat: int = 1,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    **env_options: Any,
) -> Built:
    """Record scripted demonstrations of the two-dimensional reaching task; it needs no OpenGL and takes a second.

    The arguments are those of :func:`moto_pl.datasets.metaworld.build_metaworld`; ``action_repeat`` is a run's
    ``data.action_repeat``, and ``steps`` counts the environment's.

    Raises:
        SettingError: bad settings, or a dataset that exists.
    """
    target = output or default_id("reach")
    check_target(target, overwrite)
    env_kwargs = {"image_size": image_size, "episode_steps": steps, **env_options}
    plan = Plan(REACH_ENV_ID, env_kwargs, episodes, seed, noise, {"source": "scripted"}, action_repeat)
    recording = record(plan, workers)
    metadata = {**plan.describe(), "retries": recording.retries, "versions": versions("gymnasium", "minari", "numpy")}
    path = write_dataset(target, recording.episodes, plan.env_id, metadata, overwrite, recording.observation)
    return Built(path, recording)


def builder(name: str) -> Builder:
    """What builds the dataset ``name``.

    Raises:
        SettingError: no such dataset.
    """
    names = buildable_names()
    if name not in names:
        guess = did_you_mean(name, names, n=3) or did_you_mean(f"metaworld/{name}", names, n=3)
        kitchen = ", ".join(known for known in names if known.startswith("kitchen/"))
        fix = f"{guess}Give reach, {kitchen}, or metaworld/ and a task, such as metaworld/door-open."
        raise SettingError("dataset", repr(name), fix)
    kind = name.split("/")[-1]
    if name == "reach":
        return Builder(build_reach, {}, _environment(REACH_ENV_ID))
    if name == "kitchen/replay":
        return Builder(build_replay, {}, _environment(kitchen_id("mixed")))
    if name.startswith("kitchen/"):
        return Builder(build_kitchen, {"kind": kind}, _environment(kitchen_id(kind)))
    return Builder(build_metaworld, {"task": kind}, _environment(metaworld_id(kind)))


def _environment(env_id: str) -> type:
    return load_env_creator(gym.spec(env_id).entry_point)  # type: ignore[arg-type, return-value]


def build(name: str, **options: Any) -> Built:
    """Record scripted demonstrations as a Minari dataset.

    Args:
        name: ``reach``, ``metaworld/<task>``, ``kitchen/mixed``, ``kitchen/partial`` or ``kitchen/replay``.
        **options: those of :func:`build_reach`, :func:`moto_pl.datasets.metaworld.build_metaworld`,
            :func:`moto_pl.datasets.kitchen.demonstrations.build_kitchen` or
            :func:`moto_pl.datasets.kitchen.replay.build_replay`, and any other argument of the environment.

    Raises:
        SettingError: unknown name or option, bad settings, or a dataset that exists.
    """
    found = builder(name)
    _check_options(name, found, options)
    return found.build(options)


def _check_options(name: str, found: Builder, options: Mapping[str, Any]) -> None:
    """Refuses options that a dataset's builder and its environment do not take."""
    known = {**get_type_hints(found.environment.__init__), **get_type_hints(found.function)}  # type: ignore[misc]
    for settled in ("return", "env_options", *found.fixed):
        known.pop(settled, None)
    check_given("data.build_options", f"moto data build {name}", known, options)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits until no other process has this to build."""
    make_directory(path.parent)
    file = path.with_name(f".{path.name}.lock")
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell(f"waiting for another process, which builds {path}")
        lock.acquire()
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()


def ensure(name: str, **options: Any) -> Path:
    """Build a dataset unless it is there already; where another process is building it, wait for that one's.

    Args:
        name: ``reach``, ``metaworld/<task>``, or the id that such a dataset has by default (``moto_pl/reach-v0``). Any
            other dataset, by id or path, has to be there, and is taken as it is.
        **options: those of :func:`build`. One that is there, if it was built here, must have been built with them.

    Returns:
        The dataset's directory.

    Raises:
        SettingError: as :func:`build`; or the dataset that is there was built with other options, or is damaged.
    """
    short = short_name(name)
    if short not in buildable_names():
        return locate(name)  # how a dataset of ours is made, and what it is called, is nothing to another
    found = builder(short)
    _check_options(short, found, options)
    target = options.get("output") or name
    if not exists(target):
        with _alone(target_path(options.get("output") or default_id(short))[0]):
            if not exists(target):  # nor has another process built it in the meantime
                return found.build(options).path
    reader = open_dataset(target)
    if reader.own.get("env_kwargs") is not None:
        _check_built(reader, found, options)
    return reader.path


def _check_built(reader: DatasetReader, found: Builder, options: Mapping[str, Any]) -> None:
    """Refuses a dataset that was built with other options."""
    own = reader.own
    kwargs = {**environment_defaults(found.environment), **own["env_kwargs"]}
    task = next((task for task in KITCHEN_TASKS if kitchen_id(task) == own.get("env_id")), None)
    built = {"action_repeat": 1, "task": task, **EARLIER, **own, **kwargs, "steps": kwargs["episode_steps"]}
    for key, value in options.items():
        if key in ("output", "workers", "overwrite"):
            continue
        if key == "observe" and set(kwargs["observe"]) >= set(value):
            continue  # more than is asked for does no harm
        if key == "task_share":
            value = share_of_task(found.fixed["kind"], built["order"], value)
        said = built.get(key)
        # The metadata are JSON, which has neither paths nor tuples.
        if said != value and said != json.loads(json.dumps(value, default=str)):
            fix = (
                f"Asked for {value}: build it under another name with `output`, or again with --overwrite; to take it "
                f"as it is, leave {key} out (data.build_options)."
            )
            raise SettingError(key, f"{said} in {reader.id}, which is already there", fix)
