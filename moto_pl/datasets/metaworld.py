"""Scripted MetaWorld demonstrations as a dataset: the method's ten trajectories of 101 steps a task."""

from __future__ import annotations

import os
from typing import Any

from moto_pl.datasets.minari_io import check_target, default_id
from moto_pl.datasets.minari_write import write_dataset
from moto_pl.datasets.recording import Built, Plan, record, versions
from moto_pl.envs import METAWORLD_TASKS, metaworld_id, unknown_name
from moto_pl.envs.rendering import Quality, select_backend


def build_metaworld(
    task: str,
    episodes: int = 10,
    steps: int = 101,
    seed: int = 0,
    workers: int = 2,
    render_quality: Quality = "fast",
    camera: str = "paper",
    image_size: int = 64,
    noise: float = 0.0,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    **env_options: Any,
) -> Built:
    """Record demonstrations of MetaWorld's own scripted policy; failed ones are thrown away and tried again elsewhere.

    The same arguments give the same dataset on one machine, for any number of workers.

    Args:
        task: MetaWorld's name, ``door-open``.
        episodes: successful episodes to keep, at least 1.
        steps: agent steps in an episode, each of two simulator steps unless ``action_repeat`` says otherwise.
        seed: decides where the objects are; never the same places as in evaluation, whose seeds are 2**30 or greater.
        workers: processes, each with a simulator and a renderer of its own.
        render_quality: ``fast`` or ``full``.
        camera: ``paper``, ``corner2`` or another camera of the scene.
        image_size: height and width in pixels.
        noise: standard deviation of the noise added to each action, 0 to 1.
        output: dataset id or path; None is ``moto_pl/metaworld/<task>-v0``.
        overwrite: replace a dataset that is there already.
        **env_options: further arguments of the environment, such as ``action_repeat`` and ``paper_reset``.

    Raises:
        SettingError: unknown task, bad settings, a dataset that exists, or no working OpenGL.
    """
    if task not in METAWORLD_TASKS:
        raise unknown_name("task", task, METAWORLD_TASKS)
    target = output or default_id(f"metaworld/{task}")
    check_target(target, overwrite)
    env_kwargs: dict[str, Any] = {
        "image_size": image_size,
        "camera": camera,
        "render_quality": render_quality,
        "episode_steps": steps,
        **env_options,
    }
    info = {"source": "scripted", "render_quality": render_quality}
    plan = Plan(metaworld_id(task), env_kwargs, episodes, seed, noise, info)
    # Once here, so that the workers inherit the choice and need not each find it out.
    backend = select_backend()
    recording = record(plan, workers, draws=True)
    metadata = {
        **plan.describe(),
        "gl_backend": backend,
        "retries": recording.retries,
        "versions": versions("mujoco", "metaworld", "gymnasium", "minari", "numpy"),
    }
    path = write_dataset(target, recording.episodes, plan.env_id, metadata, overwrite, recording.observation)
    return Built(path, recording)
