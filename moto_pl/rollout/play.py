"""Plays one environment in this process: with a script, which may be recorded actions, in place of a policy.

:mod:`moto_pl.rollout.roll` is where a policy that has to see a batch of frames meets environments side by side. Both
write down episodes in one way, :class:`Recording`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from moto_pl.envs.observation import IMAGE_ALONE, Observation, ObservationConfig, Seen, seen
from moto_pl.replay.episode import DETOUR, OBJECT_EXTRAS, Episode

Script = Callable[[int, Seen], np.ndarray | None]
"""What to do in step t, given what is seen: the action [A], or None to leave off."""


class Played(NamedTuple):
    """What one step did, and what was seen after it."""

    action: np.ndarray
    seen: Seen
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


def play_on(
    env: gym.Env[Any, Any],
    begin: Seen,
    script: Script,
    config: ObservationConfig = IMAGE_ALONE,
    image_size: int | None = None,
) -> Iterator[Played]:
    """Plays from where the environment stands, which looks like ``begin``.

    Args:
        env: plays for as long as the caller wants and the script goes on.
        begin: what is seen there.
        script: says what to do.
        config: what is seen of its observations.
        image_size: to which images are resized; None leaves them as they are.
    """
    step, now = 0, begin
    while (action := script(step, now)) is not None:
        observation, reward, terminated, truncated, info = env.step(action)
        now = seen(observation, config, image_size)
        yield Played(action, now, float(reward), bool(terminated), bool(truncated), info)
        step += 1


def observed(env: gym.Env[Any, Any]) -> Observation:
    """What one of our own environments was asked to observe; the image of others."""
    found = getattr(env.unwrapped, "observation", None)
    return found if isinstance(found, Observation) else Observation()


def play(env: gym.Env[Any, Any], seed: int, script: Script) -> Episode:
    """One episode from a reset; where the script leaves off before its end it is cut off there, as truncated.

    Args:
        env: its observation has an ``image``; what else it was asked to observe is recorded, too.
        seed: of the reset.
        script: says what to do, at least once.
    """
    config = observed(env).config
    observation, _ = env.reset(seed=seed)
    begin = seen(observation, config)
    recording = Recording(begin)
    for played in play_on(env, begin, script, config):
        recording.add(played)
        if recording.ended:
            break
    recording.truncated |= not recording.ended
    return recording.episode(seed)


def recorded(actions: np.ndarray) -> Script:
    """The script that repeats ``actions`` [T, A], whatever it sees."""
    return lambda step, _: actions[step] if step < len(actions) else None


class Recording:
    """An episode while it is rolled.

    Args:
        begin: what is seen at its start.
    """

    def __init__(self, begin: Seen) -> None:
        self.frames = [begin.image.copy()]
        self.vectors = [] if begin.vector is None else [begin.vector.copy()]
        self.actions: list[np.ndarray] = []
        self.rewards: list[float] = []
        self.success: list[bool] = []
        self.objects: dict[str, list[np.ndarray]] = {}
        self.detours: list[bool] = []
        self.terminated = self.truncated = False

    @property
    def ended(self) -> bool:
        """Whether there is no step to come."""
        return self.terminated or self.truncated

    def add(self, played: Played) -> None:
        """Adds a step; what the environment may write over is copied."""
        self.actions.append(played.action.copy())
        self.frames.append(played.seen.image.copy())
        if played.seen.vector is not None:
            self.vectors.append(played.seen.vector.copy())
        self.rewards.append(played.reward)
        self.success.append(bool(played.info.get("success", False)))
        for key in OBJECT_EXTRAS:
            if key in played.info:
                self.objects.setdefault(key, []).append(np.array(played.info[key], dtype=bool))
        self.terminated, self.truncated = played.terminated, played.truncated

    def episode(self, seed: int) -> Episode:
        """The whole of it."""
        return Episode(
            image=np.stack(self.frames),
            action=np.stack(self.actions).astype(np.float32),
            reward=np.array(self.rewards, dtype=np.float32),
            terminated=self.terminated,
            truncated=self.truncated,
            success=np.array(self.success, dtype=bool),
            extras={key: np.stack(states) for key, states in self.objects.items()}
            | ({DETOUR: np.array(self.detours, dtype=bool)} if self.detours else {}),
            info={"seed": int(seed)},
            vector=np.stack(self.vectors) if self.vectors else None,
        )
