"""Episodes as robomimic's HDF5, with ``next_obs``: nothing is lost but what the format has no place for."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from moto_pl.datasets.own_actions import OwnActions
from moto_pl.envs.observation import Observation, unstacked
from moto_pl.files import temporary_path, whole
from moto_pl.replay.episode import Episode

CAMERA = "agentview_image"
"""A name that robomimic's observation encoders take for an image; of several cameras each has ``<name>_image``."""


def write_robomimic(
    path: Path,
    episodes: Iterable[Episode],
    env_name: str,
    env_kwargs: dict[str, Any],
    observation: Observation | None = None,
    actions: OwnActions | None = None,
) -> int:
    """Writes a file, whole; returns the number of episodes.

    Args:
        path: where to; the directory is there.
        episodes: taken one at a time.
        env_name: kept in ``env_args``.
        env_kwargs: kept there too; JSON-able.
        observation: what the episodes' images and vectors are called; None: the image alone.
        actions: what is written in place of their actions; None: themselves.
    """
    seen = observation or Observation()
    total = count = 0
    with whole(path):  # HDF5 opens it by its name; its lock is ours already
        with h5py.File(temporary_path(path), "w", locking=False) as file:
            data = file.create_group("data")
            for count, episode in enumerate(episodes, start=1):
                own = episode.action if actions is None else actions.of(episode)
                _add(data.create_group(f"demo_{count - 1}"), episode, seen, own)
                total += episode.length
            data.attrs["total"] = total
            # Of no kind that robomimic makes environments of: it says where the episodes are from.
            data.attrs["env_args"] = json.dumps({"env_name": env_name, "type": 2, "env_kwargs": env_kwargs})
    return count


def _add(demo: h5py.Group, episode: Episode, observation: Observation, action: np.ndarray) -> None:
    demo.attrs["num_samples"] = episode.length
    for key, value in episode.info.items():
        demo.attrs[f"moto_pl/{key}"] = value
    dones = np.zeros(episode.length, np.int64)
    dones[-1] = 1
    arrays = {"actions": action, "rewards": episode.reward, "dones": dones, "success": episode.success}
    for name, array in arrays.items():
        demo.create_dataset(name, data=array)
    cameras = observation.cameras
    names = [CAMERA] if len(cameras) == 1 else [f"{name}_image" for name in cameras]
    packed: dict[str, Any] = {"compression": "gzip", "compression_opts": 4}
    for name, image in zip(names, map(np.ascontiguousarray, unstacked(episode.image, len(names))), strict=True):
        for group, frames in (("obs", image[:-1]), ("next_obs", image[1:])):
            chunks = (1, *frames.shape[1:])  # robomimic reads some frames here and there
            demo.create_dataset(f"{group}/{name}", data=frames, chunks=chunks, **packed)
    for name, vector in observation.vectors(episode.vector).items():
        demo.create_dataset(f"obs/{name}", data=vector[:-1])
        demo.create_dataset(f"next_obs/{name}", data=vector[1:])
