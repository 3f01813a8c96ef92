"""One environment, as a worker holds it: checked at each reset and step, cut off at its limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from moto_pl.envs import make
from moto_pl.envs.actions import ActionScale, repeated, scaled
from moto_pl.envs.checks import Checks, EpisodeLimit, Step, named
from moto_pl.envs.observation import ObservationConfig, env_arguments, is_ours


class Hosted(NamedTuple):
    """Which environment, and what is made of it.

    Attributes:
        env_id: as for :func:`moto_pl.envs.make`.
        env_kwargs: the environment's arguments.
        limit: where an episode is cut off, in the environment's steps.
        wanted: what of its observations is learned from.
        scale: what policies' actions stand for; None: they span the environment's Box.
        image_size: of images: one of our own environments is asked for it, others' are resized; None takes any.
        action_repeat: its steps for an action.
    """

    env_id: str
    env_kwargs: Mapping[str, Any]
    limit: EpisodeLimit
    wanted: ObservationConfig
    scale: ActionScale | None
    image_size: int | None
    action_repeat: int


class Host:
    """One environment that writes its image to ``out``. After an episode's end it repeats the last frame, unpaid.

    Args:
        of: which environment, and what is made of it.
        place: which of several it is, in errors.

    Attributes:
        limit: where an episode is cut off, in the environment's steps.
    """

    def __init__(self, of: Hosted, place: str = "") -> None:
        name = f"{of.env_id} ({place})" if place else of.env_id
        with named(name, "when it was made"):
            env = make(of.env_id, **env_arguments(of.env_id, of.env_kwargs, of.wanted, of.image_size))
            self.checks = Checks(name, env, of.wanted, of.scale, None if is_ours(of.env_id) else of.image_size)
            self.limit = of.limit.of(env)
        self.action_space, self.env = env.action_space, scaled(repeated(env, of.action_repeat, self.limit), of.scale)
        self._most = -(-self.limit // of.action_repeat)  # actions
        self.image_shape, self.observation = self.checks.image_shape, self.checks.observation
        self._steps = self._beyond = 0
        self._last: Step | None = None

    def try_out(self, out: np.ndarray) -> None:
        """A reset and a step, so that what is wrong with them is said at once and not after the offline phase."""
        self.reset(0, out)
        self.step(np.zeros(self.env.action_space.shape or (), np.float32), out)

    def reset(self, seed: int, out: np.ndarray, beyond: int = 0) -> np.ndarray | None:
        """Begins an episode, which goes on ``beyond`` a truncation; returns the vectors that are seen, float32 [V]."""
        with named(self.checks.name, f"at the reset with seed {seed}"):
            result = self.env.reset(seed=seed)
        out[...], vector = self.checks.reset(result)
        self._steps, self._last, self._beyond = 0, None, beyond
        return vector

    def step(self, action: np.ndarray, out: np.ndarray) -> Step:
        """Takes a step, or repeats what the last one came to."""
        goes_on = self._last is not None and not self._last.terminated and self._beyond > 0
        if self._last is None or goes_on:
            with named(self.checks.name, f"in step {self._steps} of an episode"):
                result = self.env.step(action)
            frame, step = self.checks.step(result)
            out[...] = frame
            self._steps += 1
            if self._steps >= self._most and not step.ended:
                step = step._replace(truncated=True, cut=True)
            if goes_on:
                self._beyond -= 1
                step = step._replace(truncated=True, cut=False)
            if step.ended:
                self._last = step._replace(reward=0.0, cut=False)
            return step
        return self._last
