"""Plays one environment in this process: with a script, which may be recorded actions, in place of a policy.

:mod:`moto_pl.rollout.roll` is where a policy that has to see a batch of frames meets environments side by side. Both
write down episodes in one way, :class:`Recording`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from moto_pl.replay.episode import DETOUR, OBJECT_EXTRAS, Episode

Script = Callable[[int, np.ndarray], np.ndarray | None]
"""What to do in step t, given the frame uint8 [H, W, 3] that is seen: the action [A], or None to leave off."""


class Played(NamedTuple):
    """What one step did, and the frame uint8 [H, W, 3] that it led to."""

    action: np.ndarray
    frame: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


def play_on(env: gym.Env[Any, Any], frame: np.ndarray, script: Script) -> Iterator[Played]:
    """Plays from where the environment stands, at ``frame``, for as long as the caller wants and the script goes on."""
    step = 0
    while (action := script(step, frame)) is not None:
        observation, reward, terminated, truncated, info = env.step(action)
        frame = observation["image"]
        yield Played(action, frame, float(reward), bool(terminated), bool(truncated), info)
        step += 1


def play(env: gym.Env[Any, Any], seed: int, script: Script) -> Episode:
    """One episode from a reset; where the script leaves off before its end it is cut off there, as truncated.

    Args:
        env: its observation has an ``image``.
        seed: of the reset.
        script: says what to do, at least once.
    """
    observation, _ = env.reset(seed=seed)
    recording = Recording(observation["image"])
    for played in play_on(env, observation["image"], script):
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
        frame: at its start, uint8 [H, W, 3].
    """

    def __init__(self, frame: np.ndarray) -> None:
        self.frames = [frame.copy()]
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
        self.frames.append(played.frame.copy())
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
        )
