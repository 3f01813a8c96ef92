"""More kitchen data from a given episode: its actions with noise, and what each attempt reached."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from moto_pl.datasets.minari_io import check_target, default_id, open_dataset
from moto_pl.datasets.minari_write import write_dataset
from moto_pl.datasets.npz_import import read_npz
from moto_pl.datasets.parallel import in_processes
from moto_pl.datasets.recording import Built, Recording, check_counts, demonstration_seed, versions
from moto_pl.envs import KITCHEN_TASKS, kitchen_id
from moto_pl.envs.kitchen import ACTION_SIZE, KitchenEnv
from moto_pl.envs.rendering import Quality, select_backend
from moto_pl.errors import SettingError
from moto_pl.replay.episode import Episode, InfoValue
from moto_pl.rollout import play as rollout


@dataclass(frozen=True)
class Attempt:
    """One replay: the actions before the noise [T, 9], and what decides the rest."""

    action: np.ndarray
    noise: float
    seed: int
    least: int
    env_kwargs: dict[str, Any]
    info: dict[str, InfoValue]


def build_replay(
    source: str | os.PathLike[str] | None = None,
    episodes: int = 20,
    noise: float = 0.05,
    least: int = 0,
    task: str = "mixed",
    seed: int = 0,
    workers: int = 2,
    render_quality: Quality = "fast",
    image_size: int = 64,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    **env_options: Any,
) -> Built:
    """Play episodes' actions again with noise, and keep what each attempt reached, success or not.

    The attempts take the source's episodes in turn. The same arguments give the same dataset on one machine, for any
    number of workers.

    Args:
        source: an npz file in DreamerV2's layout, a directory of them, or a dataset with nine actions.
        episodes: attempts to keep, at least 1.
        noise: standard deviation of the noise added to each action, 0 to 1, which is then clipped to [-1, 1].
        least: an attempt that brings fewer of the task's objects into place is dropped; 0 keeps all.
        task: ``mixed``, ``partial`` or ``complete``: whose objects are counted.
        seed: decides the noise, of actions and of the joints' readings.
        workers: processes, each with a simulator and a renderer of its own.
        render_quality: ``fast`` or ``full``.
        image_size: height and width in pixels.
        output: dataset id or path; None is ``moto_pl/kitchen/replay-v0``.
        overwrite: replace a dataset that is there already.
        **env_options: further arguments of the environment, such as ``joint_noise`` and ``camera``.

    Raises:
        SettingError: no source or a bad one, bad settings, a dataset that exists, or too few attempts that reach
            ``least`` objects.
    """
    if source is None:
        raise SettingError("source", "nothing", "Name the episodes to replay: --source, npz files or a dataset.")
    if task not in KITCHEN_TASKS:
        raise SettingError("task", repr(task), f"Use one of {', '.join(KITCHEN_TASKS)}.")
    check_counts(episodes, seed, workers)
    if not 0.0 <= noise <= 1.0:
        raise SettingError("noise", noise, "Use a standard deviation from 0 to 1.")
    target = output or default_id("kitchen/replay")
    check_target(target, overwrite)
    kwargs = {
        "objects": list(KITCHEN_TASKS[task]),
        "image_size": image_size,
        "render_quality": render_quality,
        **env_options,
    }
    backend = select_backend()
    try:
        env = KitchenEnv(**kwargs)  # refuses bad settings before any process starts
        env.close()
    except TypeError as error:
        raise SettingError(
            "env_options", env_options, f"Leave out what the environment does not take: {error}"
        ) from None
    if not 0 <= least <= len(kwargs["objects"]):
        raise SettingError("least", least, f"The task has {len(kwargs['objects'])} objects.")
    actions = list(_actions(source, kwargs["objects"]))

    def attempt(index: int) -> Attempt:
        name, action = actions[index % len(actions)]
        info: dict[str, InfoValue] = {"replayed": name, "render_quality": render_quality}
        return Attempt(action, noise, demonstration_seed(seed, index, 0), least, kwargs, info)

    kept, dropped = _reach(attempt, episodes, least, workers)
    metadata = {
        "env_kwargs": kwargs,
        "source": str(source),
        "episodes": episodes,
        "noise": noise,
        "least": least,
        "seed": seed,
        "retries": dropped,
        "gl_backend": backend,
        "versions": versions("mujoco", "gymnasium-robotics", "gymnasium", "minari", "numpy"),
    }
    path = write_dataset(target, kept, kitchen_id(task), metadata, overwrite, env.observation)
    return Built(path, Recording(kept, dropped))


def _reach(attempt: Callable[[int], Attempt], episodes: int, least: int, workers: int) -> tuple[list[Episode], int]:
    """The first ``episodes`` attempts that bring ``least`` objects into place, and how many did not.

    In rounds, because how many reach enough is not known before; the round's size has no say in any attempt.
    """
    kept: list[Episode] = []
    dropped = 0
    while len(kept) < episodes:
        first, count = len(kept) + dropped, episodes - len(kept)
        if dropped > 20 * episodes:
            found = f"{len(kept)} of {first} attempts with {least} or more objects"
            raise SettingError("least", found, "Ask for fewer objects, or use less noise.")
        results = in_processes(play, [attempt(index) for index in range(first, first + count)], workers)
        shown = track(results, "replaying", total=count, console=Console(stderr=True))
        reached = [episode for _, episode in sorted(shown, key=lambda pair: pair[0]) if episode is not None]
        kept += reached
        dropped += count - len(reached)
    return kept, dropped


_open: dict[str, Any] = {}


def play(attempt: Attempt) -> Episode | None:
    """One attempt, in a worker process that keeps its simulator; None where too few objects came into place.

    The simulation runs without images first: an attempt that is dropped is not drawn.
    """
    key = repr(attempt.env_kwargs)
    if _open.get("key") != key:
        _open.update(key=key, env=KitchenEnv(**{**attempt.env_kwargs, "episode_steps": len(attempt.action)}))
    env: KitchenEnv = _open["env"]
    env.episode_steps = len(attempt.action)
    noise = attempt.noise * np.random.default_rng(attempt.seed).standard_normal(attempt.action.shape)
    action = np.clip(attempt.action + noise, -1.0, 1.0).astype(np.float32)
    if attempt.least:
        env.start(attempt.seed)
        ever = np.zeros(len(env.objects), bool)
        for row in action:
            if not env.advance(row):
                break  # as the episode does
            ever |= env.objects_in_place()
        if ever.sum() < attempt.least:
            return None
    episode = rollout.play(env, attempt.seed, rollout.recorded(action))
    return replace(episode, info={**episode.info, **attempt.info})


def _actions(source: str | os.PathLike[str], objects: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Names and actions [T, 9] of the source's episodes, of a task with these objects."""
    path = Path(source).expanduser()
    if path.suffix == ".npz" or (path.is_dir() and any(path.glob("*.npz"))):
        files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            what = "a directory without npz files" if path.is_dir() else "no such file"
            raise SettingError("source", f"{path}: {what}", "Give npz files, or a directory that holds some.")
        episodes: Iterator[tuple[str, np.ndarray]] = ((f.name, read_npz(f, objects=objects).action) for f in files)
    else:
        reader = open_dataset(source)
        episodes = ((f"{reader.id} {index}", episode.action) for index, episode in enumerate(reader))
    for name, action in episodes:
        if action.shape[1] != ACTION_SIZE:
            raise SettingError("source", f"{name} with {action.shape[1]} actions", f"The kitchen has {ACTION_SIZE}.")
        yield name, action
