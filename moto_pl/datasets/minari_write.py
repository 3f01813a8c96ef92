"""Episodes written as a Minari dataset, which Minari itself and ``open_dataset`` read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
from gymnasium import spaces
from minari.dataset.minari_storage import MinariStorage

from moto_pl.datasets.minari_io import DATA_FILE, NAMESPACE, check_target, target_path
from moto_pl.datasets.own_actions import UNIT, OwnActions
from moto_pl.datasets.staging import staged
from moto_pl.envs.actions import ActionScale
from moto_pl.envs.observation import Observation, unstacked
from moto_pl.errors import SettingError
from moto_pl.replay.episode import Episode

FRAMES_PER_CHUNK = 16


def write_dataset(
    target: str | os.PathLike[str],
    episodes: Iterable[Episode],
    env_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    observation: Observation | None = None,
    actions: OwnActions | None = None,
) -> Path:
    """Write episodes as a Minari dataset, which Minari and ``open_dataset`` read.

    Images are stored without loss, compressed and with checksums. Everything is written to a hidden directory beside
    the target, which is renamed at the end, so that a dataset is there whole or not at all.

    Args:
        target: a dataset id (``namespace/name-v0``) in the local Minari directory, or a path.
        episodes: one or more, of one image and one action size; they are taken one at a time.
        env_id: the gymnasium id that they came from; if registered, the dataset can recover that environment, with the
            keyword arguments in ``metadata["env_kwargs"]``.
        metadata: JSON-able; kept under the key ``moto_pl`` of the dataset's metadata.
        overwrite: replace a dataset that is there already.
        observation: which cameras the episodes' ``image`` holds and which state vectors their ``vector``, each of which
            is stored under its own name; None: the image alone.
        actions: what is written in place of the episodes' actions, and the Box of them; None: themselves, in [-1, 1].

    Returns:
        The dataset's directory.

    Raises:
        SettingError: the target exists, its name is no id, there are no episodes, or they differ in size.
    """
    path, dataset_id = target_path(target)
    check_target(target, overwrite)
    observation = observation or Observation()
    metadata = dict(metadata or {})
    storage: MinariStorage | None = None
    count = steps = 0
    image_shape, action_size = (0, 0, 0), 0
    with staged(path) as directory:
        data_path = directory / "data"
        # The file is open only while an episode is added: Minari's storage creates it and later measures its size.
        for count, episode in enumerate(episodes, start=1):
            if storage is None:
                image_shape, action_size = episode.image.shape[1:], episode.action.shape[1]
                if image_shape[2] != observation.channels:
                    found = f"frames of {image_shape[2]} channels"
                    raise SettingError("episodes", found, f"Write episodes that hold {', '.join(observation.cameras)}.")
                bounds = ActionScale.within(1.0, action_size) if actions is None else actions.bounds
                storage = _new_storage(data_path, image_shape, bounds, env_id, metadata, observation)
            if episode.image.shape[1:] != image_shape or episode.action.shape[1] != action_size:
                sizes = (episode.image.shape[1:], episode.action.shape[1])
                found = f"image and action sizes {sizes} after {(image_shape, action_size)}"
                raise SettingError("episodes", found, "Write episodes of one image and one action size.")
            if (0 if episode.vector is None else episode.vector.shape[1]) != observation.vector_size:
                found = f"a vector of shape {None if episode.vector is None else episode.vector.shape}"
                raise SettingError("episodes", found, f"Write episodes that hold {dict(observation.state)}.")
            with h5py.File(data_path / DATA_FILE, "a", track_order=True) as file:
                own = episode.action if actions is None else actions.of(episode)
                _add(file.create_group(f"episode_{count - 1}"), episode, count - 1, observation, own)
            steps += episode.length
        if storage is None:
            raise SettingError("episodes", "none", "Write at least one.")
        storage.update_metadata(
            {
                "dataset_id": dataset_id,
                "minari_version": minari.__version__,
                "total_episodes": count,
                "total_steps": steps,
                "dataset_size": float(storage.get_size()),
                NAMESPACE: metadata | ({} if env_id is None else {"env_id": env_id}),
            }
        )
    return path


def _new_storage(
    data_path: Path,
    image_shape: tuple[int, ...],
    bounds: ActionScale,
    env_id: str | None,
    metadata: dict[str, Any],
    observation: Observation,
) -> MinariStorage:
    spec = None
    if env_id in gym.registry:
        spec = gym.spec(env_id)
        spec = type(spec).from_json(spec.to_json())  # a copy: the registry's own must not change
        spec.kwargs.update(metadata.get("env_kwargs", {}))
    return MinariStorage.new(
        data_path,
        observation_space=spaces.Dict(
            {
                **{name: spaces.Box(0, 255, (*image_shape[:2], 3), np.uint8) for name in observation.cameras},
                **{n: spaces.Box(-np.inf, np.inf, (size,), np.float32) for n, size in observation.state.items()},
            }
        ),
        action_space=spaces.Box(np.array(bounds.low, np.float32), np.array(bounds.high, np.float32)),
        env_spec=spec,
        # Minari would write JPEG otherwise, whose artefacts the world model would have to learn.
        jpeg_encoding=False,
    )


def _add(group: h5py.Group, episode: Episode, index: int, observation: Observation, action: np.ndarray) -> None:
    """One episode in Minari's HDF5 layout; infos get a first row of zeros for the reset, as its collector's do."""
    info = {name: value for name, value in episode.info.items() if name != UNIT}
    group.attrs.update({"id": index, "total_steps": episode.length, **info})
    packed: dict[str, Any] = {"compression": "gzip", "compression_opts": 4, "fletcher32": True}
    chunks = (min(FRAMES_PER_CHUNK, episode.length + 1), *episode.image.shape[1:3], 3)
    for name, image in zip(observation.cameras, unstacked(episode.image, len(observation.cameras)), strict=True):
        group.create_dataset(f"observations/{name}", data=image, chunks=chunks, **packed)
    flags = np.zeros((2, episode.length), bool)
    flags[:, -1] = episode.terminated, episode.truncated
    arrays = {"actions": action, "rewards": episode.reward, "terminations": flags[0], "truncations": flags[1]}
    arrays |= {f"observations/{name}": value for name, value in observation.vectors(episode.vector).items()}
    for key, value in {"success": episode.success, **episode.extras}.items():
        arrays[f"infos/{key}"] = np.concatenate([np.zeros_like(value[:1]), value])
    for key, value in arrays.items():
        group.create_dataset(key, data=value, chunks=value.shape, fletcher32=True)
