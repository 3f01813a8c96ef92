"""Recording scripted demonstrations: the same episodes for a seed, however many processes record them."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import moto_pl.envs
from moto_pl.datasets.parallel import in_processes
from moto_pl.envs.actions import repeated
from moto_pl.envs.observation import Observation, Seen
from moto_pl.errors import SettingError
from moto_pl.evaluations import EVALUATION_SEEDS
from moto_pl.replay.episode import Episode
from moto_pl.rollout.play import observed, play

if TYPE_CHECKING:
    from moto_pl.datasets.minari_io import DatasetReader

TIMEOUT_S = 1800.0
"""The most that one episode may take, failures included."""
MAX_ATTEMPTS = 30
"""Failures in a row after which a scripted policy is taken not to solve its task."""


@dataclass(frozen=True)
class Plan:
    """What to record; the same plan gives the same episodes, bit for bit, on one machine.

    Attributes:
        env_id: a registered gymnasium id whose environment has ``scripted_action()`` and ``info["success"]``.
        env_kwargs: keyword arguments of the environment.
        episodes: how many successful episodes to keep, at least 1.
        seed: seed of the whole recording, at least 0.
        noise: standard deviation of the normal noise added to each action before it is clipped to [-1, 1].
        info: added to each episode's ``info``.
        action_repeat: steps of the environment for each action, as a run's ``data.action_repeat``.
    """

    env_id: str
    env_kwargs: Mapping[str, Any]
    episodes: int
    seed: int
    noise: float
    info: Mapping[str, str | int | float | bool]
    action_repeat: int = 1

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise SettingError("episodes", self.episodes, "Record 1 or more.")
        if self.seed < 0:
            raise SettingError("seed", self.seed, "Use 0 or more.")
        if not 0.0 <= self.noise <= 1.0:
            raise SettingError("noise", self.noise, "Use a standard deviation from 0 to 1.")
        if self.action_repeat < 1:
            raise SettingError("action_repeat", self.action_repeat, "Use 1 or more.")

    def describe(self) -> dict[str, Any]:
        """The plan as JSON-able metadata of a dataset; the environment's arguments with their defaults filled in."""
        creator = load_env_creator(gym.spec(self.env_id).entry_point)  # type: ignore[arg-type]
        env_kwargs = {**environment_defaults(creator), **self.env_kwargs}
        repeat = {} if self.action_repeat == 1 else {"action_repeat": self.action_repeat}
        return {"env_kwargs": env_kwargs, "episodes": self.episodes, "seed": self.seed, "noise": self.noise, **repeat}


@dataclass(frozen=True)
class Recording:
    """Recorded demonstrations.

    Attributes:
        episodes: as they were recorded, or read from the dataset where memory may not hold them.
        retries: how many failed episodes were thrown away to get them.
        observation: what they hold.
    """

    episodes: Sequence[Episode] | DatasetReader
    retries: int
    observation: Observation = Observation()


@dataclass(frozen=True)
class Built:
    """A dataset that was built: its directory, and what was recorded into it."""

    path: Path
    recording: Recording


def environment_defaults(creator: Callable[..., Any]) -> dict[str, Any]:
    """The arguments that an environment has where none are given, but for how it is shown."""
    parameters = inspect.signature(creator).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty and p.name != "render_mode"}


def check_counts(episodes: int, seed: int, workers: int) -> None:
    """Refuses counts below 1 and a seed below 0."""
    if episodes < 1 or seed < 0 or workers < 1:
        setting = "episodes" if episodes < 1 else "seed" if seed < 0 else "workers"
        raise SettingError(setting, min(episodes, seed, workers), "Use 1 or more (a seed may be 0).")


def demonstration_seed(seed: int, episode: int, attempt: int) -> int:
    """Environment seed of an attempt at an episode: in [0, 2**30), so never that of an evaluation episode."""
    return int(np.random.SeedSequence([seed, episode, attempt]).generate_state(1)[0]) % EVALUATION_SEEDS


def record(plan: Plan, workers: int = 1, draws: bool = False) -> Recording:
    """Record the plan's episodes, in this process or in several new ones, with a progress bar.

    Args:
        plan: what to record.
        workers: processes, each with an environment and a renderer of its own; 1 records in this process. One that is
            lost is replaced, and its episode recorded again.
        draws: whether the environment needs OpenGL.

    Raises:
        SettingError: bad settings, a scripted policy that keeps failing, or processes that died again and again.
    """
    if workers < 1:
        raise SettingError("workers", workers, "Use 1 or more.")
    jobs = [(plan, index) for index in range(plan.episodes)]
    work = _in_turn(plan) if workers == 1 else in_processes(_in_worker, jobs, workers, TIMEOUT_S, draws)
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("episodes, {task.fields[retries]} retries"),
        TimeRemainingColumn(),
    ]
    episodes: dict[int, Episode] = {}
    retries, observation = 0, Observation()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(plan.env_id.rpartition("/")[2], total=plan.episodes, retries=0)
        for index, taken in work:
            episodes[index], observation = taken.episode, taken.observation
            retries += taken.retries
            progress.update(task, advance=1, retries=retries)
    return Recording([episodes[index] for index in range(plan.episodes)], retries, observation)


def run_scripted(env: gym.Env[Any, Any], seed: int, noise: float = 0.0) -> Episode:
    """Roll the environment's scripted policy for one episode.

    Args:
        env: its observation has an ``image``; its unwrapped environment has ``scripted_action()``.
        seed: seed of the reset and of the noise.
        noise: standard deviation of the noise added to each action.
    """
    rng = np.random.default_rng(seed)

    def scripted(step: int, seen: Seen) -> np.ndarray:
        action = np.asarray(env.unwrapped.scripted_action())  # type: ignore[attr-defined]
        return np.clip(action + noise * rng.standard_normal(action.shape), -1.0, 1.0).astype(np.float32)

    return play(env, seed, scripted)


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of packages, and of this one."""
    found = {}
    for package in (*packages, "moto_pl"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


class _Taken(NamedTuple):
    """An episode, the failures before it, and what it holds."""

    episode: Episode
    retries: int
    observation: Observation


def _attempt(env: gym.Env[Any, Any], plan: Plan, index: int) -> _Taken:
    """Episode ``index``: the first success of its own sequence of seeds, so that no other episode has a say in it."""
    for attempt in range(MAX_ATTEMPTS):
        seed = demonstration_seed(plan.seed, index, attempt)
        episode = run_scripted(env, seed, plan.noise)
        if episode.succeeded:
            info = {**plan.info, **episode.info, "env_id": plan.env_id, "retries": attempt}
            if hasattr(env.unwrapped, "gl_renderer"):
                info["gl_renderer"] = env.unwrapped.gl_renderer
            return _Taken(replace(episode, info=info), attempt, observed(env))
    found = f"no success in {MAX_ATTEMPTS} scripted episodes"
    raise SettingError(plan.env_id, found, "Use less noise, or more steps an episode.")


def _make(plan: Plan) -> gym.Env[Any, Any]:
    return repeated(moto_pl.envs.make(plan.env_id, **plan.env_kwargs), plan.action_repeat)


def _in_turn(plan: Plan) -> Iterator[tuple[int, _Taken]]:
    env = _make(plan)
    try:
        for index in range(plan.episodes):
            yield index, _attempt(env, plan, index)
    finally:
        env.close()


_worker_env: gym.Env[Any, Any] | None = None


def _in_worker(job: tuple[Plan, int]) -> _Taken:
    global _worker_env
    plan, index = job
    if _worker_env is None:
        _worker_env = _make(plan)
    return _attempt(_worker_env, plan, index)
