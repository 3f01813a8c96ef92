"""Scripted Franka Kitchen demonstrations as a dataset: sequences of four objects, for the tasks mixed and partial."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from moto_pl.datasets.kitchen.arm import JITTER, KitchenArm
from moto_pl.datasets.kitchen.orders import Order, sequence, share_of_task
from moto_pl.datasets.minari_io import DatasetReader, check_target, default_id, open_dataset
from moto_pl.datasets.minari_write import write_dataset
from moto_pl.datasets.parallel import in_processes
from moto_pl.datasets.recording import MAX_ATTEMPTS, Built, Recording, check_counts, demonstration_seed, versions
from moto_pl.datasets.unfinished import unfinished
from moto_pl.envs import KITCHEN_OBJECTS, KITCHEN_TASKS, kitchen_id
from moto_pl.envs.kitchen import ACTION_SIZE, KitchenEnv
from moto_pl.envs.observation import ObservationConfig
from moto_pl.envs.rendering import Quality, select_backend
from moto_pl.errors import SettingError
from moto_pl.replay.episode import Episode, completion_order
from moto_pl.rollout.play import play, recorded

# Of the store, which imports torch, no type is named here: jsonargparse imports the types of a module that has a verb.

KINDS = ("mixed", "partial")
MAX_JITTER = 0.1
EARLIER: Mapping[str, Any] = {"order": "free", "jitter": JITTER}
"""What datasets were built with that do not say it: those from before there was a choice."""


@dataclass(frozen=True)
class Demonstration:
    """One episode to record: the same episode wherever it is recorded.

    Attributes:
        kind: ``mixed`` or ``partial``.
        index: its place in the dataset.
        objects: what to operate, in this order.
        seed: seed of the whole dataset.
        noise: standard deviation of the noise on each action.
        keep_failures: keep the first attempt whatever it reached.
        order: of the dataset's sequences; see :func:`moto_pl.datasets.kitchen.orders.sequence`.
        env_kwargs: keyword arguments of the environment.
        jitter: standard deviation of the noise on the arm's waypoints, metres.
    """

    kind: str
    index: int
    objects: tuple[str, ...]
    seed: int
    noise: float
    keep_failures: bool
    order: Order
    env_kwargs: dict[str, Any]
    jitter: float = JITTER

    def accepts(self, in_place: np.ndarray) -> bool:
        """Whether an attempt in which these objects were in place after each step, bool ``[T, 7]``, is kept."""
        partial = KITCHEN_TASKS["partial"]
        apart = self.objects != partial and (self.order == "canonical" or self.kind == "partial")
        if apart and in_place[:, _columns(partial)].any(axis=0).all():
            return False
        if self.keep_failures:
            return True
        if self.order == "free":
            return bool(in_place[:, _columns(self.objects)].all(axis=1).any())
        wanted = _columns(self.objects)
        return [column for column, _ in completion_order(in_place, wanted)] == wanted


def _columns(objects: Sequence[str]) -> list[int]:
    return [KITCHEN_OBJECTS.index(name) for name in objects]


def build_kitchen(
    kind: str,
    episodes: int = 100,
    steps: int = 280,
    seed: int = 0,
    workers: int = 2,
    render_quality: Quality = "fast",
    image_size: int = 64,
    noise: float = 0.05,
    jitter: float = JITTER,
    order: Order = "canonical",
    task_share: float | None = None,
    keep_failures: bool = False,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    **env_options: Any,
) -> Built:
    """Record a scripted arm that operates four objects an episode; the reward counts the task's own objects.

    The same arguments give the same dataset on one machine, for any number of workers. Each episode is kept as soon as
    it is recorded: the same call goes on where a killed one stopped, and memory holds but a few. In canonical order
    both tasks have the same episodes: where the other one's dataset is there (``moto_pl/kitchen/<kind>-v0``, or named
    as ``output`` but for the task), built with the same arguments and versions, they are taken from it, and the reward
    alone is made anew.

    Args:
        kind: ``mixed`` or ``partial``: the task whose objects the reward counts.
        episodes: how many to keep, at least 1.
        steps: environment steps in an episode.
        seed: decides the sequences, the approaches and all noise.
        workers: processes, each with a simulator and a renderer of its own.
        render_quality: ``fast`` or ``full``.
        image_size: height and width in pixels.
        noise: standard deviation of the noise added to each action, 0 to 1, which is then clipped to [-1, 1].
        jitter: standard deviation in metres, 0 to 0.1, by which the arm's waypoints stray where the object allows it.
            With more it misses now and then, and shows how it tries again.
        order: ``canonical``: combinations of four objects, all in the one order of the recorded demonstrations; an
            episode ends with its four in place, completed in that order, and no other. ``free``: four objects in any
            order, in place together at some step. See :func:`moto_pl.datasets.kitchen.orders.sequence`.
        task_share: share of the episodes that operate the task's own four objects; None is what the order has. 1 makes
            demonstrations of the whole task, for analyses.
        keep_failures: keep also the episodes that do not end so; otherwise they are tried again with other noise. What
            brings all objects of ``partial`` into place by accident is never kept, in canonical order nor for
            ``partial``.
        output: dataset id or path; None is ``moto_pl/kitchen/<kind>-v0``.
        overwrite: replace a dataset that is there already.
        **env_options: further arguments of the environment, such as ``joint_noise`` and ``camera``.

    Raises:
        SettingError: bad settings, a dataset that exists, no working OpenGL, or an arm that keeps failing.
    """
    _check(kind, episodes, seed, workers, noise, jitter, task_share, env_options)
    sequences = [sequence(kind, index, seed, task_share, order) for index in range(episodes)]
    target = output or default_id(f"kitchen/{kind}")
    check_target(target, overwrite)
    kwargs: dict[str, Any] = {
        "objects": list(KITCHEN_TASKS[kind]),
        "image_size": image_size,
        "render_quality": render_quality,
        "episode_steps": steps,
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
    plans = [
        Demonstration(kind, index, objects, seed, noise, keep_failures, order, kwargs, jitter)
        for index, objects in enumerate(sequences)
    ]
    metadata = {
        "env_kwargs": kwargs,
        "source": "scripted",
        "episodes": episodes,
        "seed": seed,
        "noise": noise,
        "jitter": jitter,
        "order": order,
        "task_share": share_of_task(kind, order, task_share),
        "keep_failures": keep_failures,
        "gl_backend": backend,
        "versions": versions("mujoco", "gymnasium-robotics", "gymnasium", "minari", "numpy"),
    }
    console = Console(stderr=True)
    if twin := _twin(kind, target, metadata, env.observation.config):
        console.print(f"kitchen/{kind}: the episodes of {twin.id}, with the reward of this task")
        made = (relabel(episode, kind) for episode in twin)
        path = write_dataset(target, made, kitchen_id(kind), metadata, overwrite, env.observation)
    else:
        with unfinished(target, metadata, "build", "built") as store:
            _record_all(plans, store, workers, console)
            made = (store[index].as_episode() for index in range(episodes))
            path = write_dataset(target, made, kitchen_id(kind), metadata, overwrite, env.observation)
    recorded = DatasetReader(path)
    return Built(path, Recording(recorded, sum(int(episode.info["retries"]) for episode in recorded)))


def _record_all(plans: Sequence[Demonstration], store: Any, workers: int, console: Console) -> None:
    """Records what the store does not have yet."""
    begun = len(store)
    results = in_processes(record_demonstration, plans[begun:], workers, timeout_s=1800.0)
    name = f"kitchen/{plans[0].kind}"
    for place, episode in track(results, name, total=len(plans), completed=begun, console=console):
        store.append(episode, begun + place)
    store.refresh(len(plans))


def _check(
    kind: str,
    episodes: int,
    seed: int,
    workers: int,
    noise: float,
    jitter: float,
    task_share: float | None,
    env_options: Mapping[str, Any],
) -> None:
    if kind not in KINDS:
        raise SettingError(
            "dataset", f"kitchen/{kind}", f"Use one of {', '.join(f'kitchen/{name}' for name in KINDS)}."
        )
    check_counts(episodes, seed, workers)
    for name, value in (("noise", noise), ("task_share", task_share)):
        if value is not None and not 0.0 <= value <= 1.0:
            raise SettingError(name, value, "Use a number from 0 to 1.")
    if not 0.0 <= jitter <= MAX_JITTER:
        raise SettingError("jitter", jitter, f"Use metres from 0 to {MAX_JITTER}: the arm misses what it strays from.")
    if "objects" in env_options:
        raise SettingError("objects", env_options["objects"], f"Leave it out: the objects of {kind} are counted.")


def relabel(episode: Episode, kind: str) -> Episode:
    """A recorded episode with the reward of another task."""
    completed = episode.extras["in_place"][:, _columns(KITCHEN_TASKS[kind])]
    return replace(
        episode,
        reward=completed.sum(axis=1).astype(np.float32),
        success=np.asarray(completed.all(axis=1)),
        extras={**episode.extras, "completed": completed},
        info={**episode.info, "env_id": kitchen_id(kind)},
    )


def _twin(
    kind: str, target: str | os.PathLike[str], metadata: Mapping[str, Any], wanted: ObservationConfig
) -> DatasetReader | None:
    """The other task's dataset, where it holds the episodes that ``metadata`` describes; None where there is none.

    It is looked for under its own name, and under what ``target`` would be called if it were the other task's.
    """
    if metadata["order"] != "canonical" or metadata["task_share"] is not None:
        return None
    other = next(name for name in KINDS if name != kind)
    env_kwargs = {**metadata["env_kwargs"], "objects": list(KITCHEN_TASKS[other])}
    expected = json.loads(json.dumps({**metadata, "env_kwargs": env_kwargs, "env_id": kitchen_id(other)}))
    for name in (str(target).replace(f"kitchen/{kind}", f"kitchen/{other}"), default_id(f"kitchen/{other}")):
        try:
            reader = open_dataset(name, wanted=wanted)
        except SettingError:  # not there, or damaged
            continue
        if {**EARLIER, **reader.own} == expected:
            return reader
    return None


_open: dict[str, Any] = {}


def record_demonstration(plan: Demonstration) -> Episode:
    """Record one episode, in a worker process that keeps its simulator.

    The simulation runs without images first: an attempt that is thrown away is not drawn.

    Raises:
        SettingError: the arm failed ``MAX_ATTEMPTS`` times.
    """
    if _open.get("kwargs") != plan.env_kwargs:
        _open.update(kwargs=plan.env_kwargs, env=KitchenEnv(**plan.env_kwargs))
    env: KitchenEnv = _open["env"]
    for attempt in range(MAX_ATTEMPTS):
        seed = demonstration_seed(plan.seed, plan.index, attempt)
        action, in_place = rehearse(env, plan.objects, seed, plan.noise, plan.jitter)
        if plan.accepts(in_place):
            break
    else:
        found = f"{', '.join(plan.objects)}: not once in {MAX_ATTEMPTS} attempts"
        raise SettingError(f"kitchen/{plan.kind}", found, "Use less noise or jitter, more steps, or keep failures.")
    info: dict[str, str | int | float | bool] = {
        "source": "scripted",
        "env_id": kitchen_id(plan.kind),
        "seed": seed,
        "sequence": ", ".join(plan.objects),
        "operated": int(in_place[:, _columns(plan.objects)].any(axis=0).sum()),
        "retries": attempt,
        "render_quality": env.render_quality,
        "gl_renderer": env.gl_renderer,
    }
    return replace(play(env, seed, recorded(action)), info=info)


def rehearse(
    env: KitchenEnv, objects: tuple[str, ...], seed: int, noise: float = 0.0, jitter: float = JITTER
) -> tuple[np.ndarray, np.ndarray]:
    """Simulate an episode of the scripted arm without images.

    Args:
        env: it is started anew.
        objects: what to operate, in this order.
        seed: of the environment, the arm's variants and the noise.
        noise: standard deviation of the noise on each action.
        jitter: standard deviation of the noise on the arm's waypoints, metres.

    Returns:
        The actions, float32 ``[T, 9]``, and which of all seven objects were in place after each, bool ``[T, 7]``.
    """
    rng = np.random.default_rng(seed)
    env.start(seed)
    arm = KitchenArm(env, rng, jitter)
    actions, in_place = [], []
    for scripted in itertools.islice(arm.sequence(objects), env.episode_steps):
        action = np.clip(scripted + noise * rng.standard_normal(ACTION_SIZE), -1.0, 1.0).astype(np.float32)
        stable = env.advance(action)
        actions.append(action)
        in_place.append(env.all_in_place() & stable)
        if not stable:
            break
    return np.stack(actions), np.stack(in_place)
