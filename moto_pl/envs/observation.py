"""What is observed: which cameras and state vectors an agent learns from, by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from moto_pl.errors import SettingError


@dataclass(frozen=True)
class ObservationConfig:
    """Which of an environment's and a dataset's observations are learned from; ``a/b`` is entry b of entry a.

    Attributes:
        cameras: the image, uint8 [H, W, 3].
        state: vectors beside it, such as joint positions, in this order; none by default.
    """

    cameras: tuple[str, ...] = ("image",)
    state: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.cameras) != 1:
            raise SettingError("data.observation.cameras", list(self.cameras), "Name one image.")
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
    """

    cameras: tuple[str, ...] = ("image",)
    state: Mapping[str, int] = field(default_factory=dict)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def vector_size(self) -> int:
        """V, numbers of all vectors together."""
        return sum(self.state.values())

    @property
    def config(self) -> ObservationConfig:
        """The names alone."""
        return ObservationConfig(self.cameras, tuple(self.state))

    @property
    def layout(self) -> tuple[Any, ...]:
        """All but the statistics: two that are the same see the same arrays."""
        return self.cameras, tuple(self.state.items())

    def __str__(self) -> str:
        """The names, and the vectors' sizes."""
        return ", ".join([*self.cameras, *(f"{name} [{size}]" for name, size in self.state.items())])

    @classmethod
    def of(cls, config: ObservationConfig, sizes: Mapping[str, int]) -> Observation:
        """Without statistics: vectors as they are."""
        state = {name: sizes[name] for name in config.state}
        count = sum(state.values())
        return cls(config.cameras, state, (0.0,) * count, (1.0,) * count)

    @classmethod
    def from_plain(cls, value: Mapping[str, Any]) -> Observation:
        """The inverse of ``dataclasses.asdict``, lists for tuples."""
        state = {str(name): int(size) for name, size in value["state"].items()}
        mean, std = (tuple(map(float, value[name])) for name in ("mean", "std"))
        found = cls(tuple(map(str, value["cameras"])), state, mean, std)
        if (
            not len(mean) == len(std) == found.vector_size
            or not np.isfinite([*mean, *std]).all()
            or min(std, default=1) <= 0
        ):
            raise ValueError("an observation without a mean and a standard deviation for each number")
        return found


class Seen(NamedTuple):
    """What is seen at one moment: the frame uint8 [H, W, 3], and the vectors, one after another, float32 [V]."""

    image: np.ndarray
    vector: np.ndarray | None = None  # None where no vector is learned from


def entry(observation: Any, name: str) -> Any:
    """What an observation, or a space, holds under a name, ``a/b`` for entry b of entry a; None where it has none."""
    for part in (name,) if name in observation else name.split("/"):
        try:
            observation = observation[part]
        except (KeyError, TypeError, IndexError):
            return None
    return observation


def seen(observation: Mapping[str, Any], config: ObservationConfig) -> Seen:
    """What is learned from in an observation that is as its space says."""
    image = entry(observation, config.cameras[0])
    return Seen(image, joined([entry(observation, name) for name in config.state]))


def joined(vectors: Sequence[Any]) -> np.ndarray | None:
    """Vectors [..., n] one after another, float32 [..., V]; None where there are none."""
    return np.concatenate([np.asarray(vector, np.float32) for vector in vectors], -1) if vectors else None


def env_arguments(env_id: str, env_kwargs: Mapping[str, Any], config: ObservationConfig) -> dict[str, Any]:
    """The arguments with which one of our own environments observes what is wanted; others observe what they do."""
    ours = env_id.rpartition(":")[2].startswith("moto_pl/")
    if config == IMAGE_ALONE or not ours:
        return dict(env_kwargs)
    return {"observe": list(config.names), **env_kwargs}
