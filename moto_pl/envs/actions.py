"""Actions of an environment and of a dataset, and those of policies, which are in [-1, 1]: an affine map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import gymnasium as gym
import numpy as np

ActionScaling = Literal["bounds", "percentile"]
SUCCESS_KEYS = ("success", "is_success")
"""Infos that say whether a step led to success, by preference."""
PERCENTILES = (1.0, 99.0)
"""Of each number of a dataset's actions, what -1 and 1 stand for with ``action_scale: percentile``."""


@dataclass(frozen=True)
class ActionScale:
    """What policies' actions stand for.

    Attributes:
        low: of each of the A numbers, what -1 stands for.
        high: what 1 stands for, at least ``low``; where it is ``low`` the number is always that.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(cls, low: np.ndarray, high: np.ndarray) -> ActionScale:
        """From arrays [A]."""
        return cls(tuple(map(float, low)), tuple(map(float, high)))

    @classmethod
    def within(cls, size: float, count: int) -> Self:
        """The same for each of ``count`` numbers: -1 stands for ``-size``, 1 for ``size``."""
        return cls((-size,) * count, (size,) * count)

    @classmethod
    def of_box(cls, space: gym.spaces.Box) -> ActionScale | None:
        """A Box's own bounds; None where one is infinite."""
        finite = np.isfinite(space.low).all() and np.isfinite(space.high).all()
        return cls.of(space.low, space.high) if finite else None

    @classmethod
    def of_data(cls, action: np.ndarray) -> ActionScale:
        """The first to the 99th percentile of each number of actions [T, A]."""
        return cls.of(*np.percentile(np.asarray(action, np.float64), PERCENTILES, axis=0))

    @classmethod
    def from_plain(cls, value: Mapping[str, Any] | None) -> ActionScale | None:
        """The inverse of ``dataclasses.asdict``, lists for tuples; None for None."""
        if value is None:
            return None
        low, high = (tuple(map(float, value[name])) for name in ("low", "high"))
        if len(low) != len(high) or not np.isfinite([*low, *high]).all() or (np.array(low) > np.array(high)).any():
            raise ValueError("a scale of actions without a low and a high number for each")
        return cls(low, high)

    @property
    def identity(self) -> bool:
        """Whether policies' actions are the environment's own."""
        return set(self.low) <= {-1.0} and set(self.high) <= {1.0}

    def to_policy(self, action: np.ndarray) -> np.ndarray:
        """Actions [..., A] as policies have them, float32: in [-1, 1] where they are between ``low`` and ``high``."""
        if self.identity:
            return action
        low, span = self._low_and_span()
        scaled = 2 * (action.astype(np.float64) - low) / np.where(span > 0, span, 1.0) - 1
        return np.where(span > 0, scaled, 0.0).astype(np.float32)

    def to_environment(self, action: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`to_policy`, float32."""
        if self.identity:
            return action
        low, span = self._low_and_span()
        return (low + (action.astype(np.float64) + 1) / 2 * span).astype(np.float32)

    def __str__(self) -> str:
        """Both bounds."""
        return f"[{_numbers(self.low)}] to [{_numbers(self.high)}]"

    def _low_and_span(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.array(self.low), np.array(self.high)
        return low, high - low


class ScaledActions(gym.ActionWrapper[Any, Any, Any]):
    """An environment that takes policies' actions.

    Args:
        env: takes a flat Box of actions.
        scale: what policies' actions stand for there; beyond its Box they are clipped.
    """

    def __init__(self, env: gym.Env[Any, Any], scale: ActionScale) -> None:
        super().__init__(env)
        self.scale = scale
        self.action_space = gym.spaces.Box(-1.0, 1.0, env.action_space.shape, np.float32)

    def action(self, action: np.ndarray) -> np.ndarray:
        """In the environment's own numbers."""
        space = self.env.action_space
        assert isinstance(space, gym.spaces.Box)
        return np.clip(self.scale.to_environment(np.asarray(action, np.float32)), space.low, space.high)


class RepeatedActions(gym.Wrapper[Any, Any, Any, Any]):
    """An environment that takes each action several times; rewards are summed, a success in any of its steps counts.

    Args:
        env: the environment.
        repeat: its steps for an action; fewer where the episode ends, or comes to ``limit``, in between.
        limit: an episode's length in its steps, where somebody will cut it off; None: nobody will.
    """

    def __init__(self, env: gym.Env[Any, Any], repeat: int, limit: int | None = None) -> None:
        super().__init__(env)
        self.repeat, self.limit = repeat, limit
        self._steps, self._over = 0, False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode."""
        self._steps, self._over = 0, False
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Takes the action as often as there is something to take it for; the last step says what is seen."""
        total: Any = 0
        beyond = self._over  # a time limit, behind which somebody goes on
        succeeded: dict[str, Any] = {}
        for _ in range(self.repeat):
            observation, reward, terminated, truncated, info = self.env.step(action)
            self._steps += 1
            total = total + reward
            succeeded |= {key: info[key] for key in SUCCESS_KEYS if np.any(np.greater(info.get(key, False), 0))}
            if terminated or (truncated and not beyond) or self._steps == self.limit:
                break
        self._over = beyond or truncated or self._steps == self.limit
        return observation, total, terminated, truncated, {**info, **succeeded}


def repeated(env: gym.Env[Any, Any], repeat: int, limit: int | None = None) -> gym.Env[Any, Any]:
    """The environment with actions repeated; itself, where they are not."""
    return env if repeat == 1 else RepeatedActions(env, repeat, limit)


def scaled(env: gym.Env[Any, Any], scale: ActionScale | None) -> gym.Env[Any, Any]:
    """The environment as policies act in it: itself, where its actions are in [-1, 1] and stand for themselves.

    Args:
        env: an environment that :class:`~moto_pl.envs.checks.Checks` has no objection to.
        scale: what policies' actions stand for; None: they span its Box.
    """
    if not isinstance(env.action_space, gym.spaces.Box):
        return env
    scale = scale or ActionScale.of_box(env.action_space)
    return env if scale is None or scale.identity else ScaledActions(env, scale)


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)
