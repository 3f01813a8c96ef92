"""Datasets of kitchen states made into datasets of pixels: each state drawn, each reward counted anew."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from moto_pl.datasets.kitchen.states import StateDataset, StateEpisode, open_states
from moto_pl.datasets.minari_io import check_target, default_id, target_path
from moto_pl.datasets.minari_write import write_dataset
from moto_pl.datasets.parallel import in_processes
from moto_pl.datasets.recording import versions
from moto_pl.datasets.staging import held_parts
from moto_pl.envs import KITCHEN_OBJECTS, KITCHEN_TASKS, kitchen_id
from moto_pl.envs.kitchen import ACTION_SIZE, KitchenEnv, check_objects, objects_in_place
from moto_pl.envs.rendering import Quality, select_backend
from moto_pl.errors import SettingError
from moto_pl.files import whole
from moto_pl.replay.episode import Episode

TOLERANCE = 0.02
"""Largest difference of any robot joint (rad, m for the fingers), after one step, that counts as reproduced."""
LEAST_SHARE = 0.9
"""Share of the sampled transitions that must be reproduced; in contact a small difference soon grows."""
SAMPLED = 100


@dataclass(frozen=True)
class Verification:
    """How well recorded actions, played from recorded states, lead to the next recorded states.

    Attributes:
        transitions: how many were played.
        tolerance: largest difference of a robot joint that counts as reproduced, rad (m for the fingers).
        share: of the transitions, those within the tolerance.
        robot_median: median over transitions of the largest difference of a robot joint.
        robot_worst: the largest.
        objects_median: median over transitions of the largest difference of an object's joint or the kettle's position.
        objects_worst: the largest.
    """

    transitions: int
    tolerance: float
    share: float
    robot_median: float
    robot_worst: float
    objects_median: float
    objects_worst: float

    def __str__(self) -> str:
        return (
            f"{self.share:.1%} of {self.transitions} recorded transitions are reproduced "
            f"within {self.tolerance:g} rad; "
            f"robot: median {self.robot_median:.4f}, worst {self.robot_worst:.4f}; "
            f"objects: median {self.objects_median:.4f}, worst {self.objects_worst:.4f}"
        )


@dataclass(frozen=True)
class Rendered:
    """A dataset that was rendered: its directory, its episodes' number, how many were there already, the check."""

    path: Path
    episodes: int
    resumed: int
    verification: Verification


def render_states(
    source: str | os.PathLike[str],
    task: str = "mixed",
    objects: Sequence[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    workers: int = 2,
    render_quality: Quality = "fast",
    image_size: int = 64,
    camera: Mapping[str, Any] | str = "paper",
    episodes: int | None = None,
    tolerance: float = TOLERANCE,
    download: bool = False,
    overwrite: bool = False,
    timeout_s: float = 600.0,
) -> Rendered:
    """Render a dataset of kitchen states into a Minari dataset of pixels, with the reward of the chosen task.

    Every state is put into the simulator and drawn. A sample of the recorded transitions is played first, to see that
    this simulator is the one that the states came from. Each finished episode is a file in a hidden directory beside
    the target, so that the same call goes on where a killed one stopped; at the end they become the dataset, and the
    directory goes.

    Args:
        source: a Minari id, such as D4RL/kitchen/mixed-v2, or a path: Minari, .npy or .mjl
            (:func:`~moto_pl.datasets.kitchen.states.open_states`).
        task: ``mixed``, ``partial`` or ``complete``: whose objects are counted.
        objects: count these objects instead, such as kettle light_switch.
        output: dataset id or path; None is ``moto_pl/kitchen/<task>-rendered-v0``.
        workers: processes, each with a simulator and a renderer of its own.
        render_quality: ``fast`` or ``full``.
        image_size: height and width in pixels.
        camera: ``paper``, a camera of the scene by name, or a free camera as a mapping.
        episodes: only the first so many; None is all.
        tolerance: largest difference of a robot joint that counts as reproduced, rad (m for the fingers); 90% of the
            sample must be within it.
        download: ask Minari's remote for an id that is not here.
        overwrite: replace a dataset that is there already.
        timeout_s: a process that has not finished an episode after so many seconds is replaced.

    Raises:
        SettingError: a dataset of something else, a state that cannot be, transitions that are not reproduced, an
            unknown object, a dataset that exists, one half rendered with other settings, or one that another process
            renders.
    """
    if task not in KITCHEN_TASKS:
        raise SettingError("task", repr(task), f"Use one of {', '.join(KITCHEN_TASKS)}.")
    if workers < 1:
        raise SettingError("workers", workers, "Use 1 or more.")
    if episodes is not None and episodes < 1:
        raise SettingError("episodes", episodes, "Use 1 or more.")
    counted = check_objects(objects if objects is not None else KITCHEN_TASKS[task])
    target = output or default_id(f"kitchen/{task}-rendered")
    check_target(target, overwrite)
    kwargs: dict[str, Any] = {
        "objects": list(counted),
        "image_size": image_size,
        "render_quality": render_quality,
        "camera": dict(camera) if isinstance(camera, Mapping) else camera,
    }
    backend = select_backend()
    KitchenEnv(**kwargs).close()  # refuses bad settings here, before anything is written
    states = open_states(source, download)
    count = len(states) if episodes is None else min(episodes, len(states))
    console = Console(stderr=True)
    # All are looked at before the first is drawn: a bad state in the last would be found hours later.
    fingerprint, lengths = hashlib.sha256(), []
    for episode in track(itertools.islice(states, count), "reading", total=count, transient=True, console=console):
        lengths.append(len(episode.action))
        fingerprint.update(episode.positions.tobytes() + episode.action.tobytes())
    verification = verify(states, lengths, tolerance)
    if verification.share < LEAST_SHARE:
        fix = "Use states of this kitchen, or accept the difference with a larger --tolerance."
        raise SettingError("source", f"{states.id}, of which only {verification}", fix)

    path, _ = target_path(target)
    parts = path.parent / f".{path.name}.rendering"
    settings = {**kwargs, "source": fingerprint.hexdigest(), "episodes": count}
    metadata = {
        "env_kwargs": kwargs,
        "source": f"states of {states.id}",
        "episodes": count,
        "gl_backend": backend,
        "verification": asdict(verification),
        "versions": versions("mujoco", "gymnasium-robotics", "gymnasium", "minari", "numpy"),
    }
    jobs = [Job(str(Path(source).expanduser()), index, kwargs, str(_part(parts, index))) for index in range(count)]

    def finished() -> Iterator[Episode]:
        for job, state_episode in zip(jobs, itertools.islice(states, count), strict=True):
            image = _read_part(Path(job.part))
            if image is None:
                raise SettingError("output", f"{job.part}, damaged since it was written", "Run the same command again.")
            yield label(state_episode, image, counted, {"source": states.id, "render_quality": render_quality})

    with held_parts(parts, settings, "render", "rendered"):
        todo = [job for job in jobs if _read_part(Path(job.part)) is None]
        work = in_processes(render_part, todo, workers, timeout_s) if todo else iter(())
        for _ in track(work, f"rendering {states.id}", total=len(todo), console=console):
            pass
        path = write_dataset(target, finished(), kitchen_id(task), metadata, overwrite)
        shutil.rmtree(parts)
    return Rendered(path, count, count - len(todo), verification)


def label(
    states: StateEpisode, image: np.ndarray, objects: Sequence[str], info: Mapping[str, str | int | float | bool]
) -> Episode:
    """An episode with the reward of a task: at each step, how many of its objects are in place in the state reached."""
    in_place = objects_in_place(states.positions[1:])
    completed = in_place[:, [KITCHEN_OBJECTS.index(name) for name in objects]]
    return Episode(
        image=image,
        action=states.action,
        reward=completed.sum(axis=1).astype(np.float32),
        terminated=False,
        truncated=True,
        success=np.asarray(completed.all(axis=1)),
        extras={"completed": completed, "in_place": in_place},
        info=dict(info),
    )


def verify(states: StateDataset, lengths: Sequence[int], tolerance: float = TOLERANCE) -> Verification:
    """Play a sample of recorded actions from recorded states, and compare with the next recorded states.

    Args:
        states: the dataset.
        lengths: steps of the episodes to take them from, the first ones.
        tolerance: see :class:`Verification`.
    """
    env = KitchenEnv(joint_noise=0.0)
    starts = np.cumsum([0, *lengths])
    robot, objects = [], []
    load = functools.lru_cache(1)(states.__getitem__)
    for flat in np.unique(np.linspace(0, starts[-1] - 1, SAMPLED).astype(int)):
        index = int(np.searchsorted(starts, flat, side="right")) - 1
        episode, step = load(index), int(flat - starts[index])
        env.set_state(episode.positions[step], episode.velocities[step])
        stable = env.advance(episode.action[step])
        difference = np.abs(env.data.qpos - episode.positions[step + 1])
        robot.append(difference[:ACTION_SIZE].max() if stable else np.inf)
        objects.append(difference[ACTION_SIZE:-4].max() if stable else np.inf)  # without the kettle's quaternion
    env.close()
    return Verification(
        transitions=len(robot),
        tolerance=tolerance,
        share=float(np.mean(np.array(robot) <= tolerance)),
        robot_median=float(np.median(robot)),
        robot_worst=float(np.max(robot)),
        objects_median=float(np.median(objects)),
        objects_worst=float(np.max(objects)),
    )


@dataclass(frozen=True)
class Job:
    """One episode to draw: where its states are, with which settings, and into which file."""

    source: str
    index: int
    env_kwargs: dict[str, Any]
    part: str


_open: dict[str, Any] = {}


def render_part(job: Job) -> None:
    """Draw one episode's states into a file, in a worker process; the simulator is kept for the next one."""
    key = json.dumps([job.source, job.env_kwargs])
    if _open.get("key") != key:
        _open.update(key=key, env=KitchenEnv(**job.env_kwargs), states=open_states(job.source))
    env, episode = _open["env"], _open["states"][job.index]
    frames = []
    for positions, velocities in zip(episode.positions, episode.velocities, strict=True):
        env.set_state(positions, velocities)
        frames.append(env.render())
    with whole(Path(job.part)) as file:
        np.savez_compressed(file, image=np.stack(frames))


def _part(parts: Path, index: int) -> Path:
    return parts / f"episode_{index:06d}.npz"


def _read_part(part: Path) -> np.ndarray | None:
    """The frames in a finished part; None where there is none, or a damaged one, which is then drawn again."""
    try:
        with np.load(part, allow_pickle=False) as file:
            return np.asarray(file["image"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
