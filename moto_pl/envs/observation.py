"""What is observed: which cameras and state vectors an agent learns from, by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from moto_pl.envs.resizing import resize
from moto_pl.errors import SettingError

IMAGE_SIZE = 64
"""Height and width of an image in pixels, as the papers have it."""
IMAGE_SIZES = (64, 96, 128)
"""What ``data.image_size`` may be."""


def check_image_size(size: int) -> int:
    """The same size.

    Raises:
        SettingError: no networks are made for images of this size.
    """
    if size not in IMAGE_SIZES:
        raise SettingError("data.image_size", size, f"Give one of {', '.join(map(str, IMAGE_SIZES))}.")
    return size


@dataclass(frozen=True)
class ObservationConfig:
    """Which of an environment's and a dataset's observations are learned from; ``a/b`` is entry b of entry a.

    Attributes:
        cameras: images, uint8 [H, W, 3] each, of one size; their channels are stacked in this order.
        state: vectors beside them, such as joint positions, in this order; none by default.
    """

    cameras: tuple[str, ...] = ("image",)
    state: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.cameras:
            raise SettingError("data.observation.cameras", [], "Name at least one image.")
        names = (*self.cameras, *self.state)
        if len(set(names)) < len(names):
            raise SettingError("data.observation", list(names), "Name each observation once.")

    @property
    def names(self) -> tuple[str, ...]:
        """All that is observed, cameras first."""
        return (*self.cameras, *self.state)


IMAGE_ALONE = ObservationConfig()
"""The papers' observation."""


@dataclass(frozen=True)
class Observation:
    """What networks have to know of the observations they see; checkpoints hold it.

    Attributes:
        cameras: as in :class:`ObservationConfig`.
        state: how many numbers each of the vectors has, in their order.
        mean: of each of all their V numbers, in the demonstrations; 0 where there are none.
        std: the same numbers' standard deviation; 1 where there are none, or where a number does not vary.
        image_size: height and width of each camera's image, in pixels.
    """

    cameras: tuple[str, ...] = ("image",)
    state: Mapping[str, int] = field(default_factory=dict)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    image_size: int = IMAGE_SIZE

    @property
    def channels(self) -> int:
        """Of all cameras' images together, stacked: three each."""
        return 3 * len(self.cameras)

    @property
    def vector_size(self) -> int:
        """V, numbers of all vectors together."""
        return sum(self.state.values())

    def vectors(self, joined: np.ndarray | None) -> dict[str, np.ndarray]:
        """Rows [..., V] of all vectors, taken apart: by name, [..., n] each."""
        if joined is None:
            return {}
        ends = np.cumsum(list(self.state.values()))[:-1]
        return dict(zip(self.state, np.split(joined, ends, axis=-1), strict=True))

    @property
    def config(self) -> ObservationConfig:
        """The names alone."""
        return ObservationConfig(self.cameras, tuple(self.state))

    @property
    def layout(self) -> tuple[Any, ...]:
        """All but the statistics: two that are the same see the same arrays."""
        return self.cameras, self.image_size, tuple(self.state.items())

    def __str__(self) -> str:
        """The names, the images' size where it is not the papers', and the vectors' sizes."""
        size = "" if self.image_size == IMAGE_SIZE else f" {self.image_size}x{self.image_size}"
        cameras = [f"{name}{size}" for name in self.cameras]
        return ", ".join([*cameras, *(f"{name} [{count}]" for name, count in self.state.items())])

    @classmethod
    def of(cls, config: ObservationConfig, sizes: Mapping[str, int], image_size: int = IMAGE_SIZE) -> Observation:
        """Without statistics: vectors as they are."""
        state = {name: sizes[name] for name in config.state}
        count = sum(state.values())
        return cls(config.cameras, state, (0.0,) * count, (1.0,) * count, image_size)

    @classmethod
    def from_plain(cls, value: Mapping[str, Any]) -> Observation:
        """The inverse of ``dataclasses.asdict``, lists for tuples."""
        state = {str(name): int(size) for name, size in value["state"].items()}
        mean, std = (tuple(map(float, value[name])) for name in ("mean", "std"))
        size = int(value.get("image_size", IMAGE_SIZE))  # which earlier versions did not write
        found = cls(tuple(map(str, value["cameras"])), state, mean, std, size)
        if not found.cameras or size not in IMAGE_SIZES:
            raise ValueError(f"an observation of {len(found.cameras)} cameras of {size} pixels")
        if (
            not len(mean) == len(std) == found.vector_size
            or not np.isfinite([*mean, *std]).all()
            or min(std, default=1) <= 0
        ):
            raise ValueError("an observation without a mean and a standard deviation for each number")
        return found


class Seen(NamedTuple):
    """What is seen at one moment: the frames of M cameras, and the vectors, one after another.

    Attributes:
        image: uint8 [H, W, 3 * M].
        vector: float32 [V]; None where no vector is learned from.
    """

    image: np.ndarray
    vector: np.ndarray | None = None


def entry(observation: Any, name: str) -> Any:
    """What an observation, or a space, holds under a name, ``a/b`` for entry b of entry a; None where it has none."""
    for part in (name,) if name in observation else name.split("/"):
        try:
            observation = observation[part]
        except (KeyError, TypeError, IndexError):
            return None
    return observation


def seen(observation: Mapping[str, Any], config: ObservationConfig, image_size: int | None = None) -> Seen:
    """What is learned from in an observation that is as its space says, images resized where a size is given."""
    images = [entry(observation, name) for name in config.cameras]
    image = stacked(images if image_size is None else [resize(image, image_size) for image in images])
    return Seen(image, joined([entry(observation, name) for name in config.state]))


def stacked(images: Sequence[np.ndarray]) -> np.ndarray:
    """The cameras' images [..., H, W, 3], one after another: [..., H, W, 3 * M]; one alone is itself."""
    return images[0] if len(images) == 1 else np.concatenate(images, -1)


def unstacked(images: Any, count: int) -> list[Any]:
    """The inverse of :func:`stacked`: ``count`` cameras' images [..., 3] of an array or tensor [..., 3 * count]."""
    return [images[..., 3 * place : 3 * place + 3] for place in range(count)]


def cameras_beside(image: np.ndarray) -> np.ndarray:
    """The cameras' images side by side, as people look at them: [..., H, W, 3 * M] -> [..., H, M * W, 3]."""
    count = image.shape[-1] // 3
    return image if count == 1 else np.concatenate(unstacked(image, count), -2)


def joined(vectors: Sequence[Any]) -> np.ndarray | None:
    """Vectors [..., n] one after another, float32 [..., V]; None where there are none."""
    return np.concatenate([np.asarray(vector, np.float32) for vector in vectors], -1) if vectors else None


def is_ours(env_id: str) -> bool:
    """Whether an environment is one of this package's, which draws what it is asked for, in the size that it is."""
    return env_id.rpartition(":")[2].startswith("moto_pl/")


def env_arguments(
    env_id: str, env_kwargs: Mapping[str, Any], config: ObservationConfig, image_size: int | None = None
) -> dict[str, Any]:
    """The arguments with which one of our own environments observes what is wanted; others observe what they do.

    Args:
        env_id: its id.
        env_kwargs: the user's arguments, which are not overridden.
        config: what is wanted.
        image_size: of images; None leaves it to the environment.
    """
    if not is_ours(env_id):
        return dict(env_kwargs)
    observe = {} if config == IMAGE_ALONE else {"observe": list(config.names)}
    size = {} if image_size in (None, IMAGE_SIZE) else {"image_size": image_size}
    return {**observe, **size, **env_kwargs}
