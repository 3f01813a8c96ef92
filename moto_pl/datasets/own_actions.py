"""Actions in an environment's own numbers, as files hold them, beside the episodes, which hold policies' in [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np

from moto_pl.envs.actions import ActionScale

UNIT = "action_unit"
"""The entry of an episode's info that says by which power of two its actions were divided, while it is being read."""


class ExactScale(ActionScale):
    """A power of two, by which float32 numbers are divided and multiplied without rounding.

    Episodes pass through it where nothing is trained on them: what comes out is what went in, to the bit.
    """

    @classmethod
    def fitting(cls, action: np.ndarray) -> Self:
        """The smallest, 1 or more, that brings actions [T, A] into [-1, 1]; they are finite."""
        largest = float(np.abs(action).max(initial=0.0))
        unit = 1.0 if largest <= 1 else 2.0 ** np.ceil(np.log2(largest))
        return cls.within(float(unit), action.shape[1])

    @property
    def unit(self) -> float:
        """The power of two."""
        return self.high[0]

    def to_policy(self, action: np.ndarray) -> np.ndarray:
        """Float32 actions [..., A] divided by it."""
        return action / np.float32(self.unit)

    def to_environment(self, action: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`to_policy`."""
        return action * np.float32(self.unit)


def as_recorded(episode: Any) -> np.ndarray:
    """The actions of an episode that was divided by its ``UNIT``, as they were, to the bit: float32 [T, A]."""
    return np.asarray(episode.action * np.float32(episode.info.get(UNIT, 1.0)))


class OwnActions(NamedTuple):
    """What is written in place of episodes' actions.

    Attributes:
        bounds: of the Box that a dataset declares.
        of: an episode's actions in the environment's own numbers, float32 [T, A].
    """

    bounds: ActionScale
    of: Callable[[Any], np.ndarray]

    @classmethod
    def by(cls, scale: ActionScale, bounds: ActionScale | None = None) -> OwnActions:
        """Of episodes whose actions ``scale`` brought into [-1, 1]."""
        return cls(bounds or scale, lambda episode: scale.to_environment(episode.action))
