"""What a Minari dataset's spaces offer: the image to learn from, and state vectors."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator

from moto_pl.envs.observation import IMAGE_ALONE, ObservationConfig
from moto_pl.envs.rendering import parse_camera
from moto_pl.errors import SettingError

IMAGE_KEYS = ("image", "pixels", "rgb", "observation/image")
"""Names preferred, in this order, where a dataset has several images and none was chosen."""


def find_image(
    label: str, space: gym.Space[Any], image_key: str | None, setting: str = "image_key"
) -> tuple[str, spaces.Box]:
    """Key (empty where the observation itself is the image) and space of the image observation.

    Args:
        label: what to call the dataset in an error.
        space: of its observations.
        image_key: which one is wanted; None finds it.
        setting: what asked for that one.

    Raises:
        SettingError: it is not there, or it is not clear which one is meant.
    """
    found = dict(leaves(space))
    images = {key: leaf for key, leaf in found.items() if is_image(leaf)}
    described = ", ".join(f"{key or 'observation'} {_describe(leaf)}" for key, leaf in found.items())
    if not images:
        fix = "Training needs an image, uint8 height x width x 3: render one into the dataset, or use another."
        raise SettingError(label, f"no image among its observations ({described})", fix)
    if image_key is not None:
        if image_key not in images:
            raise SettingError(setting, repr(image_key), f"Use one of {label}: {', '.join(images)}.")
        return image_key, images[image_key]
    preferred = [key for key in IMAGE_KEYS if key in images]
    if len(images) > 1 and not preferred:
        fix = "Name the one to learn from in data.observation.cameras."
        raise SettingError(label, f"several images: {', '.join(images)}", fix)
    key = preferred[0] if preferred else next(iter(images))
    return key, images[key]


def find_cameras(
    label: str, space: gym.Space[Any], wanted: ObservationConfig | None, image_key: str | None, own: bool
) -> tuple[dict[str, str], dict[str, tuple[int, int]]]:
    """The keys of a dataset's images by their cameras' names, and their heights and widths.

    Args:
        label: what to call the dataset in an error.
        space: of its observations.
        wanted: whose cameras; None: all, of a dataset of our ``own``, and of another's the one image that is found.
        image_key: which image the camera ``image`` is, where that alone is wanted; None finds it.
        own: whether this package wrote it.

    Raises:
        SettingError: one is not there, or it is not clear which one is meant.
    """
    cameras = IMAGE_ALONE.cameras if wanted is None else wanted.cameras
    if wanted is None and own and image_key is None:
        cameras = tuple(key for key, leaf in leaves(space) if is_image(leaf)) or cameras
    if cameras == IMAGE_ALONE.cameras:
        found = {"image": find_image(label, space, image_key)}
    else:
        found = {name: find_image(label, space, name, "data.observation.cameras") for name in cameras}
    sizes = {name: (int(leaf.shape[0]), int(leaf.shape[1])) for name, (_, leaf) in found.items()}
    return {name: key for name, (key, _) in found.items()}, sizes


def everything(label: str, space: gym.Space[Any]) -> ObservationConfig:
    """All images and state vectors of a space; of a single image it does not matter what it is called.

    Raises:
        SettingError: there is no image.
    """
    found = dict(leaves(space))
    cameras = tuple(key for key, leaf in found.items() if is_image(leaf))
    if len(cameras) < 2:
        key, _ = find_image(label, space, None)
        cameras = (key,) if key.isidentifier() else IMAGE_ALONE.cameras
    return ObservationConfig(cameras, tuple(key for key, leaf in found.items() if key and is_vector(leaf)))


def one_size(label: str, sizes: Mapping[str, tuple[int, int]], image_size: int | None) -> tuple[int, int]:
    """The height and width of all cameras' images.

    Args:
        label: what to call the dataset in an error.
        sizes: heights and widths, by camera.
        image_size: to which they are resized; None leaves them as they are.

    Raises:
        SettingError: they are left as they are, and not of one size.
    """
    if image_size is not None:
        return image_size, image_size
    if len(set(sizes.values())) > 1:
        described = ", ".join(f"{name} of {height}x{width}" for name, (height, width) in sizes.items())
        raise SettingError(label, f"images of several sizes ({described})", "Resize them to one: moto data import.")
    return next(iter(sizes.values()))


def drawn_here(own: Mapping[str, Any]) -> bool:
    """Whether a dataset's frames were drawn by this package's environments: built, and not imported.

    Args:
        own: what this package wrote about it; of others' datasets nothing.
    """
    return "selection" not in own and str(own.get("env_id", "")).startswith("moto_pl/")


def vector_sizes(label: str, space: gym.Space[Any], wanted: ObservationConfig) -> dict[str, int]:
    """How many numbers each of the wanted state vectors has."""
    found, sizes = dict(leaves(space)), {}
    offered = [key for key, leaf in found.items() if is_vector(leaf)]
    for name in wanted.state:
        leaf = found.get(name)
        if leaf is None or not is_vector(leaf):
            what = f"no '{name}'" if leaf is None else f"'{name}' {_describe(leaf)}, which is no flat Box of numbers"
            fix = (
                f"Name some of its {', '.join(offered)} in data.observation.state." if offered else "It has no vectors."
            )
            raise SettingError(label, f"{what} among its observations", fix)
        sizes[name] = int(leaf.shape[0])  # type: ignore[index]
    return sizes


def check_same_camera(label: str, own: Mapping[str, Any], env_id: str, env_options: Mapping[str, Any]) -> None:
    """Refuses a dataset that was recorded here with another camera than an environment's.

    Args:
        label: what to call the dataset.
        own: what this package wrote about it; of others' datasets nothing is known.
        env_id: the environment's id.
        env_options: its arguments.

    Raises:
        SettingError: says which two they are.
    """
    spec = gym.registry.get(env_id.rpartition(":")[2])
    if spec is None or not str(own.get("env_id", "")).startswith("moto_pl/") or not spec.id.startswith("moto_pl/"):
        return
    parameter = inspect.signature(load_env_creator(str(spec.entry_point))).parameters.get("camera")
    if parameter is None:
        return
    recorded = own.get("env_kwargs", {}).get("camera", parameter.default)
    present = {**spec.kwargs, **env_options}.get("camera", parameter.default)
    if parse_camera(recorded) != parse_camera(present):
        found = f"the camera {present}, where {label} was recorded with {recorded}"
        raise SettingError("data.env_options", found, "Give both the same camera, or take another dataset.")


def check_same_repeat(label: str, own: Mapping[str, Any], repeat: int) -> None:
    """Refuses a dataset whose actions were not each taken for ``repeat`` steps of the environment.

    Args:
        label: what to call the dataset.
        own: what this package wrote about it: how it was recorded, or how many recorded steps an import made one. Of
            others' datasets nothing is known, and a step is taken for a step.
        repeat: the run's ``data.action_repeat``.

    Raises:
        SettingError: says how it was recorded.
    """
    recorded = int(own.get("action_repeat", 1))
    selection = own.get("selection")
    merged = int(selection.get("merge", 1)) if isinstance(selection, Mapping) else recorded
    if repeat not in (recorded, merged):
        fix = f"Give {recorded}, or a dataset that was recorded so. docs/observations.md says how."
        raise SettingError("data.action_repeat", f"{repeat}, where {label} was recorded with {recorded}", fix)


def is_image(space: gym.Space[Any]) -> TypeGuard[spaces.Box]:
    """Whether a space holds an image: uint8 [H, W, 3]."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[2] == 3


def is_vector(space: gym.Space[Any]) -> bool:
    """Whether a space holds a state vector: a flat Box of numbers."""
    return isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype.kind in "fiu"


def observed(observations: Any, key: str) -> Any:
    """An observation's rows, ``a/b`` for a nested one; the observation itself where there is no name."""
    for part in key.split("/") if key else ():
        observations = observations[part]
    return observations


def leaves(space: gym.Space[Any], prefix: str = "") -> Iterator[tuple[str, gym.Space[Any]]]:
    """The spaces in a space, by name: ``a/b`` for a nested one, empty for the space itself."""
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from leaves(part, f"{prefix}/{key}" if prefix else str(key))
    else:
        yield prefix, space


def _describe(space: gym.Space[Any]) -> str:
    return f"{space.dtype} {space.shape}" if isinstance(space, spaces.Box) else type(space).__name__
